//! Profiles, bit depths and ways of packing that publishers use: each arrives complete, and the codecs string (RFC 6381)
//! is what the bitstream says.

use std::process::Command;

use whipgate::media::{Codec, InitSegment, Part};

use crate::{
    SETTINGS,
    boxes::{read_init, read_parts},
    decode,
    media::{self, Media},
    run,
};

/// Pictures in a test.
const FRAMES: usize = 70;

/// Packs a picture of noise, whose slices are large, with this encoder and payloader.
fn video(codec: Codec, format: &str, chain: &str) -> Media {
    media::packets(
        codec,
        &format!(
            "videotestsrc num-buffers={FRAMES} pattern=snow \
             ! video/x-raw,format={format},width=320,height=240,framerate=30/1 ! {chain}"
        ),
    )
}

/// Runs it, with all pictures there and decodable; returns the init segment.
fn complete(media: &Media) -> (InitSegment, Vec<Part>) {
    let collected = run(media, &SETTINGS);
    let (init, parts) = collected.single();
    read_init(init);
    assert_eq!(read_parts(parts, 1).len(), FRAMES);
    assert_eq!(decode(init, parts), FRAMES);
    (init.clone(), parts.to_vec())
}

fn x264(profile: &str, options: &str, payloader: &str) -> Media {
    video(
        Codec::H264,
        "I420",
        &format!(
            "x264enc speed-preset=superfast key-int-max=30 threads=1 bitrate=1500 bframes=0 \
             option-string=scenecut=0:{options} ! video/x-h264,profile={profile} ! rtph264pay {payloader}"
        ),
    )
}

/// The types of the NAL units or aggregates that the packets begin with.
fn h264_types(media: &Media) -> Vec<u8> {
    let mut types: Vec<_> = media
        .packets
        .iter()
        .map(|(p, _)| p.payload[0] & 0x1f)
        .collect();
    types.sort_unstable();
    types.dedup();
    types
}

fn h265_types(media: &Media) -> Vec<u8> {
    let mut types: Vec<_> = media
        .packets
        .iter()
        .map(|(p, _)| p.payload[0] >> 1 & 0x3f)
        .collect();
    types.sort_unstable();
    types.dedup();
    types
}

#[test]
fn h264_profiles_are_told_as_the_parameter_set_says() {
    for (profile, codecs) in [
        ("constrained-baseline", "avc1.42c0"),
        ("main", "avc1.4d40"),
        ("high", "avc1.6400"),
    ] {
        let media = x264(profile, "threads=1", "config-interval=-1 mtu=1200");
        // The offer's promise is worth nothing: OBS says baseline and sends High.
        let mut promised = media.clone();
        promised.track.fmtp = "profile-level-id=42e01f;packetization-mode=1".to_owned();
        let (init, _) = complete(&promised);
        assert!(
            init.codecs.starts_with(codecs),
            "{profile}: {}",
            init.codecs
        );
        let moov = read_init(&init);
        let mp4_atom::Codec::Avc1(entry) = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else {
            panic!("not an avc1 entry");
        };
        let sps = &entry.avcc.sequence_parameter_sets[0];
        let exact = format!("avc1.{:02x}{:02x}{:02x}", sps[1], sps[2], sps[3]);
        assert_eq!(init.codecs, exact, "{profile}");
    }
}

#[test]
fn h264_in_packetization_mode_0() {
    let mut media = x264(
        "constrained-baseline",
        "slice-max-size=1000",
        "config-interval=-1 mtu=1400",
    );
    media.track.fmtp = "profile-level-id=42e01f;packetization-mode=0".to_owned();
    assert!(
        h264_types(&media).iter().all(|kind| *kind < 24),
        "single NAL units only"
    );
    assert!(
        media.packets.len() > 2 * FRAMES,
        "several slices to a picture"
    );
    complete(&media);
}

#[test]
fn h264_in_aggregates_and_fragments() {
    let mut media = x264(
        "high",
        "threads=1",
        "config-interval=-1 mtu=1200 aggregate-mode=zero-latency",
    );
    media.track.fmtp = "packetization-mode=1".to_owned();
    let types = h264_types(&media);
    assert!(types.contains(&24), "STAP-A: {types:?}");
    assert!(types.contains(&28), "FU-A: {types:?}");
    complete(&media);
}

#[test]
fn h265_in_aggregates_and_fragments() {
    let media = video(
        Codec::H265,
        "I420",
        "x265enc speed-preset=ultrafast key-int-max=30 bitrate=1500 \
         option-string=scenecut=0:open-gop=0:bframes=0:repeat-headers=1:pools=none:frame-threads=1 \
         ! rtph265pay config-interval=-1 mtu=1200 aggregate-mode=zero-latency",
    );
    let types = h265_types(&media);
    assert!(types.contains(&48), "aggregation packets: {types:?}");
    assert!(types.contains(&49), "fragmentation units: {types:?}");
    let (init, _) = complete(&media);
    let moov = read_init(&init);
    let mp4_atom::Codec::Hvc1(entry) = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else {
        panic!("not an hvc1 entry");
    };
    let level = entry.hvcc.general_level_idc;
    assert_eq!(init.codecs, format!("hvc1.1.6.L{level}.90"));
}

#[test]
fn vp9_with_8_and_10_bits() {
    for (format, codecs) in [("I420", "vp09.00.20.08"), ("I420_10LE", "vp09.02.20.10")] {
        let mut media = video(
            Codec::Vp9,
            format,
            "vp9enc deadline=1 cpu-used=8 lag-in-frames=0 keyframe-max-dist=30 target-bitrate=1000000 \
             ! rtpvp9pay mtu=1200",
        );
        if format == "I420_10LE" {
            media.track.fmtp = "profile-id=2".to_owned();
        }
        assert_eq!(complete(&media).0.codecs, codecs);
    }
}

#[test]
fn av1_with_10_bits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ten.mkv");
    // GStreamer 1.22 has no encoder for it.
    let encoded = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i"])
        .arg("testsrc2=size=320x240:rate=30")
        .args(["-frames:v", "70", "-pix_fmt", "yuv420p10le", "-g", "30"])
        .args(["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8"])
        .args(["-lag-in-frames", "0", "-b:v", "1M"])
        .arg(&file)
        .status()
        .expect("ffmpeg is installed (Debian package ffmpeg)");
    assert!(encoded.success());
    let media = media::file(Codec::Av1, &file);
    assert_eq!(complete(&media).0.codecs, "av01.0.00M.10");
}

#[test]
fn opus_in_mono_and_stereo_is_the_same_track() {
    let channels = |channels: u8| {
        let mut media = media::packets(
            Codec::Opus,
            &format!(
                "audiotestsrc num-buffers=100 samplesperbuffer=960 \
                 ! audio/x-raw,rate=48000,channels={channels} ! opusenc frame-size=20 ! rtpopuspay"
            ),
        );
        media.track.fmtp = format!("sprop-stereo={}", channels - 1);
        media
    };
    let (mono, stereo) = (channels(1), channels(2));
    let stereo_bit = |media: &Media| media.packets[10].0.payload[0] & 0b100 != 0;
    assert!(!stereo_bit(&mono) && stereo_bit(&stereo));
    // A publisher may change from one to the other at any time, and players must not notice.
    for media in [mono.clone(), stereo.clone(), mono.then(&stereo, 20_000_000)] {
        let collected = run(&media, &SETTINGS);
        let (init, parts) = collected.single();
        assert_eq!((init.codecs.as_str(), init.channels), ("opus", 2));
        assert_eq!(read_parts(parts, 1).len(), media.packets.len());
        decode(init, parts);
    }
}
