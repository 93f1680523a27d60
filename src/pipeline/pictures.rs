//! Whole pictures only: what a decoder cannot show right never reaches the elements.
//!
//! Collects the packets of each picture (access unit, temporal unit) and lets it through when none of them is missing and
//! none is malformed. After a picture that is not whole, everything is held back until the next keyframe that is: a
//! short freeze is better than a grey or torn picture. Reads payload headers only; knows no GStreamer.

use super::{order::Order, payload};
use crate::media::{Codec, RtpPacket};

/// Packets of one picture; at 1200 bytes each that is 5 MB.
const MAX_PACKETS: usize = 4096;

/// A packet and its presentation time in nanoseconds.
pub(super) type Timed = (RtpPacket, i64);

/// What comes of a packet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Packets of pictures that are whole now.
    pub(super) packets: Vec<Timed>,
    /// Pictures before the first of these are missing.
    pub(super) after_gap: bool,
    /// A picture was found broken behind good ones: a keyframe is needed.
    pub(super) broken: bool,
}

/// The pictures of one track.
#[derive(Debug)]
pub(super) struct Pictures {
    codec: Codec,
    packets: Vec<Timed>,
    /// The picture in hand began with its first packet, and all since are there and well-formed.
    whole: bool,
    /// Type of the NAL unit of which fragments have come, but not the last one.
    fragment: Option<u8>,
    /// Nothing is let through before the next whole keyframe.
    wants_keyframe: bool,
    /// Something has been let through.
    begun: bool,
    /// Pictures are missing before those that come out next.
    after_gap: bool,
    /// The next packet is known to be the first of its picture, if none is lost before it.
    between: bool,
    /// Time stamp of the newest packet.
    timestamp: Option<u32>,
    /// Only for H.264.
    order: Option<Order>,
}

impl Pictures {
    /// For a video codec. The first packet to come may be anything.
    pub(super) fn new(codec: Codec) -> Self {
        Self {
            codec,
            packets: Vec::new(),
            whole: false,
            fragment: None,
            wants_keyframe: true,
            begun: false,
            after_gap: false,
            between: false,
            timestamp: None,
            order: (codec == Codec::H264).then(Order::new),
        }
    }

    /// Takes the next packet in sequence; `after_loss`: packets before it are missing.
    pub(super) fn push(&mut self, packet: RtpPacket, pts: i64, after_loss: bool) -> Taken {
        let mut taken = Taken::default();
        if after_loss {
            self.want_keyframe(&mut taken);
            self.between = false;
            self.begin(&packet);
        } else if self.timestamp != Some(packet.timestamp) {
            if !self.between && self.timestamp.is_some() {
                // The picture before had no marker bit.
                self.end(&mut taken);
                self.between = true;
            }
            self.begin(&packet);
        } else if self.between {
            self.begin(&packet);
        }
        self.between = false;
        self.timestamp = Some(packet.timestamp);
        let marker = packet.marker;
        self.whole &= payload::is_sound(self.codec, &packet.payload)
            && self.follows(&packet.payload)
            && self.packets.len() < MAX_PACKETS;
        if self.whole {
            self.packets.push((packet, pts));
        } else {
            self.packets.clear();
        }
        if marker {
            self.end(&mut taken);
            self.between = true;
        }
        taken
    }

    /// Nothing is let through from here on but what was whole before.
    fn want_keyframe(&mut self, taken: &mut Taken) {
        if !std::mem::replace(&mut self.wants_keyframe, true) {
            taken.broken = true;
            taken.packets.extend(self.finish());
        }
    }

    /// Starts a picture with this packet.
    fn begin(&mut self, first: &RtpPacket) {
        self.packets.clear();
        self.fragment = None;
        self.whole = self.between || starts_keyframe(self.codec, &first.payload);
    }

