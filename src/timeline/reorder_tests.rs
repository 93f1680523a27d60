//! Tests of the reorder buffer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const WAIT: Duration = Duration::from_millis(150);

fn packet(sequence_number: u16) -> RtpPacket {
    RtpPacket {
        payload_type: 96,
        marker: false,
        sequence_number,
        timestamp: 1_000,
        ssrc: 1,
        payload: Bytes::from_static(b"x"),
    }
}

fn ms(value: u64) -> Monotonic {
    Duration::from_millis(value)
}

/// The buffer with its counters.
struct Bench {
    reorder: Reorder,
    stats: TrackStats,
}

impl Bench {
    fn new() -> Self {
        Self {
            reorder: Reorder::new(90_000, WAIT, 64),
            stats: TrackStats::default(),
        }
    }

    fn push(&mut self, now: Monotonic, packet: RtpPacket) {
        self.reorder.push(now, packet, &mut self.stats);
    }

    /// Everything due: sequence numbers, and `-n` for n lost packets.
    fn drain(&mut self, now: Monotonic) -> Vec<i64> {
        std::iter::from_fn(|| self.reorder.pop(now, false, &mut self.stats))
            .map(|next| match next {
                Next::Media(held) => i64::from(held.packet.sequence_number),
                Next::Lost(lost) => -i64::from(lost),
            })
            .collect()
    }
}

#[test]
fn waits_for_a_gap_and_then_gives_it_up() {
    let mut bench = Bench::new();
    bench.push(ms(0), packet(65_535));
    bench.push(ms(5), packet(2));
    assert_eq!(bench.drain(ms(5)), [65_535]);
    assert_eq!(bench.reorder.deadline(), Some(ms(155)));
    bench.push(ms(50), packet(0));
    assert_eq!(bench.drain(ms(154)), [0]);
    assert_eq!(bench.drain(ms(155)), [-1, 2]);
    bench.push(ms(160), packet(1));
    bench.push(ms(161), packet(1));
    assert!(bench.drain(ms(400)).is_empty());
    let TrackStats {
        packets,
        lost,
        late,
        duplicates,
        recovered,
        reordered,
        ..
    } = bench.stats;
    assert_eq!(
        (packets, lost, late, duplicates, recovered, reordered),
        (3, 1, 1, 1, 1, 0)
    );
}

#[test]
fn probing_packets_keep_their_place_and_are_not_handed_on() {
    let mut bench = Bench::new();
    for number in 10..14 {
        let mut packet = packet(number);
        if number == 11 || number == 12 {
            packet.payload = Bytes::new();
        }
        bench.push(ms(1), packet);
    }
    assert_eq!(bench.drain(ms(1)), [10, 13]);
    assert_eq!(bench.stats.lost, 0);
}

#[test]
fn a_restarted_sequence_is_taken_up_at_the_second_packet() {
    let mut bench = Bench::new();
    bench.push(ms(0), packet(100));
    bench.push(ms(1), packet(102));
    bench.push(ms(2), packet(40_000));
    assert_eq!(bench.drain(ms(2)), [100], "one packet may be a stray");
    bench.push(ms(3), packet(40_001));
    assert_eq!(bench.drain(ms(23)), [-1, 102, 0, 40_000, 40_001]);
    bench.push(ms(24), packet(103));
    bench.push(ms(25), packet(40_002));
    assert_eq!(bench.drain(ms(25)), [40_002]);
    assert_eq!(bench.stats.strays, 1);
}

#[test]
fn a_long_outage_is_counted_and_not_waited_for() {
    let mut bench = Bench::new();
    bench.push(ms(0), packet(100));
    bench.push(ms(3_000), packet(2_100));
    bench.push(ms(3_001), packet(2_101));
    assert_eq!(bench.drain(ms(3_021)), [100, -1_999, 2_100, 2_101]);
    assert_eq!(bench.stats.lost, 1_999);
}

#[test]
fn another_source_takes_over_and_a_stray_of_it_does_not() {
    let mut bench = Bench::new();
    let other = |number| RtpPacket {
        ssrc: 2,
        ..packet(number)
    };
    bench.push(ms(0), packet(7));
    bench.push(ms(1), other(50_000));
    bench.push(ms(2), packet(8));
    bench.push(ms(3), other(50_001));
    assert_eq!(bench.drain(ms(3)), [7, 8]);
    bench.push(ms(4), other(50_002));
    assert_eq!(bench.drain(ms(24)), [0, 50_001, 50_002]);
}

