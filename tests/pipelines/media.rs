//! Real RTP, made by GStreamer's encoders and payloaders.

// Each user needs another half of it, and what is parsed here is no pipeline of the gateway.
#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::disallowed_methods
)]

use bytes::Bytes;
use gstreamer::{self as gst, prelude::*};
use gstreamer_app as gst_app;
use whipgate::media::{Codec, MediaKind, RtpPacket, TrackInfo};

/// One track as a publisher would send it: packets with the presentation times they belong to.
#[derive(Clone, Debug)]
pub(crate) struct Media {
    pub track: TrackInfo,
    pub packets: Vec<(RtpPacket, i64)>,
}

/// A moving test picture.
#[derive(Clone, Copy)]
pub(crate) struct Video {
    pub codec: Codec,
    pub frames: usize,
    pub size: (u32, u32),
    /// Pictures per second.
    pub rate: u32,
    /// Distance of keyframes in pictures.
    pub keyframes: u32,
    pub b_frames: u32,
}

impl Video {
    pub(crate) const fn new(codec: Codec, frames: usize) -> Self {
        Self {
            codec,
            frames,
            size: (320, 240),
            rate: 30,
            keyframes: 60,
            b_frames: 0,
        }
    }

    pub(crate) fn make(self) -> Media {
        let Self {
            codec,
            frames,
            size: (width, height),
            rate,
            keyframes,
            b_frames,
        } = self;
        let chain = match codec {
            Codec::H264 => format!(
                "x264enc speed-preset=ultrafast bframes={b_frames} key-int-max={keyframes} \
                 option-string=scenecut=0:open-gop=0 threads=1 \
                 ! video/x-h264,profile={} ! rtph264pay config-interval=-1 mtu=1200",
                if b_frames > 0 {
                    "main"
                } else {
                    "constrained-baseline"
                },
            ),
            Codec::H265 => format!(
                "x265enc speed-preset=ultrafast key-int-max={keyframes} \
                 option-string=scenecut=0:open-gop=0:bframes={b_frames}:repeat-headers=1:pools=none:frame-threads=1 \
                 ! rtph265pay config-interval=-1 mtu=1200"
            ),
            Codec::Av1 => format!(
                "av1enc usage-profile=realtime cpu-used=8 lag-in-frames=0 \
                 keyframe-max-dist={keyframes} threads=1 ! av1parse ! rtpav1pay mtu=1200"
            ),
            Codec::Vp9 => format!(
                "vp9enc deadline=1 cpu-used=8 lag-in-frames=0 keyframe-max-dist={keyframes} \
                 target-bitrate=300000 ! rtpvp9pay mtu=1200"
            ),
            Codec::Vp8 => format!(
                "vp8enc deadline=1 cpu-used=8 lag-in-frames=0 keyframe-max-dist={keyframes} \
                 target-bitrate=800000 ! rtpvp8pay mtu=1200"
            ),
            sound => unreachable!("{sound} is not a video codec"),
        };
        packets(
            codec,
            &format!(
                "videotestsrc num-buffers={frames} pattern=ball \
                 ! video/x-raw,format=I420,width={width},height={height},framerate={rate}/1 ! {chain}"
            ),
        )
    }
}

/// A tone in Opus packets of 20 ms.
pub(crate) fn opus(packets_wanted: usize) -> Media {
    packets(
        Codec::Opus,
        &format!(
            "audiotestsrc num-buffers={packets_wanted} samplesperbuffer=960 \
             ! audio/x-raw,rate=48000,channels=2 ! opusenc frame-size=20 ! rtpopuspay"
        ),
    )
}

/// A tone in packets of 20 ms.
pub(crate) fn tone(codec: Codec, packets_wanted: usize) -> Media {
    let rate = sampling_rate(codec);
    sound(
        codec,
        &format!(
            "audiotestsrc num-buffers={packets_wanted} samplesperbuffer={} ! audio/x-raw,rate={rate},channels=1",
            rate / 50
        ),
    )
}

/// Sound of one channel at [`sampling_rate`], 16 bits a sample, in packets of 20 ms.
pub(crate) fn samples(codec: Codec, samples: &[i16]) -> Media {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    std::fs::write(file.path(), bytes).unwrap();
    sound(
        codec,
        &format!(
            "filesrc location={} ! rawaudioparse format=pcm pcm-format=s16le sample-rate={} num-channels=1",
            file.path().display(),
            sampling_rate(codec)
        ),
    )
}

/// Samples per second that an audio codec is given.
pub(crate) fn sampling_rate(codec: Codec) -> u32 {
    match codec {
        Codec::Opus => 48_000,
        Codec::G722 => 16_000,
        _ => 8_000,
    }
}

