//! Where parts and segments end: arithmetic on decode times, for one track.
//!
//! Owns the cut rules of the mux and nothing else. It must not know GStreamer, boxes, samples or codecs; time is in
//! ticks of the track's timescale.
//!
//! A part is closed when its next access unit arrives, because only then the duration of its last one is known. The
//! rules, in the words of RFC 8216bis section 4.4.4.9 and [`Limits`]:
//!
//! * No part is longer than [`Limits::part`], unless a single access unit already is.
//! * A part has at least 85 % of that, unless it is the last of its segment, a keyframe follows it, or no access unit
//!   boundary lies there. Picture times rarely hit the limit exactly (24 pictures per second, clocks that drift, capture
//!   jitter), so a *video* part may take an access unit whose successor starts up to [`Limits::tolerance`] past the
//!   limit: the successor's decode time is then pulled back onto the limit. Presentation times are not touched
//!   (the composition offset grows by the same amount), and the pull is never carried over to later access units, so
//!   nothing drifts. It makes 200 ms parts possible at every constant rate from 24 pictures per second up.
//! * A video segment starts at a keyframe once it is long enough; when no keyframe comes in time, it starts at the last
//!   access unit that keeps the one before it within [`Limits::hard`], and the next keyframe starts another one whenever
//!   it comes.
//! * A keyframe in mid-segment starts a part, so that players can begin there, unless keyframes come so densely that it
//!   would make parts of single pictures.
//! * An audio segment starts at the access unit nearest to a multiple of [`Limits::segment`] since the track's start, or
//!   since [`Cutter::counting_from`].

use std::time::Duration;

/// Limits of one track, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Longest part (PART-TARGET).
    pub part: u64,
    /// How far past [`Self::part`] an access unit may start and still be pulled back onto it.
    pub tolerance: u64,
    /// Wanted length of a segment.
    pub segment: u64,
    /// Longest segment: the longest whose EXTINF still rounds to TARGETDURATION (RFC 8216 section 4.3.3.1), with a
    /// tenth of a second to spare.
    pub hard: u64,
}

impl Limits {
    /// Limits for a part and a segment duration. TARGETDURATION is the segment duration rounded up to whole seconds.
    pub(crate) fn new(part: Duration, segment: Duration, timescale: u32, rule: Rule) -> Self {
        let ticks = |d: Duration| to_ticks(d, timescale).max(1);
        let part = ticks(part);
        let whole_seconds = segment.as_secs() + u64::from(segment.subsec_nanos() > 0);
        Self {
            part,
            tolerance: match rule {
                Rule::Keyframes => part / 16,
                Rule::Multiples => 0,
            },
            segment: ticks(segment),
            hard: ticks(Duration::from_secs(whole_seconds) + Duration::from_millis(400)),
        }
    }
}

/// `d` in ticks, rounded to the nearest.
fn to_ticks(d: Duration, timescale: u32) -> u64 {
    let ticks = (d.as_nanos() * u128::from(timescale) + 500_000_000) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// What starts a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Keyframes (video).
    Keyframes,
    /// Multiples of the segment duration (audio, where every access unit can be decoded by itself).
    Multiples,
}

/// What begins at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Boundary {
    /// A part of the same segment.
    Part,
    /// A new segment, and with it a part.
    Segment,
}

/// What to do about a new access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// First close the part *before the access unit that came last*: that one turned out to last too long for it. If a
    /// part already starts with that one, it becomes the first of a segment.
    pub before_last: Option<Boundary>,
    /// Then close the part that ends where the new access unit starts.
    pub here: Option<Boundary>,
    /// Decode time of the new access unit: as given, or pulled back onto the part's limit.
    pub decode_time: u64,
}

/// Cut rules applied to one continuous piece of a track's timeline.
#[derive(Clone, Debug)]
pub(crate) struct Cutter {
    limits: Limits,
    rule: Rule,
    part_start: u64,
    segment_start: u64,
    /// Decode time of the last access unit, after pulling back.
    last: u64,
    /// The same as it was given.
    last_given: u64,
    last_keyframe: u64,
    /// Smoothed distance of access units, 0 while unknown.
    spacing: u64,
    /// Next multiple of the segment duration.
    next_multiple: u64,
}

impl Cutter {
    /// Starts with the first access unit, which starts a segment.
    pub(crate) fn start(limits: Limits, rule: Rule, decode_time: u64) -> Self {
        Self {
            limits,
            rule,
            part_start: decode_time,
            segment_start: decode_time,
            last: decode_time,
            last_given: decode_time,
            last_keyframe: decode_time,
            spacing: 0,
            next_multiple: decode_time + limits.segment,
        }
    }

