//! RTP payload formats: from one access unit to the payloads of its packets.
//!
//! RFC 6184 (H.264, packetization mode 1), RFC 7798 (H.265), the AV1 payload format of the Alliance for Open Media, RFC
//! 9628 (VP9, non-flexible mode, one layer) and RFC 7587 (Opus). Knows no sockets, no sequence numbers, no timestamps.
//! The last payload of a unit is the one that carries the marker bit.

use bytes::Bytes;

use crate::codec::VideoCodec;

/// Largest payload, so that header, extensions and SRTP tag stay under a path MTU of 1280 bytes.
pub const MAX_PAYLOAD: usize = 1180;

/// One access unit (picture) or audio packet, in the pieces of its payload format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// NAL units without start codes, OBUs without size fields, or the single frame.
    pub pieces: Vec<Bytes>,
    /// Can be decoded without any unit before it.
    pub keyframe: bool,
}

/// Makes payloads of one track; keeps what the format counts across pictures.
#[derive(Clone, Debug)]
pub enum Packetizer {
    /// H.264.
    H264,
    /// H.265.
    H265,
    /// AV1.
    Av1,
    /// VP9 with the picture ID to use next and the picture size for the scalability structure.
    Vp9 {
        /// 15-bit picture ID.
        picture_id: u16,
        /// Width and height in pixels.
        size: (u16, u16),
    },
    /// Opus: a packet is a payload.
    Opus,
}

impl Packetizer {
    /// For a video codec; `size` is the picture's width and height.
    pub fn video(codec: VideoCodec, size: (u16, u16)) -> Self {
        match codec {
            VideoCodec::H264 => Self::H264,
            VideoCodec::H265 => Self::H265,
            VideoCodec::Av1 => Self::Av1,
            VideoCodec::Vp9 => Self::Vp9 {
                picture_id: 0x1234,
                size,
            },
        }
    }

    /// The payloads of `unit`, none longer than [`MAX_PAYLOAD`] (an Opus packet is never split).
    pub fn packetize(&mut self, unit: &AccessUnit) -> Vec<Vec<u8>> {
        match self {
            Self::H264 => nal_payloads(&H264, &unit.pieces),
            Self::H265 => nal_payloads(&H265, &unit.pieces),
            Self::Av1 => av1_payloads(unit),
            Self::Vp9 { picture_id, size } => {
                let id = *picture_id;
                *picture_id = (id + 1) & 0x7fff;
                vp9_payloads(unit, id, *size)
            }
            Self::Opus => unit.pieces.iter().map(|piece| piece.to_vec()).collect(),
        }
    }
}

/// The two NAL formats differ in header length and in how aggregation and fragmentation are marked.
trait NalFormat {
    const HEADER: usize;
    /// Header of an aggregation packet of these units.
    fn aggregation(&self, units: &[Bytes]) -> Vec<u8>;
    /// Header of a fragment of `unit`, with start and end bits.
    fn fragment(&self, unit: &[u8], start: bool, end: bool) -> Vec<u8>;
}

/// NAL unit types of RFC 6184 section 5.2.
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

struct H264;

impl NalFormat for H264 {
    const HEADER: usize = 1;

    fn aggregation(&self, units: &[Bytes]) -> Vec<u8> {
        let importance = units.iter().map(|unit| unit[0] & 0x60).max().unwrap_or(0);
        vec![importance | STAP_A]
    }

    fn fragment(&self, unit: &[u8], start: bool, end: bool) -> Vec<u8> {
        vec![
            (unit[0] & 0xe0) | FU_A,
            (u8::from(start) << 7) | (u8::from(end) << 6) | (unit[0] & 0x1f),
        ]
    }
}

struct H265;

impl NalFormat for H265 {
    const HEADER: usize = 2;

    fn aggregation(&self, units: &[Bytes]) -> Vec<u8> {
        let temporal_id = units.iter().map(|unit| unit[1] & 0x07).min().unwrap_or(1);
        vec![48 << 1, temporal_id]
    }

    fn fragment(&self, unit: &[u8], start: bool, end: bool) -> Vec<u8> {
        vec![
            (unit[0] & 0x81) | (49 << 1),
            unit[1],
            (u8::from(start) << 7) | (u8::from(end) << 6) | ((unit[0] >> 1) & 0x3f),
        ]
    }
}

fn nal_payloads<F: NalFormat>(format: &F, units: &[Bytes]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    let mut waiting: Vec<Bytes> = Vec::new();
    let mut waiting_len = F::HEADER;
    for unit in units.iter().filter(|unit| unit.len() > F::HEADER) {
        if waiting_len + 2 + unit.len() > MAX_PAYLOAD {
            aggregate(format, &mut waiting, &mut payloads);
            waiting_len = F::HEADER;
        }
        if unit.len() > MAX_PAYLOAD {
            fragment(format, unit, &mut payloads);
        } else {
            waiting_len += 2 + unit.len();
            waiting.push(unit.clone());
        }
    }
    aggregate(format, &mut waiting, &mut payloads);
    payloads
}

