//! Tests of the keyframe demand against simulated publishers.

use super::*;

/// A publisher at 30 pictures a second, reported to the demand part by part as a mux does.
struct Publisher {
    /// Its own keyframe distance in pictures.
    every: i64,
    /// How many pictures after a request it answers; `None`: never.
    answers_after: Option<i64>,
    /// Distance is counted from the last keyframe of any kind.
    restarts: bool,
}

struct Outcome {
    keyframes: Vec<i64>,
    requests: Vec<i64>,
    demand: KeyframeDemand,
}

const PICTURE: i64 = SECOND / 30;

fn at(pts: i64) -> Monotonic {
    Duration::from_nanos(u64::try_from(pts).unwrap())
}

/// Runs a publisher for `seconds`; `lost` are pictures at which a loss is noticed. Segments start at keyframes, or
/// after 2.5 s without one. A keyframe is reported seven pictures late.
fn run(publisher: &Publisher, seconds: i64, lost: &[i64]) -> Outcome {
    run_with(Settings::default(), publisher, seconds, lost)
}

fn run_with(settings: Settings, publisher: &Publisher, seconds: i64, lost: &[i64]) -> Outcome {
    let mut demand = KeyframeDemand::new(settings);
    let mut keyframes = Vec::new();
    let mut requests = Vec::new();
    let mut reports: Vec<(i64, i64)> = Vec::new();
    let mut last_own = None;
    let mut answer_at = None;
    let mut segment = 0;
    for n in 0..seconds * 30 {
        let pts = n * PICTURE;
        let own = last_own.is_none_or(|last| n - last >= publisher.every);
        if own || answer_at == Some(n) {
            if own || publisher.restarts {
                last_own = Some(n);
            }
            keyframes.push(pts);
            reports.push((n + 7, pts));
        }
        demand.picture(at(pts), pts);
        for (_, keyframe) in reports.extract_if(.., |(due, _)| *due <= n) {
            demand.keyframe(keyframe);
            if keyframe == 0 || keyframe - segment >= SECOND * 3 / 2 {
                segment = keyframe;
                demand.segment(segment);
            }
        }
        if pts - segment > SECOND * 5 / 2 {
            segment += SECOND * 2;
            demand.segment(segment);
        }
        if lost.contains(&n) {
            demand.lost();
        }
        if demand.poll(at(pts)) {
            requests.push(pts);
            answer_at = publisher.answers_after.map(|after| n + after);
        }
    }
    Outcome {
        keyframes,
        requests,
        demand,
    }
}

fn spacings(times: &[i64]) -> Vec<i64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_browser_is_asked_in_time_for_each_segment() {
    for answers_after in [1, 3, 9] {
        let browser = Publisher {
            every: 3_000,
            answers_after: Some(answers_after),
            restarts: true,
        };
        let outcome = run(&browser, 60, &[]);
        let spacings = spacings(&outcome.keyframes);
        assert!(spacings.len() > 27, "{spacings:?}");
        for (n, spacing) in spacings.iter().enumerate() {
            let longest = if n == 0 { 2_300 } else { 2_034 };
            assert!(
                (1_500 * MILLISECOND..longest * MILLISECOND).contains(spacing),
                "segment {n} of {spacing} ns with answers after {answers_after}"
            );
        }
        let late: Vec<_> = spacings.iter().skip(10).collect();
        assert!(
            late.iter().all(|spacing| **spacing > 1_800 * MILLISECOND),
            "lead learned: {late:?}"
        );
        assert!(!outcome.demand.ignores_requests());
        assert!(!outcome.demand.keys_by_itself());
    }
}

#[test]
fn a_keyframe_that_comes_with_the_first_packets_is_not_asked_for() {
    let mut demand = KeyframeDemand::new(Settings::default());
    demand.picture(at(0), 0);
    demand.lost();
    demand.picture(at(0), 2 * PICTURE);
    demand.keyframe_at_hand();
    assert!(!demand.poll(at(0)));
    demand.lost();
    assert!(demand.poll(at(PICTURE)));
}

