//! Encoders: raw pictures and sound in, access units out, on GStreamer with stock elements.
//!
//! The only module here that names GStreamer. It keeps no clock: pipelines are not live and output depends on input only.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use gstreamer::{self as gst, prelude::*};
use gstreamer_app::{AppSink, AppSrc};

use crate::{bitstream, codec::VideoCodec, packetize::AccessUnit, tone};

/// Samples by which `opusenc` (generic audio at 48 kHz) delays the sound. Receivers of RTP do not cut them off (RFC 7587
/// has no pre-skip), so the sources start that much earlier.
pub const OPUS_LOOKAHEAD: u64 = 312;
/// Samples per Opus packet: 20 ms.
pub const OPUS_SAMPLES: u64 = 960;

/// Size, rate and codec of encoded pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VideoFormat {
    /// Codec.
    pub codec: VideoCodec,
    /// Width in pixels, even.
    pub width: u32,
    /// Height in pixels, even.
    pub height: u32,
    /// Pictures per second.
    pub fps: u32,
    /// Kilobits per second, held about constant.
    pub kbps: u32,
    /// Pictures from one keyframe to the next.
    pub keyframe_every: u32,
    /// H.264 only: High profile with CABAC instead of constrained baseline.
    pub high_profile: bool,
    /// H.264 only: so many pictures between two others are predicted from both; needs the High profile.
    pub b_frames: u32,
}

impl Default for VideoFormat {
    /// H.264 constrained baseline, 1280x720, 30 pictures/s, 2.5 Mbit/s, a keyframe every 2 s.
    fn default() -> Self {
        Self {
            codec: VideoCodec::H264,
            width: 1280,
            height: 720,
            fps: 30,
            kbps: 2500,
            keyframe_every: 60,
            high_profile: false,
            b_frames: 0,
        }
    }
}

/// An encoded access unit with its time in nanoseconds since the source's zero.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) pts: u64,
    pub(crate) unit: AccessUnit,
}

/// One encoder in a pipeline of its own; stopped when dropped.
pub(crate) struct Encoder {
    pipeline: gst::Pipeline,
    source: AppSrc,
    sink: AppSink,
    video: Option<VideoCodec>,
    /// Opus packets so far.
    packets: AtomicU64,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("video", &self.video)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    pub(crate) fn video(format: &VideoFormat) -> Result<Self> {
        gst::init().context("cannot start GStreamer")?;
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", format.width as i32)
            .field("height", format.height as i32)
            .field("framerate", gst::Fraction::new(format.fps as i32, 1))
            .field("colorimetry", "bt709")
            .build();
        let mut chain = vec![video_encoder(format)?];
        let nal_caps = |media: &str| {
            gst::Caps::builder(media)
                .field("stream-format", "byte-stream")
                .field("alignment", "au")
        };
        let wanted = match format.codec {
            VideoCodec::H264 => {
                let profile = if format.high_profile {
                    "high"
                } else {
                    "constrained-baseline"
                };
                let encoder_caps = nal_caps("video/x-h264").field("profile", profile).build();
                chain.push(make("capsfilter")?);
                set_caps(&chain, &encoder_caps);
                let parser = make("h264parse")?;
                parser.set_property("config-interval", -1);
                chain.push(parser);
                nal_caps("video/x-h264").build()
            }
            VideoCodec::H265 => {
                let parser = make("h265parse")?;
                parser.set_property("config-interval", -1);
                chain.push(parser);
                nal_caps("video/x-h265").build()
            }
            VideoCodec::Av1 => {
                chain.push(make("av1parse")?);
                gst::Caps::builder("video/x-av1")
                    .field("stream-format", "obu-stream")
                    .field("alignment", "tu")
                    .build()
            }
            VideoCodec::Vp9 => gst::Caps::builder("video/x-vp9").build(),
        };
        Self::assemble(&caps, chain, &wanted, Some(format.codec))
    }

    pub(crate) fn opus(bits_per_second: u32, mono: bool) -> Result<Self> {
        gst::init().context("cannot start GStreamer")?;
        let caps = gst::Caps::builder("audio/x-raw")
            .field("format", "S16LE")
            .field("layout", "interleaved")
            .field("rate", tone::RATE as i32);
        let caps = if mono {
            caps.field("channels", 1i32).build()
        } else {
            caps.field("channels", tone::CHANNELS as i32)
                .field("channel-mask", gst::Bitmask::new(3))
                .build()
        };
        let encoder = make("opusenc")?;
        encoder.set_property("bitrate", bits_per_second as i32);
        encoder.set_property_from_str("frame-size", "20");
        encoder.set_property_from_str("bitrate-type", "cbr");
        encoder.set_property_from_str("audio-type", "generic");
        Self::assemble(
            &caps,
            vec![encoder],
            &gst::Caps::builder("audio/x-opus").build(),
            None,
        )
    }

