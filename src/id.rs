//! [`SessionId`], the name a publisher and its viewers share.
//!
//! A leaf: everything that turns a name into a map key or a path goes through this type, and nothing else does.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of a session: 1 to 128 characters of `[A-Za-z0-9._~-]`, not starting with a dot.
///
/// Parsing is the only way to make one, so a `SessionId` is always safe as a file name and inside a URL path
/// (the characters are the unreserved ones of RFC 3986 section 2.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(Box<str>);

/// Why a text is not a [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSessionId {
    /// The text is empty or longer than [`SessionId::MAX_LEN`].
    #[error("a session id has 1 to 128 characters, this one has {0}")]
    Length(usize),
    /// A character outside `[A-Za-z0-9._~-]`.
    #[error("a session id may contain only letters, digits and . _ ~ -, not {0:?}")]
    Character(char),
    /// The first character is a dot.
    #[error("a session id must not start with a dot")]
    LeadingDot,
}

impl SessionId {
    /// Longest permitted id, in characters.
    pub const MAX_LEN: usize = 128;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(c) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-')))
        {
            return Err(InvalidSessionId::Character(c));
        }
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(InvalidSessionId::Length(text.len()));
        }
        if text.starts_with('.') {
            return Err(InvalidSessionId::LeadingDot);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for SessionId {
    type Error = InvalidSessionId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_the_unreserved_characters() {
        for id in ["a", "A-b_c.d~9", &"x".repeat(128)] {
            assert_eq!(id.parse::<SessionId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        assert_eq!("".parse::<SessionId>(), Err(InvalidSessionId::Length(0)));
        assert_eq!(
            "x".repeat(129).parse::<SessionId>(),
            Err(InvalidSessionId::Length(129))
        );
        assert_eq!("..".parse::<SessionId>(), Err(InvalidSessionId::LeadingDot));
        assert_eq!(
            "a/b".parse::<SessionId>(),
            Err(InvalidSessionId::Character('/'))
        );
        assert_eq!(
            "a\0".parse::<SessionId>(),
            Err(InvalidSessionId::Character('\0'))
        );
        assert_eq!(
            "é".parse::<SessionId>(),
            Err(InvalidSessionId::Character('é'))
        );
    }

    proptest! {
        #[test]
        fn whatever_parses_is_one_plain_path_component(text in ".{0,140}") {
            if let Ok(id) = text.parse::<SessionId>() {
                let path = std::path::Path::new(id.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
            }
        }
    }
}
