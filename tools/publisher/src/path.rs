//! The network between client and gateway, made worse on purpose: loss and delay of one track's packets, and which RTCP
//! sender reports get through. Works on encrypted datagrams (the headers it reads are in clear, RFC 3711).

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// How much later a packet arrives that others overtake.
const OVERTAKEN_BY: Duration = Duration::from_millis(15);

/// What happens to the RTP packets of one track, retransmissions included.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathOptions {
    /// Percentage of packets that never arrive.
    pub loss_percent: f32,
    /// So many packets in a row are lost at a time; 0 means 1.
    pub burst: u16,
    /// Extra time on the way, the same for all packets.
    pub delay: Duration,
    /// Up to so much more, another amount for each packet; packets stay in order.
    pub jitter: Duration,
    /// Percentage of packets that are overtaken by those of the next 15 ms.
    pub reordered_percent: f32,
    /// Percentage of packets that arrive twice.
    pub duplicated_percent: f32,
    /// Percentage of packets whose payload is random bytes.
    pub garbage_percent: f32,
    /// Loss, jitter, reordering, duplicates and garbage happen only between these times after the connection stands.
    pub trouble: Option<(Duration, Duration)>,
    /// Sends nothing before this time after the connection stands; time stamps go on counting meanwhile.
    pub starts_after: Duration,
    /// Sender reports are wrong by so much.
    pub clock_error: Duration,
}

/// When RTCP sender reports are sent.
#[derive(Clone, Copy, Debug)]
pub enum SenderReports {
    /// Never.
    Off,
    /// At a fixed interval for each track.
    Every {
        /// Time from the first packet of a track to its first report; at least 50 ms.
        first: Duration,
        /// Time from one report to the next.
        interval: Duration,
    },
}

impl Default for SenderReports {
    /// The first at once, then two a second, as OBS does.
    fn default() -> Self {
        Self::Every {
            first: Duration::ZERO,
            interval: Duration::from_millis(500),
        }
    }
}

/// Interval at which str0m is told to make reports; [`ReportGate`] lets through those that are due.
pub(crate) const REPORT_GRAIN: Duration = Duration::from_millis(50);

/// A datagram and where it goes.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

/// A datagram on its way: when it arrives, and its number among those that left.
type Travelling = Reverse<(Instant, u64, Datagram)>;

/// Loss and delay of one track.
#[derive(Debug)]
pub(crate) struct Path {
    options: PathOptions,
    random: SmallRng,
    connected: Option<Instant>,
    on_the_way: BinaryHeap<Travelling>,
    sent: u64,
    /// Arrival of the last packet that was not overtaken.
    newest: Option<Instant>,
    /// So many of the next packets are lost, too.
    losing: u16,
}

impl Path {
    pub(crate) fn new(options: PathOptions, seed: u64) -> Self {
        Self {
            options,
            random: SmallRng::seed_from_u64(seed),
            connected: None,
            on_the_way: BinaryHeap::new(),
            sent: 0,
            newest: None,
            losing: 0,
        }
    }

    pub(crate) const fn options(&self) -> &PathOptions {
        &self.options
    }

