//! What the timeline counts per track.
//!
//! Plain numbers for metrics, the state API and findings; nothing here decides anything.

use std::time::Duration;

use serde::Serialize;

use super::unwrap::{duration_nanos, nanos};
use crate::media::Monotonic;

/// Where a track's presentation times come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingSource {
    /// RTCP sender reports: tracks are in lip-sync by the sender's own clock.
    SenderReport,
    /// Arrival times: right as far as both tracks take equally long to get here.
    Arrival,
}

/// Counters and estimates of one track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TrackStats {
    /// Packets taken in order, without duplicates and late ones, with probing packets that carry no payload.
    pub packets: u64,
    /// Payload bytes of `packets`.
    pub bytes: u64,
    /// Packets given up: not there when the loss wait was over.
    pub lost: u64,
    /// Packets that came after one sent later but within the loss wait, and so late that they were probably
    /// retransmitted.
    pub recovered: u64,
    /// Packets that came after one sent later, sooner than a retransmission can.
    pub reordered: u64,
    /// Packets that had been there already.
    pub duplicates: u64,
    /// Packets that came after they had been given up; they are in `lost`, too.
    pub late: u64,
    /// Single packets of another source or from far outside the sequence, ignored.
    pub strays: u64,
    /// Packets not handed on: their time lies before the stream's start or in what a correction has to skip.
    pub discarded: u64,
    /// Sender reports ignored as bogus.
    pub ignored_reports: u64,
    /// Jumps of the mapping.
    pub discontinuities: u64,
    /// Interarrival jitter, RFC 3550 section 6.4.1.
    pub jitter: Duration,
    /// Where presentation times come from; `None` before the first packet was handed on.
    pub source: Option<MappingSource>,
    /// By how much the last sender report (or the last window of arrivals) disagreed with the mapping, in
    /// nanoseconds; positive when presentation times were too early.
    pub mapping_error: i64,
    /// How much faster the reference runs than the track's RTP clock, in parts per million, as far as it is corrected.
    pub rate_ppm: f64,
}

/// Interarrival jitter of RFC 3550 section 6.4.1 in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Jitter {
    previous: Option<(Monotonic, u32)>,
    sixteenths: i64,
}

impl Jitter {
    pub(super) fn record(&mut self, arrival: Monotonic, timestamp: u32, clock_rate: u32) {
        if let Some((before, previous)) = self.previous {
            let sent = nanos(
                i64::from(timestamp.wrapping_sub(previous).cast_signed()),
                clock_rate,
            );
            let difference = duration_nanos(arrival.saturating_sub(before)) - sent;
            self.sixteenths += difference.abs() - self.sixteenths / 16;
        }
        self.previous = Some((arrival, timestamp));
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.sixteenths.unsigned_abs() / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_settles_at_the_mean_deviation() {
        let mut jitter = Jitter::default();
        for n in 0..2_000u32 {
            let late = if n % 2 == 0 { 0 } else { 10 };
            jitter.record(
                Duration::from_millis(u64::from(n * 20 + late)),
                n * 960,
                48_000,
            );
        }
        let jitter = jitter.get();
        assert!(
            jitter > Duration::from_micros(9_900) && jitter < Duration::from_micros(10_100),
            "{jitter:?}"
        );
    }

    #[test]
    fn an_even_stream_has_none_even_over_the_wrap() {
        let mut jitter = Jitter::default();
        for n in 0..100u32 {
            let timestamp = 0xffff_f000u32.wrapping_add(n * 960);
            jitter.record(Duration::from_millis(u64::from(n * 20)), timestamp, 48_000);
        }
        assert_eq!(jitter.get(), Duration::ZERO);
    }
}
