//! The few playlist tags a measuring client needs (RFC 8216bis). Reads leniently: it measures, it does not validate.

use anyhow::{Context, Result, ensure};

/// A part of a media playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Media sequence number of its segment.
    pub msn: u64,
    /// Index in its segment.
    pub index: u64,
    /// As written, relative to the playlist.
    pub uri: String,
    /// `INDEPENDENT=YES`.
    pub independent: bool,
}

/// A complete segment of a media playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Media sequence number.
    pub msn: u64,
    /// As written, relative to the playlist.
    pub uri: String,
}

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaPlaylist {
    /// Complete segments, oldest first.
    pub segments: Vec<Segment>,
    /// Listed parts, oldest first; those of the segment in progress are last.
    pub parts: Vec<Part>,
    /// URI of the last `EXT-X-MAP`.
    pub map: Option<String>,
    /// Media sequence number of the segment in progress.
    pub current_msn: u64,
    /// `CAN-BLOCK-RELOAD=YES`.
    pub can_block: bool,
    /// `EXT-X-ENDLIST`.
    pub ended: bool,
}

impl MediaPlaylist {
    /// Reads a playlist.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.trim_start().starts_with("#EXTM3U"), "not a playlist");
        let mut playlist = Self::default();
        let mut index = 0;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(sequence) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                playlist.current_msn = sequence
                    .trim()
                    .parse()
                    .context("bad EXT-X-MEDIA-SEQUENCE")?;
            } else if let Some(list) = line.strip_prefix("#EXT-X-SKIP:") {
                let skipped: u64 = attribute(list, "SKIPPED-SEGMENTS")
                    .and_then(|count| count.parse().ok())
                    .context("bad EXT-X-SKIP")?;
                playlist.current_msn += skipped;
            } else if let Some(list) = line.strip_prefix("#EXT-X-PART:") {
                ensure!(
                    attribute(list, "BYTERANGE").is_none(),
                    "parts by BYTERANGE are not read here"
                );
                let uri = attribute(list, "URI")
                    .context("EXT-X-PART without URI")?
                    .to_owned();
                let independent = attribute(list, "INDEPENDENT") == Some("YES");
                playlist.parts.push(Part {
                    msn: playlist.current_msn,
                    index,
                    uri,
                    independent,
                });
                index += 1;
            } else if let Some(list) = line.strip_prefix("#EXT-X-MAP:") {
                playlist.map = attribute(list, "URI").map(str::to_owned);
            } else if let Some(list) = line.strip_prefix("#EXT-X-SERVER-CONTROL:") {
                playlist.can_block = attribute(list, "CAN-BLOCK-RELOAD") == Some("YES");
            } else if line == "#EXT-X-ENDLIST" {
                playlist.ended = true;
            } else if !line.starts_with('#') {
                playlist.segments.push(Segment {
                    msn: playlist.current_msn,
                    uri: line.to_owned(),
                });
                playlist.current_msn += 1;
                index = 0;
            }
        }
        Ok(playlist)
    }

    /// Media sequence number and part index to ask for in a blocking reload: what is not listed yet.
    pub fn next(&self) -> (u64, u64) {
        let index = self
            .parts
            .last()
            .filter(|part| part.msn == self.current_msn)
            .map_or(0, |part| part.index + 1);
        (self.current_msn, index)
    }
}

/// URI of the first variant of a multivariant playlist; `None` if it has none.
pub fn first_variant(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("#EXT-X-STREAM-INF:"))?;
    lines.find(|line| !line.is_empty() && !line.starts_with('#'))
}

/// URI of the first audio rendition of a multivariant playlist; `None` if it has none.
pub fn audio_rendition(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    lines.find_map(|line| {
        let list = line.strip_prefix("#EXT-X-MEDIA:")?;
        attribute(list, "URI").filter(|_| attribute(list, "TYPE") == Some("AUDIO"))
    })
}

/// Value of an attribute without quotes; commas inside quotes do not end it.
fn attribute<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = list;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, following) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, following) = quoted.split_once('"')?;
                (value, following.strip_prefix(',').unwrap_or(following))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim() == name {
            return Some(value);
        }
        rest = following;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: &str = "#EXTM3U
#EXT-X-VERSION:9
#EXT-X-TARGETDURATION:2
#EXT-X-SERVER-CONTROL:PART-HOLD-BACK=0.6,CAN-BLOCK-RELOAD=YES
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI=\"init.mp4\"
#EXTINF:2.0,
s7.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T00:00:00Z
#EXT-X-PART:DURATION=0.2,URI=\"s8.0.m4s?a=1,2\",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.2,URI=\"s8.1.m4s\"
#EXTINF:2.0,
s8.m4s
#EXT-X-PART:INDEPENDENT=YES,DURATION=0.2,URI=\"s9.0.m4s\"
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"s9.1.m4s\"
";

    #[test]
    fn numbers_segments_and_parts() {
        let playlist = MediaPlaylist::parse(MEDIA).unwrap();
        assert_eq!(
            playlist
                .segments
                .iter()
                .map(|segment| segment.msn)
                .collect::<Vec<_>>(),
            [7, 8]
        );
        let parts: Vec<_> = playlist
            .parts
            .iter()
            .map(|part| (part.msn, part.index, part.uri.as_str(), part.independent))
            .collect();
        assert_eq!(
            parts,
            [
                (8, 0, "s8.0.m4s?a=1,2", true),
                (8, 1, "s8.1.m4s", false),
                (9, 0, "s9.0.m4s", true)
            ]
        );
        assert_eq!(playlist.map.as_deref(), Some("init.mp4"));
        assert!(playlist.can_block && !playlist.ended);
        assert_eq!(playlist.next(), (9, 1));
    }

    #[test]
    fn asks_for_the_first_part_after_a_complete_segment_and_knows_the_end() {
        let text = "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:3\n#EXT-X-PART:DURATION=1,URI=\"a\"\n#EXTINF:1,\nb\n#EXT-X-ENDLIST\n";
        let playlist = MediaPlaylist::parse(text).unwrap();
        assert_eq!(playlist.next(), (4, 0));
        assert!(playlist.ended);
        assert!(MediaPlaylist::parse("<html>").is_err());
    }

    #[test]
    fn counts_segments_that_a_delta_update_skips() {
        let text = "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:3\n#EXT-X-SKIP:SKIPPED-SEGMENTS=4\n#EXTINF:1,\nb\n#EXT-X-PART:DURATION=1,URI=\"a\"\n";
        let playlist = MediaPlaylist::parse(text).unwrap();
        assert_eq!((playlist.segments[0].msn, playlist.next()), (7, (8, 1)));
        assert!(MediaPlaylist::parse("#EXTM3U\n#EXT-X-SKIP:\n").is_err());
    }

    #[test]
    fn finds_the_variant() {
        let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio.m3u8\"\n#EXT-X-STREAM-INF:BANDWIDTH=1\nvideo.m3u8\n";
        assert_eq!(first_variant(text), Some("video.m3u8"));
        assert_eq!(audio_rendition(text), Some("audio.m3u8"));
        assert_eq!(audio_rendition(MEDIA), None);
        assert_eq!(first_variant(MEDIA), None);
    }
}
