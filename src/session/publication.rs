//! The media of one publication: its timeline, a pipeline for each track, and the demand for keyframes.
//!
//! Runs on a media worker and turns RTP into init segments and parts. What becomes of them is the business of
//! [`Outputs`](super::outputs::Outputs).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    aac::{self, Aac},
    repair::Repair,
    wall_clock::WallClock,
};
use crate::{
    media::{
        InitSegment, MediaKind, Monotonic, Part, RtpPacket, SenderReport, TrackIndex, TrackInfo,
    },
    pipeline::{self, Output, Pipeline, PipelineError, Pipelines},
    timeline::{
        self, AvOffset, Event, Timeline, TrackClock, TrackStats,
        keyframes::{self, KeyframeDemand},
    },
    transport::PublicationId,
};

/// A track whose pipeline failed this often within one publication stays off.
const MAX_RESTARTS: u32 = 5;

/// A track whose timestamps jump more often than this within [`JUMPS_WITHIN`] is left out: each jump takes new elements.
const MAX_JUMPS: u32 = 20;
const JUMPS_WITHIN: Duration = Duration::from_secs(10);

/// Sound that has not come so long after it was due is replaced by silence: longer than lost packets are waited for, and
/// short enough for players not to run dry.
const SILENCE_AFTER: Duration = Duration::from_millis(250);

/// While sound is missing, silence is made in steps of this.
const SILENCE_STEP: Duration = Duration::from_millis(50);

/// What a publication makes, in order.
#[derive(Debug)]
pub(super) enum Made {
    /// The next parts of the track need this init segment.
    Init(MediaKind, InitSegment),
    /// A part, and the presentation time of its earliest picture or sound, in ns.
    Part(MediaKind, Part, i64),
    /// Nothing more of this track for a while.
    Pause(MediaKind),
    /// The next AAC parts need this init segment.
    AacInit(InitSegment),
    /// A part of AAC, and the presentation time of its earliest sound, in ns.
    AacPart(Part, i64),
    /// What follows in AAC has nothing to do with what there is.
    AacLeft,
    /// A keyframe is wanted now.
    KeyframeRequest(TrackIndex),
}

/// Filled by a pipeline from within `push`, emptied right after it.
type Collector = Arc<Mutex<Vec<Output>>>;

/// One track on its way from RTP to parts.
struct Track {
    info: TrackInfo,
    /// `None` once it failed too often.
    pipeline: Option<Pipeline>,
    collector: Collector,
    timescale: u32,
    restarts: u32,
    /// Jumps of the timestamps since this time.
    jumps: (Monotonic, u32),
    resolution: Option<(u32, u32)>,
    /// Only for video.
    demand: Option<KeyframeDemand>,
    /// Only for video that is transcoded: then [`Self::demand`] is for our own encoder.
    repair: Option<Repair>,
    /// Only for sound: up to where there is any, in ns of presentation time.
    heard_until: Option<i64>,
}

impl Track {
    /// The publisher has to send a keyframe before pictures can be decoded (again).
    fn needs_keyframe(&mut self) {
        if let Some(repair) = &mut self.repair {
            repair.need();
        } else if let Some(demand) = &mut self.demand {
            demand.lost();
        }
    }
}

/// What a session wants of a publication.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Each segment is to start with a keyframe after this much media.
    pub(super) keyframe_interval: Duration,
    /// When the second keyframe is wanted, if before the end of a segment.
    pub(super) second_keyframe: Option<Duration>,
    /// Age of the session's playlist, which presentation times go on from.
    pub(super) base: Duration,
    /// AAC may be made beside Opus.
    pub(super) aac: bool,
}

