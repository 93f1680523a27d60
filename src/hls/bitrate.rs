//! How many bits and pictures per second a rendition has, for the multivariant playlist.

use std::{collections::VecDeque, time::Duration};

/// Counts what passes.
#[derive(Clone, Debug, Default)]
pub(super) struct Bitrate {
    bytes: u64,
    duration: Duration,
    peak: u64,
    /// Bytes and durations of the newest segments, at most 1.5 target durations and one segment of them.
    recent: VecDeque<(u64, Duration)>,
    samples: u64,
    samples_duration: Duration,
}

impl Bitrate {
    /// A part went by.
    pub(super) fn push(&mut self, bytes: u64, duration: Duration, samples: u32) {
        self.bytes += bytes;
        self.duration += duration;
        self.samples += u64::from(samples);
        self.samples_duration += duration;
    }

    /// A segment is complete. The peak is that of any contiguous segments of 0.5 to 1.5 target durations together (RFC
    /// 8216bis section 4.1): a short one counts with its neighbours.
    pub(super) fn segment(&mut self, bytes: u64, duration: Duration, target: Duration) {
        self.recent.push_back((bytes, duration));
        let mut sum = (0, Duration::ZERO);
        let mut within = 0;
        for (bytes, duration) in self.recent.iter().rev() {
            sum = (sum.0 + bytes, sum.1 + *duration);
            if sum.1 > target * 3 / 2 {
                break;
            }
            within += 1;
            if sum.1 >= target / 2 {
                self.peak = self.peak.max(bits_per_second(sum.0, sum.1));
            }
        }
        self.recent.drain(..self.recent.len() - within);
    }

    /// Average bits per second.
    pub(super) fn average(&self) -> u64 {
        bits_per_second(self.bytes, self.duration)
    }

    /// Bits per second of the largest segments; before there is one, of everything so far, which the keyframe at the
    /// beginning makes more rather than less.
    pub(super) fn peak(&self) -> u64 {
        self.peak.max(self.average())
    }

    /// Samples per second, three decimals.
    #[allow(clippy::cast_precision_loss)] // far fewer than 2^52 samples
    pub(super) fn samples_per_second(&self) -> f64 {
        if self.samples_duration.is_zero() {
            return 0.0;
        }
        let rate = self.samples as f64 / self.samples_duration.as_secs_f64();
        (rate * 1000.0).round() / 1000.0
    }

    /// Encoding changed: pictures per second are counted anew, bits go on.
    pub(super) fn restart_samples(&mut self) {
        self.samples = 0;
        self.samples_duration = Duration::ZERO;
    }
}

fn bits_per_second(bytes: u64, duration: Duration) -> u64 {
    let micros = duration.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 8_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_of_the_largest_segments_that_are_long_enough() {
        let target = Duration::from_secs(2);
        let mut bitrate = Bitrate::default();
        bitrate.push(25_000, Duration::from_millis(200), 6);
        assert_eq!((bitrate.peak(), bitrate.average()), (1_000_000, 1_000_000));
        bitrate.push(75_000, Duration::from_millis(1800), 54);
        bitrate.segment(100_000, Duration::from_secs(2), target);
        bitrate.push(100_000, Duration::from_millis(500), 15);
        bitrate.segment(100_000, Duration::from_millis(500), target);
        bitrate.push(250_000, Duration::from_millis(1500), 45);
        bitrate.segment(250_000, Duration::from_millis(1500), target);
        // 100 kB in 0.5 s and 250 kB in 1.5 s: neither alone is as much as both.
        assert_eq!(bitrate.peak(), 1_400_000);
        assert_eq!(bitrate.average(), 900_000);
        assert!((bitrate.samples_per_second() - 30.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_remembered_for_the_peak_is_bounded() {
        let mut bitrate = Bitrate::default();
        for _ in 0..1000 {
            bitrate.segment(25_000, Duration::from_millis(400), Duration::from_secs(2));
        }
        assert!(bitrate.recent.len() <= 7, "{}", bitrate.recent.len());
        bitrate.segment(2_500_000, Duration::from_secs(10), Duration::from_secs(2));
        assert!(bitrate.recent.is_empty());
        assert_eq!(bitrate.peak(), 500_000);
    }
}
