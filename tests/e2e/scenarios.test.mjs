// Hard cases (loss, changes in mid-stream, clocks): a selection of what `scripts/scenarios` runs in full.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { publisher } from './clients.mjs';
import { binary } from './gateway.mjs';

test('players and recordings come through loss, pauses and changes of the stream', { timeout: 180_000 }, async () => {
  const scenarios = publisher('scenarios', '--quick', '--at-once', 5, '--gateway', binary);
  try {
    const { code } = await scenarios.end(170);
    assert.equal(code, 0, scenarios.output);
  } finally {
    await scenarios.stop();
  }
});
