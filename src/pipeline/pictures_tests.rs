use bytes::Bytes;

use super::*;

fn packet(number: u16, timestamp: u32, marker: bool, payload: &[u8]) -> RtpPacket {
    RtpPacket {
        payload_type: 96,
        marker,
        sequence_number: number,
        timestamp,
        ssrc: 1,
        payload: Bytes::copy_from_slice(payload),
    }
}

/// SPS and PPS in one packet, the IDR picture in two.
const KEY: [&[u8]; 3] = [
    &[0x78, 0, 2, 0x67, 1, 0, 2, 0x68, 1],
    &[0x7c, 0x85, 1],
    &[0x7c, 0x45, 2],
];
const DELTA: [&[u8]; 2] = [&[0x5c, 0x81, 3], &[0x5c, 0x41, 4]];

/// A key picture and three others, as (time stamp, marker, payload).
fn group(first: u32) -> Vec<RtpPacket> {
    let mut packets = Vec::new();
    for picture in 0..4 {
        let payloads: &[&[u8]] = if picture == 0 { &KEY } else { &DELTA };
        for (index, payload) in payloads.iter().enumerate() {
            let number = u16::try_from(first as usize * 100 + packets.len()).unwrap();
            let marker = index + 1 == payloads.len();
            packets.push(packet(number, first * 4 + picture, marker, payload));
        }
    }
    packets
}

/// Time stamps of what is let through, and how often a picture was reported broken.
fn run(packets: &[(RtpPacket, bool)]) -> (Vec<u32>, usize) {
    let mut pictures = Pictures::new(Codec::H264);
    let (mut stamps, mut broken) = (Vec::new(), 0);
    for (packet, after_loss) in packets {
        let taken = pictures.push(packet.clone(), 0, *after_loss);
        broken += usize::from(taken.broken);
        stamps.extend(taken.packets.iter().map(|(packet, _)| packet.timestamp));
        stamps.dedup();
    }
    (stamps, broken)
}

/// Two groups of pictures without some of their packets.
fn without(lost: &[usize]) -> (Vec<u32>, usize) {
    let mut kept = Vec::new();
    let mut gap = false;
    for (index, packet) in group(0).into_iter().chain(group(1)).enumerate() {
        if lost.contains(&index) {
            gap = true;
        } else {
            kept.push((packet, std::mem::take(&mut gap)));
        }
    }
    run(&kept)
}

#[test]
fn everything_passes_when_nothing_is_lost() {
    assert_eq!(without(&[]), ((0..8).collect(), 0));
}

#[test]
fn after_a_loss_nothing_passes_until_the_next_whole_keyframe() {
    // The first and the last packet of the second picture, and a whole picture.
    assert_eq!(without(&[3]), (vec![0, 4, 5, 6, 7], 1));
    assert_eq!(without(&[4]), (vec![0, 4, 5, 6, 7], 1));
    assert_eq!(without(&[5, 6]), (vec![0, 1, 4, 5, 6, 7], 1));
    // The end of the last picture before the keyframe: the keyframe is known to be whole by its parameter sets.
    assert_eq!(without(&[8]), (vec![0, 1, 2, 4, 5, 6, 7], 1));
}

#[test]
fn half_a_keyframe_is_no_keyframe() {
    for lost in [9, 10, 11] {
        assert_eq!(without(&[lost]), (vec![0, 1, 2, 3], 1), "{lost}");
    }
    for lost in [0, 1, 2] {
        assert_eq!(without(&[lost]), (vec![4, 5, 6, 7], 0), "{lost}");
    }
}

#[test]
fn a_malformed_packet_and_fragments_out_of_order_are_losses() {
    for wrong in [&[0x5c, 0x01, 9][..], &[0x5c], &[0x41, 1], &[]] {
        let mut packets: Vec<_> = group(0)
            .into_iter()
            .chain(group(1))
            .map(|packet| (packet, false))
            .collect();
        packets[4].0.payload = Bytes::copy_from_slice(wrong);
        assert_eq!(run(&packets), (vec![0, 4, 5, 6, 7], 1), "{wrong:x?}");
    }
}

#[test]
fn pictures_without_a_marker_end_at_the_next_time_stamp() {
    let mut packets: Vec<_> = group(0)
        .into_iter()
        .map(|mut packet| {
            packet.marker = false;
            (packet, false)
        })
        .collect();
    assert_eq!(run(&packets), (vec![0, 1, 2], 0), "the last one may go on");
    packets[5].1 = true;
    assert_eq!(run(&packets), (vec![0], 1));
}

#[test]
fn memory_is_bounded() {
    let mut pictures = Pictures::new(Codec::H264);
    for number in 0..12_300 {
        let packet = packet(number, 7, false, &[0x67, 1]);
        pictures.push(packet, 0, false);
        assert!(pictures.packets.len() <= MAX_PACKETS);
    }
}

#[test]
fn keyframes_of_the_other_codecs() {
    for (codec, payload, starts) in [
        (Codec::H265, &[32 << 1, 1, 9][..], true),
        (Codec::H265, &[48 << 1, 1, 0, 3, 32 << 1, 1, 9], true),
        (Codec::H265, &[33 << 1, 1, 9], false),
        (Codec::H265, &[49 << 1, 1, 0x93, 7], false),
        (Codec::H265, &[1 << 1, 1, 9], false),
        // The first packet of a coded video sequence, by its flag, by its OBU, and a continuation.
        (Codec::Av1, &[0x18, 0x30, 1], true),
        (Codec::Av1, &[0x10, 0x08, 1], true),
        (Codec::Av1, &[0x20, 2, 0x08, 9, 0x30, 1], true),
        (Codec::Av1, &[0x30, 1, 0x10, 2, 0x08, 9, 0x30], true),
        (Codec::Av1, &[0x90, 0x08, 1], false),
        (Codec::Av1, &[0x10, 0x30, 1], false),
        (Codec::Av1, &[], false),
        (Codec::Vp9, &[0x8a, 0x81, 2, 0], true),
        (Codec::Vp9, &[0xca, 0x81, 2, 0], false),
        (Codec::Vp9, &[0x82, 0x81, 2, 0], false),
        // Without and with extensions (a long picture id, a layer index), a delta picture, and a later partition.
        (Codec::Vp8, &[0x10, 0x50], true),
        (Codec::Vp8, &[0x90, 0xe0, 0x81, 2, 3, 4, 0x50], true),
        (Codec::Vp8, &[0x10, 0x51], false),
        (Codec::Vp8, &[0x90, 0x80, 2, 0x51], false),
        (Codec::Vp8, &[0x11, 0x50], false),
        (Codec::Vp8, &[0x00, 0x50], false),
        (Codec::Vp8, &[0x90], false),
        // With layers: the lowest and another one.
        (Codec::Vp9, &[0xa8, 0x01, 0x00, 0, 0x82], true),
        (Codec::Vp9, &[0xa8, 0x01, 0x02, 0, 0x82], false),
    ] {
        assert_eq!(
            starts_keyframe(codec, payload),
            starts,
            "{codec} {payload:x?}"
        );
    }
    let key = |payload: &[u8]| vec![(packet(1, 1, true, payload), 0)];
    assert!(is_keyframe(Codec::H265, &key(&[49 << 1, 1, 0x93, 7])));
    assert!(!is_keyframe(Codec::H265, &key(&[1 << 1, 1, 9])));
}
