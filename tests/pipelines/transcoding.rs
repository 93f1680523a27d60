//! What becomes of media that players do not take as it is, and of sound that is wanted in a second form.

use std::{fs, process::Command, time::Duration};

use whipgate::{
    media::{Codec, InitSegment, Part},
    pipeline::{Pipelines, START_OFFSET, Settings},
};

use crate::{
    Running, SETTINGS,
    boxes::{read_init, read_parts, segments},
    decode,
    media::{self, Media, Video},
    run,
};

const SOUND: Settings = Settings {
    track_id: 2,
    ..SETTINGS
};

/// Sound that is like itself at no other time: smoothed noise below 1 kHz, from a generator that always gives the same.
fn noise(rate: u32, seconds: u32) -> Vec<i16> {
    let mut seed = 1_u32;
    let mut level = [0.0_f64; 3];
    let follow = 1.0 - (-std::f64::consts::TAU * 700.0 / f64::from(rate)).exp();
    (0..rate * seconds)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut value = f64::from(seed >> 8) / f64::from(1 << 23) - 1.0;
            for level in &mut level {
                *level += (value - *level) * follow;
                value = *level;
            }
            (value * 60_000.0).clamp(-32_000.0, 32_000.0) as i16
        })
        .collect()
}

/// Decodes with FFmpeg to one channel at 48 kHz; the first sample belongs to the decode time of the first part.
fn pcm(init: &InitSegment, parts: &[Part]) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sound.mp4");
    let mut bytes = init.bytes.to_vec();
    for part in parts {
        bytes.extend_from_slice(&part.bytes);
    }
    fs::write(&file, bytes).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(&file)
        .args(["-f", "s16le", "-ac", "1", "-ar", "48000", "-"])
        .output()
        .expect("ffmpeg is installed (Debian package ffmpeg)");
    assert!(output.status.success());
    output
        .stdout
        .chunks_exact(2)
        .map(|sample| f64::from(i16::from_le_bytes([sample[0], sample[1]])))
        .collect()
}

/// Sound on the time of the stream.
struct Heard {
    /// Sample number (48 kHz) of the first one from the stream's zero.
    start: i64,
    samples: Vec<f64>,
}

impl Heard {
    fn of(init: &InitSegment, parts: &[Part]) -> Self {
        assert_eq!(init.timescale, 48_000);
        Self {
            start: parts[0].decode_time as i64 - 48 * START_OFFSET.as_millis() as i64,
            samples: pcm(init, parts),
        }
    }

    fn source(samples: &[i16], rate: u32) -> Self {
        let repeat = 48_000 / rate as usize;
        Self {
            start: 0,
            samples: samples
                .iter()
                .flat_map(|s| std::iter::repeat_n(f64::from(*s), repeat))
                .collect(),
        }
    }

    fn at(&self, time: i64) -> f64 {
        usize::try_from(time - self.start)
            .ok()
            .and_then(|index| self.samples.get(index))
            .copied()
            .unwrap_or(0.0)
    }

    /// How much later this is heard than `other` around `time`, in samples; and how alike they are (1 is the same).
    fn later_than(&self, other: &Self, time: i64) -> (i64, f64) {
        const WINDOW: i64 = 6_000;
        const REACH: i64 = 1_440;
        let theirs: Vec<f64> = (time..time + WINDOW).map(|t| other.at(t)).collect();
        let energy: f64 = theirs.iter().map(|v| v * v).sum();
        let mine: Vec<f64> = (time - REACH..time + WINDOW + REACH)
            .map(|t| self.at(t))
            .collect();
        let mut best = (0, f64::MIN);
        for lag in 0..=2 * REACH as usize {
            let window = &mine[lag..lag + WINDOW as usize];
            let product: f64 = window.iter().zip(&theirs).map(|(a, b)| a * b).sum();
            let own: f64 = window.iter().map(|v| v * v).sum();
            let likeness = product / (own * energy).sqrt().max(1.0);
            if likeness > best.1 {
                best = (lag as i64 - REACH, likeness);
            }
        }
        best
    }
}

/// Asserts that `heard` is `other` to within 2 ms, at several times.
fn assert_together(what: &str, heard: &Heard, other: &Heard, times: &[i64]) {
    for time in times {
        let (lag, likeness) = heard.later_than(other, *time);
        let ms = lag as f64 / 48.0;
        assert!(
            likeness > 0.8 && ms.abs() <= 2.0,
            "{what} at sample {time}: {ms:+.3} ms, likeness {likeness:.3}"
        );
    }
}

fn aac(pipelines: &Pipelines, media: &Media, origin: Option<Duration>) -> Running {
    Running::start_aac(pipelines, media, &SOUND, origin)
}

