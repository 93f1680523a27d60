//! Presentation times of H.264 senders whose RTP time stamps are decode times.
//!
//! RFC 6184 section 5.1 wants the time at which a picture is shown. Where an encoder reorders pictures (B-frames), some
//! senders put the time of decoding there: time stamps then rise from picture to picture although the picture order count
//! (ITU-T H.264 section 8.2.1) does not, and players would show the pictures at each other's times. This finds out which
//! of both a sender does, and gives each picture the time of its place in the order of showing. Reads parameter sets and
//! slice headers as far as the picture order count; knows no RTP beyond payloads, and no GStreamer.

use super::{mux::Bits, pictures::Timed};

/// Pictures behind a keyframe that are held until it is known what their times are. An encoder that reorders sends a
/// picture, and then one that is shown before it.
const UNDECIDED: usize = 2;

/// Bytes of a slice or parameter set that are looked at: more than what is read takes at its longest.
const HEAD: usize = 512;

/// What is known of a sender's time stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Unknown,
    /// When pictures are shown: nothing to do.
    Presentation,
    /// When pictures are decoded.
    Decode,
}

/// What a sequence parameter set says that slice headers are read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sps {
    separate_planes: bool,
    frame_num_bits: u32,
    /// Bits of `pic_order_cnt_lsb`; `None` if pictures are shown in the order of decoding, or fields are possible.
    order_bits: Option<u32>,
}

/// A picture in the group (coded video sequence) that began with the last IDR picture.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// How many were decoded before it.
    index: i64,
    /// Its picture order count.
    order: i64,
    /// Presentation time as it came, in nanoseconds.
    time: i64,
}

/// Puts the times of one track right.
#[derive(Debug)]
pub(super) struct Order {
    times: Times,
    sps: Option<Sps>,
    /// The first picture of the group, and the last one in decoding order.
    group: Option<(Place, Place)>,
    /// The latest in the order of showing.
    highest: i64,
    /// Picture order count of the last reference picture.
    reference: i64,
    /// Difference of picture order counts from one picture to the next: 2, unless the stream shows odd ones.
    step: i64,
    held: Vec<(Vec<Timed>, Place)>,
    /// Enough has been seen: nothing is held any more.
    watched: bool,
}

impl Order {
    pub(super) fn new() -> Self {
        Self {
            times: Times::Unknown,
            sps: None,
            group: None,
            highest: 0,
            reference: 0,
            step: 2,
            held: Vec::new(),
            watched: false,
        }
    }

    /// Takes the next picture, all its packets; gives those whose times are settled, in order.
    pub(super) fn push(&mut self, picture: Vec<Timed>) -> Vec<Timed> {
        let Some(place) = self.place(&picture) else {
            let mut out = self.flush();
            out.extend(picture);
            return out;
        };
        let mut out = Vec::new();
        if place.index == 0 {
            out = self.flush();
        } else if let Some((_, last)) = self.group {
            let earlier_shown = place.order < self.highest;
            if place.time < last.time {
                self.times = Times::Presentation;
            } else if earlier_shown && self.times == Times::Unknown {
                self.times = Times::Decode;
            }
        }
        self.highest = if place.index == 0 {
            place.order
        } else {
            self.highest.max(place.order)
        };
        let first = self.group.map_or(place, |(first, _)| first);
        self.group = Some((if place.index == 0 { place } else { first }, place));
        self.held.push((picture, place));
        self.watched |= self.times != Times::Unknown || self.held.len() > UNDECIDED;
        if self.watched {
            out.extend(self.flush());
        }
        out
    }

    /// Everything that is held.
    pub(super) fn flush(&mut self) -> Vec<Timed> {
        let held = std::mem::take(&mut self.held);
        let group = self.group;
        let decode_times = self.times == Times::Decode;
        held.into_iter()
            .flat_map(|(mut picture, place)| {
                if decode_times && let Some((first, last)) = group {
                    let moved = self.shown_later(first, last, place);
                    for (_, time) in &mut picture {
                        *time += moved;
                    }
                }
                picture
            })
            .collect()
    }

    /// By how much later than it is decoded a picture is shown; the encoder's rate is taken to be constant.
    fn shown_later(&self, first: Place, last: Place, place: Place) -> i64 {
        let rank = (place.order - first.order) / self.step;
        let interval = if last.index > 0 {
            (last.time - first.time) / last.index
        } else {
            0
        };
        (rank - place.index) * interval
    }

