//! Sender reports that are wrong.

use super::*;

#[test]
fn bogus_reports_change_nothing() {
    let mut extra: Vec<(i64, TrackIndex, Input)> = Vec::new();
    for (time, ntp, rtp_timestamp) in [
        (1, 0, 7),
        (2, u64::MAX, u32::MAX),
        (3, 0xffff_ffff_0000_0000, 7),
        (4, WALL_CLOCK, u32::MAX),
        (4_500, WALL_CLOCK ^ (1 << 60), 5),
        (5_500, WALL_CLOCK + (90 << 32), 5),
    ] {
        for track in [VIDEO, AUDIO] {
            let ssrc = if track == VIDEO { 1 } else { 2 };
            extra.push((
                ms(time),
                track,
                Input::Report(SenderReport {
                    ssrc,
                    ntp,
                    rtp_timestamp,
                }),
            ));
        }
    }
    let run = run_with(Settings::default(), &[video(), audio()], extra);
    assert!(run.spread(0..10_000) <= EXACT, "{}", run.spread(0..10_000));
    assert!(run.events.is_empty());
    assert!(
        run.stats.iter().all(|stats| stats.ignored_reports >= 5),
        "{:?}",
        run.stats
    );
}

#[test]
fn a_first_report_of_nonsense_only_delays_the_right_mapping() {
    let audio = Sender {
        wrong: |time| if time < ms(500) { 3_000 * SECOND } else { 0 },
        delay: 60,
        ..audio()
    };
    let run = run(&[video(), audio]);
    assert_eq!(run.discontinuities(), 0);
    assert!(run.skew(0..10_000).abs() <= ms(41));
    assert!(
        run.skew(5_000..10_000).abs() <= EXACT,
        "{}",
        run.skew(5_000..10_000)
    );
}

#[test]
fn a_sender_that_sets_its_wall_clock_is_not_followed() {
    // Forwards and backwards, believable and absurd.
    let steps: [fn(i64) -> i64; 4] = [
        |time| if time > ms(4_500) { ms(700) } else { 0 },
        |time| if time > ms(4_500) { ms(-700) } else { 0 },
        |time| if time > ms(4_500) { 3_600 * SECOND } else { 0 },
        |time| if time > ms(4_500) { -3_600 * SECOND } else { 0 },
    ];
    for wrong in steps {
        let video = Sender {
            wrong,
            ends: 20_000,
            ..video()
        };
        let audio = Sender {
            wrong,
            ends: 20_000,
            reports: Some((10, 1_300)),
            ..audio()
        };
        let run = run(&[video, audio]);
        assert!(run.spread(0..20_000) <= ms(1), "{}", run.spread(0..20_000));
        assert!(run.events.is_empty());
    }
}

#[test]
fn one_outlying_report_is_ignored_and_a_confirmed_one_followed() {
    let once = Sender {
        wrong: |time| {
            if (ms(4_000)..ms(4_900)).contains(&time) {
                ms(400)
            } else {
                0
            }
        },
        ..audio()
    };
    let single = run(&[video(), once]);
    assert!(single.spread(0..10_000) <= EXACT);
    let lasting = Sender {
        wrong: |time| if time > ms(4_000) { ms(400) } else { 0 },
        ends: 12_000,
        ..audio()
    };
    let followed = run(&[
        Sender {
            ends: 12_000,
            ..video()
        },
        lasting,
    ]);
    assert_eq!(followed.stats[AUDIO].discontinuities, 1);
    let skew = followed.skew(6_500..12_000);
    assert!((skew + ms(400)).abs() <= EXACT, "{skew}");
}
