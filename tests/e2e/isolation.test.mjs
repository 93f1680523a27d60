// Sessions beside each other: a broken one disturbs nobody, a returning publisher continues its playlist.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { publisher } from './clients.mjs';
import { Gateway, mediaPlaylist, until } from './gateway.mjs';
import { FURTHER_INIT, decodesCleanly, packets } from './media.mjs';

test('two sessions and a broken one do not disturb each other', { timeout: 90_000 }, async () => {
  const gateway = await Gateway.start();
  try {
    const good = ['one', 'two'].map((name) => publisher('publish', '--url', gateway.whip(name), '--seconds', 12));
    const bad = publisher('publish', '--url', gateway.whip('broken'), '--seconds', 8, '--garbage', 30);
    for (const process of [...good, bad]) assert.equal((await process.end(60)).code, 0, process.output);
    for (const name of ['one', 'two']) {
      await until(`${name} is complete`, async () => (await gateway.json(`/recordings/${name}`)).recordings[0]?.state === 'complete');
      const [file] = await gateway.recordings(name);
      await decodesCleanly(file);
      assert.ok((await packets(file, 'v:0')) >= 12 * 30 - 5);
      assert.doesNotMatch((await mediaPlaylist(gateway, name, 'video')).text, /#EXT-X-DISCONTINUITY\n/);
    }
    assert.equal((await fetch(`${gateway.base}/healthz`)).status, 200);
  } finally {
    await gateway.stop();
  }
});

test('a publisher that crashed returns and the same playlist goes on', { timeout: 60_000 }, async () => {
  const gateway = await Gateway.start();
  try {
    const first = publisher('publish', '--url', gateway.whip('again'), '--seconds', 30);
    await until('the first is on air', async () => (await mediaPlaylist(gateway, 'again', 'video')).text.includes('#EXTINF'), 20);
    const key = (await mediaPlaylist(gateway, 'again', 'video')).text.match(/#EXT-X-MAP:URI="([^"]+?)-/)[1];
    await first.stop('SIGKILL');
    const second = publisher('publish', '--url', gateway.whip('again'), '--seconds', 6);
    assert.equal((await second.end(45)).code, 0, second.output);
    const { text } = await mediaPlaylist(gateway, 'again', 'video');
    assert.match(text, /#EXT-X-DISCONTINUITY\n/);
    assert.match(text, /#EXT-X-ENDLIST/);
    assert.ok(text.includes(`URI="${key}-`), 'the playlist is another one');
    assert.equal((await gateway.recordings('again')).length, 2);
    for (const file of await gateway.recordings('again')) await decodesCleanly(file);
    await decodesCleanly(gateway.hls('again'), { ignore: FURTHER_INIT });
  } finally {
    await gateway.stop();
  }
});
