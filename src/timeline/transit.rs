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
#[derive(Debug, Default)]
pub(super) struct Transit {
    windows: Option<Windows>,
}

#[derive(Debug)]
struct Windows {
    start: Monotonic,
    present: i64,
    before: Option<i64>,
}

impl Transit {
    /// Takes the next packet; the minimum of a window that is just over.
    pub(super) fn record(&mut self, arrival: Monotonic, pts: i64) -> Option<i64> {
        let value = duration_nanos(arrival) - pts;
        match &mut self.windows {
            None => {
                self.windows = Some(Windows {
                    start: arrival,
                    present: value,
                    before: None,
                });
                None
            }
            Some(windows) if arrival.saturating_sub(windows.start) >= WINDOW => {
                let over = windows.present;
                *windows = Windows {
                    start: arrival,
                    present: value,
                    before: Some(over),
                };
                Some(over)
            }
            Some(windows) => {
                windows.present = windows.present.min(value);
                None
            }
        }
    }

    /// The least value of the last five to ten seconds of media.
    pub(super) fn least(&self) -> Option<i64> {
        let windows = self.windows.as_ref()?;
        Some(
            windows
                .before
                .map_or(windows.present, |before| before.min(windows.present)),
        )
    }

    /// Follows a jump of the mapping by `offset`.
    pub(super) fn shift(&mut self, offset: i64) {
        if let Some(windows) = &mut self.windows {
            windows.present -= offset;
            windows.before = windows.before.map(|before| before - offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_after_two_windows() {
        let mut transit = Transit::default();
        assert_eq!(transit.least(), None);
        transit.record(Duration::from_secs(0), -7);
        assert_eq!(transit.least(), Some(7));
        for second in 1..5 {
            let pts = i64::from(second) * 1_000_000_000 - 100;
            transit.record(Duration::from_secs(u64::try_from(second).unwrap()), pts);
        }
        assert_eq!(transit.least(), Some(7));
        assert_eq!(
            transit.record(Duration::from_secs(5), 4_999_999_900),
            Some(7)
        );
        assert_eq!(transit.least(), Some(7));
        assert_eq!(
            transit.record(Duration::from_secs(10), 9_999_999_900),
            Some(100)
        );
        assert_eq!(transit.least(), Some(100));
        transit.shift(40);
        assert_eq!(transit.least(), Some(60));
    }
}
