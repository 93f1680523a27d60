//! When to ask a publisher for a keyframe (RTCP picture loss indication, RFC 4585 section 6.3.1).
//!
//! Owns the decision only: told of pictures, keyframes, segment starts and losses, it says when a request is due. Pure:
//! no clock, no I/O; knows nothing of codecs, RTCP or playlists. Segments are measured in presentation time, so it does
//! not matter how late a keyframe is reported; only the pace of requests is in arrival time.
//!
//! A request is due
//! * when pictures flow and no keyframe was seen within [`Settings::start_grace`];
//! * after a loss, until a later keyframe comes;
//! * some time after the first keyframe of a stream, so that its first segment can end early ([`Settings::second`]);
//! * when the segment in hand nears its end: a request takes a while, which is learned from the answered ones.
//!
//! A publisher that sends keyframes by itself often enough is left alone, for as long as it does. Whether it does shows in keyframes that
//! nobody asked for, and in a spacing that stays the same though the requests in it were shifted on purpose. One that
//! ignores requests is asked only rarely.

use std::time::Duration;

use super::unwrap::{MILLISECOND, SECOND, duration_nanos};
use crate::media::Monotonic;

/// A keyframe so much media time after a request is its answer.
const ANSWER_WITHIN: i64 = SECOND;
/// How much later than its presentation time a keyframe may be reported (a part's length and some).
const REPORTED_WITHIN: i64 = SECOND / 2;
/// So many requests in a row without an answer: the publisher ignores them.
const IGNORED: u32 = 3;
/// Requests in the segments in which the publisher is being learned come earlier by these.
const SHIFTS: [i64; 3] = [0, 80 * MILLISECOND, 160 * MILLISECOND];
/// So many answered requests are shifted.
const LEARNING: u32 = 6;
/// Lead before anything is learned.
const FIRST_LEAD: i64 = 100 * MILLISECOND;
/// Two spacings of keyframes that differ by less are the same.
const SAME_SPACING: i64 = 50 * MILLISECOND;

/// What is wanted of the publisher, and how much it is bothered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Each segment is to start with a keyframe after this much media.
    pub segment_duration: Duration,
    /// The second keyframe of the stream is to come so much media after the first; `None`: when the segment ends.
    pub second: Option<Duration>,
    /// How long after the first picture a keyframe must have been seen.
    pub start_grace: Duration,
    /// Least time between two requests.
    pub least_interval: Duration,
    /// Time between two requests to a publisher that ignores them.
    pub ignored_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_duration: Duration::from_secs(2),
            second: None,
            start_grace: Duration::from_millis(300),
            least_interval: Duration::from_secs(1),
            ignored_interval: Duration::from_secs(10),
        }
    }
}

/// Decides when to request keyframes of one video track.
#[derive(Debug)]
pub struct KeyframeDemand {
    settings: Settings,
    segment_duration: i64,
    first_picture: Option<Monotonic>,
    newest: i64,
    segment_start: Option<i64>,
    /// When the second keyframe is wanted, in media time after the first, until it comes or was asked for.
    second: Option<i64>,
    last_keyframe: Option<i64>,
    /// Spacings of the last keyframes, newest first.
    spacings: [Option<Spacing>; 3],
    /// The spacing of keyframes that the publisher sends by itself, if it is short enough.
    own_spacing: Option<i64>,
    /// A keyframe later than this presentation time is needed because something was lost.
    needed_after: Option<i64>,
    outstanding: Option<Request>,
    last_request: Option<Monotonic>,
    lead: Lead,
    requests: u64,
    answered: u32,
    ignored_in_a_row: u32,
    ignores: bool,
}

/// Requests without an answer so far.
#[derive(Clone, Copy, Debug)]
struct Request {
    /// When the first of them was sent.
    at: Monotonic,
    /// The newest presentation time at the first of them.
    first: i64,
    /// The newest presentation time at the last of them.
    last: i64,
}

impl Request {
    /// Media time from the request to the keyframe at `pts` if that can be its answer.
    fn answered_after(&self, pts: i64) -> Option<i64> {
        let from = if pts >= self.last {
            self.last
        } else {
            self.first
        };
        Some(pts - from).filter(|delay| (0..=ANSWER_WITHIN).contains(delay))
    }
}

