// One playlist over crashes, takeovers and a restart of the gateway: numbers rise, names are never used twice, times are
// true, and hls.js and FFmpeg play through.
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, pageState, publish as publishFromPage, watch } from './browser.mjs';
import { publisher } from './clients.mjs';
import { Gateway, Process, until } from './gateway.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(async () => browser?.close());

/** A media playlist as numbers: each whole segment with its media sequence and discontinuity sequence number. */
function parse(text) {
  const number = (tag) => Number(text.match(new RegExp(`#${tag}:(\\d+)`))?.[1]);
  const playlist = { sequence: number('EXT-X-MEDIA-SEQUENCE'), target: number('EXT-X-TARGETDURATION'), ended: text.includes('#EXT-X-ENDLIST'), segments: [] };
  let sn = playlist.sequence;
  let cc = number('EXT-X-DISCONTINUITY-SEQUENCE');
  let date;
  let duration;
  let gap = false;
  for (const line of text.split('\n')) {
    if (line === '#EXT-X-DISCONTINUITY') cc += 1;
    else if (line === '#EXT-X-GAP') gap = true;
    else if (line.startsWith('#EXT-X-PROGRAM-DATE-TIME:')) date = Date.parse(line.slice(25));
    else if (line.startsWith('#EXTINF:')) duration = Number.parseFloat(line.slice(8));
    else if (line && !line.startsWith('#')) {
      // Nobody loads what is lost; it only keeps its number.
      if (!gap) playlist.segments.push({ sn, cc, date, duration, uri: line });
      sn += 1;
      gap = false;
    }
  }
  return playlist;
}

/** Reads a media playlist again and again, as a player without parts does, and notes whatever a player must not see. */
class Observer {
  constructor(address) {
    this.address = address;
    this.problems = [];
    this.segments = new Map();
    this.names = new Map();
    this.playlists = 0;
    this.refused = [];
    this.done = this.#run();
  }

