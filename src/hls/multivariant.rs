//! The text of the multivariant playlist (RFC 8216bis section 4.4.6) from a plain description of it. Pure.

use std::{fmt, sync::Arc};

/// Everything the multivariant playlist says.
#[derive(Clone, Debug, Default)]
pub(super) struct Multivariant {
    /// Every segment of every rendition starts with a sample that decodes by itself, for ever.
    pub(super) independent_segments: bool,
    /// Sound to go with the variants.
    pub(super) audio: Vec<AudioRendition>,
    /// The variants, best first.
    pub(super) variants: Vec<Variant>,
}

/// `EXT-X-MEDIA` of type `AUDIO`.
#[derive(Clone, Debug)]
pub(super) struct AudioRendition {
    /// The rendition's name, also of the group in which it is alone: another form of the same sound is another group.
    pub(super) name: Arc<str>,
    /// Number of channels.
    pub(super) channels: u8,
}

/// `EXT-X-STREAM-INF`.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// The rendition's name.
    pub(super) name: Arc<str>,
    /// Peak bits per second, sound included.
    pub(super) bandwidth: u64,
    /// Average bits per second, sound included.
    pub(super) average_bandwidth: u64,
    /// RFC 6381 codecs of the variant and its sound.
    pub(super) codecs: Vec<String>,
    /// Width and height in pixels.
    pub(super) resolution: Option<(u32, u32)>,
    /// Pictures per second.
    pub(super) frame_rate: Option<f64>,
    /// The group of sound that goes with it.
    pub(super) audio: Option<Arc<str>>,
}

impl fmt::Display for Multivariant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("#EXTM3U\n")?;
        // Section 8: nothing in here needs a version, but EXT-X-MEDIA is not understood below 4.
        if !self.audio.is_empty() {
            out.write_str("#EXT-X-VERSION:4\n")?;
        }
        if self.independent_segments {
            out.write_str("#EXT-X-INDEPENDENT-SEGMENTS\n")?;
        }
        for (index, audio) in self.audio.iter().enumerate() {
            let default = if index == 0 { "YES" } else { "NO" };
            writeln!(
                out,
                "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"{0}\",NAME=\"{0}\",DEFAULT={default},AUTOSELECT=YES,\
                 CHANNELS=\"{1}\",URI=\"{0}/index.m3u8\"",
                audio.name, audio.channels
            )?;
        }
        for variant in &self.variants {
            write!(
                out,
                "#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},CODECS=\"{}\"",
                variant.bandwidth,
                variant.average_bandwidth,
                variant.codecs.join(",")
            )?;
            if let Some((width, height)) = variant.resolution {
                write!(out, ",RESOLUTION={width}x{height}")?;
            }
            if let Some(rate) = variant.frame_rate {
                write!(out, ",FRAME-RATE={rate:.3}")?;
            }
            if let Some(group) = &variant.audio {
                write!(out, ",AUDIO=\"{group}\"")?;
            }
            writeln!(out, "\n{}/index.m3u8", variant.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn video_with_audio() {
        let playlist = Multivariant {
            independent_segments: false,
            audio: vec![AudioRendition {
                name: "audio".into(),
                channels: 2,
            }],
            variants: vec![Variant {
                name: "video".into(),
                bandwidth: 2_900_000,
                average_bandwidth: 2_600_000,
                codecs: vec!["avc1.64001f".to_owned(), "opus".to_owned()],
                resolution: Some((1280, 720)),
                frame_rate: Some(30.0),
                audio: Some("audio".into()),
            }],
        };
        insta::assert_snapshot!(playlist, @r#"
        #EXTM3U
        #EXT-X-VERSION:4
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="audio",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",URI="audio/index.m3u8"
        #EXT-X-STREAM-INF:BANDWIDTH=2900000,AVERAGE-BANDWIDTH=2600000,CODECS="avc1.64001f,opus",RESOLUTION=1280x720,FRAME-RATE=30.000,AUDIO="audio"
        video/index.m3u8
        "#);
    }

    #[test]
    fn audio_only() {
        let playlist = Multivariant {
            independent_segments: true,
            audio: Vec::new(),
            variants: vec![Variant {
                name: "audio".into(),
                bandwidth: 70_000,
                average_bandwidth: 64_000,
                codecs: vec!["opus".to_owned()],
                resolution: None,
                frame_rate: None,
                audio: None,
            }],
        };
        insta::assert_snapshot!(playlist, @r#"
        #EXTM3U
        #EXT-X-INDEPENDENT-SEGMENTS
        #EXT-X-STREAM-INF:BANDWIDTH=70000,AVERAGE-BANDWIDTH=64000,CODECS="opus"
        audio/index.m3u8
        "#);
    }
}
