// The figures under the player.

const $ = (id) => document.getElementById(id);

/** Shows how `player` is doing; called some times a second. Returns the seconds that are buffered ahead. */
export function showMeters(video, state, player) {
  const latency = player.latency();
  state.latency = latency;
  state.audio = state.hls?.audioTracks?.[state.hls.audioTrack]?.name;
  $('latency').textContent = latency === null ? '–' : `${latency.toFixed(2)} s`;
  $('resolution').textContent = video.videoWidth ? `${video.videoWidth}×${video.videoHeight}` : '–';
  const ahead = video.buffered.length ? video.buffered.end(video.buffered.length - 1) - video.currentTime : 0;
  $('buffer').textContent = `${Math.max(0, ahead).toFixed(1)} s`;
  $('stalls').textContent = state.stalls;
  $('dropped').textContent = video.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0;
  return ahead;
}
