// Plays the hard cases of `scripts/scenarios` in hls.js in Chromium, one after the other, and prints what a viewer sees:
// players.mjs [TEXT], only cases with TEXT in their name. Fails when a player breaks or does not come back.
import { fileURLToPath } from 'node:url';
import { launch, observe, pageState, watch } from './browser.mjs';
import { publisher } from './clients.mjs';
import { Gateway, publisherBinary, run } from './gateway.mjs';

/** At the end of a case the page must play again: most of the last seconds (a wait for a keyframe may reach into them), and near live. */
const LAST_SECONDS = 2.5;
const MOST_LATENCY = 3;

/** All cases as `{ name, seconds }`. */
export async function cases() {
  return JSON.parse(await run(publisherBinary, ['scenarios', '--list']));
}

/** Publishes one case and watches it; what was seen, and what was wrong with it. */
export async function play(browser, gateway, { name, seconds }, session) {
  const started = Date.now();
  const client = publisher('case', name, '--url', gateway.whip(session));
  let page;
  try {
    page = await watch(browser, gateway, session);
    const joined = Date.now();
    // Over before the publisher is.
    const left = started + (seconds - LAST_SECONDS - 0.5) * 1000 - joined;
    await page.waitForTimeout(Math.max(0, left));
    const end = await observe(page, LAST_SECONDS);
    const { stalls, errors, latency, mediaError } = await pageState(page);
    const fatal = errors.filter((error) => error.fatal).length;
    const wrong = [];
    if (fatal > 0 || mediaError) wrong.push(`the player broke: ${JSON.stringify(errors)} ${mediaError ?? ''}`);
    if (page.problems.length > 0) wrong.push(page.problems.join('; '));
    if (end.advanced < LAST_SECONDS * 0.6) wrong.push(`played ${end.advanced.toFixed(1)} s of the last ${LAST_SECONDS} s`);
    if (latency !== null && latency > MOST_LATENCY) wrong.push(`${latency.toFixed(1)} s behind live`);
    return { name, stalls, fatal, watched: (Date.now() - joined) / 1000, advanced: end.advanced, frames: end.frames, latency, wrong };
  } finally {
    await page?.close();
    await client.stop();
  }
}

async function main(text) {
  const gateway = await Gateway.start();
  const browser = await launch();
  const rows = [];
  console.log('| case | stalls | fatal errors | played of the last 2.5 s | behind live s | |\n|---|---|---|---|---|---|');
  try {
    for (const [index, one] of (await cases()).filter(({ name }) => name.includes(text)).entries()) {
      const row = await play(browser, gateway, one, `players-${index}`).catch((error) => ({ name: one.name, stalls: '-', fatal: '-', wrong: [error.message] }));
      rows.push(row);
      if (row.wrong[0]?.includes('manifestIncompatibleCodecsError')) row.wrong = [];
      const verdict = row.wrong.length ? row.wrong.join('; ') : row.fatal === '-' ? 'not a codec of this browser' : 'good';
      console.log(`| ${row.name} | ${row.stalls} | ${row.fatal} | ${row.advanced?.toFixed(1) ?? '-'} | ${row.latency?.toFixed(2) ?? '-'} | ${verdict} |`);
    }
  } finally {
    await browser.close();
    await gateway.stop();
  }
  if (rows.some(({ wrong }) => wrong.length)) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv[2] ?? '');
