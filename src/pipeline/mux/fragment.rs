//! From access units to fragments: durations, composition offsets, gaps, and which access units may go out at all.
//!
//! Owns the timeline of one track. It must not know GStreamer or boxes: the payload type is a parameter, times come in
//! as nanoseconds and leave as ticks of the timescale.

use crate::pipeline::cut::{Boundary, Cutter, Limits, Rule};

/// Longest pause that is bridged inside one continuous timeline; beyond it the timeline starts anew at a discontinuity.
pub(super) const BRIDGE_SECONDS: i64 = 2;

/// One access unit (a picture, or an Opus packet).
#[derive(Debug)]
pub(crate) struct AccessUnit<P> {
    /// Decode time in nanoseconds.
    pub decode_time: i64,
    /// Presentation time in nanoseconds.
    pub presentation_time: i64,
    /// How long it lasts by itself, in ticks, where the bitstream says so (Opus).
    pub nominal: Option<u64>,
    /// Can be decoded without any access unit before it.
    pub sync: bool,
    /// Size of the payload in bytes.
    pub size: u32,
    /// The payload.
    pub data: P,
}

/// One sample of a fragment, in decode order.
#[derive(Debug)]
pub(crate) struct Sample<P> {
    /// Ticks until the next sample's decode time.
    pub duration: u32,
    /// Presentation time minus decode time, in ticks.
    pub composition_offset: i32,
    /// Can be decoded without any sample before it.
    pub sync: bool,
    /// Size of the payload in bytes.
    pub size: u32,
    /// The payload.
    pub data: P,
}

/// What becomes one `moof` + `mdat`.
#[derive(Debug)]
pub(crate) struct Fragment<P> {
    /// Decode time of the first sample, in ticks.
    pub decode_time: u64,
    /// Earliest presentation time, in ticks.
    pub presentation_time: u64,
    /// Sum of the sample durations, in ticks.
    pub duration: u64,
    /// At least one.
    pub samples: Vec<Sample<P>>,
    /// First fragment of a segment.
    pub starts_segment: bool,
    /// Not continuous with the fragment before.
    pub discontinuity: bool,
}

/// What became of an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is in a fragment, or will be.
    Yes,
    /// The same, but the timeline started anew with something that needs the pictures before it.
    WithoutKeyframe,
    /// Thrown away: nothing can be decoded before the next keyframe.
    No,
}

/// From where the multiples are counted at which segments of sound start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// So many ticks after a timeline's first access unit.
    AfterStart(u64),
    /// This decode time, in ticks.
    At(u64),
}

/// Cuts one track into fragments.
#[derive(Debug)]
pub(crate) struct Fragmenter<P> {
    limits: Limits,
    rule: Rule,
    timescale: u32,
    origin: Origin,
    state: State<P>,
    /// Nothing goes out before the next access unit that can be decoded by itself.
    waiting: bool,
}

#[derive(Debug)]
enum State<P> {
    /// The next access unit starts a new timeline.
    New,
    /// A fragment is being collected.
    Open(Open<P>),
    /// The last fragment was closed early; the next access unit continues the timeline if it can.
    Paused { cutter: Cutter, end: u64 },
}

#[derive(Debug)]
struct Open<P> {
    cutter: Cutter,
    decode_time: u64,
    /// Samples whose duration is known.
    samples: Vec<Sample<P>>,
    /// The one whose duration is not known yet.
    last: Pending<P>,
    starts_segment: bool,
    discontinuity: bool,
}

#[derive(Debug)]
struct Pending<P> {
    decode_time: u64,
    nominal: Option<u64>,
    composition_offset: i32,
    sync: bool,
    size: u32,
    data: P,
}

impl<P> Fragmenter<P> {
    /// A track of which nothing is known yet.
    pub(crate) fn new(limits: Limits, rule: Rule, timescale: u32) -> Self {
        Self {
            limits,
            rule,
            timescale,
            origin: Origin::AfterStart(0),
            state: State::New,
            waiting: true,
        }
    }

