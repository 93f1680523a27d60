// A WHIP client (RFC 9725) for camera, screen or a test picture.
import { authorization, problemText, query, sessionFromPath } from '/assets/common.js';

const session = sessionFromPath();
const endpoint = `/whip/${encodeURIComponent(session)}`;
const $ = (id) => document.getElementById(id);

/** What the page knows, also read by the end-to-end tests. */
const state = (window.whipgate = { phase: 'ready' });

let connection = null; // { pc, url, etag, stream, stopSource }

document.title = `Publish ${session} · whipgate`;
$('title').textContent = session;
$('watch').href = `/watch/${encodeURIComponent(session)}`;
for (const id of ['source', 'codec', 'bitrate', 'token']) {
  if (query.has(id)) $(id).value = query.get(id);
}
$('trickle').checked = query.get('trickle') === '1';

function phase(name) {
  state.phase = name;
  $('state').textContent = name;
  $('state').className = `badge ${name}`;
  const busy = name === 'connecting' || name === 'live' || name === 'reconnecting';
  $('start').disabled = busy;
  $('stop').disabled = !busy;
  for (const id of ['source', 'codec', 'bitrate', 'token', 'trickle']) $(id).disabled = busy;
  $('notice').hidden = busy;
}

function fail(text) {
  state.error = text;
  $('error').textContent = text;
  $('error').hidden = false;
  phase('failed');
}

/** A canvas with a wall clock, a moving mark, a flash and a beep each full second; `height` in the query sets its size. */
function testSource() {
  const height = Math.min(Math.max(Number(query.get('height')) || 720, 90), 2160);
  const width = Math.round((height * 16) / 9 / 2) * 2;
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const paint = canvas.getContext('2d');
  paint.scale(height / 720, height / 720);
  const draw = () => {
    const now = Date.now();
    const fraction = (now % 1000) / 1000;
    paint.fillStyle = fraction < 0.06 ? '#ffffff' : '#10233f';
    paint.fillRect(0, 0, 1280, 720);
    paint.fillStyle = `hsl(${(now / 20) % 360} 80% 55%)`;
    paint.fillRect(60 + fraction * 1060, 520, 100, 100);
    paint.fillStyle = fraction < 0.06 ? '#000000' : '#ffffff';
    paint.font = '700 120px monospace';
    paint.fillText(new Date(now).toISOString().slice(11, 23), 130, 300);
    paint.font = '40px monospace';
    paint.fillText(session, 130, 400);
  };
  draw();
  const timer = setInterval(draw, 1000 / 30);
  const audio = new AudioContext({ sampleRate: 48000 });
  const tone = new OscillatorNode(audio, { frequency: 1000 });
  const gain = new GainNode(audio, { gain: 0 });
  const out = audio.createMediaStreamDestination();
  tone.connect(gain).connect(out);
  tone.start();
  let last = 0;
  const beeper = setInterval(() => {
    const next = Math.ceil((Date.now() + 20) / 1000) * 1000;
    if (next === last) return;
    last = next;
    const at = audio.currentTime + (next - Date.now()) / 1000;
    gain.gain.setValueAtTime(0.5, at);
    gain.gain.setValueAtTime(0, at + 0.06);
  }, 100);
  const stream = new MediaStream([...canvas.captureStream(30).getVideoTracks(), ...out.stream.getAudioTracks()]);
  return {
    stream,
    stop() {
      clearInterval(timer);
      clearInterval(beeper);
      audio.close();
    },
  };
}

async function openSource(kind) {
  if (kind === 'test') return testSource();
  if (!navigator.mediaDevices) {
    throw new Error('This browser gives camera and screen only to pages from https or from this very machine (localhost).');
  }
  const sound = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream =
    kind === 'screen'
      ? await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: 30 }, audio: sound })
      : await navigator.mediaDevices.getUserMedia({ video: { width: 1280, height: 720, frameRate: 30 }, audio: sound });
  return { stream, stop() {} };
}

/** Moves the wanted codec to the front of what the offer says. */
function preferCodec(transceiver, name) {
  const { codecs } = RTCRtpSender.getCapabilities('video');
  const mime = (codec) => codec.mimeType.toLowerCase();
  const order = name ? [name.toLowerCase()] : ['h264', 'h265', 'av1', 'vp9'];
  const wanted = order.flatMap((each) => codecs.filter((codec) => mime(codec) === `video/${each}`));
  if (name && wanted.length === 0) throw new Error(`This browser cannot send ${name}.`);
  const rest = name ? codecs.filter((codec) => /\/(rtx|red|ulpfec)$/.test(mime(codec))) : codecs.filter((codec) => !wanted.includes(codec));
  transceiver.setCodecPreferences([...wanted, ...rest]);
}

function gathered(pc) {
  if (pc.iceGatheringState === 'complete') return Promise.resolve();
  return new Promise((resolve) => {
    // A host without a reachable STUN server may gather for ever; what is there by then is enough.
    setTimeout(resolve, 2000);
    pc.addEventListener('icegatheringstatechange', () => pc.iceGatheringState === 'complete' && resolve());
  });
}

