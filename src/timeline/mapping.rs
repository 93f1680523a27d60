//! Where one track stands on the stream's time: RTP timestamps to presentation times, with jumps noticed and
//! corrections carried out.
//!
//! Owns the track's line, its unwrapped timestamps and its arrival statistics. Which correction is due is decided by
//! `align`, which sees all tracks; here is only how one is carried out: small ones by bending the line, large ones by a
//! jump between two frames.

use std::time::Duration;

use super::{
    EARLIEST, TrackClock,
    line::Line,
    reorder::Held,
    stats::MappingSource,
    transit::Transit,
    unwrap::{MILLISECOND, SECOND, duration_nanos, nanos, ticks, timestamp},
};
use crate::media::{MediaKind, Monotonic};

/// A timestamp step that differs from the arrivals by more is a jump of the sender's RTP clock.
pub(super) const JUMP: i64 = 3 * SECOND;
/// Errors below this are left alone, so that a sender with a clean clock keeps its timestamps to the tick.
const DEAD_BAND: i64 = MILLISECOND / 5;
/// Most that one sender report moves a mapping that is already by sender reports, at an interval of up to three seconds.
const STEP: i64 = MILLISECOND;
/// Reports are rare when they come at this distance, in ns.
const RARE: i64 = 5 * SECOND;
/// No real clock is further off (parts of one).
const MAX_RATE: f64 = 1e-3;
/// Timestamps are unwrapped by arrival after a silence of this length: 2^31 ticks at 90 kHz are 6.6 hours.
const LONG_SILENCE: Duration = Duration::from_hours(1);

/// What a packet's timestamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Presentation time in ns.
    pub(super) pts: i64,
    /// The mapping jumped in front of this packet.
    pub(super) jumped: bool,
    /// Not to be handed on: before the stream's start, or skipped by a correction backwards.
    pub(super) discard: bool,
    /// Least transit of a window of arrivals that this packet ended.
    pub(super) window: Option<i64>,
}

/// The mapping of one track.
#[derive(Debug)]
pub(super) struct Mapping {
    clock: TrackClock,
    pub(super) ssrc: u32,
    pub(super) source: MappingSource,
    line: Line,
    transit: Transit,
    newest: i64,
    newest_arrival: Monotonic,
    last: Option<i64>,
    highest_pts: i64,
    frame: i64,
    /// A jump decided on but not yet carried out, in ns.
    jump: i64,
    /// Nothing before this is handed on.
    floor: i64,
}

impl Mapping {
    /// A mapping that puts the first packet at `pts`. `transit` is the least one of the packets held.
    pub(super) fn new(
        clock: TrackClock,
        first: &Held,
        pts: i64,
        transit: i64,
        source: MappingSource,
    ) -> Self {
        let ticks = i64::from(first.packet.timestamp);
        Self {
            clock,
            ssrc: first.packet.ssrc,
            source,
            line: Line::new(clock.clock_rate, ticks, pts),
            transit: Transit::new(first.arrival, transit),
            newest: ticks,
            newest_arrival: first.arrival,
            last: None,
            highest_pts: i64::MIN,
            frame: 0,
            jump: 0,
            floor: -duration_nanos(EARLIEST),
        }
    }

    /// Presentation time of the next packet in sequence.
    pub(super) fn place(&mut self, arrival: Monotonic, timestamp: u32) -> Place {
        let ticks = self.unwrap(arrival, timestamp);
        let mut jumped = false;
        // A jump never tears a picture apart: it waits for the next timestamp.
        if self.last != Some(ticks) {
            if self.is_jump(ticks, arrival) {
                self.restart(ticks, arrival, None);
                jumped = true;
            } else if self.jump != 0 {
                jumped = self.carry_out_jump();
            }
        }
        self.last = Some(ticks);
        let pts = self.line.at(ticks);
        if ticks > self.newest || jumped {
            let frame = pts.saturating_sub(self.highest_pts);
            if (1..SECOND / 2).contains(&frame) {
                self.frame = frame;
            }
            self.newest = ticks;
            self.newest_arrival = arrival;
        }
        let window = self.transit.record(arrival, pts);
        let discard = pts < self.floor;
        if !discard {
            self.highest_pts = self.highest_pts.max(pts);
        }
        Place {
            pts,
            jumped,
            discard,
            window,
        }
    }

    /// Goes on with another source, whose first packet has this timestamp: at `pts` if that is known, else by arrival.
    pub(super) fn change_source(
        &mut self,
        ssrc: u32,
        timestamp: u32,
        arrival: Monotonic,
        pts: Option<i64>,
    ) {
        self.ssrc = ssrc;
        self.restart(i64::from(timestamp), arrival, pts);
    }

    /// Presentation time that the settled mapping gives a timestamp seen at `arrival`.
    pub(super) fn settled(&self, arrival: Monotonic, timestamp: u32) -> i64 {
        self.line.settled(self.unwrap(arrival, timestamp)) + self.jump
    }

    /// The least transit (arrival - pts) of the last seconds.
    pub(super) fn transit(&self) -> i64 {
        self.transit.least()
    }

