//! The playlist of a finished recording: byte ranges of one file (RFC 8216bis section 4.4.4.2), which nothing is copied
//! for. Pure.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use super::Document;

/// A finished recording as a playlist lists it. One media playlist with all tracks in its segments, as they lie in the
/// file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VodPlaylist {
    /// The file, relative to the playlist.
    pub uri: String,
    /// The init segments.
    pub maps: Vec<VodMap>,
    /// The segments, in order.
    pub segments: Vec<VodSegment>,
}

/// `EXT-X-MAP` (section 4.4.4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VodMap {
    /// Bytes of the file.
    Range {
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Something else, relative to the playlist.
    Uri(String),
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VodSegment {
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Length in time.
    pub duration: Duration,
    /// Index of its init segment.
    pub map: usize,
    /// Starts with a keyframe.
    pub independent: bool,
    /// Not continuous with the segment before.
    pub discontinuity: bool,
}

impl VodPlaylist {
    /// The playlist, rendered. `tag` names the state of the file, and is the entity tag without quotes.
    pub fn document(&self, tag: &str) -> Arc<Document> {
        let mut text = String::with_capacity(200 + self.segments.len() * (60 + self.uri.len()));
        let written = write!(text, "{self}");
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        Document::new(text, format!("{tag}-index"))
    }

    /// `EXT-X-TARGETDURATION`: no segment, rounded to seconds, is longer (section 4.4.3.1).
    fn target_duration(&self) -> u64 {
        let rounded = |duration: Duration| (duration + Duration::from_millis(500)).as_secs();
        let durations = self.segments.iter().map(|s| rounded(s.duration));
        durations.max().unwrap_or(0).max(1)
    }
}

impl fmt::Display for VodPlaylist {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Section 8: EXT-X-MAP asks for 6.
        writeln!(out, "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-PLAYLIST-TYPE:VOD")?;
        if self.segments.iter().all(|segment| segment.independent) {
            writeln!(out, "#EXT-X-INDEPENDENT-SEGMENTS")?;
        }
        writeln!(out, "#EXT-X-TARGETDURATION:{}", self.target_duration())?;
        writeln!(out, "#EXT-X-MEDIA-SEQUENCE:0")?;
        let mut map = None;
        for segment in &self.segments {
            if segment.discontinuity {
                writeln!(out, "#EXT-X-DISCONTINUITY")?;
            }
            if segment.discontinuity || map != Some(segment.map) {
                match self.maps.get(segment.map) {
                    Some(VodMap::Range { offset, len }) => writeln!(
                        out,
                        "#EXT-X-MAP:URI=\"{}\",BYTERANGE=\"{len}@{offset}\"",
                        self.uri
                    )?,
                    Some(VodMap::Uri(uri)) => writeln!(out, "#EXT-X-MAP:URI=\"{uri}\"")?,
                    None => {}
                }
                map = Some(segment.map);
            }
            writeln!(
                out,
                "#EXTINF:{:.5},\n#EXT-X-BYTERANGE:{}@{}\n{}",
                segment.duration.as_secs_f64(),
                segment.len,
                segment.offset,
                self.uri
            )?;
        }
        writeln!(out, "#EXT-X-ENDLIST")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_ranges_of_one_file() {
        let segment = |offset, millis, map| VodSegment {
            offset,
            len: 1000,
            duration: Duration::from_millis(millis),
            map,
            independent: true,
            discontinuity: map > 0,
        };
        let playlist = VodPlaylist {
            uri: "../a.mp4".to_owned(),
            maps: vec![
                VodMap::Range {
                    offset: 48,
                    len: 900,
                },
                VodMap::Uri("init-1.mp4".to_owned()),
            ],
            segments: vec![
                segment(1048, 2000, 0),
                segment(2048, 2499, 0),
                segment(3148, 700, 1),
            ],
        };
        insta::assert_snapshot!(playlist, @r#"
        #EXTM3U
        #EXT-X-VERSION:6
        #EXT-X-PLAYLIST-TYPE:VOD
        #EXT-X-INDEPENDENT-SEGMENTS
        #EXT-X-TARGETDURATION:2
        #EXT-X-MEDIA-SEQUENCE:0
        #EXT-X-MAP:URI="../a.mp4",BYTERANGE="900@48"
        #EXTINF:2.00000,
        #EXT-X-BYTERANGE:1000@1048
        ../a.mp4
        #EXTINF:2.49900,
        #EXT-X-BYTERANGE:1000@2048
        ../a.mp4
        #EXT-X-DISCONTINUITY
        #EXT-X-MAP:URI="init-1.mp4"
        #EXTINF:0.70000,
        #EXT-X-BYTERANGE:1000@3148
        ../a.mp4
        #EXT-X-ENDLIST
        "#);
    }
}
