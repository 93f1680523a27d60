// Where playback begins, in playlists where not every segment starts with a keyframe: at the last keyframe before the live
// edge, and from there to the edge as soon as it is buffered.

/** Catching up is by playing a little faster rather than by jumping. */
export const MAX_RATE = 1.1;
/** What is played of a start before the live edge, see `skipToLive`. */
const START_RATE = 0.1;
/** Seconds of the buffer left ahead on the way from the first keyframe to the live edge. */
const AHEAD = 0.3;
/** How long a start from a keyframe before the live edge may take until the viewer sees it move at its pace. */
const START_LIMIT_MS = 4000;

/** The start of playback in `video`; `state.hls` is the player and `state.start` what is known of its start. */
export function startOf(video, state) {
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

  return {
    /**
     * A loader that tells hls.js by EXT-X-START where decoding can start, in playlists where not every segment starts with a
     * keyframe. hls.js would otherwise begin near the live edge and show nothing before the next keyframe.
     */
    decodableStart(Loader) {
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
    },

    /**
     * After a start at a keyframe some seconds back: to the live edge as soon as that is buffered, so that no picture is
     * missing. Until then the picture all but stands still: playing would run out of what is loaded, and in a paused video
     * hls.js takes the end of the buffer to the microsecond and appends segments twice.
     */
    skipToLive(hls) {
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
    },

    /** The viewer goes elsewhere: the start is over. */
    leave() {
      const { start } = state;
      if (!start || start.done) return;
      start.done = true;
      pace(1);
    },
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
