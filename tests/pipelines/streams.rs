//! What good streams become.

use std::time::Duration;

use whipgate::{
    media::{Codec, InitSegment, MediaKind, Part},
    pipeline::{Pipelines, START_OFFSET, Settings},
};

use crate::{
    Collected, Running, SETTINGS,
    boxes::{Sample, read_init, read_parts, segments},
    decode,
    media::{self, Media, Video},
    run,
};

/// Presentation times of the media's access units in ticks of 90 kHz, with the offset, in order.
fn presentation_times(media: &Media) -> Vec<i64> {
    let offset = i64::try_from(START_OFFSET.as_nanos()).unwrap();
    let mut times: Vec<_> = media
        .packets
        .iter()
        .map(|(_, pts)| ((pts + offset) * 9 + 50_000) / 100_000)
        .collect();
    times.sort_unstable();
    times.dedup();
    times
}

/// What holds for every stream without loss: exact times, all pictures, parts within their limits, and FFmpeg content.
fn check_video(media: &Media, frames: usize) -> (String, Vec<Part>) {
    let collected = run(media, &SETTINGS);
    let (init, parts) = collected.single();
    assert_eq!(init.timescale, 90_000);
    assert_eq!(init.channels, 0);
    read_init(init);
    let samples = read_parts(parts, 1);
    assert_eq!(samples.len(), frames);
    let mut times: Vec<_> = samples.iter().map(|s| s.presentation_time).collect();
    times.sort_unstable();
    assert_eq!(
        times,
        presentation_times(media),
        "presentation times are exact"
    );
    check_part_durations(parts, 18_000);
    for part in parts.iter().filter(|p| p.starts_segment) {
        assert!(part.independent, "segments start with keyframes");
    }
    assert!(parts.iter().skip(1).all(|p| !p.discontinuity));
    // rtph264depay asks when a stream does not begin with its parameter sets, but with an access unit delimiter.
    assert!(collected.keyframes_wanted <= 1);
    assert_eq!(decode(init, parts), frames);
    (init.codecs.clone(), parts.to_vec())
}

fn check_part_durations(parts: &[Part], target: u64) {
    for (part, next) in parts.iter().zip(parts.iter().skip(1)) {
        assert!(part.duration <= target, "{} > {target}", part.duration);
        if !next.starts_segment && !next.independent {
            assert!(part.duration * 100 >= target * 85, "{}", part.duration);
        }
    }
    assert!(parts.last().unwrap().duration <= target);
}

#[test]
fn h264() {
    let media = Video::new(Codec::H264, 130).make();
    let (codecs, parts) = check_video(&media, 130);
    assert!(codecs.starts_with("avc1.42c0"), "{codecs}");
    assert_eq!(segments(&parts), [180_000, 180_000]);
    assert!(
        parts
            .iter()
            .take(20)
            .all(|p| p.duration == 18_000 && p.samples == 6)
    );
}

#[test]
fn h264_with_b_frames() {
    let media = Video {
        b_frames: 2,
        ..Video::new(Codec::H264, 130)
    }
    .make();
    let (codecs, parts) = check_video(&media, 130);
    assert!(codecs.starts_with("avc1.4d"), "{codecs}");
    let samples = read_parts(&parts, 1);
    assert!(
        samples
            .iter()
            .any(|s| s.presentation_time > s.decode_time as i64 + 3000),
        "the stream does reorder pictures"
    );
    assert_eq!(segments(&parts), [180_000, 180_000]);
}

