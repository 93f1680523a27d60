//! [`Shared`]: the place for one publisher, who may take it, and how it becomes free again.
//!
//! The inside of [`PublishTransport`](super::PublishTransport), whose methods are about one request each; here is what
//! outlives a request. Everything that ends a publication comes through [`Shared::end`], once.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, atomic::AtomicUsize},
    time::{Duration, Instant as StdInstant},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedMutexGuard},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Accepted, Connector, EndReason, OnConflict, Peer, PeerObserver, Publication, PublicationId,
    PublishError, PublishEvent, PublishOptions, PublishSink, gate::Gate,
};
use crate::media::{RtpPacket, SenderReport, TrackIndex, TrackInfo};

/// A peer's close may take this long ([`Peer::close`] promises 2 s).
pub(super) const CLOSE_LIMIT: Duration = Duration::from_millis(2500);

pub(super) struct Shared {
    connector: Arc<dyn Connector>,
    sink: Arc<dyn PublishSink>,
    pub(super) options: PublishOptions,
    runtime: OnceLock<Handle>,
    /// Never held while the sink or a gate is called: a sink may ask for a keyframe from within an event.
    place: Mutex<Place>,
    /// Held while an offer is negotiated, so that two newcomers never do it at once.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// The place became free.
    pub(super) freed: Notify,
    /// Cancelled by `close`: offers that wait give up.
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
}

#[derive(Default)]
struct Place {
    live: Option<Arc<Live>>,
    /// The publication that was in place last, if it went without a word and nobody has followed it.
    departed: Option<PublicationId>,
    /// No publisher is taken any more.
    closed: bool,
}

/// The publication in place.
pub(super) struct Live {
    pub(super) gate: Arc<Gate>,
    pub(super) tracks: Arc<[TrackInfo]>,
    pub(super) peer: Arc<dyn Peer>,
    pub(super) answer: Arc<str>,
    etag: Mutex<String>,
    /// Candidates of the present ICE session so far, those of the offer included.
    pub(super) candidates: AtomicUsize,
    /// Held while candidates are added or ICE is restarted, so that answers and tags come in order.
    pub(super) changing: tokio::sync::Mutex<()>,
}

impl Live {
    pub(super) fn id(&self) -> PublicationId {
        self.gate.id()
    }

    pub(super) fn etag(&self) -> MutexGuard<'_, String> {
        self.etag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an offer may do right now.
pub(super) enum Admission {
    /// Negotiate and take the place.
    Take,
    /// The publisher in place is sending; it counts as gone at this time unless it sends more.
    Wait(Instant),
    Refuse(PublishError),
}

impl Shared {
    pub(super) fn new(
        connector: Arc<dyn Connector>,
        sink: Arc<dyn PublishSink>,
        mut options: PublishOptions,
    ) -> Self {
        let current = || Handle::try_current().ok();
        Self {
            runtime: options
                .runtime
                .take()
                .or_else(current)
                .map_or_else(OnceLock::new, OnceLock::from),
            connector,
            sink,
            options,
            place: Mutex::default(),
            turn: Arc::default(),
            freed: Notify::new(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Where tasks run; called within a runtime.
    pub(super) fn runtime(&self) -> &Handle {
        self.runtime.get_or_init(Handle::current)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn conflict(&self) -> PublishError {
        PublishError::Conflict {
            // By then a publisher that has died meanwhile is known to be silent.
            retry_after: self.options.silence,
        }
    }

    fn shutting_down() -> PublishError {
        PublishError::Unavailable("the session is shutting down".to_owned())
    }

    /// What an offer may do right now.
    pub(super) fn admit(&self) -> Admission {
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
    pub(super) async fn negotiate_in_task(
        self: Arc<Self>,
        offer: String,
        candidates: usize,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Publication, PublishError> {
        let runtime = self.runtime().clone();
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
            place.departed = None;
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
            self.vacate(live.id(), false);
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
                && shared.end(&live.gate, &EndReason::TimedOut)
            {
                info!("the publisher did not connect in time");
                shared.close_in_task(&live);
            }
        });
    }

    /// The publication in place, if it is `id` (or whichever).
    pub(super) fn find(&self, id: Option<PublicationId>) -> Result<Arc<Live>, PublishError> {
        self.place()
            .live
            .as_ref()
            .filter(|live| id.is_none_or(|id| id == live.id()))
            .map(Arc::clone)
            .ok_or(PublishError::UnknownPublication)
    }

    /// Ends a publication and frees its place; true for exactly one caller, who then sees to the peer.
    pub(super) fn end(&self, gate: &Gate, reason: &EndReason) -> bool {
        let ended = gate.end(reason.clone());
        if ended {
            info!(publication = %gate.id(), %reason, "publication ended");
            let may_return = matches!(
                reason,
                EndReason::Disconnected | EndReason::TimedOut | EndReason::Failed(_)
            );
            self.vacate(gate.id(), may_return && gate.connected_at().is_some());
        }
        ended
    }

    /// Frees the place of `id`, after its `Ended`: who finds the place free may start at once. A publisher that may
    /// return can still say that it does not.
    fn vacate(&self, id: PublicationId, may_return: bool) -> Option<Arc<Live>> {
        let live = {
            let mut place = self.place();
            let live = place.live.take_if(|live| live.id() == id);
            if live.is_some() {
                place.departed = may_return.then_some(id);
            }
            live
        };
        if live.is_some() {
            self.freed.notify_waiters();
        }
        live
    }

    /// The publisher `id`, which went without a word, says that it does not return.
    pub(super) fn withdraw(&self, id: PublicationId) -> Result<(), PublishError> {
        self.place()
            .departed
            .take_if(|departed| *departed == id)
            .ok_or(PublishError::UnknownPublication)?;
        info!(publication = %id, "the publisher does not return");
        self.sink
            .on_event(PublishEvent::Withdrawn { publication: id });
        Ok(())
    }

    /// Takes no publisher any more and ends the one in place, whose peer the caller closes.
    pub(super) fn shut(&self, reason: &EndReason) -> Option<Arc<Live>> {
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
    pub(super) fn close_in_task(&self, live: &Live) -> Option<JoinHandle<()>> {
        let peer = Arc::clone(&live.peer);
        let id = live.id();
        self.spawn(async move {
            if timeout(CLOSE_LIMIT, peer.close()).await.is_err() {
                warn!(publication = %id, "the peer did not close in time");
            }
        })
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
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
        if shared.end(&self.gate, &reason)
            && let Some(live) = live
        {
            shared.close_in_task(&live);
        }
    }
}

/// A tag that no two ICE sessions share (RFC 9725 section 4.3.1).
pub(super) fn new_etag() -> String {
    format!("{:016x}", rand::random::<u64>())
}