    /// Ends the picture in hand.
    fn end(&mut self, taken: &mut Taken) {
        let whole = std::mem::take(&mut self.whole) && self.fragment.take().is_none();
        let packets = std::mem::take(&mut self.packets);
        if !whole {
            self.want_keyframe(taken);
            return;
        }
        if self.wants_keyframe {
            if !is_keyframe(self.codec, &packets) {
                return;
            }
            self.wants_keyframe = false;
            // Before the first one nothing is missing.
            self.after_gap = std::mem::replace(&mut self.begun, true);
        }
        let ready = match &mut self.order {
            Some(order) => order.push(packets),
            None => packets,
        };
        if !ready.is_empty() && taken.packets.is_empty() {
            taken.after_gap = std::mem::take(&mut self.after_gap);
        }
        taken.packets.extend(ready);
    }

    /// The whole pictures that are still held; for the time being nothing follows.
    pub(super) fn finish(&mut self) -> Vec<Timed> {
        self.order.as_mut().map(Order::flush).unwrap_or_default()
    }

    /// Whether fragments of NAL units are in order: each from its start to its end, nothing in between.
    fn follows(&mut self, payload: &[u8]) -> bool {
        let (kind, header) = match (self.codec, payload) {
            (Codec::H264, [indicator, header, ..]) if indicator & 0x1f == 28 => {
                (header & 0x1f, *header)
            }
            (Codec::H265, [first, _, header, ..]) if first >> 1 & 0x3f == 49 => {
                (header & 0x3f, *header)
            }
            _ => return self.fragment.is_none(),
        };
        let (start, end) = (header & 0x80 != 0, header & 0x40 != 0);
        let expected = if start { None } else { Some(kind) };
        let follows = self.fragment == expected;
        self.fragment = (!end).then_some(kind);
        follows
    }
}

/// Types of the NAL units that begin in a payload of RFC 6184.
fn h264_types(payload: &[u8]) -> impl Iterator<Item = u8> {
    let (single, aggregated): (Option<u8>, &[u8]) = match payload {
        [indicator, units @ ..] if indicator & 0x1f == 24 => (None, units),
        [indicator, header, ..] if indicator & 0x1f == 28 => {
            ((header & 0x80 != 0).then_some(header & 0x1f), &[])
        }
        [header, ..] => (Some(header & 0x1f), &[]),
        [] => (None, &[]),
    };
    single
        .into_iter()
        .chain(aggregated_headers(aggregated).map(|header| header & 0x1f))
}

/// Types of the NAL units that begin in a payload of RFC 7798.
fn h265_types(payload: &[u8]) -> impl Iterator<Item = u8> {
    let kind = |header: u8| header >> 1 & 0x3f;
    let (single, aggregated): (Option<u8>, &[u8]) = match payload {
        [first, _, units @ ..] if kind(*first) == 48 => (None, units),
        [first, _, header, ..] if kind(*first) == 49 => {
            ((header & 0x80 != 0).then_some(header & 0x3f), &[])
        }
        [first, ..] => (Some(kind(*first)), &[]),
        [] => (None, &[]),
    };
    single
        .into_iter()
        .chain(aggregated_headers(aggregated).map(kind))
}

/// First bytes of NAL units, each behind its size in two bytes.
fn aggregated_headers(mut units: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (&[high, low], rest) = units.split_first_chunk()?;
        let (unit, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        units = after;
        unit.first().copied()
    })
}

/// Whether a payload can only be the first of a keyframe: what comes before it is not missed.
fn starts_keyframe(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        // An access unit delimiter, or the first of the parameter sets. What follows these may have lost them.
        Codec::H264 => h264_types(payload)
            .next()
            .is_some_and(|kind| matches!(kind, 7 | 9)),
        Codec::H265 => h265_types(payload)
            .next()
            .is_some_and(|kind| matches!(kind, 32 | 35)),
        Codec::Av1 => av1_starts_sequence(payload),
        Codec::Vp9 => vp9_starts_keyframe(payload),
        Codec::Vp8 => vp8_starts_keyframe(payload),
        Codec::Opus | Codec::G722 | Codec::Pcmu | Codec::Pcma => true,
    }
}

