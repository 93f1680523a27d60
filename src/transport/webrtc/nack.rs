//! [`NackLog`]: which packets of one RTP stream are missing, and when to ask for each again.
//!
//! Owns the decision only, pure in time and sequence numbers; the messages are the receiver's matter. The stack's own
//! generator wakes up on an interval for ever; this one has a deadline only while something is missing.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a gap may be mere reordering before it is asked for.
const REORDERING: Duration = Duration::from_millis(10);

/// Shortest time between two requests for one packet; a longer round trip makes it longer.
const INTERVAL: Duration = Duration::from_millis(25);

/// Longest time between two requests for one packet.
const LONGEST_INTERVAL: Duration = Duration::from_millis(250);

/// Requests for one packet.
const TRIES: u8 = 10;

/// After this time nobody waits for the packet any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// A longer gap is a jump of the sender's numbers, not loss.
const LONGEST_GAP: u16 = 512;

#[derive(Debug)]
struct Missing {
    sequence_number: u64,
    since: Instant,
    next: Instant,
    first_request: Option<Instant>,
    tries: u8,
}

/// The reception state of one stream.
#[derive(Debug)]
pub(super) struct NackLog {
    asks: bool,
    highest: Option<u64>,
    missing: VecDeque<Missing>,
    /// Time from a request to the packet, smoothed.
    round_trip: Duration,
    lost: u64,
}

impl NackLog {
    /// `asks`: the sender repeats packets; otherwise losses are only counted.
    pub(super) fn new(asks: bool) -> Self {
        Self {
            asks,
            highest: None,
            missing: VecDeque::new(),
            round_trip: INTERVAL,
            lost: 0,
        }
    }

    /// A packet arrived.
    pub(super) fn arrived(&mut self, sequence_number: u16, now: Instant) {
        let Some(highest) = self.highest else {
            // Counted from a high number, so that a packet from before the first one has a place.
            self.highest = Some((1 << 32) + u64::from(sequence_number));
            return;
        };
        let ahead = sequence_number.wrapping_sub((highest & 0xffff) as u16);
        if ahead == 0 {
            return;
        }
        if ahead < 0x8000 {
            if ahead <= LONGEST_GAP {
                for gap in 1..ahead {
                    self.missing.push_back(Missing {
                        sequence_number: highest + u64::from(gap),
                        since: now,
                        next: now + REORDERING,
                        first_request: None,
                        tries: 0,
                    });
                }
            } else {
                self.missing.clear();
            }
            self.highest = Some(highest + u64::from(ahead));
        } else {
            self.repaired(highest - u64::from(ahead.wrapping_neg()), now);
        }
        self.give_up(now);
    }

    fn repaired(&mut self, sequence_number: u64, now: Instant) {
        let found = self
            .missing
            .binary_search_by_key(&sequence_number, |missing| missing.sequence_number);
        if let Ok(position) = found
            && let Some(missing) = self.missing.remove(position)
            && let Some(first_request) = missing.first_request
        {
            let sample = now.saturating_duration_since(first_request);
            self.round_trip = (self.round_trip * 7 + sample) / 8;
        }
    }

    /// Forgets what has been missing for too long. Gaps are in the order of their age.
    fn give_up(&mut self, now: Instant) {
        while let Some(oldest) = self.missing.front()
            && (now.saturating_duration_since(oldest.since) >= PATIENCE
                || self.missing.len() > usize::from(LONGEST_GAP))
        {
            self.missing.pop_front();
            self.lost += 1;
        }
    }

    /// The numbers to ask for now, in order.
    pub(super) fn due(&mut self, now: Instant) -> Vec<u16> {
        self.give_up(now);
        if !self.asks {
            return Vec::new();
        }
        let interval = (self.round_trip + self.round_trip / 4).clamp(INTERVAL, LONGEST_INTERVAL);
        let mut due = Vec::new();
        for missing in &mut self.missing {
            if missing.next <= now && missing.tries < TRIES {
                missing.tries += 1;
                missing.next = now + interval;
                missing.first_request.get_or_insert(now);
                due.push((missing.sequence_number & 0xffff) as u16);
            }
        }
        due
    }

