//! [`PublishTransport`]: offers, candidates and ends of one session's publications, one request at a time.
//!
//! It must not know how a peer connects or where its packets go; who gets the place is decided in `place`.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::{
    Connector, EndReason, Publication, PublicationId, PublicationInfo, PublishError,
    PublishOptions, PublishSink, RemoteCandidates, RestartedIce,
    place::{Admission, CLOSE_LIMIT, Shared, new_etag},
};
use crate::media::TrackIndex;

/// A DELETE is answered after this long even when the close is not through.
const DELETE_WAIT: Duration = Duration::from_millis(300);
/// When to try again after "busy".
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// The receiving end of one session: takes one publisher at a time, successive ones over its life.
///
/// # Examples
///
/// Offer in, answer out, without HTTP:
///
/// ```
/// use std::sync::Arc;
/// use whipgate::transport::{Connector, PublishError, PublishOptions, PublishTransport, channel};
///
/// async fn receive(connector: Arc<dyn Connector>, offer: &str) -> Result<(), PublishError> {
///     let (sink, mut events) = channel(1024);
///     let transport = PublishTransport::new(connector, Arc::new(sink), PublishOptions::default());
///     let answer = transport.publish(offer).await?.answer;
///     // ... the answer goes to the publisher ...
///     while let Some(event) = events.recv().await {
///         // Started; Rtp and SenderReport; Ended
///     }
///     Ok(())
/// }
/// ```
pub struct PublishTransport {
    shared: Arc<Shared>,
}

impl PublishTransport {
    /// A receiving end without a publisher. See [`PublishOptions::runtime`] for where its tasks run.
    pub fn new(
        connector: Arc<dyn Connector>,
        sink: Arc<dyn PublishSink>,
        options: PublishOptions,
    ) -> Arc<Self> {
        let shared = Shared::new(connector, sink, options);
        Arc::new(Self {
            shared: Arc::new(shared),
        })
    }

