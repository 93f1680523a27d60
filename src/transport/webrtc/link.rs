//! [`Link`]: where the shared sockets and one peer's driver meet.
//!
//! Owns what is on its way between them (the inboxes, the peer's TCP connections, the unanswered handshake flight)
//! and the peer's counters. Which link a datagram belongs to is [`Routes`](super::routes::Routes)' matter, what it
//! means the stack's.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    handshake::{self, Alert, Flight},
    inbox::{Inbox, Kind, kind},
    life::Life,
    paths::Paths,
    restart::IceSessions,
};
use crate::{
    media::TrackIndex,
    transport::{EndReason, IceCredentials, PeerObserver, PeerStats},
};

/// Nominating requests that are kept at a time.
const NOMINATIONS: usize = 8;

/// TCP connections one peer may have at a time.
const TCP_CONNECTIONS: usize = 8;

/// The address family of a virtual socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// The meeting point of one peer.
pub(super) struct Link {
    ice: IceCredentials,
    life: Life,
    v4: Mutex<Inbox>,
    v6: Mutex<Inbox>,
    tcp: Mutex<HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>>,
    has_tcp: AtomicBool,
    flight: Mutex<Flight>,
    nominations: Mutex<VecDeque<(SocketAddr, Vec<u8>)>>,
    paths: Mutex<Paths>,
    sessions: Mutex<IceSessions>,
    has_restarted: AtomicBool,
    keyframes_wanted: AtomicU8,
    pub(super) counters: Counters,
}

