#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

use std::time::Duration;

use super::*;

const MS: i64 = 1_000_000;

fn video() -> Fragmenter<usize> {
    let limits = Limits::new(
        Duration::from_millis(200),
        Duration::from_secs(2),
        90_000,
        Rule::Keyframes,
    );
    Fragmenter::new(limits, Rule::Keyframes, 90_000)
}

fn sound() -> Fragmenter<usize> {
    let limits = Limits::new(
        Duration::from_millis(200),
        Duration::from_secs(2),
        48_000,
        Rule::Multiples,
    );
    Fragmenter::new(limits, Rule::Multiples, 48_000)
}

fn picture(ns: i64, sync: bool) -> AccessUnit<usize> {
    AccessUnit {
        decode_time: ns,
        presentation_time: ns,
        nominal: None,
        sync,
        size: 1,
        data: 0,
    }
}

fn packet(ns: i64) -> AccessUnit<usize> {
    AccessUnit {
        nominal: Some(960),
        ..picture(ns, true)
    }
}

/// Nanoseconds of the picture at 30 per second.
fn at(index: i64) -> i64 {
    index * 1000 * MS / 30
}

#[test]
fn nothing_goes_out_before_a_keyframe() {
    let (mut track, mut out) = (video(), Vec::new());
    assert_eq!(track.push(picture(0, false), &mut out), Taken::No);
    assert_eq!(track.push(picture(at(1), true), &mut out), Taken::Yes);
    track.close(None, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].decode_time, 3000);
    assert_eq!(track.push(picture(at(2), false), &mut out), Taken::No);
}

#[test]
fn the_last_sample_lasts_as_long_as_is_known() {
    for (next, duration) in [(None, 3000), (Some(at(4)), 6000), (Some(at(1)), 3000)] {
        let (mut track, mut out) = (video(), Vec::new());
        for i in 0..3 {
            track.push(picture(at(i), i == 0), &mut out);
        }
        track.close(next, &mut out);
        assert_eq!(out[0].samples[2].duration, duration, "{next:?}");
    }
}

#[test]
fn the_last_sample_never_makes_a_part_too_long() {
    let (mut track, mut out) = (video(), Vec::new());
    for i in 0..3 {
        track.push(picture(at(i), i == 0), &mut out);
    }
    track.close(Some(at(2) + 900 * MS), &mut out);
    assert_eq!(out[0].duration, 18_000);
}

#[test]
fn equal_and_backward_decode_times_go_on_by_a_tick() {
    let (mut track, mut out) = (video(), Vec::new());
    for (i, ns) in [0, at(1), at(1), at(1) - MS, at(2)].into_iter().enumerate() {
        track.push(picture(ns, i == 0), &mut out);
    }
    track.close(None, &mut out);
    let durations: Vec<_> = out[0].samples.iter().map(|s| s.duration).collect();
    assert_eq!(durations[..4], [3000, 1, 1, 2998]);
    // Presentation times stay what they are.
    assert_eq!(out[0].samples[2].composition_offset, -1);
}

#[test]
fn a_long_gap_starts_a_new_timeline() {
    for gap in [3000 * MS, -3000 * MS] {
        let (mut track, mut out) = (video(), Vec::new());
        let start = 10_000 * MS;
        track.push(picture(start, true), &mut out);
        track.push(picture(start + at(1), false), &mut out);
        assert_eq!(
            track.push(picture(start + gap, false), &mut out),
            Taken::WithoutKeyframe
        );
        track.close(None, &mut out);
        assert_eq!(out.len(), 2);
        assert!(out[1].discontinuity && out[1].starts_segment);
        assert_eq!(out[1].decode_time as i64, 900_000 + gap * 9 / 100_000);
    }
}

