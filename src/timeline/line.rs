//! The straight line from RTP ticks to presentation time, with a rate correction and one gradual offset correction.
//!
//! Pure arithmetic: knows nothing of reports, arrivals or tracks.

use super::unwrap::nanos;

/// Steepest slope of a gradual correction, as 1/n of the media time: 5 %, so presentation times never run backwards and
/// sound keeps its order.
pub(super) const STEEPEST: i64 = 20;

/// Maps extended RTP timestamps (ticks) to presentation times (ns).
///
/// `pts = origin + elapsed * (1 + rate) + part of slew`, where `slew` is spread evenly over the first `span` of media
/// time after the anchor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    clock_rate: u32,
    anchor: i64,
    origin: i64,
    rate: f64,
    slew: i64,
    span: i64,
}

impl Line {
    /// The line through one point, at the nominal rate.
    pub(super) fn new(clock_rate: u32, ticks: i64, pts: i64) -> Self {
        Self {
            clock_rate,
            anchor: ticks,
            origin: pts,
            rate: 0.0,
            slew: 0,
            span: 0,
        }
    }

    /// Presentation time of `ticks`.
    pub(super) fn at(&self, ticks: i64) -> i64 {
        let elapsed = nanos(ticks - self.anchor, self.clock_rate);
        self.origin + elapsed + self.drift(elapsed) + self.slewed(elapsed)
    }

    /// Presentation time of `ticks` as if the gradual correction were complete.
    pub(super) fn settled(&self, ticks: i64) -> i64 {
        let elapsed = nanos(ticks - self.anchor, self.clock_rate);
        self.origin + elapsed + self.drift(elapsed) + self.slew
    }

    /// Rate correction: 1e-6 is one part per million.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Moves everything by `offset` at once.
    pub(super) fn shift(&mut self, offset: i64) {
        self.origin += offset;
    }

    /// Goes through `pts` at `ticks` from now on, keeping the rate and dropping what is left of a gradual correction.
    pub(super) fn restart(&mut self, ticks: i64, pts: i64) {
        *self = Self {
            rate: self.rate,
            ..Self::new(self.clock_rate, ticks, pts)
        };
    }

    /// Bends at `ticks`: continuous there, with `rate` from there on and `correction` added to what is left of the
    /// gradual correction, spread over at least `span`.
    pub(super) fn bend(&mut self, ticks: i64, rate: f64, correction: i64, span: i64) {
        let origin = self.at(ticks);
        let left = self.settled(ticks) - origin;
        let slew = left + correction;
        *self = Self {
            rate,
            slew,
            span: span.max(slew.abs() * STEEPEST),
            ..Self::new(self.clock_rate, ticks, origin)
        };
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a correction of at most 0.1 %: far below 2^53 ns"
    )]
    fn drift(&self, elapsed: i64) -> i64 {
        if self.rate == 0.0 {
            0
        } else {
            (elapsed as f64 * self.rate).floor() as i64
        }
    }

    fn slewed(&self, elapsed: i64) -> i64 {
        if elapsed >= self.span {
            self.slew
        } else if elapsed <= 0 {
            0
        } else {
            // The steepest slope bounds span to 20 times a correction of seconds: the product stays far below 2^63
            // when the correction is taken in microseconds.
            self.slew / 1_000 * elapsed / (self.span / 1_000).max(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::unwrap::{MILLISECOND, SECOND},
        *,
    };

    #[test]
    fn is_exact_without_corrections() {
        let line = Line::new(48_000, 1_000, 5);
        for n in 0..100_000 {
            assert_eq!(line.at(1_000 + n * 960), 5 + n * 20 * MILLISECOND);
        }
    }

    #[test]
    fn a_bend_is_continuous_and_ends_where_it_should() {
        let mut line = Line::new(48_000, 0, 0);
        line.bend(48_000, 1e-4, 100 * MILLISECOND, SECOND);
        assert_eq!(line.at(48_000), SECOND);
        let mut before = line.at(48_000);
        for n in 1..300 {
            let now = line.at(48_000 + n * 960);
            let step = now - before - 20 * MILLISECOND;
            assert!((0..=1_010_000).contains(&step), "step {step} at {n}");
            before = now;
        }
        let end = line.at(48_000 * 11);
        assert!(
            (end - (11 * SECOND + 101 * MILLISECOND)).abs() < 10,
            "{end}"
        );
        assert_eq!(line.settled(48_000 * 11), end);
    }

    #[test]
    fn what_is_left_of_a_correction_survives_the_next_bend() {
        let mut line = Line::new(90_000, 0, 0);
        line.bend(0, 0.0, 100 * MILLISECOND, 0);
        line.bend(90_000, 0.0, -10 * MILLISECOND, 0);
        assert_eq!(line.at(900_000) - 10 * SECOND, 90 * MILLISECOND);
    }
}