fn aggregate<F: NalFormat>(format: &F, waiting: &mut Vec<Bytes>, payloads: &mut Vec<Vec<u8>>) {
    match waiting.as_slice() {
        [] => return,
        [single] => payloads.push(single.to_vec()),
        several => {
            let mut payload = format.aggregation(several);
            for unit in several {
                payload.extend_from_slice(&(unit.len() as u16).to_be_bytes());
                payload.extend_from_slice(unit);
            }
            payloads.push(payload);
        }
    }
    waiting.clear();
}

fn fragment<F: NalFormat>(format: &F, unit: &[u8], payloads: &mut Vec<Vec<u8>>) {
    let room = MAX_PAYLOAD - F::HEADER - 1;
    let body = &unit[F::HEADER..];
    let count = body.len().div_ceil(room);
    for (index, chunk) in body.chunks(room).enumerate() {
        let mut payload = format.fragment(unit, index == 0, index + 1 == count);
        payload.extend_from_slice(chunk);
        payloads.push(payload);
    }
}

/// One packet of AV1 being filled: OBU elements, the first possibly a continuation, the last possibly continued.
#[derive(Default)]
struct Av1Packet {
    elements: Vec<Bytes>,
    continues_previous: bool,
    continued: bool,
    len: usize,
}

/// Bytes reserved for an element's length field.
const AV1_LENGTH: usize = 2;

fn av1_payloads(unit: &AccessUnit) -> Vec<Vec<u8>> {
    let mut packets = vec![Av1Packet {
        len: 1,
        ..Av1Packet::default()
    }];
    for obu in &unit.pieces {
        let mut rest = obu.clone();
        while !rest.is_empty() {
            let last = packets.len() - 1;
            let packet = &mut packets[last];
            let room = MAX_PAYLOAD.saturating_sub(packet.len + AV1_LENGTH);
            // A stub of a few bytes is not worth its length field.
            if room < 16 && rest.len() > room {
                packets.push(Av1Packet {
                    len: 1,
                    ..Av1Packet::default()
                });
                continue;
            }
            let part = rest.split_to(rest.len().min(room));
            packet.len += AV1_LENGTH + part.len();
            packet.elements.push(part);
            if !rest.is_empty() {
                packet.continued = true;
                packets.push(Av1Packet {
                    len: 1,
                    continues_previous: true,
                    ..Av1Packet::default()
                });
            }
        }
    }
    packets
        .iter()
        .enumerate()
        .filter(|(_, packet)| !packet.elements.is_empty())
        .map(|(index, packet)| {
            let count = packet.elements.len();
            let mut header =
                (u8::from(packet.continues_previous) << 7) | (u8::from(packet.continued) << 6);
            header |= if count <= 3 { (count as u8) << 4 } else { 0 };
            header |= u8::from(index == 0 && unit.keyframe) << 3;
            let mut payload = vec![header];
            for (position, element) in packet.elements.iter().enumerate() {
                if count > 3 || position + 1 < count {
                    put_leb128(&mut payload, element.len());
                }
                payload.extend_from_slice(element);
            }
            payload
        })
        .collect()
}

fn put_leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