fn sound(codec: Codec, source: &str) -> Media {
    let chain = match codec {
        Codec::Opus => "opusenc frame-size=20 bitrate=128000 ! rtpopuspay",
        Codec::G722 => "avenc_g722 ! rtpg722pay",
        Codec::Pcmu => "mulawenc ! rtppcmupay",
        Codec::Pcma => "alawenc ! rtppcmapay",
        other => unreachable!("{other} is not an audio codec"),
    };
    let ptime = if codec == Codec::Opus {
        ""
    } else {
        " min-ptime=20000000 max-ptime=20000000"
    };
    packets(codec, &format!("{source} ! audioconvert ! {chain}{ptime}"))
}

/// The track of that codec in a media file.
pub(crate) fn file(codec: Codec, path: &std::path::Path) -> Media {
    let payloader = match codec {
        Codec::H264 => "rtph264pay config-interval=-1",
        Codec::H265 => "rtph265pay config-interval=-1",
        Codec::Av1 => "rtpav1pay",
        Codec::Vp9 => "rtpvp9pay",
        Codec::Vp8 => "rtpvp8pay",
        Codec::Opus => "rtpopuspay",
        Codec::G722 => "rtpg722pay",
        Codec::Pcmu => "rtppcmupay",
        Codec::Pcma => "rtppcmapay",
    };
    let path = path.display().to_string().replace('"', "\\\"");
    packets(
        codec,
        &format!("filesrc location=\"{path}\" ! parsebin ! {payloader} mtu=1200"),
    )
}

/// What the payloader at the end of a chain of elements makes.
pub(crate) fn packets(codec: Codec, chain: &str) -> Media {
    whipgate::pipeline::init().expect("GStreamer starts");
    let text = format!("{chain} ! appsink name=out sync=false");
    let pipeline = gst::parse::launch(&text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .downcast::<gst::Pipeline>()
        .unwrap();
    let sink = pipeline
        .by_name("out")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut packets: Vec<(RtpPacket, i64)> = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        let segment = sample
            .segment()
            .and_then(|s| s.downcast_ref::<gst::ClockTime>())
            .unwrap();
        let mut add = |buffer: &gst::BufferRef| {
            let pts = segment.to_running_time(buffer.pts()).unwrap();
            let map = buffer.map_readable().unwrap();
            packets.push((parse(&map), i64::try_from(pts.nseconds()).unwrap()));
        };
        if let Some(list) = sample.buffer_list() {
            list.iter().for_each(add);
        } else {
            add(sample.buffer().unwrap());
        }
    }
    let error = pipeline
        .bus()
        .unwrap()
        .pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(error.is_none(), "{text}: {error:?}");
    assert!(!packets.is_empty(), "{text}: no packets");
    if codec.kind() == MediaKind::Audio {
        // The encoder's own times begin before its first sample, which shortens the first packet.
        for (index, (_, pts)) in packets.iter_mut().enumerate() {
            *pts = index as i64 * 20_000_000;
        }
    }
    Media {
        track: TrackInfo {
            codec,
            payload_type: packets[0].0.payload_type,
            clock_rate: codec.clock_rate(),
            channels: match codec.kind() {
                MediaKind::Video => 0,
                MediaKind::Audio if codec == Codec::Opus => 2,
                MediaKind::Audio => 1,
            },
            fmtp: String::new(),
            mid: "0".to_owned(),
        },
        packets,
    }
}

fn parse(bytes: &[u8]) -> RtpPacket {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes[0] & 0x2f, 0, "no padding, no contributing sources");
    let extension = if bytes[0] & 0x10 != 0 {
        4 + 4 * (word(12) & 0xffff) as usize
    } else {
        0
    };
    RtpPacket {
        payload_type: bytes[1] & 0x7f,
        marker: bytes[1] & 0x80 != 0,
        sequence_number: u16::from_be_bytes([bytes[2], bytes[3]]),
        timestamp: word(4),
        ssrc: word(8),
        payload: Bytes::copy_from_slice(&bytes[12 + extension..]),
    }
}

impl Media {
    /// Puts `later` behind this track, `gap` nanoseconds after its last packet, in the same RTP stream.
    pub(crate) fn then(mut self, later: &Self, gap: i64) -> Self {
        let (last, end) = self.packets.last().unwrap().clone();
        let (first, start) = later.packets[0].clone();
        let shift = end + gap - start;
        let ticks = gap as u128 * u128::from(self.track.clock_rate) / 1_000_000_000;
        for (packet, pts) in &later.packets {
            let mut packet = packet.clone();
            packet.payload_type = last.payload_type;
            packet.ssrc = last.ssrc;
            packet.sequence_number = packet
                .sequence_number
                .wrapping_sub(first.sequence_number)
                .wrapping_add(last.sequence_number)
                .wrapping_add(1);
            packet.timestamp = packet
                .timestamp
                .wrapping_sub(first.timestamp)
                .wrapping_add(last.timestamp)
                .wrapping_add(ticks as u32);
            self.packets.push((packet, pts + shift));
        }
        self
    }
}
