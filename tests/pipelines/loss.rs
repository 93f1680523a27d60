//! Streams with packets missing: what comes out decodes without a word, and its times stay right.

use whipgate::{
    media::Codec,
    pipeline::{Pipelines, START_OFFSET},
};

use crate::{
    Collected, Running, SETTINGS,
    boxes::read_parts,
    decode,
    media::{Media, Video},
};

/// Pushes all packets but those for which `lost` says so.
fn run_with_loss(media: &Media, mut lost: impl FnMut(usize) -> bool) -> Collected {
    let pipelines = Pipelines::load(None).unwrap();
    let mut running = Running::start(&pipelines, media, &SETTINGS);
    let mut gap = false;
    for (index, (packet, pts)) in media.packets.iter().enumerate() {
        if lost(index) {
            gap = true;
        } else {
            running
                .pipeline
                .push(packet, *pts, std::mem::take(&mut gap))
                .unwrap();
        }
    }
    running.finish()
}

/// A number below `limit`.
fn random(state: &mut u64, limit: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % limit
}

#[test]
fn no_half_picture_and_none_without_its_references_comes_out() {
    for codec in [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9] {
        let media = Video {
            size: (640, 480),
            keyframes: 15,
            ..Video::new(codec, 120)
        }
        .make();
        for seed in 1..6 {
            let mut state = seed;
            let collected = run_with_loss(&media, |_| random(&mut state, 100) < 3);
            let (init, parts) = collected.single();
            let samples = read_parts(parts, 1);
            // The decoder neither complains nor swallows a picture.
            assert_eq!(decode(init, parts), samples.len(), "{codec}, seed {seed}");
            assert!(
                (20..120).contains(&samples.len()),
                "{codec}, seed {seed}: {}",
                samples.len()
            );
            assert!(collected.keyframes_wanted > 0, "{codec}");
            assert!(
                parts.iter().skip(1).all(|part| !part.discontinuity),
                "{codec}: a freeze is no discontinuity"
            );
            for (sample, next) in samples.iter().zip(samples.iter().skip(1)) {
                assert_eq!(
                    sample.decode_time + sample.duration,
                    next.decode_time,
                    "{codec}: the picture before a gap lasts until the next one"
                );
            }
            let offset = i64::try_from(START_OFFSET.as_nanos()).unwrap();
            for sample in &samples {
                let sent = |pts: i64| ((pts + offset) * 9 + 50_000) / 100_000;
                assert!(
                    media
                        .packets
                        .iter()
                        .any(|(_, pts)| sent(*pts) == sample.presentation_time),
                    "{codec}: each picture is shown when it was captured"
                );
            }
        }
    }
}

#[test]
fn a_keyframe_is_wanted_at_once_when_something_is_lost() {
    let media = Video::new(Codec::H264, 40).make();
    let tenth = media
        .packets
        .iter()
        .position(|(_, pts)| *pts >= media.packets[0].1 + 300_000_000)
        .unwrap();
    let pipelines = Pipelines::load(None).unwrap();
    let mut running = Running::start(&pipelines, &media, &SETTINGS);
    for (packet, pts) in &media.packets[..tenth] {
        running.pipeline.push(packet, *pts, false).unwrap();
    }
    let before = running.so_far().keyframes_wanted;
    let (packet, pts) = &media.packets[tenth + 1];
    running.pipeline.push(packet, *pts, true).unwrap();
    assert_eq!(running.so_far().keyframes_wanted, before + 1);
    running.finish();
}
