// Recordings: playable while they grow, after kill -9, and indexed when complete.
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { publisher } from './clients.mjs';
import { Gateway, mediaPlaylist, run, until } from './gateway.mjs';
import { decodesCleanly, packets, probe } from './media.mjs';

test('a recording plays while it grows and is complete and seekable after the end', { timeout: 90_000 }, async () => {
  const gateway = await Gateway.start();
  try {
    const process = publisher('publish', '--url', gateway.whip('grow'), '--seconds', 12);
    const [file] = await until('a recording is there', async () => {
      const files = await gateway.recordings('grow');
      return files.length > 0 && (await stat(files[0])).size > 500_000 && files;
    }, 20);
    await decodesCleanly(file);
    const listed = await gateway.json('/recordings/grow');
    assert.equal(listed.recordings[0].state, 'live');
    assert.equal((await process.end(60)).code, 0, process.output);
    await until('it is complete', async () => (await gateway.json('/recordings/grow')).recordings[0].state === 'complete');
    await decodesCleanly(file);
    const { format } = await probe(file);
    assert.ok(Math.abs(Number(format.duration) - 12) < 1, `duration ${format.duration}`);
    // An index means that the middle is reached without reading what is before it.
    await run('ffmpeg', ['-nostdin', '-v', 'error', '-xerror', '-ss', '8', '-i', file, '-frames:v', '1', '-f', 'null', '-']);
    const boxes = await run('ffprobe', ['-v', 'trace', file]).catch((error) => error.message);
    assert.doesNotMatch(boxes, /type:'moof'/, 'the complete file is still fragmented');

    const served = await fetch(`${gateway.base}/recordings/grow/${path.basename(file)}`, { headers: { Range: 'bytes=4-7' } });
    assert.equal(served.status, 206);
    assert.equal(await served.text(), 'ftyp');
    assert.equal(served.headers.get('content-range'), `bytes 4-7/${(await stat(file)).size}`);
  } finally {
    await gateway.stop();
  }
});

test('kill -9 of the gateway loses at most the last part, and the next start repairs the file', { timeout: 90_000 }, async () => {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  try {
    const gateway = await Gateway.start({ dataDir });
    const process = publisher('publish', '--url', gateway.whip('crash'), '--seconds', 30);
    await until('8 s are on air', async () => {
      const { text } = await mediaPlaylist(gateway, 'crash', 'video');
      return (text.match(/#EXTINF/g) ?? []).length >= 4;
    }, 30);
    const { text } = await mediaPlaylist(gateway, 'crash', 'video');
    const listed = [...text.matchAll(/#EXT-X-PART:DURATION=([\d.]+)/g)].length + 0;
    assert.ok(listed > 0);
    const seconds = [...text.matchAll(/#EXTINF:([\d.]+)/g)].reduce((sum, [, duration]) => sum + Number(duration), 0);
    await gateway.stop('SIGKILL');
    await process.stop();
    const [file] = await gateway.recordings('crash');
    const pictures = await packets(file, 'v:0');
    assert.ok(pictures / 30 >= seconds - 0.25, `${pictures} pictures for ${seconds} s of complete segments`);
    await run('ffmpeg', ['-nostdin', '-v', 'error', '-xerror', '-i', file, '-f', 'null', '-']);

    const again = await Gateway.start({ dataDir });
    try {
      const { recordings } = await again.json('/recordings/crash');
      assert.deepEqual(recordings.map(({ state }) => state), ['repaired']);
      await decodesCleanly(file);
      assert.equal(await packets(file, 'v:0'), pictures);
    } finally {
      await again.stop();
    }
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});

test('SIGTERM ends playlists and completes recordings within 10 s', { timeout: 60_000 }, async () => {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  try {
    const gateway = await Gateway.start({ dataDir });
    const process = publisher('publish', '--url', gateway.whip('term'), '--seconds', 30);
    await until('it records', async () => (await gateway.json('/recordings/term')).recordings[0]?.bytes > 300_000, 20);
    const before = Date.now();
    const { code } = await gateway.stop();
    assert.equal(code, 0, gateway.log);
    assert.ok(Date.now() - before < 10_000);
    const [file] = await gateway.recordings('term');
    await decodesCleanly(file);
    const boxes = await run('ffprobe', ['-v', 'trace', file]).catch((error) => error.message);
    assert.doesNotMatch(boxes, /type:'moof'/);
    await process.stop();
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});
