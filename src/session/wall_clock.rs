//! What wall-clock time the presentation times of a publication stand for. Pure: is told the time.
//!
//! A packet is never early, so presentation time 0 was at the least difference of arrival and presentation time of any
//! packet. The first packet alone does not tell: publishers send what they made while the connection was being set up
//! all at once, a second of it and more, and its first packets are the latest.

use std::time::{Duration, SystemTime};

use crate::media::Monotonic;

/// It is settled when packets have not come less late for this long; less than the first part takes to come.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// It is settled so long after the first packet, whatever comes: viewers wait for the first part.
const LIMIT: Duration = Duration::from_secs(1);

/// How much less late, in ns: less than that is jitter.
const NOTABLE: i64 = 10_000_000;

/// The wall clock of one publication.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallClock {
    /// Wall-clock time of monotonic time 0.
    epoch: SystemTime,
    seen: Option<Seen>,
    settled: bool,
}

/// What the packets so far have told.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Monotonic,
    /// Monotonic time of presentation time 0, in ns.
    zero: i64,
    /// When it last became notably earlier, and what it was then.
    earlier: (Monotonic, i64),
}

impl WallClock {
    /// `epoch` is the wall-clock time of monotonic time 0.
    pub(super) fn new(epoch: SystemTime) -> Self {
        Self {
            epoch,
            seen: None,
            settled: false,
        }
    }

    /// A packet with this presentation time, in ns, arrived.
    pub(super) fn packet(&mut self, arrival: Monotonic, pts: i64) {
        if self.settled {
            return;
        }
        let zero = i64::try_from(arrival.as_nanos())
            .unwrap_or(i64::MAX)
            .saturating_sub(pts);
        let seen = self.seen.get_or_insert(Seen {
            first: arrival,
            zero,
            earlier: (arrival, zero),
        });
        seen.zero = seen.zero.min(zero);
        if seen.earlier.1 - seen.zero >= NOTABLE {
            seen.earlier = (arrival, seen.zero);
        }
    }

    /// Whether it is settled by now; then it stays as it is. Media is given a time after that only.
    pub(super) fn is_settled(&mut self, now: Monotonic) -> bool {
        self.settled = self.settled || self.deadline().is_some_and(|at| at <= now);
        self.settled
    }

    /// Settles it with what is known.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// When it will be settled if nothing comes less late; `None` if it is, or before the first packet.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        let seen = self.seen.filter(|_| !self.settled)?;
        Some((seen.earlier.0 + SETTLED_AFTER).min(seen.first + LIMIT))
    }

    /// Wall-clock time of a presentation time in ns.
    pub(super) fn time_of(&self, pts: i64) -> SystemTime {
        let nanos = self.seen.map_or(0, |seen| seen.zero).saturating_add(pts);
        let distance = Duration::from_nanos(nanos.unsigned_abs());
        if nanos < 0 {
            self.epoch.checked_sub(distance)
        } else {
            self.epoch.checked_add(distance)
        }
        .unwrap_or(self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Monotonic {
        Duration::from_millis(ms)
    }

    fn clock() -> WallClock {
        WallClock::new(SystemTime::UNIX_EPOCH)
    }

    /// Milliseconds since the epoch at presentation time 0.
    fn zero(clock: &WallClock) -> u128 {
        let zero = clock.time_of(0).duration_since(SystemTime::UNIX_EPOCH);
        zero.unwrap().as_millis()
    }

    #[test]
    fn live_media_is_settled_before_its_first_part() {
        let mut clock = clock();
        assert!(!clock.is_settled(ms(50)), "nothing has come");
        for n in 0..6 {
            // Jitter of 3 ms.
            clock.packet(
                ms(1003 - n % 2 * 3 + 20 * n),
                20_000_000 * i64::try_from(n).unwrap(),
            );
        }
        assert_eq!(clock.deadline(), Some(ms(1103)));
        assert!(!clock.is_settled(ms(1102)));
        assert!(clock.is_settled(ms(1103)));
        assert_eq!(zero(&clock), 1000);
        clock.packet(ms(1200), 400_000_000);
        assert_eq!(zero(&clock), 1000, "it stays");
    }

    #[test]
    fn a_backlog_is_dated_by_its_end() {
        let mut clock = clock();
        // One second of media within 200 ms, then live.
        for n in 0..50 {
            clock.packet(ms(1000 + 4 * n), 20_000_000 * i64::try_from(n).unwrap());
            assert!(!clock.is_settled(ms(1000 + 4 * n)), "{n}");
        }
        for n in 50..56 {
            let late = 20 * (n - 50);
            clock.packet(ms(1200 + late), 20_000_000 * i64::try_from(n).unwrap());
        }
        assert!(clock.is_settled(ms(1310)));
        assert_eq!(zero(&clock), 200);
    }

    #[test]
    fn what_comes_less_and_less_late_is_not_waited_for_without_end() {
        let mut clock = clock();
        for n in 0..50 {
            clock.packet(ms(20 * n), 40_000_000 * i64::try_from(n).unwrap());
        }
        assert!(clock.is_settled(ms(1000)));
    }
}
