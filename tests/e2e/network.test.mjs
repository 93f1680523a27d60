// A gateway that listens on all addresses, reached over addresses that are not loopback, IPv4 and IPv6. Needs a network
// of its own: this test makes a namespace and runs `network-inside.mjs` in it.
import { test } from 'node:test';
import path from 'node:path';
import { root, run } from './gateway.mjs';

test('publishers reach a gateway on all addresses over IPv4 and IPv6', { timeout: 120_000 }, async () => {
  // Only root may make a network namespace without a user namespace around it.
  const flags = process.getuid() === 0 ? ['--net'] : ['--map-root-user', '--net'];
  const output = await run(
    'unshare',
    [...flags, 'bash', path.join(root, 'tests/e2e/network.sh'), process.execPath, path.join(root, 'tests/e2e/network-inside.mjs')],
    { seconds: 110 },
  );
  console.log(output.trim());
});
