//! The element's properties, and what they mean for the cut rules.

use std::time::Duration;

use super::fragment::{Fragmenter, Origin, ticks};
use crate::pipeline::{
    START_OFFSET,
    cut::{Limits, Rule},
};

/// Values of the properties; times in nanoseconds.
#[derive(Debug)]
pub(crate) struct Settings {
    pub part_duration: u64,
    pub segment_duration: u64,
    pub start_offset: u64,
    pub encoder_delay: u64,
    /// `u64::MAX` while unset.
    pub segment_origin: u64,
    /// 0 for the usual one.
    pub timescale: u32,
    pub track_id: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            part_duration: 200_000_000,
            segment_duration: 2_000_000_000,
            start_offset: u64::try_from(START_OFFSET.as_nanos()).unwrap_or(u64::MAX),
            encoder_delay: 0,
            segment_origin: u64::MAX,
            timescale: 0,
            track_id: 1,
        }
    }
}

impl Settings {
    /// What is added to running times.
    pub(super) fn offset(&self) -> Option<i64> {
        let offset = i64::try_from(self.start_offset).ok()?;
        offset.checked_sub(i64::try_from(self.encoder_delay).ok()?)
    }

    /// Cuts a track as these settings say. Also returns the track's timescale.
    pub(super) fn fragmenter<P>(&self, video: bool) -> (Fragmenter<P>, u32) {
        let (rule, usual) = if video {
            (Rule::Keyframes, 90_000)
        } else {
            (Rule::Multiples, 48_000)
        };
        let timescale = match self.timescale {
            0 => usual,
            timescale => timescale,
        };
        let limits = Limits::new(
            Duration::from_nanos(self.part_duration),
            Duration::from_nanos(self.segment_duration),
            timescale,
            rule,
        );
        let in_ticks = |ns: u64| {
            let ticks = ticks(i64::try_from(ns).unwrap_or(i64::MAX), timescale);
            u64::try_from(ticks).unwrap_or(0)
        };
        let origin = match self.segment_origin {
            u64::MAX => Origin::AfterStart(in_ticks(self.encoder_delay)),
            origin => Origin::At(in_ticks(origin)),
        };
        let fragmenter = Fragmenter::new(limits, rule, timescale).with_origin(origin);
        (fragmenter, timescale)
    }
}
