//! What a stream says of itself to operators: plain, serializable values.

use serde::Serialize;

use crate::media::MediaKind;

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No rendition has media yet.
    Starting,
    /// Playable.
    Live,
    /// Over: the playlists have their end.
    Ended,
}

/// A stream at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// `EXT-X-TARGETDURATION`, in seconds.
    pub target_duration_seconds: u64,
    /// Requests that are blocked.
    pub waiters: usize,
    /// Bytes of media held in memory, all renditions together.
    pub memory_bytes: u64,
    /// The renditions, in the order they were announced.
    pub renditions: Vec<RenditionStatus>,
}

/// One rendition at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RenditionStatus {
    /// Its name in URIs.
    pub name: String,
    /// Video or audio.
    pub kind: MediaKind,
    /// RFC 6381 codecs of the init segment in force.
    pub codecs: Option<String>,
    /// Width and height in pixels.
    pub resolution: Option<(u32, u32)>,
    /// Audio channels; 0 for video.
    pub channels: u8,
    /// Average bits per second since the start.
    pub average_bandwidth: u64,
    /// Samples per second since the encoding last changed: pictures, or audio frames.
    pub samples_per_second: f64,
    /// `EXT-X-MEDIA-SEQUENCE`.
    pub media_sequence: u64,
    /// Listed segments, the one in progress included.
    pub segments: usize,
    /// Parts listed one by one.
    pub parts: usize,
    /// Parts since the start.
    pub parts_total: u64,
    /// `PART-TARGET`, in seconds.
    pub part_target_seconds: f64,
    /// Discontinuities since the start of the stream.
    pub discontinuities: u64,
    /// Every segment so far began with a keyframe.
    pub independent_segments: bool,
    /// Bytes of media held in memory.
    pub memory_bytes: u64,
    /// Listed segments that are only in the recording (`hls.dvr`).
    pub archived_segments: usize,
    /// Those of them that were never recorded and are listed as gaps.
    pub gaps: usize,
    /// Bytes of memory that knowing about them takes.
    pub archive_bytes: u64,
    /// Seconds since the newest part came.
    pub last_part_age_seconds: Option<f64>,
}
