// The watch page as a person uses it: waiting, controls, keyboard, phone, embedded, posters, the end.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, pageState, picture } from './browser.mjs';
import { publisher } from './clients.mjs';
import { Gateway, until } from './gateway.mjs';
import { probe } from './media.mjs';

let gateway;
let browser;
before(async () => {
  // Longer than this file takes, so that no segment leaves a playlist that says EVENT.
  gateway = await Gateway.start({ settings: { 'hls.window': '120s' } });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await gateway?.stop();
});

/** A page of the gateway (or `base`), closed with the test. `prepare` is called before it is opened. */
async function open(t, address, { prepare, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 800, height: 700 }, ...options });
  t.after(() => context.close());
  const page = await context.newPage();
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  await prepare?.(page);
  await page.goto(new URL(address, gateway.base).href);
  return page;
}

/** Publishes a small test picture until the test ends. */
function publish(t, session, { to = gateway, ...options } = {}) {
  const all = { size: '640x360', kbps: 500, seconds: 60, ...options };
  const client = publisher('demo', '--url', to.whip(session), ...Object.entries(all).flatMap(([key, value]) => [`--${key}`, value]));
  t.after(() => client.stop());
  return client;
}

const phase = (page, name, seconds = 15) =>
  until(`the page is ${name}`, async () => (await pageState(page)).phase === name, seconds).catch(async (error) => {
    throw new Error(`${error.message}; it says ${JSON.stringify(await pageState(page))}`);
  });

const shows = (page, selector) => page.locator(selector).isVisible();

const decodes = async (on = gateway) => Number(/^whipgate_posters_total (\d+)$/m.exec(await on.text('/metrics'))[1]);

test('the page waits, starts by itself, obeys keys, goes live after a pause, and says that it is over', { timeout: 60_000 }, async (t) => {
  const page = await open(t, '/watch/studio');
  await phase(page, 'waiting');
  assert.match(await page.innerText('#notice'), /Waiting for the publisher/);
  assert.equal((await fetch(`${gateway.base}/hls/studio/poster.jpg`)).status, 404);

  const client = publish(t, 'studio');
  await phase(page, 'live');
  assert.equal(await shows(page, '#notice'), false);
  // A stream that cannot be rewound and has one quality and one sound offers neither.
  for (const id of ['dvr', 'quality-label', 'audio-label', 'live']) assert.equal(await shows(page, `#${id}`), false, id);
  const poster = await until('there is a poster', () => page.$eval('video', (video) => video.poster.startsWith('blob:') && video.poster));
  const width = await page.evaluate(async (src) => {
    const image = Object.assign(new Image(), { src });
    await image.decode();
    return image.naturalWidth;
  }, poster);
  assert.equal(width, 640);

  const muted = () => page.$eval('video', (video) => video.muted);
  assert.equal(await muted(), true);
  await page.keyboard.press('m');
  assert.equal(await muted(), false);
  assert.equal(await page.innerText('#sound'), 'Mute');
  await page.keyboard.press('f');
  await until('it is fullscreen', () => page.evaluate(() => document.fullscreenElement?.id === 'player'));
  await page.keyboard.press('f');
  await until('it is not', () => page.evaluate(() => document.fullscreenElement === null));
  // Rewinding is for streams that can be.
  const { time } = await pageState(page);
  await page.keyboard.press('ArrowLeft');
  assert.ok((await pageState(page)).time >= time);

  for (const key of [' ', 'k']) {
    await page.keyboard.press(key);
    assert.equal((await pageState(page)).paused, true, key);
    await until('the button says so', async () => (await page.innerText('#play')) === 'Play', 2);
    await page.keyboard.press(key);
    await until(`${key} plays`, async () => !(await pageState(page)).paused);
  }
  await page.click('#video');
  assert.equal((await pageState(page)).paused, true);
  await until('it is behind', () => shows(page, '#live'), 12);
  await page.click('#live');
  await until('it is live', async () => (await pageState(page)).latency < 2 && !(await pageState(page)).paused);
  await until('the button goes', async () => !(await shows(page, '#live')) && shows(page, '#edge'));
  const before = await picture(page);
  await until('the picture moves', async () => (await picture(page)).some((value, at) => Math.abs(value - before[at]) > 8));

  await client.stop();
  await phase(page, 'ended', 10);
  assert.match(await page.innerText('#notice'), /The stream has ended/);
  const last = await fetch(`${gateway.base}/hls/studio/poster.jpg`);
  assert.equal(last.status, 200, 'the last picture stays');
  publish(t, 'studio');
  await phase(page, 'live');
  assert.deepEqual(page.problems, []);
});

