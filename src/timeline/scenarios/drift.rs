//! Clocks that run fast and slow, for an hour.

use super::*;

#[test]
fn an_hour_of_drifting_clocks() {
    for distance in [1_000, 5_000] {
        let video = Sender {
            ppm: 300,
            ends: 3_600_000,
            reports: Some((0, distance)),
            ..video()
        };
        let audio = Sender {
            ppm: -300,
            ends: 3_600_000,
            reports: Some((10, distance)),
            ..audio()
        };
        let run = run(&[video, audio]);
        let whole = run.spread(0..3_600_000);
        let settled = run.spread(60_000..3_600_000);
        println!(
            "reports every {distance} ms: {whole} ns from the start, {settled} ns after a minute"
        );
        assert!(settled < ms(1), "{settled}");
        assert!(
            whole < if distance == 1_000 { ms(1) } else { ms(6) },
            "{whole}"
        );
        assert!(run.events.is_empty());
        assert!(
            (run.stats[VIDEO].rate_ppm + 300.0).abs() < 30.0,
            "{:?}",
            run.stats
        );
        assert!(run.out.iter().skip(100).all(|out| out.now == out.arrival));
    }
}

#[test]
fn an_hour_without_reports_on_one_track_or_both() {
    for reports in [Some((0, 1_000)), None] {
        let video = Sender {
            ppm: 300,
            ends: 3_600_000,
            reports,
            jitter: 10,
            ..video()
        };
        let audio = Sender {
            ppm: -300,
            ends: 3_600_000,
            reports: None,
            jitter: 10,
            ..audio()
        };
        let run = run(&[video, audio]);
        let skew = run.skew(0..3_600_000).abs();
        println!("video reports {reports:?}: skew {skew} ns");
        assert!(skew < ms(10), "{skew}");
        assert_eq!(run.discontinuities(), 0);
        assert_eq!(run.stats[AUDIO].source, Some(MappingSource::Arrival));
    }
}
