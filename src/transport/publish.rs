//! [`PublishTransport`]: one session's place for a publisher, and who gets it.
//!
//! Owns the place, the rules of conflict and the tasks that watch over a publication. It must not know how a peer
//! connects or where its packets go.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant as StdInstant},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedMutexGuard},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Accepted, Connector, EndReason, OnConflict, Peer, PeerObserver, Publication, PublicationId,
    PublicationInfo, PublishError, PublishEvent, PublishOptions, PublishSink, RemoteCandidates,
    RestartedIce, gate::Gate,
};
use crate::media::{RtpPacket, SenderReport, TrackIndex, TrackInfo};

/// A peer's close may take this long ([`Peer::close`] promises 2 s).
const CLOSE_LIMIT: Duration = Duration::from_millis(2500);
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
/// async fn answer(connector: Arc<dyn Connector>, offer: &str) -> Result<String, PublishError> {
///     let (sink, mut events) = channel(1024);
///     let transport = PublishTransport::new(connector, Arc::new(sink), PublishOptions::default());
///     tokio::spawn(async move {
///         while let Some(event) = events.recv().await {
///             // Started, Rtp, SenderReport, Ended
///         }
///     });
///     Ok(transport.publish(offer).await?.answer)
/// }
/// ```
pub struct PublishTransport {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Arc<dyn Connector>,
    sink: Arc<dyn PublishSink>,
    options: PublishOptions,
    runtime: OnceLock<Handle>,
    /// Never held while the sink or a gate is called: a sink may ask for a keyframe from within an event.
    place: Mutex<Place>,
    /// Held while an offer is negotiated, so that two newcomers never do it at once.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The place became free.
    freed: Notify,
    /// Cancelled by `close`: offers that wait give up.
    closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Place {
    live: Option<Arc<Live>>,
    /// No publisher is taken any more.
    closed: bool,
}

/// The publication in place.
struct Live {
    gate: Arc<Gate>,
    tracks: Arc<[TrackInfo]>,
    peer: Arc<dyn Peer>,
    answer: Arc<str>,
    etag: Mutex<String>,
    /// Candidates of the present ICE session so far, those of the offer included.
    candidates: AtomicUsize,
    /// Held while candidates are added or ICE is restarted, so that answers and tags come in order.
    changing: tokio::sync::Mutex<()>,
}

impl Live {
    fn id(&self) -> PublicationId {
        self.gate.id()
    }

