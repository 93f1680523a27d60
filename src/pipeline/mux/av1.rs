//! What the mux must know of an AV1 bitstream: the sequence header (AV1 section 5.5) and temporal delimiters.

use mp4_atom::{Av01, Av1c, Colr};

use super::{
    bits::Bits,
    format::{TrackFormat, visual},
};

/// `obu_type` of a sequence header (AV1 section 6.2.2).
const SEQUENCE_HEADER: u8 = 1;
/// `obu_type` of a temporal delimiter.
const TEMPORAL_DELIMITER: u8 = 2;

/// Number of bytes of the temporal delimiter at the start of a temporal unit. Samples have none
/// (AV1 in ISO-BMFF section 2.4).
pub(super) fn temporal_delimiter_len(unit: &[u8]) -> usize {
    match obus(unit).next() {
        Some(obu) if obu.kind == TEMPORAL_DELIMITER => obu.len,
        _ => 0,
    }
}

/// The format that the temporal unit's sequence header says; `None` when it has none, or one that cannot be read.
pub(super) fn format(unit: &[u8]) -> Option<TrackFormat> {
    let header = obus(unit).find(|obu| obu.kind == SEQUENCE_HEADER)?.payload;
    let sequence = Sequence::parse(header)?;
    let Sequence { av1c, .. } = &sequence;
    let depth = match (av1c.high_bitdepth, av1c.twelve_bit) {
        (_, true) => 12,
        (true, false) => 10,
        (false, false) => 8,
    };
    Some(TrackFormat {
        codecs: format!(
            "av01.{}.{:02}{}.{depth:02}",
            av1c.seq_profile,
            av1c.seq_level_idx_0,
            if av1c.seq_tier_0 { 'H' } else { 'M' },
        ),
        resolution: Some((sequence.width, sequence.height)),
        channels: 0,
        pixel_aspect_ratio: (1, 1),
        entry: Av01 {
            visual: visual(sequence.width, sequence.height),
            av1c: Av1c {
                config_obus: with_size(header),
                ..sequence.av1c
            },
            colr: sequence.colr,
            ..Av01::default()
        }
        .into(),
    })
}

struct Obu<'a> {
    kind: u8,
    payload: &'a [u8],
    /// With its header.
    len: usize,
}

/// The units of a low-overhead bitstream (AV1 section 5.2); ends at the first one that is cut off.
fn obus(mut bytes: &[u8]) -> impl Iterator<Item = Obu<'_>> {
    std::iter::from_fn(move || {
        let (&header, mut rest) = bytes.split_first()?;
        if header & 0b100 != 0 {
            rest = rest.get(1..)?;
        }
        let size = if header & 0b10 != 0 {
            let (size, after) = leb128(rest)?;
            rest = after;
            size
        } else {
            rest.len()
        };
        let payload = rest.get(..size)?;
        let after = rest.get(size..)?;
        let obu = Obu {
            kind: header >> 3 & 0b1111,
            payload,
            len: bytes.len() - after.len(),
        };
        bytes = after;
        Some(obu)
    })
}

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

/// The sequence header as an OBU with a size field, as `configOBUs` wants it.
fn with_size(payload: &[u8]) -> Vec<u8> {
    let mut obu = vec![SEQUENCE_HEADER << 3 | 0b10];
    let mut size = payload.len();
    loop {
        let low = size.to_le_bytes()[0] & 0x7f;
        size >>= 7;
        obu.push(low | u8::from(size > 0) << 7);
        if size == 0 {
            break;
        }
    }
    obu.extend_from_slice(payload);
    obu
}

struct Sequence {
    av1c: Av1c,
    width: u32,
    height: u32,
    colr: Option<Colr>,
}

impl Sequence {
    /// `sequence_header_obu()` up to its colour configuration.
    fn parse(payload: &[u8]) -> Option<Self> {
        let mut bits = Bits::new(payload);
        let mut av1c = Av1c {
            seq_profile: bits.small(3)?,
            ..Av1c::default()
        };
        bits.skip(1)?; // still_picture
        let reduced = bits.flag()?;
        if reduced {
            av1c.seq_level_idx_0 = bits.small(5)?;
        } else {
            operating_points(&mut bits, &mut av1c)?;
        }
        let width_bits = bits.read(4)? + 1;
        let height_bits = bits.read(4)? + 1;
        let width = bits.read(width_bits)? + 1;
        let height = bits.read(height_bits)? + 1;
        if !reduced && bits.flag()? {
            bits.skip(4 + 3)?; // frame id lengths
        }
        bits.skip(3)?; // superblock size, filter_intra, intra_edge_filter
        if !reduced {
            tools(&mut bits)?;
        }
        bits.skip(3)?; // superres, cdef, restoration
        let (described, colr) = colour(&mut bits, &mut av1c)?;
        Some(Self {
            av1c,
            width,
            height,
            colr: described.then_some(colr),
        })
    }
}