/// Counters of one peer.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) nacks: AtomicU64,
    pub(super) plis: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(ice: IceCredentials, observer: Arc<dyn PeerObserver>) -> Self {
        Self {
            ice,
            life: Life::new(observer),
            v4: Mutex::default(),
            v6: Mutex::default(),
            tcp: Mutex::default(),
            has_tcp: AtomicBool::new(false),
            flight: Mutex::default(),
            nominations: Mutex::default(),
            paths: Mutex::default(),
            sessions: Mutex::default(),
            has_restarted: AtomicBool::new(false),
            keyframes_wanted: AtomicU8::new(0),
            counters: Counters::default(),
        }
    }

    /// Our user fragment, which names the peer in STUN messages.
    pub(super) fn ufrag(&self) -> &str {
        &self.ice.ufrag
    }

    /// Our password.
    pub(super) fn pwd(&self) -> &str {
        &self.ice.pwd
    }

    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    /// The addresses the publisher was met at.
    pub(super) fn paths(&self) -> MutexGuard<'_, Paths> {
        lock(&self.paths)
    }

    /// Our first ICE credentials, which are all that the agent knows.
    pub(super) fn ice(&self) -> &IceCredentials {
        &self.ice
    }

    /// Begins another ICE session between the same peers; `theirs` are their first credentials. Returns our user
    /// fragment of one that is no longer answered for.
    pub(super) fn restart(
        &self,
        theirs: IceCredentials,
        our_new: IceCredentials,
        their_new: IceCredentials,
    ) -> Option<String> {
        let first = (self.ice.clone(), theirs);
        let gone = lock(&self.sessions).restart(first, our_new, their_new);
        self.has_restarted.store(true, Ordering::Release);
        gone
    }

    /// The ICE sessions after the first one, if there are any.
    pub(super) fn restarts(&self) -> Option<MutexGuard<'_, IceSessions>> {
        self.has_restarted
            .load(Ordering::Acquire)
            .then(|| lock(&self.sessions))
    }

    /// Whether the peer sends over TCP.
    pub(super) fn has_tcp(&self) -> bool {
        self.has_tcp.load(Ordering::Acquire)
    }

    fn inbox(&self, family: Family) -> MutexGuard<'_, Inbox> {
        lock(match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        })
    }

    /// A datagram for the driver that is not STUN, or needs no more care.
    pub(super) fn deliver(&self, from: SocketAddr, datagram: &[u8]) {
        if kind(datagram) == Kind::Dtls {
            lock(&self.flight).answered();
        }
        let waker = self.inbox(Family::of(from)).push(from, datagram);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A genuine binding request.
    ///
    /// The agent leaves a request that nominates a pair unanswered until a check of ours has gone through on that
    /// pair, where RFC 8445 section 7.3.1.5 wants the nomination to take effect as soon as it has. The request is kept
    /// for that moment, which spares the publisher's retransmission timer (50 ms in FFmpeg).
    pub(super) fn deliver_request(&self, from: SocketAddr, datagram: &[u8], nominates: bool) {
        self.life.heard(Instant::now());
        if nominates {
            self.paths().nominate(from);
        }
        if nominates && !self.life.is_connected() {
            let mut nominations = lock(&self.nominations);
            nominations.retain(|(address, _)| *address != from);
            if nominations.len() >= NOMINATIONS {
                nominations.pop_front();
            }
            nominations.push_back((from, datagram.to_vec()));
        }
        self.deliver(from, datagram);
    }

    /// The response to one of our checks.
    pub(super) fn deliver_response(&self, from: SocketAddr, datagram: &[u8]) {
        self.life.heard(Instant::now());
        self.paths().answered(from);
        self.deliver(from, datagram);
        if !self.life.is_connected() {
            let nomination = {
                let mut nominations = lock(&self.nominations);
                nominations
                    .iter()
                    .position(|(address, _)| *address == from)
                    .and_then(|position| nominations.remove(position))
            };
            if let Some((from, request)) = nomination {
                self.deliver(from, &request);
            }
        }
    }

    /// The driver's next datagram of one address family.
    pub(super) fn poll_datagram(
        &self,
        family: Family,
        waker: &Waker,
        buffer: &mut [u8],
    ) -> Poll<(usize, SocketAddr)> {
        self.inbox(family).poll(waker, buffer)
    }

    /// DTLS is up: there are keys for media.
    pub(super) fn connect(&self) {
        self.life.connect();
        lock(&self.nominations).clear();
        lock(&self.flight).answered();
        for family in [Family::V4, Family::V6] {
            let waker = self.inbox(family).pass_media();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// A DTLS datagram leaves. Returns a flight's number when early repetition of that flight is to begin.
    pub(super) fn dtls_leaves(&self, to: SocketAddr, datagram: &[u8]) -> Option<u64> {
        match handshake::alert(datagram) {
            // Only a genuine alert of the peer makes the stack send one in the middle of a connection, and it is the
            // one trace of the peer's close_notify: no callback tells of it.
            Some(Alert::Protected) => {
                self.life.end(EndReason::Disconnected);
                None
            }
            Some(Alert::Handshake(description)) => {
                let text = handshake::describe(description).to_owned();
                self.life.end(EndReason::Failed(text));
                None
            }
            None if self.life.is_connected() => None,
            None => lock(&self.flight).sent(to, datagram),
        }
    }

    /// Calls `send` with each datagram of flight `number`, if that is still unanswered; `false` if it is not.
    pub(super) fn repeat_flight(
        &self,
        number: u64,
        mut send: impl FnMut(SocketAddr, &[u8]),
    ) -> bool {
        if self.life.is_connected() || self.life.is_over() {
            return false;
        }
        let flight = lock(&self.flight);
        let Some(datagrams) = flight.unanswered(number) else {
            return false;
        };
        for (to, datagram) in datagrams {
            send(*to, datagram);
        }
        true
    }

    /// Adds a TCP connection the peer made; `false` if it has too many.
    pub(super) fn add_tcp(&self, from: SocketAddr, out: mpsc::Sender<Vec<u8>>) -> bool {
        let mut tcp = lock(&self.tcp);
        if self.life.is_over() || (tcp.len() >= TCP_CONNECTIONS && !tcp.contains_key(&from)) {
            return false;
        }
        tcp.insert(from, out);
        self.has_tcp.store(true, Ordering::Release);
        true
    }

    /// Forgets a TCP connection.
    pub(super) fn remove_tcp(&self, from: SocketAddr) {
        lock(&self.tcp).remove(&from);
    }

    /// Lets go of all TCP connections; what is queued on them is still written.
    pub(super) fn close_tcp(&self) {
        lock(&self.tcp).clear();
    }

    /// Sends over the TCP connection from `to`; `false` if there is none, so that UDP is the way.
    pub(super) fn send_tcp(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        if !self.has_tcp.load(Ordering::Acquire) {
            return false;
        }
        match lock(&self.tcp).get(&to) {
            // A full queue drops the datagram, as a network would.
            Some(out) => {
                let _full_or_gone = out.try_send(datagram.to_vec());
                true
            }
            None => false,
        }
    }

    /// Wants a keyframe of a track; the driver's next turn asks for it.
    pub(super) fn want_keyframe(&self, track: TrackIndex) {
        if track < 8 {
            self.keyframes_wanted.fetch_or(1 << track, Ordering::AcqRel);
            self.life.nudge();
        }
    }

    /// Takes the wish for a keyframe of a track.
    pub(super) fn take_keyframe_wish(&self, track: TrackIndex) -> bool {
        track < 8
            && self.keyframes_wanted.load(Ordering::Acquire) & (1 << track) != 0
            && self
                .keyframes_wanted
                .fetch_and(!(1 << track), Ordering::AcqRel)
                & (1 << track)
                != 0
    }

    pub(super) fn stats(&self) -> PeerStats {
        let counters = &self.counters;
        PeerStats {
            packets: counters.packets.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            lost: counters.lost.load(Ordering::Relaxed)
                + self.inbox(Family::V4).dropped()
                + self.inbox(Family::V6).dropped(),
            nacks_sent: counters.nacks.load(Ordering::Relaxed),
            plis_sent: counters.plis.load(Ordering::Relaxed),
            remote_address: self.paths().current(),
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("ufrag", &self.ice.ufrag)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::media::{RtpPacket, SenderReport};

    /// Keeps what an observer was told.
    #[derive(Default)]
    pub(in super::super) struct Recorder {
        closed: Mutex<Vec<EndReason>>,
        packets: Mutex<Vec<(TrackIndex, RtpPacket)>>,
        reports: Mutex<Vec<(TrackIndex, SenderReport)>>,
    }

    impl Recorder {
        pub(in super::super) fn closed(&self) -> Vec<EndReason> {
            lock(&self.closed).clone()
        }

        pub(in super::super) fn packets(&self) -> Vec<(TrackIndex, RtpPacket)> {
            lock(&self.packets).clone()
        }

        pub(in super::super) fn reports(&self) -> Vec<(TrackIndex, SenderReport)> {
            lock(&self.reports).clone()
        }
    }

    impl PeerObserver for Recorder {
        fn on_connected(&self) {}

        fn on_rtp(&self, track: TrackIndex, packet: RtpPacket, _arrival: Instant) {
            lock(&self.packets).push((track, packet));
        }

        fn on_sender_report(&self, track: TrackIndex, report: SenderReport, _arrival: Instant) {
            lock(&self.reports).push((track, report));
        }

        fn on_closed(&self, reason: EndReason) {
            lock(&self.closed).push(reason);
        }
    }

    impl Link {
        pub(in super::super) fn for_tests(ufrag: &str, pwd: &str) -> Self {
            let ice = IceCredentials {
                ufrag: ufrag.to_owned(),
                pwd: pwd.to_owned(),
            };
            Self::new(ice, Arc::new(Recorder::default()))
        }

        /// Empties the inboxes.
        pub(in super::super) fn waiting(&self) -> Vec<(SocketAddr, Vec<u8>)> {
            let mut all = Vec::new();
            let mut buffer = [0; 2048];
            for family in [Family::V4, Family::V6] {
                let mut pauses = 0;
                while pauses < 2 {
                    match self.poll_datagram(family, Waker::noop(), &mut buffer) {
                        Poll::Ready((len, from)) => all.push((from, buffer[..len].to_vec())),
                        Poll::Pending => pauses += 1,
                    }
                }
            }
            all
        }
    }

    fn link() -> (Arc<Recorder>, Link) {
        let recorder = Arc::new(Recorder::default());
        let ice = IceCredentials {
            ufrag: "ours".to_owned(),
            pwd: "secret".to_owned(),
        };
        (recorder.clone(), Link::new(ice, recorder))
    }

    #[test]
    fn a_nomination_is_seen_again_after_our_check_went_through() {
        let (_, link) = link();
        let peer = "192.0.2.1:5".parse().unwrap();
        link.deliver_request(peer, &[0, 1, 7], true);
        link.deliver_response(peer, &[1, 1, 8]);
        link.deliver_response(peer, &[1, 1, 9]);
        let seen: Vec<u8> = link.waiting().iter().map(|(_, bytes)| bytes[2]).collect();
        assert_eq!(seen, [7, 8, 7, 9]);
    }

    #[test]
    fn the_reply_to_a_close_notify_ends_the_peer() {
        let (recorder, link) = link();
        link.connect();
        let peer = "192.0.2.1:5".parse().unwrap();
        let application_data = [23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0];
        assert_eq!(link.dtls_leaves(peer, &application_data), None);
        assert!(recorder.closed().is_empty());
        let mut alert = application_data;
        alert[0] = 21;
        link.dtls_leaves(peer, &alert);
        assert_eq!(recorder.closed(), [EndReason::Disconnected]);
    }

    #[test]
    fn our_own_close_notify_reports_nothing() {
        let (recorder, link) = link();
        link.connect();
        link.life().stop();
        let alert = [21, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0];
        link.dtls_leaves("192.0.2.1:5".parse().unwrap(), &alert);
        assert!(recorder.closed().is_empty());
    }

    #[test]
    fn a_wish_for_a_keyframe_is_taken_once() {
        let (_, link) = link();
        link.want_keyframe(1);
        link.want_keyframe(1);
        link.want_keyframe(200);
        assert!(!link.take_keyframe_wish(0));
        assert!(link.take_keyframe_wish(1));
        assert!(!link.take_keyframe_wish(1));
    }
}