    /// Rate correction in parts per million.
    pub(super) fn rate_ppm(&self) -> f64 {
        self.rate() * 1e6
    }

    /// Rate correction, parts of one.
    pub(super) fn rate(&self) -> f64 {
        self.line.rate()
    }

    /// The newest timestamp handed on, unwrapped.
    pub(super) fn newest_ticks(&self) -> i64 {
        self.newest
    }

    /// Presentation time of the newest timestamp handed on.
    pub(super) fn newest_pts(&self) -> i64 {
        self.line.at(self.newest)
    }

    /// The unwrapped timestamp nearest to the newest one.
    pub(super) fn ticks_of(&self, value: u32) -> i64 {
        timestamp(self.newest, value)
    }

    /// Follows a clock: `error` is how much presentation times are too early after `interval`, both in ns.
    ///
    /// A controller with a proportional and an integral part: a third of the error, all of it where reports come every
    /// 5 s, but at most 1 ms or 300 ppm of a longer interval, is made up over the next second, and the rate is trimmed so
    /// that a steady drift leaves no error.
    pub(super) fn follow(&mut self, error: i64, interval: i64) {
        if error.abs() < DEAD_BAND {
            return;
        }
        let measures_rate = interval > SECOND / 3;
        let interval = interval.max(SECOND);
        let most = STEP.max(interval / 1_000_000 * 300);
        let mut rate = self.line.rate();
        // A larger error than a drifting clock makes is an offset and says nothing of the rate, and reports in quick
        // succession say more of their own scatter.
        if measures_rate && error.abs() <= (2 * MILLISECOND).max(interval / 1_000_000 * 2_000) {
            rate = (rate + gain(interval) * ratio(error, interval)).clamp(-MAX_RATE, MAX_RATE);
        }
        // Where reports are rare, drift makes most of the error, and what is left of it grows until the next one.
        let error = error.clamp(-SECOND, SECOND);
        let third = error / 3;
        let step = third + (error - third) * (interval.min(RARE) - SECOND) / (RARE - SECOND);
        let step = step.clamp(-most, most);
        self.line.bend(self.newest, rate, step, SECOND);
    }

    /// Makes up an offset of `error` gradually, at up to 5 % of the media time.
    pub(super) fn slew(&mut self, error: i64) {
        if error.abs() >= DEAD_BAND {
            self.line
                .bend(self.newest, self.line.rate(), error, SECOND / 5);
        }
    }

    /// Makes up an offset of `error` at once, in front of the next frame.
    pub(super) fn jump(&mut self, error: i64) {
        self.jump += error;
    }

    fn unwrap(&self, arrival: Monotonic, value: u32) -> i64 {
        let silence = arrival.saturating_sub(self.newest_arrival);
        let reference = if silence > LONG_SILENCE {
            self.newest + ticks(duration_nanos(silence), self.clock.clock_rate)
        } else {
            self.newest
        };
        timestamp(reference, value)
    }

    /// Forwards, both the step since the last frame and the transit must be out of line: a sender faster than real time
    /// and the end of a network stall are not. Backwards, no sender steps by seconds.
    fn is_jump(&self, ticks: i64, arrival: Monotonic) -> bool {
        let step = nanos(ticks - self.newest, self.clock.clock_rate);
        let elapsed = duration_nanos(arrival.saturating_sub(self.newest_arrival));
        step < -JUMP
            || (step - elapsed > JUMP
                && duration_nanos(arrival) - self.line.at(ticks) < self.transit.least() - JUMP)
    }

    fn restart(&mut self, ticks: i64, arrival: Monotonic, pts: Option<i64>) {
        let next = self.next_pts();
        let pts = if let Some(pts) = pts {
            self.source = MappingSource::SenderReport;
            self.floor = self.floor.max(next);
            pts
        } else {
            self.source = MappingSource::Arrival;
            next.max(duration_nanos(arrival) - self.transit.least())
        };
        self.line.restart(ticks, pts);
        self.jump = 0;
        self.newest = ticks;
        self.newest_arrival = arrival;
        self.last = None;
    }

    /// True if the consumer has to start a new piece. Sound set back is skipped until its time has come, which leaves
    /// no gap in the times handed on.
    fn carry_out_jump(&mut self) -> bool {
        let offset = std::mem::take(&mut self.jump);
        self.line.shift(offset);
        self.transit.shift(offset);
        if offset > 0 {
            return true;
        }
        self.floor = self.floor.max(self.next_pts());
        self.clock.kind == MediaKind::Video
    }

    /// The earliest time that may follow what was handed on.
    fn next_pts(&self) -> i64 {
        self.highest_pts
            .saturating_add(self.frame.max(MILLISECOND))
            .max(0)
    }
}

/// Weight of a new rate measurement: the longer the interval, the less its noise counts.
#[expect(clippy::cast_precision_loss, reason = "a weight")]
fn gain(interval: i64) -> f64 {
    0.1 + 0.3 * (interval as f64 / (5 * SECOND) as f64).min(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "at most seconds")]
fn ratio(error: i64, interval: i64) -> f64 {
    error as f64 / interval as f64
}