    fn assemble(
        input: &gst::Caps,
        chain: Vec<gst::Element>,
        output: &gst::Caps,
        video: Option<VideoCodec>,
    ) -> Result<Self> {
        let source = AppSrc::builder()
            .caps(input)
            .format(gst::Format::Time)
            .block(true)
            .build();
        source.set_property("max-buffers", 4u64);
        let sink = AppSink::builder()
            .caps(output)
            .sync(false)
            .max_buffers(0)
            .build();
        let mut elements: Vec<gst::Element> = vec![source.clone().upcast()];
        elements.extend(chain);
        elements.push(sink.clone().upcast());
        let pipeline = gst::Pipeline::new();
        pipeline.add_many(&elements)?;
        gst::Element::link_many(&elements).context("cannot link the encoder")?;
        let encoder = Self {
            pipeline,
            source,
            sink,
            video,
            packets: AtomicU64::new(0),
        };
        encoder
            .pipeline
            .set_state(gst::State::Playing)
            .map_err(|error| encoder.failure(&error))?;
        Ok(encoder)
    }

    /// One raw picture or block of samples; waits while the encoder is busy.
    pub(crate) fn push(&self, pts: u64, duration: u64, raw: Vec<u8>) -> Result<()> {
        let mut buffer = gst::Buffer::from_mut_slice(raw);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(gst::ClockTime::from_nseconds(pts));
            buffer.set_duration(gst::ClockTime::from_nseconds(duration));
        }
        self.source
            .push_buffer(buffer)
            .map(drop)
            .map_err(|error| self.failure(&error))
    }

    /// No more input: [`Self::pull`] gives what is left and then `None`.
    pub(crate) fn finish(&self) -> Result<()> {
        self.source
            .end_of_stream()
            .map(drop)
            .map_err(|error| self.failure(&error))
    }

    /// The next access unit; `None` at the end.
    pub(crate) fn pull(&self) -> Result<Option<Encoded>> {
        let Ok(sample) = self.sink.pull_sample() else {
            return match self.error() {
                Some(error) => Err(error),
                None => Ok(None),
            };
        };
        let buffer = sample
            .buffer()
            .context("encoder gave a sample without data")?;
        let bytes = Bytes::copy_from_slice(&buffer.map_readable()?);
        let Some(codec) = self.video else {
            // `opusenc` takes its lookahead off the time stamps; in RTP nobody would add it again.
            let pts = self.packets.fetch_add(1, Ordering::Relaxed) * 20_000_000;
            return Ok(Some(Encoded {
                pts,
                unit: AccessUnit {
                    pieces: vec![bytes],
                    keyframe: true,
                },
            }));
        };
        let keyframe = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        // x264enc moves its time stamps by 1000 hours and its segment with them: only running time is the source's.
        let pts = sample
            .segment()
            .and_then(|segment| segment.downcast_ref::<gst::ClockTime>())
            .and_then(|segment| segment.to_running_time(buffer.pts()?))
            .context("encoder gave data without a time")?
            .nseconds();
        Ok(Some(Encoded {
            pts,
            unit: AccessUnit {
                pieces: bitstream::split(codec, &bytes)?,
                keyframe,
            },
        }))
    }

    /// Makes the next picture a keyframe.
    pub(crate) fn force_keyframe(&self) {
        let structure = gst::Structure::builder("GstForceKeyUnit")
            .field("all-headers", true)
            .build();
        if !self
            .sink
            .send_event(gst::event::CustomUpstream::new(structure))
        {
            tracing::warn!("the encoder refused a keyframe request");
        }
    }

    fn error(&self) -> Option<anyhow::Error> {
        let bus = self.pipeline.bus()?;
        let message = bus.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) => Some(anyhow!(
                "encoder failed: {} ({})",
                error.error(),
                error.debug().unwrap_or_default()
            )),
            _ => None,
        }
    }

    fn failure(&self, otherwise: &dyn std::fmt::Debug) -> anyhow::Error {
        self.error()
            .unwrap_or_else(|| anyhow!("encoder failed: {otherwise:?}"))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if let Err(error) = self.pipeline.set_state(gst::State::Null) {
            tracing::warn!(%error, "cannot stop the encoder");
        }
    }
}

