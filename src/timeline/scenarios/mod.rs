//! Simulated publishers against the whole timeline. Each packet carries its true capture time, so what comes out can be
//! compared with the truth.

mod disturbances;
mod drift;
mod properties;
mod reports;
mod start;
mod table;

use bytes::Bytes;

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
    /// Once a second: the offset that the timeline measures, and the true one, of sound against picture.
    measured: Vec<(i64, AvOffset, i64)>,
}

impl Run {
    fn measure(&mut self, timeline: &Timeline, time: i64) {
        if self
            .measured
            .last()
            .is_some_and(|(last, ..)| time - last < SECOND)
        {
            return;
        }
        let newest = |track| {
            let mut newest = self.out.iter().rev();
            newest.find(|out| out.track == track).map(Out::error)
        };
        if let (Some(video), Some(audio), Some(measured)) =
            (newest(VIDEO), newest(AUDIO), timeline.av_offset(at(time)))
        {
            self.measured.push((time, measured, audio - video));
        }
    }

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
        result.measure(&timeline, time);
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