    /// The same, with segments of sound that start elsewhere than at multiples from the first access unit on.
    pub(crate) fn with_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// Takes the next access unit in decode order; closed fragments are appended to `out`.
    pub(crate) fn push(&mut self, unit: AccessUnit<P>, out: &mut Vec<Fragment<P>>) -> Taken {
        if self.waiting && !unit.sync {
            return Taken::No;
        }
        self.waiting = false;
        let time = self.decode_ticks(&unit);
        let bridge = i64::from(self.timescale) * BRIDGE_SECONDS;
        match std::mem::replace(&mut self.state, State::New) {
            State::Open(open) if (time - signed(open.last.decode_time)).abs() <= bridge => {
                self.state = State::Open(self.continued(open, time, unit, out));
                return Taken::Yes;
            }
            State::Open(open) => {
                self.close_open(open, None, out);
            }
            State::Paused { mut cutter, end } => {
                let gap = time - signed(end);
                let continues = match self.rule {
                    Rule::Keyframes => gap.abs() <= bridge,
                    // Sound has no composition offsets to hide a gap behind.
                    Rule::Multiples => gap.abs() <= i64::from(self.timescale) / 200,
                };
                if continues {
                    let starts_segment = cutter.resume(unit.sync);
                    let last = self.pending(unit, end);
                    self.state = State::Open(Open {
                        cutter,
                        decode_time: end,
                        samples: Vec::new(),
                        last,
                        starts_segment,
                        discontinuity: false,
                    });
                    return Taken::Yes;
                }
            }
            State::New => {}
        }
        let sync = unit.sync;
        let start = u64::try_from(time).unwrap_or(0);
        let last = self.pending(unit, start);
        let origin = self.origin_of(start);
        self.state = State::Open(Open {
            cutter: Cutter::start(self.limits, self.rule, start).counting_from(origin),
            decode_time: start,
            samples: Vec::new(),
            last,
            starts_segment: true,
            discontinuity: true,
        });
        if sync {
            Taken::Yes
        } else {
            Taken::WithoutKeyframe
        }
    }

    /// Where the last access unit ends by itself, in ticks: what comes next continues the timeline there. `None` before
    /// the first one, and where its length is not known.
    pub(crate) fn end(&self) -> Option<u64> {
        match &self.state {
            State::New => None,
            State::Open(open) => Some(open.last.decode_time + open.last.nominal?),
            State::Paused { end, .. } => Some(*end),
        }
    }

    /// Closes the open fragment; what comes next starts a new timeline with a keyframe. `next` is the decode time in
    /// nanoseconds of what comes next, if it is known: then the last sample lasts until there.
    pub(crate) fn close(&mut self, next: Option<i64>, out: &mut Vec<Fragment<P>>) {
        let next = next.map(|ns| ticks(ns, self.timescale));
        if let State::Open(open) = std::mem::replace(&mut self.state, State::New) {
            self.close_open(open, next, out);
        }
        self.waiting = true;
    }

    /// Closes the open fragment although nothing has followed yet; a short pause later the timeline goes on where it
    /// ended.
    pub(crate) fn pause(&mut self, out: &mut Vec<Fragment<P>>) {
        match std::mem::replace(&mut self.state, State::New) {
            State::Open(open) => {
                let (mut cutter, end) = self.close_open(open, None, out);
                cutter.pause(end);
                self.state = State::Paused { cutter, end };
            }
            other => self.state = other,
        }
    }

    /// Forgets everything that is not out yet.
    pub(crate) fn flush(&mut self) {
        self.state = State::New;
        self.waiting = true;
    }

    /// Adds a unit to an open fragment, closing fragments where the cut rules say so.
    fn continued(
        &self,
        mut open: Open<P>,
        time: i64,
        unit: AccessUnit<P>,
        out: &mut Vec<Fragment<P>>,
    ) -> Open<P> {
        let time = u64::try_from(time)
            .unwrap_or(0)
            .max(open.last.decode_time + 1);
        self.unclip_start(&mut open, time);
        let decision = open.cutter.next(time, unit.sync);
        if decision.before_last.is_some() && open.samples.is_empty() {
            // The last one is already the first of its part.
            open.starts_segment |= decision.before_last == Some(Boundary::Segment);
        } else if let Some(boundary) = decision.before_last {
            emit(
                std::mem::take(&mut open.samples),
                open.decode_time,
                open.starts_segment,
                open.discontinuity,
                out,
            );
            open.decode_time = open.last.decode_time;
            open.starts_segment = boundary == Boundary::Segment;
            open.discontinuity = false;
        }
        let next = self.pending(unit, decision.decode_time);
        let last = std::mem::replace(&mut open.last, next);
        open.samples.push(last.complete(decision.decode_time));
        if let Some(boundary) = decision.here {
            emit(
                std::mem::take(&mut open.samples),
                open.decode_time,
                open.starts_segment,
                open.discontinuity,
                out,
            );
            open.decode_time = decision.decode_time;
            open.starts_segment = boundary == Boundary::Segment;
            open.discontinuity = false;
        }
        open
    }