#[test]
fn aac_is_the_same_sound_at_the_same_time() {
    let pipelines = Pipelines::load(None).unwrap();
    let source = noise(48_000, 5);
    let media = media::samples(Codec::Opus, &source);
    let opus = run(&media, &SOUND);
    let (init, parts) = opus.single();
    let opus = Heard::of(init, parts);

    let mut running = aac(&pipelines, &media, None);
    running.push(&media).unwrap();
    let collected = running.finish();
    let (init, parts) = collected.single();
    assert_eq!(init.codecs, "mp4a.40.2");
    assert_eq!((init.timescale, init.channels), (48_000, 2));
    read_init(init);
    let samples = read_parts(parts, 2);
    assert!(samples.iter().all(|s| s.sync && s.duration == 1024));
    assert!(parts.iter().all(|p| p.independent && p.duration <= 9600));
    // The encoder's 1024 samples before the sound are before the stream's zero, and cuts do not move with them.
    assert_eq!(parts[0].decode_time, 48_000 - 1024);
    for start in parts.iter().skip(1).filter(|p| p.starts_segment) {
        let off = (start.decode_time as i64 - 48_000 + 512).rem_euclid(96_000) - 512;
        assert!(off.abs() <= 512, "a segment starts {off} samples off");
    }
    assert_eq!(segments(parts).len(), 2);
    decode(init, parts);
    let aac = Heard::of(init, parts);
    assert_together(
        "AAC of Opus",
        &aac,
        &opus,
        &[4_800, 60_000, 150_000, 200_000],
    );
}

#[test]
fn aac_follows_times_that_jitter_drift_and_miss_packets() {
    let pipelines = Pipelines::load(None).unwrap();
    let source = noise(48_000, 6);
    let mut media = media::samples(Codec::Opus, &source);
    // A clock 300 ppm fast with 0.1 ms of jitter, and three packets lost in one place.
    for (index, (_, pts)) in media.packets.iter_mut().enumerate() {
        *pts += index as i64 * 6_000 + (index as i64 * 7 % 3 - 1) * 100_000;
    }
    media.packets.drain(100..103);
    let opus = run(&media, &SOUND);
    let opus = Heard::of(opus.single().0, opus.single().1);
    let mut running = aac(&pipelines, &media, None);
    for (index, (packet, pts)) in media.packets.iter().enumerate() {
        running.pipeline.push(packet, *pts, index == 100).unwrap();
    }
    let collected = running.finish();
    let (init, parts) = collected.single();
    // No saw-tooth, and no gap either: every frame follows the one before, with silence in place of what is lost.
    let samples = read_parts(parts, 2);
    assert!(samples.iter().all(|s| s.duration == 1024));
    assert_eq!(parts.iter().filter(|p| p.discontinuity).count(), 1);
    let aac = Heard::of(init, parts);
    assert_together("AAC", &aac, &opus, &[20_000, 70_000, 110_000, 140_000]);
    let end = media.packets.last().unwrap().1;
    let last = parts.last().unwrap();
    let ends = (last.decode_time + last.duration) as i64 * 1_000_000 / 48 - 1_000_000_000;
    assert!((ends - end - 20_000_000).abs() < 45_000_000, "{ends} {end}");
}

#[test]
fn aac_that_joins_late_is_cut_where_the_opus_is() {
    let pipelines = Pipelines::load(None).unwrap();
    let media = media::tone(Codec::Opus, 400);
    let opus = run(&media, &SOUND);
    let starts: Vec<_> = opus
        .single()
        .1
        .iter()
        .filter(|p| p.starts_segment)
        .map(|p| p.decode_time)
        .collect();
    let origin = Duration::from_nanos(starts[1] * 1_000_000_000 / 48_000);
    let mut running = aac(&pipelines, &media, Some(origin));
    for (packet, pts) in media.packets.iter().skip(137) {
        running.pipeline.push(packet, *pts, false).unwrap();
    }
    let collected = running.finish();
    let parts = collected.single().1;
    let cuts: Vec<_> = parts
        .iter()
        .skip(1)
        .filter(|p| p.starts_segment)
        .map(|p| p.decode_time)
        .collect();
    assert_eq!(cuts.len(), 3, "{cuts:?} {starts:?}");
    for (cut, start) in cuts.iter().zip(&starts[2..]) {
        assert!(cut.abs_diff(*start) <= 512, "{cut} and {start}");
    }
}

#[test]
fn aac_goes_on_after_a_discontinuity() {
    let pipelines = Pipelines::load(None).unwrap();
    let media =
        media::tone(Codec::Opus, 100).then(&media::tone(Codec::Opus, 100), 3_600_000_000_000);
    let mut running = aac(&pipelines, &media, None);
    for (index, (packet, pts)) in media.packets.iter().enumerate() {
        if index == media.packets.len() / 2 {
            running.pipeline.discontinuity().unwrap();
        }
        running.pipeline.push(packet, *pts, false).unwrap();
    }
    let collected = running.finish();
    let parts = collected.single().1;
    let starts: Vec<_> = parts.iter().filter(|p| p.discontinuity).collect();
    assert_eq!(starts.len(), 2);
    let second = media.packets[media.packets.len() / 2].1 as u64 * 48 / 1_000_000;
    assert_eq!(starts[1].decode_time, second + 48_000 - 1024);
}

