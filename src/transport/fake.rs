//! A [`Connector`] without a network, for tests: its peers connect, send and close when the test says so.
//!
//! Included by the tests of this module and by those in `tests/`, each of which brings `media` and `transport` into
//! scope of the including file.

#![allow(
    dead_code,
    clippy::missing_panics_doc,
    unreachable_pub,
    reason = "a test double of two test crates, each of which uses a part of it"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    media::{Codec, RtpPacket, SenderReport, TrackIndex, TrackInfo},
    transport::{
        Accepted, BoxFuture, Connector, EndReason, IceCredentials, IceRestart, Peer, PeerObserver,
        PeerStats, PublishError, PublishEvent, PublishSink, RemoteCandidates,
    },
};

/// The answer of every fake peer.
pub const ANSWER: &str = "v=0\r\n\
    o=- 1 1 IN IP4 127.0.0.1\r\n\
    s=-\r\n\
    t=0 0\r\n\
    a=group:BUNDLE 0 1\r\n\
    a=ice-options:trickle ice2\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
    a=mid:0\r\n\
    a=ice-ufrag:ours\r\n\
    a=ice-pwd:ourpasswordourpassword12\r\n\
    a=recvonly\r\n\
    a=candidate:1 1 udp 2130706431 127.0.0.1 4000 typ host\r\n\
    a=end-of-candidates\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\n\
    a=mid:1\r\n\
    a=recvonly\r\n";

/// Accepts every offer.
#[derive(Default)]
pub struct FakeConnector {
    peers: Mutex<Vec<Arc<FakePeer>>>,
    refusals: Mutex<Vec<PublishError>>,
    offers: Mutex<Vec<String>>,
    /// Connect within `accept`, before the answer is out.
    pub connects_early: AtomicBool,
    /// Close within `accept`.
    pub breaks_early: AtomicBool,
    /// How long `accept` takes, in milliseconds.
    pub accept_ms: AtomicUsize,
    /// How long a close takes, in milliseconds.
    pub close_ms: AtomicUsize,
    /// Restarts are refused as unsupported.
    pub no_restart: AtomicBool,
    /// `accept` panics.
    pub panics: AtomicBool,
}

impl FakeConnector {
    /// The next offer is refused with `error`.
    pub fn refuse(&self, error: PublishError) {
        self.refusals.lock().unwrap().push(error);
    }

    /// The peers that were made so far.
    pub fn peers(&self) -> Vec<Arc<FakePeer>> {
        self.peers.lock().unwrap().clone()
    }

    /// The newest peer.
    pub fn peer(&self) -> Arc<FakePeer> {
        Arc::clone(self.peers.lock().unwrap().last().expect("a peer"))
    }

    /// The offers as they came.
    pub fn offers(&self) -> Vec<String> {
        self.offers.lock().unwrap().clone()
    }
}

impl Connector for FakeConnector {
    fn accept<'a>(
        &'a self,
        offer: &'a str,
        observer: Arc<dyn PeerObserver>,
    ) -> BoxFuture<'a, Result<Accepted, PublishError>> {
        Box::pin(async move {
            self.offers.lock().unwrap().push(offer.to_owned());
            let delay = self.accept_ms.load(Ordering::SeqCst);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay as u64)).await;
            }
            assert!(
                !self.panics.load(Ordering::SeqCst),
                "the connector was told to panic"
            );
            if let Some(error) = self.refusals.lock().unwrap().pop() {
                return Err(error);
            }
            let peer = Arc::new(FakePeer {
                observer,
                close_ms: self.close_ms.load(Ordering::SeqCst),
                no_restart: self.no_restart.load(Ordering::SeqCst),
                candidates: Mutex::default(),
                restarts: AtomicUsize::new(0),
                keyframes: Mutex::default(),
                closes: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
            });
            self.peers.lock().unwrap().push(Arc::clone(&peer));
            if self.connects_early.load(Ordering::SeqCst) {
                peer.observer.on_connected();
            }
            if self.breaks_early.load(Ordering::SeqCst) {
                peer.observer.on_closed(EndReason::Disconnected);
            }
            Ok(Accepted {
                answer: ANSWER.to_owned(),
                ice: IceCredentials {
                    ufrag: "ours".to_owned(),
                    pwd: "ourpasswordourpassword12".to_owned(),
                },
                tracks: Arc::new([track(Codec::Opus, 111, "0"), track(Codec::H264, 96, "1")]),
                peer,
            })
        })
    }
}

fn track(codec: Codec, payload_type: u8, mid: &str) -> TrackInfo {
    TrackInfo {
        codec,
        payload_type,
        clock_rate: codec.clock_rate(),
        channels: if codec == Codec::Opus { 2 } else { 0 },
        fmtp: String::new(),
        mid: mid.to_owned(),
    }
}