#[test]
fn h264_with_b_frames_and_times_of_decoding() {
    let media = Video {
        b_frames: 2,
        ..Video::new(Codec::H264, 130)
    }
    .make();
    let right = run(&media, &SETTINGS);
    // The same packets, each picture with the time of its place in the order of sending.
    let mut sent = media;
    let times = presentation_order(&sent);
    let mut last = None;
    let mut picture = 0;
    for (_, pts) in &mut sent.packets {
        if last.is_some_and(|last| last != *pts) {
            picture += 1;
        }
        last = Some(*pts);
        *pts = times[picture];
    }
    let found = run(&sent, &SETTINGS);
    let shown = |collected: &Collected| {
        let samples = read_parts(collected.single().1, 1);
        let mut shown = samples.iter().map(|s| s.presentation_time);
        let first = shown.next().unwrap();
        // x264 gives rates that are no whole number of ticks.
        shown
            .map(|time| (time - first + 20) / 100)
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&found), shown(&right));
    let (init, parts) = found.single();
    assert_eq!(decode(init, parts), 130);
}

/// Presentation times of all pictures, earliest first.
fn presentation_order(media: &Media) -> Vec<i64> {
    let mut times: Vec<_> = media.packets.iter().map(|(_, pts)| *pts).collect();
    times.sort_unstable();
    times.dedup();
    times
}

#[test]
fn h265() {
    let media = Video::new(Codec::H265, 130).make();
    let (codecs, parts) = check_video(&media, 130);
    assert_eq!(codecs, "hvc1.1.6.L63.90");
    assert_eq!(segments(&parts), [180_000, 180_000]);
}

#[test]
fn h265_with_b_frames() {
    let media = Video {
        b_frames: 2,
        ..Video::new(Codec::H265, 130)
    }
    .make();
    let (_, parts) = check_video(&media, 130);
    let samples = read_parts(&parts, 1);
    assert!(
        samples
            .iter()
            .any(|s| s.presentation_time > s.decode_time as i64 + 3000),
        "the stream does reorder pictures"
    );
    assert_eq!(segments(&parts), [180_000, 180_000]);
}

#[test]
fn av1() {
    let media = Video::new(Codec::Av1, 130).make();
    let (codecs, parts) = check_video(&media, 130);
    assert_eq!(codecs, "av01.0.00M.08");
    assert_eq!(segments(&parts), [180_000, 180_000]);
}

#[test]
fn vp9() {
    let media = Video::new(Codec::Vp9, 130).make();
    let (codecs, parts) = check_video(&media, 130);
    assert_eq!(codecs, "vp09.00.20.08");
    assert_eq!(segments(&parts), [180_000, 180_000]);
}

#[test]
fn opus() {
    let media = media::opus(230);
    let collected = run(
        &media,
        &Settings {
            track_id: 2,
            ..SETTINGS
        },
    );
    let (init, parts) = collected.single();
    assert_eq!((init.timescale, init.channels), (48_000, 2));
    assert_eq!(init.codecs, "opus");
    assert_eq!(init.resolution, None);
    read_init(init);
    let samples = read_parts(parts, 2);
    assert_eq!(samples.len(), media.packets.len());
    let durations: Vec<_> = samples.iter().map(|s| s.duration).collect();
    assert!(
        samples.iter().all(|s| s.duration == 960 && s.sync),
        "{durations:?}"
    );
    assert!(parts.iter().all(|p| p.independent));
    check_part_durations(parts, 9600);
    assert_eq!(segments(parts), [96_000, 96_000]);
    decode(init, parts);
}

#[test]
fn pictures_per_second_that_do_not_fit_the_part_duration() {
    for rate in [24, 25, 50] {
        let media = Video {
            rate,
            keyframes: rate * 2,
            ..Video::new(Codec::H264, rate as usize * 5)
        }
        .make();
        check_video(&media, rate as usize * 5);
    }
}

