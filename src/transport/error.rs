//! [`PublishError`]: why a publication could not be made or changed, in the words of the domain.
//!
//! No HTTP here: `whip::error` alone turns these into statuses.

use std::{error::Error, time::Duration};

/// Why an offer, a candidate or the end of a publication was refused.
///
/// Texts go to the client that sent the request, so they say what was wrong with it and never hold a secret;
/// the source of [`Internal`](Self::Internal) is for the log only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The offer is not SDP, or not an offer a WHIP client may send (RFC 9725 sections 4.2 and 4.4).
    #[error("invalid offer: {0}")]
    InvalidOffer(String),
    /// The offer is well-formed but asks for something that cannot be received (codec, number of tracks).
    #[error("the offered media cannot be taken: {0}")]
    UnsupportedMedia(String),
    /// Another publisher is in place and stays there.
    #[error("the session is live: another publisher is sending to it")]
    Conflict {
        /// How long to wait before another try makes sense.
        retry_after: Duration,
    },
    /// There is no session of this name. Said by whoever hands out transports.
    #[error("there is no session of this name")]
    UnknownSession,
    /// The publication is over, was replaced, or never was.
    #[error("there is no such publication in this session")]
    UnknownPublication,
    /// The publication has sent as many candidates as one may.
    #[error("a publication may send at most {limit} ICE candidates")]
    TooManyCandidates {
        /// [`PublishOptions::max_candidates`](super::PublishOptions::max_candidates).
        limit: usize,
    },
    /// The peer cannot restart ICE; its present ICE session goes on (RFC 9725 section 4.3.3).
    #[error("ICE restarts are not supported")]
    IceRestartUnsupported,
    /// The restart could not be made with what was sent; the present ICE session goes on (RFC 9725 section 4.3.3).
    #[error("the ICE restart failed: {0}")]
    IceRestartFailed(String),
    /// Too much to do right now.
    #[error("the gateway is busy")]
    Overloaded {
        /// How long to wait before another try makes sense.
        retry_after: Duration,
    },
    /// The publisher may not publish here.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// Cannot be done now for a reason that lies on this side (shutting down, disk not writable).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A failure of ours.
    #[error("internal error")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

impl PublishError {
    /// Wraps any error, or a text, as [`PublishError::Internal`].
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }
}