    fn etag(&self) -> MutexGuard<'_, String> {
        self.etag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an offer may do right now.
enum Admission {
    /// Negotiate and take the place.
    Take,
    /// The publisher in place is sending; it counts as gone at this time unless it sends more.
    Wait(Instant),
    Refuse(PublishError),
}

impl PublishTransport {
    /// A receiving end without a publisher. See [`PublishOptions::runtime`] for where its tasks run.
    pub fn new(
        connector: Arc<dyn Connector>,
        sink: Arc<dyn PublishSink>,
        mut options: PublishOptions,
    ) -> Arc<Self> {
        let runtime = OnceLock::new();
        if let Some(handle) = options
            .runtime
            .take()
            .or_else(|| Handle::try_current().ok())
        {
            runtime.get_or_init(|| handle);
        }
        Arc::new(Self {
            shared: Arc::new(Shared {
                connector,
                sink,
                options,
                runtime,
                place: Mutex::default(),
                turn: Arc::default(),
                freed: Notify::new(),
                closing: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
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
        shared.runtime.get_or_init(Handle::current);
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
    /// # Errors
    ///
    /// [`PublishError::UnknownPublication`], also for the second of two callers.
    pub async fn delete(
        &self,
        id: Option<PublicationId>,
        reason: EndReason,
    ) -> Result<(), PublishError> {
        let live = self.shared.find(id)?;
        if !self.shared.end(&live.gate, reason) {
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
        if let Some(live) = shared.shut(reason) {
            timeout(CLOSE_LIMIT, live.peer.close()).await.ok();
        }
        if timeout(CLOSE_LIMIT, shared.tasks.wait()).await.is_err() {
            warn!("a peer did not close in time");
        }
    }
}

impl Drop for PublishTransport {
    fn drop(&mut self) {
        if let Some(live) = self.shared.shut(EndReason::Shutdown) {
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

impl Shared {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conflict(&self) -> PublishError {
        PublishError::Conflict {
            // By then a publisher that has died meanwhile is known to be silent.
            retry_after: self.options.silence,
        }
    }

    fn shutting_down() -> PublishError {
        PublishError::Unavailable("the session is shutting down".to_owned())
    }

    /// What an offer may do right now.
    fn admit(&self) -> Admission {
        let live = {
            let place = self.place();
            if place.closed {
                return Admission::Refuse(Self::shutting_down());
            }
            match &place.live {
                Some(live) => Arc::clone(live),
                None => return Admission::Take,
            }
        };
        match self.options.on_conflict {
            OnConflict::Replace => Admission::Take,
            OnConflict::Reject => Admission::Refuse(self.conflict()),
            OnConflict::Probe => match live.gate.silent_since() {
                None => Admission::Take,
                Some(since) => {
                    let gone = Instant::from_std(since) + self.options.silence;
                    if Instant::now() >= gone {
                        Admission::Take
                    } else {
                        Admission::Wait(gone)
                    }
                }
            },
        }
    }

    /// Negotiates in a task of its own: a client that hangs up meanwhile never leaves half a publication behind.
    async fn negotiate_in_task(
        self: Arc<Self>,
        offer: String,
        candidates: usize,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Publication, PublishError> {
        let runtime = self.runtime.get_or_init(Handle::current).clone();
        let id = PublicationId::random();
        let shared = Arc::clone(&self);
        let task = async move {
            let negotiated = shared.negotiate(id, &offer, candidates).await;
            drop(turn);
            negotiated
        };
        let span = info_span!("publication", %id);
        self.tasks
            .spawn_on(task.instrument(span), &runtime)
            .await
            .unwrap_or_else(|error| Err(PublishError::internal(error)))
    }

    async fn negotiate(
        self: &Arc<Self>,
        id: PublicationId,
        offer: &str,
        candidates: usize,
    ) -> Result<Publication, PublishError> {
        let gate = Arc::new(Gate::new(id, Arc::clone(&self.sink)));
        let observer = Arc::new(Observer {
            gate: Arc::clone(&gate),
            shared: Arc::downgrade(self),
        });
        debug!(offer, "negotiating");
        let accepted = timeout(
            self.options.answer_timeout,
            self.connector.accept(offer, observer),
        )
        .await
        .unwrap_or_else(|_| {
            Err(PublishError::Unavailable(
                "making the answer took too long".to_owned(),
            ))
        });
        let Accepted {
            answer,
            ice,
            tracks,
            peer,
        } = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Whatever the stack still holds of this peer must not reach the sink.
                gate.end(EndReason::Failed(error.to_string()));
                return Err(error);
            }
        };
        debug!(answer, "answered");
        let live = Arc::new(Live {
            gate,
            tracks: Arc::clone(&tracks),
            peer,
            answer: answer.as_str().into(),
            etag: Mutex::new(new_etag()),
            candidates: AtomicUsize::new(candidates),
            changing: tokio::sync::Mutex::default(),
        });
        let etag = live.etag().clone();
        self.install(&live)?;
        info!(
            ufrag = ice.ufrag,
            tracks = tracks.len(),
            "publication accepted"
        );
        Ok(Publication {
            id,
            answer,
            etag,
            tracks,
        })
    }

    /// Puts `live` in place; whoever was there is ended and closed.
    fn install(self: &Arc<Self>, live: &Arc<Live>) -> Result<(), PublishError> {
        let before = {
            let mut place = self.place();
            if place.closed {
                drop(place);
                self.close_in_task(live);
                return Err(Self::shutting_down());
            }
            place.live.replace(Arc::clone(live))
        };
        if let Some(before) = before {
            // One that is ending by itself at this moment is waited for here: its gate is locked until `Ended` is out.
            if before.gate.end(EndReason::Replaced) {
                info!(replaced = %before.id(), "another publisher takes over");
            }
            self.close_in_task(&before);
        }
        if !live.gate.open(Arc::clone(&live.tracks)) {
            self.vacate(live.id());
            self.close_in_task(live);
            return Err(PublishError::Unavailable(
                "the connection broke while it was made".to_owned(),
            ));
        }
        self.watch_connect(live);
        Ok(())
    }

    /// Frees the place of a publication that has not connected in time.
    fn watch_connect(self: &Arc<Self>, live: &Arc<Live>) {
        let shared = Arc::downgrade(self);
        let live = Arc::clone(live);
        let limit = self.options.connect_timeout;
        self.spawn(async move {
            if timeout(limit, live.gate.settled()).await.is_ok() {
                return;
            }
            if let Some(shared) = shared.upgrade()
                && shared.end(&live.gate, EndReason::TimedOut)
            {
                info!("the publisher did not connect in time");
                shared.close_in_task(&live);
            }
        });
    }

    /// The publication in place, if it is `id` (or whichever).
    fn find(&self, id: Option<PublicationId>) -> Result<Arc<Live>, PublishError> {
        self.place()
            .live
            .as_ref()
            .filter(|live| id.is_none_or(|id| id == live.id()))
            .map(Arc::clone)
            .ok_or(PublishError::UnknownPublication)
    }

    /// Ends a publication and frees its place; true for exactly one caller, who then sees to the peer.
    fn end(&self, gate: &Gate, reason: EndReason) -> bool {
        let ended = gate.end(reason.clone());
        if ended {
            info!(publication = %gate.id(), %reason, "publication ended");
            self.vacate(gate.id());
        }
        ended
    }

    /// Frees the place of `id`, after its `Ended`: who finds the place free may start at once.
    fn vacate(&self, id: PublicationId) -> Option<Arc<Live>> {
        let live = self.place().live.take_if(|live| live.id() == id);
        if live.is_some() {
            self.freed.notify_waiters();
        }
        live
    }

    /// Takes no publisher any more and ends the one in place, whose peer the caller closes.
    fn shut(&self, reason: EndReason) -> Option<Arc<Live>> {
        let live = {
            let mut place = self.place();
            place.closed = true;
            place.live.clone()
        };
        self.closing.cancel();
        self.tasks.close();
        live.filter(|live| self.end(&live.gate, reason))
    }

    /// Closes the peer in a task of its own. `None` without a runtime to run it on.
    fn close_in_task(&self, live: &Live) -> Option<tokio::task::JoinHandle<()>> {
        let peer = Arc::clone(&live.peer);
        let id = live.id();
        self.spawn(async move {
            if timeout(CLOSE_LIMIT, peer.close()).await.is_err() {
                warn!(publication = %id, "the peer did not close in time");
            }
        })
    }

    fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<tokio::task::JoinHandle<()>> {
        let runtime = self.runtime.get()?;
        Some(self.tasks.spawn_on(task.in_current_span(), runtime))
    }
}

/// What a peer reports to. Holds the gate directly, so that a packet takes no detour.
struct Observer {
    gate: Arc<Gate>,
    shared: Weak<Shared>,
}

impl PeerObserver for Observer {
    fn on_connected(&self) {
        self.gate.connected();
    }

    fn on_rtp(&self, track: TrackIndex, packet: RtpPacket, arrival: StdInstant) {
        self.gate.rtp(arrival, |publication| PublishEvent::Rtp {
            publication,
            track,
            packet,
            arrival,
        });
    }

    fn on_sender_report(&self, track: TrackIndex, report: SenderReport, arrival: StdInstant) {
        self.gate.pass(|publication| PublishEvent::SenderReport {
            publication,
            track,
            report,
            arrival,
        });
    }

    fn on_closed(&self, reason: EndReason) {
        let Some(shared) = self.shared.upgrade() else {
            self.gate.end(reason);
            return;
        };
        // Found before it is ended, for the end takes it out of its place.
        let live = shared.find(Some(self.gate.id())).ok();
        if shared.end(&self.gate, reason)
            && let Some(live) = live
        {
            shared.close_in_task(&live);
        }
    }
}

/// A tag that no two ICE sessions share (RFC 9725 section 4.3.1).
fn new_etag() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn count_candidates(sdp: &str) -> usize {
    sdp.lines()
        .filter(|line| line.starts_with("a=candidate:"))
        .count()
}
