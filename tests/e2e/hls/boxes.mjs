// What the media boxes of a capture say, read by mp4-atom (`whipgate-publisher boxes`).
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { publisherBinary, run } from '../gateway.mjs';

/** Runs `use` with a folder that is gone afterwards. */
export async function inFolder(use) {
  const folder = await mkdtemp(path.join(tmpdir(), 'whipgate-hls-'));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * The boxes of byte strings, each of them one file: top-level boxes with what `moov` says of tracks and `moof` of
 * fragments.
 */
export function boxes(...files) {
  return inFolder(async (folder) => {
    const names = await Promise.all(files.map(async (bytes, index) => {
      const name = path.join(folder, `${index}.mp4`);
      await writeFile(name, bytes);
      return name;
    }));
    return JSON.parse(await run(publisherBinary, ['boxes', ...names]));
  });
}

/**
 * Init segment and media of each segment, and of each part, as boxes: `init` is the track, `parts` the fragment of each
 * part in order, `segments` the fragments of each segment.
 */
export async function dissect(follower) {
  const { media } = follower;
  const inits = [...media.values()].filter(({ kind }) => kind === 'init');
  const dissected = { inits: new Map(), parts: new Map(), segments: new Map() };
  for (const init of inits) {
    const parts = follower.parts().filter(({ map }) => map?.uri === init.uri);
    const segments = follower.segments().filter(({ map, gap }) => !gap && map?.uri === init.uri);
    const files = [
      ...parts.map(({ uri }) => [uri, dissected.parts]),
      ...segments.map(({ uri }) => [uri, dissected.segments]),
    ];
    const all = await boxes(init.body, ...files.map(([uri]) => Buffer.concat([init.body, media.get(uri).body])));
    dissected.inits.set(init.uri, all[0]);
    files.forEach(([uri, into], index) => into.set(uri, all[index + 1].slice(all[0].length)));
  }
  return dissected;
}

/** The fragments of top-level boxes, in order. */
export const fragments = (top) => top.flatMap(({ fragments }) => fragments ?? []);
