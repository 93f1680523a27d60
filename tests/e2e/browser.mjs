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

/**
 * Publishes a flash and a beep at each full second from a page, both by the clock of its AudioContext, and resolves when
 * connected.
 *
 * The source is not exact: pictures are painted by a timer and captured when Chromium composes the page, and the sound's
 * clock advances in blocks, so its place between them is taken from the least distance to the page's clock within the
 * last second.
 */
export async function publishFlashes(browser, gateway, session) {
  const page = await open(browser, gateway.base);
  await page.evaluate(async (session) => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 });
    document.body.prepend(canvas);
    const paint = canvas.getContext('2d', { alpha: false });
    const audio = new AudioContext({ sampleRate: 48000 });
    const out = audio.createMediaStreamDestination();
    await audio.resume();
    let seen = [];
    const now = () => {
      const at = performance.now() / 1000;
      seen.push([at, at - audio.currentTime]);
      if (seen[0][0] < at - 1) seen = seen.filter(([since]) => since >= at - 1);
      return at - Math.min(...seen.map(([, distance]) => distance));
    };
    setInterval(now, 4);
    const beep = new AudioBuffer({ length: 4800, sampleRate: 48000 });
    beep.copyToChannel(Float32Array.from({ length: 4800 }, (_, i) => 0.8 * Math.cos((i * 2 * Math.PI) / 48)), 0);
    let beeps = 0;
    const stream = new MediaStream([...canvas.captureStream().getVideoTracks(), ...out.stream.getAudioTracks()]);
    let picture = 0;
    const draw = () => {
      picture = Math.max(picture + 1, Math.round(now() * 30));
      paint.fillStyle = picture % 30 < 3 ? '#fff' : '#404040';
      paint.fillRect(0, 0, 640, 360);
      paint.fillStyle = '#fa3';
      paint.fillRect((picture * 8) % 600, 320, 40, 40);
      const next = Math.ceil((picture + 10) / 30);
      if (next > beeps) {
        beeps = next;
        const node = new AudioBufferSourceNode(audio, { buffer: beep });
        node.connect(out);
        node.start(next);
      }
      setTimeout(draw, ((picture + 1) / 30 - now()) * 1000);
    };
    draw();
    const pc = new RTCPeerConnection();
    for (const track of stream.getTracks()) {
      const transceiver = pc.addTransceiver(track, { direction: 'sendonly', streams: [stream] });
      const codecs = RTCRtpSender.getCapabilities('video').codecs.filter(({ mimeType }) => mimeType === 'video/H264');
      if (track.kind === 'video') transceiver.setCodecPreferences(codecs);
    }
    await pc.setLocalDescription();
    const response = await fetch(`/whip/${session}`, { method: 'POST', headers: { 'Content-Type': 'application/sdp' }, body: pc.localDescription.sdp });
    if (response.status !== 201) throw new Error(await response.text());
    await pc.setRemoteDescription({ type: 'answer', sdp: await response.text() });
    window.end = async () => {
      const { status } = await fetch(response.headers.get('Location'), { method: 'DELETE' });
      pc.close();
      return status;
    };
  }, session);
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
