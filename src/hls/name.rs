//! The names of init segments, segments and parts, to and from text; knows nothing of what they contain.
//!
//! A name is given out once and for ever, so that whatever is fetched under it may be cached as immutable: it carries
//! the [`StreamKey`], which tells successive streams of one session apart. Parts are numbered through the whole
//! rendition and not within their segment, because the name of the next part has to be hinted before anybody knows
//! whether it will start a new segment.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::media::{AudioFormat, MediaKind};

/// What tells the names of one stream from those of every other stream of the same session, for ever: 1 to 32
/// characters of `[a-z0-9]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey(Arc<str>);

impl StreamKey {
    /// Longest permitted key, in characters.
    pub const MAX_LEN: usize = 32;

    /// A key made of the present moment, in microseconds since 1970.
    pub fn now() -> Self {
        let micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        Self(base36(micros).into())
    }

    /// Takes a text of the permitted characters.
    pub fn parse(text: &str) -> Option<Self> {
        is_key(text).then(|| Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_key(text: &str) -> bool {
    (1..=StreamKey::MAX_LEN).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn base36(mut value: u128) -> String {
    let mut digits = String::new();
    loop {
        let digit = u32::try_from(value % 36).unwrap_or(0);
        digits.insert(0, char::from_digit(digit, 36).unwrap_or('0'));
        value /= 36;
        if value == 0 {
            return digits;
        }
    }
}

/// Which rendition of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RenditionId {
    /// The pictures.
    Video,
    /// The sound in Opus.
    Audio,
    /// The sound in AAC, made while somebody plays it.
    Aac,
}

impl RenditionId {
    /// The directory of its playlist.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Aac => "aac",
        }
    }

    /// Video or audio.
    pub const fn kind(self) -> MediaKind {
        match self {
            Self::Video => MediaKind::Video,
            Self::Audio | Self::Aac => MediaKind::Audio,
        }
    }
}

/// The rendition that every stream with such a track has.
impl From<MediaKind> for RenditionId {
    fn from(kind: MediaKind) -> Self {
        match kind {
            MediaKind::Video => Self::Video,
            MediaKind::Audio => Self::Audio,
        }
    }
}

impl From<AudioFormat> for RenditionId {
    fn from(format: AudioFormat) -> Self {
        match format {
            AudioFormat::Opus => Self::Audio,
            AudioFormat::Aac => Self::Aac,
        }
    }
}

/// What a name stands for, within one rendition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// Init segment, numbered from 0 in the order they came.
    Init(u64),
    /// Segment, by its media sequence number.
    Segment(u64),
    /// Part, numbered from 0 through the whole rendition.
    Part(u64),
}

/// A name as it stands in playlists, relative to the media playlist: `<key>-init-<n>.mp4`, `<key>-s<msn>.mp4` or
/// `<key>-p<n>.mp4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// The stream it belongs to.
    pub key: &'a str,
    /// What it names.
    pub item: Item,
}

impl<'a> Name<'a> {
    /// Takes a name apart. Only the exact text that [`fmt::Display`] gives is a name: no sign, no leading zero.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (key, item) = text.strip_suffix(".mp4")?.split_once('-')?;
        if !is_key(key) {
            return None;
        }
        let item = if let Some(number) = item.strip_prefix("init-") {
            Item::Init(parse_number(number)?)
        } else if let Some(number) = item.strip_prefix('s') {
            Item::Segment(parse_number(number)?)
        } else {
            Item::Part(parse_number(item.strip_prefix('p')?)?)
        };
        Some(Self { key, item })
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key)?;
        f.write_char('-')?;
        match self.item {
            Item::Init(number) => write!(f, "init-{number}.mp4"),
            Item::Segment(msn) => write!(f, "s{msn}.mp4"),
            Item::Part(number) => write!(f, "p{number}.mp4"),
        }
    }
}

/// A decimal number in its one canonical spelling.
fn parse_number(text: &str) -> Option<u64> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_of_different_moments_differ() {
        assert_eq!(base36(0), "0");
        assert_eq!(base36(35 + 36), "1z");
        assert!(is_key(StreamKey::now().as_str()));
        assert!(StreamKey::parse("").is_none());
        assert!(StreamKey::parse("a-b").is_none());
        assert!(StreamKey::parse(&"a".repeat(33)).is_none());
    }

    #[test]
    fn other_spellings_are_no_names() {
        for text in [
            "",
            ".mp4",
            "k-s.mp4",
            "k-s01.mp4",
            "k-s+1.mp4",
            "k-s1.m4s",
            "k-x1.mp4",
            "K-s1.mp4",
            "-s1.mp4",
            "k-init-.mp4",
            "k-s18446744073709551616.mp4",
            "../k-s1.mp4",
            "k-s1.mp4/",
        ] {
            assert_eq!(Name::parse(text), None, "{text:?}");
        }
    }

    fn item() -> impl Strategy<Value = Item> {
        prop_oneof![
            any::<u64>().prop_map(Item::Init),
            any::<u64>().prop_map(Item::Segment),
            any::<u64>().prop_map(Item::Part),
        ]
    }

    proptest! {
        #[test]
        fn a_name_survives_text(key in "[a-z0-9]{1,32}", item in item()) {
            let name = Name { key: &key, item };
            let text = name.to_string();
            prop_assert_eq!(Name::parse(&text), Some(name));
        }

        #[test]
        fn whatever_parses_is_spelled_the_one_way(text in "[a-zA-Z0-9+./-]{0,8}-(s|p|init-)[0-9+]{0,21}\\.mp4") {
            if let Some(name) = Name::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
