// Low-latency HLS to the letter: a test per requirement, on what five live publishers made of one gateway in 40 s. Each
// playlist was followed part by part; playlists are read by hls-parser, media by mp4-atom and FFmpeg. Sections are those
// of RFC 8216bis.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { ffmpegPublish, publisher } from './clients.mjs';
import { Gateway, until } from './gateway.mjs';
import { dissect, fragments, inFolder } from './hls/boxes.mjs';
import { Follower, ask } from './hls/follower.mjs';
import { attributes, listedParts, mediaPlaylist, parse, tag } from './hls/playlist.mjs';
import { decodesCleanly } from './media.mjs';

const SECONDS = 40;
/** Hundredths of a millisecond are what playlists show. */
const SHOWN = 5.1e-6;
const settings = { 'hls.window': '14s' };

let gateway;
let dataDir;
const publishers = {};
/** Followers by session and rendition, and what their media is made of. */
const followed = {};
const dissected = {};
/** The multivariant playlists at the end of the recording. */
const indexes = {};
/** A request for a part of a publisher that had just been killed. */
let unanswered;

const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const address = (session, rendition) => new URL(`${rendition}/index.m3u8`, gateway.hls(session));
const demo = (session, size, ...more) => publisher('demo', '--url', gateway.whip(session), '--size', size, '--kbps', 700, '--seconds', 150, ...more);

