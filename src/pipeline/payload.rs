//! Whether an RTP payload is built as its payload format says.
//!
//! Depayloaders of GStreamer read lengths and headers without checking all of them: a fragmentation unit of one byte in
//! the middle of a picture makes rtph265depay 1.22 copy from far outside its memory, and rtpav1depay takes four
//! gigabytes if a packet says so. So nothing malformed reaches them; to them, such a packet is lost.

use crate::media::Codec;

/// Whether a depayloader may see this payload.
pub(super) fn is_sound(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => h264(payload),
        Codec::H265 => h265(payload),
        Codec::Vp9 => vp9(payload).is_some(),
        Codec::Av1 => av1(payload).is_some(),
        Codec::Vp8 => vp8(payload).is_some(),
        Codec::Opus | Codec::G722 | Codec::Pcmu | Codec::Pcma => !payload.is_empty(),
    }
}

/// RFC 6184 section 5.4: single NAL units, STAP-A and FU-A are what packetization modes 0 and 1 have.
fn h264(payload: &[u8]) -> bool {
    let nal_unit = |nal: &[u8]| match nal {
        // A slice has at least one byte after the header.
        [header, rest @ ..] => match header & 0x1f {
            1..=5 => !rest.is_empty(),
            kind => (6..=23).contains(&kind),
        },
        [] => false,
    };
    match payload {
        [header, aggregated @ ..] if header & 0x1f == 24 => aggregate(aggregated, nal_unit),
        [header, _, _, ..] if header & 0x1f == 28 => true,
        nal => nal_unit(nal),
    }
}

/// RFC 7798 section 4.4: single NAL units, aggregation packets and fragmentation units.
fn h265(payload: &[u8]) -> bool {
    let nal_unit = |nal: &[u8]| match nal {
        // A slice has at least one byte after the header of two.
        [header, _, rest @ ..] => match header >> 1 & 0x3f {
            0..=31 => !rest.is_empty(),
            kind => kind < 48,
        },
        _ => false,
    };
    match payload {
        [header, _, aggregated @ ..] if header >> 1 & 0x3f == 48 => aggregate(aggregated, nal_unit),
        [header, _, _, _, ..] if header >> 1 & 0x3f == 49 => true,
        nal => nal_unit(nal),
    }
}

/// NAL units, each behind its size in two bytes.
fn aggregate(mut units: &[u8], is_nal_unit: impl Fn(&[u8]) -> bool) -> bool {
    if units.is_empty() {
        return false;
    }
    while let [high, low, rest @ ..] = units {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        match rest.split_at_checked(size) {
            Some((nal, after)) if is_nal_unit(nal) => units = after,
            _ => return false,
        }
    }
    units.is_empty()
}

/// RFC 7741 section 4.2: walks the payload descriptor. `None` if it is cut off or nothing follows it.
fn vp8(payload: &[u8]) -> Option<()> {
    let mut bytes = payload.iter();
    let mut next = || bytes.next().copied();
    if next()? & 0x80 != 0 {
        let extensions = next()?;
        if extensions & 0x80 != 0 && next()? & 0x80 != 0 {
            next()?;
        }
        if extensions & 0x40 != 0 {
            next()?;
        }
        if extensions & 0x30 != 0 {
            next()?;
        }
    }
    next().map(|_| ())
}

/// RFC 9628 section 4.2: walks the payload descriptor. `None` if it is cut off or nothing follows it.
fn vp9(payload: &[u8]) -> Option<()> {
    let mut bytes = payload.iter();
    let mut next = || bytes.next().copied();
    let flags = next()?;
    let has = |bit: u8| flags >> bit & 1 == 1;
    let (picture_id, predicted, layers, flexible, structure) =
        (has(7), has(6), has(5), has(4), has(1));
    if picture_id && next()? & 0x80 != 0 {
        next()?;
    }
    if layers {
        next()?;
        if !flexible {
            next()?;
        }
    }
    if flexible && predicted {
        // At most three references, each telling whether another one follows.
        for _ in 0..3 {
            if next()? & 1 == 0 {
                break;
            }
        }
    }
    if structure {
        let header = next()?;
        let layers = usize::from(header >> 5) + 1;
        if header & 0x10 != 0 {
            for _ in 0..layers * 4 {
                next()?;
            }
        }
        if header & 0x08 != 0 {
            for _ in 0..next()? {
                for _ in 0..next()? >> 2 & 0b11 {
                    next()?;
                }
            }
        }
    }
    next().map(|_| ())
}

/// RTP payload format for AV1, sections 4.4 and 4.5: walks the elements. `None` if one is cut off or no OBU.
fn av1(payload: &[u8]) -> Option<()> {
    let (&header, mut rest) = payload.split_first()?;
    let continues_first = header & 0x80 != 0;
    let last_continues = header & 0x40 != 0;
    let count = header >> 4 & 0b11;
    let mut index = 0;
    while !rest.is_empty() {
        index += 1;
        let element;
        if index == count {
            (element, rest) = (rest, &[][..]);
        } else {
            let (size, after) = leb128(rest)?;
            (element, rest) = after.split_at_checked(size)?;
        }
        let fragment = last_continues && rest.is_empty();
        if !(continues_first && index == 1) {
            obus(element, fragment)?;
        }
    }
    (index > 0 && (count == 0 || index == count)).then_some(())
}

