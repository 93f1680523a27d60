// What ffmpeg and ffprobe say about media: decodes without a warning, counts, flash and beep times.
import { run, Process } from './gateway.mjs';

/** Decodes everything; any line on the error output at level warning fails. */
export async function decodesCleanly(input, { seconds = 60, args = [], ignore } = {}) {
  // The pictures as they are: FFmpeg would otherwise round their times to a constant rate and scale all to the first
  // size, and warn of what it does there.
  const asTheyAre = ['-fps_mode', 'passthrough', '-enc_time_base', '-1', '-autoscale', '0'];
  const process = new Process('ffmpeg', ['-nostdin', '-hide_banner', '-v', 'warning', ...args, '-i', input, '-map', '0', ...asTheyAre, '-f', 'null', '-']);
  const { code } = await process.end(seconds);
  const said = process.output.split('\n').filter((line) => line.trim() !== '' && !ignore?.test(line));
  if (code !== 0 || said.length > 0) {
    throw new Error(`ffmpeg decoding ${input} ended with ${code} and said:\n${process.output}`);
  }
}

/** What FFmpeg remarks on every init segment after the first, which RFC 8216 permits after a discontinuity. */
export const FURTHER_INIT = /Found duplicated MOOV Atom/;

/** Streams and format as ffprobe's JSON. */
export async function probe(input, args = []) {
  const text = await run('ffprobe', ['-v', 'error', '-show_streams', '-show_format', '-of', 'json', ...args, input]);
  return JSON.parse(text);
}

/** Number of packets of a stream, for example `v:0`. */
export async function packets(input, stream) {
  const text = await run('ffprobe', ['-v', 'error', '-count_packets', '-select_streams', stream, '-show_entries', 'stream=nb_read_packets', '-of', 'csv=p=0', input]);
  return Number(text.trim().split('\n')[0].replace(/\D/g, ''));
}

/** Times in seconds at which the picture turns bright: the first picture of each flash. */
export async function flashes(input) {
  const text = await run('ffprobe', [
    '-v', 'error', '-f', 'lavfi', '-i', `movie=${escaped(input)},signalstats`,
    '-show_entries', 'frame=pts_time:frame_tags=lavfi.signalstats.YAVG', '-of', 'csv=p=0',
  ]);
  const pictures = text.trim().split('\n').map((line) => line.split(',').map(Number));
  const means = pictures.map(([, mean]) => mean);
  const threshold = (Math.min(...means) + Math.max(...means)) / 2;
  const bright = (index) => pictures[index][1] > threshold;
  return pictures.flatMap(([time], index) => (index > 0 && bright(index) && !bright(index - 1) ? [time] : []));
}

/** A path or address as a value inside a filter graph: escaped as an option's value, and that as part of a graph. */
function escaped(file) {
  return file.replace(/[\\':]/g, '\\$&').replace(/[\\',;[\]]/g, '\\$&');
}

/** Times in seconds at which a beep begins, to 0.25 ms; the sound's own start is taken into account. */
export async function beeps(input, threshold = 0.1) {
  const text = await run('ffprobe', [
    '-v', 'error', '-f', 'lavfi', '-i', `amovie=${escaped(input)},aresample=48000,asetnsamples=n=12:p=0,astats=metadata=1:reset=1`,
    '-show_entries', 'frame=pts_time:frame_tags=lavfi.astats.Overall.Peak_level', '-of', 'csv=p=0',
  ], { seconds: 120 });
  const level = 20 * Math.log10(threshold);
  const times = [];
  let quietSince = -1;
  let first = true;
  for (const line of text.trim().split('\n')) {
    const [time, peak] = line.split(',');
    const loud = Number(peak) > level;
    if (loud && !first && Number(time) - quietSince > 0.3) times.push(Number(time));
    if (loud || first) quietSince = Number(time);
    first = false;
  }
  return times;
}

/**
 * Offset of sound against picture in milliseconds for each flash that has a beep within half a second, in the order of
 * time; positive when sound is late.
 */
export async function offsets(input) {
  const [seen, heard] = [await flashes(input), await beeps(input)];
  return seen.flatMap((flash) => {
    const beep = heard.find((time) => Math.abs(time - flash) < 0.5);
    return beep === undefined ? [] : [(beep - flash) * 1000];
  });
}
