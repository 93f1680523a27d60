//! Byte ranges (RFC 9110 section 14): from a header's text and a length to what is to be sent. Pure; knows neither
//! what the bytes are nor where they lie.

use super::etag;

/// What of a representation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of it: 200.
    Whole,
    /// The bytes from `first` to `last`, both included: 206.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, at least `first` and less than the length.
        last: u64,
    },
    /// Nothing that is there: 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a representation of `len` bytes.
///
/// A header that is malformed, of another unit or of several ranges is ignored, as section 14.2 permits: the answer
/// then is the whole, which every client understands.
pub(super) fn select(range: &str, len: u64) -> Selection {
    let Some(spec) = range
        .split_once('=')
        .filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))
        .map(|(_, set)| set.trim())
    else {
        return Selection::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Selection::Whole;
    };
    match (number(first), number(last)) {
        (Number::Is(first), Number::Absent) => part(first, u64::MAX, len),
        (Number::Is(first), Number::Is(last)) if first <= last => part(first, last, len),
        (Number::Absent, Number::Is(suffix)) => match len.min(suffix) {
            0 => Selection::Unsatisfiable,
            count => part(len - count, u64::MAX, len),
        },
        _ => Selection::Whole,
    }
}

/// Whether a `Range` counts under this `If-Range` (section 13.1.5): only for the same strong entity tag. A date never
/// counts, because no answer of ours promises that a second tells two states apart.
pub(super) fn if_range_holds(if_range: &str, current: &str) -> bool {
    etag::strong_match(if_range.trim(), current)
}

fn part(first: u64, last: u64, len: u64) -> Selection {
    if first >= len {
        Selection::Unsatisfiable
    } else {
        Selection::Part {
            first,
            last: last.min(len - 1),
        }
    }
}

enum Number {
    Absent,
    Is(u64),
    Malformed,
}

/// A decimal number; one that is too large for us is larger than any file.
fn number(text: &str) -> Number {
    let text = text.trim();
    if text.is_empty() {
        Number::Absent
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        Number::Is(text.parse().unwrap_or(u64::MAX))
    } else {
        Number::Malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(first: u64, last: u64) -> Selection {
        Selection::Part { first, last }
    }

    #[test]
    fn ranges_of_a_thousand_bytes() {
        for (header, selection) in [
            ("bytes=0-0", bytes(0, 0)),
            ("bytes=0-499", bytes(0, 499)),
            ("bytes=500-", bytes(500, 999)),
            ("bytes=-1", bytes(999, 999)),
            ("bytes=-5000", bytes(0, 999)),
            ("bytes=990-99999999999999999999999", bytes(990, 999)),
            ("Bytes = 1 - 2 ", bytes(1, 2)),
            ("bytes=999-999", bytes(999, 999)),
            ("bytes=1000-", Selection::Unsatisfiable),
            ("bytes=1000-2000", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=2-1", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=0x1-2", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes=0-1,5-6", Selection::Whole),
            ("lines=0-1", Selection::Whole),
            ("", Selection::Whole),
        ] {
            assert_eq!(select(header, 1000), selection, "{header:?}");
        }
    }

    #[test]
    fn nothing_of_an_empty_file_can_be_selected() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(select(header, 0), Selection::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn if_range_takes_only_the_same_strong_tag() {
        assert!(if_range_holds("\"a\"", "\"a\""));
        assert!(!if_range_holds("\"a\"", "\"b\""));
        assert!(!if_range_holds("W/\"a\"", "W/\"a\""));
        assert!(!if_range_holds("\"a\"", "W/\"a\""));
        assert!(!if_range_holds("Sun, 22 Nov 2026 06:37:00 GMT", "\"a\""));
    }

    proptest! {
        #[test]
        fn a_selected_part_lies_within_the_file(header in "(bytes=)?[0-9, =a-]{0,24}", len in 0..2000_u64) {
            if let Selection::Part { first, last } = select(&header, len) {
                prop_assert!(first <= last && last < len);
            }
        }

        #[test]
        fn well_formed_ranges_select_what_they_say(first in 0..100_u64, count in 1..100_u64, len in 1..150_u64) {
            let last = first + count - 1;
            let expected = if first < len { bytes(first, last.min(len - 1)) } else { Selection::Unsatisfiable };
            prop_assert_eq!(select(&format!("bytes={first}-{last}"), len), expected);
        }
    }
}
