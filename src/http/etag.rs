//! Entity tags (RFC 9110 section 8.8.3) in conditions. Pure text.

/// Whether an `If-None-Match` header names `current`, by weak comparison (section 13.1.2): then a `GET` is answered
/// with 304.
pub(super) fn none_match_fails(header: &str, current: &str) -> bool {
    header.trim() == "*" || tags(header).any(|tag| opaque(tag) == opaque(current))
}

/// Strong comparison (section 8.8.3.2): the same, and neither is weak.
pub(super) fn strong_match(a: &str, b: &str) -> bool {
    a == b && a.starts_with('"')
}

fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The tags of a list. A comma may stand inside a tag, so the quotes decide where one ends.
fn tags(header: &str) -> impl Iterator<Item = &str> {
    let mut rest = header;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let start = if rest.starts_with("W/\"") {
            3
        } else if rest.starts_with('"') {
            1
        } else {
            return None;
        };
        let end = start + rest.get(start..)?.find('"')? + 1;
        let (tag, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_searched_by_weak_comparison() {
        for (header, matches) in [
            ("*", true),
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("\"b\",W/\"a\" , \"c\"", true),
            ("\"b\"", false),
            ("\"x,\\\"a\"", false),
            ("a", false),
            ("", false),
            ("\"a", false),
        ] {
            assert_eq!(none_match_fails(header, "\"a\""), matches, "{header}");
            assert_eq!(none_match_fails(header, "W/\"a\""), matches, "{header}");
        }
        assert!(none_match_fails("\"p\", \"x,y\"", "\"x,y\""));
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "[W/\", ab*é]{0,30}") {
            let _ = none_match_fails(&header, "\"a\"");
        }

        #[test]
        fn a_tag_is_found_among_others(before in proptest::collection::vec("[a-z,]{0,4}", 0..4), tag in "[A-Z,]{1,5}") {
            let mut all: Vec<String> = before.iter().map(|t| format!("\"{t}\"")).collect();
            all.push(format!("\"{tag}\""));
            let current = format!("\"{tag}\"");
            prop_assert!(none_match_fails(&all.join(", "), &current));
        }
    }
}
