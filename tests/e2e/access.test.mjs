// Bearer tokens for publishing and playing, as a person with a browser and a command line meets them.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, observe, pageState, publish, watch } from './browser.mjs';
import { Gateway, until } from './gateway.mjs';

let gateway;
let browser;
before(async () => {
  gateway = await Gateway.start({ settings: { 'auth.publish': 'may-publish', 'auth.play': 'may-play' } });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await gateway?.stop();
});

test('pages publish and play with their tokens and not without', { timeout: 90_000 }, async (t) => {
  await assert.rejects(publish(browser, gateway, 'closed', { codec: 'H264' }), /token/);
  const publisher = await publish(browser, gateway, 'studio', { codec: 'H264', token: 'may-publish' });
  t.after(() => publisher.close());

  const stranger = await browser.newPage();
  t.after(() => stranger.close());
  await stranger.goto(`${gateway.base}/watch/studio`);
  await until('the page refuses', async () => (await pageState(stranger)).phase === 'failed');
  assert.match(await stranger.innerText('#notice'), /token/);

  const viewer = await watch(browser, gateway, 'studio', { query: '?token=may-play' });
  t.after(() => viewer.close());
  const seen = await observe(viewer, 4);
  assert.ok(seen.advanced > 3, JSON.stringify(seen));
  assert.deepEqual(viewer.problems, []);

  const listed = `${gateway.base}/recordings/studio`;
  assert.equal((await fetch(listed)).status, 401);
  const headers = { Authorization: 'Bearer may-play' };
  const { recordings } = await (await fetch(listed, { headers })).json();
  const file = `${listed}/${recordings[0].file}`;
  assert.equal((await fetch(file, { headers: { Range: 'bytes=4-7' } })).status, 401);
  const range = await fetch(file, { headers: { ...headers, Range: 'bytes=4-7' } });
  assert.equal(range.status, 206);
  assert.equal(await range.text(), 'ftyp');
  for (const token of ['may-publish', 'may-play']) {
    assert.ok(!gateway.log.includes(token), 'tokens never reach the log');
  }
});
