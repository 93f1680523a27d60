// Publishers with nothing but VP8: transcoded when the gateway may, refused with the way out when it may not.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, observe, watch } from './browser.mjs';
import { aiortcPublish } from './clients.mjs';
import { Gateway, until } from './gateway.mjs';
import { FURTHER_INIT, decodesCleanly, probe } from './media.mjs';

let gateway;
let browser;
before(async () => {
  gateway = await Gateway.start({ settings: { 'webrtc.transcode_vp8': 'true' } });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await gateway?.stop();
});

const video = async (session) => {
  const { tracks } = await gateway.json(`/api/sessions/${session}`);
  return tracks.find(({ kind }) => kind === 'video');
};

test('Chromium publishes VP8 alone and another page plays H.264', { timeout: 120_000 }, async (t) => {
  const page = await browser.newPage();
  t.after(() => page.close());
  await page.goto(gateway.base);
  await page.evaluate(async () => {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360 } });
    const pc = new RTCPeerConnection();
    for (const track of stream.getTracks()) {
      const transceiver = pc.addTransceiver(track, { direction: 'sendonly', streams: [stream] });
      if (track.kind === 'audio') continue;
      transceiver.setCodecPreferences(RTCRtpSender.getCapabilities('video').codecs.filter((c) => c.mimeType === 'video/VP8'));
    }
    await pc.setLocalDescription();
    const response = await fetch('/whip/chromium', { method: 'POST', headers: { 'Content-Type': 'application/sdp' }, body: pc.localDescription.sdp });
    if (response.status !== 201) throw new Error(await response.text());
    await pc.setRemoteDescription({ type: 'answer', sdp: await response.text() });
    window.keep = pc;
  });
  const viewer = await watch(browser, gateway, 'chromium');
  t.after(() => viewer.close());
  await viewer.waitForTimeout(3000);
  const seen = await observe(viewer, 8);
  assert.ok(seen.advanced > 7, `played ${seen.advanced} s of 8 s: ${JSON.stringify(seen.state)}`);
  assert.ok(seen.frames > 60, `${seen.frames} pictures in 8 s`);
  assert.ok(seen.audioBytes > 0, 'no sound was decoded');
  assert.equal(seen.stalls, 0, JSON.stringify(seen.state.errors));
  assert.deepEqual(seen.state.errors.filter(({ fatal }) => fatal), []);
  const track = await video('chromium');
  assert.equal(track.codec, 'h264');
  assert.equal(track.transcoded_from, 'vp8');
  assert.ok(Math.abs(track.keyframe_interval_seconds - 2) < 0.3, `keyframes every ${track.keyframe_interval_seconds} s`);
  const { hls, findings } = await gateway.json('/api/sessions/chromium');
  assert.deepEqual(findings, []);
  assert.ok(hls.renditions.every((rendition) => rendition.independent_segments), 'each segment starts with a keyframe');
  // The segments are made by our own encoder; the publisher was asked for keyframes to begin with at most.
  const asked = await page.evaluate(async () => {
    const stats = [...(await window.keep.getStats()).values()];
    return stats.find(({ type, kind }) => type === 'outbound-rtp' && kind === 'video').pliCount;
  });
  assert.ok(asked <= 2, `${asked} picture loss indications`);
});

test('aiortc publishes VP8', { timeout: 60_000 }, async () => {
  const process = aiortcPublish(gateway.whip('aiortc'), 9, { video: 'VP8' });
  await until('it is live', async () => (await gateway.json('/api/sessions/aiortc')).state === 'live').catch((error) => {
    throw new Error(`${error.message}: ${process.output}`);
  });
  assert.equal((await video('aiortc')).transcoded_from, 'vp8');
  const { code } = await process.end(45);
  assert.equal(code, 0, process.output);
  await until('the recording is complete', async () => {
    const { recordings } = await gateway.json('/recordings/aiortc');
    return recordings.length === 1 && recordings[0].state === 'complete';
  });
  const [file] = await gateway.recordings('aiortc');
  await decodesCleanly(file);
  await decodesCleanly(gateway.hls('aiortc'), { ignore: FURTHER_INIT });
  const { streams } = await probe(file);
  assert.deepEqual(streams.map((stream) => stream.codec_name).sort(), ['h264', 'opus']);
});
