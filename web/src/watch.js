// The player: waits for the stream, plays it at the live edge, says what it does in figures.
import { authorization, problemText, query, sessionFromPath } from '/assets/common.js';

const session = sessionFromPath();
const token = query.get('token');
const lowLatency = query.get('ll') !== '0';
/** The form of the sound that the viewer chose, by its name in the playlist; null for the player's choice. */
let audio = query.get('audio');
const $ = (id) => document.getElementById(id);
const video = $('video');
const playlist = `/hls/${encodeURIComponent(session)}/index.m3u8`;
const RETRY_MS = 1000;
/** Catching up is by playing a little faster rather than by jumping. */
const MAX_RATE = 1.1;
/** What is played of a start before the live edge, see `skipToLive`. */
const START_RATE = 0.1;
/** Seconds of the buffer left ahead on the way from the first keyframe to the live edge. */
const AHEAD = 0.3;
/** How long a start from a keyframe before the live edge may take until the viewer sees it move at its pace. */
const START_LIMIT_MS = 4000;

/** What the page knows, also read by the end-to-end tests. */
const state = (window.whipgate = { phase: 'waiting', stalls: 0, errors: [], levels: 0, latency: null });

document.title = `${session} · whipgate`;
$('title').textContent = session;
$('playlist').textContent = $('playlist').href = playlist;

function phase(name, title, text = '') {
  state.phase = name;
  $('state').textContent = name;
  $('state').className = `badge ${name}`;
  $('notice').hidden = name === 'live' || name === 'buffering';
  if (title) {
    $('notice-title').textContent = title;
    $('notice-text').textContent = text;
  }
}

