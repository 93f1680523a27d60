//! What networks and senders do in mid-stream.

use super::*;

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
