//! Recordings as long as real ones.

use std::{fs, time::Instant};

use crate::{AUDIO, Bench, PATIENCE, VIDEO, finish, media};
use whipgate::{media::MediaKind, recording::RecorderState};

/// Memory of this process in KiB, from `/proc/self/status`.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Records `rounds` times twelve seconds.
fn record_rounds(rounds: u64) {
    let bench = Bench::new();
    let parts = media::interleave(&[&VIDEO, &AUDIO]);
    let (recorder, written) = bench.start(&[&VIDEO, &AUDIO]);
    let began = Instant::now();
    let mut number = 0;
    for round in 0..rounds {
        for (kind, part) in &parts {
            number += 1;
            let rate = if *kind == MediaKind::Video {
                90_000
            } else {
                48_000
            };
            let part = media::moved(part, round * 12 * rate);
            recorder.push_part(*kind, media::numbered(&part, number));
        }
        for _ in &parts {
            written.recv_timeout(PATIENCE).unwrap();
        }
    }
    let (wrote, before) = (began.elapsed(), memory("VmRSS"));
    let began = Instant::now();
    let file = finish(&recorder);
    let finished = began.elapsed();
    println!(
        "{} s of media, {} parts, {} MB: written in {wrote:?}, indexed in {finished:?}; RSS {before} KiB before, {} \
         after, peak {}",
        rounds * 12,
        number,
        fs::metadata(&file).unwrap().len() / 1_000_000,
        memory("VmRSS"),
        memory("VmHWM"),
    );
    assert!(matches!(recorder.state(), RecorderState::Complete));
    let counts = crate::sample_counts_only(&file);
    let rounds = usize::try_from(rounds).unwrap();
    assert_eq!(counts, [VIDEO.samples() * rounds, AUDIO.samples() * rounds]);
    let duration = media::probe(&file, &["-show_entries", "format=duration"]);
    let duration: f64 = duration[0].parse().unwrap();
    assert!((duration - rounds as f64 * 12.0).abs() < 0.05, "{duration}");
}

#[test]
fn an_hour_is_indexed_quickly() {
    record_rounds(300);
}

/// Writes 3 GB or so; for figures, run alone: `cargo test --test recording_store -- --ignored --nocapture a_day`.
#[test]
#[ignore = "writes several gigabytes"]
fn a_day_is_indexed_in_bounded_memory() {
    record_rounds(7200);
}