/// Whether a whole picture can be decoded by itself.
fn is_keyframe(codec: Codec, packets: &[Timed]) -> bool {
    let mut payloads = packets.iter().map(|(packet, _)| &packet.payload[..]);
    match codec {
        Codec::H264 => payloads.flat_map(h264_types).any(|kind| kind == 5),
        Codec::H265 => payloads
            .flat_map(h265_types)
            .any(|kind| (16..=23).contains(&kind)),
        Codec::Av1 => payloads.next().is_some_and(av1_starts_sequence),
        Codec::Vp9 => payloads.next().is_some_and(vp9_starts_keyframe),
        Codec::Vp8 => payloads.next().is_some_and(vp8_starts_keyframe),
        Codec::Opus | Codec::G722 | Codec::Pcmu | Codec::Pcma => true,
    }
}

/// Whether a coded video sequence of AV1 begins with this payload: the aggregation header's N bit, or a sequence header
/// as the first OBU or right behind a temporal delimiter.
fn av1_starts_sequence(payload: &[u8]) -> bool {
    const SEQUENCE_HEADER: u8 = 1;
    const TEMPORAL_DELIMITER: u8 = 2;
    let Some((&header, elements)) = payload.split_first() else {
        return false;
    };
    let continues = header & 0x80 != 0;
    if continues {
        return false;
    }
    if header & 0x08 != 0 {
        return true;
    }
    // With one element there is no size in front of it (W = 1).
    let sized = header >> 4 & 3 != 1;
    let kind = |obu: &[u8]| obu.first().map(|header| header >> 3 & 0x0f);
    let first = elements.get(usize::from(sized)..).unwrap_or_default();
    match kind(first) {
        Some(SEQUENCE_HEADER) => true,
        Some(TEMPORAL_DELIMITER) if sized => {
            let size = usize::from(elements.first().copied().unwrap_or(0));
            let second = first.get(size..).unwrap_or_default();
            // The last element has no size if the count says so.
            let sized = header >> 4 & 3 != 2;
            kind(second.get(usize::from(sized)..).unwrap_or_default()) == Some(SEQUENCE_HEADER)
        }
        _ => false,
    }
}

/// Whether a payload of RFC 7741 begins a keyframe: the first partition starts here, and the frame header's inverse key
/// frame flag is 0.
fn vp8_starts_keyframe(payload: &[u8]) -> bool {
    let Some((&flags, mut rest)) = payload.split_first() else {
        return false;
    };
    let partition = flags & 0x07;
    let starts = flags & 0x10 != 0 && partition == 0;
    if flags & 0x80 != 0 {
        let Some((&extensions, after)) = rest.split_first() else {
            return false;
        };
        let long = extensions & 0x80 != 0 && after.first().is_some_and(|id| id & 0x80 != 0);
        let picture_id = usize::from(extensions & 0x80 != 0) + usize::from(long);
        let level = usize::from(extensions & 0x40 != 0);
        let layer = usize::from(extensions & 0x30 != 0);
        rest = after.get(picture_id + level + layer..).unwrap_or_default();
    }
    starts && rest.first().is_some_and(|header| header & 1 == 0)
}

/// Whether a payload of RFC 9628 begins a picture that is not predicted from others, in its lowest spatial layer.
fn vp9_starts_keyframe(payload: &[u8]) -> bool {
    let Some(&flags) = payload.first() else {
        return false;
    };
    let has = |bit: u8| flags >> bit & 1 == 1;
    let (picture_id, predicted, layers, starts) = (has(7), has(6), has(5), has(3));
    if predicted || !starts {
        return false;
    }
    if !layers {
        return true;
    }
    let long = picture_id && payload.get(1).is_some_and(|id| id & 0x80 != 0);
    let at = 1 + usize::from(picture_id) + usize::from(long);
    payload.get(at).is_some_and(|layer| layer & 0b1110 == 0)
}

#[cfg(test)]
#[path = "pictures_tests.rs"]
mod tests;