    /// The same, with multiples of the segment duration counted from `origin`, before or after the start. The first one
    /// less than half a part after the start is passed over.
    pub(crate) fn counting_from(mut self, origin: u64) -> Self {
        let least = self.segment_start + self.limits.part / 2;
        let segment = self.limits.segment;
        self.next_multiple = if origin >= least {
            origin - (origin - least) / segment * segment
        } else {
            origin + (least - origin).div_ceil(segment) * segment
        };
        self
    }

    /// Decides about the next access unit, which starts at `decode_time` (later than the one before).
    pub(crate) fn next(&mut self, decode_time: u64, keyframe: bool) -> Decision {
        let given = decode_time.max(self.last + 1);
        self.learn_spacing(given);

        let mut before_last = None;
        if given - self.part_start > self.limits.part + self.limits.tolerance
            && self.last > self.part_start
        {
            before_last = Some(Boundary::Part);
        }
        if given - self.segment_start > self.limits.hard && self.last > self.segment_start {
            before_last = Some(Boundary::Segment);
            self.begin_segment(self.last);
        }
        if before_last.is_some() {
            self.part_start = self.last;
        }

        let mut here = self.boundary_at(given, keyframe);
        if keyframe {
            self.last_keyframe = given;
        }

        let limit = self.part_start + self.limits.part;
        let fits_after_pulling = given > limit && given - limit <= self.limits.tolerance;
        let decode_time = if fits_after_pulling { limit } else { given };
        let next_overflows =
            given + self.spacing > limit + self.limits.tolerance || decode_time >= limit;
        if next_overflows {
            here = here.max(Some(Boundary::Part));
        }

        if here.is_some() {
            self.part_start = decode_time;
        }
        if here == Some(Boundary::Segment) {
            self.begin_segment(decode_time);
        }
        self.last = decode_time;
        self.last_given = given;
        Decision {
            before_last,
            here,
            decode_time,
        }
    }

    /// The caller closed the part at `end` although no access unit has arrived; the next one will start there.
    pub(crate) fn pause(&mut self, end: u64) {
        self.part_start = end;
        self.last = end;
        self.last_given = end;
    }

    /// The first access unit after [`Self::pause`], taken to start where the pause began. Returns whether it starts a
    /// segment.
    pub(crate) fn resume(&mut self, keyframe: bool) -> bool {
        let starts_segment = self.boundary_at(self.last, keyframe) == Some(Boundary::Segment);
        if starts_segment {
            self.begin_segment(self.last);
        }
        if keyframe {
            self.last_keyframe = self.last;
        }
        starts_segment
    }

    /// Usual distance of access units in ticks, 0 while unknown.
    pub(crate) fn spacing(&self) -> u64 {
        self.spacing
    }

    /// What an access unit at `time` starts by the segment rules, and by being a keyframe worth an own part.
    fn boundary_at(&self, time: u64, keyframe: bool) -> Option<Boundary> {
        let Limits {
            part,
            segment,
            hard,
            ..
        } = self.limits;
        let elapsed = time - self.segment_start;
        if elapsed == 0 {
            return None;
        }
        let starts_segment = elapsed + self.spacing > hard
            || match self.rule {
                Rule::Keyframes => {
                    // The next keyframe is expected as far away as this one is from the one before.
                    let group = time - self.last_keyframe;
                    keyframe
                        && (elapsed >= segment
                            // Players can join at the start of a segment only, so rare keyframes are not wasted.
                            || (group > hard && elapsed * 2 >= part)
                            || (elapsed * 2 >= segment && elapsed + group > hard))
                }
                Rule::Multiples => time + self.spacing / 2 >= self.next_multiple,
            };
        if starts_segment {
            Some(Boundary::Segment)
        } else if keyframe
            && self.rule == Rule::Keyframes
            && ((time - self.part_start) * 2 >= part || time - self.last_keyframe >= part)
        {
            Some(Boundary::Part)
        } else {
            None
        }
    }

    fn begin_segment(&mut self, at: u64) {
        self.segment_start = at;
        while self.next_multiple <= at + self.spacing / 2 {
            self.next_multiple += self.limits.segment;
        }
    }

    fn learn_spacing(&mut self, given: u64) {
        let now = given.saturating_sub(self.last_given);
        self.spacing = if self.spacing == 0 {
            now
        } else {
            // One late access unit must not make the rule expect the next ones late, too.
            let now = now.min(self.spacing * 2);
            (self.spacing * 7 + now) / 8
        };
    }
}

#[cfg(test)]
mod tests;
