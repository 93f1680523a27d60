// Hard cases (loss, changes in mid-stream, clocks): a selection of what `scripts/scenarios` runs in full.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch } from './browser.mjs';
import { publisher } from './clients.mjs';
import { Gateway, binary } from './gateway.mjs';
import { cases, play } from './players.mjs';

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

test('players and recordings come through loss, pauses and changes of the stream', { timeout: 180_000 }, async () => {
  const scenarios = publisher('scenarios', '--quick', '--at-once', 5, '--gateway', binary);
  try {
    const { code } = await scenarios.end(170);
    assert.equal(code, 0, scenarios.output);
  } finally {
    await scenarios.stop();
  }
});

// With pictures that never come a player has nothing to show now and then; otherwise one stall is a busy machine's.
const most = {
  '5 % loss, repaired on the same SSRC': 1,
  '5 % loss, not repaired': 4,
  '50 ms jitter': 1,
  '320x180 to 1280x720': 1,
  'sound muted for 4 s': 1,
};
for (const [name, limit] of Object.entries(most)) {
  test(`hls.js plays through: ${name}`, { timeout: 90_000 }, async () => {
    const one = (await cases()).find((one) => one.name === name);
    assert.ok(one, `there is no case "${name}"`);
    const { wrong, stalls } = await play(browser, gateway, one, `players-${name.replaceAll(/[^a-z0-9]/gi, '-')}`);
    assert.deepEqual(wrong, []);
    assert.ok(stalls <= limit, `${stalls} stalls`);
  });
}
