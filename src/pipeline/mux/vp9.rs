//! What the mux must know of a VP9 bitstream: the uncompressed header of keyframes (VP9 bitstream section 6.2).

use mp4_atom::{Vp09, VpcC};

use super::{
    bits::Bits,
    format::{TrackFormat, visual},
};

/// `color_space` that means RGB.
const RGB: u8 = 7;

/// The format that a keyframe says; `None` for every other frame and for headers that cannot be read.
pub(super) fn format(frame: &[u8]) -> Option<TrackFormat> {
    let key = Keyframe::parse(frame)?;
    let level = level(key.width, key.height);
    let (primaries, transfer, matrix) = match key.color_space {
        1 | 3 => (6, 6, 6),
        2 => (1, 1, 1),
        4 => (7, 7, 7),
        5 => (9, 14, 9),
        RGB => (1, 13, 0),
        _ => (2, 2, 2),
    };
    Some(TrackFormat {
        codecs: format!("vp09.{:02}.{level:02}.{:02}", key.profile, key.bit_depth),
        resolution: Some((key.width, key.height)),
        channels: 0,
        pixel_aspect_ratio: (1, 1),
        entry: Vp09 {
            visual: visual(key.width, key.height),
            vpcc: VpcC {
                profile: key.profile,
                level,
                bit_depth: key.bit_depth,
                chroma_subsampling: key.chroma_subsampling,
                video_full_range_flag: key.full_range,
                color_primaries: primaries,
                transfer_characteristics: transfer,
                matrix_coefficients: matrix,
                codec_initialization_data: Vec::new(),
            },
            ..Vp09::default()
        }
        .into(),
    })
}

/// Whether the frame can be decoded without any before it.
pub(super) fn is_keyframe(frame: &[u8]) -> bool {
    Keyframe::parse(frame).is_some()
}

struct Keyframe {
    profile: u8,
    bit_depth: u8,
    color_space: u8,
    full_range: bool,
    /// As in `vpcC`: 1 is 4:2:0 with the chroma at the luma's place, 2 is 4:2:2, 3 is 4:4:4.
    chroma_subsampling: u8,
    width: u32,
    height: u32,
}

impl Keyframe {
    fn parse(frame: &[u8]) -> Option<Self> {
        let mut bits = Bits::new(frame);
        if bits.read(2)? != 0b10 {
            return None;
        }
        let low = bits.small(1)?;
        let profile = bits.small(1)? << 1 | low;
        if profile == 3 {
            bits.skip(1)?;
        }
        let show_existing = bits.flag()?;
        let inter = bits.flag()?;
        if show_existing || inter {
            return None;
        }
        bits.skip(2)?; // show_frame, error_resilient_mode
        if bits.read(24)? != 0x49_8342 {
            return None;
        }
        let bit_depth = match profile >= 2 {
            true if bits.flag()? => 12,
            true => 10,
            false => 8,
        };
        let color_space = bits.small(3)?;
        let odd_profile = profile & 1 == 1;
        let (full_range, chroma_subsampling) = if color_space == RGB {
            (true, 3)
        } else {
            let full_range = bits.flag()?;
            (
                full_range,
                if odd_profile {
                    match (bits.flag()?, bits.flag()?) {
                        (true, false) => 2,
                        (false, false) => 3,
                        // 4:4:0 has no value of its own.
                        _ => 1,
                    }
                } else {
                    1
                },
            )
        };
        if odd_profile {
            bits.skip(1)?;
        }
        Some(Self {
            profile,
            bit_depth,
            color_space,
            full_range,
            chroma_subsampling,
            width: bits.read(16)? + 1,
            height: bits.read(16)? + 1,
        })
    }
}

/// The smallest level that holds pictures of this size at 60 per second: the bitstream does not say its level.
fn level(width: u32, height: u32) -> u8 {
    // Level, largest luma sample rate, largest luma picture size.
    const LEVELS: [(u8, u64, u64); 13] = [
        (10, 829_440, 36_864),
        (11, 2_764_800, 73_728),
        (20, 4_608_000, 122_880),
        (21, 9_216_000, 245_760),
        (30, 20_736_000, 552_960),
        (31, 36_864_000, 983_040),
        (40, 83_558_400, 2_228_224),
        (41, 160_432_128, 2_228_224),
        (50, 311_951_360, 8_912_896),
        (51, 588_251_136, 8_912_896),
        (52, 1_176_502_272, 8_912_896),
        (60, 1_176_502_272, 35_651_584),
        (61, 2_353_004_544, 35_651_584),
    ];
    let size = u64::from(width) * u64::from(height);
    LEVELS
        .iter()
        .find(|(_, rate, picture)| size * 60 <= *rate && size <= *picture)
        .map_or(62, |(level, ..)| *level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Start of a keyframe of libvpx: profile 0, 320x240.
    const KEYFRAME: &[u8] = &[0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xf0, 0x0e, 0xf0];

    #[test]
    fn a_keyframe_tells_the_format() {
        let format = format(KEYFRAME).unwrap();
        assert_eq!(format.codecs, "vp09.00.20.08");
        assert_eq!(format.resolution, Some((320, 240)));
    }

    #[test]
    fn other_frames_are_no_keyframes() {
        assert!(is_keyframe(KEYFRAME));
        assert!(!is_keyframe(&[0x86, 0x49, 0x83, 0x42]), "inter frame");
        assert!(!is_keyframe(&[0x8a, 0x00]), "show_existing_frame");
        for len in 0..8 {
            assert!(!is_keyframe(&KEYFRAME[..len]), "{len} bytes");
        }
    }

    #[test]
    fn levels_follow_the_picture_size() {
        assert_eq!(level(1280, 720), 40);
        assert_eq!(level(1920, 1080), 41);
        assert_eq!(level(3840, 2160), 51);
        assert_eq!(level(65_536, 65_536), 62);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            let _ = format(&bytes);
        }
    }
}