// A suite of its own: the publications begin when its tests do, and not with those of other files.
describe('low-latency HLS, row by row', () => {
  before(async () => {
    dataDir = await mkdtemp(path.join(tmpdir(), 'whipgate-e2e-'));
    gateway = await Gateway.start({ dataDir, settings });
    // A keyframe each second; the WHIP muxer of FFmpeg; keyframes each 8 s whatever is asked for; sound alone; one that is
    // killed and comes back with other pictures.
    publishers.keyframes = demo('keyframes', '640x360', '--keyframe-every', 30);
    publishers.ffmpeg = await ffmpegPublish(gateway.whip('ffmpeg'), 150);
    publishers.rare = demo('rare', '640x360', '--codec', 'vp9', '--keyframe-every', 240, '--ignore-keyframe-requests');
    publishers.sound = publisher('publish', '--url', gateway.whip('sound'), '--seconds', 150, '--no-video');
    publishers.again = demo('again', '640x360', '--keyframe-every', 60);
    for (const session of Object.keys(publishers)) {
      const renditions = session === 'sound' ? ['audio'] : ['video', 'audio'];
      await until(`${session} is live`, async () => (await gateway.json(`/api/sessions/${session}`)).state === 'live', 15);
      followed[session] = Object.fromEntries(renditions.map((rendition) => [rendition, new Follower(address(session, rendition))]));
    }
    const began = Date.now();
    await wait(10);
    await publishers.again.stop('SIGKILL');
    await wait(0.5);
    const { next } = followed.again.video.last;
    // What is still in hand is listed after a second without more.
    unanswered = await ask(new URL(`?_HLS_msn=${next.msn}&_HLS_part=${next.part + 5}`, address('again', 'video')));
    publishers.again = demo('again', '480x270', '--keyframe-every', 60);
    await until('it is back', async () => {
      if (!publishers.again.running) throw new Error(publishers.again.output);
      return (await gateway.json('/api/sessions/again')).state === 'live';
    }, 10);
    await wait(SECONDS - (Date.now() - began) / 1000);
    for (const session of Object.keys(followed)) indexes[session] = await ask(gateway.hls(session));
    await Promise.all(all().map(([, follower]) => follower.stop()));
    for (const [name, follower] of all()) dissected[name] = await dissect(follower);
  }, { timeout: 180_000 });

  after(async () => {
    await Promise.all(Object.values(publishers).map((process) => process.stop('SIGKILL')));
    await gateway?.stop();
    if (dataDir) await rm(dataDir, { recursive: true, force: true });
  });

  /** All followers with their names. */
  const all = () => Object.entries(followed).flatMap(([session, renditions]) =>
    Object.entries(renditions).map(([rendition, follower]) => [`${session}/${rendition}`, follower]));

  /** Fails with everything that `find` finds, over all playlists that were followed. */
  function everywhere(find) {
    const problems = [];
    let looked = 0;
    for (const [name, follower] of all()) {
      const count = find(follower, (problem) => problems.push(`${name}: ${problem}`), name);
      looked += count ?? 1;
    }
    assert.deepEqual(problems.slice(0, 20), [], `${problems.length} problems`);
    assert.ok(looked > 0);
  }

  /** The state of a live playlist now. */
  async function playlist(session, rendition = 'video', query = '') {
    const answer = await ask(new URL(query, address(session, rendition)));
    assert.equal(answer.status, 200, answer.body.toString());
    return { ...mediaPlaylist(answer.body.toString()), answer };
  }

  /** Number of ticks per second of a segment's or part's media. */
  const timescale = (name, map) => dissected[name].inits.get(map.uri).find(({ tracks }) => tracks).tracks[0].timescale;

  test('H1 playlists are UTF-8 of their type, parse without a complaint, and say nothing twice', () => {
    everywhere((follower, problem) => {
      assert.ok(follower.states.length > 100, `${follower.states.length} states`);
      const texts = [...follower.states.map(({ answer, text }) => ({ answer, text })), ...follower.deltas.map(({ delta }) => ({ text: delta }))];
      for (const { answer, text } of texts) {
        if (answer) {
          new TextDecoder('utf-8', { fatal: true }).decode(answer.body);
          if (answer.headers.get('content-type') !== 'application/vnd.apple.mpegurl') problem(answer.headers.get('content-type'));
        }
        mediaPlaylist(text).problems.forEach(problem);
        if (!text.startsWith('#EXTM3U\n') || !text.endsWith('\n') || /\r|\n\n|\0/.test(text)) problem(`not lines: ${text}`);
        const once = ['EXT-X-VERSION', 'EXT-X-TARGETDURATION', 'EXT-X-SERVER-CONTROL', 'EXT-X-PART-INF', 'EXT-X-MEDIA-SEQUENCE', 'EXT-X-DISCONTINUITY-SEQUENCE', 'EXT-X-INDEPENDENT-SEGMENTS', 'EXT-X-SKIP', 'EXT-X-ENDLIST', 'EXT-X-PRELOAD-HINT'];
        const lines = text.split('\n');
        for (const name of once) {
          if (lines.filter((line) => line === `#${name}` || line.startsWith(`#${name}:`)).length > 1) problem(`${name} twice`);
        }
        const uris = lines.filter((line) => line && !line.startsWith('#'));
        if (new Set(uris).size !== uris.length) problem('a segment twice');
        for (const line of lines.filter((line) => /^#EXT[A-Z-]+:.*=/.test(line) && !line.startsWith('#EXTINF'))) {
          const names = attributes(line.slice(line.indexOf(':') + 1)).map(([name]) => name);
          if (new Set(names).size !== names.length) problem(`an attribute twice: ${line}`);
        }
      }
    });
    for (const { headers, body } of Object.values(indexes)) {
      assert.equal(headers.get('content-type'), 'application/vnd.apple.mpegurl');
      const { playlist, problems } = parse(body.toString());
      assert.deepEqual(problems, []);
      assert.ok(playlist.isMasterPlaylist);
    }
  });

  /** The lowest version that covers what a media playlist says (section 8). */
  const version = (text) => (text.includes('#EXT-X-SKIP:') ? 9 : text.includes('#EXT-X-GAP') ? 8 : 6);

  test('H2 the version is the lowest that covers the tags', () => {
    everywhere((follower, problem) => {
      for (const text of [...follower.states.map(({ text }) => text), ...follower.deltas.map(({ delta }) => delta)]) {
        if (Number(tag(text, 'EXT-X-VERSION')) !== version(text)) problem(`${tag(text, 'EXT-X-VERSION')}: ${text}`);
      }
    });
    for (const { body } of Object.values(indexes)) assert.ok(Number(tag(body.toString(), 'EXT-X-VERSION') ?? 1) <= 4);
  });

  test('H3 EXTINF, rounded, is within a target duration that never changes and is the same in all renditions', () => {
    const targets = new Set();
    everywhere((follower, problem) => {
      for (const { target, segments } of follower.states) {
        targets.add(target);
        for (const { duration, uri } of segments) if (Math.round(duration) > target) problem(`${uri} has ${duration} s`);
      }
    });
    assert.deepEqual([...targets], [2]);
  });

  test('H4 media sequence numbers rise by one for each segment that leaves, and what is listed never changes', () => {
    everywhere((follower, problem) => {
      const known = new Map();
      let before;
      for (const state of follower.states) {
        if (before && state.first < before.first) problem(`media sequence ${before.first} -> ${state.first}`);
        if (before && state.following < before.following) problem(`the end went back from ${before.following} to ${state.following}`);
        before = state;
        for (const { parts, ...segment } of state.segments) {
          const seen = JSON.stringify([segment.uri, segment.duration, segment.map?.uri, segment.discontinuity, segment.programDateTime, segment.gap]);
          const last = known.get(segment.mediaSequenceNumber) ?? seen;
          if (seen !== last) problem(`segment ${segment.mediaSequenceNumber} was ${last} and is ${seen}`);
          known.set(segment.mediaSequenceNumber, seen);
        }
      }
      if (follower.last.first === 0) problem('nothing was ever removed');
    });
  });

  test('H5 nothing is removed that leaves less than three target durations, or the window', () => {
    everywhere((follower, problem) => {
      for (const { first, segments, target } of follower.states) {
        const listed = segments.reduce((sum, { duration }) => sum + duration, 0);
        if (first > 0 && listed < Math.max(3 * target, 14)) problem(`${listed} s are left from ${first} on`);
      }
    });
  });

  test('H6 what left the playlist can be fetched for its time', async () => {
    await Promise.all([['keyframes', 'video'], ['sound', 'audio']].map(async ([session, rendition]) => {
      const gone = new Map();
      let longest = 0;
      let before = await playlist(session, rendition);
      const until = Date.now() + 6000;
      while (Date.now() < until) {
        const now = await playlist(session, rendition, `?_HLS_msn=${before.next.msn}&_HLS_part=${before.next.part}`);
        longest = Math.max(longest, now.segments.reduce((sum, { duration }) => sum + duration, 0));
        for (const segment of before.segments) {
          if (segment.mediaSequenceNumber < now.first) gone.set(segment.uri, now.answer.at + (segment.duration + longest) * 1000);
        }
        const parts = new Set(listedParts(now).map(({ uri }) => uri));
        for (const { uri } of listedParts(before)) if (!parts.has(uri)) gone.set(uri, now.answer.at + 3 * now.target * 1000);
        before = now;
      }
      assert.ok([...gone.keys()].some((uri) => /-s\d/.test(uri)) && [...gone.keys()].some((uri) => /-p\d/.test(uri)), `${[...gone.keys()]}`);
      // Parts are asked for shortly before their time is over, and nobody waits for segments, which have far longer.
      const ends = [...gone.values()].filter((end) => end > Date.now() + 1000);
      await wait(Math.max(0, Math.min(...ends) - 500 - Date.now()) / 1000);
      for (const [uri, end] of gone) {
        const { status, at } = await ask(new URL(uri, address(session, rendition)));
        if (at < end) assert.equal(status, 200, `${uri} is gone ${(end - at) / 1000} s before its time`);
      }
    }));
  });

  test('H7 the next part comes within one PART-TARGET and the next segment within one and a half target durations', (t) => {
    everywhere((follower, problem, name) => {
      // The one that was killed kept everybody waiting.
      if (name.startsWith('again/')) return 0;
      const target = follower.last.partTarget * 1000;
      const arrivals = follower.parts().map(({ listedAt }) => listedAt);
      const distances = arrivals.slice(1).map((at, index) => at - arrivals[index]);
      const late = distances.filter((distance) => distance > target + 100);
      const sorted = [...distances].sort((a, b) => a - b);
      t.diagnostic(`${name}: parts ${sorted[sorted.length >> 1].toFixed(0)} ms apart, p99 ${sorted[Math.floor(sorted.length * 0.99)].toFixed(0)} ms, most ${sorted.at(-1).toFixed(0)} ms`);
      // Everything here shares a small machine with its publishers.
      if (late.length > distances.length / 50) problem(`${late.length} of ${distances.length} parts came late: ${late.map(Math.round)}`);
      let listed;
      let following;
      for (const state of follower.states) {
        if (following !== undefined && state.following > following && listed !== undefined && state.answer.at - listed > 1.5 * state.target * 1000 + 100) {
          problem(`segment ${following} came ${state.answer.at - listed} ms after the one before`);
        }
        if (state.following !== following) listed = state.answer.at;
        following = state.following;
      }
    });
  });

  test('H8 a publisher that comes back is a discontinuity with a map of its own, counted in both renditions alike', () => {
    const seen = {};
    for (const [rendition, follower] of Object.entries(followed.again)) {
      const segments = follower.segments();
      const after = segments.filter(({ discontinuity }) => discontinuity);
      assert.equal(after.length, 1, rendition);
      const [first] = after;
      const index = segments.indexOf(first);
      // Sound is as it was; pictures are of another size.
      if (rendition === 'video') assert.notEqual(first.map.uri, segments[index - 1].map.uri);
      seen[rendition] = { number: first.discontinuitySequence, date: first.programDateTime.getTime() };
      let counted = 0;
      for (const state of follower.states) {
        const text = state.text.split('\n');
        const at = text.indexOf('#EXT-X-DISCONTINUITY');
        if (at >= 0) assert.match(text[at + 1], /^#EXT-X-MAP:/);
        const base = Number(tag(state.text, 'EXT-X-DISCONTINUITY-SEQUENCE'));
        assert.equal(base, state.first > first.mediaSequenceNumber ? 1 : 0, state.text);
        counted += base;
      }
      assert.ok(counted > 0, 'the discontinuity never left the playlist');
      // Nothing goes on over a change of init segment without one.
      for (let i = 1; i < segments.length; i += 1) {
        assert.ok(segments[i].map.uri === segments[i - 1].map.uri || segments[i].discontinuity, segments[i].uri);
      }
    }
    assert.equal(seen.video.number, seen.audio.number);
    assert.ok(Math.abs(seen.video.date - seen.audio.date) < 500, JSON.stringify(seen));
    everywhere((follower, problem, name) => {
      if (!name.startsWith('again/') && follower.states.some(({ text }) => text.includes('#EXT-X-DISCONTINUITY\n'))) problem('has a discontinuity');
    });
  });

  test('H9 no playlist type while it slides; at the end ENDLIST, no hint, and directives that change nothing', async () => {
    everywhere((follower, problem) => {
      for (const { text } of follower.states) if (/PLAYLIST-TYPE|ENDLIST/.test(text)) problem(text);
    });
    const ends = Object.keys(followed.again).map((rendition) => new Follower(address('again', rendition)));
    await until('they follow', () => ends.every(({ states }) => states.length > 3), 5);
    const stopped = Date.now();
    await publishers.again.stop();
    await Promise.all(ends.map(({ done }) => done));
    assert.ok(Date.now() - stopped < 3000, `ended after ${Date.now() - stopped} ms`);
    for (const follower of ends) {
      const { text, answer, hint, segments } = follower.last;
      assert.match(text, /#EXT-X-ENDLIST\n$/);
      assert.equal(hint, undefined, text);
      assert.doesNotMatch(text, /RENDITION-REPORT|PRELOAD-HINT/);
      const last = segments.at(-1).mediaSequenceNumber;
      for (const query of ['', `?_HLS_msn=${last + 1}&_HLS_part=0`, `?_HLS_msn=${last + 100}`, '?_HLS_msn=0&_HLS_part=999999', '?_HLS_skip=YES', `?_HLS_msn=${last}&_HLS_skip=v2`]) {
        const again = await ask(new URL(query, follower.address));
        assert.equal(again.status, 200, query);
        assert.equal(again.body.toString(), answer.body.toString(), query);
        assert.ok(again.at - again.asked < 500, `${query}: ${again.at - again.asked} ms`);
      }
      // The hint before the end never came.
      const hinted = follower.states.findLast((state) => state.hint).hint;
      const parts = new Set(follower.parts().map(({ uri }) => uri));
      if (!parts.has(hinted)) assert.equal(follower.media.get(hinted).status, 404);
    }
  });

  test('H10 what is listed is there, whole and at once', () => {
    everywhere((follower, problem) => {
      const parts = new Set(follower.parts().map(({ uri }) => uri));
      const slow = [];
      for (const media of follower.media.values()) {
        if (media.kind === 'hinted part' && !parts.has(media.uri)) continue;
        if (media.status !== 200) problem(`${media.kind} ${media.uri}: ${media.status} ${media.error ?? ''}`);
        else if (Number(media.headers.get('content-length')) !== media.body.length) problem(`${media.uri}: ${media.body.length} bytes of ${media.headers.get('content-length')}`);
        else {
          // From the first byte on, at the speed of the link.
          if (media.at - media.headersAt > 100) slow.push(Math.round(media.at - media.headersAt));
          if (media.kind !== 'hinted part' && media.at - media.asked > 1000) problem(`${media.uri} took ${media.at - media.asked} ms`);
        }
      }
      if (slow.length > follower.media.size / 50) problem(`${slow.length} of ${follower.media.size} were slow: ${slow} ms`);
      if (follower.media.size < 150) problem(`only ${follower.media.size} pieces of media`);
    });
  });

  test('H11 PROGRAM-DATE-TIME is on each segment, in step with the media, the same in both renditions, and true to the clock', (t) => {
    /** Wall-clock milliseconds at media time 0 of each discontinuity sequence number, by rendition. */
    const origins = {};
    everywhere((follower, problem, name) => {
      const segments = follower.segments();
      const dates = new Map();
      for (const [index, segment] of segments.entries()) {
        const { programDateTime: date, uri, discontinuity } = segment;
        if (!date || Number.isNaN(date.getTime())) return problem(`${uri} has no date`);
        const line = follower.states.find(({ text }) => text.includes(`\n${uri}\n`)).text;
        if (!/PROGRAM-DATE-TIME:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\n/.test(line)) problem(`no milliseconds or time zone: ${line}`);
        dates.set(segment.mediaSequenceNumber, date.getTime());
        const before = segments[index - 1];
        if (before && !discontinuity && Math.abs(date - before.programDateTime - before.duration * 1000) > 2) {
          problem(`${uri} begins ${date - before.programDateTime} ms after the one before, which has ${before.duration} s`);
        }
        if (before && date - before.programDateTime < before.duration * 1000 - 50) problem(`${uri} overlaps the one before`);
        const first = fragments(dissected[name].segments.get(uri))[0];
        const origin = date.getTime() - (first.presentation_time / timescale(name, segment.map)) * 1000;
        const key = `${name.split('/')[0]} ${segment.map.uri.split('-')[0]} ${segment.discontinuitySequence}`;
        ((origins[key] ??= {})[name.split('/')[1]] ??= []).push(origin);
      }
      // What is listed has just happened.
      const at = new Map();
      const ages = follower.parts().filter(({ msn }) => dates.has(msn)).map(({ msn, duration, listedAt }) => {
        const begin = at.get(msn) ?? dates.get(msn);
        at.set(msn, begin + duration * 1000);
        return listedAt - begin - duration * 1000;
      }).slice(5).sort((a, b) => a - b);
      t.diagnostic(`${name}: parts end ${ages[ages.length >> 1].toFixed(0)} ms (p95 ${ages[Math.floor(ages.length * 0.95)].toFixed(0)} ms) before they are listed`);
      // FFmpeg's -re makes up for the time it was connecting by 5 % a second: its media gets ahead of the clock it began with.
      const ahead = name.startsWith('ffmpeg/') ? 1500 : 300;
      if (ages[0] < -ahead || ages[ages.length >> 1] > 300) problem(`ages from ${ages[0]} ms, median ${ages[ages.length >> 1]} ms`);
    });
    for (const [key, renditions] of Object.entries(origins)) {
      const values = Object.values(renditions).flat();
      const spread = Math.max(...values) - Math.min(...values);
      assert.ok(spread <= 3, `${key}: media time 0 is at times ${spread} ms apart, ${JSON.stringify(renditions)}`);
    }
  });

  test('H12 init segments are ftyp and moov without samples; each traf has its tfdt and default-base-is-moof', () => {
    everywhere((follower, problem, name) => {
      const { inits, parts, segments } = dissected[name];
      for (const [uri, top] of inits) {
        if (top.map(({ kind }) => kind).join() !== 'ftyp,moov') problem(`${uri}: ${top.map(({ kind }) => kind)}`);
        const { tracks } = top[1];
        if (tracks.length !== 1 || tracks[0].samples !== 0 || !tracks[0].extended) problem(JSON.stringify(tracks));
      }
      for (const [uri, top] of [...parts, ...segments]) {
        const kinds = top.map(({ kind }) => kind).join();
        if (!/^((styp,|prft,)*moof,mdat(,|$))+$/.test(kinds)) problem(`${uri}: ${kinds}`);
        for (const { fragments: each } of top.filter(({ fragments }) => fragments)) {
          if (each.length !== 1) problem(`${uri}: ${each.length} tracks`);
          const [{ decode_time: decodeTime, default_base_is_moof: base, base_data_offset: offset, samples }] = each;
          if (decodeTime === null || !base || offset || samples === 0) problem(`${uri}: ${JSON.stringify(each)}`);
        }
      }
      return parts.size;
    });
  });

  test('H13 INDEPENDENT-SEGMENTS is said where every segment begins with a sync sample, and only there', () => {
    const said = {};
    everywhere((follower, problem, name) => {
      for (const { text, segments, playlist } of follower.states) {
        const begins = segments.filter(({ gap }) => !gap).map(({ uri }) => fragments(dissected[name].segments.get(uri))[0].starts_with_sync);
        if (playlist.independentSegments && begins.includes(false)) problem(`a segment without a keyframe: ${text}`);
      }
      said[name] = follower.last.playlist.independentSegments;
    });
    assert.deepEqual(said, {
      'keyframes/video': true, 'keyframes/audio': true, 'ffmpeg/video': true, 'ffmpeg/audio': true, 'rare/video': false, 'rare/audio': true,
      'sound/audio': true, 'again/video': true, 'again/audio': true,
    });
  });

  test('H14 decode times are continuous to the tick, and EXTINF and DURATION are what the media has', () => {
    everywhere((follower, problem, name) => {
      let next;
      for (const segment of follower.segments()) {
        const each = fragments(dissected[name].segments.get(segment.uri));
        const scale = timescale(name, segment.map);
        if (next !== undefined && !segment.discontinuity && each[0].decode_time !== next) problem(`${segment.uri} begins ${each[0].decode_time - next} ticks late`);
        for (const [index, fragment] of each.entries()) {
          if (index > 0 && fragment.decode_time !== next) problem(`${segment.uri}: a gap of ${fragment.decode_time - next} ticks`);
          next = fragment.decode_time + fragment.duration;
        }
        const ticks = each.reduce((sum, { duration }) => sum + duration, 0);
        if (Math.abs(segment.duration - ticks / scale) > SHOWN) problem(`${segment.uri}: ${segment.duration} s listed, ${ticks}/${scale} s in it`);
      }
      for (const { uri, duration, map } of follower.parts()) {
        const ticks = fragments(dissected[name].parts.get(uri)).reduce((sum, { duration }) => sum + duration, 0);
        if (Math.abs(duration - ticks / timescale(name, map)) > SHOWN) problem(`${uri}: ${duration} s listed, ${ticks} ticks in it`);
      }
      return follower.parts().length;
    });
  });

  test('H15 parts are within 85 and 100 % of PART-TARGET but where they may be shorter, and are their segment', (t) => {
    everywhere((follower, problem, name) => {
      const { media } = follower;
      const parts = follower.parts();
      for (const state of follower.states) {
        const listed = listedParts(state);
        for (const [index, part] of listed.entries()) {
          if (part.duration > state.partTarget + 1e-9) problem(`${part.uri} has ${part.duration} s of ${state.partTarget} s`);
          const next = listed[index + 1];
          const mayBeShort = part.last || !next || next.msn !== part.msn || next.independent;
          if (part.duration < 0.85 * state.partTarget && !mayBeShort) problem(`${part.uri} has ${part.duration} s of ${state.partTarget} s`);
        }
      }
      for (const { uri, independent } of parts) {
        const { starts_with_sync: sync } = fragments(dissected[name].parts.get(uri))[0];
        if (Boolean(independent) !== sync) problem(`${uri}: INDEPENDENT ${independent}, sync ${sync}`);
      }
      let compared = 0;
      for (const segment of follower.segments().filter(({ parts }) => parts.length > 0)) {
        const bodies = segment.parts.map(({ uri }) => media.get(uri).body);
        if (!Buffer.concat(bodies).equals(media.get(segment.uri).body)) problem(`${segment.uri} is not its parts`);
        compared += 1;
      }
      if (compared < 10) problem(`${compared} segments with parts`);
      const targets = [...new Set(follower.states.map(({ partTarget }) => partTarget))];
      t.diagnostic(`${name}: PART-TARGET ${targets}, ${parts.length} parts, ${compared} segments compared`);
    });
  });

  test('H16 HOLD-BACK, PART-HOLD-BACK and CAN-SKIP-UNTIL are far enough back, and the same in all renditions', () => {
    everywhere((follower, problem) => {
      for (const { text, target, partTarget } of follower.states) {
        const control = Object.fromEntries(attributes(tag(text, 'EXT-X-SERVER-CONTROL')));
        if (control['CAN-BLOCK-RELOAD'] !== 'YES') problem(text);
        if (Number(control['HOLD-BACK']) < 3 * target) problem(text);
        if (Number(control['CAN-SKIP-UNTIL']) < 6 * target) problem(text);
        if (Number(control['PART-HOLD-BACK']) < 3 * partTarget - 1e-9) problem(text);
      }
    });
    for (const renditions of Object.values(followed)) {
      const controls = Object.values(renditions).map(({ last }) => tag(last.text, 'EXT-X-SERVER-CONTROL'));
      assert.equal(new Set(controls).size, 1, controls.join('\n'));
    }
  });

  for (const [session, rendition] of [['keyframes', 'video'], ['ffmpeg', 'audio']]) {
    test(`H17 a reload blocks for a whole segment or a part, and answers at once for what is past (${session}/${rendition})`, async () => {
      const reload = (msn, part) => playlist(session, rendition, part === undefined ? `?_HLS_msn=${msn}` : `?_HLS_msn=${msn}&_HLS_part=${part}`);
      // A segment, as soon as it is complete and not before.
      let { following } = await playlist(session, rendition);
      let now = await reload(following);
      assert.equal(now.segments.at(-1).mediaSequenceNumber, following, now.text);
      assert.ok(now.open.length <= 1, 'the answer was late');
      // A part, as soon as it is there.
      let { next } = now;
      now = await reload(next.msn, next.part);
      assert.deepEqual([now.following, now.open.length], [next.msn, next.part + 1], now.text);
      // Past ones, at once, and whole.
      for (const past of [[0], [0, 0], [now.first], [now.following - 1], [now.following - 1, 0], [now.following - 2, 99_999]]) {
        const { text, answer } = await reload(...past);
        assert.ok(answer.at - answer.asked < 150, `${past}: ${answer.at - answer.asked} ms`);
        assert.doesNotMatch(text, /EXT-X-SKIP/);
        assert.ok(mediaPlaylist(text).segments.length >= 5);
      }
      // A part past the end of its segment is part 0 of the next one.
      now = await reload(following + 1);
      next = await reload(following + 1, 500);
      assert.ok(next.following > following + 1 && next.open.length >= 1, next.text);
      ({ next } = await reload(now.next.msn, 3));
      now = await reload(next.msn, next.part + 9);
      assert.deepEqual([now.following, now.open.length], [next.msn + 1, 1], now.text);
    });
  }

  test('H18 what is too far ahead or malformed is refused at once, and what does not come in time is 503', async () => {
    const { following, open, partTarget } = await playlist('keyframes');
    const limit = Math.floor(3 / partTarget);
    const bad = [
      `_HLS_msn=${following + 2}`, `_HLS_msn=${following + 3}`, `_HLS_msn=${following + 2}&_HLS_part=0`, '_HLS_msn=99999999999', '_HLS_msn=18446744073709551616',
      `_HLS_msn=${following}&_HLS_part=${open.length + 2 * limit}`, `_HLS_msn=${following + 1}&_HLS_part=${2 * limit}`,
      '_HLS_part=0', '_HLS_part=1', '_HLS_skip=YES&_HLS_part=1', '_HLS_msn=', '_HLS_msn', '_HLS_msn=x', '_HLS_msn=-1', '_HLS_msn=1.5', '_HLS_msn=0x1', '_HLS_msn=%31a',
      `_HLS_msn=${following}&_HLS_part=`, `_HLS_msn=${following}&_HLS_part=-1`, `_HLS_msn=${following}&_HLS_part=y`,
      `_HLS_msn=${following}&_HLS_msn=${following}`, '_HLS_skip=NO', '_HLS_skip=',
    ];
    for (const query of bad) {
      const { status, headers, body, asked, at } = await ask(new URL(`?${query}`, address('keyframes', 'video')));
      assert.equal(status, 400, `${query}: ${body}`);
      assert.ok(at - asked < 200, `${query}: ${at - asked} ms`);
      assert.equal(headers.get('content-type'), 'application/problem+json');
      assert.equal(headers.get('access-control-allow-origin'), '*');
      assert.equal(headers.get('cache-control'), 'no-store');
    }
    // Two segments after the last complete one, and parts within the limit, are waited for.
    const allowed = await playlist('keyframes', 'video', `?_HLS_msn=${(await playlist('keyframes')).following + 1}`);
    assert.ok(allowed.answer.at - allowed.answer.asked > 500);
    const now = await playlist('keyframes');
    const ahead = await playlist('keyframes', 'video', `?_HLS_msn=${now.following}&_HLS_part=${now.open.length + limit - 2}`);
    assert.ok(ahead.answer.at - ahead.answer.asked > 100);
    // The publisher had been killed: three target durations, and not the playlist of before.
    assert.equal(unanswered.status, 503, unanswered.body.toString());
    const blocked = (unanswered.at - unanswered.asked) / 1000;
    assert.ok(blocked > 5.5 && blocked < 8, `${blocked} s`);
    assert.match(unanswered.headers.get('retry-after'), /^\d+$/);
  });

  test('H19 a hinted part is waited for, comes whole, and is then listed; what is neither listed nor hinted is 404 at once', async () => {
    everywhere((follower, problem, name) => {
      const parts = follower.parts();
      let waited = 0;
      for (const state of follower.states.filter(({ hint }) => hint)) {
        const at = parts.findIndex(({ uri }) => uri === state.hint);
        const before = listedParts(state).at(-1)?.uri;
        if (at < 0) continue;
        if (before && parts[at - 1]?.uri !== before) problem(`${state.hint} was hinted after ${before} and is listed after ${parts[at - 1]?.uri}`);
        const media = follower.media.get(state.hint);
        if (media.kind !== 'hinted part') continue;
        // The playlist that lists it and the part itself come together.
        if (Math.abs(media.headersAt - parts[at].listedAt) > 150 && !name.startsWith('again/')) problem(`${state.hint} came ${media.headersAt - parts[at].listedAt} ms after it was listed`);
        if (media.headersAt - media.asked > 60) waited += 1;
      }
      if (waited < 50) problem(`${waited} hinted parts were waited for`);
    });
    const { hint, following, segments } = await playlist('keyframes');
    const [, key, number] = hint.match(/^(.+)-p(\d+)\.mp4$/);
    const unknown = [
      `${key}-p${Number(number) + 9}.mp4`, `${key}-p${Number(number) + 1000}.mp4`, `${key}-s${following + 1}.mp4`, `${key}-init-9.mp4`, `x${key}-p0.mp4`, `${key}-p01.mp4`,
      `${key}-p-1.mp4`, `${key}-s.mp4`, 'nothing.mp4', segments[0].uri.toUpperCase(), '../other/index.m3u8', '..%2f..%2fapi', 'index.m3u',
    ];
    for (const uri of unknown) {
      const { status, asked, at, headers } = await ask(new URL(uri, address('keyframes', 'video')));
      assert.equal(status, 404, uri);
      assert.ok(at - asked < 200, `${uri}: ${at - asked} ms`);
      assert.equal(headers.get('access-control-allow-origin'), '*', uri);
    }
  });

  /** A delta update as a player completes it from the playlist before. */
  function merged(delta, before) {
    const { playlist } = mediaPlaylist(delta);
    const known = new Map(before.segments.map((segment) => [segment.mediaSequenceNumber, segment]));
    const first = playlist.mediaSequenceBase;
    const skipped = Array.from({ length: playlist.skip }, (_, index) => known.get(first + index));
    return [...skipped, ...playlist.segments.filter(({ uri }) => uri)];
  }

  test('H20 a delta update skips what is old, has version 9, and completes the playlist before to the full one', () => {
    everywhere((follower, problem) => {
      let compared = 0;
      for (const { delta, full } of follower.deltas) {
        const skip = Number(attributes(tag(delta, 'EXT-X-SKIP') ?? '')[0]?.[1] ?? 0);
        const state = mediaPlaylist(delta);
        // One that was made a part later than the full one beside it is another state.
        if (state.following !== full.following || state.open.length !== full.open.length || state.first !== full.first) continue;
        const edge = full.segments.reduce((sum, { duration }) => sum + duration, 0) + full.open.reduce((sum, { duration }) => sum + duration, 0);
        let at = 0;
        const mayGo = full.segments.filter(({ duration }) => {
          at += duration;
          return edge - at > 6 * full.target;
        }).length;
        // The Skip Boundary counts from the end of the last complete segment or of the last part.
        if (skip > mayGo) problem(`${skip} skipped of ${mayGo}: ${delta}`);
        if (skip < mayGo - 1) problem(`only ${skip} skipped of ${mayGo}: ${delta}`);
        if (skip > 0 && tag(delta, 'EXT-X-VERSION') !== '9') problem(delta);
        if (skip === 0 && delta.includes('EXT-X-SKIP')) problem(delta);
        if (skip === 0) continue;
        const before = follower.states[follower.states.indexOf(full) - 1];
        const view = (segments) => JSON.stringify(segments.map((segment) => segment && [segment.uri, segment.duration, segment.map?.uri ?? null, segment.discontinuitySequence]));
        const whole = merged(delta, before);
        if (view(whole).replaceAll('null', '0') !== view(full.segments.map((segment, index) => ({ ...segment, map: whole[index]?.map, discontinuitySequence: whole[index]?.discontinuitySequence }))).replaceAll('null', '0')) {
          problem(`merged ${view(whole)}, full ${view(full.segments)}`);
        }
        // Everything after the skipped segments is there to the letter.
        const kept = delta.slice(delta.indexOf('#EXT-X-PROGRAM-DATE-TIME')).replace(/#EXT-X-RENDITION-REPORT.*\n/g, '');
        if (!full.text.replace(/#EXT-X-RENDITION-REPORT.*\n/g, '').endsWith(kept)) problem(`${delta} is not the end of ${full.text}`);
        compared += 1;
      }
      if (compared < 5) problem(`${compared} delta updates compared`);
      return compared;
    });
  });

  test('H21 each media playlist reports the last part of every other rendition', () => {
    for (const [session, renditions] of Object.entries(followed)) {
      for (const [rendition, follower] of Object.entries(renditions)) {
        const others = Object.keys(renditions).filter((other) => other !== rendition);
        let wrong = 0;
        for (const state of follower.states) {
          const reports = state.playlist.renditionReports;
          const uris = reports.map(({ uri }) => uri).sort();
          // A rendition whose publisher is just coming back has nothing to report yet.
          assert.deepEqual(uris, others.map((other) => `../${other}/index.m3u8`).sort(), state.text);
          for (const { uri, lastMSN, lastPart } of reports) {
            // What the other one listed at that moment.
            const other = renditions[uri.split('/')[1]];
            const at = other.states.findLastIndex(({ answer }) => answer.at <= state.answer.at);
            const around = other.states.slice(Math.max(0, at - 1), at + 3).map((state) => {
              const last = listedParts(state).at(-1);
              return last && `${last.msn}/${last.index}`;
            });
            if (at >= 0 && !around.includes(`${lastMSN}/${lastPart}`)) wrong += 1;
          }
        }
        assert.ok(wrong <= follower.states.length / 50, `${session}/${rendition}: ${wrong} of ${follower.states.length} reports are not what was listed`);
      }
    }
  });

  /** The largest and the average bit rate of segments (section 4.1): of all contiguous ones of 0.5 to 1.5 target durations. */
  function rates(follower) {
    const segments = follower.segments().map(({ uri, duration }) => ({ duration, bits: follower.media.get(uri).body.length * 8 }));
    let peak = 0;
    for (let from = 0; from < segments.length; from += 1) {
      let [bits, seconds] = [0, 0];
      for (let to = from; to < segments.length; to += 1) {
        bits += segments[to].bits;
        seconds += segments[to].duration;
        if (seconds > 3) break;
        if (seconds >= 1) peak = Math.max(peak, bits / seconds);
      }
    }
    const sum = (what) => segments.reduce((sum, segment) => sum + segment[what], 0);
    return { peak, average: sum('bits') / sum('duration') };
  }

  test('H22 the multivariant playlist says the peak and average that were measured, and exactly what is in the media', (t) => {
    for (const [session, renditions] of Object.entries(followed)) {
      const { playlist: index } = parse(indexes[session].body.toString());
      assert.equal(index.variants.length, 1);
      const [variant] = index.variants;
      const measured = Object.values(renditions).map(rates);
      const sum = (what) => measured.reduce((sum, rate) => sum + rate[what], 0);
      t.diagnostic(`${session}: BANDWIDTH ${variant.bandwidth}, measured ${sum('peak').toFixed(0)}; AVERAGE-BANDWIDTH ${variant.averageBandwidth}, measured ${sum('average').toFixed(0)}`);
      // Rounded down by less than a bit for each rendition.
      assert.ok(variant.bandwidth >= Math.floor(sum('peak')) - 2, `${session}: BANDWIDTH ${variant.bandwidth}, measured ${sum('peak')}`);
      assert.ok(variant.bandwidth <= sum('peak') * 1.05, `${session}: BANDWIDTH ${variant.bandwidth}, measured ${sum('peak')}`);
      assert.ok(Math.abs(variant.averageBandwidth / sum('average') - 1) < 0.05, `${session}: AVERAGE-BANDWIDTH ${variant.averageBandwidth}, measured ${sum('average')}`);
      const tracks = Object.entries(renditions).flatMap(([rendition, follower]) =>
        [...new Set(follower.last.segments.map(({ map }) => map.uri))].map((uri) => dissected[`${session}/${rendition}`].inits.get(uri)[1].tracks[0]));
      assert.deepEqual(variant.codecs.split(',').sort(), [...new Set(tracks.map(({ codec }) => codec))].sort(), session);
      const video = tracks.findLast(({ handler }) => handler === 'vide');
      if (!video) {
        assert.equal(variant.resolution, undefined);
        assert.equal(variant.uri, 'audio/index.m3u8');
        continue;
      }
      assert.deepEqual([variant.resolution.width, variant.resolution.height], video.size, session);
      assert.ok(Math.abs(variant.frameRate - 30) < 0.3, `${session}: FRAME-RATE ${variant.frameRate}`);
      assert.equal(variant.audio.length, 1);
      const [sound] = variant.audio;
      assert.deepEqual([sound.uri, sound.channels, sound.isDefault, sound.autoselect], ['audio/index.m3u8', '2', true, true]);
      assert.equal(tracks.find(({ handler }) => handler === 'soun').channels, 2);
    }
  });

  /** A request as bytes go over the wire: `fetch` would decode bodies and hide what `HEAD` sends. */
  function wire(address, { method = 'GET', headers = {} } = {}) {
    return new Promise((resolve, reject) => {
      const request = http.request(address, { method, headers, timeout: 10_000 }, (response) => {
        const pieces = [];
        response.on('data', (piece) => pieces.push(piece));
        response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(pieces) }));
      });
      request.on('timeout', () => request.destroy(new Error(`${address}: no answer`)));
      request.on('error', reject);
      request.end();
    });
  }

  test('H23 playlists are compressed with Vary, and caches, HEAD, Range, 304 and CORS work for playlists and media', async () => {
    const live = address('keyframes', 'video');
    const index = new URL(gateway.hls('keyframes'));
    const { segments, hint, following, target } = await playlist('keyframes');
    const blocking = new URL(`?_HLS_msn=${following - 1}&_HLS_part=0`, live);
    for (const url of [index, live, blocking]) {
      const packed = await wire(url, { headers: { 'Accept-Encoding': 'gzip, br' } });
      assert.equal(packed.status, 200);
      assert.equal(packed.headers['content-encoding'], 'gzip');
      assert.match(packed.headers.vary, /accept-encoding/i);
      assert.match(gunzipSync(packed.body).toString(), /^#EXTM3U\n/);
      const plain = await wire(url, { headers: { 'Accept-Encoding': 'identity' } });
      assert.equal(plain.headers['content-encoding'], undefined);
      assert.match(plain.headers.vary, /accept-encoding/i);
      assert.match(plain.body.toString(), /^#EXTM3U\n/);
      assert.match(plain.headers.etag, /^"[^"]+"$/);
      assert.notEqual(plain.headers.etag, packed.headers.etag);
      assert.equal(Number(plain.headers['content-length']), plain.body.length);
      // Browsers ask each time; shared caches keep the answer to a reload for a target duration, anything else for half
      // of one.
      const shared = url === blocking ? target : target / 2;
      assert.equal(plain.headers['cache-control'], `public, max-age=0, s-maxage=${shared}`, String(url));
      assert.equal(plain.headers['access-control-allow-origin'], '*');
      assert.doesNotMatch(plain.headers.vary, /origin/i);
      const head = await wire(url, { method: 'HEAD', headers: { 'Accept-Encoding': 'identity' } });
      assert.equal(head.status, 200);
      assert.equal(head.body.length, 0);
      assert.ok(Math.abs(Number(head.headers['content-length']) - plain.body.length) < 400, `${head.headers['content-length']} of ${plain.body.length}`);
      for (const name of ['content-type', 'cache-control', 'vary', 'access-control-allow-origin']) assert.equal(head.headers[name], plain.headers[name], name);
    }
    // The multivariant playlist changes with each segment; ask until the state is the same twice.
    await until('a playlist is not modified', async () => {
      const { headers } = await wire(index);
      const again = await wire(index, { headers: { 'If-None-Match': `"other", W/${headers.etag}` } });
      if (again.status !== 304) return false;
      assert.equal(again.body.length, 0);
      for (const name of ['etag', 'cache-control', 'vary']) assert.equal(again.headers[name], headers[name], name);
      return true;
    }, 3);

    const segment = segments.at(-2);
    for (const uri of [segment.uri, segment.map.uri, segments.at(-1).parts[0].uri]) {
      const url = new URL(uri, live);
      const whole = await wire(url, { headers: { 'Accept-Encoding': 'gzip' } });
      assert.equal(whole.status, 200);
      assert.equal(whole.headers['content-type'], 'video/mp4');
      assert.equal(whole.headers['content-encoding'], undefined);
      assert.equal(whole.headers['cache-control'], 'public, max-age=31536000, immutable');
      assert.equal(whole.headers['accept-ranges'], 'bytes');
      assert.equal(whole.headers['access-control-allow-origin'], '*');
      assert.equal(Number(whole.headers['content-length']), whole.body.length);
      const head = await wire(url, { method: 'HEAD' });
      assert.equal(head.body.length, 0);
      for (const name of ['content-length', 'content-type', 'cache-control', 'etag', 'accept-ranges']) assert.equal(head.headers[name], whole.headers[name], name);
      const range = await wire(url, { headers: { Range: 'bytes=100-299' } });
      assert.equal(range.status, 206);
      assert.equal(range.headers['content-range'], `bytes 100-299/${whole.body.length}`);
      assert.ok(range.body.equals(whole.body.subarray(100, 300)));
      const tail = await wire(url, { headers: { Range: 'bytes=-50', 'If-Range': whole.headers.etag } });
      assert.equal(tail.status, 206);
      assert.ok(tail.body.equals(whole.body.subarray(-50)));
      assert.equal((await wire(url, { headers: { Range: 'bytes=-50', 'If-Range': '"other"' } })).status, 200);
      const beyond = await wire(url, { headers: { Range: `bytes=${whole.body.length}-` } });
      assert.equal(beyond.status, 416);
      assert.equal(beyond.headers['content-range'], `bytes */${whole.body.length}`);
      const same = await wire(url, { headers: { 'If-None-Match': whole.headers.etag } });
      assert.equal(same.status, 304);
      assert.equal(same.headers['cache-control'], whole.headers['cache-control']);
    }
    // A hinted part takes a range, too, and still comes whole.
    const hinted = await wire(new URL(hint, live), { headers: { Range: 'bytes=0-' } });
    assert.ok([200, 206].includes(hinted.status));
    assert.equal(hinted.body.subarray(4, 8).toString(), 'moof');

    const missing = await wire(new URL('nothing.mp4', live), { headers: { Origin: 'https://elsewhere.example' } });
    assert.equal(missing.status, 404);
    assert.equal(missing.headers['access-control-allow-origin'], '*');
    assert.equal(missing.headers['cache-control'], 'no-store');
    const preflight = await wire(live, { method: 'OPTIONS', headers: { Origin: 'https://elsewhere.example', 'Access-Control-Request-Method': 'GET', 'Access-Control-Request-Headers': 'range' } });
    assert.equal(preflight.status, 204);
    assert.match(preflight.headers['access-control-allow-headers'], /range/i);
  });

  const waiters = async () => Number((await gateway.text('/metrics')).match(/^whipgate_hls_waiters (\d+)/m)[1]);

  test('H24 25 waiters get the same answer, and those who hang up leave nothing', async () => {
    assert.equal(await waiters(), 0);
    for (const [session, rendition] of [['sound', 'audio'], ['keyframes', 'video']]) {
      const { following } = await playlist(session, rendition);
      const url = new URL(`?_HLS_msn=${following}`, address(session, rendition));
      const answers = Promise.all(Array.from({ length: 25 }, () => ask(url)));
      await until('all 25 wait', async () => (await waiters()) === 25, 1.5).catch(() => {});
      const bodies = (await answers).map(({ status, body }) => `${status} ${body}`);
      const distances = (await answers).map(({ at }) => at);
      // A report of the other rendition may be a part newer in answers that were written last.
      const same = new Set(bodies.map((body) => body.replace(/#EXT-X-RENDITION-REPORT.*\n/g, '')));
      assert.equal(same.size, 1, [...same].join('\n'));
      assert.match(bodies[0], /^200 #EXTM3U/);
      assert.ok(Math.max(...distances) - Math.min(...distances) < 250, `${Math.max(...distances) - Math.min(...distances)} ms from the first to the last`);
      assert.equal(await waiters(), 0);
    }
    // The publisher does not matter to those who hang up before it comes.
    const { following } = await playlist('rare');
    const hangUp = new AbortController();
    const gone = Array.from({ length: 25 }, () => fetch(new URL(`?_HLS_msn=${following + 1}`, address('rare', 'video')), { signal: hangUp.signal }).then(() => 'answered', () => 'gone'));
    await until('all 25 wait', async () => (await waiters()) === 25, 3);
    hangUp.abort();
    const aborted = Date.now();
    await until('nobody waits any more', async () => (await waiters()) === 0, 3);
    assert.ok(Date.now() - aborted < 1500);
    assert.deepEqual(new Set(await Promise.all(gone)), new Set(['gone']));
  });

  test('H25 every rendition decodes without a warning, and so does each independent segment alone', { timeout: 120_000 }, async () => {
    await inFolder(async (folder) => {
      const decodes = async (name, ...bodies) => {
        const file = path.join(folder, 'media.mp4');
        await writeFile(file, Buffer.concat(bodies));
        await decodesCleanly(file).catch((error) => {
          throw new Error(`${name}: ${error.message}`);
        });
      };
      for (const [name, follower] of all()) {
        const { media } = follower;
        for (const uri of dissected[name].inits.keys()) {
          const segments = follower.segments().filter(({ map }) => map.uri === uri);
          if (segments.length === 0) continue;
          await decodes(name, media.get(uri).body, ...segments.map((segment) => media.get(segment.uri).body));
          const alone = segments.filter((segment) => fragments(dissected[name].segments.get(segment.uri))[0].starts_with_sync).slice(-2);
          for (const segment of alone) await decodes(`${name} ${segment.uri}`, media.get(uri).body, media.get(segment.uri).body);
        }
      }
    });
  });

  test('H2, H4, H8 after the gateway was killed: what is lost is a gap, of version 8, and numbers go on', { timeout: 60_000 }, async () => {
    const before = await playlist('keyframes');
    const listen = new URL(gateway.base).host;
    await gateway.stop('SIGKILL');
    await publishers.keyframes.stop('SIGKILL');
    gateway = await Gateway.start({ dataDir, settings: { ...settings, 'http.listen': listen } });
    publishers.keyframes = demo('keyframes', '640x360', '--keyframe-every', 30);
    const now = await until('the playlist goes on', () => playlist('keyframes'), 15);
    assert.deepEqual(now.problems, []);
    assert.equal(tag(now.text, 'EXT-X-VERSION'), '8');
    assert.ok(now.first >= before.first && now.following > before.following, now.text);
    const gaps = now.segments.filter(({ gap }) => gap);
    assert.ok(gaps.length > 0 && gaps.every((gap, index) => now.segments[index] === gap), now.text);
    const next = now.segments[gaps.length];
    assert.ok(next.discontinuity && next.map && next.programDateTime, now.text);
    assert.equal(tag(now.text, 'EXT-X-DISCONTINUITY-SEQUENCE'), '0');
    const delta = await playlist('keyframes', 'video', '?_HLS_skip=YES');
    assert.deepEqual(delta.problems, []);
  });
});
