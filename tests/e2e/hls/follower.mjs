// A low-latency viewer that forgets nothing: every state of a media playlist as full text and now and then as delta
// update, and every init segment, part and segment with the times they were asked for and arrived.
import { mediaPlaylist } from './playlist.mjs';

const now = () => performance.timeOrigin + performance.now();

/** Asks and reads to the end. `at` are milliseconds since 1970. */
export async function ask(address, options = {}) {
  const asked = now();
  const response = await fetch(address, { signal: AbortSignal.timeout(30_000), ...options });
  const headersAt = now();
  const body = Buffer.from(await response.arrayBuffer());
  return { url: String(address), status: response.status, headers: response.headers, body, asked, headersAt, at: now() };
}

export class Follower {
  constructor(address) {
    this.address = new URL(address);
    /** Full playlists, in the order of arrival. */
    this.states = [];
    /** Pairs of a delta update and a full playlist of the same query. */
    this.deltas = [];
    /** Media by URI. */
    this.media = new Map();
    /** Answers that were not 200. */
    this.refused = [];
    this.stopped = false;
    this.loads = new Set();
    this.done = this.#run();
    this.done.catch(() => {});
  }

  get last() {
    return this.states.at(-1);
  }

  #playlist(query) {
    return ask(new URL(query, this.address));
  }

  #load(uri, kind) {
    if (this.media.has(uri)) return;
    const entry = { uri, kind };
    this.media.set(uri, entry);
    const load = ask(new URL(uri, this.address)).then((answer) => Object.assign(entry, answer));
    this.loads.add(load.catch((error) => Object.assign(entry, { status: 0, error })));
  }

  #see(answer) {
    const state = { ...mediaPlaylist(answer.body.toString()), answer };
    this.states.push(state);
    for (const segment of [...state.segments, ...(state.openSegment ? [state.openSegment] : [])]) {
      if (segment.gap) continue;
      if (segment.map) this.#load(segment.map.uri, 'init');
      for (const part of segment.parts) this.#load(part.uri, part.hint ? 'hinted part' : 'part');
      if (segment.uri) this.#load(segment.uri, 'segment');
    }
    return state;
  }

  async #run() {
    let query = '?_HLS_msn=0&_HLS_part=0';
    let turn = 0;
    while (!this.stopped) {
      const both = turn % 5 === 4 ? [query, `${query}&_HLS_skip=YES`] : [query];
      turn += 1;
      let answer;
      let delta;
      try {
        [answer, delta] = await Promise.all(both.map((query) => this.#playlist(query)));
      } catch (error) {
        answer = { status: 0, error };
      }
      if (answer.status !== 200) {
        this.refused.push(answer);
        // Whoever is refused begins again at what there is.
        query = this.last ? '' : query;
        await new Promise((resolve) => setTimeout(resolve, 200));
        continue;
      }
      const state = this.#see(answer);
      if (delta?.status === 200) this.deltas.push({ full: state, delta: delta.body.toString() });
      if (state.ended) break;
      query = `?_HLS_msn=${state.next.msn}&_HLS_part=${state.next.part}`;
    }
    await Promise.all(this.loads);
  }

  async stop() {
    this.stopped = true;
    await this.done;
  }

  /** Every complete segment that was ever listed, with its media, in the order of media sequence numbers. */
  segments() {
    const all = new Map();
    for (const { segments } of this.states) {
      for (const segment of segments) {
        const known = all.get(segment.mediaSequenceNumber);
        // Parts leave the playlist before their segment does.
        if (!known || segment.parts.length > known.parts.length) all.set(segment.mediaSequenceNumber, segment);
      }
    }
    return [...all.values()].sort((a, b) => a.mediaSequenceNumber - b.mediaSequenceNumber);
  }

  /** Every part that was ever listed, oldest first. */
  parts() {
    const all = new Map();
    for (const state of this.states) {
      const segments = [...state.segments, ...(state.openSegment ? [state.openSegment] : [])];
      for (const segment of segments) {
        segment.parts.forEach((part, index) => {
          if (!part.hint && !all.has(part.uri)) all.set(part.uri, { ...part, msn: segment.mediaSequenceNumber, index, listedAt: state.answer.at, map: segment.map });
        });
      }
    }
    return [...all.values()];
  }
}