/** Sends candidates by PATCH (RFC 9725 section 4.3.2), those from before the answer in one go. */
function trickle(pc, token) {
  const waiting = [];
  let target = null;
  let chain = Promise.resolve();
  const send = (candidates, last) => {
    const [, ufrag] = pc.localDescription.sdp.match(/a=ice-ufrag:(\S+)/);
    const [, pwd] = pc.localDescription.sdp.match(/a=ice-pwd:(\S+)/);
    const byMid = Map.groupBy(candidates, (candidate) => candidate.sdpMid);
    let body = `a=ice-ufrag:${ufrag}\r\na=ice-pwd:${pwd}\r\n`;
    for (const transceiver of pc.getTransceivers()) {
      const own = byMid.get(transceiver.mid);
      if (!own) continue;
      body += `m=${transceiver.sender.track.kind} 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:${transceiver.mid}\r\n`;
      for (const candidate of own) body += `a=${candidate.candidate}\r\n`;
    }
    if (last) body += 'a=end-of-candidates\r\n';
    const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': target.etag, ...authorization(token) };
    chain = chain.then(async () => {
      const response = await fetch(target.url, { method: 'PATCH', headers, body });
      state.patches = [...(state.patches ?? []), response.status];
    });
  };
  pc.addEventListener('icecandidate', ({ candidate }) => {
    if (!target) waiting.push(candidate);
    else if (candidate?.candidate) send([candidate], false);
    else if (!candidate) send([], true);
  });
  return (session) => {
    target = session;
    const candidates = waiting.filter((candidate) => candidate?.candidate);
    if (waiting.length > 0) send(candidates, waiting.includes(null));
  };
}

async function start() {
  $('error').hidden = true;
  state.error = undefined;
  phase('connecting');
  const token = $('token').value;
  const source = await openSource($('source').value);
  $('preview').srcObject = source.stream;
  const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
  connection = { pc, source, token };
  for (const track of source.stream.getTracks()) {
    track.addEventListener('ended', stop);
    const video = track.kind === 'video';
    const transceiver = pc.addTransceiver(track, {
      direction: 'sendonly',
      streams: [source.stream],
      sendEncodings: video ? [{ maxBitrate: Number($('bitrate').value) * 1000 }] : undefined,
    });
    if (video) preferCodec(transceiver, $('codec').value);
  }
  pc.addEventListener('connectionstatechange', () => {
    if (connection?.pc !== pc) return;
    if (pc.connectionState === 'connected') phase('live');
    if (pc.connectionState === 'disconnected') phase('reconnecting');
    if (pc.connectionState === 'failed') end().then(() => fail('The connection to the gateway was lost.'));
    if (pc.connectionState === 'closed') end().then(() => phase('ready'));
  });
  const sendCandidates = $('trickle').checked ? trickle(pc, token) : null;
  await pc.setLocalDescription();
  if (!sendCandidates) await gathered(pc);
  const response = await fetch(endpoint, {
    method: 'POST',
    headers: { 'Content-Type': 'application/sdp', ...authorization(token) },
    body: pc.localDescription.sdp,
  });
  if (response.status !== 201) throw new Error(await problemText(response));
  connection.url = new URL(response.headers.get('location'), response.url).href;
  await pc.setRemoteDescription({ type: 'answer', sdp: await response.text() });
  sendCandidates?.({ url: connection.url, etag: response.headers.get('etag') ?? '*' });
}

/** Tells the gateway, then frees everything of this publication. */
async function end() {
  const old = connection;
  connection = null;
  if (!old) return;
  // Before the connection is closed: a connection that closes first looks like a publisher who may come back.
  if (old.url) {
    const headers = authorization(old.token);
    const bound = AbortSignal.timeout(3000);
    await fetch(old.url, { method: 'DELETE', headers, keepalive: true, signal: bound }).catch(() => {});
  }
  old.pc.close();
  old.source.stop();
  for (const track of old.source.stream.getTracks()) track.stop();
  $('preview').srcObject = null;
}

async function stop() {
  await end();
  phase('ready');
}

let previous = null;
async function meters() {
  if (!connection) return;
  const report = await connection.pc.getStats();
  const stats = [...report.values()];
  const video = stats.find((s) => s.type === 'outbound-rtp' && s.kind === 'video');
  const remote = stats.find((s) => s.type === 'remote-inbound-rtp' && s.kind === 'video');
  const bytes = stats.filter((s) => s.type === 'outbound-rtp').reduce((sum, s) => sum + s.bytesSent, 0);
  const now = performance.now();
  if (previous) $('sent').textContent = `${(((bytes - previous.bytes) * 8) / (now - previous.now)).toFixed(0)} kbit/s`;
  previous = { bytes, now };
  if (video?.frameWidth) $('size').textContent = `${video.frameWidth}×${video.frameHeight}`;
  if (video?.codecId) $('used').textContent = report.get(video.codecId).mimeType.replace('video/', '');
  state.codec = $('used').textContent;
  if (remote) {
    $('rtt').textContent = `${((remote.roundTripTime ?? 0) * 1000).toFixed(0)} ms`;
    $('lost').textContent = remote.packetsLost;
  }
}

const begin = () =>
  start().catch(async (error) => {
    await end();
    fail(error.message);
  });
$('form').onsubmit = (event) => {
  event.preventDefault();
  begin();
};
$('stop').onclick = stop;
// The session is over when the page goes; keepalive lets the DELETE out.
addEventListener('pagehide', () => end());
setInterval(meters, 1000);
if (query.get('autostart') === '1') begin();