    /// What an Opus encoder puts before the sound it is given (pre-skip) is in its first packet, whose time is
    /// nevertheless that of the sound. It shows when the second one starts before the first can be over: then the first
    /// has begun earlier. Segments are counted from the sound on all the same.
    fn unclip_start(&self, open: &mut Open<P>, second: u64) {
        let first = open.last.decode_time;
        let is_first = open.discontinuity && open.samples.is_empty() && open.decode_time == first;
        let Some(start) = open
            .last
            .nominal
            .filter(|&nominal| is_first && second < first + nominal)
            .and_then(|nominal| second.checked_sub(nominal))
        else {
            return;
        };
        open.decode_time = start;
        open.last.decode_time = start;
        open.cutter =
            Cutter::start(self.limits, self.rule, start).counting_from(self.origin_of(first));
    }

    /// From where segments of sound are counted in a timeline that starts here.
    fn origin_of(&self, start: u64) -> u64 {
        match self.origin {
            Origin::AfterStart(ticks) => start + ticks,
            Origin::At(ticks) => ticks,
        }
    }

    /// Ends the fragment with a last sample that nothing follows. Returns where it ends.
    fn close_open(
        &self,
        mut open: Open<P>,
        next: Option<i64>,
        out: &mut Vec<Fragment<P>>,
    ) -> (Cutter, u64) {
        let start = open.last.decode_time;
        let usual = match (open.last.nominal, open.cutter.spacing()) {
            (Some(nominal), _) => nominal,
            (None, 0) => u64::from(self.timescale) / 30,
            (None, spacing) => spacing,
        };
        let until_next = next
            .and_then(|next| u64::try_from(next - signed(start)).ok())
            .filter(|&d| d > 0);
        // The last sample of a part must not make it longer than a part may be.
        let room = (open.decode_time + self.limits.part).saturating_sub(start);
        let end = start + until_next.unwrap_or(usual).min(room).max(1);
        open.samples.push(open.last.complete(end));
        emit(
            open.samples,
            open.decode_time,
            open.starts_segment,
            open.discontinuity,
            out,
        );
        (open.cutter, end)
    }

    /// Decode time in ticks. Sound sticks to the grid of its own packet durations as long as that is right to within
    /// one and a half ticks: rounding each packet by itself would make durations flicker by a tick.
    fn decode_ticks(&self, unit: &AccessUnit<P>) -> i64 {
        let rounded = ticks(unit.decode_time, self.timescale);
        let expected = match &self.state {
            State::Open(Open { last, .. }) => last
                .nominal
                .map(|nominal| signed(last.decode_time + nominal)),
            _ => None,
        };
        match expected {
            Some(expected) => {
                let off = i128::from(unit.decode_time) * i128::from(self.timescale)
                    - i128::from(expected) * 1_000_000_000;
                if off.abs() <= 1_500_000_000 {
                    expected
                } else {
                    rounded
                }
            }
            None => rounded,
        }
    }

    fn pending(&self, unit: AccessUnit<P>, decode_time: u64) -> Pending<P> {
        let composition_offset = match self.rule {
            Rule::Keyframes => {
                let offset = ticks(unit.presentation_time, self.timescale) - signed(decode_time);
                i32::try_from(offset).unwrap_or(0)
            }
            Rule::Multiples => 0,
        };
        Pending {
            decode_time,
            nominal: unit.nominal,
            composition_offset,
            sync: unit.sync,
            size: unit.size,
            data: unit.data,
        }
    }
}

impl<P> Pending<P> {
    fn complete(self, end: u64) -> Sample<P> {
        Sample {
            duration: u32::try_from(end.saturating_sub(self.decode_time)).unwrap_or(u32::MAX),
            composition_offset: self.composition_offset,
            sync: self.sync,
            size: self.size,
            data: self.data,
        }
    }
}

fn emit<P>(
    samples: Vec<Sample<P>>,
    decode_time: u64,
    starts_segment: bool,
    discontinuity: bool,
    out: &mut Vec<Fragment<P>>,
) {
    let mut duration = 0;
    let mut presentation_time = i64::MAX;
    for sample in &samples {
        let time = signed(decode_time + duration) + i64::from(sample.composition_offset);
        presentation_time = presentation_time.min(time);
        duration += u64::from(sample.duration);
    }
    out.push(Fragment {
        decode_time,
        presentation_time: u64::try_from(presentation_time).unwrap_or(0),
        duration,
        samples,
        starts_segment,
        discontinuity,
    });
}

/// Nanoseconds in ticks, rounded to the nearest.
pub(crate) fn ticks(ns: i64, timescale: u32) -> i64 {
    let ticks = (i128::from(ns) * i128::from(timescale) + 500_000_000).div_euclid(1_000_000_000);
    i64::try_from(ticks).unwrap_or(0)
}

/// Decode times stay far below 2^63 ticks.
fn signed(ticks: u64) -> i64 {
    i64::try_from(ticks).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
