//! Posters: a JPEG of the keyframe that a part starts with, in every codec that viewers get.

use std::{fs, process::Command, time::Duration};

use bytes::Bytes;
use whipgate::{
    media::Codec,
    pipeline::{PipelineError, Pipelines, Text},
};

use crate::{SETTINGS, media, run};

const LIMIT: Duration = Duration::from_secs(20);

/// Codec, width and height of an image by ffprobe, which must not say a word.
fn probe(jpeg: &[u8]) -> (String, u32, u32) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), jpeg).unwrap();
    let output = Command::new("ffprobe")
        .args(["-v", "warning", "-f", "jpeg_pipe", "-show_entries"])
        .args(["stream=codec_name,width,height", "-of", "csv=p=0"])
        .arg(file.path())
        .output()
        .expect("ffprobe (Debian package ffmpeg)");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    let fields: Vec<_> = text.trim().split(',').collect();
    let number = |text: &str| text.parse().unwrap();
    (fields[0].to_owned(), number(fields[1]), number(fields[2]))
}

/// Mean of all colours in the upper left and in the middle of an image.
fn brightness(jpeg: &[u8]) -> (f64, f64) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), jpeg).unwrap();
    let mean = |crop: &str| {
        let output = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "jpeg_pipe", "-i"])
            .arg(file.path())
            .args(["-vf", crop, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
            .output()
            .expect("ffmpeg (Debian package ffmpeg)");
        let sum: f64 = output.stdout.iter().copied().map(f64::from).sum();
        sum / output.stdout.len() as f64
    };
    (mean("crop=16:16:0:0"), mean("crop=4:4"))
}

#[test]
fn every_codec_gives_a_picture_of_at_most_640_pixels_width() {
    let pipelines = Pipelines::load(None).unwrap();
    for (codec, size, poster) in [
        (Codec::H264, (1280, 720), (640, 360)),
        (Codec::H265, (720, 1280), (640, 1138)),
        (Codec::Av1, (320, 240), (320, 240)),
        (Codec::Vp9, (960, 540), (640, 360)),
        (Codec::Vp8, (640, 480), (640, 480)),
    ] {
        let media = media::Video {
            size,
            ..media::Video::new(codec, 20)
        };
        let collected = run(&media.make(), &SETTINGS);
        let (init, parts) = collected.single();
        assert!(parts[0].independent);
        let jpeg = pipelines
            .poster(init, parts[0].bytes.clone(), LIMIT)
            .unwrap_or_else(|error| panic!("{codec}: {error}"));
        let (width, height) = poster;
        assert_eq!(probe(&jpeg), ("mjpeg".to_owned(), width, height), "{codec}");
    }
}

#[test]
fn black_is_black_and_white_is_white() {
    let media = media::packets(
        Codec::H264,
        "videotestsrc num-buffers=8 pattern=solid-color foreground-color=0xff000000 \
         ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! videobox left=-160 right=-160 top=-120 bottom=-120 fill=white \
         ! videoconvert ! video/x-raw,format=I420 ! x264enc speed-preset=ultrafast threads=1 \
         ! video/x-h264,profile=constrained-baseline ! rtph264pay config-interval=-1",
    );
    let collected = run(&media, &SETTINGS);
    let (init, parts) = collected.single();
    let pipelines = Pipelines::load(None).unwrap();
    let jpeg = pipelines
        .poster(init, parts[0].bytes.clone(), LIMIT)
        .unwrap();
    let (corner, middle) = brightness(&jpeg);
    // Of the video's range of 16 to 235, JPEG makes 0 to 255.
    assert!(corner > 250.0 && middle < 5.0, "{corner} {middle}");
}

#[test]
fn a_part_that_cannot_be_decoded_is_told() {
    let pipelines = Pipelines::load(None).unwrap();
    let collected = run(&media::Video::new(Codec::H264, 20).make(), &SETTINGS);
    let (init, parts) = collected.single();
    let whole = &parts[0].bytes;
    for part in [
        Bytes::new(),
        whole.slice(..whole.len() / 20),
        Bytes::from_static(b"\0\0\0\x10nonsense12345678"),
    ] {
        let error = pipelines.poster(init, part, LIMIT).unwrap_err();
        assert!(matches!(error, PipelineError::Failed { .. }), "{error}");
    }
    // What the decoder got wrong does not stay behind.
    assert!(pipelines.poster(init, whole.clone(), LIMIT).is_ok());
}

#[test]
fn a_decoder_that_hangs_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("h264-poster.launch"),
        "appsrc name=media ! identity sleep-time=1000000 ! appsink name=picture",
    )
    .unwrap();
    let pipelines = Pipelines::load(Some(dir.path())).unwrap();
    let collected = run(&media::Video::new(Codec::H264, 20).make(), &SETTINGS);
    let (init, parts) = collected.single();
    let error = pipelines
        .poster(init, parts[0].bytes.clone(), Duration::from_millis(200))
        .unwrap_err();
    assert!(matches!(error, PipelineError::Stuck(_)), "{error}");
}

#[test]
fn a_missing_decoder_hinders_nothing_else_and_a_wrong_text_does() {
    let load = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("av1-poster.launch"), text).unwrap();
        let texts: Vec<_> = Text::posters().chain([Text::Main(Codec::Opus)]).collect();
        Pipelines::load_only(Some(dir.path()), &texts)
    };
    let pipelines = load("appsrc name=media ! nosuchdec ! appsink name=picture").unwrap();
    assert_eq!(pipelines.lacking()[0].0, Text::Poster(Codec::Av1));
    let init = whipgate::media::InitSegment {
        bytes: Bytes::new(),
        codecs: "av01.0.04M.08".to_owned(),
        timescale: 90_000,
        resolution: Some((320, 240)),
        channels: 0,
    };
    let error = pipelines.poster(&init, Bytes::new(), LIMIT).unwrap_err();
    assert!(
        matches!(&error, PipelineError::MissingElements(_))
            && error.to_string().contains("nosuchdec"),
        "{error}"
    );
    let error = load("appsrc name=media ! qtdemux ! av1dec ! fakesink").unwrap_err();
    assert!(
        error.to_string().contains("appsink name=picture"),
        "{error}"
    );
}