    /// The connection stands: [`PathOptions::trouble`] counts from here.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    fn is_troubled(&self, now: Instant) -> bool {
        match (self.options.trouble, self.connected) {
            (None, _) => true,
            (Some((from, until)), Some(connected)) => {
                (from..until).contains(&now.saturating_duration_since(connected))
            }
            (Some(_), None) => false,
        }
    }

    /// Replaces a payload with noise of the same length, if it is this packet's turn.
    pub(crate) fn spoil(&mut self, now: Instant, payload: &mut [u8]) {
        if self.is_troubled(now) && self.hits(self.options.garbage_percent) {
            self.random.fill(payload);
        }
    }

    /// Puts a datagram on its way; false if it is lost.
    pub(crate) fn enter(&mut self, now: Instant, datagram: Datagram) -> bool {
        let mut arrival = now + self.options.delay;
        if self.is_troubled(now) {
            let burst = self.options.burst.max(1);
            if self.losing > 0 {
                self.losing -= 1;
                return false;
            }
            if self.hits(self.options.loss_percent / f32::from(burst)) {
                self.losing = burst - 1;
                return false;
            }
            arrival += self.options.jitter.mul_f32(self.random.random());
            if self.hits(self.options.duplicated_percent) {
                self.travel(arrival, datagram.clone());
            }
            if self.hits(self.options.reordered_percent) {
                self.travel(arrival + OVERTAKEN_BY, datagram);
                return true;
            }
        }
        self.travel(arrival, datagram);
        true
    }

    fn travel(&mut self, arrival: Instant, datagram: Datagram) {
        // Delay alone never changes the order.
        let arrival = self.newest.map_or(arrival, |newest| newest.max(arrival));
        if self.options.reordered_percent <= 0.0 {
            self.newest = Some(arrival);
        }
        self.on_the_way
            .push(Reverse((arrival, self.sent, datagram)));
        self.sent += 1;
    }

    /// The next datagram that arrives by `now`.
    pub(crate) fn leave(&mut self, now: Instant) -> Option<Datagram> {
        if self.next()? > now {
            return None;
        }
        self.on_the_way
            .pop()
            .map(|Reverse((_, _, datagram))| datagram)
    }

    /// When [`Self::leave`] has something next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.on_the_way.peek().map(|Reverse((at, ..))| *at)
    }

    fn hits(&mut self, percent: f32) -> bool {
        percent > 0.0 && self.random.random::<f32>() * 100.0 < percent
    }
}

/// What a datagram is, by its first bytes (RFC 7983, RFC 5761).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RTP with its SSRC.
    Rtp(u32),
    /// An RTCP compound that begins with a sender report of this SSRC.
    SenderReport(u32),
    /// STUN, DTLS, other RTCP.
    Other,
}

