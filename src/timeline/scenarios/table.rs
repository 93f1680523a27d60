//! The table of lip-sync: case, offset of sound against picture, packets dropped.
//!
//! `scripts/lipsync` prints it.

use super::*;

/// A case and what it must come to. Times in ms.
struct Case {
    name: &'static str,
    senders: [Sender; 2],
    extra: Vec<(i64, TrackIndex, Input)>,
    /// Largest offset from the first picture on.
    worst: i64,
    /// From when on the offset is at most [`LIMIT`], after the first picture was captured.
    settled: i64,
    /// Packets of sound skipped by a correction.
    skipped: u64,
}

/// What counts as lip-sync, in ns.
const LIMIT: i64 = 2 * MILLISECOND;

impl Case {
    /// A case that is in sync from the first picture on.
    fn exact(name: &'static str, video: Sender, audio: Sender) -> Self {
        Self {
            name,
            senders: [video, audio],
            extra: Vec::new(),
            worst: 2,
            settled: 0,
            skipped: 0,
        }
    }
}

fn every(first: i64, distance: i64, sender: Sender) -> Sender {
    Sender {
        reports: Some((first, distance)),
        ..sender
    }
}

fn delayed(delay: i64, sender: Sender) -> Sender {
    Sender { delay, ..sender }
}

fn without_reports(sender: Sender) -> Sender {
    Sender {
        reports: None,
        ..sender
    }
}

/// Reports whose NTP times are wrong, by another error each time.
fn scattering(wrong: fn(i64) -> i64, sender: Sender) -> Sender {
    Sender {
        wrong,
        ends: 60_000,
        ..every(sender.reports.unwrap().0, 900, sender)
    }
}

/// An error of up to 2 ms in either direction that looks random.
fn scatter(time: i64, seed: i64) -> i64 {
    (time / MILLISECOND + 1) * seed % 4_001 * 1_000 - ms(2)
}

fn bogus() -> Vec<(i64, TrackIndex, Input)> {
    let all_ones = [(1, u64::MAX, u32::MAX), (4_500, u64::MAX, 5)];
    let jumps = [
        (2, WALL_CLOCK, u32::MAX),
        (5_500, WALL_CLOCK + (90 << 32), 5),
    ];
    all_ones
        .into_iter()
        .chain(jumps)
        .flat_map(|(time, ntp, rtp_timestamp)| {
            [(VIDEO, 1), (AUDIO, 2)].map(|(track, ssrc)| {
                let report = SenderReport {
                    ssrc,
                    ntp,
                    rtp_timestamp,
                };
                (ms(time), track, Input::Report(report))
            })
        })
        .collect()
}

fn cases() -> Vec<Case> {
    let late_sound = |reports| Sender {
        starts: 1_500,
        reports: Some(reports),
        delay: 60,
        ..audio()
    };
    let late_pictures = |reports| Sender {
        starts: 1_500,
        reports: Some(reports),
        delay: 60,
        ..video()
    };
    let drifting = |ppm, distance, sender: Sender| Sender {
        ppm,
        ends: 3_600_000,
        ..every(sender.reports.unwrap().0, distance, sender)
    };
    vec![
        Case::exact("reports of both tracks every second", video(), audio()),
        Case::exact(
            "reports of both tracks every 5 s",
            every(0, 5_000, video()),
            every(10, 5_000, audio()),
        ),
        Case::exact(
            "reports that come when asked for, 350 ms after the start",
            every(350, 1_000, video()),
            delayed(60, every(330, 5_000, audio())),
        ),
        Case {
            worst: 3,
            settled: 3_000,
            ..Case::exact(
                "reports wrong by up to 2 ms, every 0.9 s",
                scattering(|time| scatter(time, 7_919), video()),
                scattering(|time| scatter(time, 104_729), audio()),
            )
        },
        Case::exact(
            "no reports for sound, same way",
            video(),
            without_reports(audio()),
        ),
        Case::exact(
            "no reports for pictures, same way",
            without_reports(video()),
            audio(),
        ),
        Case {
            worst: 41,
            settled: i64::MAX,
            ..Case::exact(
                "no reports for sound, whose way is 40 ms slower",
                video(),
                delayed(60, without_reports(audio())),
            )
        },
        Case {
            extra: bogus(),
            ..Case::exact("bogus reports among right ones", video(), audio())
        },
        Case {
            worst: 41,
            settled: 3_900,
            ..Case::exact(
                "first report of sound after 3 s, its way 40 ms slower",
                video(),
                delayed(60, every(3_000, 1_000, audio())),
            )
        },
        Case::exact(
            "sound starts 1.5 s late",
            video(),
            late_sound((1_500, 1_000)),
        ),
        Case::exact(
            "sound starts 1.5 s late, reports every 5 s",
            every(0, 5_000, video()),
            late_sound((1_510, 5_000)),
        ),
        Case::exact(
            "pictures start 1.5 s late",
            late_pictures((1_500, 1_000)),
            audio(),
        ),
        Case::exact(
            "pictures start 1.5 s late, reports every 5 s",
            late_pictures((1_600, 5_000)),
            every(0, 5_000, audio()),
        ),
        Case::exact("way of sound 300 ms slower", video(), delayed(320, audio())),
        Case::exact(
            "way of pictures 300 ms slower",
            delayed(320, video()),
            audio(),
        ),
        Case {
            worst: 301,
            settled: 3_350,
            skipped: 15,
            ..Case::exact(
                "way of sound 300 ms slower, reports after 3 s",
                every(3_000, 1_000, video()),
                delayed(320, every(3_000, 1_000, audio())),
            )
        },
        Case {
            worst: 301,
            settled: 3_350,
            ..Case::exact(
                "way of pictures 300 ms slower, reports after 3 s",
                delayed(320, every(3_000, 1_000, video())),
                every(3_000, 1_000, audio()),
            )
        },
        Case::exact(
            "an hour, clocks off by +300 and -300 ppm",
            drifting(300, 1_000, video()),
            drifting(-300, 1_000, audio()),
        ),
        Case {
            worst: 4,
            settled: 8_000,
            ..Case::exact(
                "the same hour, reports every 5 s",
                drifting(300, 5_000, video()),
                drifting(-300, 5_000, audio()),
            )
        },
    ]
}

