//! The live test source: pictures and sound made in real time, encoded as they are made, keyframes on demand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::{
    encode::{Encoded, Encoder, OPUS_LOOKAHEAD, OPUS_SAMPLES, VideoFormat},
    picture::Painter,
    tone,
};

/// Encoded units that may wait for the network; more are dropped and counted.
const QUEUE: usize = 120;

/// What the live source makes.
#[derive(Clone, Copy, Debug)]
pub struct LiveSpec {
    /// Size, rate, codec.
    pub format: VideoFormat,
    /// Opus bits per second.
    pub audio_bits_per_second: u32,
    /// A panel of noise, see [`crate::clip::ClipSpec::noise`].
    pub noise: bool,
    /// Leave requests for keyframes (RTCP PLI and FIR) unanswered, as OBS does: keyframes come by
    /// [`VideoFormat::keyframe_every`] alone.
    pub ignores_keyframe_requests: bool,
}

impl Default for LiveSpec {
    /// [`VideoFormat::default`] with 128 kbit/s of Opus, without noise.
    fn default() -> Self {
        Self {
            format: VideoFormat::default(),
            audio_bits_per_second: 128_000,
            noise: false,
            ignores_keyframe_requests: false,
        }
    }
}

/// A running live source; its threads end when it is dropped.
#[derive(Debug)]
pub(crate) struct Live {
    /// Media time zero of both tracks.
    pub(crate) origin: Instant,
    video: Arc<Encoder>,
    /// See [`LiveSpec::ignores_keyframe_requests`].
    pub(crate) ignores_keyframe_requests: bool,
    /// Units dropped because the network side did not take them in time.
    pub(crate) dropped: Arc<AtomicU64>,
    /// Dropping it tells the generator to end.
    _running: std_mpsc::Sender<()>,
}

/// Where the encoded units of one track come out.
pub(crate) type Units = mpsc::Receiver<Encoded>;

impl Live {
    pub(crate) fn start(spec: &LiveSpec) -> Result<(Self, Units, Units)> {
        let video = Arc::new(Encoder::video(&spec.format)?);
        let audio = Arc::new(Encoder::opus(spec.audio_bits_per_second, false)?);
        let dropped = Arc::new(AtomicU64::new(0));
        let video_units = collect("live-video", &video, &dropped)?;
        let audio_units = collect("live-audio", &audio, &dropped)?;
        let (running, stop) = std_mpsc::channel();
        let origin = Instant::now();
        let generator = Generator {
            painter: Painter::new(
                spec.format.width,
                spec.format.height,
                spec.format.fps,
                spec.noise,
            ),
            fps: u64::from(spec.format.fps),
            origin,
            wall_origin: SystemTime::now(),
            video: Arc::clone(&video),
            audio,
        };
        std::thread::Builder::new()
            .name("live-source".into())
            .spawn(move || {
                if let Err(error) = generator.run(&stop) {
                    tracing::error!("live source ended: {error:#}");
                }
            })?;
        Ok((
            Self {
                origin,
                video,
                ignores_keyframe_requests: spec.ignores_keyframe_requests,
                dropped,
                _running: running,
            },
            video_units,
            audio_units,
        ))
    }

    pub(crate) fn force_keyframe(&self) {
        self.video.force_keyframe();
    }
}

fn collect(name: &str, encoder: &Arc<Encoder>, dropped: &Arc<AtomicU64>) -> Result<Units> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (encoder, dropped) = (Arc::clone(encoder), Arc::clone(dropped));
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            loop {
                match encoder.pull() {
                    Ok(Some(encoded)) => match sender.try_send(encoded) {
                        Ok(()) => {}
                        Err(mpsc::error::TrySendError::Full(_)) => {
                            dropped.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(mpsc::error::TrySendError::Closed(_)) => break,
                    },
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!("live encoder ended: {error:#}");
                        break;
                    }
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(receiver)
}

struct Generator {
    painter: Painter,
    fps: u64,
    origin: Instant,
    wall_origin: SystemTime,
    video: Arc<Encoder>,
    audio: Arc<Encoder>,
}

impl Generator {
    /// Makes each picture at its time and each block of sound at its end, as a camera and a microphone do.
    fn run(&self, stop: &std_mpsc::Receiver<()>) -> Result<()> {
        let (mut frame, mut packet) = (0u64, 0u64);
        loop {
            let frame_at = nanos(frame * 1_000_000_000 / self.fps);
            let packet_at = nanos((packet + 1) * 20_000_000);
            let next = frame_at.min(packet_at);
            let wait = (self.origin + next).saturating_duration_since(Instant::now());
            match stop.recv_timeout(wait) {
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                _ => break,
            }
            if packet_at <= frame_at {
                let pcm = tone::pcm(
                    packet * OPUS_SAMPLES + OPUS_LOOKAHEAD,
                    OPUS_SAMPLES as usize,
                );
                self.audio.push(packet * 20_000_000, 20_000_000, pcm)?;
                packet += 1;
            } else {
                let mut picture = vec![0; self.painter.len()];
                self.painter
                    .paint(frame, Some(self.wall_origin + frame_at), &mut picture);
                self.video.push(
                    frame_at.as_nanos() as u64,
                    1_000_000_000 / self.fps,
                    picture,
                )?;
                frame += 1;
            }
        }
        self.video.finish()?;
        self.audio.finish()
    }
}

fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}