/// The media state of one publication.
pub(super) struct Publication {
    id: PublicationId,
    epoch: Instant,
    epoch_wall: SystemTime,
    /// Added to presentation times, in ns: they go on over the publications of a session and never go back.
    base: i64,
    /// What presentation times stand for.
    clock: WallClock,
    timeline: Timeline,
    tracks: Vec<Track>,
    /// If it is configured and there is sound.
    aac: Option<Aac>,
    pipelines: Arc<Pipelines>,
    settings: pipeline::Settings,
    failure: Option<String>,
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// One track at one moment, for operators.
#[derive(Clone, Debug)]
pub(super) struct TrackStatus {
    pub(super) info: TrackInfo,
    pub(super) stats: TrackStats,
    pub(super) resolution: Option<(u32, u32)>,
    pub(super) failed: bool,
    /// Presentation time between the last two keyframes, and whether requests for keyframes are ignored.
    pub(super) keyframes: Option<(Option<Duration>, bool)>,
    /// For how long the track is aligned with the others by arrival only.
    pub(super) aligned_by_arrival: Option<Duration>,
}

impl Publication {
    /// Starts the pipelines of these tracks.
    pub(super) fn start(
        id: PublicationId,
        tracks: &[TrackInfo],
        pipelines: Arc<Pipelines>,
        settings: pipeline::Settings,
        wanted: &Wanted,
    ) -> Self {
        let clocks: Vec<_> = tracks
            .iter()
            .map(|track| TrackClock {
                kind: track.codec.kind(),
                clock_rate: track.clock_rate,
            })
            .collect();
        let epoch_wall = SystemTime::now();
        let mut publication = Self {
            id,
            epoch: Instant::now(),
            epoch_wall,
            base: i64::try_from(wanted.base.as_nanos()).unwrap_or(i64::MAX),
            clock: WallClock::new(epoch_wall),
            timeline: Timeline::new(timeline::Settings::default(), &clocks),
            tracks: Vec::with_capacity(tracks.len()),
            aac: tracks
                .iter()
                .position(|info| wanted.aac && info.codec.kind() == MediaKind::Audio)
                .map(|index| Aac::new(index, tracks[index].clone())),
            pipelines,
            settings,
            failure: None,
        };
        for info in tracks {
            let demand = (info.codec.kind() == MediaKind::Video).then(|| {
                KeyframeDemand::new(keyframes::Settings {
                    segment_duration: wanted.keyframe_interval,
                    second: wanted.second_keyframe,
                    ..keyframes::Settings::default()
                })
            });
            publication.tracks.push(Track {
                info: info.clone(),
                pipeline: None,
                collector: Collector::default(),
                timescale: info.clock_rate,
                restarts: 0,
                jumps: (Monotonic::ZERO, 0),
                resolution: None,
                repair: (demand.is_some() && info.codec.transcoded_to().is_some())
                    .then(Repair::default),
                demand,
                heard_until: None,
            });
        }
        for index in 0..publication.tracks.len() {
            publication.start_pipeline(index);
        }
        publication
    }

    /// Which publication this is.
    pub(super) fn id(&self) -> PublicationId {
        self.id
    }

    /// When the publication began, by the wall clock.
    pub(super) fn started(&self) -> SystemTime {
        self.epoch_wall
    }

    /// What presentation times stand for, once that is settled.
    pub(super) fn clock(&mut self, now: Instant) -> Option<WallClock> {
        let now = self.since_epoch(now);
        self.clock.is_settled(now).then_some(self.clock)
    }

    /// The tracks at this moment.
    pub(super) fn tracks(&self) -> impl Iterator<Item = TrackStatus> + '_ {
        self.tracks
            .iter()
            .enumerate()
            .map(|(index, track)| TrackStatus {
                info: track.info.clone(),
                stats: self.timeline.stats(index),
                resolution: track.resolution,
                failed: track.pipeline.is_none(),
                aligned_by_arrival: self.timeline.aligned_by_arrival(index),
                keyframes: track
                    .demand
                    .as_ref()
                    .map(|demand| (demand.observed_interval(), demand.ignores_requests())),
            })
    }

    /// Measured offset of sound against picture; `None` without both.
    pub(super) fn av_offset(&self, now: Instant) -> Option<AvOffset> {
        self.timeline.av_offset(self.since_epoch(now))
    }

    /// What broke last, if anything did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether somebody plays the AAC.
    pub(super) fn want_aac(&mut self, wanted: bool) {
        if let Some(aac) = &mut self.aac {
            aac.want(wanted);
        }
    }

    fn since_epoch(&self, at: Instant) -> Monotonic {
        at.saturating_duration_since(self.epoch)
    }

    pub(super) fn packet(&mut self, track: TrackIndex, packet: RtpPacket, arrival: Instant) {
        self.timeline
            .push_rtp(self.since_epoch(arrival), track, packet);
    }

    pub(super) fn sender_report(
        &mut self,
        track: TrackIndex,
        report: SenderReport,
        arrival: Instant,
    ) {
        self.timeline
            .push_sender_report(self.since_epoch(arrival), track, report);
    }