test('an EVENT playlist has a seek bar', { timeout: 40_000 }, async (t) => {
  publish(t, 'event');
  await until('it is live', async () => (await gateway.json('/api/sessions/event')).state === 'live');
  const prepare = (page) =>
    page.route('**/hls/event/**/index.m3u8*', async (route) => {
      const response = await route.fetch();
      const body = (await response.text()).replace('#EXTM3U\n', '#EXTM3U\n#EXT-X-PLAYLIST-TYPE:EVENT\n');
      await route.fulfill({ response, body });
    });
  const page = await open(t, '/watch/event', { prepare });
  await phase(page, 'live');
  await until('there is a bar', () => shows(page, '#seek'));
  await until('there are 10 s', () => page.$eval('#seek', (seek) => Number(seek.max) > 10), 15);
  assert.equal(await page.getAttribute('#seek', 'aria-valuetext'), 'live');

  const { time } = await pageState(page);
  await page.keyboard.press('ArrowLeft');
  await until('it is 5 s back', async () => {
    const now = await pageState(page);
    return now.time > time - 6 && now.time < time - 2 && (await page.getAttribute('#seek', 'aria-valuetext')).endsWith('behind live');
  });
  await page.focus('#seek');
  await page.keyboard.press('Home');
  await until('it plays from the beginning', async () => {
    const now = await pageState(page);
    return now.time > 0.2 && now.time < 4 && now.phase === 'live';
  });
  assert.match(await page.innerText('#position'), /^−0:\d\d$/);
  await until('it can go live', () => shows(page, '#live'));
  await page.keyboard.press('l');
  await until('it is live', async () => (await page.innerText('#position')) === 'live');

  const bar = await page.locator('#seek').boundingBox();
  await page.mouse.click(bar.x + bar.width / 2, bar.y + bar.height / 2);
  const middle = await page.$eval('#seek', (seek) => Number(seek.max) / 2);
  await until('a click in the middle goes there', async () => Math.abs((await pageState(page)).time - middle) < 3);
  assert.deepEqual(page.problems, []);
});

test('qualities can be chosen when there are several', { timeout: 30_000 }, async (t) => {
  publish(t, 'levels');
  await until('it is live', async () => (await gateway.json('/api/sessions/levels')).state === 'live');
  const prepare = (page) =>
    page.route('**/hls/levels/index.m3u8', async (route) => {
      const response = await route.fetch();
      const text = await response.text();
      // The same rendition again, under another name and size.
      const [variant] = /#EXT-X-STREAM-INF:.*\n.*\n/.exec(text);
      const smaller = variant.replace(/RESOLUTION=\d+x\d+/, 'RESOLUTION=320x180').replace(/index\.m3u8/, 'index.m3u8?');
      await route.fulfill({ response, body: text.trimEnd() + '\n' + smaller });
    });
  const page = await open(t, '/watch/levels', { prepare });
  await phase(page, 'live');
  await until('there is a choice', () => shows(page, '#quality'));
  assert.deepEqual(await page.$$eval('#quality option', (options) => options.map(({ text }) => text)), ['auto', '360p', '180p']);
  await page.selectOption('#quality', '180');
  const level = () => page.evaluate(() => window.whipgate.hls.levels[window.whipgate.hls.currentLevel]?.height);
  await until('it plays the other one', async () => (await level()) === 180);
  await page.selectOption('#quality', '360');
  await until('and the first again', async () => (await level()) === 360);
  await page.selectOption('#quality', '0');
  assert.equal(await page.evaluate(() => window.whipgate.hls.autoLevelEnabled), true);
  assert.deepEqual(page.problems, []);
});

test('a phone shows everything without scrolling sideways', { timeout: 30_000 }, async (t) => {
  publish(t, 'a-session-with-a-name-that-is-longer-than-a-phone-is-wide');
  const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
  const page = await open(t, '/watch/a-session-with-a-name-that-is-longer-than-a-phone-is-wide', phone);
  await phase(page, 'live');
  const { scroll, client } = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
  assert.ok(scroll <= client, `${scroll} > ${client}`);
  for (const id of ['play', 'sound', 'fullscreen']) {
    const { x, y, width, height } = await page.locator(`#${id}`).boundingBox();
    assert.ok(x >= 0 && x + width <= 390 && y + height <= 844 && height >= 44, `${id}: ${x} ${y} ${width} ${height}`);
  }
  await page.tap('#sound');
  assert.equal(await page.$eval('video', (video) => video.muted), false);
  await page.tap('#video');
  assert.equal((await pageState(page)).paused, true);
  assert.deepEqual(page.problems, []);
});

