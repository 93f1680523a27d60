// Runs in the namespace of `network.sh`: publishes over each address and looks at what was recorded.
import assert from 'node:assert/strict';
import { aiortcPublish, ffmpegPublish, publisher } from './clients.mjs';
import { Gateway, until } from './gateway.mjs';
import { decodesCleanly, probe } from './media.mjs';

const token = 'sesame';
const env = { env: { ...process.env, WHIP_TOKEN: token } };

/** Starts a gateway at `listen`, lets each client publish, and checks where its media came from and what was recorded. */
async function publishTo(listen, clients) {
  const gateway = await Gateway.start({ settings: { 'http.listen': `${listen}:0`, 'auth.publish': token } });
  const port = new URL(gateway.base).port;
  gateway.base = `http://${listen === '[::]' ? '[::1]' : listen}:${port}`;
  try {
    for (const [session, { host, from, publish }] of Object.entries(clients)) {
      const client = await publish(`http://${host}:${port}/whip/${session}`);
      let remote;
      await until(`${session} is live`, async () => {
        if (!client.running) throw new Error(client.output);
        const response = await fetch(`${gateway.base}/hls/${session}/index.m3u8`);
        return response.ok;
      }, 10);
      // Without a token for it only loopback may ask for the state.
      if (listen === '[::]') {
        remote = (await gateway.json(`/api/sessions/${session}`)).connection.remote_address;
        assert.match(remote, from, session);
      }
      const { code } = await client.end(40);
      assert.equal(code, 0, `${session}: ${client.output}`);
      const [file] = await until(`${session} is recorded`, async () => {
        const { recordings } = await gateway.json(`/recordings/${session}`);
        return recordings[0]?.state === 'complete' && gateway.recordings(session);
      });
      await decodesCleanly(file);
      const { streams } = await probe(file);
      assert.equal(streams.length, 2, session);
      console.log(`${session}: recorded${remote ? `, media from ${remote}` : ''}`);
    }
  } finally {
    await gateway.stop();
  }
}

await publishTo('[::]', {
  'ffmpeg-ipv4': { host: '192.0.2.1', from: /^192\.0\.2\.1:/, publish: (url) => ffmpegPublish(url, 5, { token }) },
  // Offered both families, it takes either.
  'aiortc-any': { host: '192.0.2.1', from: /^(192\.0\.2\.1|\[2001:db8::1\]):/, publish: (url) => aiortcPublish(url, 5, env) },
  'publisher-loopback': { host: '127.0.0.1', from: /^127\.0\.0\.1:/, publish: (url) => publisher('publish', '--url', url, '--seconds', 5, '--token', token) },
});
// Offered IPv6 only.
await publishTo('[2001:db8::1]', {
  'aiortc-ipv6': { host: '[2001:db8::1]', publish: (url) => aiortcPublish(url, 5, env) },
});
