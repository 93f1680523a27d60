//! What holds whatever the input, and what a packet costs.

use proptest::prelude::*;

use super::*;

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
        // The zero is the earliest first packet known at the start; one captured earlier may take longer.
        let earliest = run.out.iter().map(|out| out.pts).min().unwrap();
        prop_assert!((-unwrap::duration_nanos(EARLIEST)..=0).contains(&earliest), "{}", earliest);
        prop_assert!(run.stats.iter().all(|stats| stats.discarded == 0));
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
