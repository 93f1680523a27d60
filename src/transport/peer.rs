//! What a WebRTC stack must offer to be published through: [`Connector`] and [`Peer`], and what it reports back by
//! [`PeerObserver`].
//!
//! SDP crosses this border as text and candidates as lines, so that no type of any stack leaks out of its module.

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use super::{BoxFuture, EndReason, PublishError};
use crate::media::{RtpPacket, SenderReport, TrackIndex, TrackInfo};

/// Makes peers out of offers: the WebRTC stack.
pub trait Connector: Send + Sync + 'static {
    /// Answers `offer`, an SDP session description, and starts a peer that reports to `observer`.
    ///
    /// The answer follows RFC 9725 sections 4.2 and 4.4 and is complete: it holds all candidates. The observer may be
    /// called before this returns. Dropping the future frees whatever was made so far.
    ///
    /// # Errors
    ///
    /// [`PublishError::InvalidOffer`] or [`PublishError::UnsupportedMedia`] when the offer cannot be taken as a whole,
    /// [`PublishError::Overloaded`], [`PublishError::Unavailable`] or [`PublishError::Internal`] when this side is at fault.
    fn accept<'a>(
        &'a self,
        offer: &'a str,
        observer: Arc<dyn PeerObserver>,
    ) -> BoxFuture<'a, Result<Accepted, PublishError>>;
}

/// An offer that was answered.
pub struct Accepted {
    /// The complete SDP answer.
    pub answer: String,
    /// Our ICE credentials in it.
    pub ice: IceCredentials,
    /// The negotiated tracks, in the order of the offer's media lines.
    pub tracks: Arc<[TrackInfo]>,
    /// The connection that was started.
    pub peer: Arc<dyn Peer>,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("ice", &self.ice)
            .field("tracks", &self.tracks)
            .finish_non_exhaustive()
    }
}

/// One side's ICE credentials (RFC 8839 section 5.4).
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// User fragment, names the ICE session.
    pub ufrag: String,
    /// Password. Never logged.
    pub pwd: String,
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials")
            .field("ufrag", &self.ufrag)
            .finish_non_exhaustive()
    }
}

/// What a client trickled in one request (RFC 8840).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteCandidates {
    /// The credentials of the ICE session the candidates belong to, when they were said.
    pub ice: Option<IceCredentials>,
    /// The candidates, in the order they came.
    pub candidates: Vec<RemoteCandidate>,
    /// The client says that no more will come. Requests overtake each other, so candidates may well follow.
    pub end_of_candidates: bool,
}

/// One candidate of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCandidate {
    /// `a=mid` of the media line it was under.
    pub mid: Option<String>,
    /// Index of the media line within the fragment, counted from 0, when the line had no mid.
    pub mline_index: Option<u16>,
    /// The attribute as in SDP without `a=`: `candidate:1 1 udp 2130706431 192.0.2.1 3478 typ host`.
    pub candidate: String,
}

/// Our side of an ICE restart (RFC 9725 section 4.3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceRestart {
    /// Our new credentials.
    pub ice: IceCredentials,
    /// Our candidates, each as in SDP without `a=`.
    pub candidates: Vec<String>,
}

/// One publisher's connection.
pub trait Peer: Send + Sync + 'static {
    /// Takes candidates of the client. Those that cannot be used (transport, unresolvable name, old credentials) are
    /// dropped silently and the rest is taken (RFC 9725 section 4.3.2).
    fn add_candidates(
        &self,
        candidates: RemoteCandidates,
    ) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Restarts ICE with the client's new credentials; `candidates.ice` is set. On an error the ICE session in place
    /// goes on unharmed.
    ///
    /// # Errors
    ///
    /// [`PublishError::IceRestartUnsupported`], [`PublishError::IceRestartFailed`].
    fn restart_ice(
        &self,
        candidates: RemoteCandidates,
    ) -> BoxFuture<'_, Result<IceRestart, PublishError>>;

    /// Asks the publisher for a keyframe on `track` (RTCP PLI, RFC 4585 section 6.3.1). Never blocks.
    fn request_keyframe(&self, track: TrackIndex);

    /// Sends a DTLS `close_notify` and frees everything. Takes 2 s at most; a second call does nothing.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Counters since the start.
    fn stats(&self) -> PeerStats;
}

/// Counters of one peer since its start, all tracks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// RTP packets received.
    pub packets: u64,
    /// Bytes of RTP payload received.
    pub bytes: u64,
    /// RTP packets that never came, as far as known.
    pub lost: u64,
    /// Packets asked for again by NACK.
    pub nacks_sent: u64,
    /// Keyframes asked for by PLI.
    pub plis_sent: u64,
    /// Where the publisher sends from, once known.
    pub remote_address: Option<SocketAddr>,
}

/// What a peer reports. Called on the stack's own tasks: never blocks.
pub trait PeerObserver: Send + Sync + 'static {
    /// ICE and DTLS are up.
    fn on_connected(&self);

    /// An RTP packet, decrypted, in order of arrival. `arrival` is the time it was read from the socket.
    fn on_rtp(&self, track: TrackIndex, packet: RtpPacket, arrival: Instant);

    /// An RTCP sender report.
    fn on_sender_report(&self, track: TrackIndex, report: SenderReport, arrival: Instant);

    /// The connection is over: the publisher closed it, or nothing came from it for the stack's limit.
    fn on_closed(&self, reason: EndReason);
}
