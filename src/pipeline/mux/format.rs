//! What a track's media is: sample entry and RFC 6381 codecs string, from caps or from the bitstream.
//!
//! Owns the translation from caps of the parsers. H.264 and H.265 say everything in `codec_data`; for AV1 and VP9 the
//! parsers of GStreamer 1.22 leave out what the boxes need (level, `av1C`, colour), so keyframes are read instead.

use gstreamer as gst;
use mp4_atom::{Atom, Avc1, Avcc, Colr, Hvc1, Hvcc, Pasp, Visual};

use super::{
    aac::{self, Aac},
    av1, h26x, opus, vp9,
};

/// A sample entry and what playlists say about it. Two are equal when no new initialization segment is needed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrackFormat {
    pub entry: mp4_atom::Codec,
    pub codecs: String,
    /// Coded size in pixels; `None` for audio.
    pub resolution: Option<(u32, u32)>,
    /// 0 for video.
    pub channels: u8,
    pub pixel_aspect_ratio: (u32, u32),
}

impl TrackFormat {
    /// Size in square pixels, for the track header.
    pub(crate) fn display_size(&self) -> (u16, u16) {
        let (width, height) = self.resolution.unwrap_or_default();
        let (h, v) = self.pixel_aspect_ratio;
        let width = u64::from(width) * u64::from(h) / u64::from(v.max(1));
        (
            u16::try_from(width).unwrap_or(u16::MAX),
            u16::try_from(height).unwrap_or(u16::MAX),
        )
    }
}

/// Why caps cannot be muxed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("caps {0} are none that the mux can take")]
    Caps(String),
    #[error("caps {caps} have no {field}")]
    Field { caps: String, field: &'static str },
    #[error("codec_data of the caps: {0}")]
    CodecData(#[from] mp4_atom::Error),
    #[error("codec_data of the caps {0} is no AudioSpecificConfig that the mux can take")]
    AudioSpecificConfig(String),
}

/// What the mux takes.
pub(super) fn accepted() -> gst::Caps {
    [
        gst::Structure::builder("video/x-h264")
            .field("stream-format", gst::List::new(["avc", "avc3"]))
            .field("alignment", "au")
            .build(),
        gst::Structure::builder("video/x-h265")
            .field("stream-format", gst::List::new(["hvc1", "hev1"]))
            .field("alignment", "au")
            .build(),
        gst::Structure::builder("video/x-av1")
            .field("stream-format", "obu-stream")
            .field("alignment", "tu")
            .build(),
        gst::Structure::new_empty("video/x-vp9"),
        gst::Structure::new_empty("audio/x-opus"),
        gst::Structure::builder("audio/mpeg")
            .field("mpegversion", 4)
            .field("stream-format", "raw")
            .build(),
    ]
    .into_iter()
    .collect()
}

/// How to read the access units that belong to some caps.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    H264 {
        length_size: usize,
        format: TrackFormat,
    },
    H265 {
        length_size: usize,
        format: TrackFormat,
    },
    Av1,
    Vp9,
    Opus,
    Aac(Aac),
}

impl Input {
    pub(crate) fn from_caps(caps: &gst::CapsRef) -> Result<Self, FormatError> {
        let unknown = || FormatError::Caps(caps.to_string());
        let structure = caps.structure(0).ok_or_else(unknown)?;
        match structure.name().as_str() {
            "video/x-h264" => h264(caps, structure),
            "video/x-h265" => h265(caps, structure),
            "video/x-av1" => Ok(Self::Av1),
            "video/x-vp9" => Ok(Self::Vp9),
            "audio/x-opus" => Ok(Self::Opus),
            "audio/mpeg" => aac::read(&codec_data(caps, structure)?)
                .map(Self::Aac)
                .ok_or_else(|| FormatError::AudioSpecificConfig(caps.to_string())),
            _ => Err(unknown()),
        }
    }

    pub(crate) fn is_video(&self) -> bool {
        !matches!(self, Self::Opus | Self::Aac(_))
    }

    /// Whether the access unit can be decoded without any before it. H.264 and H.265 are looked into: parsers also call
    /// recovery points keyframes, which players refuse as the start of a segment.
    pub(crate) fn is_sync(&self, unit: &[u8], delta: bool) -> bool {
        match self {
            Self::H264 { length_size, .. } => h26x::has_idr(unit, *length_size),
            Self::H265 { length_size, .. } => h26x::has_irap(unit, *length_size),
            Self::Av1 => !delta && av1::format(unit).is_some(),
            Self::Vp9 => vp9::is_keyframe(unit),
            Self::Opus | Self::Aac(_) => true,
        }
    }

    /// The format that starts with this access unit, for which [`Self::is_sync`] holds.
    pub(crate) fn format_at(&self, unit: &[u8]) -> Option<TrackFormat> {
        match self {
            Self::H264 { format, .. } | Self::H265 { format, .. } => Some(format.clone()),
            Self::Av1 => av1::format(unit),
            Self::Vp9 => vp9::format(unit),
            Self::Opus => Some(opus::format()),
            Self::Aac(aac) => Some(aac.format.clone()),
        }
    }

