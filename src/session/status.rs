//! What a session says of itself to operators: plain, serializable values, and findings in plain words.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    outputs::RecordingStatus,
    publication::{Publication, TrackStatus as TrackState},
};
use crate::{
    hls,
    id::SessionId,
    media::{Codec, MediaKind},
    telemetry::Metrics,
    timeline::MappingSource,
    transport::PublicationInfo,
};

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A publisher is expected: nothing is playable yet.
    #[default]
    Starting,
    /// Media arrives.
    Live,
    /// A publisher is in place but nothing has arrived from it for 2 s.
    Stalled,
    /// The publisher is gone; the playlist waits for its return.
    Reconnecting,
    /// Over.
    Ended,
    /// Broke.
    Failed,
}

/// A session at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub id: SessionId,
    /// Where it is in its life.
    pub state: State,
    /// When the publication in place began, seconds since the Unix epoch as RFC 3339.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<time::OffsetDateTime>,
    /// The publication in place, as in the session URL.
    pub publication: Option<String>,
    /// How its publisher is connected.
    pub connection: Option<Connection>,
    /// Its tracks.
    pub tracks: Vec<Track>,
    /// How much later than its picture sound is presented, in ms, measured against the publisher's sender reports;
    /// negative when it is early. `None` unless there are sound and picture.
    pub av_offset_ms: Option<f64>,
    /// The true offset is `av_offset_ms` plus or minus this.
    pub av_offset_uncertainty_ms: Option<f64>,
    /// Playlists and memory.
    pub hls: Option<hls::Status>,
    /// The recording of the publication in place.
    pub recording: Recording,
    /// What an operator should know or change, in plain words.
    pub findings: Vec<String>,
    /// Events that found the session's queue full.
    pub dropped_events: u64,
}

/// A publisher's connection at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// Where its media comes from, once known.
    pub remote_address: Option<SocketAddr>,
    /// Packets asked for again (RTCP NACK, RFC 4585 section 6.2.1).
    pub nacks_sent: u64,
    /// Keyframes asked for (PLI or FIR).
    pub keyframe_requests: u64,
}

impl From<&PublicationInfo> for Connection {
    fn from(publication: &PublicationInfo) -> Self {
        Self {
            remote_address: publication.stats.remote_address,
            nacks_sent: publication.stats.nacks_sent,
            keyframe_requests: publication.stats.plis_sent,
        }
    }
}

/// One track at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Track {
    /// Video or audio.
    pub kind: MediaKind,
    /// Codec that viewers get.
    pub codec: Codec,
    /// Codec that the publisher sends, if it is another one.
    pub transcoded_from: Option<Codec>,
    /// Picture size as `1280x720`.
    pub resolution: Option<String>,
    /// RTP payload received over the last second or so.
    pub bits_per_second: u64,
    /// RTP packets received.
    pub packets: u64,
    /// Packets that never came.
    pub packets_lost: u64,
    /// Packets that came in time after they were missed.
    pub packets_recovered: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1) in milliseconds.
    pub jitter_ms: f64,
    /// Whether presentation times follow the publisher's sender reports.
    pub synchronized: bool,
    /// Time between the last two keyframes in seconds.
    pub keyframe_interval_seconds: Option<f64>,
}

/// The recording of the publication in place.
#[derive(Clone, Debug, Serialize)]
pub struct Recording {
    /// `off`, `waiting`, `writing` or `failed`.
    pub state: &'static str,
    /// File name within the session's folder.
    pub file: Option<String>,
    /// Bytes written.
    pub bytes: u64,
    /// Why it failed.
    pub error: Option<String>,
}

impl From<RecordingStatus> for Recording {
    fn from(status: RecordingStatus) -> Self {
        let (state, file, bytes, error) = match status {
            RecordingStatus::Off => ("off", None, 0, None),
            RecordingStatus::Waiting => ("waiting", None, 0, None),
            RecordingStatus::Writing(file, bytes) => ("writing", Some(file), bytes, None),
            RecordingStatus::Failed(error) => ("failed", None, 0, Some(error.to_string())),
        };
        Self {
            state,
            file,
            bytes,
            error,
        }
    }
}