/// Offset of sound against picture over the run: capture time of the picture and offset, in ns.
fn offsets(run: &Run) -> Vec<(i64, i64)> {
    let sound: Vec<Out> = run.from(AUDIO).collect();
    let mut next = 0;
    let mut offsets = Vec::new();
    for picture in run.from(VIDEO) {
        while next + 1 < sound.len() && sound[next].capture < picture.capture {
            next += 1;
        }
        let nearest = sound[next];
        if (nearest.capture - picture.capture).abs() < ms(40) {
            offsets.push((picture.capture, nearest.error() - picture.error()));
        }
    }
    offsets
}

#[test]
fn lip_sync_table() {
    let mut failures = Vec::new();
    println!(
        "| case | offset of the first picture | largest | within 2 ms after | packets in, dropped, skipped | first picture held | offset as measured live, last |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for case in cases() {
        let sent: usize = case
            .senders
            .iter()
            .flat_map(Sender::inputs)
            .filter(|(_, _, input)| matches!(input, Input::Rtp(_)))
            .count();
        let run = run_with(Settings::default(), &case.senders, case.extra);
        let offsets = offsets(&run);
        let first = offsets[0];
        let largest = offsets
            .iter()
            .map(|(_, offset)| offset.abs())
            .max()
            .unwrap();
        let settled = match offsets.iter().rposition(|(_, offset)| offset.abs() > LIMIT) {
            None => Some(0),
            Some(last) => offsets.get(last + 1).map(|(time, _)| time - first.0),
        };
        let skipped: u64 = run.stats.iter().map(|stats| stats.discarded).sum();
        let dropped = sent as u64 - run.out.len() as u64 - skipped;
        let picture = run.from(VIDEO).next().unwrap();
        let held = picture.now - picture.arrival;
        let (_, measured, _) = *run.measured.last().unwrap();
        let show = |nanos: i64| {
            let hundredths = nanos.abs() / 10_000;
            let sign = if nanos < 0 && hundredths > 0 { "-" } else { "" };
            format!("{sign}{}.{:02} ms", hundredths / 100, hundredths % 100)
        };
        println!(
            "| {} | {} | {} | {} | {sent}, {dropped}, {skipped} | {} | {} +- {} |",
            case.name,
            show(first.1),
            show(largest),
            settled.map_or("never".to_owned(), |time| format!(
                "{} ms",
                time / MILLISECOND
            )),
            show(held),
            show(measured.offset),
            show(measured.uncertainty),
        );
        let mut check = |right: bool, what: &str| {
            if !right {
                failures.push(format!("{}: {what}", case.name));
            }
        };
        check(largest <= ms(case.worst), "larger than it may be");
        check(
            settled.unwrap_or(i64::MAX) <= case.settled.saturating_mul(MILLISECOND),
            "not in sync in time",
        );
        check(dropped == 0, "packets dropped");
        check(skipped <= case.skipped, "sound skipped");
        check(held <= ms(400), "held for too long");
        for (time, measured, truth) in &run.measured {
            check(
                (measured.offset - truth).abs() <= measured.uncertainty,
                &format!(
                    "at {} ms measured {measured:?}, true {truth}",
                    time / MILLISECOND
                ),
            );
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