    /// Where in its group a picture is; `None` where pictures are shown in the order of decoding, or that cannot be known.
    fn place(&mut self, picture: &[Timed]) -> Option<Place> {
        let mut slice = None;
        for (packet, _) in picture {
            for_each_nal(&packet.payload, |header, body| match header & 0x1f {
                7 => self.sps = Sps::parse(body),
                1 | 5 if slice.is_none() => {
                    slice = self.sps.map(|sps| (header, order_lsb(sps, header, body)));
                }
                _ => {}
            });
        }
        let time = picture.first()?.1;
        let (header, lsb) = slice?;
        let bits = self.sps?.order_bits?;
        let lsb = i64::from(lsb?);
        let is_idr = header & 0x1f == 5;
        let order = if is_idr {
            lsb
        } else {
            // The count nearest to that of the last reference picture (8.2.1.1).
            let period = 1_i64 << bits;
            let distance = (lsb - self.reference).rem_euclid(period);
            self.reference
                + if distance > period / 2 {
                    distance - period
                } else {
                    distance
                }
        };
        if header & 0x60 != 0 {
            self.reference = order;
        }
        if order % 2 != 0 {
            self.step = 1;
        }
        let index = match self.group {
            Some((_, last)) if !is_idr => last.index + 1,
            _ if is_idr => 0,
            _ => return None,
        };
        Some(Place { index, order, time })
    }
}