    /// Moves on what is due and gives what came of it to `made`; returns when to be called next at the latest.
    pub(super) fn poll(&mut self, now: Instant, made: &mut Vec<Made>) -> Option<Instant> {
        let monotonic = self.since_epoch(now);
        while let Some(event) = self.timeline.poll(monotonic) {
            self.event(event, monotonic, made);
        }
        let silence = self.fill_silence(monotonic, made);
        let mut deadline = [self.timeline.deadline(), silence, self.clock.deadline()]
            .into_iter()
            .flatten()
            .min();
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let Some(demand) = &mut track.demand else {
                continue;
            };
            let wanted = demand.poll(monotonic);
            let wanted_of_publisher = match &mut track.repair {
                None => wanted,
                Some(repair) => {
                    if let Some(pipeline) = track.pipeline.as_mut().filter(|_| wanted) {
                        tracing::debug!(track = index, "asking the encoder for a keyframe");
                        pipeline.force_keyframe();
                    }
                    repair.poll(monotonic)
                }
            };
            if wanted_of_publisher {
                made.push(Made::KeyframeRequest(index));
            }
            let repair = track.repair.as_ref().and_then(Repair::deadline);
            deadline = [deadline, demand.deadline(), repair]
                .into_iter()
                .flatten()
                .min();
        }
        deadline.map(|deadline| self.epoch + deadline)
    }

    /// Goes on with silence where sound has stopped (muted, discontinuous transmission) while the publication is live, and
    /// says when to look again. Sound that stops would stop players, which play pictures and sound together.
    fn fill_silence(&mut self, now: Monotonic, made: &mut Vec<Made>) -> Option<Monotonic> {
        if !self.timeline.is_live(now) {
            return None;
        }
        let mut next: Option<Monotonic> = None;
        for index in 0..self.tracks.len() {
            let heard_until = self.tracks[index].heard_until;
            let due = self.timeline.presentation_time(index, now);
            let Some((heard_until, due)) = heard_until.zip(due) else {
                continue;
            };
            let until = due.saturating_add(self.base) - signed_nanos(SILENCE_AFTER);
            let mut missing = until - heard_until;
            if missing >= signed_nanos(SILENCE_STEP) {
                self.tracks[index].heard_until = Some(until);
                self.drive(index, made, |pipeline| pipeline.fill_silence(until));
                let aac = self.aac.as_mut().filter(|aac| aac.track == index);
                let aac = aac.map(|aac| aac.fill_silence(until));
                collect_aac(aac, made);
                missing = 0;
            }
            let wait = u64::try_from(signed_nanos(SILENCE_STEP) - missing).unwrap_or(0);
            let at = now + Duration::from_nanos(wait);
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        next
    }

    /// Everything still held comes out, and what its presentation times stand for; the publication is over.
    pub(super) fn finish(mut self, now: Instant, made: &mut Vec<Made>) -> WallClock {
        self.timeline.end();
        self.poll(now, made);
        for index in 0..self.tracks.len() {
            if let Some(pipeline) = self.tracks[index].pipeline.take()
                && let Err(error) = pipeline.finish()
            {
                tracing::debug!(track = index, %error, "the pipeline did not finish cleanly");
            }
            self.collect(index, made);
        }
        let aac = self.aac.as_mut().map(Aac::finish);
        collect_aac(aac, made);
        self.clock.settle();
        self.clock
    }

    fn event(&mut self, event: Event, now: Monotonic, made: &mut Vec<Made>) {
        match event {
            Event::Packet {
                track,
                packet,
                pts,
                arrival,
                after_loss,
            } => {
                let pts = pts.saturating_add(self.base);
                self.clock.packet(arrival, pts);
                if let Some(demand) = &mut self.tracks[track].demand {
                    demand.picture(now, pts);
                } else {
                    let heard_until = &mut self.tracks[track].heard_until;
                    *heard_until = (*heard_until).max(Some(pts));
                }
                self.drive(track, made, |pipeline| {
                    pipeline.push(&packet, pts, after_loss)
                });
                let settings = self.settings_of(MediaKind::Audio);
                let aac = self
                    .aac
                    .as_mut()
                    .filter(|aac| aac.track == track)
                    .map(|aac| aac.packet(&self.pipelines, &settings, &packet, pts, after_loss));
                collect_aac(aac, made);
            }
            Event::Lost { track, packets } => {
                tracing::debug!(track, packets, "packets lost");
                self.tracks[track].needs_keyframe();
            }
            Event::Discontinuity { track } => {
                tracing::debug!(track, "the track's timestamps jumped");
                if self.jumps_too_often(track, now) {
                    self.tracks[track].pipeline = None;
                    self.failure = Some(format!(
                        "the timestamps of track {track} jumped {MAX_JUMPS} times within {} s; it is left out",
                        JUMPS_WITHIN.as_secs()
                    ));
                    tracing::warn!(
                        track,
                        "the timestamps jump all the time: the track is left out"
                    );
                }
                self.tracks[track].heard_until = None;
                self.drive(track, made, Pipeline::discontinuity);
                self.interrupt_aac(track, made);
            }
            // Silence takes the place of sound for as long as there are pictures.
            Event::Idle { track }
                if self.tracks[track].heard_until.is_some() && self.timeline.is_live(now) => {}
            Event::Idle { track } => {
                self.drive(track, made, Pipeline::end_part);
                self.interrupt_aac(track, made);
                made.push(Made::Pause(self.tracks[track].info.codec.kind()));
            }
        }
    }

    fn jumps_too_often(&mut self, index: TrackIndex, now: Monotonic) -> bool {
        let (since, jumps) = &mut self.tracks[index].jumps;
        if now.saturating_sub(*since) > JUMPS_WITHIN {
            (*since, *jumps) = (now, 0);
        }
        *jumps += 1;
        *jumps == MAX_JUMPS
    }

    /// Does something to a track's pipeline and collects what it makes; a pipeline that fails is replaced.
    fn drive(
        &mut self,
        index: TrackIndex,
        made: &mut Vec<Made>,
        action: impl FnOnce(&mut Pipeline) -> Result<(), PipelineError>,
    ) {
        let Some(pipeline) = &mut self.tracks[index].pipeline else {
            return;
        };
        let outcome = action(pipeline);
        self.collect(index, made);
        if let Err(error) = outcome {
            self.tracks[index].pipeline = None;
            self.tracks[index].restarts += 1;
            self.failure = Some(error.to_string());
            tracing::warn!(track = index, %error, "pipeline failed");
            if self.tracks[index].restarts <= MAX_RESTARTS {
                self.start_pipeline(index);
            }
        }
    }

    fn interrupt_aac(&mut self, track: TrackIndex, made: &mut Vec<Made>) {
        let aac = self.aac.as_mut().filter(|aac| aac.track == track);
        let aac = aac.map(Aac::discontinuity);
        collect_aac(aac, made);
    }

    fn settings_of(&self, kind: MediaKind) -> pipeline::Settings {
        pipeline::Settings {
            track_id: match kind {
                MediaKind::Video => 1,
                MediaKind::Audio => 2,
            },
            ..self.settings
        }
    }

    fn start_pipeline(&mut self, index: TrackIndex) {
        let settings = self.settings_of(self.tracks[index].info.codec.kind());
        let track = &mut self.tracks[index];
        let collector = Arc::clone(&track.collector);
        let started = self.pipelines.start(&track.info, &settings, move |output| {
            collector
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(output);
        });
        match started {
            Ok(pipeline) => track.pipeline = Some(pipeline),
            Err(error) => {
                tracing::error!(track = index, %error, "the track has no pipeline and is left out");
                self.failure = Some(error.to_string());
            }
        }
    }

    fn collect(&mut self, index: TrackIndex, made: &mut Vec<Made>) {
        let track = &mut self.tracks[index];
        let kind = track.info.codec.kind();
        let outputs = std::mem::take(
            &mut *track
                .collector
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for output in outputs {
            match output {
                Output::Init(init) => {
                    track.timescale = init.timescale;
                    track.resolution = init.resolution;
                    if let Some(demand) = &mut track.demand {
                        demand.keyframe_at_hand();
                    }
                    made.push(Made::Init(kind, init));
                }
                Output::Part(part) => {
                    let pts = pipeline::presentation_nanos(&part, track.timescale);
                    if let Some(demand) = &mut track.demand {
                        if part.independent {
                            demand.keyframe(pts);
                        }
                        if part.starts_segment {
                            demand.segment(pts);
                        }
                    }
                    if let Some(aac) = &mut self.aac
                        && part.starts_segment
                        && aac.track == index
                    {
                        let start = u64::try_from(pts).unwrap_or(0);
                        aac.segment(Duration::from_nanos(start) + pipeline::START_OFFSET);
                    }
                    made.push(Made::Part(kind, part, pts));
                }
                Output::KeyframeWanted => track.needs_keyframe(),
            }
        }
    }
}

fn signed_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn collect_aac(outputs: Option<Vec<aac::Made>>, made: &mut Vec<Made>) {
    made.extend(outputs.into_iter().flatten().map(|output| match output {
        aac::Made::Init(init) => Made::AacInit(init),
        aac::Made::Part(part, pts) => Made::AacPart(part, pts),
        aac::Made::Left => Made::AacLeft,
    }));
}