#[test]
fn a_change_of_resolution_makes_a_new_initialization_segment() {
    for codec in [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9] {
        let small = Video::new(codec, 40).make();
        let large = Video {
            size: (480, 272),
            ..Video::new(codec, 40)
        }
        .make();
        let collected = run(&small.then(&large, 33_333_333), &SETTINGS);
        let sizes: Vec<_> = collected
            .pieces
            .iter()
            .map(|(init, _)| init.resolution)
            .collect();
        assert_eq!(sizes, [Some((320, 240)), Some((480, 272))], "{codec}");
        for (init, parts) in &collected.pieces {
            read_init(init);
            assert_eq!(read_parts(parts, 1).len(), 40, "{codec}");
            assert_eq!(decode(init, parts), 40, "{codec}");
        }
        let ends = collected.pieces[0].1.last().unwrap();
        let goes_on = collected.pieces[1].1.first().unwrap();
        assert_eq!(
            ends.decode_time + ends.duration,
            goes_on.decode_time,
            "{codec}"
        );
    }
}

#[test]
fn a_group_of_pictures_longer_than_a_segment_is_cut_in_time() {
    let media = Video {
        keyframes: 250,
        ..Video::new(Codec::H264, 600)
    }
    .make();
    let collected = run(&media, &SETTINGS);
    let (init, parts) = collected.single();
    let samples = read_parts(parts, 1);
    assert_eq!(samples.len(), 600);
    check_part_durations(parts, 18_000);
    let lengths = segments(parts);
    assert!(
        lengths.iter().all(|&l| l <= 90_000 * 24 / 10),
        "no segment is longer than 2.4 s: {lengths:?}"
    );
    // A keyframe each 8.33 s: every one that is not right behind a cut starts a segment.
    let keyframes: Vec<_> = samples.iter().filter(|s| s.sync).collect();
    assert_eq!(keyframes.len(), 3);
    for keyframe in keyframes {
        let part = parts
            .iter()
            .find(|p| p.decode_time == keyframe.decode_time)
            .expect("a keyframe starts a part");
        assert!(part.starts_segment && part.independent);
    }
    assert!(parts.iter().any(|p| p.starts_segment && !p.independent));
    assert_eq!(decode(init, parts), 600);
}

#[test]
fn nothing_goes_out_before_the_first_keyframe() {
    for codec in [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9] {
        let mut media = Video {
            keyframes: 30,
            ..Video::new(codec, 60)
        }
        .make();
        let first = media.packets[0].1;
        media.packets.retain(|(_, pts)| *pts != first);
        let collected = run(&media, &SETTINGS);
        let (init, parts) = collected.single();
        assert_eq!(read_parts(parts, 1).len(), 30, "{codec}");
        assert_eq!(decode(init, parts), 30, "{codec}");
        assert!(collected.keyframes_wanted > 0, "{codec}");
    }
}

#[test]
fn a_discontinuity_waits_for_a_keyframe() {
    for codec in [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9] {
        let media = Video {
            keyframes: 30,
            ..Video::new(codec, 75)
        }
        .make();
        let pipelines = Pipelines::load(None).unwrap();
        let mut running = Running::start(&pipelines, &media, &SETTINGS);
        let jump = media.packets[0].1 + 1_300_000_000;
        let mut jumped = false;
        for (packet, pts) in &media.packets {
            if !jumped && *pts >= jump {
                running.pipeline.discontinuity().unwrap();
                jumped = true;
            }
            running.pipeline.push(packet, *pts, false).unwrap();
        }
        let collected = running.finish();
        let (init, parts) = collected.single();
        let samples = read_parts(parts, 1);
        assert_eq!(samples.len(), 39 + 15, "{codec}");
        let pieces: Vec<_> = parts.iter().filter(|p| p.discontinuity).collect();
        assert_eq!(pieces.len(), 2, "{codec}");
        assert!(pieces.iter().all(|p| p.independent && p.starts_segment));
        assert_eq!(decode(init, parts), 54, "{codec}");
        assert!(collected.keyframes_wanted > 0, "{codec}");
    }
}