fn vp9_payloads(unit: &AccessUnit, picture_id: u16, (width, height): (u16, u16)) -> Vec<Vec<u8>> {
    const INTER_PREDICTED: u8 = 0x40;
    const START: u8 = 0x08;
    const END: u8 = 0x04;
    const SCALABILITY: u8 = 0x02;
    // Descriptor of 3 bytes plus a scalability structure of 5 on the first packet of a keyframe.
    let room = MAX_PAYLOAD - 8;
    let frame: Vec<u8> = unit
        .pieces
        .iter()
        .flat_map(|piece| piece.iter().copied())
        .collect();
    let count = frame.len().div_ceil(room);
    frame
        .chunks(room)
        .enumerate()
        .map(|(index, chunk)| {
            let mut flags = 0x80;
            if !unit.keyframe {
                flags |= INTER_PREDICTED;
            }
            if index == 0 {
                flags |= START;
            }
            if index + 1 == count {
                flags |= END;
            }
            let structure = unit.keyframe && index == 0;
            if structure {
                flags |= SCALABILITY;
            }
            let mut payload = vec![flags, 0x80 | (picture_id >> 8) as u8, picture_id as u8];
            if structure {
                // One spatial layer, its size given, no picture group.
                payload.push(0x10);
                payload.extend_from_slice(&width.to_be_bytes());
                payload.extend_from_slice(&height.to_be_bytes());
            }
            payload.extend_from_slice(chunk);
            payload
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(header: &[u8], len: usize) -> Bytes {
        let mut bytes = header.to_vec();
        bytes.extend((bytes.len()..len).map(|index| (index % 251) as u8));
        bytes.into()
    }

    fn unit(pieces: Vec<Bytes>) -> AccessUnit {
        AccessUnit {
            pieces,
            keyframe: true,
        }
    }

    /// A second reading of RFC 6184, only what our packetizer may send.
    fn depacketize_h264(payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut nals: Vec<Vec<u8>> = Vec::new();
        for payload in payloads {
            match payload[0] & 0x1f {
                24 => {
                    let mut rest = &payload[1..];
                    while !rest.is_empty() {
                        let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                        nals.push(rest[2..2 + len].to_vec());
                        rest = &rest[2 + len..];
                    }
                }
                28 => {
                    if payload[1] & 0x80 != 0 {
                        nals.push(vec![(payload[0] & 0xe0) | (payload[1] & 0x1f)]);
                    }
                    nals.last_mut().unwrap().extend_from_slice(&payload[2..]);
                }
                _ => nals.push(payload.clone()),
            }
        }
        nals
    }

    #[test]
    fn h264_units_come_back_whole() {
        for vcl in [
            5,
            1100,
            MAX_PAYLOAD - 1,
            MAX_PAYLOAD,
            MAX_PAYLOAD + 1,
            30_000,
        ] {
            let pieces = vec![
                piece(&[0x67], 20),
                piece(&[0x68], 6),
                piece(&[0x06], 40),
                piece(&[0x65], vcl),
            ];
            let payloads = Packetizer::H264.packetize(&unit(pieces.clone()));
            assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
            assert_eq!(depacketize_h264(&payloads), pieces);
            assert_eq!(
                payloads[0][0],
                0x60 | STAP_A,
                "parameter sets are aggregated"
            );
        }
    }

    #[test]
    fn h265_fragments_name_their_type_once_started_and_once_ended() {
        let idr = piece(&[19 << 1, 1], 5000);
        let payloads = Packetizer::H265.packetize(&unit(vec![idr.clone()]));
        assert!(
            payloads
                .iter()
                .all(|payload| payload[0] >> 1 == 49 && payload[2] & 0x3f == 19)
        );
        assert_eq!(
            payloads
                .iter()
                .filter(|payload| payload[2] & 0x80 != 0)
                .count(),
            1
        );
        assert_eq!(payloads.last().unwrap()[2] & 0x40, 0x40);
        let body: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| payload[3..].to_vec())
            .collect();
        assert_eq!(body, idr[2..]);
    }

    #[test]
    fn av1_elements_come_back_whole() {
        let pieces = vec![
            piece(&[0x08], 12),
            piece(&[0x30], 5000),
            piece(&[0x30], 3),
            piece(&[0x30], 1170),
        ];
        let payloads = Packetizer::Av1.packetize(&unit(pieces.clone()));
        assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
        assert_eq!(payloads[0][0] & 0x08, 0x08);
        let mut obus: Vec<Vec<u8>> = Vec::new();
        let mut continued = false;
        for payload in &payloads {
            let header = payload[0];
            let count = usize::from((header >> 4) & 3);
            assert_eq!(header & 0x80 != 0, continued);
            let mut rest = &payload[1..];
            let mut position = 0;
            while !rest.is_empty() {
                position += 1;
                let len = if count != 0 && position == count {
                    rest.len()
                } else {
                    let mut len = usize::from(rest[0] & 0x7f);
                    let more = rest[0] & 0x80 != 0;
                    rest = &rest[1..];
                    if more {
                        len |= usize::from(rest[0]) << 7;
                        rest = &rest[1..];
                    }
                    len
                };
                if position == 1 && continued {
                    obus.last_mut().unwrap().extend_from_slice(&rest[..len]);
                } else {
                    obus.push(rest[..len].to_vec());
                }
                rest = &rest[len..];
            }
            continued = header & 0x40 != 0;
        }
        assert_eq!(obus, pieces);
    }

    #[test]
    fn vp9_marks_start_end_and_prediction() {
        let mut packetizer = Packetizer::video(VideoCodec::Vp9, (1280, 720));
        let key = packetizer.packetize(&unit(vec![piece(&[1], 3000)]));
        assert_eq!(key.len(), 3);
        assert_eq!(key[0][0], 0x8a);
        assert_eq!(key[1][0], 0x80);
        assert_eq!(key[2][0], 0x84);
        assert_eq!(key[0][3..8], [0x10, 5, 0, 2, 0xd0]);
        let inter = packetizer.packetize(&AccessUnit {
            pieces: vec![piece(&[2], 100)],
            keyframe: false,
        });
        assert_eq!(inter[0][0], 0xcc);
        assert_eq!(inter[0][2], key[0][2] + 1);
    }
}