    /// When [`due`](Self::due) has something to say next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.asks {
            return None;
        }
        self.missing
            .iter()
            .filter(|missing| missing.tries < TRIES)
            .map(|missing| missing.next)
            .min()
    }

    /// Takes the number of packets given up since the last call.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn log(asks: bool, numbers: &[u16], now: Instant) -> NackLog {
        let mut log = NackLog::new(asks);
        for number in numbers {
            log.arrived(*number, now);
        }
        log
    }

    #[test]
    fn a_gap_is_asked_for_after_the_time_of_reordering() {
        let start = Instant::now();
        let mut log = log(true, &[65534, 2], start);
        assert!(log.due(start).is_empty());
        assert_eq!(log.deadline(), Some(start + REORDERING));
        assert_eq!(log.due(start + REORDERING), [65535, 0, 1]);
        assert!(log.due(start + REORDERING).is_empty());
    }

    #[test]
    fn what_arrives_late_is_not_asked_for() {
        let start = Instant::now();
        let mut log = log(true, &[10, 13, 11], start);
        assert_eq!(log.due(start + ms(20)), [12]);
        log.arrived(12, start + ms(21));
        assert_eq!(log.deadline(), None);
        assert!(log.due(start + ms(500)).is_empty());
        assert_eq!(log.take_lost(), 0);
    }

    #[test]
    fn requests_are_limited_and_then_the_packet_is_lost() {
        let start = Instant::now();
        let mut log = log(true, &[1, 3], start);
        let mut requests = 0;
        for time in 0..2000 {
            requests += log.due(start + ms(time)).len();
        }
        assert_eq!(requests, usize::from(TRIES));
        assert_eq!(log.take_lost(), 1);
        assert_eq!(log.take_lost(), 0);
        assert_eq!(log.deadline(), None);
    }

    #[test]
    fn a_long_round_trip_makes_requests_rarer() {
        let start = Instant::now();
        let mut log = log(true, &[0], start);
        let mut now = start;
        let mut number: u16 = 0;
        for _ in 0..50 {
            number += 2;
            log.arrived(number, now);
            assert_eq!(log.due(now + REORDERING), [number - 1]);
            now += REORDERING + ms(200);
            log.arrived(number - 1, now);
        }
        log.arrived(number + 2, now);
        log.due(now + REORDERING);
        assert!(log.deadline().unwrap() > now + REORDERING + ms(190));
    }

    #[test]
    fn a_jump_of_the_numbers_is_no_loss() {
        let start = Instant::now();
        let mut log = log(true, &[1, 3, 20_000], start);
        assert_eq!(log.deadline(), None);
        assert!(log.due(start + PATIENCE).is_empty());
        assert_eq!(log.take_lost(), 0);
    }

    #[test]
    fn losses_are_counted_without_asking() {
        let start = Instant::now();
        let mut log = log(false, &[1, 3], start);
        assert_eq!(log.deadline(), None);
        assert!(log.due(start + ms(50)).is_empty());
        log.arrived(4, start + PATIENCE);
        assert_eq!(log.take_lost(), 1);
    }

    proptest! {
        #[test]
        fn never_asks_for_what_came(numbers in proptest::collection::vec(0u16..400, 1..300)) {
            let start = Instant::now();
            let mut log = NackLog::new(true);
            for number in &numbers {
                log.arrived(number.wrapping_add(65_400), start);
            }
            for number in log.due(start + REORDERING) {
                prop_assert!(!numbers.contains(&number.wrapping_sub(65_400)));
            }
            prop_assert!(log.missing.len() <= usize::from(LONGEST_GAP));
        }
    }
}
