// Headless Chromium, driven by Playwright: publishes and watches through the product's own pages.
import { access } from 'node:fs/promises';
import { chromium } from 'playwright-core';
import { until } from './gateway.mjs';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';

/** Starts Chromium with fake camera and microphone; fails by name when it is not installed. */
export async function launch() {
  await access(executablePath).catch(() => {
    throw new Error(`${executablePath} is missing: run scripts/setup test (Debian package chromium)`);
  });
  return chromium.launch({
    executablePath,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream',
      '--autoplay-policy=no-user-gesture-required', '--disable-background-timer-throttling',
      '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows',
    ],
  });
}

/** A page whose script errors fail the test that looks at `page.problems`. */
async function open(browser, address) {
  const page = await browser.newPage({ viewport: { width: 640, height: 600 } });
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  await page.goto(address);
  return page;
}

/** Publishes from the product's page; resolves when it is live. */
export async function publish(browser, gateway, session, { codec = '', trickle = false, source = 'test', token = '', bitrate = 800 } = {}) {
  // Small, because everything here encodes and decodes in software on whatever cores there are.
  const query = new URLSearchParams({ codec, trickle: trickle ? '1' : '0', source, height: 360, bitrate, autostart: '1', token });
  const page = await open(browser, `${gateway.base}/publish/${session}?${query}`);
  await until(`publishing ${session}`, async () => {
    const { phase, error } = await page.evaluate(() => window.whipgate);
    if (phase === 'failed') throw new Error(error);
    return phase === 'live';
  });
  return page;
}

/** Opens the watch page; resolves when it plays. */
export async function watch(browser, gateway, session, { seconds = 20, query = '' } = {}) {
  const page = await open(browser, `${gateway.base}/watch/${session}${query}`);
  await until(`playing ${session}`, () => page.evaluate(() => window.whipgate.phase === 'live'), seconds).catch(async (error) => {
    throw new Error(`${error.message}; the page says ${JSON.stringify(await pageState(page))}`);
  });
  return page;
}

/** What the watch page knows of itself. */
export function pageState(page) {
  return page.evaluate(() => {
    const video = document.getElementById('video');
    const { hls, ...state } = window.whipgate;
    return {
      ...state,
      time: video.currentTime,
      width: video.videoWidth,
      height: video.videoHeight,
      audioBytes: video.webkitAudioDecodedByteCount,
      videoFrames: video.getVideoPlaybackQuality().totalVideoFrames,
      paused: video.paused,
      mediaError: video.error?.message ?? null,
    };
  });
}

/** A small fingerprint of the picture now shown, to see that it moves. */
export function picture(page) {
  return page.evaluate(() => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 36 });
    const paint = canvas.getContext('2d');
    paint.drawImage(document.getElementById('video'), 0, 0, 64, 36);
    return Array.from(paint.getImageData(0, 0, 64, 36).data.filter((_, i) => i % 4 !== 3));
  });
}

/** Plays for `seconds` and reports what moved meanwhile. */
export async function observe(page, seconds) {
  const before = await pageState(page);
  const pictures = [];
  for (let i = 0; i < 4; i += 1) {
    pictures.push(await picture(page));
    await page.waitForTimeout((seconds * 1000) / 4);
  }
  const after = await pageState(page);
  let changes = 0;
  for (let i = 1; i < pictures.length; i += 1) {
    const difference = pictures[i].reduce((sum, value, at) => sum + Math.abs(value - pictures[i - 1][at]), 0) / pictures[i].length;
    if (difference > 1) changes += 1;
  }
  return {
    advanced: after.time - before.time,
    frames: after.videoFrames - before.videoFrames,
    audioBytes: after.audioBytes - before.audioBytes,
    changes,
    stalls: after.stalls - before.stalls,
    state: after,
  };
}
