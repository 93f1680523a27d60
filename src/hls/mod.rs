//! Low-latency HLS (RFC 8216bis) of one session: the media of its renditions while it is in reach of viewers, the
//! playlists over it, and the requests that wait for what comes next. Knows neither HTTP nor where media comes from.
//!
//! A media worker pushes init segments and parts into a [`Stream`]; readers ask the same handle for playlists and
//! media. Each playlist is rendered once per state, when the first reader asks for that state, and shared by all.
//! Parts live in memory while they are young; older ones are read back from the recording, once it has said where they
//! are ([`Stream::offload`]).
//!
//! | file | what |
//! | --- | --- |
//! | `stream` | the handle and what producers do |
//! | `reader` | what readers do, and waiting |
//! | `rendition`, `segment` | parts become segments; the sliding window |
//! | `archive`, `block` | DVR: segments that are older than the window, and their lines |
//! | `alignment` | discontinuities over all renditions |
//! | `succession` | what one stream hands to the next |
//! | `playlist`, `multivariant` | texts, pure |
//! | `vod` | the playlist of a finished recording, pure |
//! | `outline` | what the multivariant playlist says of the renditions |
//! | `keyframe` | the newest picture, for those who want one only |
//! | `name`, `directives` | names and queries, pure |

mod alignment;
mod archive;
mod bitrate;
mod block;
mod directives;
mod document;
mod error;
mod keyframe;
mod multivariant;
mod name;
mod outline;
mod playlist;
mod reader;
mod rendition;
mod segment;
mod status;
mod stream;
mod succession;
mod vod;

use std::time::Duration;

use crate::media::AudioFormat;

pub use directives::BlockingReload;
pub use document::{Chunk, Document, Resource};
pub use error::HlsError;
pub use keyframe::Keyframe;
pub use name::{Item, Name, RenditionId, StreamKey};
pub use status::{RenditionStatus, State, Status};
pub use stream::{PartKey, Stream};
pub use succession::{Progress, RenditionProgress};
pub use vod::{VodMap, VodPlaylist, VodSegment};

/// How a [`Stream`] is cut, kept and waited for. Fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Nominal part duration, the least that `PART-TARGET` says.
    pub part_duration: Duration,
    /// Nominal segment duration; `EXT-X-TARGETDURATION` is this, rounded up to seconds.
    pub segment_duration: Duration,
    /// The first segment of a stream ends where it can once it has this length: players begin only when there is a whole
    /// segment. At a keyframe for video, which the publisher has to be asked for.
    pub first_segment: Duration,
    /// How much complete media the playlists list at least; never less than three target durations.
    pub window: Duration,
    /// The playlists go back to the beginning of the stream: segments that are older than the window are read from the
    /// recording ([`Stream::recorded_in`]) and never leave the list. What is made on demand has the window only, since
    /// it is not recorded.
    pub dvr: bool,
    /// The forms in which sound is listed, the preferred one first. AAC is listed without being there, and then made
    /// while [`Stream::is_wanted`] says so.
    pub audio: Vec<AudioFormat>,
    /// How many requests may be blocked at once.
    pub max_waiters: usize,
    /// How long the multivariant playlist waits for the tracks that are missing once the first one is there.
    pub join_wait: Duration,
    /// How long a request waits for a stream that is just starting.
    pub start_wait: Duration,
}

impl Settings {
    /// `EXT-X-TARGETDURATION` in seconds, the same in every rendition (RFC 8216bis section 6.2.4).
    pub fn target_duration(&self) -> u64 {
        let whole = self.segment_duration.as_secs();
        let rounded = whole + u64::from(self.segment_duration.subsec_nanos() > 0);
        rounded.max(1)
    }

    /// How long after its end a stream is kept for viewers who are behind, and for late ones to see the end rather
    /// than a 404.
    pub fn reach(&self) -> Duration {
        self.window + self.segment_duration * 3
    }
}

impl Settings {
    /// How long a rendition that is made on demand goes on after the last request for it: longer than any request may
    /// be blocked.
    fn demand_lasts(&self) -> Duration {
        Duration::from_secs(10).max(Duration::from_secs(4 * self.target_duration()))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            part_duration: Duration::from_millis(200),
            segment_duration: Duration::from_secs(2),
            first_segment: Duration::from_secs(2),
            window: Duration::from_secs(30),
            dvr: false,
            audio: vec![AudioFormat::Opus],
            max_waiters: 10_000,
            join_wait: Duration::from_secs(2),
            start_wait: Duration::from_secs(5),
        }
    }
}