pub(crate) fn kind(datagram: &[u8]) -> Kind {
    let ssrc = |at: usize| {
        let bytes = datagram.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    match datagram {
        [128..=191, 200, ..] => ssrc(4).map_or(Kind::Other, Kind::SenderReport),
        [128..=191, 192..=223, ..] => Kind::Other,
        [128..=191, ..] => ssrc(8).map_or(Kind::Other, Kind::Rtp),
        _ => Kind::Other,
    }
}

/// Thins out sender reports to those that are due, and keeps back the one str0m makes before it knows a track's clock
/// (its RTP time is 0).
#[derive(Debug)]
pub(crate) struct ReportGate {
    reports: SenderReports,
    due: Vec<(u32, Instant)>,
    not_before: Option<Instant>,
    pub(crate) closed: bool,
}

impl ReportGate {
    pub(crate) fn new(reports: SenderReports) -> Self {
        Self {
            reports,
            due: Vec::new(),
            not_before: None,
            closed: false,
        }
    }

    /// A track sent its first packet: the next reports are due soon.
    pub(crate) fn track_started(&mut self, now: Instant) {
        self.due.clear();
        if let SenderReports::Every { first, .. } = self.reports {
            self.not_before = Some(now + first);
        }
    }

    pub(crate) fn admits(&mut self, ssrc: u32, now: Instant) -> bool {
        let SenderReports::Every { interval, .. } = self.reports else {
            return false;
        };
        if self.closed || self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        // Reports come at the grain of str0m's timer: one that is nearly due is better than one that is late.
        let next = now + interval.saturating_sub(REPORT_GRAIN / 2);
        match self.due.iter_mut().find(|(of, _)| *of == ssrc) {
            Some((_, due)) if *due > now => false,
            Some((_, due)) => {
                *due = next;
                true
            }
            None => {
                self.due.push((ssrc, next));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(first: u8) -> Datagram {
        ("127.0.0.1:9".parse().unwrap(), vec![first])
    }

    #[test]
    fn loses_the_asked_share_and_repeats_with_the_same_seed() {
        let options = PathOptions {
            loss_percent: 10.0,
            ..PathOptions::default()
        };
        let lost = |seed| {
            let mut path = Path::new(options, seed);
            let now = Instant::now();
            (0..10_000)
                .map(|_| !path.enter(now, datagram(0)))
                .collect::<Vec<_>>()
        };
        let count = lost(1).iter().filter(|lost| **lost).count();
        assert!((900..1100).contains(&count), "{count}");
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(2));
    }

    #[test]
    fn loses_in_bursts_and_only_while_there_is_trouble() {
        let options = PathOptions {
            loss_percent: 10.0,
            burst: 5,
            trouble: Some((Duration::from_secs(1), Duration::from_secs(2))),
            ..PathOptions::default()
        };
        let mut path = Path::new(options, 3);
        let start = Instant::now();
        path.connected(start);
        let mut lost_at = |after| {
            (0..10_000)
                .map(|_| !path.enter(start + Duration::from_millis(after), datagram(0)))
                .collect::<Vec<_>>()
        };
        assert!(lost_at(500).iter().all(|lost| !lost));
        let lost = lost_at(1500);
        let count = lost.iter().filter(|lost| **lost).count();
        assert!((700..1300).contains(&count), "{count}");
        assert!(
            lost.chunk_by(|a, b| a == b)
                .filter(|run| run[0])
                .all(|run| run.len() >= 5)
        );
        assert!(lost_at(2500).iter().all(|lost| !lost));
    }

    /// What arrives, in order, of packets sent every millisecond.
    fn arrivals(options: PathOptions) -> Vec<u8> {
        let mut path = Path::new(options, 0);
        let start = Instant::now();
        for number in 0..200 {
            assert!(path.enter(
                start + Duration::from_millis(number),
                datagram(number as u8)
            ));
        }
        std::iter::from_fn(|| path.leave(start + Duration::from_secs(1)))
            .map(|(_, datagram)| datagram[0])
            .collect()
    }

    #[test]
    fn delays_in_order() {
        let options = PathOptions {
            delay: Duration::from_millis(100),
            ..PathOptions::default()
        };
        let mut path = Path::new(options, 0);
        let now = Instant::now();
        assert!(path.enter(now, datagram(1)));
        assert!(path.enter(now + Duration::from_millis(10), datagram(2)));
        assert_eq!(path.leave(now + Duration::from_millis(99)), None);
        assert_eq!(
            path.leave(now + Duration::from_millis(100)),
            Some(datagram(1))
        );
        assert_eq!(path.next(), Some(now + Duration::from_millis(110)));
        let jittered = arrivals(PathOptions {
            jitter: Duration::from_millis(50),
            ..PathOptions::default()
        });
        assert!(jittered.is_sorted() && jittered.len() == 200);
    }

    #[test]
    fn reorders_and_duplicates() {
        let reordered = arrivals(PathOptions {
            reordered_percent: 10.0,
            ..PathOptions::default()
        });
        assert!(!reordered.is_sorted() && reordered.len() == 200);
        let twice = arrivals(PathOptions {
            duplicated_percent: 50.0,
            ..PathOptions::default()
        });
        assert!(twice.len() > 250 && twice.is_sorted());
    }

    #[test]
    fn tells_datagrams_apart() {
        let rtp = |second: u8| [0x90, second, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(kind(&rtp(96)), Kind::Rtp(7));
        assert_eq!(kind(&rtp(0x80 | 0x60)), Kind::Rtp(7), "with marker");
        assert_eq!(kind(&rtp(0x80 | 0x6f)), Kind::Rtp(7));
        assert_eq!(
            kind(&[0x80, 200, 0, 6, 0, 0, 0, 9, 1, 2, 3, 4]),
            Kind::SenderReport(9)
        );
        assert_eq!(kind(&[0x81, 203, 0, 1, 0, 0, 0, 9]), Kind::Other, "BYE");
        assert_eq!(kind(&[0x16, 0xfe, 0xfd]), Kind::Other, "DTLS");
        assert_eq!(kind(&[0x80]), Kind::Other);
    }

    #[test]
    fn reports_pass_when_due() {
        let interval = Duration::from_millis(500);
        let mut gate = ReportGate::new(SenderReports::Every {
            first: Duration::ZERO,
            interval,
        });
        let start = Instant::now();
        gate.closed = true;
        gate.track_started(start);
        assert!(!gate.admits(1, start));
        gate.closed = false;
        let passed: Vec<u32> = (1..=30)
            .filter(|tick| gate.admits(1, start + REPORT_GRAIN * *tick))
            .collect();
        assert_eq!(passed, [1, 11, 21]);
        assert!(!ReportGate::new(SenderReports::Off).admits(1, start));
    }
}
