// Playlists as an independent parser (hls-parser) reads them, with everything it complains about.
import HLS from 'hls-parser';

// What the parser holds against playlists that RFC 8216bis permits; each is judged by a test of its own.
const PERMITTED = [
  // Section 4.4.4.9 excepts parts before an independent one as well.
  /must have a duration of at least 85% of PART-TARGET/,
  // Section 6.2.2 counts target durations; the parser counts segments, which may be shorter.
  /Remove EXT-X-PART tags from the Playlist/,
];

/** Names and values of an attribute list, in order. */
export function attributes(text) {
  return [...text.matchAll(/([A-Z0-9-]+)=("[^"]*"|[^,"]*)(?:,|$)/g)].map(([, name, value]) => [name, value.replaceAll('"', '')]);
}

/** The value of a tag, `''` for one without, `undefined` when it is not there. */
export function tag(text, name) {
  const line = text.split('\n').find((line) => line === `#${name}` || line.startsWith(`#${name}:`));
  return line?.slice(name.length + 2);
}

/** What a playlist says, and the parser's complaints in `problems`. */
export function parse(text) {
  const problems = [];
  const said = console.error;
  console.error = (message) => problems.push(String(message));
  let playlist;
  try {
    playlist = HLS.parse(text);
  } catch (error) {
    problems.push(error.message);
  } finally {
    console.error = said;
  }
  return { playlist, problems: problems.filter((problem) => !PERMITTED.some((permitted) => permitted.test(problem))) };
}

/**
 * A media playlist: `segments` are the complete ones, `open` are the parts of the one in progress, `hint` is the part to
 * come and `next` what a blocking reload asks for. In a delta update the first segments are missing.
 */
export function mediaPlaylist(text) {
  const { playlist, problems } = parse(text);
  const listed = playlist?.segments ?? [];
  const segments = listed.filter(({ uri }) => uri);
  const last = listed.at(-1);
  const tail = last && !last.uri ? last.parts : [];
  // The parser forgets the map in force for the segment in progress.
  if (last && !last.uri) last.map ??= segments.at(-1)?.map;
  const open = tail.filter(({ hint }) => !hint);
  const first = playlist.mediaSequenceBase ?? 0;
  const following = first + (playlist.skip ?? 0) + segments.length;
  return {
    text,
    problems,
    playlist,
    segments,
    open,
    openSegment: last && !last.uri ? last : undefined,
    hint: tail.find(({ hint }) => hint)?.uri,
    first,
    /** Media sequence number of the segment in progress, or of the one to come. */
    following,
    next: { msn: following, part: open.length },
    target: playlist.targetDuration,
    partTarget: playlist.partTargetDuration,
    ended: Boolean(playlist.endlist),
  };
}

/** All parts that are listed, oldest first, each with its segment's media sequence number and index. */
export function listedParts(state) {
  const all = [...state.segments, ...(state.openSegment ? [state.openSegment] : [])];
  return all.flatMap((segment) =>
    segment.parts.filter(({ hint }) => !hint).map((part, index) => ({ ...part, msn: segment.mediaSequenceNumber, index, last: Boolean(segment.uri) && index === segment.parts.length - 1 })));
}
