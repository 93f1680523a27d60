// hls.js over the page's video: makes it, tells what becomes of it, and chooses among renditions.
import { MAX_RATE, startOf } from '/assets/watch-start.js';

/** Sound as the playlist names it, and as people do. */
const SOUNDS = { audio: 'Opus', aac: 'AAC' };
/** A window that is longer gets a seek bar, whatever type its playlist says. */
const DVR_SECONDS = 60;

/**
 * The player of one page. `options` are `playlist`, `token`, `lowLatency` and `sound` (the form of the sound that the viewer
 * chose, by its name in the playlist; null for the player's choice); `told` is called with what happens: `ready`, `broken`.
 */
export function playerOf(video, state, options, told) {
  const start = startOf(video, state);
  const { playlist, token } = options;
  /** The newest media playlist of the picture, as hls.js read it. */
  let details = null;

  /** Begins to play; false when this browser cannot. */
  function play() {
    if (!window.Hls?.isSupported()) {
      // Safari on iPhone has no Media Source Extensions but plays HLS by itself.
      if (!video.canPlayType('application/vnd.apple.mpegurl')) return false;
      state.native = true;
      video.src = token ? `${playlist}?token=${encodeURIComponent(token)}` : playlist;
      told.ready();
      video.play().catch(() => {});
      return true;
    }
    const hls = new window.Hls({
      pLoader: start.decodableStart(window.Hls.DefaultConfig.loader),
      lowLatencyMode: options.lowLatency,
      backBufferLength: 30,
      maxLiveSyncPlaybackRate: MAX_RATE,
      xhrSetup: (xhr) => token && xhr.setRequestHeader('Authorization', `Bearer ${token}`),
    });
    state.hls = hls;
    details = null;
    const { Events, ErrorTypes, ErrorDetails } = window.Hls;
    hls.on(Events.FRAG_BUFFERED, () => start.skipToLive(hls));
    hls.on(Events.BUFFER_APPENDED, () => start.skipToLive(hls));
    hls.on(Events.MANIFEST_PARSED, (_, data) => {
      state.levels = data.levels.length;
      keepSound(hls);
      told.ready();
      video.play().catch(() => {});
    });
    hls.on(Events.LEVEL_UPDATED, (_, data) => {
      details = data.details;
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
      told.broken();
    });
    hls.loadSource(playlist);
    hls.attachMedia(video);
    return true;
  }

  /** Leaves the chosen form of the sound to the player. */
  function keepSound(hls) {
    state.sounds = [...new Set(hls.allAudioTracks.map(({ name }) => name))];
    const groups = hls.allAudioTracks.filter(({ name }) => name === options.sound).map(({ groupId }) => groupId);
    if (groups.length === 0) return;
    // Each form is a group with variants of its own.
    for (let i = hls.levels.length - 1; i >= 0; i -= 1) {
      if (!hls.levels[i].audioGroups?.some((group) => groups.includes(group))) hls.removeLevel(i);
    }
  }

  return {
    play,

    /** Plays the sound in another form from now on. */
    chooseSound(name) {
      options.sound = name;
      // Another codec means another buffer of the browser: beginning anew is what works in all of them.
      state.hls?.destroy();
      told.ready();
      play();
    },

    /** The forms of the sound, as `[name, text]`. */
    sounds: () => (state.sounds ?? []).map((name) => [name, SOUNDS[name] ?? name]),

    /** Heights of the picture that can be chosen, largest first. */
    heights: () => [...new Set((state.hls?.levels ?? []).map(({ height }) => height))].filter((height) => height > 0).sort((a, b) => b - a),

    /** Plays this height from now on; 0 leaves the choice to the player. */
    chooseHeight(height) {
      const { hls } = state;
      const groups = hls.levels[hls.loadLevel]?.audioGroups;
      const fits = ({ audioGroups }) => !groups?.length || audioGroups?.some((group) => groups.includes(group));
      hls.nextLevel = height ? hls.levels.findIndex((level) => level.height === height && fits(level)) : -1;
    },

    /**
     * What can be played, in seconds of the video's time: `start`, `end` (live: where the player keeps to), and whether it is
     * `live` and worth a seek bar (`dvr`). Null while that is not known.
     */
    range() {
      const { hls } = state;
      const end = details?.live ? hls?.liveSyncPosition : details?.edge;
      if (!details || !Number.isFinite(end)) return null;
      const first = details.fragmentStart;
      const dvr = details.type === 'EVENT' || details.type === 'VOD' || details.edge - first > DVR_SECONDS;
      return { start: first, end: Math.max(end, first), live: details.live, dvr };
    },

    /** Goes to a time of the video, within what there is. */
    seek(time) {
      const range = this.range();
      if (!range) return;
      start.leave();
      video.currentTime = Math.min(Math.max(time, range.start), range.end);
    },

    /** Goes to the live edge and plays. */
    goLive() {
      if (state.hls?.liveSyncPosition) {
        start.leave();
        video.currentTime = state.hls.liveSyncPosition;
      }
      video.play().catch(() => {});
    },

    /** Seconds behind live, as far as that is known; null once there is nothing live. */
    latency: () => (state.hls && !state.ended && Number.isFinite(state.hls.latency) && state.hls.latency > 0 ? state.hls.latency : null),

    /** Whether it is further behind than the player would make good by itself, its start apart. */
    isBehind() {
      const latency = this.latency();
      const starting = state.start && !state.start.done && !state.start.late;
      return latency !== null && !starting && latency > (state.hls.targetLatency ?? Infinity) + 3;
    },
  };
}