/// Time without usable sender reports after which it is worth a word: `FFmpeg` sends one every 5 s.
const NO_REPORTS: Duration = Duration::from_secs(8);

/// Nanoseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "microseconds are enough")]
pub(super) fn millis(nanos: i64) -> f64 {
    (nanos / 1_000) as f64 / 1_000.0
}

/// Turns the counters of the tracks into rates, and passes what was added to them on to the metrics.
#[derive(Debug, Default)]
pub(super) struct Rates {
    before: Vec<Counters>,
    per_second: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    bytes: u64,
    packets: u64,
    lost: u64,
}

impl Rates {
    /// Takes the counters of all tracks, `elapsed` after the last time.
    pub(super) fn update(
        &mut self,
        publication: &Publication,
        elapsed: Duration,
        metrics: &Metrics,
    ) {
        let millis = u64::try_from(elapsed.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        self.per_second.clear();
        for (index, TrackState { info, stats, .. }) in publication.tracks().enumerate() {
            let now = Counters {
                bytes: stats.bytes,
                packets: stats.packets,
                lost: stats.lost,
            };
            let before = self.before.get(index).copied().unwrap_or_default();
            self.per_second
                .push((now.bytes.saturating_sub(before.bytes)).saturating_mul(8_000) / millis);
            let kind = info.codec.kind().into();
            metrics
                .rtp_packets
                .get_or_create(&kind)
                .inc_by(now.packets.saturating_sub(before.packets));
            metrics
                .rtp_packets_lost
                .get_or_create(&kind)
                .inc_by(now.lost.saturating_sub(before.lost));
            match self.before.get_mut(index) {
                Some(slot) => *slot = now,
                None => self.before.push(now),
            }
        }
    }

    fn get(&self, index: usize) -> u64 {
        self.per_second.get(index).copied().unwrap_or(0)
    }
}

/// The tracks of a publication and what is to be said about them.
pub(super) fn tracks(
    publication: &Publication,
    rates: &Rates,
    segment: Duration,
) -> (Vec<Track>, Vec<String>) {
    let mut findings = Vec::new();
    let tracks = publication
        .tracks()
        .enumerate()
        .map(|(index, track)| {
            findings.extend(finding(&track, segment));
            Track {
                kind: track.info.codec.kind(),
                codec: track.info.codec.transcoded_to().unwrap_or(track.info.codec),
                transcoded_from: track.info.codec.transcoded_to().map(|_| track.info.codec),
                resolution: track
                    .resolution
                    .map(|(width, height)| format!("{width}x{height}")),
                bits_per_second: rates.get(index),
                packets: track.stats.packets,
                packets_lost: track.stats.lost,
                packets_recovered: track.stats.recovered,
                jitter_ms: track.stats.jitter.as_secs_f64() * 1_000.0,
                synchronized: track.stats.source == Some(MappingSource::SenderReport),
                keyframe_interval_seconds: track
                    .keyframes
                    .and_then(|(interval, _)| interval)
                    .map(|t| t.as_secs_f64()),
            }
        })
        .collect();
    (tracks, findings)
}

fn finding(track: &TrackState, segment: Duration) -> Option<String> {
    let codec = track.info.codec;
    if track.failed {
        return Some(format!(
            "the {codec} track cannot be processed and is left out; the log says why"
        ));
    }
    if track
        .aligned_by_arrival
        .is_some_and(|time| time > NO_REPORTS)
    {
        return Some(format!(
            "sound and picture are aligned by arrival only: no usable RTCP sender reports come for the {codec} track, so \
             lip-sync may be off by as much as one track takes longer than the other; let the publisher send sender \
             reports of one clock for all tracks, and let RTCP through"
        ));
    }
    match track.keyframes {
        Some((Some(interval), true)) if interval > segment.mul_f64(1.25) => Some(format!(
            "keyframes come every {:.1} s and requests for more are ignored: set the encoder's keyframe interval to {} s \
             (OBS: Settings, Output, Keyframe Interval)",
            interval.as_secs_f64(),
            segment.as_secs_f64()
        )),
        _ => None,
    }
}

/// A wall-clock time for JSON.
pub(super) fn utc(time: SystemTime) -> time::OffsetDateTime {
    time.into()
}