    /// How long the access unit lasts by itself, in ticks of `timescale`.
    pub(crate) fn nominal_duration(&self, unit: &[u8], timescale: u32) -> Option<u64> {
        match self {
            Self::Opus => opus::packet_duration(unit)
                .map(|d| d * u64::from(timescale) / u64::from(opus::CLOCK_RATE)),
            // Where a frame is no whole number of ticks, durations follow the times.
            Self::Aac(aac) if timescale.is_multiple_of(aac.rate) => {
                Some(u64::from(aac.frame) * u64::from(timescale / aac.rate))
            }
            _ => None,
        }
    }

    /// Bytes at the start of the access unit that do not belong into a sample.
    pub(crate) fn prefix_len(&self, unit: &[u8]) -> usize {
        match self {
            Self::Av1 => av1::temporal_delimiter_len(unit),
            _ => 0,
        }
    }
}

/// A visual sample entry's common part.
pub(super) fn visual(width: u32, height: u32) -> Visual {
    Visual {
        data_reference_index: 1,
        width: u16::try_from(width).unwrap_or(u16::MAX),
        height: u16::try_from(height).unwrap_or(u16::MAX),
        ..Visual::default()
    }
}

fn h264(caps: &gst::CapsRef, structure: &gst::StructureRef) -> Result<Input, FormatError> {
    let avcc = Avcc::decode_body(&mut codec_data(caps, structure)?.as_slice())?;
    let picture = Picture::of(caps, structure)?;
    let codecs = format!(
        "avc1.{:02x}{:02x}{:02x}",
        avcc.avc_profile_indication, avcc.profile_compatibility, avcc.avc_level_indication
    );
    Ok(Input::H264 {
        length_size: avcc.length_size.into(),
        format: picture.format(
            codecs,
            Avc1 {
                visual: visual(picture.width, picture.height),
                avcc,
                colr: picture.colr.clone(),
                pasp: picture.pasp(),
                ..Avc1::default()
            },
        ),
    })
}

fn h265(caps: &gst::CapsRef, structure: &gst::StructureRef) -> Result<Input, FormatError> {
    let hvcc = Hvcc::decode_body(&mut codec_data(caps, structure)?.as_slice())?;
    let picture = Picture::of(caps, structure)?;
    Ok(Input::H265 {
        length_size: usize::from(hvcc.length_size_minus_one) + 1,
        format: picture.format(
            h26x::hevc_codecs(&hvcc),
            Hvc1 {
                visual: visual(picture.width, picture.height),
                hvcc,
                colr: picture.colr.clone(),
                pasp: picture.pasp(),
                ..Hvc1::default()
            },
        ),
    })
}

fn codec_data(caps: &gst::CapsRef, structure: &gst::StructureRef) -> Result<Vec<u8>, FormatError> {
    structure
        .get::<gst::Buffer>("codec_data")
        .ok()
        .and_then(|buffer| buffer.map_readable().ok().map(|map| map.to_vec()))
        .ok_or_else(|| FormatError::Field {
            caps: caps.to_string(),
            field: "codec_data",
        })
}

/// What caps say about a picture besides its codec.
struct Picture {
    width: u32,
    height: u32,
    pixel_aspect_ratio: (u32, u32),
    colr: Option<Colr>,
}

impl Picture {
    fn of(caps: &gst::CapsRef, structure: &gst::StructureRef) -> Result<Self, FormatError> {
        let size = |field: &'static str| {
            structure
                .get::<i32>(field)
                .ok()
                .and_then(|value| u32::try_from(value).ok())
                .ok_or_else(|| FormatError::Field {
                    caps: caps.to_string(),
                    field,
                })
        };
        let pixel_aspect_ratio = structure
            .get::<gst::Fraction>("pixel-aspect-ratio")
            .ok()
            .and_then(|par| {
                let h = u32::try_from(par.numer()).ok()?;
                let v = u32::try_from(par.denom()).ok()?;
                (h > 0 && v > 0).then_some((h, v))
            })
            .unwrap_or((1, 1));
        Ok(Self {
            width: size("width")?,
            height: size("height")?,
            pixel_aspect_ratio,
            colr: structure.get::<&str>("colorimetry").ok().and_then(colour),
        })
    }

    fn pasp(&self) -> Option<Pasp> {
        let (h_spacing, v_spacing) = self.pixel_aspect_ratio;
        (h_spacing != v_spacing).then_some(Pasp {
            h_spacing,
            v_spacing,
        })
    }

    fn format(&self, codecs: String, entry: impl Into<mp4_atom::Codec>) -> TrackFormat {
        TrackFormat {
            entry: entry.into(),
            codecs,
            resolution: Some((self.width, self.height)),
            channels: 0,
            pixel_aspect_ratio: self.pixel_aspect_ratio,
        }
    }
}

/// GStreamer's colorimetry as the code points of ISO/IEC 23091-2.
fn colour(text: &str) -> Option<Colr> {
    let colorimetry: gstreamer_video::VideoColorimetry = text.parse().ok()?;
    let point = |value: u32| u16::try_from(value).ok();
    Some(Colr::Nclx {
        colour_primaries: point(colorimetry.primaries().to_iso())?,
        transfer_characteristics: point(colorimetry.transfer().to_iso())?,
        matrix_coefficients: point(colorimetry.matrix().to_iso())?,
        full_range_flag: colorimetry.range() == gstreamer_video::VideoColorRange::Range0_255,
    })
}
