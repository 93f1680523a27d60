// hls.dvr: back to the beginning of a live stream out of the recording, and finished recordings as VOD.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import { launch } from './browser.mjs';
import { publisher } from './clients.mjs';
import { Gateway, mediaPlaylist, until } from './gateway.mjs';
import { FURTHER_INIT, decodesCleanly, packets, probe } from './media.mjs';

const WINDOW = 6;
let gateway;
let browser;

before(async () => {
  gateway = await Gateway.start({ settings: { 'hls.dvr': 'true', 'hls.window': `${WINDOW}s` } });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await gateway?.stop();
});

const digest = (bytes) => createHash('sha256').update(bytes).digest('hex');
const segments = (text) => text.split('\n').filter((line) => line && !line.startsWith('#'));

async function fetched(address) {
  const response = await fetch(address);
  assert.equal(response.status, 200, `${address}`);
  return digest(Buffer.from(await response.arrayBuffer()));
}

/** A page with hls.js and a video element that plays `address`. */
async function player(address, config = {}) {
  const page = await browser.newPage();
  await page.goto(gateway.base);
  await page.addScriptTag({ url: `${gateway.base}/assets/hls.js` });
  await page.evaluate(
    async ({ address, config }) => {
      const video = Object.assign(document.createElement('video'), { muted: true });
      document.body.prepend(video);
      const hls = new window.Hls(config);
      window.player = { hls, video, errors: [] };
      hls.on(window.Hls.Events.ERROR, (_, { fatal, details, reason }) => {
        if (fatal) window.player.errors.push(`${details}: ${reason ?? ''}`);
      });
      hls.loadSource(address);
      hls.attachMedia(video);
      await video.play();
    },
    { address, config },
  );
  return page;
}

const state = (page) =>
  page.evaluate(() => {
    const { hls, video, errors } = window.player;
    const { seekable } = video;
    return {
      time: video.currentTime,
      duration: video.duration,
      start: seekable.length ? seekable.start(0) : null,
      live: hls.liveSyncPosition,
      frames: video.getVideoPlaybackQuality().totalVideoFrames,
      height: video.videoHeight,
      errors,
    };
  });

/** Seeks and waits until pictures from there have moved on by half a second. */
async function playsFrom(page, time) {
  await page.evaluate((time) => {
    window.player.video.currentTime = time;
  }, time);
  const seen = await until(`playing from ${time}`, async () => {
    const now = await state(page);
    return now.time > time + 0.5 && now.time < time + 6 && now;
  });
  assert.deepEqual(seen.errors, []);
  return seen;
}

