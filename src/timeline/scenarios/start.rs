//! How a publication begins: what is held, what is believed first, who moves when it was wrong.

use super::*;

#[test]
fn clean_tracks_are_in_sync_from_the_first_packet() {
    let run = run(&[video(), audio()]);
    assert!(run.spread(0..10_000) <= EXACT);
    assert_eq!(run.out.iter().map(|out| out.pts).min(), Some(0));
    // Held only until both reports are there.
    assert!(run.out.iter().all(|out| out.now - out.arrival <= ms(10)));
    assert_eq!(run.out.len(), 900 + 500);
    assert!(run.events.is_empty());
    assert_eq!(run.stats[VIDEO].source, Some(MappingSource::SenderReport));
}

#[test]
fn a_slower_path_for_sound_does_not_shift_it() {
    let slow = Sender {
        delay: 320,
        ..audio()
    };
    let run = run(&[video(), slow]);
    assert!(run.spread(0..10_000) <= EXACT, "{}", run.spread(0..10_000));
    assert_eq!(run.out.len(), 900 + 500, "nothing dropped");
    assert!(run.events.is_empty());
}

#[test]
fn late_reports_are_made_up_without_a_discontinuity() {
    // First reports at 3 s, sound takes 150 ms longer.
    let video = Sender {
        reports: Some((3_000, 1_000)),
        ..video()
    };
    let audio = Sender {
        reports: Some((3_100, 1_000)),
        delay: 170,
        ..audio()
    };
    let run = run(&[video, audio]);
    assert!(
        (run.skew(0..3_000).abs() - ms(150)).abs() <= ms(1),
        "{}",
        run.skew(0..3_000)
    );
    assert!(run.skew(6_600..10_000).abs() <= EXACT);
    assert!(run.events.is_empty());
    let mut before = i64::MIN;
    for out in run.from(AUDIO) {
        assert!(out.pts > before, "sound stays in order");
        before = out.pts;
    }
    // Nobody waits for reports longer than said.
    assert!(run.out.iter().all(|out| out.now - out.arrival <= ms(400)));
}

#[test]
fn sound_far_too_late_is_skipped_when_the_reports_come() {
    for first in [[3_000, 3_100], [3_100, 3_000]] {
        let video = Sender {
            reports: Some((first[0], 5_000)),
            ..video()
        };
        let audio = Sender {
            reports: Some((first[1], 5_000)),
            delay: 320,
            ..audio()
        };
        let run = run(&[video, audio]);
        assert!(
            run.skew(3_500..10_000).abs() <= EXACT,
            "{}",
            run.skew(3_500..10_000)
        );
        assert_eq!(run.discontinuities(), 0, "the times of sound have no gap");
        assert!(
            (14..=16).contains(&run.stats[AUDIO].discarded),
            "{:?}",
            run.stats
        );
        assert_eq!(run.stats[VIDEO].discarded, 0);
        let steps: Vec<i64> = run.from(AUDIO).map(|out| out.pts).collect();
        assert!(
            steps
                .windows(2)
                .all(|pair| (ms(19)..=ms(41)).contains(&(pair[1] - pair[0])))
        );
    }
}

#[test]
fn sound_far_too_early_jumps_and_pictures_do_not() {
    for first in [[3_000, 3_100], [3_100, 3_000]] {
        let video = Sender {
            reports: Some((first[0], 5_000)),
            delay: 320,
            ..video()
        };
        let audio = Sender {
            reports: Some((first[1], 5_000)),
            ..audio()
        };
        let run = run(&[video, audio]);
        assert!(
            run.skew(3_500..10_000).abs() <= EXACT,
            "{}",
            run.skew(3_500..10_000)
        );
        assert_eq!(run.stats[AUDIO].discontinuities, 1);
        assert_eq!(run.stats[VIDEO].discontinuities, 0);
        let pictures: Vec<i64> = run.from(VIDEO).map(|out| out.error()).collect();
        assert!(
            pictures
                .iter()
                .all(|error| (error - pictures[0]).abs() <= EXACT)
        );
    }
}

#[test]
fn a_late_track_joins_where_it_belongs() {
    for starts in [1_500, 4_000] {
        for reports in [
            Some((starts, 1_000)),
            Some((starts + 100, 1_000)),
            Some((starts + 2_500, 5_000)),
        ] {
            let late = Sender {
                starts,
                reports,
                delay: 60,
                ..audio()
            };
            let run = run(&[video(), late]);
            let by_report = reports.unwrap().0 <= starts + 100;
            if by_report {
                assert!(
                    run.spread(0..10_000) <= EXACT,
                    "{starts}: {}",
                    run.spread(0..10_000)
                );
            } else {
                // By arrival first: off by the difference of the delays.
                assert!((run.skew(starts..starts + 2_000).abs() - ms(40)).abs() < ms(1));
                assert!(run.skew(starts + 4_000..10_000).abs() <= EXACT);
            }
            assert!(run.events.is_empty());
            let waited = run
                .from(VIDEO)
                .map(|out| out.now - out.arrival)
                .max()
                .unwrap();
            assert!(waited <= ms(400), "video waits {waited}");
        }
    }
}

#[test]
fn a_track_that_never_comes_holds_nobody_for_long() {
    let run = run(&[video()]);
    assert_eq!(run.out.len(), 900);
    assert_eq!(run.out[0].now - run.out[0].arrival, ms(400));
    assert!(run.spread(0..10_000) <= EXACT);
}

#[test]
fn a_single_track_is_not_held_at_all() {
    let sender = Sender {
        reports: None,
        ..video()
    };
    let run = drive(
        Timeline::new(Settings::default(), &CLOCKS[..1]),
        sender.inputs(),
    );
    assert!(run.out.iter().all(|out| out.now == out.arrival));
    assert_eq!(run.out[0].pts, 0);
    assert!(run.spread(0..10_000) <= EXACT);
    assert_eq!(run.stats[0].source, Some(MappingSource::Arrival));
}

#[test]
fn what_is_held_comes_out_at_the_end() {
    let sender = Sender {
        ends: 300,
        reports: None,
        ..video()
    };
    let run = run(&[sender]);
    assert_eq!(run.out.len(), 27);
}

#[test]
fn nothing_is_dropped_of_a_track_whose_first_packet_was_captured_first_and_came_later() {
    let video = Sender {
        delay: 300,
        ..video()
    };
    let audio = Sender {
        starts: 5,
        reports: Some((5, 1_000)),
        ..audio()
    };
    // The report of the slower track is there before its first packet: nobody waits for that.
    let early = (ms(6), VIDEO, Input::Report(video.report(0)));
    let run = run_with(Settings::default(), &[video, audio], vec![early]);
    assert!(run.spread(0..10_000) <= EXACT);
    assert_eq!(run.from(VIDEO).count(), 900);
    assert_eq!(run.stats[VIDEO].discarded, 0);
    assert!(run.events.is_empty());
}
