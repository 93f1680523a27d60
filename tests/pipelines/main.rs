//! Every pipeline text, run in process on real media: what comes out is read back box by box and decoded by FFmpeg.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used
)]

mod boxes;
mod coverage;
mod faults;
mod loss;
mod media;
mod posters;
mod streams;
mod transcoding;

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use whipgate::{
    media::{InitSegment, Part},
    pipeline::{Output, Pipeline, PipelineError, Pipelines, Settings},
};

use media::Media;

const SETTINGS: Settings = Settings {
    part_duration: Duration::from_millis(200),
    segment_duration: Duration::from_secs(2),
    track_id: 1,
};

/// What one pipeline put out: each initialization segment with the parts after it.
#[derive(Clone, Debug, Default)]
struct Collected {
    pieces: Vec<(InitSegment, Vec<Part>)>,
    keyframes_wanted: usize,
}

impl Collected {
    fn take(&mut self, output: Output) {
        match output {
            Output::Init(init) => self.pieces.push((init, Vec::new())),
            Output::Part(part) => self
                .pieces
                .last_mut()
                .expect("an initialization segment before the first part")
                .1
                .push(part),
            Output::KeyframeWanted => self.keyframes_wanted += 1,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// The only piece.
    fn single(&self) -> (&InitSegment, &[Part]) {
        assert_eq!(self.pieces.len(), 1, "one initialization segment");
        (&self.pieces[0].0, &self.pieces[0].1)
    }
}

/// A pipeline whose output is kept.
struct Running {
    pipeline: Pipeline,
    collected: Arc<Mutex<Collected>>,
}

impl Running {
    fn start(pipelines: &Pipelines, media: &Media, settings: &Settings) -> Self {
        let collected = Arc::new(Mutex::new(Collected::default()));
        let sink = Arc::clone(&collected);
        let pipeline = pipelines
            .start(&media.track, settings, move |output| {
                sink.lock().unwrap().take(output);
            })
            .expect("the pipeline starts");
        Self {
            pipeline,
            collected,
        }
    }

    /// The same for the AAC made of an audio track.
    fn start_aac(
        pipelines: &Pipelines,
        media: &Media,
        settings: &Settings,
        segment_origin: Option<Duration>,
    ) -> Self {
        let collected = Arc::new(Mutex::new(Collected::default()));
        let sink = Arc::clone(&collected);
        let pipeline = pipelines
            .start_aac(&media.track, settings, segment_origin, move |output| {
                sink.lock().unwrap().take(output);
            })
            .expect("the pipeline starts");
        Self {
            pipeline,
            collected,
        }
    }

    fn push(&mut self, media: &Media) -> Result<(), PipelineError> {
        for (packet, pts) in &media.packets {
            self.pipeline.push(packet, *pts, false)?;
        }
        Ok(())
    }

    fn so_far(&self) -> Collected {
        self.collected.lock().unwrap().clone()
    }

    fn finish(self) -> Collected {
        self.pipeline.finish().expect("the pipeline drains");
        Arc::try_unwrap(self.collected)
            .expect("the pipeline lets go of its output")
            .into_inner()
            .unwrap()
    }
}

/// Pushes everything through a fresh pipeline.
fn run(media: &Media, settings: &Settings) -> Collected {
    let pipelines = Pipelines::load(None).expect("the built-in texts are right");
    let mut running = Running::start(&pipelines, media, settings);
    running.push(media).expect("every packet is taken");
    running.finish()
}

/// Decodes a piece with FFmpeg, which must not say a word. Returns the number of pictures or sound packets.
fn decode(init: &InitSegment, parts: &[Part]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("piece.mp4");
    let mut bytes = init.bytes.to_vec();
    for part in parts {
        bytes.extend_from_slice(&part.bytes);
    }
    std::fs::write(&file, bytes).unwrap();
    decode_file(&file)
}

fn decode_file(file: &Path) -> usize {
    let output = Command::new("ffmpeg")
        .args(["-v", "warning", "-xerror", "-i"])
        .arg(file)
        .args(["-fps_mode", "passthrough", "-f", "framecrc", "-"])
        .output()
        .expect("ffmpeg is installed (Debian package ffmpeg)");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "ffmpeg: {complaints}"
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count()
}
