#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

use proptest::prelude::*;

use super::*;

const TIMESCALE: u32 = 90_000;

fn video() -> Limits {
    limits(Rule::Keyframes)
}

fn limits(rule: Rule) -> Limits {
    let timescale = match rule {
        Rule::Keyframes => TIMESCALE,
        Rule::Multiples => 48_000,
    };
    Limits::new(
        Duration::from_millis(200),
        Duration::from_secs(2),
        timescale,
        rule,
    )
}

/// A closed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    start: u64,
    end: u64,
    units: usize,
    starts_segment: bool,
    starts_with_keyframe: bool,
}

impl Cut {
    fn duration(&self) -> u64 {
        self.end - self.start
    }
}

/// Runs the rules over access units; the last part is left out, as its end is not known.
fn cuts(limits: Limits, rule: Rule, units: &[(u64, bool)]) -> Vec<Cut> {
    let mut cutter = Cutter::start(limits, rule, units[0].0);
    let mut closed = Vec::new();
    // Decode times and keyframes of the open part.
    let mut open = vec![units[0]];
    let mut starts_segment = true;
    let mut close = |open: &mut Vec<(u64, bool)>, keep: usize, end, next: Boundary| {
        if open.len() == keep {
            assert_eq!(next, Boundary::Segment, "there is a part to close");
            starts_segment = true;
            return;
        }
        let rest = open.split_off(open.len() - keep);
        closed.push(Cut {
            start: open[0].0,
            end,
            units: open.len(),
            starts_segment,
            starts_with_keyframe: open[0].1,
        });
        *open = rest;
        starts_segment = next == Boundary::Segment;
    };
    for &(time, keyframe) in &units[1..] {
        let decision = cutter.next(time, keyframe);
        if let Some(boundary) = decision.before_last {
            let end = open.last().unwrap().0;
            close(&mut open, 1, end, boundary);
        }
        if let Some(boundary) = decision.here {
            close(&mut open, 0, decision.decode_time, boundary);
        }
        open.push((decision.decode_time, keyframe));
    }
    closed
}

/// `count` pictures at `rate` per second with a keyframe each `group` pictures.
fn pictures(rate: f64, group: usize, count: usize) -> Vec<(u64, bool)> {
    (0..count)
        .map(|i| {
            let time = (i as f64 * f64::from(TIMESCALE) / rate).round() as u64;
            (time, i % group == 0)
        })
        .collect()
}

fn segments(cuts: &[Cut]) -> Vec<u64> {
    let starts: Vec<_> = cuts
        .iter()
        .filter(|c| c.starts_segment)
        .map(|c| c.start)
        .collect();
    starts.windows(2).map(|w| w[1] - w[0]).collect()
}

#[test]
fn limits_follow_from_the_durations() {
    let limits = Limits::new(
        Duration::from_millis(333),
        Duration::from_millis(2500),
        1000,
        Rule::Keyframes,
    );
    assert_eq!(
        (limits.part, limits.segment, limits.hard),
        (333, 2500, 3400)
    );
    assert_eq!(video().hard, 90_000 * 24 / 10);
}

#[test]
fn even_pictures_make_even_parts_and_segments_at_keyframes() {
    let cuts = cuts(video(), Rule::Keyframes, &pictures(30.0, 60, 301));
    assert!(cuts.iter().all(|c| c.duration() == 18_000 && c.units == 6));
    assert_eq!(segments(&cuts), [180_000; 4]);
    assert!(
        cuts.iter()
            .filter(|c| c.starts_segment)
            .all(|c| c.starts_with_keyframe)
    );
}

#[test]
fn short_groups_of_pictures_are_gathered_into_segments() {
    // One keyframe a second: two of them make a segment of the wanted length.
    let cuts = cuts(video(), Rule::Keyframes, &pictures(30.0, 30, 400));
    assert!(segments(&cuts).iter().all(|&l| l == 180_000));
}

#[test]
fn rare_keyframes_all_start_segments() {
    // From 2.5 s up none comes in time for a segment; at 7.4 and 7.8 s one comes right after a segment has begun.
    for group in [75, 120, 222, 234, 250, 300] {
        let cuts = cuts(video(), Rule::Keyframes, &pictures(30.0, group, 1000));
        let keyframes = cuts.iter().filter(|c| c.starts_with_keyframe);
        assert!(keyframes.clone().count() > 3);
        for cut in keyframes {
            assert!(cut.starts_segment, "{group}: {cut:?}");
            assert_eq!(cut.start % (group as u64 * 3000), 0);
        }
        assert!(segments(&cuts).iter().all(|&l| l <= video().hard));
    }
}

#[test]
fn a_keyframe_is_taken_early_if_the_next_would_come_too_late() {
    // Keyframes at 0, 1.2, 2.4 s: after 1.2 s the segment must end, because 2.4 s is the hard limit exactly.
    let cuts = cuts(video(), Rule::Keyframes, &pictures(30.0, 37, 400));
    assert!(
        segments(&cuts).iter().all(|&l| l == 37 * 3000),
        "{:?}",
        segments(&cuts)
    );
}

#[test]
fn without_keyframes_segments_end_at_the_hard_limit() {
    let cuts = cuts(video(), Rule::Keyframes, &pictures(30.0, 250, 1000));
    let lengths = segments(&cuts);
    assert!(lengths.iter().all(|&l| l <= 216_000), "{lengths:?}");
    assert_eq!(lengths[..3], [216_000; 3]);
    // The keyframe at 8.33 s starts the next one.
    assert_eq!(lengths[3], 250 * 3000 - 3 * 216_000);
}