  async #run() {
    while (!this.stopped) {
      try {
        const response = await fetch(this.address);
        const seen = Date.now();
        const text = await response.text();
        if (response.ok) this.#see(parse(text), seen);
        else if (this.last) this.refused.push(response.status);
      } catch {
        if (this.last) this.refused.push('no answer');
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  #see(playlist, seen) {
    this.playlists += 1;
    const last = this.last;
    this.last = playlist;
    if (last && playlist.sequence < last.sequence) this.problems.push(`media sequence ${last.sequence} -> ${playlist.sequence}`);
    if (last && playlist.target !== last.target) this.problems.push(`target duration ${last.target} -> ${playlist.target}`);
    if (last?.ended && !playlist.ended) this.problems.push('went on after its end');
    let before;
    for (const segment of playlist.segments) {
      const known = this.segments.get(segment.sn);
      if (known && JSON.stringify(known) !== JSON.stringify(segment)) this.problems.push(`${JSON.stringify(known)} became ${JSON.stringify(segment)}`);
      if (!known) {
        this.segments.set(segment.sn, segment);
        if (this.names.has(segment.uri)) this.problems.push(`${segment.uri} twice`);
        this.names.set(segment.uri, segment.sn);
        const age = (seen - segment.date) / 1000 - segment.duration;
        if (this.playlists > 1 && (age < -0.3 || age > 3)) this.problems.push(`segment ${segment.sn} ended ${age.toFixed(2)} s ago when it was listed`);
      }
      if (before && before.cc === segment.cc && Math.abs(segment.date - before.date - before.duration * 1000) > 20) {
        this.problems.push(`${segment.sn} begins ${segment.date - before.date} ms after ${before.sn}, which has ${before.duration} s`);
      }
      if (before && segment.date < before.date + before.duration * 1000 - 200) this.problems.push(`${segment.sn} overlaps ${before.sn}`);
      before = segment;
    }
  }

  /** Discontinuity sequence numbers that were seen. */
  get discontinuities() {
    return [...new Set([...this.segments.values()].map(({ cc }) => cc))].sort((a, b) => a - b);
  }

  async stop() {
    this.stopped = true;
    await this.done;
    assert.deepEqual(this.problems, []);
  }
}

/** Publishes with our own client. */
const publish = (gateway, session, seconds = 90, ...more) => publisher('publish', '--url', gateway.whip(session), '--seconds', seconds, ...more);

const media = (gateway, session, rendition) => new URL(`${rendition}/index.m3u8`, gateway.hls(session));

const has = (observer, what, seconds = 25) => until(`${observer.address.pathname}: ${what}`, () => {
  if (observer.problems.length > 0) throw new Error(observer.problems.join('\n'));
  return what(observer);
}, seconds);

/** The watch page, with an eye on what hls.js sees. */
async function viewer(gateway, session) {
  const page = await watch(browser, gateway, session, { seconds: 30 });
  await page.evaluate(() => {
    const seen = (window.seen = { player: window.whipgate.hls, sequences: {}, back: [] });
    seen.player.on(window.Hls.Events.LEVEL_UPDATED, (_, { details }) => {
      if (details.startSN < (seen.sequences.level ?? 0)) seen.back.push([seen.sequences.level, details.startSN]);
      seen.sequences.level = details.startSN;
    });
  });
  return page;
}

/** Waits until a viewer plays what was published last: moves on for two seconds near the live edge. */
async function playsOn(page, seconds = 25) {
  let from;
  await until('the viewer plays on', async () => {
    const { time, phase, latency } = await pageState(page);
    if (phase !== 'live' || latency === null || latency > 5) from = undefined;
    else from ??= { time, at: Date.now() };
    return from && Date.now() - from.at > 2000 && time - from.time > 1.6;
  }, seconds).catch(async (error) => {
    throw new Error(`${error.message}: ${JSON.stringify(await pageState(page))}`);
  });
}

async function neverBroke(page) {
  const { errors, mediaError } = await pageState(page);
  assert.deepEqual(errors.filter(({ fatal }) => fatal), []);
  assert.equal(mediaError, null);
  const { same, back } = await page.evaluate(() => ({ same: window.seen.player === window.whipgate.hls, back: window.seen.back }));
  assert.ok(same, 'the page had to start its player anew');
  assert.deepEqual(back, [], 'hls.js saw the media sequence go back');
  assert.deepEqual(page.problems, []);
}

/** FFmpeg as a viewer; ends by itself at the end of the playlist. */
function ffmpegViewer(gateway, session) {
  return new Process('ffmpeg', ['-nostdin', '-hide_banner', '-v', 'info', '-rw_timeout', '20000000', '-i', gateway.hls(session), '-map', '0', '-fps_mode', 'passthrough', '-f', 'null', '-']);
}

async function frames(process, seconds) {
  const { code } = await process.end(seconds);
  assert.equal(code, 0, process.output);
  return Number([...process.output.matchAll(/frame= *(\d+)/g)].at(-1)?.[1]);
}

test('a crash and a takeover: hls.js and FFmpeg play through', { timeout: 150_000 }, async (t) => {
  const gateway = await Gateway.start({ settings: { 'session.on_conflict': 'replace' } });
  t.after(() => gateway.stop());
  const publishers = [publish(gateway, 'on')];
  t.after(() => Promise.all(publishers.map((process) => process.stop('SIGKILL'))));
  const video = new Observer(media(gateway, 'on', 'video'));
  const audio = new Observer(media(gateway, 'on', 'audio'));
  await has(video, ({ segments }) => segments.size >= 2);
  const page = await viewer(gateway, 'on');
  t.after(() => page.close());
  const ffmpeg = ffmpegViewer(gateway, 'on');
  t.after(() => ffmpeg.stop('SIGKILL'));
  await playsOn(page);

  await publishers[0].stop('SIGKILL');
  publishers.push(publish(gateway, 'on'));
  await has(video, ({ discontinuities }) => discontinuities.length === 2);
  await playsOn(page);

  // Another one takes over while the second is still sending.
  publishers.push(publish(gateway, 'on', 12));
  await has(video, ({ discontinuities }) => discontinuities.length === 3);
  await playsOn(page);
  await has(video, ({ last }) => last.ended, 40);
  await has(audio, ({ last }) => last.ended);

  await until('the page says that it is over', async () => (await pageState(page)).phase === 'ended', 15);
  await neverBroke(page);
  await Promise.all([video.stop(), audio.stop()]);
  for (const observer of [video, audio]) {
    assert.deepEqual(observer.discontinuities, [0, 1, 2]);
    assert.deepEqual(observer.refused, []);
  }
  // It joined three segments behind and saw everything from there.
  const expected = [...video.segments.values()].reduce((sum, { duration }) => sum + duration * 30, 0);
  const seen = await frames(ffmpeg, 30);
  assert.ok(seen > expected - 200, `FFmpeg decoded ${seen} of ${expected} pictures`);
});

test('the gateway is killed and started again: the playlist goes on', { timeout: 150_000 }, async (t) => {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  t.after(() => rm(dataDir, { recursive: true, force: true }));
  let gateway = await Gateway.start({ dataDir });
  const listen = new URL(gateway.base).host;
  const publishers = [publish(gateway, 'on')];
  t.after(() => Promise.all(publishers.map((process) => process.stop('SIGKILL'))));
  t.after(() => gateway.stop('SIGKILL'));
  const video = new Observer(media(gateway, 'on', 'video'));
  const audio = new Observer(media(gateway, 'on', 'audio'));
  await has(video, ({ segments }) => segments.size >= 6, 40);
  const page = await viewer(gateway, 'on');
  t.after(() => page.close());
  await playsOn(page);
  const highest = Math.max(...video.segments.keys());

  await gateway.stop('SIGKILL');
  await publishers[0].stop('SIGKILL');
  gateway = await Gateway.start({ dataDir, settings: { 'http.listen': listen } });
  assert.equal((await gateway.json('/api/sessions/on')).state, 'reconnecting');
  publishers.push(publish(gateway, 'on', 20));
  await has(video, ({ discontinuities }) => discontinuities.length === 2);
  await playsOn(page, 40);
  const first = [...video.segments.values()].find(({ cc }) => cc === 1);
  assert.ok(first.sn > highest && first.sn <= highest + 10, `${first.sn} after ${highest}`);
  await has(video, ({ last }) => last.ended, 40);
  await has(audio, ({ last }) => last.ended);
  await until('the page says that it is over', async () => (await pageState(page)).phase === 'ended', 15);
  await neverBroke(page);
  await Promise.all([video.stop(), audio.stop()]);
  for (const observer of [video, audio]) assert.deepEqual(observer.discontinuities, [0, 1]);
  await until('nothing is left to go on with', async () => (await readdir(path.join(dataDir, 'state/playlists'))).length === 0, 5);
});

test('a graceful stop ends the playlists, and nothing goes on after it', { timeout: 60_000 }, async (t) => {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  t.after(() => rm(dataDir, { recursive: true, force: true }));
  let gateway = await Gateway.start({ dataDir });
  const listen = new URL(gateway.base).host;
  const process = publish(gateway, 'on');
  t.after(() => process.stop('SIGKILL'));
  t.after(() => gateway.stop('SIGKILL'));
  const video = new Observer(media(gateway, 'on', 'video'));
  await has(video, ({ segments }) => segments.size >= 2);
  const state = path.join(dataDir, 'state/playlists');
  assert.deepEqual(await readdir(state), ['on.json']);
  const { code } = await gateway.stop('SIGTERM');
  assert.equal(code, 0);
  await video.stop();
  assert.deepEqual(await readdir(state), []);
  gateway = await Gateway.start({ dataDir, settings: { 'http.listen': listen } });
  assert.deepEqual((await gateway.json('/api/sessions')).sessions ?? [], []);
});

test('after the grace the playlist ends, and the next publication has one of its own', { timeout: 120_000 }, async (t) => {
  const gateway = await Gateway.start({ settings: { 'session.reconnect_grace': '3s' } });
  t.after(() => gateway.stop());
  const publishers = [publish(gateway, 'on')];
  t.after(() => Promise.all(publishers.map((process) => process.stop('SIGKILL'))));
  const old = new Observer(media(gateway, 'on', 'video'));
  await has(old, ({ segments }) => segments.size >= 2);
  await publishers[0].stop('SIGKILL');
  const killed = Date.now();
  // Nothing says that the publisher is gone; whoever comes next finds it silent.
  publishers.push(publish(gateway, 'on', 60, '--no-video'));
  await has(old, ({ last }) => last.ended);
  const took = (Date.now() - killed) / 1000;
  const sound = new Observer(media(gateway, 'on', 'audio-1'));
  await has(sound, ({ segments }) => segments.size >= 2);
  assert.ok(took < 10, `ENDLIST ${took} s after the crash`);
  assert.match(await gateway.text('/hls/on/index.m3u8'), /\naudio-1\/index\.m3u8\n/);
  // The player that is still at the old one sees its end, and can fetch its tail.
  const tail = old.last.segments.at(-1).uri;
  assert.equal((await fetch(new URL(tail, old.address))).status, 200);
  assert.ok(parse(await gateway.text(old.address)).ended);

  // This one says goodbye by DELETE: the end comes at once; the next has other tracks again.
  await publishers[1].stop('SIGTERM');
  await has(sound, ({ last }) => last.ended, 40);
  publishers.push(publish(gateway, 'on', 60));
  const third = new Observer(media(gateway, 'on', 'video-2'));
  await has(third, ({ segments }) => segments.size >= 2);
  assert.ok(parse(await gateway.text(sound.address)).ended);
  await Promise.all([old.stop(), sound.stop(), third.stop()]);
  for (const observer of [old, sound, third]) assert.deepEqual(observer.discontinuities, [0]);
});

/** Chromium restarts ICE: a new offer, of which only credentials and candidates go to the gateway (RFC 9725 section 4.3.3). */
function restartIce(page, session) {
  return page.evaluate(async (session) => {
    const pc = window.peers.at(-1);
    const url = (await (await fetch(`/api/sessions/${session}`)).json()).publication;
    pc.restartIce();
    const offer = await pc.createOffer();
    await pc.setLocalDescription(offer);
    await new Promise((resolve) => {
      if (pc.iceGatheringState === 'complete') resolve();
      pc.addEventListener('icegatheringstatechange', () => pc.iceGatheringState === 'complete' && resolve());
    });
    const local = pc.localDescription.sdp.split('\r\n');
    const first = local.findIndex((line) => line.startsWith('m='));
    const one = (name) => local.find((line) => line.startsWith(`a=${name}:`));
    const lines = [
      one('group'), one('ice-ufrag'), one('ice-pwd'), local[first].replace(/^m=(\S+) \d+ /, 'm=$1 9 '), one('mid'),
      ...local.filter((line) => line.startsWith('a=candidate:')), 'a=end-of-candidates',
    ];
    const body = `${lines.join('\r\n')}\r\n`;
    const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': '*' };
    const response = await fetch(`/whip/${session}/${url}`, { method: 'PATCH', headers, body });
    const fragment = await response.text();
    if (response.status !== 200) throw new Error(`${response.status} ${fragment}`);
    const said = (name) => fragment.match(new RegExp(`a=${name}:(\\S+)`))[1];
    // The answer of before with the new credentials; the candidates are the same as then.
    const sdp = pc.remoteDescription.sdp
      .replace(/a=ice-ufrag:\S+/g, `a=ice-ufrag:${said('ice-ufrag')}`)
      .replace(/a=ice-pwd:\S+/g, `a=ice-pwd:${said('ice-pwd')}`);
    await pc.setRemoteDescription({ type: 'answer', sdp });
    const pair = async () => {
      const stats = [...(await pc.getStats()).values()];
      const transport = stats.find(({ type }) => type === 'transport');
      const selected = stats.find(({ id }) => id === transport.selectedCandidatePairId);
      const local = stats.find(({ id }) => id === selected?.localCandidateId);
      return selected?.state === 'succeeded' ? local : undefined;
    };
    const wanted = one('ice-ufrag').slice('a=ice-ufrag:'.length);
    for (let i = 0; i < 100; i += 1) {
      const local = await pair();
      if (local?.usernameFragment === wanted) return { etag: response.headers.get('etag'), ufrag: said('ice-ufrag') };
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`the new pair was not chosen within 5 s; ICE is ${pc.iceConnectionState}`);
  }, session);
}

test('Chromium restarts ICE, and nobody notices', { timeout: 120_000 }, async (t) => {
  const gateway = await Gateway.start();
  t.after(() => gateway.stop());
  const context = await browser.newContext();
  t.after(() => context.close());
  // The page keeps its connection to itself; this keeps hold of it.
  await context.addInitScript(() => {
    window.peers = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
      constructor(...args) {
        super(...args);
        window.peers.push(this);
      }
    };
  });
  const publishing = await publishFromPage(context, gateway, 'on', { codec: 'H264' });
  const video = new Observer(media(gateway, 'on', 'video'));
  await has(video, ({ segments }) => segments.size >= 2);
  const page = await viewer(gateway, 'on');
  t.after(() => page.close());
  await playsOn(page);
  const before = await gateway.json('/api/sessions/on');
  const stalls = (await pageState(page)).stalls;
  const restarts = [];
  for (let round = 0; round < 2; round += 1) {
    restarts.push(await restartIce(publishing, 'on'));
    const count = video.segments.size;
    await has(video, ({ segments }) => segments.size >= count + 2);
    await playsOn(page);
  }
  assert.notEqual(restarts[0].etag, restarts[1].etag);
  assert.notEqual(restarts[0].ufrag, restarts[1].ufrag);
  const after = await gateway.json('/api/sessions/on');
  assert.equal(after.publication, before.publication);
  assert.ok(after.tracks.every(({ packets_lost: lost }) => lost === 0), JSON.stringify(after.tracks));
  assert.equal((await pageState(page)).stalls, stalls);
  await neverBroke(page);
  await publishing.click('#stop');
  await has(video, ({ last }) => last.ended);
  // Chromium's picture grows in its first seconds, each size after a discontinuity; the restarts make none.
  const sizes = new Set([...video.segments.values()].map(({ cc }) => cc)).size;
  assert.ok(sizes <= 3, `${sizes} discontinuities`);
  await video.stop();
});