#[test]
fn the_answer_to_a_request_that_was_not_needed_is_not_learned_from() {
    // The first keyframe is reported late, after it was asked for, and another one comes by itself somewhat later.
    let mut demand = KeyframeDemand::new(Settings::default());
    let mut requests = Vec::new();
    let mut keyframes = vec![(30, 0), (40, 33 * PICTURE)];
    for n in 0..600 {
        let pts = n * PICTURE;
        demand.picture(at(pts), pts);
        for (_, keyframe) in keyframes.extract_if(.., |(due, _)| *due <= n) {
            demand.keyframe(keyframe);
            demand.segment(keyframe);
        }
        if demand.poll(at(pts)) {
            requests.push(pts);
            if requests.len() > 1 {
                keyframes.push((n + 9, pts + 2 * PICTURE));
            }
        }
    }
    let spacings = spacings(&requests);
    assert!(
        spacings
            .iter()
            .skip(1)
            .all(|spacing| *spacing > SECOND * 3 / 2),
        "{spacings:?}"
    );
}

#[test]
fn the_second_keyframe_is_asked_for_early_and_once() {
    let settings = Settings {
        second: Some(Duration::from_millis(500)),
        ..Settings::default()
    };
    for answers_after in [1, 3, 6] {
        let browser = Publisher {
            every: 3_000,
            answers_after: Some(answers_after),
            restarts: true,
        };
        let outcome = run_with(settings, &browser, 20, &[]);
        let second = outcome.keyframes[1];
        assert!(
            (400 * MILLISECOND..700 * MILLISECOND).contains(&second),
            "{second} with answers after {answers_after}"
        );
        let later = spacings(&outcome.keyframes);
        assert!(
            later.iter().skip(1).all(|spacing| *spacing > SECOND),
            "{later:?}"
        );
    }
    // One that ignores requests is not asked again before its segment ends.
    let obs = Publisher {
        every: 250,
        answers_after: None,
        restarts: false,
    };
    let outcome = run_with(settings, &obs, 2, &[]);
    assert!(outcome.requests.len() <= 2, "{:?}", outcome.requests);
}

#[test]
fn a_publisher_that_stops_sending_keyframes_by_itself_is_asked_again() {
    let mut demand = KeyframeDemand::new(Settings::default());
    let own = [0, 31, 62].map(|n| n * PICTURE);
    let mut requests = Vec::new();
    let mut segment = 0;
    for n in 0..300 {
        let pts = n * PICTURE;
        demand.picture(at(pts), pts);
        if own.contains(&(pts - 7 * PICTURE)) {
            demand.keyframe(pts - 7 * PICTURE);
        }
        // Segments end without a keyframe, so none ever gets old enough for a request that waits for an own keyframe.
        if pts - segment > SECOND * 12 / 5 {
            segment = pts;
            demand.segment(segment);
        }
        if demand.poll(at(pts)) {
            requests.push(pts);
        }
    }
    assert!(
        requests.iter().any(|request| *request < 9 * SECOND / 2),
        "{requests:?}"
    );
    assert!(requests.len() >= 3, "{requests:?}");
}

#[test]
fn a_publisher_with_short_spacing_is_left_alone() {
    // OBS with a keyframe interval of 1 or 2 s: requests change nothing.
    for every in [30, 60] {
        let obs = Publisher {
            every,
            answers_after: None,
            restarts: false,
        };
        let outcome = run(&obs, 60, &[]);
        assert!(outcome.demand.keys_by_itself());
        assert!(!outcome.demand.ignores_requests());
        assert!(outcome.requests.len() <= 5, "{:?}", outcome.requests);
        assert!(
            outcome
                .requests
                .iter()
                .all(|request| *request < 12 * SECOND)
        );
        let interval = outcome.demand.observed_interval().unwrap();
        assert!(
            interval.abs_diff(Duration::from_secs_f64(
                f64::from(u32::try_from(every).unwrap()) / 30.0
            )) < Duration::from_millis(1)
        );
    }
}

