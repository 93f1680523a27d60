// Sound in other forms: AAC for those who ask, G.711 and G.722 from publishers without Opus.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, observe, watch } from './browser.mjs';
import { aiortcPublish, publisher } from './clients.mjs';
import { Gateway, mediaPlaylist, run, until } from './gateway.mjs';
import { decodesCleanly, offsets, probe } from './media.mjs';

let gateway;
let browser;
before(async () => {
  gateway = await Gateway.start({ settings: { 'hls.audio': 'opus,aac' } });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await gateway?.stop();
});

const rendition = async (session, name) => {
  const { hls } = await gateway.json(`/api/sessions/${session}`);
  return hls.renditions.find((rendition) => rendition.name === name);
};

const live = (session) => until(`${session} is live`, async () => (await gateway.json(`/api/sessions/${session}`)).state === 'live');

test('AAC is made while a browser plays it, and no longer', { timeout: 120_000 }, async (t) => {
  const process = publisher('demo', '--url', gateway.whip('aac'), '--seconds', 100);
  t.after(() => process.stop());
  await live('aac');
  const opus = await watch(browser, gateway, 'aac');
  t.after(() => opus.close());
  // The first form is what players take by themselves.
  await until('the page plays Opus', () => opus.evaluate(() => window.whipgate.audio === 'audio'), 5);
  assert.equal((await rendition('aac', 'aac')).parts_total, 0, 'nobody has asked for AAC');
  assert.deepEqual(await opus.$$eval('#audio option', (options) => options.map(({ text }) => text)), ['Opus', 'AAC']);

  await opus.selectOption('#audio', 'aac');
  await until('the page plays AAC', () => opus.evaluate(() => window.whipgate.audio === 'aac' && window.whipgate.phase === 'live'), 20);
  await opus.waitForTimeout(2000);
  const seen = await observe(opus, 6);
  assert.ok(seen.advanced > 5, `played ${seen.advanced} s of 6 s: ${JSON.stringify(seen.state)}`);
  assert.ok(seen.audioBytes > 0 && seen.frames > 60, JSON.stringify(seen));
  assert.equal(seen.stalls, 0, JSON.stringify(seen.state.errors));
  assert.deepEqual(seen.state.errors.filter(({ fatal }) => fatal), []);
  assert.deepEqual(opus.problems, []);
  const made = await rendition('aac', 'aac');
  assert.equal(made.codecs, 'mp4a.40.2');
  const [aac, other] = await Promise.all(['aac', 'audio'].map((name) => mediaPlaylist(gateway, 'aac', name)));
  const dates = ({ text }) => new Map([...text.matchAll(/DATE-TIME:(\S+)\n(?:#EXT-X-PART:.*\n)*#EXTINF:.*\n\S+-s(\d+)\.mp4/g)].map(([, date, msn]) => [msn, Date.parse(date)]));
  const theirs = dates(other);
  // The first one begins where the wish did.
  const both = [...dates(aac)].slice(1).filter(([msn]) => theirs.has(msn));
  assert.ok(both.length >= 2, `${aac.text}\n${other.text}`);
  for (const [msn, date] of both) assert.ok(Math.abs(date - theirs.get(msn)) < 25, `segment ${msn}: ${date - theirs.get(msn)} ms apart`);

  await opus.close();
  const parts = async () => (await rendition('aac', 'aac')).parts_total;
  await until('it is no longer made', async () => (await rendition('aac', 'aac')).segments === 0, 20);
  const before = await parts();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.equal(await parts(), before);
  assert.match(gateway.log, /somebody plays AAC[^]*nobody plays AAC/);
});

test('picture and AAC are as far apart as picture and Opus', { timeout: 120_000 }, async (t) => {
  const process = publisher('demo', '--url', gateway.whip('sync'), '--seconds', 100);
  t.after(() => process.stop());
  await live('sync');
  const dir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const measure = async (name) => {
    const file = path.join(dir, `${name}.mkv`);
    const map = ['-map', '0:v:0', '-map', `0:a:${name === 'aac' ? 1 : 0}`];
    await run('ffmpeg', ['-nostdin', '-v', 'error', '-i', gateway.hls('sync'), ...map, '-t', '10', '-c', 'copy', file]);
    const { streams } = await probe(file);
    assert.ok(streams.some((stream) => stream.codec_name === (name === 'aac' ? 'aac' : 'opus')));
    const all = await offsets(file);
    assert.ok(all.length >= 6, `${all.length} flashes with a beep in 10 s`);
    return all[Math.floor(all.length / 2)];
  };
  // FFmpeg begins three segments before the end of each playlist.
  const segments = async () => (await mediaPlaylist(gateway, 'sync', 'aac')).text.split('#EXTINF').length - 1;
  await until('there are some segments of AAC', async () => (await segments()) > 4, 15);
  const aac = await measure('aac');
  const opus = await measure('opus');
  console.log(`A/V offset: with Opus ${opus.toFixed(1)} ms, with AAC ${aac.toFixed(1)} ms`);
  // FFmpeg is told of neither decoder's start, and times are to the millisecond.
  assert.ok(Math.abs(aac - opus) <= 2, `${aac} and ${opus} ms`);
});

for (const codec of ['PCMU', 'PCMA', 'G722']) {
  test(`aiortc publishes ${codec}, viewers get Opus`, { timeout: 60_000 }, async () => {
    const session = `aiortc-${codec.toLowerCase()}`;
    const process = aiortcPublish(gateway.whip(session), 9, { audio: codec });
    await live(session).catch((error) => {
      throw new Error(`${error.message}: ${process.output}`);
    });
    const { tracks } = await gateway.json(`/api/sessions/${session}`);
    const sound = tracks.find(({ kind }) => kind === 'audio');
    assert.equal(sound.codec, 'opus');
    assert.equal(sound.transcoded_from, codec.toLowerCase());
    const { code } = await process.end(45);
    assert.equal(code, 0, process.output);
    await until('the recording is complete', async () => {
      const { recordings } = await gateway.json(`/recordings/${session}`);
      return recordings.length === 1 && recordings[0].state === 'complete';
    });
    const [file] = await gateway.recordings(session);
    await decodesCleanly(file);
    const { streams } = await probe(file);
    assert.deepEqual(streams.map((stream) => stream.codec_name).sort(), ['h264', 'opus']);
    // Beeps of 1 kHz went in: nearly all of what is heard is near that.
    const heard = async (filters) => {
      const text = await run('ffmpeg', ['-nostdin', '-hide_banner', '-i', file, '-vn', '-af', `${filters}volumedetect`, '-f', 'null', '-']);
      return Number(text.match(/mean_volume: (-?[\d.]+) dB/)[1]);
    };
    const [all, tone] = [await heard(''), await heard('bandpass=f=1000:width_type=h:w=200,')];
    assert.ok(all > -30 && tone > all - 3, `${all} dB, of which ${tone} dB near 1 kHz`);
  });
}
