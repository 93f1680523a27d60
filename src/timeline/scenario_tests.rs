//! Simulated publishers against the whole timeline. Each packet carries its true capture time, so what comes out can be
//! compared with the truth.

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    unwrap::{MILLISECOND, SECOND},
    *,
};

const VIDEO: TrackIndex = 0;
const AUDIO: TrackIndex = 1;
const CLOCKS: [TrackClock; 2] = [
    TrackClock {
        kind: MediaKind::Video,
        clock_rate: 90_000,
    },
    TrackClock {
        kind: MediaKind::Audio,
        clock_rate: 48_000,
    },
];
/// The sender's wall clock at capture time 0.
const WALL_CLOCK: u64 = 0xec00_0000_0000_0000;

fn at(nanos: i64) -> Monotonic {
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

fn ms(value: i64) -> i64 {
    value * MILLISECOND
}

/// One track of a publisher; times in ms of capture time.
#[derive(Clone, Debug)]
struct Sender {
    track: TrackIndex,
    ssrc: u32,
    starts: i64,
    ends: i64,
    /// Nothing is sent in between.
    pause: std::ops::Range<i64>,
    /// Speed of the RTP clock against the wall clock.
    ppm: i64,
    /// Way to us, and how much longer single packets take.
    delay: i64,
    jitter: i64,
    /// Packets lost of 1,000.
    loss: u64,
    first_sequence: u16,
    first_timestamp: u32,
    /// First report and distance of reports.
    reports: Option<(i64, i64)>,
    /// Error of a report's NTP time by capture time of the report, in ns.
    wrong: fn(i64) -> i64,
    seed: u64,
}

fn video() -> Sender {
    Sender {
        track: VIDEO,
        ssrc: 1,
        starts: 0,
        ends: 10_000,
        pause: 0..0,
        ppm: 0,
        delay: 20,
        jitter: 0,
        loss: 0,
        first_sequence: 1_000,
        first_timestamp: 123_456,
        reports: Some((0, 1_000)),
        wrong: |_| 0,
        seed: 1,
    }
}

fn audio() -> Sender {
    Sender {
        track: AUDIO,
        ssrc: 2,
        first_timestamp: 4_000_000_000,
        reports: Some((10, 1_000)),
        seed: 2,
        ..video()
    }
}

#[derive(Debug)]
enum Input {
    Rtp(RtpPacket),
    Report(SenderReport),
}

impl Sender {
    fn rtp_time(&self, capture: i64) -> u32 {
        let rate = i128::from(CLOCKS[self.track].clock_rate) * (1_000_000 + i128::from(self.ppm));
        let ticks = i128::from(capture) * rate / 1_000_000_000_000_000;
        self.first_timestamp
            .wrapping_add(u32::try_from(ticks.rem_euclid(1 << 32)).unwrap())
    }

    fn inputs(&self) -> Vec<(i64, TrackIndex, Input)> {
        let mut random = Random(self.seed);
        let mut inputs = Vec::new();
        let mut sequence = self.first_sequence;
        let (numerator, denominator, packets) = if self.track == VIDEO {
            (1_000, 30, 3)
        } else {
            (20, 1, 1)
        };
        let mut n = 0;
        loop {
            let capture = ms(self.starts) + ms(n * numerator) / denominator;
            n += 1;
            if capture >= ms(self.ends) {
                break;
            }
            if (ms(self.pause.start)..ms(self.pause.end)).contains(&capture) {
                continue;
            }
            for packet in 0..packets {
                let late = i64::try_from(random.below(1_000)).unwrap() * ms(self.jitter) / 1_000;
                let lost = random.below(1_000) < self.loss;
                let packet = RtpPacket {
                    payload_type: 96,
                    marker: packet == packets - 1,
                    sequence_number: sequence,
                    timestamp: self.rtp_time(capture),
                    ssrc: self.ssrc,
                    payload: Bytes::copy_from_slice(&capture.to_be_bytes()),
                };
                sequence = sequence.wrapping_add(1);
                if !lost {
                    inputs.push((
                        capture + ms(self.delay) + late,
                        self.track,
                        Input::Rtp(packet),
                    ));
                }
            }
        }
        if let Some((first, distance)) = self.reports {
            let mut time = ms(first);
            while time < ms(self.ends) {
                let report = self.report(time);
                inputs.push((time + ms(self.delay), self.track, Input::Report(report)));
                time += ms(distance);
            }
        }
        inputs
    }

    fn report(&self, time: i64) -> SenderReport {
        let wall = i128::from(time + (self.wrong)(time)) << 32;
        let ntp = i128::from(WALL_CLOCK) + wall / i128::from(SECOND);
        SenderReport {
            ssrc: self.ssrc,
            ntp: u64::try_from(ntp.rem_euclid(1 << 64)).unwrap(),
            rtp_timestamp: self.rtp_time(time),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A packet that came out.
#[derive(Clone, Copy, Debug)]
struct Out {
    track: TrackIndex,
    /// When it came out.
    now: i64,
    arrival: i64,
    capture: i64,
    pts: i64,
}

impl Out {
    /// Presentation against capture time; equal for all packets when in sync.
    fn error(&self) -> i64 {
        self.pts - self.capture
    }
}

#[derive(Default)]
struct Run {
    out: Vec<Out>,
    /// Everything but packets, with its time.
    events: Vec<(i64, Event)>,
    stats: Vec<TrackStats>,
}

impl Run {
    fn from(&self, track: TrackIndex) -> impl Iterator<Item = Out> {
        self.out
            .iter()
            .copied()
            .filter(move |out| out.track == track)
    }

    /// Largest difference of `pts - capture` between any two packets captured in a span.
    fn spread(&self, captured: std::ops::Range<i64>) -> i64 {
        let errors = self
            .out
            .iter()
            .filter(|out| (ms(captured.start)..ms(captured.end)).contains(&out.capture))
            .map(Out::error);
        errors.clone().max().unwrap() - errors.min().unwrap()
    }

    /// Largest `video - audio` difference between packets captured within 40 ms of each other.
    fn skew(&self, captured: std::ops::Range<i64>) -> i64 {
        let inside = |out: &Out| (ms(captured.start)..ms(captured.end)).contains(&out.capture);
        let sound: Vec<Out> = self.from(AUDIO).filter(inside).collect();
        let mut next = 0;
        let mut largest: i64 = 0;
        for picture in self.from(VIDEO).filter(inside) {
            while next + 1 < sound.len() && sound[next].capture < picture.capture {
                next += 1;
            }
            let Some(sound) = sound.get(next) else { break };
            if (sound.capture - picture.capture).abs() < ms(40) {
                let skew = picture.error() - sound.error();
                if skew.abs() > largest.abs() {
                    largest = skew;
                }
            }
        }
        largest
    }

    fn events_of(&self, wanted: fn(&Event) -> bool) -> usize {
        self.events
            .iter()
            .filter(|(_, event)| wanted(event))
            .count()
    }

    fn discontinuities(&self) -> usize {
        self.events_of(|event| matches!(event, Event::Discontinuity { .. }))
    }
}

fn run(senders: &[Sender]) -> Run {
    run_with(Settings::default(), senders, Vec::new())
}

fn run_with(settings: Settings, senders: &[Sender], extra: Vec<(i64, TrackIndex, Input)>) -> Run {
    let mut inputs: Vec<_> = senders
        .iter()
        .flat_map(Sender::inputs)
        .chain(extra)
        .collect();
    inputs.sort_by_key(|(at, ..)| *at);
    drive(Timeline::new(settings, &CLOCKS), inputs)
}

/// Feeds a timeline as a worker does: poll after each push and at each deadline.
fn drive(mut timeline: Timeline, inputs: Vec<(i64, TrackIndex, Input)>) -> Run {
    let mut result = Run::default();
    let mut now = at(0);
    for (time, track, input) in inputs {
        while let Some(deadline) = timeline.deadline().filter(|deadline| *deadline <= at(time)) {
            now = now.max(deadline);
            drain(&mut timeline, now, &mut result);
            assert!(
                timeline.deadline().is_none_or(|next| next > now),
                "a deadline that polling does not meet"
            );
        }
        now = at(time);
        match input {
            Input::Rtp(packet) => timeline.push_rtp(now, track, packet),
            Input::Report(report) => timeline.push_sender_report(now, track, report),
        }
        drain(&mut timeline, now, &mut result);
    }
    timeline.end();
    drain(&mut timeline, now, &mut result);
    result.stats = (0..timeline.tracks.len())
        .map(|track| timeline.stats(track))
        .collect();
    result
}

fn drain(timeline: &mut Timeline, now: Monotonic, result: &mut Run) {
    let time = unwrap::duration_nanos(now);
    while let Some(event) = timeline.poll(now) {
        match event {
            Event::Packet {
                track,
                packet,
                pts,
                arrival,
                ..
            } => {
                assert!(
                    pts >= -unwrap::duration_nanos(EARLIEST),
                    "before the stream's earliest time"
                );
                result.out.push(Out {
                    track,
                    now: time,
                    arrival: unwrap::duration_nanos(arrival),
                    capture: i64::from_be_bytes(packet.payload[..8].try_into().unwrap()),
                    pts,
                });
            }
            event => result.events.push((time, event)),
        }
    }
}

/// Two ticks of the slower clock: what rounding can do.
const EXACT: i64 = 42_000;

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
fn loss_jitter_and_reordering_leave_no_trace_in_times() {
    let video = Sender {
        loss: 10,
        jitter: 15,
        reports: Some((100, 1_000)),
        ..video()
    };
    let audio = Sender {
        loss: 10,
        jitter: 15,
        reports: Some((100, 1_000)),
        ..audio()
    };
    let run = run(&[video, audio]);
    assert!(run.spread(0..10_000) <= EXACT);
    for track in [VIDEO, AUDIO] {
        let captures: Vec<i64> = run.from(track).map(|out| out.capture).collect();
        assert!(captures.is_sorted());
        let stats = run.stats[track];
        assert_eq!(stats.packets, captures.len() as u64);
        assert_eq!(stats.duplicates + stats.late, 0);
        let reported: u32 = run
            .events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Lost {
                    track: lossy,
                    packets,
                } if *lossy == track => Some(*packets),
                _ => None,
            })
            .sum();
        assert_eq!(u64::from(reported), stats.lost);
        assert!(stats.lost > 0);
    }
    assert!(run.stats[VIDEO].reordered > 0);
    assert!(run.out.iter().all(|out| out.now - out.arrival <= ms(150)));
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

#[test]
fn counters_may_wrap() {
    let video = Sender {
        first_sequence: 65_500,
        first_timestamp: u32::MAX - 90_000,
        ..video()
    };
    let audio = Sender {
        first_sequence: 65_535,
        first_timestamp: u32::MAX - 100,
        ..audio()
    };
    let run = run(&[video, audio]);
    assert!(run.spread(0..10_000) <= EXACT);
    assert_eq!(run.out.len(), 900 + 500);
    assert!(run.events.is_empty());
}

#[test]
fn a_pause_is_idle_and_no_discontinuity() {
    let video = Sender {
        pause: 3_000..8_000,
        ..video()
    };
    let audio = Sender {
        pause: 3_000..8_000,
        ..audio()
    };
    let run = run(&[video, audio]);
    assert_eq!(run.events.len(), 2, "{:?}", run.events);
    for (time, event) in &run.events {
        assert!(matches!(event, Event::Idle { .. }));
        assert!((ms(3_960)..=ms(4_020)).contains(time), "{time}");
    }
    assert!(run.spread(0..10_000) <= EXACT);
}

#[test]
fn a_pause_of_many_hours_is_unwrapped_by_arrival() {
    let hours = 9 * 3_600_000;
    let video = Sender {
        starts: hours - 1_000,
        ends: hours + 1_000,
        reports: None,
        ..video()
    };
    let mut inputs = video.inputs();
    let early = Sender {
        ends: 1_000,
        first_sequence: 940,
        starts: 0,
        ..video
    };
    inputs.splice(0..0, early.inputs());
    // The late packets go on where the early ones stopped.
    for (index, (_, _, input)) in inputs.iter_mut().enumerate() {
        if let Input::Rtp(packet) = input {
            packet.sequence_number = u16::try_from(index).unwrap();
        }
    }
    let run = drive(Timeline::new(Settings::default(), &CLOCKS[..1]), inputs);
    assert!(
        run.spread(0..hours + 1_000) <= EXACT,
        "{}",
        run.spread(0..hours + 1_000)
    );
    assert_eq!(run.discontinuities(), 0);
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
            (run.stats[VIDEO].rate_ppm + 300.0).abs() < 20.0,
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

#[test]
fn a_jump_of_timestamps_is_a_discontinuity_and_goes_on_by_arrival() {
    for jump in [3_000 * SECOND, -3_000 * SECOND, 5 * SECOND, -5 * SECOND] {
        let mut extra = Sender {
            starts: 5_000,
            reports: None,
            ..video()
        };
        extra.first_sequence = 1_450;
        let offset = unwrap::ticks(jump, 90_000);
        extra.first_timestamp = u32::try_from((123_456 + offset).rem_euclid(1 << 32)).unwrap();
        let early = Sender {
            ends: 5_000,
            ..video()
        };
        let late_reports = Sender {
            reports: Some((7_000, 1_000)),
            ..extra
        };
        let run = run(&[early, late_reports, audio()]);
        assert_eq!(
            run.stats[VIDEO].discontinuities, 1,
            "{jump}: {:?}",
            run.events
        );
        assert_eq!(run.stats[AUDIO].discontinuities, 0);
        assert!(
            run.skew(0..10_000).abs() <= ms(1),
            "{jump}: {}",
            run.skew(0..10_000)
        );
        assert!(run.skew(8_000..10_000).abs() <= EXACT);
    }
}

#[test]
fn another_source_continues_the_track() {
    for first_report in [4_990, 6_000] {
        let before = Sender {
            ends: 5_000,
            jitter: 5,
            ..video()
        };
        let after = Sender {
            starts: 5_000,
            ssrc: 77,
            first_sequence: 9,
            first_timestamp: 9,
            jitter: 5,
            reports: Some((first_report, 1_000)),
            ..video()
        };
        let run = run(&[before, after, audio()]);
        assert_eq!(run.stats[VIDEO].discontinuities, 1);
        assert_eq!(run.stats[VIDEO].discarded, 0);
        let skew = run.skew(0..10_000).abs();
        let limit = if first_report < 5_000 { EXACT } else { ms(6) };
        assert!(skew <= limit, "{first_report}: {skew}");
        assert!(run.skew(7_000..10_000).abs() <= EXACT);
        assert_eq!(run.out.len(), 900 + 500);
    }
}

#[test]
fn a_network_stall_is_no_discontinuity() {
    let mut inputs: Vec<_> = [video(), audio()].iter().flat_map(Sender::inputs).collect();
    for (time, ..) in &mut inputs {
        if (ms(3_000)..ms(8_000)).contains(time) {
            *time = ms(8_000);
        }
    }
    inputs.sort_by_key(|(time, ..)| *time);
    let run = drive(Timeline::new(Settings::default(), &CLOCKS), inputs);
    assert_eq!(run.discontinuities(), 0);
    assert!(run.spread(0..10_000) <= EXACT);
    assert_eq!(run.out.len(), 900 + 500);
}

#[test]
fn reordered_pictures_keep_their_times() {
    // Decode order I P B: timestamps go 0, 3, 1, 2, 6, 4, 5 ...
    let mut inputs = Vec::new();
    for n in 0..300u32 {
        let shown = match n % 3 {
            0 => n,
            1 => n + 2,
            _ => n - 1,
        };
        let shown = if n < 3 { n } else { shown };
        let packet = RtpPacket {
            payload_type: 96,
            marker: true,
            sequence_number: u16::try_from(n).unwrap(),
            timestamp: u32::MAX - 9_000,
            ssrc: 1,
            payload: Bytes::copy_from_slice(&(i64::from(shown) * ms(40)).to_be_bytes()),
        };
        let packet = RtpPacket {
            timestamp: packet.timestamp.wrapping_add(shown * 3_600),
            ..packet
        };
        inputs.push((i64::from(n) * ms(40), VIDEO, Input::Rtp(packet)));
    }
    let run = drive(Timeline::new(Settings::default(), &CLOCKS[..1]), inputs);
    assert!(run.out.iter().all(|out| out.pts == out.capture));
    assert_eq!(run.out.len(), 300);
    assert_eq!(run.discontinuities(), 0);
}

#[test]
fn unknown_tracks_are_ignored() {
    let mut timeline = Timeline::new(Settings::default(), &CLOCKS);
    for (time, _, input) in video().inputs() {
        match input {
            Input::Rtp(packet) => timeline.push_rtp(at(time), 2, packet),
            Input::Report(report) => timeline.push_sender_report(at(time), 2, report),
        }
        assert_eq!(timeline.poll(at(time)), None);
    }
    assert_eq!(timeline.deadline(), None);
    assert_eq!(timeline.stats(2), TrackStats::default());
}

#[test]
fn silence_is_noticed_though_only_probing_packets_come() {
    let mut inputs = Sender {
        ends: 1_000,
        reports: None,
        ..video()
    }
    .inputs();
    for n in 0..40 {
        inputs.push((
            ms(1_020 + n * 50),
            VIDEO,
            Input::Rtp(RtpPacket {
                payload_type: 96,
                marker: false,
                sequence_number: 1_092 + u16::try_from(n * 2).unwrap(),
                timestamp: 123_456 + 90_000,
                ssrc: 1,
                payload: Bytes::new(),
            }),
        ));
    }
    let run = drive(Timeline::new(Settings::default(), &CLOCKS[..1]), inputs);
    let idle: Vec<_> = run
        .events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Idle { .. }))
        .collect();
    assert_eq!(idle.len(), 1);
    assert!((ms(1_980)..=ms(2_000)).contains(&idle[0].0), "{idle:?}");
}

/// `cargo test --lib timeline -- --ignored --nocapture measure`
#[test]
#[ignore = "a measurement to run by hand"]
fn measure_the_cost_of_a_packet() {
    let senders = [video(), audio()].map(|sender| Sender {
        ends: 600_000,
        jitter: 15,
        loss: 5,
        ..sender
    });
    let mut inputs: Vec<_> = senders.iter().flat_map(Sender::inputs).collect();
    inputs.sort_by_key(|(at, ..)| *at);
    let packets = inputs.len();
    let mut timeline = Timeline::new(Settings::default(), &CLOCKS);
    let mut events = 0;
    let start = std::time::Instant::now();
    for (time, track, input) in inputs {
        let now = at(time);
        match input {
            Input::Rtp(packet) => timeline.push_rtp(now, track, packet),
            Input::Report(report) => timeline.push_sender_report(now, track, report),
        }
        while timeline.poll(now).is_some() {
            events += 1;
        }
        std::hint::black_box(timeline.deadline());
    }
    let each = start.elapsed() / u32::try_from(packets).unwrap();
    println!("{packets} packets, {events} events: {each:?} per packet");
}

prop_compose! {
    fn sender(track: TrackIndex)(
        ppm in -300i64..300,
        delay in 0i64..350,
        jitter in 0i64..40,
        loss in 0u64..30,
        first_sequence in any::<u16>(),
        first_timestamp in any::<u32>(),
        starts in 0i64..3_000,
        first_report in 0i64..4_000,
        distance in 200i64..2_000,
        seed in any::<u64>(),
    ) -> Sender {
        Sender {
            track,
            ssrc: u32::try_from(track).unwrap() + 5,
            ppm,
            delay,
            jitter,
            loss,
            first_sequence,
            first_timestamp,
            starts,
            reports: Some((first_report.max(starts - 50), distance)),
            ends: 40_000,
            seed,
            ..video()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the clocks, delays, losses and reports: in sync to 1 ms once both tracks have reports and what was
    /// wrong before is made up, always in order, and times follow RTP timestamps.
    #[test]
    fn any_two_tracks_get_into_sync(video in sender(VIDEO), audio in sender(AUDIO)) {
        let run = run(&[video.clone(), audio.clone()]);
        let both = [&video, &audio].map(|sender| sender.reports.unwrap().0 + sender.delay);
        let settled = both.into_iter().max().unwrap() + 12_000;
        let skew = run.skew(settled..40_000);
        prop_assert!(skew.abs() < ms(1), "skew {} ns from {} ms", skew, settled);

        for (track, sender) in [(VIDEO, &video), (AUDIO, &audio)] {
            let out: Vec<Out> = run.from(track).collect();
            prop_assert!(out.windows(2).all(|pair| pair[0].capture <= pair[1].capture));
            // Only sound may jump.
            let jumps = run.stats[track].discontinuities + run.stats[track].discarded;
            prop_assert!(track == AUDIO || run.stats[track].discontinuities == 0);
            if jumps == 0 {
                for pair in out.windows(2) {
                    let sent = pair[1].capture - pair[0].capture;
                    let shown = pair[1].pts - pair[0].pts;
                    // 5 % at most, and a tick of rounding on both ends.
                    prop_assert!((shown - sent).abs() <= sent / 18 + 45_000, "{} for {}", shown, sent);
                }
            }
            let stats = run.stats[track];
            prop_assert_eq!(out.len() as u64 + stats.discarded, stats.packets);
            let held = out.iter().map(|out| out.now - out.arrival).max().unwrap_or(0);
            prop_assert!(held <= ms(400), "held {}", held);
            prop_assert!(stats.rate_ppm.abs() <= 1_000.0);
            prop_assert!(sender.loss > 0 || stats.lost == 0);
        }
    }

    /// With reports from the start and clean clocks nothing ever moves: times are RTP times to the tick.
    #[test]
    fn clean_clocks_keep_their_timestamps_exactly(video in sender(VIDEO), audio in sender(AUDIO)) {
        let clean = |sender: Sender| Sender { ppm: 0, starts: 0, reports: Some((0, sender.reports.unwrap().1)), ..sender };
        let run = run(&[clean(video), clean(audio)]);
        prop_assert!(run.spread(0..40_000) <= EXACT, "{}", run.spread(0..40_000));
        prop_assert!(run.out.iter().map(|out| out.pts).min() == Some(0));
        prop_assert_eq!(run.discontinuities(), 0);
    }

    /// Any garbage: no panic, and every deadline is met by polling.
    #[test]
    fn garbage_is_survived(
        inputs in prop::collection::vec(
            (0i64..400, 0usize..3, any::<(bool, u16, u32, u64)>(), 0u32..3, prop::bool::weighted(0.8)), 1..400),
    ) {
        let mut time = 0;
        let inputs = inputs.into_iter().map(|(wait, track, (full, sequence_number, timestamp, ntp), ssrc, rtp)| {
            time += ms(wait);
            let payload = if full { Bytes::from_static(&[0; 8]) } else { Bytes::new() };
            let input = if rtp {
                Input::Rtp(RtpPacket { payload_type: 0, marker: false, sequence_number, timestamp, ssrc, payload })
            } else {
                Input::Report(SenderReport { ssrc, ntp, rtp_timestamp: timestamp })
            };
            (time, track, input)
        }).collect();
        drive(Timeline::new(Settings::default(), &CLOCKS), inputs);
    }
}