#[test]
fn a_discontinuity_before_anything_else_is_no_failure() {
    for codec in Codec::ALL {
        let media = match codec.kind() {
            MediaKind::Audio => media::tone(codec, 10),
            MediaKind::Video => Video::new(codec, 10).make(),
        };
        let pipelines = Pipelines::load(None).unwrap();
        let mut running = Running::start(&pipelines, &media, &SETTINGS);
        running.pipeline.discontinuity().unwrap();
        running.push(&media).unwrap();
        running.pipeline.discontinuity().unwrap();
        running.pipeline.discontinuity().unwrap();
        let collected = running.finish();
        let (_, parts) = collected.single();
        let samples = read_parts(parts, 1).len();
        assert!(samples >= 10, "{codec}: {samples}");
    }
}

#[test]
fn an_idle_end_of_a_part_puts_everything_out_and_goes_on() {
    let media = Video {
        keyframes: 300,
        ..Video::new(Codec::H264, 60)
    }
    .make();
    let pipelines = Pipelines::load(None).unwrap();
    let mut running = Running::start(&pipelines, &media, &SETTINGS);
    let pause = 1_500_000_000;
    let mut paused = false;
    for (packet, pts) in &media.packets {
        let late = *pts >= 1_000_000_000;
        if late && !paused {
            running.pipeline.end_part().unwrap();
            running.pipeline.end_part().unwrap();
            let samples = read_parts(running.so_far().single().1, 1);
            assert_eq!(samples.len(), 30, "nothing is held back");
            paused = true;
        }
        let pts = if late { pts + pause } else { *pts };
        running.pipeline.push(packet, pts, false).unwrap();
    }
    let collected = running.finish();
    let (init, parts) = collected.single();
    assert_eq!(parts.iter().filter(|p| p.discontinuity).count(), 1);
    let samples = read_parts(parts, 1);
    assert_eq!(samples.len(), 60);
    let after = samples[30].presentation_time - samples[29].presentation_time;
    assert_eq!(
        after,
        3000 + 135_000,
        "the pause is in the presentation times"
    );
    assert_eq!(decode(init, parts), 60);
}

/// Every sample lasts as long as its packet says, and none is missing between the first and the last.
fn check_sound(init: &InitSegment, parts: &[Part]) -> Vec<Sample> {
    check_part_durations(parts, 9600);
    let samples = read_parts(parts, 1);
    for (sample, next) in samples.iter().zip(samples.iter().skip(1)) {
        assert_eq!(sample.decode_time + sample.duration, next.decode_time);
    }
    decode(init, parts);
    samples
}

#[test]
fn sound_that_pauses_is_silent_meanwhile() {
    let media = media::opus(50).then(&media::opus(50), 1_507_500_000);
    let pipelines = Pipelines::load(None).unwrap();
    let mut running = Running::start(&pipelines, &media, &SETTINGS);
    for (index, (packet, pts)) in media.packets.iter().enumerate() {
        if index == media.packets.len() / 2 {
            running.pipeline.end_part().unwrap();
        }
        running.pipeline.push(packet, *pts, false).unwrap();
    }
    let collected = running.finish();
    let (init, parts) = collected.single();
    assert_eq!(parts.iter().filter(|p| p.discontinuity).count(), 1);
    let samples = check_sound(init, parts);
    let durations: Vec<_> = samples.iter().map(|s| s.duration).collect();
    let first = media.packets.len() / 2;
    // 1.4875 s of silence: 74 packets of 20 ms, one of 5 ms and one of 2.5 ms.
    assert_eq!(
        durations[first..first + 76],
        [vec![960; 74], vec![240, 120]].concat()
    );
    assert!(durations[first + 76..].iter().all(|d| *d == 960));
    let resumed = media.packets[first].1;
    let offset = i64::try_from(START_OFFSET.as_nanos()).unwrap();
    assert_eq!(
        i64::try_from(samples[first + 76].decode_time).unwrap(),
        (resumed + offset) * 48 / 1_000_000,
        "sound is where it belongs"
    );
}