/// Timing, decoder model and operating points; keeps level and tier of the first point.
fn operating_points(bits: &mut Bits<'_>, av1c: &mut Av1c) -> Option<()> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.skip(32 + 32)?; // timing_info
        if bits.flag()? {
            bits.uvlc()?;
        }
        if bits.flag()? {
            delay_bits = Some(bits.read(5)? + 1);
            bits.skip(32 + 5 + 5)?;
        }
    }
    let display_delay = bits.flag()?;
    let points = bits.read(5)? + 1;
    for point in 0..points {
        bits.skip(12)?; // operating_point_idc
        let level = bits.small(5)?;
        let tier = level > 7 && bits.flag()?;
        if point == 0 {
            av1c.seq_level_idx_0 = level;
            av1c.seq_tier_0 = tier;
        }
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.skip(2 * delay_bits + 1)?;
        }
        if display_delay && bits.flag()? {
            bits.skip(4)?;
        }
    }
    Some(())
}

/// The coding tools between frame size and colour.
fn tools(bits: &mut Bits<'_>) -> Option<()> {
    bits.skip(4)?; // interintra, masked_compound, warped_motion, dual_filter
    let order_hint = bits.flag()?;
    if order_hint {
        bits.skip(2)?; // jnt_comp, ref_frame_mvs
    }
    let choose_screen_content = bits.flag()?;
    let screen_content = choose_screen_content || bits.flag()?;
    if screen_content && !bits.flag()? {
        bits.skip(1)?; // seq_force_integer_mv
    }
    if order_hint {
        bits.skip(3)?;
    }
    Some(())
}

/// `color_config()`: whether it describes the colour, and how.
fn colour(bits: &mut Bits<'_>, av1c: &mut Av1c) -> Option<(bool, Colr)> {
    av1c.high_bitdepth = bits.flag()?;
    av1c.twelve_bit = av1c.seq_profile == 2 && av1c.high_bitdepth && bits.flag()?;
    av1c.monochrome = av1c.seq_profile != 1 && bits.flag()?;
    let described = bits.flag()?;
    let (primaries, transfer, matrix) = if described {
        (bits.small(8)?, bits.small(8)?, bits.small(8)?)
    } else {
        (2, 2, 2)
    };
    let full_range;
    if av1c.monochrome {
        full_range = bits.flag()?;
        (av1c.chroma_subsampling_x, av1c.chroma_subsampling_y) = (true, true);
    } else if (primaries, transfer, matrix) == (1, 13, 0) {
        full_range = true;
    } else {
        full_range = bits.flag()?;
        (av1c.chroma_subsampling_x, av1c.chroma_subsampling_y) = match av1c.seq_profile {
            0 => (true, true),
            1 => (false, false),
            _ if av1c.twelve_bit => {
                let x = bits.flag()?;
                (x, x && bits.flag()?)
            }
            _ => (true, false),
        };
        if av1c.chroma_subsampling_x && av1c.chroma_subsampling_y {
            av1c.chroma_sample_position = bits.small(2)?;
        }
    }
    let colr = Colr::Nclx {
        colour_primaries: primaries.into(),
        transfer_characteristics: transfer.into(),
        matrix_coefficients: matrix.into(),
        full_range_flag: full_range,
    };
    Some((described, colr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Temporal delimiter and sequence header of libaom, 320x240, 8 bit 4:2:0, level 2.0.
    const UNIT: &[u8] = &[
        0x12, 0x00, 0x0a, 0x0b, 0x00, 0x00, 0x00, 0x04, 0x3c, 0xff, 0xbc, 0xfb, 0xf9, 0x80, 0x40,
    ];

    #[test]
    fn a_sequence_header_tells_the_format() {
        assert_eq!(temporal_delimiter_len(UNIT), 2);
        let format = format(UNIT).unwrap();
        assert_eq!(format.codecs, "av01.0.00M.08");
        assert_eq!(format.resolution, Some((320, 240)));
        let mp4_atom::Codec::Av01(entry) = format.entry else {
            panic!("not an av01 entry");
        };
        assert_eq!(entry.av1c.config_obus, UNIT[2..]);
        assert_eq!(entry.colr, None);
    }

    #[test]
    fn a_unit_without_a_sequence_header_tells_nothing() {
        assert_eq!(format(&[0x12, 0x00, 0x32, 0x01, 0x00]), None);
        assert_eq!(temporal_delimiter_len(&[0x32, 0x01, 0x00]), 0);
        assert_eq!(temporal_delimiter_len(&[]), 0);
    }

    #[test]
    fn cut_off_headers_tell_nothing() {
        for len in 0..UNIT.len() {
            assert_eq!(format(&UNIT[..len]), None, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = format(&bytes);
            prop_assert!(temporal_delimiter_len(&bytes) <= bytes.len());
        }
    }
}
