//! How a rendition comes and goes that is made only while somebody plays it.

use std::time::{Duration, SystemTime};

use super::Rendition;
use crate::hls::segment::Segment;

impl Rendition {
    /// Begins like this one, which has been there for longer: what is to come at `at` has the same media sequence and
    /// discontinuity sequence numbers as there.
    pub(in crate::hls) fn join(&mut self, other: &Self, at: SystemTime) {
        if self.started {
            return;
        }
        if let Some(msn) = other.msn_at(at) {
            // A name that was given out once must not get another content.
            self.next_msn = self.next_msn.max(msn);
        }
        self.joined_at = Some(other.discontinuity);
    }

    /// Media sequence number of what has this wall-clock time, which may be a little ahead of what there is.
    fn msn_at(&self, at: SystemTime) -> Option<u64> {
        let newest = self.newest()?;
        if self.expected_end(newest) <= at {
            return Some(newest.msn + 1);
        }
        self.open
            .iter()
            .chain(self.segments.iter().rev())
            .find(|segment| segment.program_date_time <= at)
            .map(|segment| segment.msn)
    }

    /// When a segment in progress will end. The first one of a stream ends early, and the second where the first would
    /// have.
    fn expected_end(&self, segment: &Segment) -> SystemTime {
        match (segment.msn, self.segments.front()) {
            (0, _) => segment.program_date_time + self.first_segment.max(segment.duration),
            (1, Some(first)) if first.msn == 0 => first.program_date_time + self.segment_duration,
            _ => segment.program_date_time + self.segment_duration,
        }
    }

    /// Forgets all media, because nothing more is made of it until somebody asks again; numbers go on.
    pub(in crate::hls) fn leave(&mut self) {
        if let Some(open) = self.open.take() {
            self.next_msn = open.msn + 1;
        }
        self.started = false;
        self.segments.clear();
        self.unlisted = 0;
        self.listed = Duration::ZERO;
        self.init = None;
        self.full = None;
        self.delta = None;
    }
}
