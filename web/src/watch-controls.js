// The bar of the player: buttons, choices, the seek bar of a stream that can be rewound, keyboard and touch.
import { clock } from '/assets/common.js';

const $ = (id) => document.getElementById(id);
/** Seconds that an arrow key goes. */
const STEP = 5;
/** Over the picture, the bar goes away when nothing has moved for so long. */
const IDLE_MS = 3000;

/** Connects the bar with `player`; the result is to be called some times a second. */
export function controlsOf(video, state, player) {
  const box = $('player');
  let dragging = false;
  let idleTimer;

  const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause());
  const mute = () => {
    video.muted = !video.muted;
    if (!video.muted && video.volume === 0) video.volume = 1;
  };
  const fullscreen = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (box.requestFullscreen) box.requestFullscreen().catch(() => {});
    // iPhones know the fullscreen of a video only.
    else video.webkitEnterFullscreen?.();
  };
  $('fullscreen').hidden = !document.fullscreenEnabled && !video.webkitEnterFullscreen;

  /** The bar lies over the picture, and not below it. */
  const overlaid = () => document.fullscreenElement === box || document.documentElement.classList.contains('embed');

  function wake() {
    box.classList.remove('idle');
    clearTimeout(idleTimer);
    idleTimer = setTimeout(() => {
      if (!video.paused && !dragging) box.classList.add('idle');
    }, IDLE_MS);
  }

  $('play').onclick = toggle;
  $('sound').onclick = mute;
  $('live').onclick = () => player.goLive();
  $('fullscreen').onclick = fullscreen;
  $('volume').oninput = () => {
    video.volume = Number($('volume').value);
    video.muted = video.volume === 0;
  };
  $('audio').onchange = () => player.chooseSound($('audio').value);
  $('quality').onchange = () => player.chooseHeight(Number($('quality').value));

  const showVolume = () => {
    $('sound').textContent = video.muted ? 'Unmute' : 'Mute';
    $('sound').setAttribute('aria-pressed', String(!video.muted));
    $('volume').value = video.muted ? 0 : video.volume;
  };
  video.onvolumechange = showVolume;
  const showPlaying = () => {
    $('play').textContent = video.paused ? 'Play' : 'Pause';
    wake();
  };
  video.addEventListener('play', showPlaying);
  video.addEventListener('pause', showPlaying);

  let touched = false;
  $('stage').addEventListener('pointerdown', (event) => {
    touched = event.pointerType === 'touch';
  });
  $('stage').addEventListener('click', () => {
    // A finger cannot hover: over the picture, it calls the bar first.
    if (touched && overlaid()) {
      if (box.classList.contains('idle')) wake();
      else if (!video.paused) box.classList.add('idle');
    } else {
      toggle();
    }
  });
  $('stage').addEventListener('dblclick', () => touched || fullscreen());
  for (const name of ['pointermove', 'focusin', 'keydown']) box.addEventListener(name, (event) => event.pointerType === 'touch' || wake());
  $('controls').addEventListener('pointerdown', wake);

  $('seek').addEventListener('pointerdown', () => {
    dragging = true;
  });
  $('seek').oninput = () => showPosition(Number($('seek').value));
  $('seek').onchange = () => {
    dragging = false;
    const range = player.range();
    if (!range) return;
    const time = range.start + Number($('seek').value);
    if (range.live && time > range.end - 1) player.goLive();
    else player.seek(time);
  };
  for (const name of ['pointerup', 'pointercancel']) {
    $('seek').addEventListener(name, () => {
      dragging = false;
    });
  }

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.('select, input:not([type=range])')) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const onButton = event.target.closest?.('button, a');
    if (key === ' ' && onButton) return;
    const rewindable = player.range()?.dvr && event.target !== $('volume');
    const actions = {
      ' ': toggle,
      k: toggle,
      m: mute,
      f: fullscreen,
      l: () => player.goLive(),
      ArrowLeft: rewindable && (() => player.seek(video.currentTime - STEP)),
      ArrowRight: rewindable && (() => player.seek(video.currentTime + STEP)),
    };
    if (!actions[key]) return;
    event.preventDefault();
    actions[key]();
    wake();
  });

  /** What the seek bar says when it stands at `value` seconds from its beginning. */
  function showPosition(value) {
    const range = player.range();
    if (!range) return;
    const length = range.end - range.start;
    const behind = length - value;
    const live = range.live && behind < 3;
    $('position').textContent = range.live ? (live ? 'live' : `−${clock(behind)}`) : `${clock(value)} / ${clock(length)}`;
    const text = live ? 'live' : range.live ? `${clock(behind)} behind live` : `${clock(value)} of ${clock(length)}`;
    $('seek').setAttribute('aria-valuetext', text);
  }

  function offer(id, choices, chosen) {
    const select = $(id);
    $(`${id}-label`).hidden = choices.length < 2;
    const key = JSON.stringify(choices);
    if (select.dataset.choices !== key) {
      select.dataset.choices = key;
      select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    }
    if (chosen !== undefined && document.activeElement !== select) select.value = chosen;
  }

  showVolume();
  wake();
  return () => {
    const playing = state.phase === 'live' || state.phase === 'buffering';
    // The browser's own player has its own bar.
    video.controls = Boolean(state.native);
    $('controls').hidden = Boolean(state.native);
    $('play').disabled = !playing;
    const behind = playing && player.isBehind();
    $('live').hidden = !behind;
    $('edge').hidden = !(state.phase === 'live' && player.latency() !== null && !behind && !video.paused);
    offer('audio', player.sounds(), state.audio);
    const heights = player.heights();
    const level = state.hls?.autoLevelEnabled === false ? state.hls.levels?.[state.hls.nextLevel]?.height : 0;
    offer('quality', heights.length > 1 ? [[0, 'auto'], ...heights.map((height) => [height, `${height}p`])] : [], level);
    const range = playing ? player.range() : null;
    $('dvr').hidden = !range?.dvr;
    if (range?.dvr && !dragging) {
      const value = Math.min(Math.max(video.currentTime - range.start, 0), range.end - range.start);
      $('seek').max = (range.end - range.start).toFixed(1);
      $('seek').value = value;
      showPosition(value);
    }
  };
}
