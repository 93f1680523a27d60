// Keyframes on demand, and publishers that give none: what players get of a GOP of 8.3 s, OBS's default.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, pageState } from './browser.mjs';
import { publisher } from './clients.mjs';
import { Gateway, Process, mediaPlaylist, run, until } from './gateway.mjs';
import { decodesCleanly } from './media.mjs';

/** Pictures from one keyframe to the next, and the same in seconds. */
const GOP = 250;
const GOP_SECONDS = GOP / 30;

let gateway;
before(async () => {
  gateway = await Gateway.start();
});
after(async () => gateway?.stop());

function demo(session, ...args) {
  return publisher('demo', '--url', gateway.whip(session), '--size', '320x180', '--kbps', 400, ...args);
}

/** What a media playlist says, as far as these tests ask. */
function parsed(text) {
  const segments = [];
  let parts = [];
  let at = NaN;
  for (const line of text.split('\n')) {
    if (line.startsWith('#EXT-X-PROGRAM-DATE-TIME:')) at = Date.parse(line.slice('#EXT-X-PROGRAM-DATE-TIME:'.length));
    if (line.startsWith('#EXT-X-PART:')) {
      const [, duration, uri] = line.match(/DURATION=([\d.]+),URI="([^"]+)"/);
      parts.push({ at, uri, independent: line.includes('INDEPENDENT=YES') });
      at += Number(duration) * 1000;
    }
    if (line.startsWith('#EXTINF:')) {
      segments.push({ duration: Number(line.slice('#EXTINF:'.length, -1)), parts });
      parts = [];
    }
  }
  return {
    target: Number(text.match(/#EXT-X-TARGETDURATION:(\d+)/)[1]),
    independentSegments: text.includes('#EXT-X-INDEPENDENT-SEGMENTS'),
    init: text.match(/#EXT-X-MAP:URI="([^"]+)"/)[1],
    segments,
    parts: [...segments.flatMap((segment) => segment.parts), ...parts],
  };
}

/** Whether the first picture of a part is a keyframe, as ffprobe sees it. */
async function startsWithKeyframe(folder, playlist, init, part) {
  const bytes = await Promise.all([init, part.uri].map(async (uri) => Buffer.from(await (await fetch(new URL(uri, playlist))).arrayBuffer())));
  const file = path.join(folder, 'part.mp4');
  await writeFile(file, Buffer.concat(bytes));
  const flags = await run('ffprobe', ['-v', 'error', '-select_streams', 'v:0', '-show_entries', 'packet=flags', '-of', 'csv=p=0', file]);
  return flags.startsWith('K');
}

/** Opens the watch page and notes when its first picture is shown. */
async function join(browser, session) {
  const page = await browser.newPage({ viewport: { width: 640, height: 600 } });
  await page.addInitScript(() => {
    document.addEventListener('DOMContentLoaded', () => {
      document.getElementById('video').requestVideoFrameCallback((now) => {
        window.firstPicture = now / 1000;
      });
    });
  });
  await page.goto(`${gateway.base}/watch/${session}`);
  return page;
}

for (const codec of ['h264', 'vp9']) {
  test(`a ${codec} publisher that ignores PLI with a GOP of 8.3 s plays in hls.js`, { timeout: 150_000 }, async (t) => {
    const session = `rare-${codec}`;
    const process = demo(session, '--codec', codec, '--keyframe-every', GOP, '--ignore-keyframe-requests');
    t.after(() => process.stop());
    const browser = await launch();
    t.after(() => browser.close());
    const folder = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
    t.after(() => rm(folder, { recursive: true, force: true }));
    const playlist = async () => parsed((await mediaPlaylist(gateway, session, 'video')).text);
    await until('it is live', async () => (await playlist()).segments.length > 3, 30);

    // Join in the middle of a GOP: neither the last keyframe nor the next one is near.
    const keyframe = await until('a keyframe is listed', async () => (await playlist()).parts.findLast((part) => part.independent), 12);
    const phase = () => ((Date.now() - keyframe.at) / 1000) % GOP_SECONDS;
    await until('the middle of a GOP', () => phase() > 3.5 && phase() < 4.5, 12);
    const page = await join(browser, session);
    const first = await until('a first picture', () => page.evaluate(() => window.firstPicture), 12);
    // A keyframe is in the window, so nothing has to be waited for but the page itself and the download; the next keyframe
    // comes 3.8 s after the join at the earliest.
    assert.ok(first < 2.5, `the first picture came ${first} s after the page was opened`);

    await until('the live edge is reached', async () => (await pageState(page)).latency < 2, 5);
    const start = await pageState(page);
    const began = Date.now();
    const latencies = [];
    const targets = new Set();
    while (Date.now() - began < 30_000) {
      const { target, independentSegments, segments, init, parts } = await playlist();
      targets.add(target);
      assert.ok(segments.every(({ duration }) => Math.round(duration) <= target), JSON.stringify(segments));
      // Some of what is listed starts without a keyframe, and the playlist does not claim otherwise.
      assert.equal(independentSegments, false);
      const newest = parts.at(-2);
      const { address } = await mediaPlaylist(gateway, session, 'video');
      assert.equal(await startsWithKeyframe(folder, address, init, newest), newest.independent, newest.uri);
      const independent = parts.findLast((part) => part.independent);
      if (independent) assert.ok(await startsWithKeyframe(folder, address, init, independent), independent.uri);
      latencies.push((await pageState(page)).latency);
      await page.waitForTimeout(700);
    }
    const end = await pageState(page);
    t.diagnostic(`first picture after ${first.toFixed(2)} s; latency ${Math.min(...latencies).toFixed(2)} to ${Math.max(...latencies).toFixed(2)} s; stalls ${end.stalls}`);
    assert.equal(end.stalls, 0, JSON.stringify(end.errors));
    assert.deepEqual(end.errors.filter(({ fatal }) => fatal), []);
    assert.ok(latencies.every((latency) => latency < 3), `${latencies}`);
    const watched = (Date.now() - began) / 1000;
    assert.ok(end.time - start.time > watched - 1.5, `played ${end.time - start.time} s of ${watched} s`);
    assert.ok(end.videoFrames - start.videoFrames > (watched - 2) * 28, `${end.videoFrames - start.videoFrames} pictures in ${watched} s`);
    assert.deepEqual([...targets], [2]);

    const { findings } = await gateway.json(`/api/sessions/${session}`);
    assert.match(findings.join('\n'), /keyframes come every 8\.3 s .*OBS: .*Keyframe Interval/);

    // A player that begins wherever it likes gets pictures, too.
    const ffmpeg = new Process('ffmpeg', ['-nostdin', '-v', 'error', '-i', gateway.hls(session), '-map', '0:v', '-t', '12', '-f', 'framecrc', '-']);
    const { code } = await ffmpeg.end(40);
    const pictures = ffmpeg.output.split('\n').filter((line) => /^\d+,/.test(line)).length;
    t.diagnostic(`ffmpeg: ${pictures} pictures of ${12 * 30}`);
    assert.equal(code, 0, ffmpeg.output);
    assert.ok(pictures > 90, `${pictures} pictures: ${ffmpeg.output.slice(-2000)}`);

    await process.stop();
    await until('the recording is complete', async () => (await gateway.json(`/recordings/${session}`)).recordings[0]?.state === 'complete', 20);
    const [file] = await gateway.recordings(session);
    await decodesCleanly(file);
  });
}

test('a player that joins anywhere in a long GOP is at the live edge within seconds', { timeout: 120_000 }, async (t) => {
  const session = 'joins';
  const process = demo(session, '--codec', 'vp9', '--keyframe-every', GOP, '--ignore-keyframe-requests');
  t.after(() => process.stop());
  const browser = await launch();
  t.after(() => browser.close());
  await until('it is live', async () => parsed((await mediaPlaylist(gateway, session, 'video')).text).segments.length > 3, 30);
  for (let i = 0; i < 6; i += 1) {
    const page = await join(browser, session);
    await until('the live edge is reached', async () => (await pageState(page)).start?.done, 12);
    await page.waitForTimeout(2000);
    const { stalls, errors, latency } = await pageState(page);
    t.diagnostic(`latency ${latency.toFixed(2)} s, stalls ${stalls}`);
    assert.equal(stalls, 0, JSON.stringify(errors));
    assert.ok(latency < 1.5, `${latency} s behind live`);
    // Media that is appended twice in the middle of a GOP makes a browser drop all that follows until the next keyframe.
    assert.deepEqual(errors.filter(({ details }) => details === 'bufferAppendNoProgress'), []);
    await page.close();
  }
});

test('keyframes are asked for when they are rare, and only then', { timeout: 90_000 }, async (t) => {
  const seconds = 14;
  // Seconds from one keyframe to the next, whether requests are answered, and how often there may be some.
  const cases = [
    { group: 1, answers: true, requests: [0, 3], independent: true },
    { group: 2, answers: false, requests: [0, 5], independent: true },
    { group: 4, answers: true, requests: [5, 9], independent: true },
    { group: 4, answers: false, requests: [3, 7], independent: false },
    { group: 10, answers: true, requests: [5, 9], independent: true },
  ].map((one) => ({ ...one, session: `gop-${one.group}-${one.answers}` }));
  for (const one of cases) {
    one.process = demo(one.session, '--keyframe-every', one.group * 30, '--seconds', seconds, ...(one.answers ? [] : ['--ignore-keyframe-requests']));
  }
  t.after(() => Promise.all(cases.map(({ process }) => process.stop())));
  await until('they are over', async () => {
    for (const one of cases) one.text = (await mediaPlaylist(gateway, one.session, 'video').catch(() => one)).text;
    return cases.every(({ process }) => !process.running);
  }, seconds + 40);
  for (const { group, answers, requests: [least, most], independent, process, text } of cases) {
    const what = `a keyframe every ${group} s, requests ${answers ? 'answered' : 'ignored'}`;
    const requests = Number(process.output.match(/"keyframe_requests": (\d+)/)[1]);
    const { independentSegments, segments, target } = parsed(text);
    const durations = segments.map(({ duration }) => duration);
    t.diagnostic(`${what}: ${requests} requests in ${seconds} s, segments ${durations.map((duration) => duration.toFixed(1)).join(' ')}`);
    assert.ok(requests >= least && requests <= most, `${what}: ${requests} requests`);
    assert.equal(independentSegments, independent, what);
    assert.equal(target, 2, what);
    assert.ok(durations.every((duration) => duration < 2.5), `${what}: ${durations}`);
    // The first two are short, so that players can begin early.
    if (independent) assert.ok(durations.slice(2, -1).every((duration) => duration > 1.75), `${what}: ${durations}`);
  }
});
