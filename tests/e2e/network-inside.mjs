// Runs in the namespace of `network.sh`: publishes over each address and looks at what was recorded.
import assert from 'node:assert/strict';
import { aiortcPublish, ffmpegPublish, publisher } from './clients.mjs';
import { Gateway, until } from './gateway.mjs';
import { decodesCleanly, probe } from './media.mjs';

const token = 'sesame';
const gateway = await Gateway.start({ settings: { 'http.listen': '[::]:0', 'auth.publish': token } });
const port = new URL(gateway.base).port;
gateway.base = `http://[::1]:${port}`;
const url = (host, session) => `http://${host}:${port}/whip/${session}`;
const env = { env: { ...process.env, WHIP_TOKEN: token } };

const clients = {
  'ffmpeg-ipv4': () => ffmpegPublish(url('192.0.2.1', 'ffmpeg-ipv4'), 5, { token }),
  'aiortc-ipv4': () => aiortcPublish(url('192.0.2.1', 'aiortc-ipv4'), 5, env),
  'aiortc-ipv6': () => aiortcPublish(url('[2001:db8::1]', 'aiortc-ipv6'), 5, env),
  'publisher-loopback': () => publisher('publish', '--url', url('127.0.0.1', 'publisher-loopback'), '--seconds', 5, '--token', token),
};
try {
  for (const [session, publish] of Object.entries(clients)) {
    const client = await publish();
    let from;
    await until(`${session} is live`, async () => {
      if (!client.running) throw new Error(client.output);
      const state = await gateway.json(`/api/sessions/${session}`);
      from = state.connection?.remote_address;
      return state.state === 'live';
    }, 10);
    const { code } = await client.end(40);
    assert.equal(code, 0, `${session}: ${client.output}`);
    const [file] = await until(`${session} is recorded`, async () => {
      const { recordings } = await gateway.json(`/recordings/${session}`);
      return recordings[0]?.state === 'complete' && gateway.recordings(session);
    });
    await decodesCleanly(file);
    const { streams } = await probe(file);
    assert.equal(streams.length, 2, session);
    if (session === 'aiortc-ipv6') assert.match(from, /^\[2001:db8::1\]:/);
    console.log(`${session}: recorded, media from ${from}`);
  }
} finally {
  await gateway.stop();
}