test('another site frames the player alone and nothing else', { timeout: 30_000 }, async (t) => {
  publish(t, 'framed');
  const site = createServer((request, response) => {
    const frame = (query) => `<iframe src="${gateway.base}/watch/framed${query}" width="480" height="270" allow="autoplay; fullscreen"></iframe>`;
    response.setHeader('Content-Type', 'text/html').end(`<!doctype html><body>${frame('?embed=1')}${frame('')}`);
  });
  site.listen(0, '127.0.0.1');
  await once(site, 'listening');
  t.after(() => site.close());
  const page = await open(t, `http://127.0.0.1:${site.address().port}/`, { hasTouch: true });
  const frame = await until('the frame is there', () => page.frames().find((each) => each.url().endsWith('?embed=1')));
  await until('it plays', () => frame.evaluate(() => window.whipgate.phase === 'live'), 15);
  for (const selector of ['header', '.meters', '.about']) assert.equal(await frame.locator(selector).isVisible(), false, selector);
  const box = await frame.evaluate(() => {
    const { width, height } = document.getElementById('video').getBoundingClientRect();
    return [width, height, document.documentElement.scrollHeight];
  });
  assert.deepEqual(box, [480, 270, 270]);
  // The bar goes when nothing moves, and a finger brings it back without pausing.
  const idle = () => frame.$eval('#player', (player) => player.classList.contains('idle'));
  await until('the bar goes', idle, 6);
  await frame.tap('#stage');
  assert.equal(await idle(), false);
  assert.equal(await frame.$eval('video', (video) => video.paused), false);
  const other = page.frames().find((each) => each.url() !== frame.url() && each !== page.mainFrame());
  assert.equal(await other.evaluate(() => document.getElementById('player')).catch(() => null), null, 'the whole page is framed');
  assert.deepEqual(page.problems, []);
});

test('posters are decoded once for all who ask, and end with the stream', { timeout: 30_000 }, async (t) => {
  publish(t, 'poster', { size: '1280x720' });
  const address = `${gateway.base}/hls/poster/poster.jpg`;
  await until('there is a keyframe', async () => (await gateway.json('/api/sessions/poster')).hls?.renditions[0]?.parts_total > 0);
  const so = await decodes();
  const answers = await Promise.all(Array.from({ length: 50 }, () => fetch(address)));
  assert.ok(answers.every(({ status }) => status === 200), answers.map(({ status }) => status).join());
  assert.equal(new Set(answers.map(({ headers }) => headers.get('etag'))).size, 1);
  assert.equal(await decodes(), so + 1);
  assert.equal(answers[0].headers.get('cache-control'), 'public, max-age=5');
  assert.equal((await fetch(address, { headers: { 'If-None-Match': answers[0].headers.get('etag') } })).status, 304);
  const file = path.join(gateway.dataDir, 'poster.jpg');
  await writeFile(file, Buffer.from(await answers[0].arrayBuffer()));
  const { streams } = await probe(file);
  assert.deepEqual(streams.map(({ codec_name, width, height }) => [codec_name, width, height]), [['mjpeg', 640, 360]]);

  const console = await open(t, '/');
  await until('the console shows it', () => console.$eval('.thumb', (image) => image.naturalWidth === 640 && !image.hidden));
  assert.deepEqual(console.problems, []);
});

test('whoever is refused reads why, and a token opens stream and poster', { timeout: 40_000 }, async (t) => {
  const closed = await Gateway.start({ settings: { 'auth.play': 'may-play' } });
  t.after(() => closed.stop());
  publish(t, 'closed', { to: closed });
  const stranger = await open(t, `${closed.base}/watch/closed`);
  await phase(stranger, 'failed');
  assert.match(await stranger.innerText('#notice'), /not open to everybody[^]*token/);
  const wrong = await open(t, `${closed.base}/watch/closed?token=wrong`);
  await phase(wrong, 'failed');
  assert.match(await wrong.innerText('#notice'), /not one of those/);

  const viewer = await open(t, `${closed.base}/watch/closed?token=may-play`);
  await phase(viewer, 'live');
  await until('there is a poster', () => viewer.$eval('video', (video) => video.poster.startsWith('blob:')));
  assert.equal(await decodes(closed), 1);
  assert.equal((await fetch(`${closed.base}/hls/closed/poster.jpg`)).status, 401);
  assert.deepEqual([...stranger.problems, ...wrong.problems, ...viewer.problems], []);
});
