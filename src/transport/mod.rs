//! The receiving end of a publication: offer in, answer out, RTP packets and sender reports to a sink.
//!
//! Owns who may publish into a session and for how long: [`PublishTransport`] takes one publisher at a time and
//! decides what happens when a second one comes. It knows neither HTTP (that is [`whip`](crate::whip)) nor what
//! becomes of the packets. The WebRTC stack sits behind the [`Connector`] and [`Peer`] traits and can be exchanged
//! without anything here noticing; tests drive the same rules with a fake one.
//!
//! ```text
//! offer ---> PublishTransport ---> Connector::accept ---> Peer          (candidates, keyframe requests, close)
//!                  ^                                        |
//!                  +--------- PeerObserver <----------------+          (connected, RTP, sender reports, closed)
//!                  |
//!                  v
//!             PublishSink      Started, Rtp and SenderReport in between, Ended
//! ```

mod error;
#[cfg(test)]
mod fake;
mod gate;
mod offer;
mod options;
mod peer;
mod place;
mod publication;
mod publish;
mod sink;
#[cfg(test)]
mod tests;
pub mod webrtc;

use std::pin::Pin;

#[cfg(test)]
use crate::{media, transport};

pub use self::{
    error::PublishError,
    options::{OnConflict, PublishOptions},
    peer::{
        Accepted, Connector, IceCredentials, IceRestart, Peer, PeerObserver, PeerStats,
        RemoteCandidate, RemoteCandidates,
    },
    publication::{
        EndReason, InvalidPublicationId, Publication, PublicationId, PublicationInfo, PublishEvent,
        RestartedIce,
    },
    publish::PublishTransport,
    sink::{ChannelSink, PublishSink, channel},
};

/// A boxed future, for the traits that are used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