fn video_encoder(format: &VideoFormat) -> Result<gst::Element> {
    let encoder;
    match format.codec {
        VideoCodec::H264 => {
            encoder = make("x264enc")?;
            if format.b_frames == 0 {
                encoder.set_property_from_str("tune", "zerolatency");
            } else {
                encoder.set_property("bframes", format.b_frames);
                encoder.set_property("b-adapt", false);
                encoder.set_property("b-pyramid", false);
            }
            encoder.set_property_from_str("speed-preset", "veryfast");
            encoder.set_property("bitrate", format.kbps);
            encoder.set_property("vbv-buf-capacity", 600u32);
            encoder.set_property("key-int-max", format.keyframe_every);
            encoder.set_property("threads", 2u32);
            encoder.set_property("option-string", "scenecut=0:open-gop=0");
        }
        VideoCodec::H265 => {
            encoder = make("x265enc")?;
            encoder.set_property_from_str("tune", "zerolatency");
            encoder.set_property_from_str("speed-preset", "ultrafast");
            encoder.set_property("bitrate", format.kbps);
            encoder.set_property("key-int-max", format.keyframe_every as i32);
            encoder.set_property(
                "option-string",
                format!(
                    "scenecut=0:open-gop=0:repeat-headers=1:info=0:log-level=error:vbv-maxrate={0}:vbv-bufsize={0}",
                    format.kbps
                ),
            );
        }
        VideoCodec::Av1 => {
            encoder = make("av1enc")?;
            encoder.set_property_from_str("usage-profile", "realtime");
            encoder.set_property_from_str("end-usage", "cbr");
            encoder.set_property("cpu-used", 10i32);
            // The element's defaults of 0 mean lossless, on which libaom's rate control fails an assertion.
            encoder.set_property("min-quantizer", 2u32);
            encoder.set_property("max-quantizer", 56u32);
            encoder.set_property("lag-in-frames", 0u32);
            encoder.set_property("target-bitrate", format.kbps);
            encoder.set_property("keyframe-max-dist", format.keyframe_every as i32);
        }
        VideoCodec::Vp9 => {
            encoder = make("vp9enc")?;
            encoder.set_property("deadline", 1i64);
            encoder.set_property("cpu-used", 8i32);
            encoder.set_property_from_str("end-usage", "cbr");
            encoder.set_property("lag-in-frames", 0i32);
            encoder.set_property("auto-alt-ref", false);
            encoder.set_property("target-bitrate", (format.kbps * 1000) as i32);
            encoder.set_property("keyframe-max-dist", format.keyframe_every as i32);
        }
    }
    Ok(encoder)
}

fn set_caps(chain: &[gst::Element], caps: &gst::Caps) {
    if let Some(filter) = chain.last() {
        filter.set_property("caps", caps);
    }
}

/// An element by name; a missing one is named with the Debian package that has it.
fn make(name: &str) -> Result<gst::Element> {
    let package = match name {
        "x264enc" => "gstreamer1.0-plugins-ugly",
        "x265enc" | "av1enc" | "h264parse" | "h265parse" | "av1parse" => "gstreamer1.0-plugins-bad",
        "vp9enc" => "gstreamer1.0-plugins-good",
        "opusenc" => "gstreamer1.0-plugins-base",
        _ => "libgstreamer1.0-0",
    };
    match gst::ElementFactory::make(name).build() {
        Ok(element) => Ok(element),
        Err(error) => bail!("GStreamer element {name} is missing: apt install {package} ({error})"),
    }
}

/// Decoding of what was encoded, for tests of the sources.
#[cfg(test)]
pub(crate) mod decode {
    use super::*;

    /// Raw bytes of each decoded unit: I420 for video, interleaved 48 kHz S16LE stereo for audio.
    pub(crate) fn decode(units: &[AccessUnit], video: Option<VideoCodec>) -> Vec<Vec<u8>> {
        gst::init().unwrap();
        let (input, chain, output) = match video {
            Some(VideoCodec::H264) => (
                gst::Caps::builder("video/x-h264")
                    .field("stream-format", "byte-stream")
                    .field("alignment", "au")
                    .build(),
                vec!["h264parse", "avdec_h264", "videoconvert"],
                gst::Caps::builder("video/x-raw")
                    .field("format", "I420")
                    .build(),
            ),
            Some(codec) => panic!("no decoder chosen for {codec}"),
            None => (
                gst::Caps::builder("audio/x-opus")
                    .field("channel-mapping-family", 0)
                    .field("channels", 2)
                    .field("rate", 48_000)
                    .build(),
                vec!["opusdec"],
                gst::Caps::builder("audio/x-raw")
                    .field("format", "S16LE")
                    .build(),
            ),
        };
        let source = AppSrc::builder()
            .caps(&input)
            .format(gst::Format::Time)
            .build();
        let sink = AppSink::builder().caps(&output).sync(false).build();
        let mut elements: Vec<gst::Element> = vec![source.clone().upcast()];
        elements.extend(chain.into_iter().map(|name| make(name).unwrap()));
        elements.push(sink.clone().upcast());
        let pipeline = gst::Pipeline::new();
        pipeline.add_many(&elements).unwrap();
        gst::Element::link_many(&elements).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        for (index, unit) in units.iter().enumerate() {
            let mut bytes = Vec::new();
            for piece in &unit.pieces {
                if video.is_some() {
                    bytes.extend([0, 0, 0, 1]);
                }
                bytes.extend_from_slice(piece);
            }
            let mut buffer = gst::Buffer::from_mut_slice(bytes);
            let step = if video.is_some() {
                33_333_333
            } else {
                20_000_000
            };
            buffer
                .get_mut()
                .unwrap()
                .set_pts(gst::ClockTime::from_nseconds(index as u64 * step));
            source.push_buffer(buffer).unwrap();
        }
        source.end_of_stream().unwrap();
        let mut decoded = Vec::new();
        while let Ok(sample) = sink.pull_sample() {
            decoded.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
        }
        pipeline.set_state(gst::State::Null).unwrap();
        decoded
    }
}