/** Resolves when the playlist is there; a refusal that waiting cannot mend ends the wait. */
async function published() {
  for (;;) {
    try {
      const response = await fetch(playlist, { headers: authorization(token), cache: 'no-store' });
      if (response.ok) return true;
      if (response.status === 401 || response.status === 403) {
        phase('failed', 'This stream is not open to everybody', await problemText(response));
        return false;
      }
      phase('waiting', 'Waiting for the publisher', 'This page starts by itself.');
    } catch {
      phase('waiting', 'The gateway does not answer', 'This page tries again by itself.');
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

function play() {
  if (!window.Hls?.isSupported()) {
    // Safari on iPhone has no Media Source Extensions but plays HLS by itself.
    if (video.canPlayType('application/vnd.apple.mpegurl')) {
      video.src = token ? `${playlist}?token=${encodeURIComponent(token)}` : playlist;
      phase('live');
      video.play().catch(() => {});
      return;
    }
    phase('failed', 'This browser cannot play HLS', 'It has neither Media Source Extensions nor HLS of its own.');
    return;
  }
  const hls = new window.Hls({
    pLoader: decodableStart(window.Hls.DefaultConfig.loader),
    lowLatencyMode: lowLatency,
    backBufferLength: 30,
    maxLiveSyncPlaybackRate: MAX_RATE,
    xhrSetup: (xhr) => token && xhr.setRequestHeader('Authorization', `Bearer ${token}`),
  });
  state.hls = hls;
  const { Events, ErrorTypes, ErrorDetails } = window.Hls;
  hls.on(Events.FRAG_BUFFERED, () => skipToLive(hls));
  hls.on(Events.BUFFER_APPENDED, () => skipToLive(hls));
  hls.on(Events.MANIFEST_PARSED, (_, data) => {
    state.levels = data.levels.length;
    offerAudio(hls);
    video.play().catch(() => {});
  });
  hls.on(Events.LEVEL_UPDATED, (_, { details }) => {
    state.targetDuration = details.targetduration;
    state.partTarget = details.partTarget;
    if (!details.live) state.ended = true;
  });
  hls.on(Events.ERROR, (_, data) => {
    state.errors.push({ details: data.details, fatal: data.fatal, reason: data.reason ?? data.error?.message, media: video.error?.message });
    if (data.details === ErrorDetails.BUFFER_STALLED_ERROR && !video.paused && !state.ended) state.stalls += 1;
    if (!data.fatal) return;
    if (data.type === ErrorTypes.MEDIA_ERROR && !state.recovered) {
      state.recovered = true;
      hls.recoverMediaError();
      return;
    }
    hls.destroy();
    restart();
  });
  video.onplaying = () => {
    state.started ??= performance.now();
    phase('live');
  };
  video.onended = () => {
    if (state.phase === 'ended') return;
    phase('ended', 'The stream has ended', 'This page starts again when the publisher returns.');
    hls.destroy();
    afterEnd();
  };
  hls.loadSource(playlist);
  hls.attachMedia(video);
}

/** Lets the viewer choose if the sound comes in more than one form, and leaves the chosen one to the player. */
function offerAudio(hls) {
  const labels = { audio: 'Opus', aac: 'AAC' };
  const tracks = hls.allAudioTracks;
  const names = [...new Set(tracks.map(({ name }) => name))];
  $('audio').replaceChildren(...names.map((name) => new Option(labels[name] ?? name, name)));
  $('audio-label').hidden = names.length < 2;
  const groups = tracks.filter(({ name }) => name === audio).map(({ groupId }) => groupId);
  if (groups.length === 0) return;
  // Each form is a group with variants of its own.
  for (let i = hls.levels.length - 1; i >= 0; i -= 1) {
    if (!hls.levels[i].audioGroups?.some((group) => groups.includes(group))) hls.removeLevel(i);
  }
}

$('audio').onchange = () => {
  audio = $('audio').value;
  // Another codec means another buffer of the browser: beginning anew is what works in all of them.
  state.hls?.destroy();
  phase('buffering');
  play();
};

/**
 * A loader that tells hls.js by EXT-X-START where decoding can start, in playlists where not every segment starts with a
 * keyframe. hls.js would otherwise begin near the live edge and show nothing before the next keyframe.
 */
function decodableStart(Loader) {
  return class extends Loader {
    load(context, config, callbacks) {
      const { onSuccess } = callbacks;
      super.load(context, config, {
        ...callbacks,
        onSuccess: (response, ...rest) => {
          if (context.type === 'level' && typeof response.data === 'string') {
            const offset = keyframeBeforeLive(response.data);
            if (offset !== null) {
              response.data = response.data.replace('\n', `\n#EXT-X-START:TIME-OFFSET=-${offset.toFixed(3)}\n`);
              if (!state.start) {
                const start = (state.start = { offset });
                pace(START_RATE);
                setTimeout(() => {
                  start.late = true;
                  if (state.start === start && !start.done) pace(1);
                }, START_LIMIT_MS);
              }
            }
          }
          onSuccess(response, ...rest);
        },
      });
    }
  };
}

/** Seconds from the end of a media playlist back to the last keyframe that leaves enough to play; null to start as usual. */
function keyframeBeforeLive(text) {
  if (/^#EXT-X-(INDEPENDENT-SEGMENTS|ENDLIST|SKIP)/m.test(text)) return null;
  const holdBack = Number(/PART-HOLD-BACK=([\d.]+)/.exec(text)?.[1] ?? 0);
  const keyframes = [];
  let segment = 0;
  let part = 0;
  for (const line of text.split('\n')) {
    const duration = Number(/^#(?:EXTINF:|EXT-X-PART:DURATION=)([\d.]+)/.exec(line)?.[1] ?? 0);
    if (line === '# independent segment' || (line.startsWith('#EXT-X-PART:') && line.includes('INDEPENDENT=YES'))) keyframes.push(segment + part);
    if (line.startsWith('#EXT-X-PART:')) part += duration;
    if (line.startsWith('#EXTINF:')) {
      segment += duration;
      part = 0;
    }
  }
  // Just behind the keyframe's own time: rounded to before it, hls.js would go back and append what comes before the keyframe,
  // and after such an append a browser takes nothing until the next keyframe.
  const back = keyframes.map((time) => segment + part - time - 0.01).filter((time) => time >= holdBack);
  return back.length ? Math.min(...back) : null;
}

/**
 * After a start at a keyframe some seconds back: to the live edge as soon as that is buffered, so that no picture is missing.
 * Until then the picture all but stands still: playing would run out of what is loaded, and in a paused video hls.js takes
 * the end of the buffer to the microsecond and appends segments twice.
 */
function skipToLive(hls) {
  const { start } = state;
  if (!start || start.done) return;
  const live = hls.liveSyncPosition;
  const now = video.currentTime;
  const end = bufferedEnd(now);
  if (live !== null && end >= live) {
    start.done = true;
    if (live > now + 0.1) video.currentTime = live;
    pace(1);
  } else if (!start.late && end - AHEAD > now + 1) {
    // Far behind, hls.js loads whole segments only and never comes to the edge; on the way it would go to and fro between
    // parts and segments and append some twice.
    video.currentTime = end - AHEAD;
  }
}

/** Plays at a rate, or at the pace of the live stream, which is a little faster while behind. */
function pace(rate) {
  state.hls.config.maxLiveSyncPlaybackRate = rate === 1 ? MAX_RATE : 1;
  video.playbackRate = rate;
}

/** Where the buffer that holds `time` ends; `time` when none does. A start may lie just before what is buffered. */
function bufferedEnd(time) {
  for (let i = 0; i < video.buffered.length; i += 1) {
    if (video.buffered.start(i) <= time + 0.2 && video.buffered.end(i) >= time) return video.buffered.end(i);
  }
  return time;
}

/** After the end: wait until the playlist is another one than the ended one, then play that. */
async function afterEnd() {
  const ended = await fetchText(playlist);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    const now = await fetchText(playlist);
    if (now === null || now !== ended) break;
    const rendition = now.split('\n').find((line) => line && !line.startsWith('#'));
    const media = rendition && (await fetchText(new URL(rendition, new URL(playlist, location.href))));
    if (media && !media.includes('#EXT-X-ENDLIST')) break;
  }
  restart();
}

async function fetchText(url) {
  try {
    const response = await fetch(url, { headers: authorization(token), cache: 'no-store' });
    return response.ok ? await response.text() : null;
  } catch {
    return null;
  }
}

async function restart() {
  Object.assign(state, { ended: false, recovered: false, started: undefined, start: undefined });
  phase('waiting', 'Waiting for the publisher', 'This page starts by itself.');
  if (await published()) play();
}

function meters() {
  const hls = state.hls;
  const latency = hls && Number.isFinite(hls.latency) && hls.latency > 0 ? hls.latency : null;
  state.latency = latency;
  state.audio = hls?.audioTracks?.[hls.audioTrack]?.name;
  if (state.audio && document.activeElement !== $('audio')) $('audio').value = state.audio;
  $('latency').textContent = latency === null ? '–' : `${latency.toFixed(2)} s`;
  $('resolution').textContent = video.videoWidth ? `${video.videoWidth}×${video.videoHeight}` : '–';
  const ahead = video.buffered.length ? video.buffered.end(video.buffered.length - 1) - video.currentTime : 0;
  $('buffer').textContent = `${Math.max(0, ahead).toFixed(1)} s`;
  $('stalls').textContent = state.stalls;
  $('dropped').textContent = video.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0;
  // At the end of a playlist a player may hold the last picture without ever saying that it is over.
  const moved = video.currentTime !== state.lastTime;
  if (moved || !state.ended || ahead > 0.5) state.still = performance.now();
  state.lastTime = video.currentTime;
  if (state.phase === 'live' && !video.paused && performance.now() - state.still > 1500) video.onended();
  $('live').hidden = !(latency !== null && hls.targetLatency && latency > hls.targetLatency + 3);
}

$('live').onclick = () => {
  if (state.hls?.liveSyncPosition) video.currentTime = state.hls.liveSyncPosition;
  video.play().catch(() => {});
};
$('sound').onclick = () => {
  video.muted = !video.muted;
};
video.onvolumechange = () => {
  $('sound').textContent = video.muted ? 'Unmute' : 'Mute';
  $('sound').setAttribute('aria-pressed', String(!video.muted));
};

setInterval(meters, 250);
restart();
