//! The condition of a `PATCH` (RFC 9725 section 4.3.1, RFC 9110 section 13.1.1) and the tag it is about.

use actix_web::http::header::{HeaderMap, HeaderValue, IF_MATCH, InvalidHeaderValue};

/// What `If-Match` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// No such header.
    Missing,
    /// `*`: an ICE restart. Also the quoted `"*"`, as in an example of the RFC.
    Any,
    /// The strong tags of a list, without quotes; a weak one never matches and is left out.
    Tags(Vec<String>),
    /// Neither of them.
    Malformed,
}

impl IfMatch {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(IF_MATCH).peekable();
        if lines.peek().is_none() {
            return Self::Missing;
        }
        // Several lines are one list (RFC 9110 section 5.3).
        let mut list = String::new();
        for line in lines {
            let Ok(line) = line.to_str() else {
                return Self::Malformed;
            };
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(line);
        }
        Self::parse(&list)
    }

    fn parse(list: &str) -> Self {
        let mut rest = list.trim();
        if matches!(rest, "*" | "\"*\"") {
            return Self::Any;
        }
        let mut tags = Vec::new();
        loop {
            // Empty elements of a list are ignored (RFC 9110 section 5.6.1.2).
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Self::Tags(tags);
            }
            let (weak, quoted) = match rest.strip_prefix("W/") {
                Some(after) => (true, after),
                None => (false, rest),
            };
            let Some((tag, after)) = quoted
                .strip_prefix('"')
                .and_then(|after| after.split_once('"'))
            else {
                return Self::Malformed;
            };
            rest = after.trim_start_matches([' ', '\t']);
            if !(rest.is_empty() || rest.starts_with(',')) {
                return Self::Malformed;
            }
            if !weak {
                tags.push(tag.to_owned());
            }
        }
    }
}

/// A strong entity tag as a header value.
pub(super) fn header_value(etag: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    HeaderValue::try_from(format!("\"{etag}\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tags<const N: usize>(tags: [&str; N]) -> IfMatch {
        IfMatch::Tags(tags.map(str::to_owned).to_vec())
    }

    #[test]
    fn reads_what_clients_send() {
        for (text, expected) in [
            ("*", IfMatch::Any),
            (" * ", IfMatch::Any),
            ("\"*\"", IfMatch::Any),
            ("\"a\"", tags(["a"])),
            ("\"a\", \"b,c\" ,W/\"d\",", tags(["a", "b,c"])),
            ("W/\"a\"", tags([])),
            ("W/\"*\"", tags([])),
            ("\"\"", tags([""])),
            ("", tags([])),
            ("a", IfMatch::Malformed),
            ("\"a", IfMatch::Malformed),
            ("\"a\"b", IfMatch::Malformed),
            ("\"a\", *", IfMatch::Malformed),
        ] {
            assert_eq!(IfMatch::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut headers = HeaderMap::new();
        assert_eq!(IfMatch::of(&headers), IfMatch::Missing);
        headers.append(IF_MATCH, HeaderValue::from_static("\"a\""));
        headers.append(IF_MATCH, HeaderValue::from_static("\"b\""));
        assert_eq!(IfMatch::of(&headers), tags(["a", "b"]));
    }

    proptest! {
        #[test]
        fn a_list_of_tags_is_read_back(list in prop::collection::vec("[!#-~]{0,8}", 1..5)) {
            prop_assume!(list != ["*"]);
            let text = list.iter().map(|tag| format!("\"{tag}\"")).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(IfMatch::parse(&text), IfMatch::Tags(list));
        }

        #[test]
        fn never_panics(text in ".{0,64}") {
            IfMatch::parse(&text);
        }
    }
}
