//! How long packets take: the least difference of arrival and presentation time over the last seconds.
//!
//! The minimum is what queues and jitter leave untouched, so it shows clock drift and offsets. Pure arithmetic, a few
//! words of memory, no matter how many packets.

use super::unwrap::duration_nanos;
use crate::media::Monotonic;
use std::time::Duration;

/// Length of one window; the minimum covers between one and two of them.
pub(super) const WINDOW: Duration = Duration::from_secs(5);

/// Sliding minimum of `arrival - pts` in nanoseconds.
#[derive(Debug)]
pub(super) struct Transit {
    start: Monotonic,
    present: i64,
    before: Option<i64>,
}

impl Transit {
    /// Starts with a first value.
    pub(super) fn new(arrival: Monotonic, transit: i64) -> Self {
        Self {
            start: arrival,
            present: transit,
            before: None,
        }
    }

    /// Takes the next packet; the minimum of a window that is just over.
    pub(super) fn record(&mut self, arrival: Monotonic, pts: i64) -> Option<i64> {
        let value = duration_nanos(arrival) - pts;
        if arrival.saturating_sub(self.start) < WINDOW {
            self.present = self.present.min(value);
            return None;
        }
        let over = self.present;
        *self = Self {
            start: arrival,
            present: value,
            before: Some(over),
        };
        Some(over)
    }

    /// The least value of the last five to ten seconds of media.
    pub(super) fn least(&self) -> i64 {
        self.before
            .map_or(self.present, |before| before.min(self.present))
    }

    /// Follows a jump of the mapping by `offset`.
    pub(super) fn shift(&mut self, offset: i64) {
        self.present -= offset;
        self.before = self.before.map(|before| before - offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_after_two_windows() {
        let mut transit = Transit::new(Duration::ZERO, 7);
        assert_eq!(transit.least(), 7);
        for second in 1..5 {
            let pts = i64::from(second) * 1_000_000_000 - 100;
            transit.record(Duration::from_secs(u64::try_from(second).unwrap()), pts);
        }
        assert_eq!(transit.least(), 7);
        assert_eq!(
            transit.record(Duration::from_secs(5), 4_999_999_900),
            Some(7)
        );
        assert_eq!(transit.least(), 7);
        assert_eq!(
            transit.record(Duration::from_secs(10), 9_999_999_900),
            Some(100)
        );
        assert_eq!(transit.least(), 100);
        transit.shift(40);
        assert_eq!(transit.least(), 60);
    }
}
