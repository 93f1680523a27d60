//! The codecs this client can publish, with the numbers that SDP and RTP need.

use std::{fmt, str::FromStr};

use anyhow::bail;
use str0m::{
    RtcConfig,
    format::{Codec as RtcCodec, FormatParams},
    media::{Frequency, Pt},
};

/// A video codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VideoCodec {
    /// H.264, RFC 6184 packetization mode 1.
    H264,
    /// H.265, RFC 7798.
    H265,
    /// AV1.
    Av1,
    /// VP9 profile 0, RFC 9628.
    Vp9,
}

impl VideoCodec {
    /// Every video codec.
    pub const ALL: [Self; 4] = [Self::H264, Self::H265, Self::Av1, Self::Vp9];

    /// `h264`, `h265`, `av1` or `vp9`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Av1 => "av1",
            Self::Vp9 => "vp9",
        }
    }

    /// Offers this codec, with payload type 96 and, if asked for, RTX on 97.
    pub(crate) fn offer(self, config: &mut RtcConfig, rtx: bool) {
        let pt = Pt::new_with_value(96);
        let resend = rtx.then(|| Pt::new_with_value(97));
        let codecs = config.codec_config();
        match self {
            // Says constrained baseline whatever the stream really is, as OBS does; receivers must read the SPS.
            Self::H264 => codecs.add_h264(pt, resend, true, 0x42_e0_1f),
            Self::H265 => codecs.add_h265(pt, resend, 1, 0, 93),
            Self::Av1 => codecs.add_config(
                pt,
                resend,
                RtcCodec::Av1,
                Frequency::NINETY_KHZ,
                None,
                FormatParams {
                    profile: Some(0),
                    level_idx: Some(5),
                    tier: Some(0),
                    ..FormatParams::default()
                },
            ),
            Self::Vp9 => codecs.add_config(
                pt,
                resend,
                RtcCodec::Vp9,
                Frequency::NINETY_KHZ,
                None,
                FormatParams {
                    profile_id: Some(0),
                    ..FormatParams::default()
                },
            ),
        }
    }
}

/// Offers Opus with payload type 111.
pub(crate) fn offer_opus(config: &mut RtcConfig) {
    config.codec_config().add_config(
        Pt::new_with_value(111),
        None,
        RtcCodec::Opus,
        Frequency::FORTY_EIGHT_KHZ,
        Some(2),
        FormatParams {
            stereo: Some(true),
            sprop_stereo: Some(true),
            min_p_time: Some(10),
            use_inband_fec: Some(true),
            ..FormatParams::default()
        },
    );
}

impl fmt::Display for VideoCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for VideoCodec {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match Self::ALL
            .into_iter()
            .find(|codec| codec.as_str().eq_ignore_ascii_case(name))
        {
            Some(codec) => Ok(codec),
            None => bail!("unknown video codec {name:?}: expected h264, h265, av1 or vp9"),
        }
    }
}
