// Chromium publishes and another page of Chromium plays it with hls.js.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, observe, pageState, publish, watch } from './browser.mjs';
import { Gateway, mediaPlaylist, until } from './gateway.mjs';
import { FURTHER_INIT, decodesCleanly, probe } from './media.mjs';

let gateway;
let browser;
before(async () => {
  gateway = await Gateway.start();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await gateway?.stop();
});

for (const [codec, expected] of [['H264', 'h264'], ['VP9', 'vp9']]) {
  for (const trickle of [false, true]) {
    const name = `Chromium publishes ${codec} ${trickle ? 'with' : 'without'} trickle ICE and another page plays it`;
    test(name, { timeout: 120_000 }, async (t) => {
      const session = `${expected}-${trickle ? 'trickle' : 'plain'}`;
      const publisher = await publish(browser, gateway, session, { codec, trickle });
      // Pages that a failed test leaves behind would go on encoding and slow down the next.
      t.after(() => publisher.close());
      const viewer = await watch(browser, gateway, session);
      t.after(() => viewer.close());
      await viewer.waitForTimeout(2000);
      const seen = await observe(viewer, 8);
      assert.ok(seen.advanced > 7, `played ${seen.advanced} s of 8 s: ${JSON.stringify(seen.state)}`);
      assert.ok(seen.frames > 100, `${seen.frames} pictures in 8 s`);
      assert.ok(seen.changes >= 3, `the picture changed ${seen.changes} times of 3`);
      assert.ok(seen.audioBytes > 0, 'no sound was decoded');
      assert.equal(seen.stalls, 0, JSON.stringify(seen.state.errors));
      assert.equal(seen.state.mediaError, null);
      assert.deepEqual(seen.state.errors.filter(({ fatal }) => fatal), []);
      assert.ok(seen.state.latency < 2.5, `${seen.state.latency} s behind live`);
      if (trickle) {
        const patches = await publisher.evaluate(() => window.whipgate.patches);
        assert.ok(patches.length > 0 && patches.every((status) => status === 204), `PATCH answered ${patches}`);
      }
      const { streams } = await probe(gateway.hls(session), ['-rw_timeout', '5000000']);
      assert.deepEqual(streams.map((stream) => stream.codec_name).sort(), [expected, 'opus'].sort());

      await publisher.click('#stop');
      await until('the playlist ends', async () => (await mediaPlaylist(gateway, session, 'video')).text.includes('#EXT-X-ENDLIST'), 3);
      await until('the page says so', async () => (await pageState(viewer)).phase === 'ended', 10);
      // Chromium begins small and grows its picture, each size with an init segment of its own.
      await decodesCleanly(gateway.hls(session), { ignore: FURTHER_INIT });
      for (const file of await gateway.recordings(session)) await decodesCleanly(file);
      assert.deepEqual([...publisher.problems, ...viewer.problems], []);
    });
  }
}

test('an offer with VP8 only is refused in words', { timeout: 30_000 }, async () => {
  const page = await browser.newPage();
  await page.goto(gateway.base);
  const { status, type, problem } = await page.evaluate(async () => {
    const pc = new RTCPeerConnection();
    const transceiver = pc.addTransceiver('video', { direction: 'sendonly' });
    transceiver.setCodecPreferences(RTCRtpSender.getCapabilities('video').codecs.filter((c) => c.mimeType === 'video/VP8'));
    await pc.setLocalDescription();
    const response = await fetch('/whip/vp8', { method: 'POST', headers: { 'Content-Type': 'application/sdp' }, body: pc.localDescription.sdp });
    return { status: response.status, type: response.headers.get('content-type'), problem: await response.json() };
  });
  assert.equal(status, 422);
  assert.match(type, /^application\/problem\+json/);
  assert.match(problem.detail, /VP8/);
  assert.match(problem.detail, /H264/);
  assert.match(problem.detail, /webrtc\.transcode_vp8/);
  await page.close();
});

for (const kind of ['audio', 'video']) {
  test(`${kind} alone plays too`, { timeout: 60_000 }, async (t) => {
    const page = await browser.newPage();
    t.after(() => page.close());
    await page.goto(gateway.base);
    await page.evaluate(async (kind) => {
      const stream = await navigator.mediaDevices.getUserMedia({ [kind]: kind === 'audio' || { width: 640, height: 360 } });
      const pc = new RTCPeerConnection();
      const transceiver = pc.addTransceiver(stream.getTracks()[0], { direction: 'sendonly', streams: [stream] });
      if (kind === 'video') {
        transceiver.setCodecPreferences(RTCRtpSender.getCapabilities('video').codecs.filter((c) => c.mimeType === 'video/H264'));
      }
      await pc.setLocalDescription();
      const response = await fetch(`/whip/${kind}-alone`, { method: 'POST', headers: { 'Content-Type': 'application/sdp' }, body: pc.localDescription.sdp });
      if (response.status !== 201) throw new Error(await response.text());
      await pc.setRemoteDescription({ type: 'answer', sdp: await response.text() });
      window.keep = pc;
    }, kind);
    const viewer = await watch(browser, gateway, `${kind}-alone`);
    t.after(() => viewer.close());
    const seen = await observe(viewer, 4);
    assert.ok(seen.advanced > 3, `${kind}: ${JSON.stringify(seen)}`);
    assert.equal(seen.audioBytes > 0, kind === 'audio');
    assert.equal(seen.frames > 0, kind === 'video');
  });
}