#[test]
fn a_short_pause_is_bridged_and_keeps_presentation_times() {
    let (mut track, mut out) = (video(), Vec::new());
    for i in 0..3 {
        track.push(picture(at(i), i == 0), &mut out);
    }
    track.pause(&mut out);
    track.pause(&mut out);
    assert_eq!(out.len(), 1, "a second pause has nothing to close");
    let later = at(3) + 1000 * MS;
    assert_eq!(track.push(picture(later, false), &mut out), Taken::Yes);
    track.push(picture(later + at(1), false), &mut out);
    track.push(picture(later + at(2), false), &mut out);
    track.close(None, &mut out);
    assert_eq!(out[1].decode_time, 9000, "decode times have no hole");
    assert!(!out[1].discontinuity && !out[1].starts_segment);
    assert_eq!(out[1].presentation_time, 99_000);
    assert_eq!(out[1].samples[0].composition_offset, 90_000);
    assert_eq!(out[1].samples[0].duration, 93_000);
    assert_eq!(out[2].samples[0].composition_offset, 0);
}

#[test]
fn a_pause_over_the_end_of_a_segment_starts_one() {
    let (mut track, mut out) = (video(), Vec::new());
    for i in 0..45 {
        track.push(picture(at(i), i == 0), &mut out);
    }
    track.pause(&mut out);
    let later = at(45) + 1500 * MS;
    for i in 0..8 {
        track.push(picture(later + at(i), false), &mut out);
    }
    track.close(None, &mut out);
    let start = out.iter().rposition(|f| f.starts_segment).unwrap();
    assert_eq!(out[start].decode_time, 135_000);
    assert!(!out[start].discontinuity);
    assert!(out.iter().all(|f| !f.samples.is_empty()));
}

#[test]
fn sound_does_not_flicker_and_does_not_drift() {
    let (mut track, mut out) = (sound(), Vec::new());
    // Times that are a quarter tick off the grid, one way and the other, on a clock that is 0.01 % fast.
    for i in 0..10_000_i64 {
        let wobble = if i % 2 == 0 { 5000 } else { -5000 };
        track.push(packet(20 * MS * i + i * 2000 + wobble + 10_000), &mut out);
    }
    track.close(None, &mut out);
    let mut time = i64::try_from(out[0].decode_time).unwrap();
    let mut odd = 0;
    for (index, sample) in out.iter().flat_map(|f| &f.samples).enumerate() {
        let given = ticks(20 * MS * index as i64 + index as i64 * 2000, 48_000);
        assert!((time - given).abs() <= 2, "sample {index}: {time}, {given}");
        odd += usize::from(sample.duration != 960);
        time += i64::from(sample.duration);
    }
    assert!(
        odd < 1000,
        "{odd} of 10000 durations differ from a packet's"
    );
}

#[test]
fn sound_after_a_pause_is_a_discontinuity() {
    let (mut track, mut out) = (sound(), Vec::new());
    for i in 0..5 {
        track.push(packet(20 * MS * i), &mut out);
    }
    track.pause(&mut out);
    track.push(packet(1500 * MS), &mut out);
    track.pause(&mut out);
    assert_eq!((out[0].duration, out[1].decode_time), (4800, 72_000));
    assert!(out[1].discontinuity && out[1].starts_segment);
    // The next packet comes in time and goes on as if nothing had been.
    track.push(packet(1521 * MS), &mut out);
    track.close(None, &mut out);
    assert!(!out[2].discontinuity);
    assert_eq!(out[2].decode_time, 72_960);
}

#[test]
fn times_round_to_the_nearest_tick() {
    assert_eq!(ticks(33_333_333, 90_000), 3000);
    assert_eq!(ticks(5_556, 90_000), 1);
    assert_eq!(ticks(5_555, 90_000), 0);
    assert_eq!(ticks(-33_333_333, 90_000), -3000);
}

#[test]
fn an_encoder_that_clips_its_first_packet_began_earlier() {
    let (mut track, mut out) = (sound(), Vec::new());
    // 312 samples of pre-skip, as libopus has at 48 kHz.
    track.push(packet(1_000 * MS), &mut out);
    for index in 1..300 {
        track.push(packet(1_000 * MS + index * 20 * MS - 6_500_000), &mut out);
    }
    assert_eq!(out[0].decode_time, 48_000 - 312);
    assert!(
        out.iter()
            .flat_map(|f| &f.samples)
            .all(|s| s.duration == 960)
    );
    let starts: Vec<_> = out
        .iter()
        .filter(|f| f.starts_segment)
        .map(|f| f.decode_time)
        .collect();
    assert_eq!(
        starts,
        [48_000 - 312, 144_000 - 312, 240_000 - 312],
        "segments are counted from the sound on, to the nearest packet"
    );
}