/// The media time between two keyframes.
#[derive(Clone, Copy, Debug)]
struct Spacing {
    length: i64,
    /// When the request that the later keyframe may answer was made, from the earlier keyframe on.
    requested_at: Option<i64>,
}

/// How long before a keyframe is wanted it must be requested: mean and mean deviation of the answered requests.
#[derive(Debug)]
struct Lead {
    mean: i64,
    deviation: i64,
    known: bool,
}

impl Lead {
    fn record(&mut self, delay: i64) {
        if self.known {
            let error = delay - self.mean;
            self.mean += error / 8;
            self.deviation += (error.abs() - self.deviation) / 4;
        } else {
            self.mean = delay;
            self.deviation = delay / 4;
            self.known = true;
        }
    }

    fn get(&self) -> i64 {
        self.mean + 2 * self.deviation
    }
}

impl KeyframeDemand {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            segment_duration: duration_nanos(settings.segment_duration),
            first_picture: None,
            newest: i64::MIN,
            segment_start: None,
            second: settings.second.map(duration_nanos),
            last_keyframe: None,
            spacings: [None; 3],
            own_spacing: None,
            needed_after: None,
            outstanding: None,
            last_request: None,
            lead: Lead {
                mean: FIRST_LEAD,
                deviation: 0,
                known: false,
            },
            requests: 0,
            answered: 0,
            ignored_in_a_row: 0,
            ignores: false,
        }
    }

    /// A picture (or a packet of one) with this presentation time in ns was handed on at `now`.
    pub fn picture(&mut self, now: Monotonic, pts: i64) {
        self.first_picture.get_or_insert(now);
        self.newest = self.newest.max(pts);
        let overdue = self
            .own_spacing
            .zip(self.last_keyframe)
            .is_some_and(|(spacing, last)| {
                self.newest - last > spacing + self.tolerance() + REPORTED_WITHIN
            });
        if overdue {
            // What looked like its own rhythm was none, or is over.
            self.own_spacing = None;
            self.spacings = [None; 3];
        }
    }

    /// A keyframe with this presentation time in ns was seen; it may be reported later than pictures after it.
    pub fn keyframe(&mut self, pts: i64) {
        if self.last_keyframe.is_some_and(|last| pts <= last) {
            return;
        }
        let answer = self
            .outstanding
            .and_then(|request| request.answered_after(pts));
        if self.last_keyframe.is_none() && answer.is_none() {
            // It was on its way when it was asked for, so nothing can be learned from what follows.
            self.outstanding = None;
        }
        if let Some(last) = self.last_keyframe {
            self.second.take_if(|second| pts - last >= *second / 2);
            self.spacings.rotate_right(1);
            self.spacings[0] = Some(Spacing {
                length: pts - last,
                requested_at: answer.map(|delay| pts - delay - last),
            });
            self.own_spacing = self.find_own_spacing();
        }
        self.last_keyframe = Some(pts);
        if self.needed_after.is_some_and(|after| pts > after) {
            self.needed_after = None;
        }
        if let Some(delay) = answer {
            self.outstanding = None;
            self.answered = self.answered.saturating_add(1);
            // One keyframe soon after a request can be chance; the second one in a row is not.
            if !self.ignores || self.ignored_in_a_row == 0 {
                self.ignores = false;
            }
            self.ignored_in_a_row = 0;
            self.lead.record(delay);
        }
    }

    /// A keyframe has come whose time will be told later: whatever was missed before it is mended.
    pub fn keyframe_at_hand(&mut self) {
        self.needed_after = None;
    }

    /// A segment starts at this presentation time in ns, with or without a keyframe. Not every keyframe starts one; if
    /// this is never called, each is taken to.
    pub fn segment(&mut self, pts: i64) {
        self.segment_start = Some(pts);
    }

    /// Packets were lost: pictures cannot be decoded until the next keyframe.
    pub fn lost(&mut self) {
        self.needed_after = Some(self.newest);
    }

    /// Whether a request is to be sent now. True is taken as sent.
    pub fn poll(&mut self, now: Monotonic) -> bool {
        self.give_up(now);
        if !self.is_due(now) || self.not_before().is_some_and(|earliest| now < earliest) {
            return false;
        }
        self.last_request = Some(now);
        self.requests += 1;
        if self.last_keyframe.is_some() {
            self.second = None;
        }
        self.outstanding
            .get_or_insert(Request {
                at: now,
                first: self.newest,
                last: self.newest,
            })
            .last = self.newest;
        true
    }

    /// When [`Self::poll`] may say yes though nothing is told in between.
    pub fn deadline(&self) -> Option<Monotonic> {
        let due = if self.needed_after.is_some() {
            self.last_request.or(self.first_picture)?
        } else if self.last_keyframe.is_none() {
            self.first_picture? + self.settings.start_grace
        } else {
            return None;
        };
        Some(due.max(self.not_before().unwrap_or(due)))
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The publisher did not answer the last requests, and asking is slowed down.
    pub fn ignores_requests(&self) -> bool {
        self.ignores
    }

    /// Media time between the last two keyframes.
    pub fn observed_interval(&self) -> Option<Duration> {
        let spacing = self.spacings[0]?;
        u64::try_from(spacing.length).ok().map(Duration::from_nanos)
    }

    /// The publisher sends keyframes by itself at least once per segment.
    pub fn keys_by_itself(&self) -> bool {
        self.own_spacing.is_some()
    }

    fn is_due(&self, now: Monotonic) -> bool {
        let Some(first_picture) = self.first_picture else {
            return false;
        };
        if self.needed_after.is_some() {
            return true;
        }
        if self.last_keyframe.is_none() {
            return first_picture + self.settings.start_grace <= now;
        }
        let Some(start) = self.segment_start.or(self.last_keyframe) else {
            return false;
        };
        let age = self.newest - start;
        if self
            .second
            .is_some_and(|second| age >= second - self.lead.get())
        {
            return true;
        }
        let ahead = if self.own_spacing.is_some() {
            // Its own keyframe is due, but may not have been reported yet.
            -(self.tolerance() + REPORTED_WITHIN)
        } else {
            (self.lead.get() + self.shift()).min(self.segment_duration / 2)
        };
        age >= self.segment_duration - ahead
    }

    /// The earliest time of the next request.
    fn not_before(&self) -> Option<Monotonic> {
        // A first answer after many ignored requests is soon put to the test.
        let interval = if self.ignores && self.ignored_in_a_row > 0 {
            self.settings.ignored_interval
        } else {
            self.settings
                .least_interval
                .min(self.settings.segment_duration * 4 / 5)
        };
        self.last_request.map(|last| last + interval)
    }

    /// Counts the outstanding request as ignored when its answer is overdue.
    fn give_up(&mut self, now: Monotonic) {
        let newest = self.newest;
        let Some(request) = self.outstanding.as_mut().filter(|request| {
            newest - request.first > ANSWER_WITHIN + REPORTED_WITHIN
                && now.saturating_sub(request.at) >= self.settings.least_interval
        }) else {
            return;
        };
        if request.first == request.last {
            self.outstanding = None;
        } else {
            request.first = request.last;
        }
        self.ignored_in_a_row = self.ignored_in_a_row.saturating_add(1);
        self.ignores |= self.ignored_in_a_row >= IGNORED;
    }

    fn shift(&self) -> i64 {
        if self.answered < LEARNING {
            SHIFTS[self.answered as usize % SHIFTS.len()]
        } else {
            0
        }
    }

    fn tolerance(&self) -> i64 {
        self.segment_duration / 10
    }

    fn find_own_spacing(&self) -> Option<i64> {
        let newest = self.spacings[0]?;
        let same = |spacing: &Spacing| (spacing.length - newest.length).abs() <= SAME_SPACING;
        if newest.length > self.segment_duration + self.tolerance() {
            return None;
        }
        let before = self.spacings[1].filter(same)?;
        if newest.requested_at.is_none() && before.requested_at.is_none() {
            return Some(newest.length);
        }
        self.spacings[2].filter(same)?;
        let requested = self.spacings.iter().flatten().map(|spacing| {
            // Without a request the keyframe came unasked for, as if it had been asked for at once.
            spacing.requested_at.unwrap_or(0)
        });
        let earliest = requested.clone().min()?;
        let latest = requested.max()?;
        (latest - earliest > SAME_SPACING).then_some(newest.length)
    }
}

#[cfg(test)]
#[path = "keyframes_tests.rs"]
mod tests;