/// The OBUs of one element; there should be one, but some senders put more behind it. `fragment`: it goes on in the
/// next packet.
fn obus(mut element: &[u8], fragment: bool) -> Option<()> {
    let mut first = true;
    while first || !element.is_empty() {
        let (&header, mut rest) = element.split_first()?;
        if header & 0x80 != 0 {
            return (!first).then_some(());
        }
        if header & 0b100 != 0 {
            rest = rest.get(1..)?;
        }
        if header & 0b10 == 0 {
            return Some(());
        }
        let (size, after) = leb128(rest)?;
        match after.get(size..) {
            Some(next) => element = next,
            None => return (fragment || !first).then_some(()),
        }
        first = false;
    }
    Some(())
}

/// A number of at most 28 bits (AV1 section 4.10.5), more than any packet holds.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h264_payloads() {
        for (payload, sound) in [
            (&[0x65, 1][..], true),
            (&[0x65], false),
            (&[0x0a], true),
            (&[], false),
            (&[0x78, 0, 2, 0x67, 1, 0, 3, 0x68, 1, 2], true),
            (&[0x78, 0, 2, 0x67, 1, 0, 4, 0x68, 1, 2], false),
            (&[0x78, 0, 2, 0x67, 1, 0], false),
            (&[0x78, 0, 0], false),
            (&[0x78], false),
            (&[0x7c, 0x85, 1], true),
            (&[0x7c, 0x85], false),
            (&[0x7c], false),
            (&[0x7d, 0x85, 1, 2, 3], false),
            (&[0x7a, 1, 2, 3, 4], false),
            (&[0x00, 1, 2, 3], false),
        ] {
            assert_eq!(h264(payload), sound, "{payload:x?}");
        }
    }

    #[test]
    fn h265_payloads() {
        for (payload, sound) in [
            (&[19 << 1, 1, 9][..], true),
            (&[19 << 1, 1], false),
            (&[36 << 1, 1], true),
            (&[36 << 1], false),
            (&[48 << 1, 1, 0, 3, 2, 1, 9], true),
            (&[48 << 1, 1, 0, 4, 2, 1, 9], false),
            (&[48 << 1, 1], false),
            (&[49 << 1, 1, 0x93, 7], true),
            (&[49 << 1, 1, 0x93], false),
            (&[49 << 1], false),
            (&[50 << 1, 1, 2, 3], false),
            (&[], false),
        ] {
            assert_eq!(h265(payload), sound, "{payload:x?}");
        }
    }

    #[test]
    fn vp9_payloads() {
        for (payload, sound) in [
            (&[0x0c, 0x82][..], true),
            (&[0x0c], false),
            (&[0x8c, 0x85, 0x01, 0x82], true),
            (&[0x8c, 0x85, 0x01], false),
            // Layer indices, then the picture.
            (&[0x2c, 0, 0, 0x82], true),
            (&[0x2c, 0, 0], false),
            // Flexible mode with three references.
            (&[0x5c, 3, 3, 2, 0x82], true),
            (&[0x5c, 3, 3, 3], false),
            // One layer with its size and a group of one picture with one reference.
            (&[0x0e, 0x18, 1, 64, 0, 240, 1, 0b100, 1, 0x82], true),
            (&[0x0e, 0x18, 1, 64, 0, 240, 1, 0b100, 1], false),
        ] {
            assert_eq!(vp9(payload).is_some(), sound, "{payload:x?}");
        }
    }

    #[test]
    fn av1_payloads() {
        for (payload, sound) in [
            // One element that is a frame.
            (&[0x10, 0x30, 1, 2][..], true),
            (&[0x10], false),
            (&[], false),
            // Two elements, the first with its size.
            (&[0x20, 2, 0x08, 9, 0x30, 1], true),
            (&[0x20, 9, 0x08, 9, 0x30, 1], false),
            (&[0x20, 2, 0x08, 9], false),
            // Any number of elements, each with its size.
            (&[0x00, 2, 0x08, 9, 2, 0x30, 1], true),
            (&[0x00, 2, 0x08, 9, 3, 0x30, 1], false),
            // An overlong size.
            (&[0x20, 0x80, 0x80, 0x80, 0x80, 0, 1], false),
            // A continuation is no OBU of its own.
            (&[0x90, 0xff, 0xff], true),
            (&[0x10, 0xff, 0xff], false),
            // A size field inside the OBU, right, wrong, and wrong only until the fragment goes on.
            (&[0x10, 0x32, 2, 1, 2], true),
            (&[0x10, 0x32, 3, 1, 2], false),
            (&[0x50, 0x32, 3, 1, 2], true),
            // An extension that is not there.
            (&[0x10, 0x34], false),
        ] {
            assert_eq!(av1(payload).is_some(), sound, "{payload:x?}");
        }
    }
}