#[test]
fn g711_and_g722_become_opus_and_aac_at_their_own_time() {
    let pipelines = Pipelines::load(None).unwrap();
    for codec in [Codec::G722, Codec::Pcmu, Codec::Pcma] {
        let rate = media::sampling_rate(codec);
        let source = noise(rate, 5);
        let media = media::samples(codec, &source);
        assert!(
            media.packets.len() >= 240,
            "{codec}: {}",
            media.packets.len()
        );
        let source = Heard::source(&source, rate);
        let times = [4_800, 60_000, 150_000, 200_000];

        let opus = run(&media, &SOUND);
        let (init, parts) = opus.single();
        assert_eq!(init.codecs, "opus", "{codec}");
        read_init(init);
        let samples = read_parts(parts, 2);
        let odd: Vec<_> = samples.iter().filter(|s| s.duration != 960).collect();
        assert!(odd.is_empty(), "{codec}: {odd:?}");
        decode(init, parts);
        assert_together(
            &format!("Opus of {codec}"),
            &Heard::of(init, parts),
            &source,
            &times,
        );

        let mut running = aac(&pipelines, &media, None);
        running.push(&media).unwrap();
        let collected = running.finish();
        let (init, parts) = collected.single();
        assert_eq!(init.codecs, "mp4a.40.2", "{codec}");
        assert_together(
            &format!("AAC of {codec}"),
            &Heard::of(init, parts),
            &source,
            &times,
        );
    }
}

#[test]
fn vp8_becomes_h264_with_keyframes_where_they_are_wanted() {
    let pipelines = Pipelines::load(None).unwrap();
    let media = Video {
        keyframes: 1_000,
        ..Video::new(Codec::Vp8, 130)
    }
    .make();
    let mut running = Running::start(&pipelines, &media, &SETTINGS);
    let wanted = [47, 100];
    let mut pictures = 0;
    let mut last = None;
    for (packet, pts) in &media.packets {
        if last != Some(*pts) {
            if wanted.contains(&pictures) {
                running.pipeline.force_keyframe();
            }
            pictures += 1;
            last = Some(*pts);
        }
        running.pipeline.push(packet, *pts, false).unwrap();
    }
    let collected = running.finish();
    let (init, parts) = collected.single();
    assert_eq!(init.codecs, "avc1.4d4015");
    assert_eq!(init.resolution, Some((320, 240)));
    read_init(init);
    let samples = read_parts(parts, 1);
    assert_eq!(samples.len(), 130);
    let keyframes: Vec<_> = (0..samples.len()).filter(|i| samples[*i].sync).collect();
    assert_eq!(keyframes, [0, 47, 100]);
    // Nothing is reordered or late: a picture is shown at the time of its packets.
    for (sample, index) in samples.iter().zip(0..) {
        assert!((sample.presentation_time - 90_000 - index * 3_000).abs() <= 1);
    }
    assert_eq!(collected.keyframes_wanted, 0, "the publisher is left alone");
    assert_eq!(decode(init, parts), 130);
}

#[test]
fn lost_vp8_asks_the_publisher_and_shows_nothing_broken() {
    let pipelines = Pipelines::load(None).unwrap();
    let mut media = Video {
        keyframes: 60,
        ..Video::new(Codec::Vp8, 130)
    }
    .make();
    let start = media.packets[0].1;
    // The first picture, a keyframe, and the one after a second are lost.
    let lost = [start, start + 1_000_000_000];
    let mut after_loss = false;
    let mut packets = Vec::new();
    for (packet, pts) in std::mem::take(&mut media.packets) {
        if lost.iter().any(|at| (pts - at).abs() < 10_000_000) {
            after_loss = true;
        } else {
            packets.push((packet, pts, std::mem::take(&mut after_loss)));
        }
    }
    let mut running = Running::start(&pipelines, &media, &SETTINGS);
    for (packet, pts, after_loss) in &packets {
        running.pipeline.push(packet, *pts, *after_loss).unwrap();
    }
    let collected = running.finish();
    assert!(collected.keyframes_wanted > 0);
    let (init, parts) = collected.single();
    // Keyframes come at pictures 60 and 120: nothing before the first.
    let samples = read_parts(parts, 1);
    assert_eq!(samples[0].presentation_time, 90_000 + 60 * 3_000);
    assert_eq!(samples.len(), 70);
    assert_eq!(decode(init, parts), 70);
}