/// A peer that does what the test says and writes down what is asked of it.
pub struct FakePeer {
    /// Where it reports to.
    pub observer: Arc<dyn PeerObserver>,
    close_ms: usize,
    no_restart: bool,
    candidates: Mutex<Vec<RemoteCandidates>>,
    restarts: AtomicUsize,
    keyframes: Mutex<Vec<TrackIndex>>,
    closes: AtomicUsize,
    closed: AtomicBool,
}

impl FakePeer {
    /// ICE and DTLS are up.
    pub fn connect(&self) {
        self.observer.on_connected();
    }

    /// Sends one RTP packet on track 0.
    pub fn send(&self, sequence_number: u16) {
        let packet = RtpPacket {
            payload_type: 111,
            marker: false,
            sequence_number,
            timestamp: u32::from(sequence_number) * 960,
            ssrc: 1,
            payload: bytes::Bytes::from_static(b"sound"),
        };
        let now = tokio::time::Instant::now().into_std();
        self.observer.on_rtp(0, packet, now);
    }

    /// Sends a sender report on track 0.
    pub fn report(&self) {
        let report = SenderReport {
            ssrc: 1,
            ntp: 1 << 32,
            rtp_timestamp: 0,
        };
        let now = tokio::time::Instant::now().into_std();
        self.observer.on_sender_report(0, report, now);
    }

    /// The publisher is gone.
    pub fn disconnect(&self) {
        self.observer.on_closed(EndReason::Disconnected);
    }

    /// Whether `close` has run to its end.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// How often `close` was called.
    pub fn closes(&self) -> usize {
        self.closes.load(Ordering::SeqCst)
    }

    /// What was trickled.
    pub fn candidates(&self) -> Vec<RemoteCandidates> {
        self.candidates.lock().unwrap().clone()
    }

    /// The tracks that keyframes were asked for.
    pub fn keyframes(&self) -> Vec<TrackIndex> {
        self.keyframes.lock().unwrap().clone()
    }

    /// How often ICE was restarted.
    pub fn restarts(&self) -> usize {
        self.restarts.load(Ordering::SeqCst)
    }
}

impl Peer for FakePeer {
    fn add_candidates(
        &self,
        candidates: RemoteCandidates,
    ) -> BoxFuture<'_, Result<(), PublishError>> {
        self.candidates.lock().unwrap().push(candidates);
        Box::pin(async { Ok(()) })
    }

    fn restart_ice(
        &self,
        candidates: RemoteCandidates,
    ) -> BoxFuture<'_, Result<IceRestart, PublishError>> {
        Box::pin(async move {
            if self.no_restart {
                return Err(PublishError::IceRestartUnsupported);
            }
            assert!(candidates.ice.is_some());
            let count = self.restarts.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(IceRestart {
                ice: IceCredentials {
                    ufrag: format!("ours{count}"),
                    pwd: "anotherpasswordanotherpassword".to_owned(),
                },
                candidates: vec!["candidate:1 1 udp 2130706431 127.0.0.1 4000 typ host".to_owned()],
            })
        })
    }

    fn request_keyframe(&self, track: TrackIndex) {
        self.keyframes.lock().unwrap().push(track);
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.closes.fetch_add(1, Ordering::SeqCst);
            if self.close_ms > 0 {
                tokio::time::sleep(Duration::from_millis(self.close_ms as u64)).await;
            }
            self.closed.store(true, Ordering::SeqCst);
        })
    }

    fn stats(&self) -> PeerStats {
        PeerStats {
            packets: 7,
            ..PeerStats::default()
        }
    }
}

/// A sink that keeps every event.
#[derive(Default)]
pub struct Events(Mutex<Vec<PublishEvent>>);

impl Events {
    /// The events so far, each in a word: `start`, `rtp 5`, `report`, `end Replaced`, with the publication's number in
    /// order of appearance before it.
    pub fn words(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let mut seen = Vec::new();
        events
            .iter()
            .map(|event| {
                let id = event.publication();
                let number = seen
                    .iter()
                    .position(|known| *known == id)
                    .unwrap_or_else(|| {
                        seen.push(id);
                        seen.len() - 1
                    });
                match event {
                    PublishEvent::Started { .. } => format!("{number} start"),
                    PublishEvent::Rtp { packet, .. } => {
                        format!("{number} rtp {}", packet.sequence_number)
                    }
                    PublishEvent::SenderReport { .. } => format!("{number} report"),
                    PublishEvent::Ended { reason, .. } => format!("{number} end {reason:?}"),
                    PublishEvent::Withdrawn { .. } => format!("{number} withdrawn"),
                }
            })
            .collect()
    }
}

impl PublishSink for Events {
    fn on_event(&self, event: PublishEvent) {
        self.0.lock().unwrap().push(event);
    }
}