#[test]
fn a_stall_before_the_hard_limit_ends_the_segment_before_it() {
    let mut units = pictures(30.0, 600, 70);
    for unit in &mut units[65..] {
        unit.0 += 90_000;
    }
    let cuts = cuts(video(), Rule::Keyframes, &units);
    // The picture that lasts over a second is in the next segment, alone in its part.
    assert_eq!(segments(&cuts)[..1], [64 * 3000]);
    let long = cuts.iter().find(|c| c.duration() > 18_000).unwrap();
    assert!(long.starts_segment && long.units == 1);
}

#[test]
fn a_late_picture_does_not_make_its_part_too_long() {
    let mut units = pictures(30.0, 600, 20);
    for unit in &mut units[4..] {
        unit.0 += 9000;
    }
    let cuts = cuts(video(), Rule::Keyframes, &units);
    assert_eq!((cuts[0].end, cuts[0].units), (9000, 3));
    assert!(cuts.iter().all(|c| c.duration() <= 18_000));
}

#[test]
fn a_keyframe_in_mid_segment_starts_a_part() {
    let cuts = cuts(video(), Rule::Keyframes, &pictures(30.0, 15, 100));
    let starts: Vec<_> = cuts
        .iter()
        .filter(|c| c.starts_with_keyframe)
        .map(|c| c.start)
        .collect();
    assert_eq!(starts[..4], [0, 45_000, 90_000, 135_000]);
}

#[test]
fn a_keyframe_that_was_asked_for_starts_a_part_wherever_it_comes() {
    for at in 4..55 {
        let mut pictures = pictures(30.0, 60, 100);
        pictures[at].1 = true;
        let start = pictures[at].0;
        let cuts = cuts(video(), Rule::Keyframes, &pictures);
        let found = cuts
            .iter()
            .any(|c| c.starts_with_keyframe && c.start.abs_diff(start) <= 1_125);
        assert!(found, "keyframe at picture {at}: {cuts:?}");
    }
}

#[test]
fn pictures_that_are_all_keyframes_do_not_make_parts_of_one() {
    let cuts = cuts(video(), Rule::Keyframes, &pictures(30.0, 1, 100));
    assert!(cuts.iter().all(|c| c.units >= 3), "{cuts:?}");
}

#[test]
fn sound_is_cut_at_multiples_and_never_drifts() {
    let rule = Rule::Multiples;
    // 20 ms packets that start a third of a packet off, with a clock that is 0.03 % fast.
    let units: Vec<_> = (0..20_000_u64)
        .map(|i| (320 + i * 960 + i * 288 / 1000, true))
        .collect();
    let cuts = cuts(limits(rule), rule, &units);
    for (index, cut) in cuts.iter().filter(|c| c.starts_segment).enumerate() {
        let multiple = 320 + index as u64 * 96_000;
        assert!(
            cut.start.abs_diff(multiple) <= 480,
            "{} {multiple}",
            cut.start
        );
    }
    assert!(cuts.iter().all(|c| c.duration() <= 9600));
}

#[test]
fn a_pause_keeps_the_segment() {
    let mut cutter = Cutter::start(video(), Rule::Keyframes, 0);
    for i in 1..6 {
        cutter.next(i * 3000, false);
    }
    cutter.pause(18_000);
    assert!(!cutter.resume(false));
    assert!(
        !cutter.resume(true),
        "a fifth of a second is too short for a segment"
    );
    cutter.pause(180_000);
    assert!(cutter.resume(true));
}

proptest! {
    /// At any constant rate from 24 to 120 pictures per second, with any clock error, both rules for parts hold.
    #[test]
    fn constant_rates_make_good_parts(
        rate in 23.97_f64..120.0,
        group in 10_usize..300,
        start in 0_u64..1_000_000,
    ) {
        let mut units = pictures(rate, group, 600);
        for unit in &mut units {
            unit.0 += start;
        }
        let cuts = cuts(video(), Rule::Keyframes, &units);
        for (cut, next) in cuts.iter().zip(&cuts[1..]) {
            prop_assert!(cut.duration() <= 18_000, "{cut:?}");
            if !next.starts_segment && !next.starts_with_keyframe {
                prop_assert!(cut.duration() * 100 >= 18_000 * 85, "{cut:?}");
            }
        }
        for length in segments(&cuts) {
            prop_assert!(length <= video().hard);
        }
    }

    /// Whatever comes, nothing gets lost, times never go back, and the limits hold but for single long pictures.
    #[test]
    fn limits_hold_for_any_stream(
        steps in proptest::collection::vec((0_u64..40_000, any::<bool>()), 2..400),
        sound in any::<bool>(),
    ) {
        let rule = if sound { Rule::Multiples } else { Rule::Keyframes };
        let limits = limits(rule);
        let mut time = 0;
        let units: Vec<_> = steps.iter().map(|&(step, keyframe)| {
            time += step;
            (time, keyframe || sound)
        }).collect();
        let cuts = cuts(limits, rule, &units);
        let mut end = units[0].0;
        for cut in &cuts {
            prop_assert_eq!(cut.start, end, "parts are contiguous");
            prop_assert!(cut.end > cut.start && cut.units > 0);
            prop_assert!(cut.duration() <= limits.part || cut.units == 1, "{:?}", cut);
            end = cut.end;
        }
        prop_assert!(cuts.iter().map(|c| c.units).sum::<usize>() <= units.len());
        let mut lengths = segments(&cuts);
        lengths.retain(|&l| l > limits.hard);
        prop_assert!(lengths.is_empty(), "{:?}", lengths);
    }
}