#[test]
fn sound_that_is_not_sent_while_silent_leaves_no_gaps() {
    let mut media = media::opus(200);
    let all = media.packets.len();
    // One packet of every twenty, as in discontinuous transmission.
    let mut number = 0;
    media.packets.retain(|_| {
        number += 1;
        !(50..=150).contains(&number) || number % 20 == 0
    });
    let collected = run(&media, &SETTINGS);
    let (init, parts) = collected.single();
    let samples = check_sound(init, parts);
    assert_eq!(samples.len(), all);
    assert!(samples.iter().all(|s| s.duration == 960));
}

#[test]
fn silence_goes_on_while_nothing_comes_and_late_sound_gives_way() {
    let media = media::opus(60);
    let pipelines = Pipelines::load(None).unwrap();
    let mut running = Running::start(&pipelines, &media, &SETTINGS);
    for (packet, pts) in &media.packets[..20] {
        running.pipeline.push(packet, *pts, false).unwrap();
    }
    for step in 10..=20 {
        running.pipeline.fill_silence(step * 50_000_000).unwrap();
    }
    let so_far: u64 = running.so_far().single().1.iter().map(|p| p.duration).sum();
    assert!(
        so_far >= 48_000 - 9600,
        "silence comes out at once: {so_far}"
    );
    // Packets 45 to 49 come when silence is in their place already.
    for (packet, pts) in &media.packets[45..] {
        running.pipeline.push(packet, *pts, false).unwrap();
    }
    let collected = running.finish();
    let (init, parts) = collected.single();
    let samples = check_sound(init, parts);
    assert_eq!(samples.len(), media.packets.len());
}

#[test]
fn a_track_may_begin_before_the_zero_of_the_stream() {
    let mut media = media::opus(20);
    for (_, pts) in &mut media.packets {
        *pts -= 150_000_000;
    }
    let collected = run(&media, &SETTINGS);
    let (_, parts) = collected.single();
    assert_eq!(parts[0].decode_time, 48_000 - 7_200);
}

#[test]
fn capture_jitter_does_not_make_parts_too_long() {
    let mut media = Video::new(Codec::H264, 300).make();
    // A fixed pattern of up to 6 ms early or late, as browsers' capture times have.
    let jitter = [0, 4, -3, 6, -6, 2, 5, -5, 1, -2, 3];
    let mut last = None;
    let mut picture = 0;
    for (_, pts) in &mut media.packets {
        if last != Some(*pts) {
            last = Some(*pts);
            picture += 1;
        }
        *pts += jitter[picture % jitter.len()] * 1_000_000;
    }
    let (_, parts) = check_video(&media, 300);
    assert!(
        segments(&parts)
            .iter()
            .all(|l| (179_000..181_000).contains(l))
    );
}

#[test]
fn parameter_sets_are_in_the_sample_entry_and_in_the_stream() {
    let media = Video::new(Codec::H264, 70).make();
    let collected = run(&media, &SETTINGS);
    let (init, parts) = collected.single();
    let moov = read_init(init);
    let mp4_atom::Codec::Avc1(entry) = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else {
        panic!("not an avc1 entry");
    };
    let sps = &entry.avcc.sequence_parameter_sets[0];
    for part in parts.iter().filter(|p| p.independent) {
        assert!(
            part.bytes.windows(sps.len()).any(|w| w == &sps[..]),
            "the parameter sets precede the keyframe"
        );
    }
}

#[test]
fn other_part_and_segment_durations() {
    let media = Video {
        keyframes: 30,
        ..Video::new(Codec::H264, 300)
    }
    .make();
    let collected = run(
        &media,
        &Settings {
            part_duration: Duration::from_millis(500),
            segment_duration: Duration::from_secs(4),
            track_id: 7,
        },
    );
    let (_, parts) = collected.single();
    read_parts(parts, 7);
    check_part_durations(parts, 45_000);
    assert_eq!(segments(parts), [360_000, 360_000]);
}
