//! The media of one publication: its timeline, a pipeline for each track, and the demand for keyframes.
//!
//! Runs on a media worker and turns RTP into init segments and parts. What becomes of them is the business of
//! [`Outputs`](super::outputs::Outputs).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    media::{InitSegment, Monotonic, Part, RtpPacket, SenderReport, TrackIndex, TrackInfo},
    pipeline::{self, Pipeline, PipelineError, Pipelines},
    timeline::{self, KeyframeDemand, Timeline, TrackClock},
    transport::PublicationId,
};

/// A track whose pipeline failed this often within one publication stays off.
const MAX_RESTARTS: u32 = 5;

/// What a publication makes, in order.
#[derive(Debug)]
pub(super) enum Made {
    /// The next parts of the track need this init segment.
    Init(TrackIndex, InitSegment),
    /// A part, and the wall-clock time of its earliest picture or sound.
    Part(TrackIndex, Part, SystemTime),
}

/// One track on its way from RTP to parts.
struct Track {
    info: TrackInfo,
    /// `None` once it failed too often.
    pipeline: Option<Pipeline>,
    made: Arc<Mutex<VecDeque<pipeline::Output>>>,
    timescale: u32,
    restarts: u32,
}

/// The media state of one publication.
pub(super) struct Publication {
    pub(super) id: PublicationId,
    epoch: Instant,
    epoch_wall: SystemTime,
    /// Wall-clock time of presentation time 0, known from the first packet on.
    zero_wall: Option<SystemTime>,
    timeline: Timeline,
    keyframes: Option<(TrackIndex, KeyframeDemand)>,
    tracks: Vec<Track>,
    pipelines: Arc<Pipelines>,
    settings: pipeline::Settings,
    keyframe_wanted: bool,
    pub(super) finding: Option<String>,
}
