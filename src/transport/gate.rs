//! [`Gate`]: the one way of a publication's events to the sink, and what keeps them in order.
//!
//! Knows nothing of slots, peers or conflicts. Its promise: `Started` first, `Ended` last and once, and nothing of a
//! publication after its `Ended`, whatever threads the WebRTC stack calls from.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{EndReason, PublicationId, PublishEvent, PublishSink};
use crate::media::TrackInfo;

/// Where a publication stands.
enum Phase {
    /// The offer is being answered; the publication is not yet in its place.
    Waiting {
        /// The peer was quicker than the answer.
        connected: bool,
    },
    /// In place.
    Open {
        tracks: Arc<[TrackInfo]>,
        /// `Started` was sent.
        started: bool,
    },
    /// Over.
    Ended,
}

pub(super) struct Gate {
    id: PublicationId,
    sink: Arc<dyn PublishSink>,
    /// Held while the sink is called: that is what makes `Ended` the last event. Uncontended but for the moment of the
    /// end, so a packet pays one compare-and-swap for it.
    phase: Mutex<Phase>,
    created: Instant,
    /// When `Started` was sent.
    connected_at: OnceLock<Instant>,
    /// Arrival of the last RTP packet, in nanoseconds since `created` and at least 1; 0 before the first.
    last_rtp: AtomicU64,
    /// Cancelled as soon as the publication has connected or ended.
    settled: CancellationToken,
}

impl Gate {
    pub(super) fn new(id: PublicationId, sink: Arc<dyn PublishSink>) -> Self {
        Self {
            id,
            sink,
            phase: Mutex::new(Phase::Waiting { connected: false }),
            created: tokio::time::Instant::now().into_std(),
            connected_at: OnceLock::new(),
            last_rtp: AtomicU64::new(0),
            settled: CancellationToken::new(),
        }
    }

    pub(super) const fn id(&self) -> PublicationId {
        self.id
    }

    pub(super) const fn created(&self) -> Instant {
        self.created
    }

    /// Resolves once the publication has connected or ended.
    pub(super) async fn settled(&self) {
        self.settled.cancelled().await;
    }

    /// Puts the publication in its place: events pass from now on. False when it is over already.
    pub(super) fn open(&self, tracks: Arc<[TrackInfo]>) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let Phase::Waiting { connected } = *phase else {
            return false;
        };
        *phase = Phase::Open {
            tracks,
            started: false,
        };
        if connected {
            self.start(&mut phase);
        }
        true
    }

    /// The peer is connected.
    pub(super) fn connected(&self) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Waiting { connected } = &mut *phase {
            *connected = true;
        } else {
            self.start(&mut phase);
        }
    }

    /// Passes an RTP packet on.
    pub(super) fn rtp(&self, arrival: Instant, event: impl FnOnce(PublicationId) -> PublishEvent) {
        let age = arrival.saturating_duration_since(self.created).as_nanos();
        let age = u64::try_from(age).unwrap_or(u64::MAX).max(1);
        if self.pass(event) {
            self.last_rtp.fetch_max(age, Ordering::Relaxed);
        }
    }

    /// Passes an event of the started publication on. False when it is not in its place (any more).
    pub(super) fn pass(&self, event: impl FnOnce(PublicationId) -> PublishEvent) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        // Media proves the connection: a stack that reports it late must not cost the first keyframe.
        let open = self.start(&mut phase);
        if open {
            self.sink.on_event(event(self.id));
        }
        open
    }

    /// Ends the publication. True for exactly one caller.
    pub(super) fn end(&self, reason: EndReason) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *phase, Phase::Ended);
        if let Phase::Open { started: true, .. } = before {
            self.sink.on_event(PublishEvent::Ended {
                publication: self.id,
                reason,
            });
        }
        self.settled.cancel();
        !matches!(before, Phase::Ended)
    }

    /// When the publisher connected.
    pub(super) fn connected_at(&self) -> Option<Instant> {
        self.connected_at.get().copied()
    }

    /// When the last RTP packet arrived.
    pub(super) fn last_rtp(&self) -> Option<Instant> {
        let age = self.last_rtp.load(Ordering::Relaxed);
        (age > 0).then(|| self.created + std::time::Duration::from_nanos(age))
    }

    /// Since when there is no media; `None` for a publisher that never connected.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let connected_at = self.connected_at()?;
        Some(
            self.last_rtp()
                .map_or(connected_at, |at| at.max(connected_at)),
        )
    }

    /// Sends `Started` unless it was sent. False when the publication is not in its place.
    fn start(&self, phase: &mut Phase) -> bool {
        let Phase::Open { tracks, started } = phase else {
            return false;
        };
        if !*started {
            *started = true;
            // The first caller wins; there is only one, under the lock.
            self.connected_at
                .get_or_init(|| tokio::time::Instant::now().into_std());
            self.settled.cancel();
            self.sink.on_event(PublishEvent::Started {
                publication: self.id,
                tracks: Arc::clone(tracks),
            });
        }
        true
    }
}