test('DVR: everything since the start, out of the recording, then VOD', async () => {
  const publishing = publisher('demo', '--url', gateway.whip('event'), '--seconds', 40);
  const early = {};
  await until('two segments', async () => {
    for (const kind of ['video', 'audio']) {
      const { address, text } = await mediaPlaylist(gateway, 'event', kind);
      early[kind] = { address, text, uri: segments(text)[0] };
    }
    return segments(early.video.text).length >= 2;
  }, 20);
  for (const kind of ['video', 'audio']) {
    assert.match(early[kind].text, /#EXT-X-PLAYLIST-TYPE:EVENT\n/);
    early[kind].digest = await fetched(new URL(early[kind].uri, early[kind].address));
  }

  const page = await player(gateway.hls('event'), { lowLatencyMode: true });
  const rendition = async () => (await gateway.json('/api/sessions/event')).hls;
  const memory = [];
  await until('segments older than the window', async () => {
    const hls = await rendition();
    memory.push(hls.memory_bytes);
    return hls.renditions.every((one) => one.archived_segments >= 4);
  }, 40);
  for (const kind of ['video', 'audio']) {
    const { address, text } = await mediaPlaylist(gateway, 'event', kind);
    assert.match(text, /#EXT-X-MEDIA-SEQUENCE:0\n/);
    assert.equal(segments(text)[0], early[kind].uri);
    assert.ok(segments(text).length * 2 > 2 * WINDOW, text);
    assert.equal(await fetched(new URL(early[kind].uri, address)), early[kind].digest, 'the same bytes out of the file');
    const delta = await (await fetch(`${address}?_HLS_skip=YES`)).text();
    assert.match(delta, /#EXT-X-SKIP:SKIPPED-SEGMENTS=\d+\n/);
    assert.ok(delta.length < 8000, delta);
  }
  const hls = await rendition();
  assert.equal(hls.renditions.reduce((sum, one) => sum + one.gaps, 0), 0);
  // What is in memory: six seconds, and what a part more or less and a large keyframe come to.
  const settled = memory.slice(Math.floor(memory.length / 2));
  assert.ok(hls.memory_bytes < 2 * Math.max(...settled), `${hls.memory_bytes} of ${memory}`);

  // Back to the start, and live again.
  const live = await state(page);
  assert.ok(live.live > 2 * WINDOW && live.start < 1, JSON.stringify(live));
  await playsFrom(page, 0);
  const edge = (await state(page)).live;
  await playsFrom(page, edge);

  const { code } = await publishing.end(60);
  assert.equal(code, 0, publishing.output);
  const ended = await until('the end', async () => {
    const { text } = await mediaPlaylist(gateway, 'event', 'video');
    return text.includes('#EXT-X-ENDLIST') && text;
  });
  assert.match(ended, /#EXT-X-PLAYLIST-TYPE:VOD\n/);
  assert.equal(segments(ended)[0], early.video.uri);
  assert.doesNotMatch(ended, /EXT-X-GAP/);
  await until('the player knows the end', async () => {
    const now = await state(page);
    return Number.isFinite(now.duration) && now.duration > 35;
  });
  await playsFrom(page, 1);
  await page.close();
  // On a busy machine the source may jump, which is a discontinuity with an init segment of its own.
  await decodesCleanly(gateway.hls('event'), { ignore: FURTHER_INIT });
  await until('everything is on disk', async () => (await rendition()).memory_bytes === 0);
});

test('VOD: a finished recording plays by byte range, seeks, and has every picture', async () => {
  const { recordings } = await until('the finished recording', async () => {
    const list = await gateway.json('/recordings/event');
    return list.recordings.length === 1 && list.recordings[0].indexed && list;
  });
  const [recording] = recordings;
  assert.equal(recording.playlist, `${recording.url}/index.m3u8`);
  const address = `${gateway.base}${recording.playlist}`;
  const response = await fetch(address);
  assert.equal(response.headers.get('content-type'), 'application/vnd.apple.mpegurl');
  const text = await response.text();
  assert.match(text, /#EXT-X-PLAYLIST-TYPE:VOD\n/);
  assert.match(text, /#EXT-X-MAP:URI="\.\.\/[^"]+",BYTERANGE="\d+@\d+"/);
  const durations = [...text.matchAll(/#EXTINF:([\d.]+)/g)].map((found) => Number(found[1]));
  const sum = durations.reduce((a, b) => a + b);
  assert.ok(Math.abs(sum - recording.duration) < 0.001, `${sum} of ${recording.duration}`);

  const head = await fetch(address, { method: 'HEAD' });
  assert.equal(head.headers.get('etag'), response.headers.get('etag'));
  const same = await fetch(address, { headers: { 'if-none-match': response.headers.get('etag') } });
  assert.equal(same.status, 304);

  await decodesCleanly(address, { ignore: FURTHER_INIT });
  const file = `${gateway.base}${recording.url}`;
  for (const stream of ['v:0', 'a:0']) assert.equal(await packets(address, stream), await packets(file, stream), stream);
  const { format } = await probe(address);
  assert.ok(Math.abs(Number(format.duration) - recording.duration) < 0.1, `${format.duration} of ${recording.duration}`);

  const page = await player(address);
  await until('playing', async () => (await state(page)).frames > 10);
  const { duration } = await state(page);
  assert.ok(Math.abs(duration - recording.duration) < 0.1, `${duration} of ${recording.duration}`);
  await playsFrom(page, duration / 2);
  await playsFrom(page, 0.1);
  await page.evaluate((time) => {
    window.player.video.currentTime = time;
  }, duration - 1);
  await until('the end', () => page.evaluate(() => window.player.video.ended));
  assert.deepEqual((await state(page)).errors, []);
  await page.close();
});

test('VOD: a recording in progress says where to watch it', async () => {
  const publishing = publisher('demo', '--url', gateway.whip('growing'), '--seconds', 30);
  const file = await until('the recording', async () => (await gateway.json('/recordings/growing')).recordings[0], 20);
  assert.equal(file.playlist, null);
  const response = await fetch(`${gateway.base}${file.url}/index.m3u8`);
  assert.equal(response.status, 404);
  assert.match((await response.json()).detail, /still being recorded.*\/hls\/growing\/index\.m3u8/);
  await publishing.stop();
});
