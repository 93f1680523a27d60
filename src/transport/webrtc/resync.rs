//! [`ReportRequests`]: when to ask a stream for a sender report.
//!
//! Browsers send the first sender report of sound seconds after the first packet and then one every 5 s, each of them
//! wrong by a millisecond or two. Asked for by rapid resynchronisation request (RFC 6051 section 3.2) they send one at
//! once, so sound finds its place from the first packet on. Senders that do not know the request ignore it and are not
//! asked for long. Owns the decision only, pure in time.

use std::time::{Duration, Instant};

/// Time between the first requests: longer than most round trips.
const SHORT: Duration = Duration::from_millis(100);

/// Number of first requests: the first may be lost, and several reports together are more exact than one.
const FIRST: u8 = 4;

/// A report that is older is asked for again.
const LONG: Duration = Duration::from_secs(1);

/// A report that comes so long after a request may be the answer to it.
const ANSWER: Duration = Duration::from_millis(500);

/// Requests in a row without an answer after which the sender is taken not to know them.
const UNANSWERED: u8 = 4;

/// The requests of one stream.
#[derive(Debug)]
pub(super) struct ReportRequests {
    /// `None` once the sender is known not to answer.
    next: Option<Instant>,
    asked: Option<Instant>,
    first: u8,
    unanswered: u8,
}

impl ReportRequests {
    /// For a stream whose first packet came now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: Some(now),
            asked: None,
            first: FIRST,
            unanswered: 0,
        }
    }

    /// Whether to ask now.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        if self.unanswered >= UNANSWERED {
            self.next = None;
            return false;
        }
        self.unanswered += 1;
        self.first = self.first.saturating_sub(1);
        self.asked = Some(now);
        self.next = Some(now + if self.first > 0 { SHORT } else { LONG });
        true
    }

    /// A sender report of this stream came.
    pub(super) fn reported(&mut self, now: Instant) {
        let asked = self.asked.map(|asked| now.saturating_duration_since(asked));
        if asked.is_some_and(|since| since <= ANSWER) {
            self.unanswered = 0;
        }
        if self.first == 0 && self.next.is_some() {
            self.next = Some(now + LONG);
        }
    }

    /// When to ask next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of the requests within 20 s, in ms; `answer` says when reports come.
    fn asked(answer: impl Fn(u64, bool) -> bool) -> Vec<u64> {
        let start = Instant::now();
        let mut requests = ReportRequests::new(start);
        let mut asked = Vec::new();
        for ms in (0..20_000).step_by(10) {
            let now = start + Duration::from_millis(ms);
            let due = requests.due(now);
            if due {
                asked.push(ms);
            }
            if answer(ms, due) {
                requests.reported(now);
            }
        }
        asked
    }

    #[test]
    fn a_sender_that_answers_is_asked_once_a_second() {
        let asked = asked(|_, due| due);
        assert_eq!(asked[..6], [0, 100, 200, 300, 1_300, 2_300]);
        assert_eq!(asked.len(), 23);
    }

    #[test]
    fn a_sender_that_never_answers_is_left_alone() {
        assert_eq!(asked(|_, _| false), [0, 100, 200, 300]);
        // One report every 5 s, whatever is asked.
        assert_eq!(asked(|ms, _| ms % 5_000 == 0), [0, 100, 200, 300, 1_300]);
    }

    #[test]
    fn a_sender_that_reports_by_itself_is_not_asked_after_the_start() {
        assert_eq!(asked(|ms, _| ms % 500 == 0), [0, 100, 200, 300]);
    }
}
