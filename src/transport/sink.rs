//! [`PublishSink`], where a publication's events go, and [`channel`], a ready-made one for embedders.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use super::{PublicationId, PublishEvent};

/// Receives the events of one session's publications.
///
/// Called on the transport's own tasks, one call at a time per publication, so it must never block: it is bounded
/// on its own side and counts what it drops. It may call
/// [`PublishTransport::request_keyframe`](super::PublishTransport::request_keyframe) and
/// [`PublishTransport::current`](super::PublishTransport::current).
pub trait PublishSink: Send + Sync + 'static {
    /// Takes one event.
    fn on_event(&self, event: PublishEvent);
}

/// A sink that fills a bounded channel, and the channel's other end.
///
/// Serves one [`PublishTransport`](super::PublishTransport). When the receiver is slow, packets and sender reports are
/// dropped and counted, `Withdrawn` as well. `Started` and `Ended` are not: the place for `Ended` is reserved when `Started` is sent, and a
/// publication for which there is no room at its start is left out as a whole. `capacity` is at least 3.
///
/// # Examples
///
/// ```
/// let (sink, mut events) = whipgate::transport::channel(1024);
/// assert_eq!(sink.dropped(), 0);
/// assert!(events.try_recv().is_err());
/// ```
pub fn channel(capacity: usize) -> (ChannelSink, mpsc::Receiver<PublishEvent>) {
    let (sender, receiver) = mpsc::channel(capacity.max(3));
    let sink = ChannelSink {
        sender,
        ending: Mutex::new(None),
        dropped: AtomicU64::new(0),
    };
    (sink, receiver)
}

/// The sending end of [`channel`].
pub struct ChannelSink {
    sender: mpsc::Sender<PublishEvent>,
    /// The publication that is being passed on, with the reserved place for its `Ended`.
    ending: Mutex<Option<(PublicationId, mpsc::OwnedPermit<PublishEvent>)>>,
    dropped: AtomicU64,
}

impl ChannelSink {
    /// Events that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn start(
        &self,
        event: PublishEvent,
    ) -> Option<(PublicationId, mpsc::OwnedPermit<PublishEvent>)> {
        let publication = event.publication();
        let end = self.sender.clone().try_reserve_owned().ok()?;
        self.sender.try_send(event).ok()?;
        Some((publication, end))
    }
}

impl PublishSink for ChannelSink {
    fn on_event(&self, event: PublishEvent) {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let passed_on = match &event {
            PublishEvent::Started { .. } => {
                *ending = self.start(event);
                ending.is_some()
            }
            PublishEvent::Ended { publication, .. } => {
                match ending.take_if(|(id, _)| id == publication) {
                    Some((_, place)) => {
                        place.send(event);
                        true
                    }
                    None => false,
                }
            }
            PublishEvent::Withdrawn { .. } => self.sender.try_send(event).is_ok(),
            PublishEvent::Rtp { publication, .. }
            | PublishEvent::SenderReport { publication, .. } => {
                ending.as_ref().is_some_and(|(id, _)| id == publication)
                    && self.sender.try_send(event).is_ok()
            }
        };
        if !passed_on {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for ChannelSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSink")
            .field("capacity", &self.sender.max_capacity())
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}