#[test]
fn a_publisher_that_ignores_requests_is_asked_rarely() {
    // OBS on its defaults: 250 pictures.
    let obs = Publisher {
        every: 250,
        answers_after: None,
        restarts: false,
    };
    let outcome = run(&obs, 120, &[]);
    assert!(outcome.demand.ignores_requests());
    assert_eq!(
        outcome
            .demand
            .observed_interval()
            .map(|interval| interval.as_millis()),
        Some(8_333)
    );
    let after_learning = outcome
        .requests
        .iter()
        .filter(|request| **request > 20 * SECOND)
        .count();
    assert!((6..=16).contains(&after_learning), "{:?}", outcome.requests);
}

#[test]
fn asks_at_the_start_when_no_keyframe_comes() {
    let mut demand = KeyframeDemand::new(Settings::default());
    assert_eq!(demand.deadline(), None);
    assert!(!demand.poll(at(0)));
    demand.picture(at(SECOND), 0);
    assert!(!demand.poll(at(SECOND)));
    assert_eq!(demand.deadline(), Some(Duration::from_millis(1_300)));
    assert!(demand.poll(Duration::from_millis(1_300)));
    assert!(!demand.poll(Duration::from_millis(1_400)), "already asked");
    assert_eq!(demand.deadline(), Some(Duration::from_millis(2_300)));
    assert!(demand.poll(Duration::from_millis(2_300)));
    demand.keyframe(2 * SECOND);
    assert!(!demand.poll(Duration::from_millis(3_400)));
}

#[test]
fn losses_are_answered_at_once_and_at_most_once_a_second() {
    let browser = Publisher {
        every: 3_000,
        answers_after: Some(4),
        restarts: true,
    };
    let losses: Vec<i64> = (20..320).collect();
    let outcome = run(&browser, 20, &losses);
    assert_eq!(outcome.requests[0], 20 * PICTURE);
    for spacing in spacings(&outcome.requests) {
        assert!(spacing >= SECOND, "{:?}", outcome.requests);
    }
    let during = outcome
        .requests
        .iter()
        .filter(|request| (20 * PICTURE..320 * PICTURE).contains(*request))
        .count();
    assert!((9..=11).contains(&during), "{during}");
}

#[test]
fn a_keyframe_that_starts_no_segment_does_not_put_off_the_next() {
    let mut demand = KeyframeDemand::new(Settings::default());
    demand.picture(at(0), 0);
    demand.keyframe(0);
    demand.segment(0);
    demand.picture(at(SECOND), SECOND);
    demand.lost();
    assert!(demand.poll(at(SECOND)));
    demand.keyframe(SECOND + 100 * MILLISECOND);
    demand.picture(at(SECOND * 19 / 10), SECOND * 19 / 10);
    assert!(!demand.poll(at(SECOND * 19 / 10)), "once a second at most");
    demand.picture(at(SECOND * 2), SECOND * 2);
    assert!(demand.poll(at(SECOND * 2)));
}

#[test]
fn a_keyframe_from_before_the_loss_does_not_heal_it() {
    let mut demand = KeyframeDemand::new(Settings::default());
    demand.picture(at(0), 0);
    demand.keyframe(0);
    demand.segment(0);
    demand.picture(at(SECOND), SECOND);
    demand.lost();
    demand.keyframe(SECOND - 100 * MILLISECOND);
    assert!(demand.poll(at(SECOND)));
    demand.keyframe(SECOND + 100 * MILLISECOND);
    assert!(!demand.poll(at(3 * SECOND)));
}

#[test]
fn a_publisher_that_listens_again_is_believed_after_two_answers() {
    let mut demand = KeyframeDemand::new(Settings::default());
    demand.keyframe(0);
    let mut answering = false;
    let mut became_listening = None;
    let mut requests = 0;
    for n in 0..3_000 {
        let pts = n * PICTURE;
        demand.picture(at(pts), pts);
        if demand.poll(at(pts)) {
            requests += 1;
            if answering {
                demand.keyframe(pts + PICTURE);
            }
        }
        if n == 1_200 {
            assert!(demand.ignores_requests());
            answering = true;
            requests = 0;
        }
        if answering && !demand.ignores_requests() && became_listening.is_none() {
            became_listening = Some(requests);
        }
    }
    assert_eq!(became_listening, Some(2));
}
