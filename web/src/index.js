// The console: what is live with its state, and what is on disk.
import { authorization, bytes, clock, el, problemText, query } from '/assets/common.js';
import { loadPoster } from '/assets/poster.js';

const token = query.get('token');
const $ = (id) => document.getElementById(id);
const REFRESH_MS = 2000;
/** Each picture is decoded for this page, so seldom enough for many sessions at once. */
const POSTER_MS = 30_000;

/** Pictures by session: the element, which stays while its card is made anew, and when it was last asked for. */
const thumbs = new Map();

async function load(route) {
  const response = await fetch(route, { headers: authorization(token), cache: 'no-store' });
  if (!response.ok) throw new Error(await problemText(response));
  return response.json();
}

function track({ kind, codec, resolution, bits_per_second: rate, packets_lost: lost }) {
  const parts = [codec.toUpperCase()];
  if (resolution) parts.push(resolution.replace('x', '×'));
  if (rate) parts.push(rate >= 1e6 ? `${(rate / 1e6).toFixed(2)} Mbit/s` : `${Math.round(rate / 1000)} kbit/s`);
  if (lost) parts.push(`${lost} packets lost`);
  return [el('dt', { textContent: kind }), el('dd', { textContent: parts.join(', ') })];
}

function thumb(session) {
  if (!session.tracks.some(({ kind }) => kind === 'video')) return null;
  const found = thumbs.get(session.id) ?? { image: el('img', { className: 'thumb', alt: '', hidden: true }), at: 0 };
  thumbs.set(session.id, found);
  return found.image;
}

/** Looks for pictures that are due, one after the other, and forgets those of sessions that are gone. */
async function refreshThumbs(sessions) {
  for (const [id, { image }] of thumbs) {
    if (sessions.some((session) => session.id === id)) continue;
    URL.revokeObjectURL(image.src);
    thumbs.delete(id);
  }
  for (const [id, found] of thumbs) {
    if (Date.now() - found.at < (found.image.hidden ? REFRESH_MS : POSTER_MS)) continue;
    found.at = Date.now();
    const poster = await loadPoster(id, token);
    if (!poster) continue;
    URL.revokeObjectURL(found.image.src);
    found.image.src = poster;
    found.image.hidden = false;
  }
}

function card(session) {
  const id = encodeURIComponent(session.id);
  const facts = el('dl', { className: 'facts' });
  if (session.since) {
    const seconds = (Date.now() - Date.parse(session.since)) / 1000;
    facts.append(el('dt', { textContent: 'on air' }), el('dd', { textContent: clock(seconds) }));
  }
  for (const each of session.tracks) facts.append(...track(each));
  if (session.av_offset_ms !== null) {
    const [offset, uncertainty] = [session.av_offset_ms, session.av_offset_uncertainty_ms].map((value) => value.toFixed(1));
    facts.append(el('dt', { textContent: 'sound late by' }), el('dd', { textContent: `${offset} ± ${uncertainty} ms` }));
  }
  if (session.recording) facts.append(el('dt', { textContent: 'recording' }), el('dd', { textContent: session.recording.state }));
  return el('article', { className: 'panel' },
    el('div', { className: 'row' }, el('h3', { textContent: session.id }), el('span', { className: `badge ${session.state}`, textContent: session.state })),
    thumb(session),
    el('div', { style: 'margin: .6rem 0' }, facts),
    ...session.findings.map((text) => el('p', { className: 'finding', textContent: text })),
    el('div', { className: 'row' },
      el('a', { className: 'button primary', href: `/watch/${id}`, textContent: 'Watch' }),
      el('a', { className: 'button', href: `/hls/${id}/index.m3u8`, textContent: 'Playlist' })));
}

function row(session, file) {
  const href = `/recordings/${encodeURIComponent(session)}/${encodeURIComponent(file.file)}`;
  return el('tr', {},
    el('td', { textContent: session }),
    el('td', { textContent: new Date(file.start).toLocaleString() }),
    el('td', { textContent: file.duration === null ? '–' : clock(file.duration) }),
    el('td', { textContent: bytes(file.bytes) }),
    el('td', {}, el('span', { className: `badge ${file.state}`, textContent: file.state })),
    el('td', {}, el('a', { href, textContent: 'Open' })));
}

async function refresh() {
  try {
    const { sessions } = await load('/api/sessions');
    $('sessions').replaceChildren(...sessions.map(card));
    $('live-note').textContent = 'Nobody is publishing.';
    $('live-note').hidden = sessions.length > 0;
    refreshThumbs(sessions);
  } catch (error) {
    $('live-note').hidden = false;
    $('live-note').textContent = error.message;
  }
  try {
    const { recordings } = await load('/recordings');
    $('recordings').tBodies[0].replaceChildren(...recordings.map((file) => row(file.session_id, file)));
    $('recordings').hidden = recordings.length === 0;
    $('recordings-note').textContent = 'Nothing is recorded yet.';
    $('recordings-note').hidden = recordings.length > 0;
  } catch (error) {
    $('recordings-note').hidden = false;
    $('recordings-note').textContent = error.message;
  }
}

const name = () => encodeURIComponent($('name').value);
const showUrl = () => {
  $('whip-url').textContent = `${location.origin}/whip/${name()}`;
};
$('name').addEventListener('input', showUrl);
$('start').addEventListener('submit', (event) => {
  event.preventDefault();
  const page = event.submitter?.dataset.go ?? 'publish';
  location.href = `/${page}/${name()}${location.search}`;
});
$('copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText($('whip-url').textContent);
  $('copy').textContent = 'Copied';
  setTimeout(() => {
    $('copy').textContent = 'Copy';
  }, 1500);
});

showUrl();
refresh();
setInterval(() => document.hidden || refresh(), REFRESH_MS);
