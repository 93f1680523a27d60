// The player's page: waits for the stream, plays it at the live edge, says what becomes of it.
import { authorization, problemText, query, sessionFromPath } from '/assets/common.js';
import { loadPoster } from '/assets/poster.js';
import { controlsOf } from '/assets/watch-controls.js';
import { showMeters } from '/assets/watch-meters.js';
import { playerOf } from '/assets/watch-player.js';

const session = sessionFromPath();
const token = query.get('token');
const $ = (id) => document.getElementById(id);
const video = $('video');
const playlist = `/hls/${encodeURIComponent(session)}/index.m3u8`;
const RETRY_MS = 1000;

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

const options = { playlist, token, lowLatency: query.get('ll') !== '0', sound: query.get('audio') };
const player = playerOf(video, state, options, {
  ready: () => phase(state.native ? 'live' : 'buffering'),
  broken: restart,
});
const showControls = controlsOf(video, state, player);

function play() {
  showPoster();
  if (!player.play()) phase('failed', 'This browser cannot play HLS', 'It has neither Media Source Extensions nor HLS of its own.');
}

/** The latest picture, for as long as the video has none. */
async function showPoster() {
  const poster = await loadPoster(session, token);
  if (!poster) return;
  if (video.poster) URL.revokeObjectURL(video.poster);
  video.poster = poster;
}

video.onplaying = () => {
  state.started ??= performance.now();
  phase('live');
};

video.onended = () => {
  if (state.phase === 'ended') return;
  phase('ended', 'The stream has ended', 'This page starts again when the publisher returns.');
  state.hls?.destroy();
  showPoster();
  afterEnd();
};

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

function tick() {
  const ahead = showMeters(video, state, player);
  showControls();
  // At the end of a playlist a player may hold the last picture without ever saying that it is over.
  const moved = video.currentTime !== state.lastTime;
  if (moved || !state.ended || ahead > 0.5) state.still = performance.now();
  state.lastTime = video.currentTime;
  if (state.phase === 'live' && !video.paused && performance.now() - state.still > 1500) video.onended();
}

setInterval(tick, 250);
restart();
