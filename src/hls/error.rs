//! Why a reader's request is not answered with a playlist or media.

use std::time::Duration;

/// A refusal, in the words of the protocol; the HTTP surface gives each its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HlsError {
    /// The name is neither listed nor hinted, or no longer available (RFC 8216bis section 6.2.6): 404.
    #[error("no such playlist, segment or part in this stream")]
    NotFound,
    /// The stream is starting and has nothing to list yet: 503 with `Retry-After`, or 404 for players that poll on it.
    #[error("the stream is starting and has no media yet; retry in {} s", .retry_after.as_secs_f32().ceil())]
    NotReady {
        /// When asking again makes sense.
        retry_after: Duration,
    },
    /// A delivery directive that is malformed or asks for media too far ahead (section 6.2.5.2): 400.
    #[error("{0}")]
    BadRequest(String),
    /// The media asked for did not come within three target durations (section 6.2.5.2): 503.
    #[error("the media asked for did not come within three target durations")]
    Timeout,
    /// As many requests as [`crate::hls::Settings::max_waiters`] allows are blocked already: 503 with `Retry-After`.
    #[error("too many requests are waiting for this stream")]
    Overloaded {
        /// When asking again makes sense.
        retry_after: Duration,
    },
}
