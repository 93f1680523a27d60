//! What the mux must know of H.264 and H.265 bitstreams: NAL unit types and the codecs string of H.265.

use mp4_atom::Hvcc;

/// Whether an H.264 access unit has an IDR slice (ITU-T H.264 table 7-1).
pub(super) fn has_idr(unit: &[u8], length_size: usize) -> bool {
    first_bytes(unit, length_size).any(|byte| byte & 0x1f == 5)
}

/// Whether an H.265 access unit is an intra random access point (ITU-T H.265 table 7-1).
pub(super) fn has_irap(unit: &[u8], length_size: usize) -> bool {
    first_bytes(unit, length_size).any(|byte| (16..=23).contains(&(byte >> 1 & 0x3f)))
}

/// The first byte of each NAL unit in a length-prefixed access unit.
fn first_bytes(mut unit: &[u8], length_size: usize) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (prefix, rest) = unit.split_at_checked(length_size)?;
        let length = prefix
            .iter()
            .fold(0, |length, &byte| length << 8 | usize::from(byte));
        let (nal, after) = rest.split_at_checked(length)?;
        unit = after;
        nal.first().copied()
    })
}

/// `hvc1.` and the parameters of ISO/IEC 14496-15 annex E.3.
pub(super) fn hevc_codecs(hvcc: &Hvcc) -> String {
    let space = match hvcc.general_profile_space {
        1 => "A",
        2 => "B",
        3 => "C",
        _ => "",
    };
    let compatibility = u32::from_be_bytes(hvcc.general_profile_compatibility_flags).reverse_bits();
    let mut fields = vec![format!(
        "hvc1.{space}{}.{compatibility:X}.{}{}",
        hvcc.general_profile_idc,
        if hvcc.general_tier_flag { 'H' } else { 'L' },
        hvcc.general_level_idc,
    )];
    let constraints = &hvcc.general_constraint_indicator_flags;
    let used = constraints
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |i| i + 1);
    fields.extend(constraints[..used].iter().map(|byte| format!("{byte:X}")));
    fields.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_idr_behind_parameter_sets() {
        let unit = [0, 0, 0, 2, 0x67, 1, 0, 0, 0, 1, 0x68, 0, 0, 0, 2, 0x65, 9];
        assert!(has_idr(&unit, 4));
        assert!(!has_idr(&unit[..11], 4));
        assert!(!has_idr(&[0, 0, 0, 9, 0x65], 4), "cut off");
        assert!(!has_idr(&[], 4));
    }

    #[test]
    fn finds_every_random_access_point_of_hevc() {
        assert!(has_irap(&[0, 2, 19 << 1, 1], 2), "IDR");
        assert!(has_irap(&[0, 2, 21 << 1, 1], 2), "CRA");
        assert!(!has_irap(&[0, 2, 1 << 1, 1], 2), "trailing picture");
    }

    #[test]
    fn codecs_of_main_profile() {
        let hvcc = Hvcc {
            general_profile_idc: 1,
            general_profile_compatibility_flags: [0x60, 0, 0, 0],
            general_constraint_indicator_flags: [0xb0, 0, 0, 0, 0, 0],
            general_level_idc: 93,
            ..Hvcc::new()
        };
        assert_eq!(hevc_codecs(&hvcc), "hvc1.1.6.L93.B0");
    }
}
