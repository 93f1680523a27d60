//! [`PublishOptions`]: the figures of one session's receiving end.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

/// What happens to an offer that arrives while a publisher is in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// A publisher that is silent or never connected is replaced at once; otherwise the offer is held for
    /// [`PublishOptions::hold`], and refused if the publisher in place goes on sending.
    ///
    /// A plain refusal would lock a user out after a crash of the encoder; a plain replacement would let two encoders
    /// kick each other for ever.
    #[default]
    Probe,
    /// The newest publisher wins at once.
    Replace,
    /// The publisher in place stays, whatever its state.
    Reject,
}

impl fmt::Display for OnConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "probe",
            Self::Replace => "replace",
            Self::Reject => "reject",
        })
    }
}

/// A text that names no conflict rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown conflict rule {0:?}: expected probe, replace or reject")]
pub struct UnknownConflictRule(String);

impl FromStr for OnConflict {
    type Err = UnknownConflictRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "probe" => Ok(Self::Probe),
            "replace" => Ok(Self::Replace),
            "reject" => Ok(Self::Reject),
            other => Err(UnknownConflictRule(other.to_owned())),
        }
    }
}

/// How a [`PublishTransport`](super::PublishTransport) treats its publishers.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// What happens to an offer that arrives while a publisher is in place.
    pub on_conflict: OnConflict,
    /// A publisher without an RTP packet for this long counts as gone when another one comes.
    pub silence: Duration,
    /// How long an offer is held, in the hope that the publisher in place falls silent.
    pub hold: Duration,
    /// A publisher that has not connected (ICE and DTLS) this long after its answer is dropped.
    pub connect_timeout: Duration,
    /// Making an answer may take this long, candidates included.
    pub answer_timeout: Duration,
    /// ICE candidates one publication may send, those of the offer and those trickled together (RFC 9725 section 5).
    pub max_candidates: usize,
    /// Where negotiations, timers and closes run. `None`: the runtime that is current when the transport is made, or,
    /// without one, at the first offer.
    ///
    /// Set it when offers come from short-lived or single-threaded runtimes: an actix-web worker has a runtime of its
    /// own, which would then carry the peer's tasks and end with the worker.
    pub runtime: Option<Handle>,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            on_conflict: OnConflict::default(),
            silence: Duration::from_secs(2),
            hold: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(3),
            max_candidates: 100,
            runtime: None,
        }
    }
}