#[test]
fn the_first_packets_may_come_in_any_order() {
    let mut bench = Bench::new();
    for number in [2, 65_535, 1, 0] {
        bench.push(ms(1), packet(number));
    }
    assert_eq!(bench.drain(ms(1)), [65_535, 0, 1, 2]);
    let other = |number| RtpPacket {
        ssrc: 2,
        ..packet(number)
    };
    for number in [9, 7, 10, 8, 6] {
        bench.push(ms(2), other(number));
        assert!(bench.drain(ms(2)).is_empty());
    }
    assert_eq!(bench.reorder.deadline(), Some(ms(22)));
    assert_eq!(bench.drain(ms(22)), [0, 6, 7, 8, 9, 10]);
    bench.push(ms(23), other(5));
    assert!(
        bench.drain(ms(23)).is_empty(),
        "too late once others are out"
    );
    assert_eq!(bench.stats.strays, 0);
}

#[test]
fn a_sender_that_starts_again_a_little_below_is_no_late_packet() {
    let mut bench = Bench::new();
    bench.push(ms(0), packet(500));
    for number in [400, 401, 402] {
        let mut packet = packet(number);
        packet.timestamp = 90_000 * 60;
        bench.push(ms(10), packet);
    }
    assert_eq!(bench.drain(ms(30)), [500, 0, 400, 401, 402]);
}

#[test]
fn memory_is_bounded_even_if_nobody_polls() {
    let mut bench = Bench::new();
    for n in 0..200_000u32 {
        let number = u16::try_from((n * 3) % 65_536).unwrap();
        bench.push(ms(u64::from(n)), packet(number));
    }
    assert!(
        bench.reorder.slots.len() <= 64 * 2 + 1_001,
        "{}",
        bench.reorder.slots.len()
    );
}

#[test]
fn a_full_buffer_waits_no_longer() {
    let mut bench = Bench::new();
    bench.push(ms(0), packet(0));
    for number in 2..70 {
        bench.push(ms(1), packet(number));
    }
    let out = bench.drain(ms(1));
    assert_eq!(out[..3], [0, -1, 2]);
    assert_eq!(out.len(), 70);
}

/// What happens to a packet on its way.
#[derive(Clone, Debug)]
enum Fate {
    Lost,
    Arrives(Vec<u64>),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        1 => Just(Fate::Lost),
        8 => prop::collection::vec(0u64..12, 1..2).prop_map(Fate::Arrives),
        4 => prop::collection::vec(0u64..400, 1..4).prop_map(Fate::Arrives),
    ]
}

proptest! {
    /// Whatever the network does: in order, at most once, and exactly those packets that came within the wait.
    #[test]
    fn hands_on_exactly_what_came_within_the_wait(
        first in any::<u16>(),
        fates in prop::collection::vec(fate(), 1..300),
    ) {
        let mut arrivals: Vec<(u64, usize)> = Vec::new();
        for (index, fate) in fates.iter().enumerate() {
            if let Fate::Arrives(delays) = fate {
                arrivals.extend(delays.iter().map(|delay| (index as u64 * 3 + delay, index)));
            }
        }
        arrivals.sort_unstable();
        prop_assume!(!arrivals.is_empty());
        let earliest = arrivals[0].1;

        // When each packet is first there, and when it is first known to be missing.
        let mut there: BTreeMap<usize, u64> = BTreeMap::new();
        for (at, index) in &arrivals {
            there.entry(*index).or_insert(*at);
        }
        let expected: BTreeSet<usize> = there
            .iter()
            .filter(|(index, at)| {
                let noticed = there.range(*index + 1..).map(|(_, at)| *at).min();
                **index >= earliest && noticed.is_none_or(|noticed| **at < noticed + 150)
            })
            .map(|(index, _)| *index)
            .collect();

        let mut bench = Bench::new();
        bench.reorder.capacity = 4_096;
        let mut out = Vec::new();
        let number = |index: usize| first.wrapping_add(u16::try_from(index).unwrap());
        for (at, index) in &arrivals {
            while let Some(deadline) = bench.reorder.deadline().filter(|deadline| *deadline <= ms(*at)) {
                out.extend(bench.drain(deadline));
            }
            bench.push(ms(*at), packet(number(*index)));
            out.extend(bench.drain(ms(*at)));
        }
        out.extend(bench.drain(ms(1_000_000)));

        let media: Vec<i64> = out.iter().copied().filter(|number| *number >= 0).collect();
        let wanted: Vec<i64> = expected.iter().map(|index| i64::from(number(*index))).collect();
        prop_assert_eq!(media, wanted);
        // Every number between the first and the last is accounted for: handed on or lost.
        let lost: i64 = out.iter().filter(|number| **number < 0).map(|number| -number).sum();
        let last = *expected.last().unwrap();
        prop_assert_eq!(lost.unsigned_abs(), (last - earliest + 1 - expected.len()) as u64);
        prop_assert_eq!(bench.stats.lost, lost.unsigned_abs());
        prop_assert_eq!(
            bench.stats.packets + bench.stats.duplicates + bench.stats.late,
            arrivals.len() as u64
        );
        prop_assert!(bench.reorder.slots.is_empty());
    }
}