    /// Answers an SDP offer and puts its publisher in place (RFC 9725 section 4.2).
    ///
    /// While another one is in place, [`PublishOptions::on_conflict`] decides. A publisher that is replaced is closed
    /// and its `Ended` comes before anything of the new one, but not before the new offer has proved acceptable. The
    /// new one must connect within [`PublishOptions::connect_timeout`].
    ///
    /// Dropping the future while the offer is held withdraws the offer.
    ///
    /// # Errors
    ///
    /// [`PublishError::Conflict`], [`PublishError::InvalidOffer`], [`PublishError::UnsupportedMedia`],
    /// [`PublishError::Overloaded`], [`PublishError::Unavailable`] after [`close`](Self::close).
    pub async fn publish(&self, offer: &str) -> Result<Publication, PublishError> {
        let shared = &self.shared;
        let candidates = count_candidates(offer);
        if candidates > shared.options.max_candidates {
            return Err(PublishError::TooManyCandidates {
                limit: shared.options.max_candidates,
            });
        }
        shared.runtime();
        let deadline = Instant::now() + shared.options.hold;
        loop {
            let freed = shared.freed.notified();
            tokio::pin!(freed);
            // Listen before looking, or the news between the two is lost.
            freed.as_mut().enable();
            let Ok(turn) = timeout_at(
                deadline.max(Instant::now() + shared.options.answer_timeout),
                Arc::clone(&shared.turn).lock_owned(),
            )
            .await
            else {
                return Err(PublishError::Overloaded {
                    retry_after: BUSY_RETRY,
                });
            };
            match shared.admit() {
                Admission::Take => {
                    return Arc::clone(shared)
                        .negotiate_in_task(offer.to_owned(), candidates, turn)
                        .await;
                }
                Admission::Refuse(error) => return Err(error),
                Admission::Wait(_) if Instant::now() >= deadline => {
                    return Err(shared.conflict());
                }
                Admission::Wait(until) => {
                    drop(turn);
                    tokio::select! {
                        () = tokio::time::sleep_until(until.min(deadline)) => {}
                        () = &mut freed => {}
                        () = shared.closing.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Hands the client's candidates to the publication `id`, or to the one now in place.
    ///
    /// # Errors
    ///
    /// [`PublishError::UnknownPublication`], [`PublishError::TooManyCandidates`] (none of them is taken then).
    pub async fn add_candidates(
        &self,
        id: Option<PublicationId>,
        candidates: RemoteCandidates,
    ) -> Result<(), PublishError> {
        let live = self.shared.find(id)?;
        let _changing = live.changing.lock().await;
        let limit = self.shared.options.max_candidates;
        let more = candidates.candidates.len();
        live.candidates
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sent| {
                sent.checked_add(more).filter(|sum| *sum <= limit)
            })
            .map_err(|_| PublishError::TooManyCandidates { limit })?;
        live.peer.add_candidates(candidates).await
    }

    /// Restarts ICE of the publication `id`, or of the one now in place, with the client's new credentials
    /// (RFC 9725 section 4.3.3). Media goes on over the old path until the new one is found.
    ///
    /// # Errors
    ///
    /// [`PublishError::UnknownPublication`], [`PublishError::TooManyCandidates`],
    /// [`PublishError::IceRestartUnsupported`], [`PublishError::IceRestartFailed`]; the ICE session in place and its
    /// tag are untouched then.
    pub async fn restart_ice(
        &self,
        id: Option<PublicationId>,
        candidates: RemoteCandidates,
    ) -> Result<RestartedIce, PublishError> {
        let live = self.shared.find(id)?;
        let _changing = live.changing.lock().await;
        let limit = self.shared.options.max_candidates;
        let count = candidates.candidates.len();
        if count > limit {
            return Err(PublishError::TooManyCandidates { limit });
        }
        let restart = live.peer.restart_ice(candidates).await?;
        // The limit is one of each ICE session: the candidates of the old one are gone.
        live.candidates.store(count, Ordering::Relaxed);
        let etag = new_etag();
        live.etag().clone_from(&etag);
        Ok(RestartedIce {
            etag,
            restart,
            answer: Arc::clone(&live.answer),
        })
    }

    /// Tag of the present ICE session of the publication `id`, or of the one now in place, without quotes.
    ///
    /// # Errors
    ///
    /// [`PublishError::UnknownPublication`].
    pub fn etag(&self, id: Option<PublicationId>) -> Result<String, PublishError> {
        Ok(self.shared.find(id)?.etag().clone())
    }

    /// Ends the publication `id`, or the one now in place, for `reason`. Its `Ended` is through when this returns, and
    /// the peer is closed or, should that take long, about to be.
    ///
    /// A publisher whose connection broke, or that closed it first, may still delete its publication by `id` until
    /// another one is in place: [`PublishEvent::Withdrawn`](super::PublishEvent::Withdrawn) follows.
    ///
    /// # Errors
    ///
    /// [`PublishError::UnknownPublication`], also for the second of two callers.
    pub async fn delete(
        &self,
        id: Option<PublicationId>,
        reason: EndReason,
    ) -> Result<(), PublishError> {
        let live = match (self.shared.find(id), id) {
            (Ok(live), _) => live,
            (Err(_), Some(id)) if reason == EndReason::Deleted => return self.shared.withdraw(id),
            (Err(error), _) => return Err(error),
        };
        if !self.shared.end(&live.gate, &reason) {
            return Err(PublishError::UnknownPublication);
        }
        if let Some(closed) = self.shared.close_in_task(&live) {
            // Out of time is no failure: the task goes on without us.
            timeout(DELETE_WAIT, closed).await.ok();
        }
        Ok(())
    }

    /// Asks the publisher in place for a keyframe on `track`; does nothing without one. Never blocks.
    pub fn request_keyframe(&self, track: TrackIndex) {
        if let Ok(live) = self.shared.find(None) {
            live.peer.request_keyframe(track);
        }
    }

    /// The publication in place.
    pub fn current(&self) -> Option<PublicationInfo> {
        let live = self.shared.find(None).ok()?;
        Some(PublicationInfo {
            id: live.id(),
            tracks: Arc::clone(&live.tracks),
            since: live.gate.created(),
            connected: live.gate.connected_at().is_some(),
            last_rtp: live.gate.last_rtp(),
            stats: live.peer.stats(),
        })
    }

    /// Ends the publication in place, refuses all further offers, those that wait included, and waits (2.5 s at most)
    /// until every peer is closed.
    pub async fn close(&self, reason: EndReason) {
        let shared = &self.shared;
        // Closed here and not in a task: at shutdown the runtime of the tasks may be gone before the caller's.
        if let Some(live) = shared.shut(&reason) {
            timeout(CLOSE_LIMIT, live.peer.close()).await.ok();
        }
        if timeout(CLOSE_LIMIT, shared.tasks.wait()).await.is_err() {
            warn!("a peer did not close in time");
        }
    }
}

impl Drop for PublishTransport {
    fn drop(&mut self) {
        if let Some(live) = self.shared.shut(&EndReason::Shutdown) {
            self.shared.close_in_task(&live);
        }
    }
}

impl fmt::Debug for PublishTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.shared.find(None).ok();
        f.debug_struct("PublishTransport")
            .field("options", &self.shared.options)
            .field("publication", &live.map(|live| live.id()))
            .finish_non_exhaustive()
    }
}

fn count_candidates(sdp: &str) -> usize {
    sdp.lines()
        .filter(|line| line.starts_with("a=candidate:"))
        .count()
}
