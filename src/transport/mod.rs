//! The receiving end of a publication: offer in, answer out, RTP packets and sender reports to an observer.
//!
//! The WebRTC stack sits behind the [`Connector`] and [`Peer`] traits and can be exchanged without anything here
//! noticing. No HTTP here.

mod error;
mod offer;
mod peer;
pub mod webrtc;

use std::pin::Pin;

pub use self::{
    error::PublishError,
    peer::{
        Accepted, Connector, IceCredentials, IceRestart, Peer, PeerObserver, PeerStats,
        RemoteCandidate, RemoteCandidates,
    },
};

/// A boxed future, for the traits that are used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

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