impl Sps {
    /// Reads a sequence parameter set without its header (7.3.2.1.1).
    fn parse(body: &[u8]) -> Option<Self> {
        let rbsp = unescaped(body);
        let mut bits = Bits::new(&rbsp);
        let profile = bits.read(8)?;
        bits.skip(16)?;
        bits.uvlc()?;
        let mut separate_planes = false;
        if matches!(
            profile,
            44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244
        ) {
            let chroma = bits.uvlc()?;
            if chroma == 3 {
                separate_planes = bits.flag()?;
            }
            bits.uvlc()?;
            bits.uvlc()?;
            bits.skip(1)?;
            if bits.flag()? {
                let lists = if chroma == 3 { 12 } else { 8 };
                for list in 0..lists {
                    if bits.flag()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        let frame_num_bits = bits.uvlc()?.checked_add(4).filter(|bits| *bits <= 16)?;
        let kind = bits.uvlc()?;
        let mut order_bits = None;
        if kind == 0 {
            order_bits = Some(bits.uvlc()?.checked_add(4).filter(|bits| *bits <= 16)?);
            bits.uvlc()?;
            bits.skip(1)?;
            bits.uvlc()?;
            bits.uvlc()?;
            let frames_only = bits.flag()?;
            order_bits = order_bits.filter(|_| frames_only);
        }
        Some(Self {
            separate_planes,
            frame_num_bits,
            order_bits,
        })
    }
}

/// `pic_order_cnt_lsb` of a slice without its NAL unit header (7.3.3).
fn order_lsb(sps: Sps, header: u8, body: &[u8]) -> Option<u32> {
    let order_bits = sps.order_bits?;
    let rbsp = unescaped(body);
    let mut bits = Bits::new(&rbsp);
    bits.uvlc()?;
    bits.uvlc()?;
    bits.uvlc()?;
    if sps.separate_planes {
        bits.skip(2)?;
    }
    bits.skip(sps.frame_num_bits)?;
    if header & 0x1f == 5 {
        bits.uvlc()?;
    }
    bits.read(order_bits)
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8_i64, 8_i64);
    for _ in 0..size {
        if next != 0 {
            let code = i64::from(bits.uvlc()?);
            let delta = if code % 2 == 0 {
                -code / 2
            } else {
                (code + 1) / 2
            };
            next = (last + delta).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// The beginning of a NAL unit without emulation prevention bytes (7.4.1).
fn unescaped(body: &[u8]) -> Vec<u8> {
    let mut zeros = 0;
    body.iter()
        .take(HEAD)
        .copied()
        .filter(|&byte| {
            let escape = zeros >= 2 && byte == 3;
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            !escape
        })
        .collect()
}

/// Calls `each` with header and body of every NAL unit that begins in a payload (RFC 6184 section 5.4).
fn for_each_nal(payload: &[u8], mut each: impl FnMut(u8, &[u8])) {
    match payload {
        [indicator, units @ ..] if indicator & 0x1f == 24 => {
            let mut units = units;
            while let Some((&[high, low], rest)) = units.split_first_chunk() {
                let size = usize::from(u16::from_be_bytes([high, low]));
                let Some((unit, after)) = rest.split_at_checked(size) else {
                    return;
                };
                units = after;
                if let Some((&header, body)) = unit.split_first() {
                    each(header, body);
                }
            }
        }
        [indicator, header, body @ ..] if indicator & 0x1f == 28 => {
            if header & 0x80 != 0 {
                each((indicator & 0xe0) | (header & 0x1f), body);
            }
        }
        [header, body @ ..] => each(*header, body),
        [] => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::RtpPacket;
    use bytes::Bytes;

    /// Bits of a bitstream, as text of zeros and ones.
    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
        digits
            .chunks(8)
            .map(|chunk| {
                (0..8).fold(0, |byte, bit| {
                    byte << 1 | u8::from(chunk.get(bit) == Some(&b'1'))
                })
            })
            .collect()
    }

    /// Main profile, one byte of `frame_num` bits and of order count bits, 4 each.
    fn sps() -> Vec<u8> {
        let profile = "01001101 00000000 00011110";
        let fields = "1 1 1 1 010 0 1 1 1 1";
        [vec![0x67], bytes(&format!("{profile} {fields}"))].concat()
    }

    fn slice(is_idr: bool, reference: bool, order: u8) -> Vec<u8> {
        let header = match (is_idr, reference) {
            (true, _) => 0x65,
            (false, true) => 0x41,
            (false, false) => 0x01,
        };
        let idr_pic_id = if is_idr { "1" } else { "" };
        let fields = format!("1 1 1 0000 {idr_pic_id} {order:04b} 1111");
        [vec![header], bytes(&fields)].concat()
    }

    fn picture(nals: &[Vec<u8>], time: i64) -> Vec<Timed> {
        nals.iter()
            .map(|nal| {
                let packet = RtpPacket {
                    payload_type: 96,
                    marker: false,
                    sequence_number: 0,
                    timestamp: 0,
                    ssrc: 1,
                    payload: Bytes::copy_from_slice(nal),
                };
                (packet, time)
            })
            .collect()
    }

    /// Times that come out for two groups, each I0 P3 b1 b2 P6 b4 b5 with these times as they come; and how many pictures
    /// were held at most.
    fn run(times: [i64; 7]) -> (Vec<i64>, usize) {
        let mut order = Order::new();
        let (mut seen, mut held) = (Vec::new(), 0);
        let counts = [0, 6, 2, 4, 12, 8, 10];
        for group in 0..2 {
            for (index, (count, time)) in counts.into_iter().zip(times).enumerate() {
                let reference = matches!(index, 0 | 1 | 4);
                let mut nals = vec![slice(index == 0, reference, count)];
                if index == 0 {
                    nals.insert(0, sps());
                }
                let out = order.push(picture(&nals, time + group * 7));
                seen.extend(out.iter().map(|(_, time)| *time));
                held = held.max(order.held.len());
            }
        }
        seen.extend(order.flush().iter().map(|(_, time)| *time));
        (seen, held)
    }

    #[test]
    fn times_of_decoding_become_times_of_showing() {
        let (times, held) = run([0, 1, 2, 3, 4, 5, 6]);
        let group = [0, 3, 1, 2, 6, 4, 5];
        let expected: Vec<i64> = [0, 7]
            .into_iter()
            .flat_map(|start| {
                // The parameter set belongs to the first picture.
                std::iter::once(start).chain(group.map(|time| start + time))
            })
            .collect();
        assert_eq!(times, expected);
        assert!(held <= UNDECIDED);
    }

    #[test]
    fn times_of_showing_stay() {
        let (times, _) = run([0, 3, 1, 2, 6, 4, 5]);
        let group = [0, 0, 3, 1, 2, 6, 4, 5];
        assert_eq!(times, [group, group.map(|time| time + 7)].concat());
    }

    #[test]
    fn pictures_shown_in_the_order_of_decoding_are_not_held_for_long() {
        let mut order = Order::new();
        let mut seen = 0;
        for index in 0..6_u8 {
            let mut nals = vec![slice(index == 0, true, index * 2)];
            if index == 0 {
                nals.insert(0, sps());
            }
            seen += order.push(picture(&nals, i64::from(index))).len();
            assert!(order.held.len() <= UNDECIDED);
            if index > 2 {
                assert_eq!(seen, usize::from(index) + 2, "nothing is held from here on");
            }
        }
    }

    #[test]
    fn a_stream_that_cannot_be_read_passes() {
        let mut order = Order::new();
        for nal in [
            vec![0x65],
            vec![0x41, 0xff],
            vec![0x67, 1],
            vec![0x78, 0, 9, 1],
        ] {
            assert_eq!(order.push(picture(&[nal], 5)).len(), 1);
        }
    }
}
