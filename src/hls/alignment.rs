//! Keeps discontinuity sequence numbers the same over all renditions (RFC 8216bis section 6.2.4: matching content must
//! have matching ones). Knows no playlist and no segment.
//!
//! Players match renditions by this number: hls.js holds sound back whose number it has not met in the pictures. So
//! a discontinuity in one rendition is repeated in every other one, at the first part of about the same wall-clock time
//! that decodes by itself. For sound that is the next part. Pictures may have to wait for their next keyframe, since a
//! decoder that starts anew without one shows nothing: whoever makes a discontinuity in sound alone should ask the
//! publisher for a keyframe.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

/// How many discontinuities a rendition that has stopped may be behind before their times are forgotten; it then
/// catches up at once when it goes on.
const REMEMBERED: usize = 64;

/// The discontinuities of a whole stream.
#[derive(Debug, Default)]
pub(super) struct Alignment {
    /// Discontinuity sequence number reached by the rendition that is furthest.
    current: u64,
    /// When the most recent ones happened, oldest first.
    times: VecDeque<SystemTime>,
}

impl Alignment {
    /// Goes on after `number`.
    pub(super) fn after(number: u64) -> Self {
        Self {
            current: number,
            times: VecDeque::new(),
        }
    }

    /// The number a rendition that joins now begins with.
    pub(super) fn current(&self) -> u64 {
        self.current
    }

    /// A rendition went on to `number` with a part of this time.
    pub(super) fn reached(&mut self, number: u64, at: SystemTime) {
        if number > self.current {
            self.current = number;
            self.times.push_back(at);
            if self.times.len() > REMEMBERED {
                self.times.pop_front();
            }
        }
    }

    /// Whether a rendition that is at `number` goes on to the next one with a part of this time and duration, because
    /// at least half of it lies behind the discontinuity of another rendition.
    pub(super) fn is_due(&self, number: u64, at: SystemTime, duration: Duration) -> bool {
        let Some(behind) = self.current.checked_sub(number).filter(|n| *n > 0) else {
            return false;
        };
        let time = usize::try_from(behind)
            .ok()
            .and_then(|behind| self.times.len().checked_sub(behind))
            .and_then(|index| self.times.get(index));
        time.is_none_or(|time| at + duration / 2 >= *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Duration = Duration::from_millis(200);

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + millis)
    }

    #[test]
    fn the_other_rendition_follows_at_the_same_time() {
        let mut alignment = Alignment::default();
        alignment.reached(1, at(1000));
        assert!(!alignment.is_due(0, at(800), PART));
        assert!(alignment.is_due(0, at(920), PART));
        assert!(!alignment.is_due(1, at(1200), PART));
    }

    #[test]
    fn one_that_is_behind_by_several_takes_them_one_by_one() {
        let mut alignment = Alignment::default();
        alignment.reached(1, at(1000));
        alignment.reached(2, at(2000));
        assert!(alignment.is_due(0, at(1000), PART));
        assert!(!alignment.is_due(1, at(1200), PART));
        assert!(alignment.is_due(1, at(2000), PART));
    }

    #[test]
    fn both_at_once_count_once() {
        let mut alignment = Alignment::default();
        alignment.reached(1, at(1000));
        alignment.reached(1, at(1010));
        assert_eq!(alignment.current(), 1);
        assert!(!alignment.is_due(1, at(3000), PART));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut alignment = Alignment::default();
        for number in 1..=1000 {
            alignment.reached(number, at(number));
        }
        assert_eq!(alignment.times.len(), REMEMBERED);
        assert!(alignment.is_due(0, at(0), PART));
    }
}
