//! [`Life`]: the state of one peer that its driver, the shared sockets and its handle all touch.
//!
//! Owns whether the peer is connected, when it was last heard, that it ends once, and the nudge that makes the
//! driver come round. Knows nothing of packets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

use crate::transport::{EndReason, PeerObserver};

/// Lifecycle of one peer.
pub(super) struct Life {
    observer: Arc<dyn PeerObserver>,
    born: Instant,
    /// When something genuine last came from the peer, in milliseconds since `born`.
    heard: AtomicU64,
    connected: AtomicBool,
    over: AtomicBool,
    stop: CancellationToken,
    nudged: AtomicBool,
    timer: AtomicWaker,
}

impl Life {
    pub(super) fn new(observer: Arc<dyn PeerObserver>) -> Self {
        Self {
            observer,
            born: Instant::now(),
            heard: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            over: AtomicBool::new(false),
            stop: CancellationToken::new(),
            nudged: AtomicBool::new(false),
            timer: AtomicWaker::new(),
        }
    }

    /// Where packets go.
    pub(super) fn observer(&self) -> &dyn PeerObserver {
        &*self.observer
    }

    /// Something genuine came from the peer at `now`.
    pub(super) fn heard(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.born).as_millis();
        self.heard.store(
            u64::try_from(elapsed).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// How long nothing genuine has come.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        now.saturating_duration_since(self.born)
            .saturating_sub(heard)
    }

    /// ICE and DTLS are up.
    pub(super) fn connect(&self) {
        if !self.is_over() && !self.connected.swap(true, Ordering::AcqRel) {
            self.heard(Instant::now());
            self.observer.on_connected();
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// The peer's side ended it: reports the first reason, then everything of the peer is taken down.
    pub(super) fn end(&self, reason: EndReason) {
        if !self.over.swap(true, Ordering::AcqRel) {
            self.observer.on_closed(reason);
        }
        self.stop.cancel();
    }

    /// Our side ends it: nothing more is reported.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// The peer has ended, by whichever side.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Completes when the peer is to be taken down.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Makes the driver handle its timers and send what waits, now instead of at its next deadline.
    pub(super) fn nudge(&self) {
        self.nudged.store(true, Ordering::Release);
        self.timer.wake();
    }

    /// Whether the driver was nudged since the last call; else `waker` is woken by the next nudge.
    pub(super) fn take_nudge(&self, waker: &Waker) -> bool {
        self.timer.register(waker);
        self.nudged.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::webrtc::link::tests::Recorder;

    #[test]
    fn the_first_end_is_reported_and_no_other() {
        let recorder = Arc::new(Recorder::default());
        let life = Life::new(recorder.clone());
        life.end(EndReason::Disconnected);
        life.end(EndReason::TimedOut);
        assert_eq!(recorder.closed(), [EndReason::Disconnected]);
    }

    #[test]
    fn an_end_of_ours_is_not_reported() {
        let recorder = Arc::new(Recorder::default());
        let life = Life::new(recorder.clone());
        life.stop();
        life.end(EndReason::Disconnected);
        life.connect();
        assert!(recorder.closed().is_empty());
        assert!(!life.is_connected());
    }

    #[test]
    fn silence_counts_from_what_was_last_heard() {
        let life = Life::new(Arc::new(Recorder::default()));
        let start = life.born;
        assert_eq!(
            life.silence(start + Duration::from_secs(3)),
            Duration::from_secs(3)
        );
        life.heard(start + Duration::from_secs(2));
        assert_eq!(
            life.silence(start + Duration::from_secs(3)),
            Duration::from_secs(1)
        );
    }
}
