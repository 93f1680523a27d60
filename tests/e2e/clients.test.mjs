// FFmpeg, aiortc and our own publisher against the gateway: they connect, and what comes out decodes.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { aiortcPublish, ffmpegPublish, publisher } from './clients.mjs';
import { Gateway, mediaPlaylist, until } from './gateway.mjs';
import { decodesCleanly, packets, probe } from './media.mjs';

let gateway;
before(async () => {
  gateway = await Gateway.start();
});
after(async () => gateway?.stop());

const ended = (session, kind = 'video') =>
  until('the playlist ends', async () => (await mediaPlaylist(gateway, session, kind)).text.includes('#EXT-X-ENDLIST'), 5);

const complete = (session, count = 1) =>
  until('the recording is complete', async () => {
    const { recordings } = await gateway.json(`/recordings/${session}`);
    return recordings.length === count && recordings.every(({ state }) => state === 'complete') && recordings;
  });

test('FFmpeg publishes for 45 s without a break', { timeout: 120_000 }, async () => {
  const process = await ffmpegPublish(gateway.whip('ffmpeg'), 45);
  await until('the session is live', async () => {
    if (!process.running) throw new Error(process.output);
    return (await gateway.json('/api/sessions/ffmpeg')).state === 'live';
  }, 10);
  const { code } = await process.end(90);
  assert.equal(code, 0, process.output);
  await ended('ffmpeg');
  const [recording] = await complete('ffmpeg');
  const [file] = await gateway.recordings('ffmpeg');
  assert.ok(Math.abs(recording.duration - 45) < 1, `recorded ${recording.duration} s of 45 s`);
  const pictures = await packets(file, 'v:0');
  assert.ok(pictures >= 45 * 30 - 5, `${pictures} of 1350 pictures were recorded`);
  await decodesCleanly(file);
  await decodesCleanly(gateway.hls('ffmpeg'));
  const playlist = (await mediaPlaylist(gateway, 'ffmpeg', 'video')).text;
  assert.doesNotMatch(playlist, /#EXT-X-DISCONTINUITY\n/);
});

test('aiortc publishes', { timeout: 60_000 }, async () => {
  const process = aiortcPublish(gateway.whip('aiortc'), 8);
  const { code } = await process.end(45);
  assert.equal(code, 0, process.output);
  await ended('aiortc');
  await complete('aiortc');
  const [file] = await gateway.recordings('aiortc');
  await decodesCleanly(file);
  await decodesCleanly(gateway.hls('aiortc'));
  const { streams } = await probe(file);
  assert.deepEqual(streams.map((stream) => stream.codec_name).sort(), ['h264', 'opus']);
});

test('aiortc closes its connection and deletes its session after that', { timeout: 60_000 }, async () => {
  const process = aiortcPublish(gateway.whip('aiortc-close'), 4, { closeFirst: true });
  const { code } = await process.end(45);
  assert.equal(code, 0, process.output);
  // Far less than session.reconnect_grace (15 s).
  await ended('aiortc-close');
});

for (const codec of ['h264', 'h265', 'av1', 'vp9']) {
  test(`a ${codec} publication decodes from HLS and from the recording`, { timeout: 90_000 }, async () => {
    const process = publisher('publish', '--url', gateway.whip(`clip-${codec}`), '--codec', codec, '--seconds', 7);
    const { code } = await process.end(75);
    assert.equal(code, 0, process.output);
    await ended(`clip-${codec}`);
    await complete(`clip-${codec}`);
    const [file] = await gateway.recordings(`clip-${codec}`);
    await decodesCleanly(file);
    await decodesCleanly(gateway.hls(`clip-${codec}`));
    const { streams } = await probe(file);
    const names = { h264: 'h264', h265: 'hevc', av1: 'av1', vp9: 'vp9' };
    assert.deepEqual(streams.map((stream) => stream.codec_name).sort(), [names[codec], 'opus'].sort());
  });
}
