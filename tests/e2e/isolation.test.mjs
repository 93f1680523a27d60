// Sessions beside each other: a broken one disturbs nobody, a returning publisher continues its playlist.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { publisher } from './clients.mjs';
import { Gateway, mediaPlaylist, until } from './gateway.mjs';
import { FURTHER_INIT, decodesCleanly, packets } from './media.mjs';

test('two sessions and a broken one do not disturb each other', { timeout: 90_000 }, async () => {
  const gateway = await Gateway.start();
  try {
    const good = ['one', 'two'].map((name) => publisher('publish', '--url', gateway.whip(name), '--seconds', 12));
    const bad = publisher('publish', '--url', gateway.whip('broken'), '--seconds', 8, '--garbage', 30);
    for (const process of [...good, bad]) assert.equal((await process.end(60)).code, 0, process.output);
    for (const name of ['one', 'two']) {
      await until(`${name} is complete`, async () => (await gateway.json(`/recordings/${name}`)).recordings[0]?.state === 'complete');
      const [file] = await gateway.recordings(name);
      await decodesCleanly(file);
      assert.ok((await packets(file, 'v:0')) >= 12 * 30 - 5);
      assert.doesNotMatch((await mediaPlaylist(gateway, name, 'video')).text, /#EXT-X-DISCONTINUITY\n/);
    }
    assert.equal((await fetch(`${gateway.base}/healthz`)).status, 200);
  } finally {
    await gateway.stop();
  }
});

test('a publisher that crashed returns and the same playlist goes on', { timeout: 60_000 }, async () => {
  const gateway = await Gateway.start();
  try {
    const first = publisher('publish', '--url', gateway.whip('again'), '--seconds', 30);
    await until('the first is on air', async () => (await mediaPlaylist(gateway, 'again', 'video')).text.includes('#EXTINF'), 20);
    const key = (await mediaPlaylist(gateway, 'again', 'video')).text.match(/#EXT-X-MAP:URI="([^"]+?)-/)[1];
    await first.stop('SIGKILL');
    const second = publisher('publish', '--url', gateway.whip('again'), '--seconds', 6);
    assert.equal((await second.end(45)).code, 0, second.output);
    const { text } = await mediaPlaylist(gateway, 'again', 'video');
    assert.match(text, /#EXT-X-DISCONTINUITY\n/);
    assert.match(text, /#EXT-X-ENDLIST/);
    assert.ok(text.includes(`URI="${key}-`), 'the playlist is another one');
    assert.equal((await gateway.recordings('again')).length, 2);
    for (const file of await gateway.recordings('again')) await decodesCleanly(file);
    await decodesCleanly(gateway.hls('again'), { ignore: FURTHER_INIT });
  } finally {
    await gateway.stop();
  }
});

/** Texts whose VP9 pipeline hangs for ever after so many packets, and whose H.265 pipeline posts errors. */
async function faults(folder) {
  await writeFile(path.join(folder, 'vp9.launch'), `tee name=fork
    fork. ! rtpvp9depay ! vp9parse ! whipgatemux name=mux
    fork. ! queue max-size-buffers=400 max-size-bytes=0 max-size-time=0 ! identity sleep-time=3600000000 ! fakesink async=false sync=false`);
  await writeFile(path.join(folder, 'h265.launch'), `rtph265depay ! h265parse config-interval=-1
    ! video/x-h265,stream-format=hvc1,alignment=au ! identity error-after=150 ! h265timestamper ! whipgatemux name=mux`);
}

const demo = (gateway, session, ...args) => publisher('demo', '--url', gateway.whip(session), '--size', '320x180', '--kbps', 400, ...args);
const video = async (gateway, session) => (await mediaPlaylist(gateway, session, 'video')).text;
const nextPart = (text) => Number(text.match(/PRELOAD-HINT:TYPE=PART,URI="[^"]*-p(\d+)\.mp4"/)[1]);

test('pipelines that hang and that fail are replaced at a discontinuity, and nobody else loses a picture', { timeout: 150_000 }, async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  await faults(folder);
  const gateway = await Gateway.start({ settings: { 'pipelines.dir': folder } });
  t.after(() => gateway.stop('SIGKILL'));
  const findings = async (session) => (await gateway.json(`/api/sessions/${session}`)).findings.join('\n');

  const seconds = 35;
  const good = publisher('publish', '--url', gateway.whip('good'), '--seconds', seconds);
  const hangs = demo(gateway, 'hangs', '--codec', 'vp9');
  const fails = demo(gateway, 'fails', '--codec', 'h265');
  t.after(() => Promise.all([good, hangs, fails].map((process) => process.stop())));

  await until('the failing pipeline is told', async () => /a pipeline failed: .*h265 pipeline failed/.test(await findings('fails')), 30);
  await until('its playlist goes on', async () => video(gateway, 'fails').then((text) => /#EXT-X-DISCONTINUITY\n[^]*#EXT-X-PART/.test(text)), 10);
  await until('the hanging pipelines are replaced', async () => /hung and were replaced 1 time/.test(await findings('hangs')), 40);
  const stuck = async () => Number((await gateway.text('/metrics')).match(/^whipgate_stuck_workers (\d+)/m)[1]);
  await until('the stuck thread is counted', async () => (await stuck()) >= 1, 5);
  const replaced = await video(gateway, 'hangs');
  await until('its playlist goes on after a discontinuity', async () => {
    const text = await video(gateway, 'hangs');
    return /#EXT-X-DISCONTINUITY\n/.test(text) && nextPart(text) > nextPart(replaced) + 5;
  }, 15);
  assert.equal((await gateway.json('/api/sessions/hangs')).state, 'live');
  const sound = (await mediaPlaylist(gateway, 'hangs', 'audio')).text;
  assert.match(sound, /#EXT-X-DISCONTINUITY\n/);

  assert.equal((await good.end(seconds + 40)).code, 0, good.output);
  await until('the good one is complete', async () => (await gateway.json('/recordings/good')).recordings[0]?.state === 'complete', 15);
  const [file] = await gateway.recordings('good');
  const pictures = await packets(file, 'v:0');
  assert.ok(pictures >= seconds * 30 - 5, `${pictures} of ${seconds * 30} pictures were recorded`);
  await decodesCleanly(file);
  assert.doesNotMatch(await video(gateway, 'good'), /#EXT-X-DISCONTINUITY\n/);

  // It hangs again and again: the session ends, and in words.
  await until('the hanging session is given up', async () => /its media hangs in calls that do not return; this session ends/.test(gateway.log), 60);
  await Promise.all([hangs, fails].map((process) => process.stop()));
  assert.equal((await fetch(`${gateway.base}/healthz`)).status, 200);
  assert.ok(gateway.log.split('its pipelines are replaced').length - 1 <= 6, gateway.log);
  // Threads that never return do not hold up the end.
  const began = Date.now();
  const { code } = await gateway.process.stop();
  assert.equal(code, 0, gateway.log.slice(-3000));
  assert.ok(Date.now() - began < 12_000, `it took ${Date.now() - began} ms to stop`);
});
