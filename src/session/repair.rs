//! When to ask the publisher of a video that is transcoded for a keyframe: only to mend what cannot be decoded. Those
//! that start segments come from our own encoder. Pure.

use std::time::Duration;

use crate::media::Monotonic;

/// Least time between two requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// Collects needs and spaces the requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Repair {
    needed: bool,
    last: Option<Monotonic>,
}

impl Repair {
    /// Something was lost, or the decoder needs a keyframe to begin with.
    pub(super) fn need(&mut self) {
        self.needed = true;
    }

    /// Whether a request is to be sent now. True is taken as sent; whoever needs another one says so again.
    pub(super) fn poll(&mut self, now: Monotonic) -> bool {
        let due = self.needed && self.last.is_none_or(|last| now >= last + INTERVAL);
        if due {
            self.needed = false;
            self.last = Some(now);
        }
        due
    }

    /// When [`Self::poll`] says yes though nothing is told in between.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.needed
            .then(|| self.last.map_or(Duration::ZERO, |last| last + INTERVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_when_needed_and_once_a_second_at_most() {
        let at = Duration::from_millis;
        let mut repair = Repair::default();
        assert!(!repair.poll(at(0)), "nothing is wrong");
        assert_eq!(repair.deadline(), None);
        repair.need();
        assert!(repair.poll(at(10)));
        assert!(!repair.poll(at(20)));
        repair.need();
        repair.need();
        assert!(!repair.poll(at(1_000)));
        assert_eq!(repair.deadline(), Some(at(1_010)));
        assert!(repair.poll(at(1_010)));
        assert!(!repair.poll(at(3_000)), "asked for once is asked for once");
    }
}
