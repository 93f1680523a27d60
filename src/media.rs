//! The words that transport, timeline, pipeline and outputs share: codecs, tracks, RTP packets, sender reports.
//!
//! Plain values with no dependency but `bytes`, so that the WebRTC stack on one side and GStreamer on the other
//! can each be exchanged without the rest noticing.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

impl MediaKind {
    /// `video` or `audio`, as in an SDP media line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
        }
    }
}

impl fmt::Display for MediaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A codec that can be published. Most are passed through; [`Self::transcoded_to`] says which are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// H.264 / AVC, RTP payload format RFC 6184.
    H264,
    /// H.265 / HEVC, RTP payload format RFC 7798.
    H265,
    /// AV1, RTP payload format of the Alliance for Open Media.
    Av1,
    /// VP9, RTP payload format RFC 9628.
    Vp9,
    /// VP8, RTP payload format RFC 7741.
    Vp8,
    /// Opus, RTP payload format RFC 7587.
    Opus,
    /// G.722, RTP payload format RFC 3551 section 4.5.2.
    G722,
    /// G.711 with µ-law, RTP payload format RFC 3551 section 4.5.14.
    Pcmu,
    /// G.711 with A-law, RTP payload format RFC 3551 section 4.5.14.
    Pcma,
}

impl Codec {
    /// Every codec, video first.
    pub const ALL: [Self; 9] = [
        Self::H264,
        Self::H265,
        Self::Av1,
        Self::Vp9,
        Self::Vp8,
        Self::Opus,
        Self::G722,
        Self::Pcmu,
        Self::Pcma,
    ];

    /// Video or audio.
    pub const fn kind(self) -> MediaKind {
        match self {
            Self::H264 | Self::H265 | Self::Av1 | Self::Vp9 | Self::Vp8 => MediaKind::Video,
            Self::Opus | Self::G722 | Self::Pcmu | Self::Pcma => MediaKind::Audio,
        }
    }

    /// What its media is turned into, because players (VP8, G.711, G.722 in fragmented MP4) do not take it as it is;
    /// `None` if it is passed through.
    pub const fn transcoded_to(self) -> Option<Self> {
        match self {
            Self::H264 | Self::H265 | Self::Av1 | Self::Vp9 | Self::Opus => None,
            Self::Vp8 => Some(Self::H264),
            Self::G722 | Self::Pcmu | Self::Pcma => Some(Self::Opus),
        }
    }

    /// The name in our configuration, file names and JSON: `h264`, `h265`, `av1`, `vp9`, `vp8`, `opus`, `g722`, `pcmu`,
    /// `pcma`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Av1 => "av1",
            Self::Vp9 => "vp9",
            Self::Vp8 => "vp8",
            Self::Opus => "opus",
            Self::G722 => "g722",
            Self::Pcmu => "pcmu",
            Self::Pcma => "pcma",
        }
    }

    /// The encoding name of an SDP `a=rtpmap` line in its registered spelling; compare without case (RFC 8866 6.6).
    pub const fn encoding_name(self) -> &'static str {
        match self {
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
            Self::Vp8 => "VP8",
            Self::Opus => "opus",
            Self::G722 => "G722",
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    /// RTP clock rate in Hz. That of G.722 is half its sampling rate (RFC 3551 section 4.5.2).
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::H264 | Self::H265 | Self::Av1 | Self::Vp9 | Self::Vp8 => 90_000,
            Self::Opus => 48_000,
            Self::G722 | Self::Pcmu | Self::Pcma => 8_000,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A codec name that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown codec {0:?}: expected one of h264, h265, av1, vp9, vp8, opus, g722, pcmu, pcma")]
pub struct UnknownCodec(String);

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.encoding_name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownCodec(name.to_owned()))
    }
}

/// A form in which sound is offered to viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioFormat {
    /// Opus: as it was published, or what it was transcoded to.
    Opus,
    /// AAC-LC, made from the published sound while somebody plays it.
    Aac,
}

impl AudioFormat {
    /// `opus` or `aac`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Aac => "aac",
        }
    }
}

impl fmt::Display for AudioFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Index of a track within one publication, in the order of the offer's media lines, counted from 0.
pub type TrackIndex = usize;

/// One negotiated track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrackInfo {
    /// Codec, taken from the answer that was negotiated.
    pub codec: Codec,
    /// RTP payload type of the codec in this publication.
    pub payload_type: u8,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Audio channels as `a=rtpmap` says them (Opus always says 2, RFC 7587 section 7); 0 for video.
    pub channels: u8,
    /// The `a=fmtp` parameters of the offer for this payload type, without the payload type; may be empty.
    pub fmtp: String,
    /// The media line's `a=mid`.
    pub mid: String,
}

/// One RTP packet (RFC 3550 section 5.1), decrypted, without header extensions and padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpPacket {
    /// Payload type.
    pub payload_type: u8,
    /// Marker bit: for video the last packet of a picture.
    pub marker: bool,
    /// Sequence number, wraps at 2^16.
    pub sequence_number: u16,
    /// Timestamp in units of the track's clock rate, wraps at 2^32.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Payload, without padding. May be empty (probing packets).
    pub payload: Bytes,
}

/// The part of an RTCP sender report that maps RTP time to the sender's wall clock (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    /// Synchronisation source the report is about.
    pub ssrc: u32,
    /// NTP timestamp, 32.32 fixed point, seconds since 1900.
    pub ntp: u64,
    /// The same instant in RTP timestamp units.
    pub rtp_timestamp: u32,
}

/// Time since an arbitrary start that never goes back; passed in so that no core has a clock of its own.
pub type Monotonic = Duration;

/// The initialization segment of one track (`ftyp` + `moov` without samples, ISO/IEC 14496-12 section 8.16) and what
/// playlists must say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitSegment {
    /// The boxes.
    pub bytes: Bytes,
    /// RFC 6381 codecs string, taken from the bitstream, for example `avc1.64001f`.
    pub codecs: String,
    /// Units per second of every time in the track's parts.
    pub timescale: u32,
    /// Picture size in pixels; `None` for audio.
    pub resolution: Option<(u32, u32)>,
    /// Audio channels; 0 for video.
    pub channels: u8,
}

/// A part (RFC 8216bis section 4.4.4.9): one `moof` and its `mdat` with consecutive samples of one track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The boxes `moof` + `mdat`; `moof` is the first box and `mfhd` its first child.
    pub bytes: Bytes,
    /// Decode time of the first sample (`tfdt`), in units of `InitSegment::timescale`.
    pub decode_time: u64,
    /// Earliest presentation time in the part, in units of the timescale.
    pub presentation_time: u64,
    /// Sum of the sample durations, in units of the timescale.
    pub duration: u64,
    /// Number of samples.
    pub samples: u32,
    /// Starts with a sample that can be decoded without any before it.
    pub independent: bool,
    /// First part of a new segment.
    pub starts_segment: bool,
    /// Timing or encoding is not continuous with the part before (also true for the first part after a new init).
    pub discontinuity: bool,
}

/// Bytes that were written to a file and can be read back by position.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The open file; readers use positioned reads only.
    pub file: std::sync::Arc<std::fs::File>,
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}
