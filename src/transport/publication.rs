//! [`PublicationId`] and the words around one publication: its events, its end, what is known of it.

use std::{fmt, str::FromStr, sync::Arc, time::Instant};

use super::PeerStats;
use crate::media::{RtpPacket, SenderReport, TrackIndex, TrackInfo};

/// Names one publication for ever: 128 random bits, written as 32 lower-case hexadecimal digits.
///
/// It is the last component of the WHIP session URL. Who does not know it cannot guess it, and a late request of an
/// earlier publisher never hits its successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicationId(u128);

impl PublicationId {
    /// A new one, from the operating system's random numbers.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for PublicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for PublicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no [`PublicationId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a publication id is 32 lower-case hexadecimal digits")]
pub struct InvalidPublicationId;

impl FromStr for PublicationId {
    type Err = InvalidPublicationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `from_str_radix` would also take a sign and capitals: one publication has one spelling.
        let digits = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(digits) {
            return Err(InvalidPublicationId);
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidPublicationId)
    }
}

/// What happens in a publication, in this order: `Started`, then packets and reports, then `Ended`, perhaps `Withdrawn`.
///
/// A publication that never connects has no events at all. Of two publications in one session, the first one's
/// `Ended` comes before the second one's `Started`.
#[derive(Clone, Debug)]
pub enum PublishEvent {
    /// The publisher is connected; media may follow.
    Started {
        /// Which publication.
        publication: PublicationId,
        /// What it will send, in the order that [`TrackIndex`] counts.
        tracks: Arc<[TrackInfo]>,
    },
    /// An RTP packet, in order of arrival: not reordered, duplicates possible.
    Rtp {
        /// Which publication.
        publication: PublicationId,
        /// Which of its tracks.
        track: TrackIndex,
        /// The packet.
        packet: RtpPacket,
        /// When it was read from the socket.
        arrival: Instant,
    },
    /// An RTCP sender report.
    SenderReport {
        /// Which publication.
        publication: PublicationId,
        /// Which of its tracks.
        track: TrackIndex,
        /// The report.
        report: SenderReport,
        /// When it was read from the socket.
        arrival: Instant,
    },
    /// The publication is over. Exactly once per `Started`; no media of this publication comes after it.
    Ended {
        /// Which publication.
        publication: PublicationId,
        /// Why.
        reason: EndReason,
    },
    /// The publisher, gone without a word ([`EndReason::Disconnected`], [`EndReason::TimedOut`] or
    /// [`EndReason::Failed`]), has deleted its WHIP session after all: it does not return. At most once per `Ended`;
    /// it may cross the `Started` of a successor and means nothing then.
    Withdrawn {
        /// Which publication.
        publication: PublicationId,
    },
}

impl PublishEvent {
    /// The publication this is about.
    pub const fn publication(&self) -> PublicationId {
        match self {
            Self::Started { publication, .. }
            | Self::Rtp { publication, .. }
            | Self::SenderReport { publication, .. }
            | Self::Ended { publication, .. }
            | Self::Withdrawn { publication } => *publication,
        }
    }
}

/// Why a publication ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The publisher said so (HTTP DELETE).
    Deleted,
    /// Another publisher took over.
    Replaced,
    /// The publisher closed the connection (DTLS `close_notify`).
    Disconnected,
    /// It never connected, or nothing came from it any more.
    TimedOut,
    /// An operator ended it.
    Kicked,
    /// The gateway is shutting down.
    Shutdown,
    /// Something broke; the text says what.
    Failed(String),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => f.write_str("ended by the publisher"),
            Self::Replaced => f.write_str("replaced by another publisher"),
            Self::Disconnected => f.write_str("connection closed by the publisher"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Kicked => f.write_str("ended by an operator"),
            Self::Shutdown => f.write_str("the gateway is shutting down"),
            Self::Failed(what) => write!(f, "failed: {what}"),
        }
    }
}

/// A publication that was accepted: what the client must be told.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Its name.
    pub id: PublicationId,
    /// The complete SDP answer.
    pub answer: String,
    /// Opaque tag of its ICE session, without quotes; changes with an ICE restart (RFC 9725 section 4.3.1).
    pub etag: String,
    /// The negotiated tracks.
    pub tracks: Arc<[TrackInfo]>,
}

/// An ICE restart that was made: what the client must be told (RFC 9725 section 4.3.3).
#[derive(Clone, Debug)]
pub struct RestartedIce {
    /// Tag of the new ICE session, without quotes.
    pub etag: String,
    /// Our new credentials and candidates.
    pub restart: super::IceRestart,
    /// The SDP answer of the publication, whose ICE options and media lines still hold.
    pub answer: Arc<str>,
}

/// What is known of the publication in place.
#[derive(Clone, Debug)]
pub struct PublicationInfo {
    /// Its name.
    pub id: PublicationId,
    /// The negotiated tracks.
    pub tracks: Arc<[TrackInfo]>,
    /// When its offer was answered.
    pub since: Instant,
    /// Whether ICE and DTLS are up (they stay so until the publication ends).
    pub connected: bool,
    /// When the last RTP packet arrived.
    pub last_rtp: Option<Instant>,
    /// The peer's counters.
    pub stats: PeerStats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = PublicationId::random();
        let text = id.to_string();
        assert_eq!(text.len(), 32);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(
            "0000000000000000000000000000000f".parse(),
            Ok(PublicationId(15))
        );
        for bad in [
            "",
            "f",
            "0000000000000000000000000000000F",
            "+000000000000000000000000000000f",
            "00000000000000000000000000000000f",
            "é00000000000000000000000000000",
        ] {
            assert_eq!(
                bad.parse::<PublicationId>(),
                Err(InvalidPublicationId),
                "{bad}"
            );
        }
    }
}
