//! The media state of one session, driven by a media worker: the publication in place and what is made of it.
//!
//! Decides how an interruption looks to viewers: a publisher that goes without a word may return within the grace
//! period and continues the playlist after a discontinuity; one that says goodbye ends it at once.
//!
//! A call into GStreamer may never return. What viewers and disk have got so far is therefore kept apart, on the
//! [`Board`]: a successor takes it over and goes on with new pipelines, and what the stuck one may still make is dropped.

mod successor;

use std::{
    fmt,
    sync::{Arc, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use super::{
    Settings,
    board::{Board, Estate},
    checkpoint::Checkpoint,
    outputs::Outputs,
    publication::{Made, Publication, Wanted},
    status::{self, Rates, State},
    wall_clock::WallClock,
    worker::Actor,
};
use successor::MAX_SUCCESSORS;

use crate::{
    hls,
    id::SessionId,
    media::{AudioFormat, TrackIndex, TrackInfo},
    pipeline::Pipelines,
    recording,
    telemetry::Metrics,
    transport::{EndReason, PublicationId, PublishEvent},
};

/// How often the published status is renewed.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// A publisher without packets for this long counts as stalled (requirement R5).
const STALL: Duration = Duration::from_secs(2);

/// The keyframe that ends the first segment is asked for so that it comes so much after the segment's least length.
const KEYFRAME_MARGIN: Duration = Duration::from_millis(100);

/// What reaches the media of a session.
pub(super) enum Event {
    /// From the transport.
    Publish(PublishEvent),
    /// Go on with a playlist that an earlier process left; comes first if at all.
    Resume(Box<Checkpoint>),
    /// End everything now and say when it is done.
    Close(tokio::sync::oneshot::Sender<()>),
}

/// The media of one session.
pub(super) struct Media {
    span: tracing::Span,
    id: SessionId,
    settings: Arc<Settings>,
    pipelines: Arc<Pipelines>,
    recordings: Option<Arc<recording::Store>>,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    /// Which owner of the estate this is.
    owner: u32,
    since: Instant,
    /// The publication of a stuck predecessor, to go on with.
    predecessors: Option<(PublicationId, Vec<TrackInfo>)>,
    publication: Option<Publication>,
    made: Vec<Made>,
    last_packet: Option<Instant>,
    rates: Rates,
    next_status: Instant,
    last_status: Instant,
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Media")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Media {
    pub(super) fn new(
        id: SessionId,
        settings: Arc<Settings>,
        pipelines: Arc<Pipelines>,
        recordings: Option<Arc<recording::Store>>,
        metrics: Arc<Metrics>,
        board: Arc<Board>,
    ) -> Self {
        let now = Instant::now();
        Self {
            span: tracing::info_span!(parent: None, "session", session_id = %id),
            id,
            settings,
            pipelines,
            recordings,
            metrics,
            board,
            owner: 0,
            since: now,
            predecessors: None,
            publication: None,
            made: Vec::new(),
            last_packet: None,
            rates: Rates::default(),
            next_status: now,
            last_status: now,
        }
    }

    /// What the outputs are, unless a successor has them.
    fn estate(&self) -> Option<MutexGuard<'_, Estate>> {
        let estate = self
            .board
            .estate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (estate.owner == self.owner).then_some(estate)
    }

    fn begin(&mut self, id: PublicationId, tracks: &[TrackInfo], now: Instant) {
        let mut kinds: Vec<_> = tracks.iter().map(|track| track.codec.kind()).collect();
        kinds.sort_unstable();
        let Some(mut estate) = self.estate() else {
            return;
        };
        if estate.outputs.is_none() || estate.kinds != kinds {
            // Players cannot be told of a rendition that comes or goes, so other tracks mean another playlist.
            self.end_stream(&mut estate, now);
            let before = self.board.lock().stream.take();
            let settings = self.settings.hls.clone();
            let stream = match before {
                Some(before) => hls::Stream::after(settings, &before),
                None => hls::Stream::new(settings),
            };
            self.begin_stream(&mut estate, stream, Duration::ZERO, now);
        }
        estate.kinds.clone_from(&kinds);
        estate.ends_at = None;
        estate.publication = Some((id, tracks.to_vec()));
        let age = estate.age(now);
        drop(estate);
        self.last_packet = None;
        self.rates = Rates::default();
        // A playlist that has segments already is in no hurry to end the first one.
        let first_segment = self.settings.hls.first_segment;
        let second_keyframe = (age.is_zero() && first_segment < self.settings.keyframe_interval)
            .then(|| first_segment + KEYFRAME_MARGIN);
        let publication = Publication::start(
            id,
            tracks,
            Arc::clone(&self.pipelines),
            self.settings.pipeline,
            &Wanted {
                keyframe_interval: self.settings.keyframe_interval,
                second_keyframe,
                base: age,
                aac: self.makes_aac(),
            },
        );
        if let Some(outputs) = self.estate().as_mut().and_then(|e| e.outputs.as_mut()) {
            outputs.begin(kinds, publication.started());
        }
        self.publication = Some(publication);
        self.board.lock().over_since = None;
        self.next_status = now;
    }

    fn makes_aac(&self) -> bool {
        self.settings.hls.audio.contains(&AudioFormat::Aac)
    }

    /// `age` is that of a playlist which goes on.
    fn begin_stream(&self, estate: &mut Estate, stream: hls::Stream, age: Duration, now: Instant) {
        self.board.lock().stream = Some(stream.clone());
        let outputs = Outputs::new(self.id.clone(), stream, self.recordings.clone());
        estate.begin_stream(outputs, age, now);
    }

    fn resume(&mut self, checkpoint: &Checkpoint, now: Instant) {
        let Some(mut estate) = self.estate() else {
            return;
        };
        let stream = hls::Stream::resume(self.settings.hls.clone(), &checkpoint.playlist);
        let age = checkpoint.age(SystemTime::now());
        self.begin_stream(&mut estate, stream, age, now);
        estate.kinds = checkpoint.kinds();
        estate.ends_at = Some(now + self.settings.reconnect_grace);
        drop(estate);
        self.next_status = now;
        tracing::info!(
            grace = ?self.settings.reconnect_grace,
            "the playlist goes on after a crash, as soon as the publisher is back"
        );
    }

    fn publication_ended(&mut self, id: PublicationId, reason: &EndReason, now: Instant) {
        if self
            .publication
            .as_ref()
            .is_none_or(|publication| publication.id() != id)
        {
            return;
        }
        tracing::info!(publication = %id, %reason, "publisher gone");
        let at_once = matches!(
            reason,
            EndReason::Deleted | EndReason::Kicked | EndReason::Shutdown
        );
        if let Some(mut estate) = self.estate() {
            estate.publication = None;
            estate.departed = Some(id);
            estate.ends_at = Some(if at_once {
                now
            } else {
                now + self.settings.reconnect_grace
            });
        }
        if let Some(publication) = self.publication.take() {
            let clock = publication.finish(now, &mut self.made);
            self.publish_made(Some(clock), now);
        }
        if let Some(mut estate) = self.estate() {
            let kinds = estate.kinds.clone();
            if let Some(outputs) = &mut estate.outputs {
                outputs.end_recording(now);
                for kind in kinds {
                    outputs.pause(kind);
                }
            }
            if at_once {
                self.end_stream(&mut estate, now);
            }
        }
        self.next_status = now;
    }

    fn end_stream(&self, estate: &mut Estate, now: Instant) {
        if estate.end_stream(now) {
            tracing::info!("stream ended");
            self.board.lock().over_since = Some(now);
        }
    }

    /// Publishes what was made, by the clock of the publication that made it. Until that is settled, media is kept back.
    fn publish_made(&mut self, clock: Option<WallClock>, now: Instant) {
        let mut made = std::mem::take(&mut self.made);
        let Some(clock) = clock else {
            made.retain(|made| match made {
                Made::KeyframeRequest(track) => {
                    self.request_keyframe(*track);
                    false
                }
                _ => true,
            });
            self.made = made;
            return;
        };
        if let Some(mut estate) = self.estate() {
            let mut boundary = false;
            if let Some(outputs) = &mut estate.outputs {
                for made in made.drain(..) {
                    boundary |= matches!(&made, Made::Part(_, part, _) if part.starts_segment || part.discontinuity);
                    self.publish(made, &clock, outputs, now);
                }
                outputs.poll(now);
            }
            if boundary {
                estate.note();
            }
        }
        // The room is used again.
        made.clear();
        self.made = made;
    }

    fn publish(&self, made: Made, clock: &WallClock, outputs: &mut Outputs, now: Instant) {
        match made {
            Made::Init(kind, init) => outputs.init(kind, init, now),
            Made::Part(kind, part, pts) => {
                self.metrics.parts.get_or_create(&kind.into()).inc();
                self.metrics
                    .part_bytes
                    .get_or_create(&kind.into())
                    .inc_by(part.bytes.len() as u64);
                outputs.part(kind, part, clock.time_of(pts), now);
            }
            Made::Pause(kind) => outputs.pause(kind),
            Made::AacInit(init) => outputs.aac_init(init),
            Made::AacPart(part, pts) => outputs.aac_part(part, clock.time_of(pts)),
            Made::AacLeft => outputs.leave_aac(),
            Made::KeyframeRequest(track) => self.request_keyframe(track),
        }
    }

    fn request_keyframe(&self, track: TrackIndex) {
        tracing::debug!(track, "asking the publisher for a keyframe");
        if let Some(transport) = self.board.transport.get().and_then(Weak::upgrade) {
            transport.request_keyframe(track);
        }
    }

    /// The session is over, with these words for the operator.
    fn fail(&self, finding: &str) {
        tracing::error!("{finding}; this session ends, others go on");
        let mut board = self.board.lock();
        board.status.state = State::Failed;
        board.status.findings = vec![finding.to_owned()];
        board.over_since = Some(Instant::now());
    }

    fn renew_status(&mut self, now: Instant) {
        if let Some(publication) = &self.publication {
            self.rates.update(
                publication,
                now.saturating_duration_since(self.last_status),
                &self.metrics,
            );
        }
        self.last_status = now;
        self.next_status = now + STATUS_INTERVAL;
        let Some(mut estate) = self.estate() else {
            return;
        };
        // Segments may also end without a new one that begins.
        if self.publication.is_some() {
            estate.note();
        }
        let silent = self
            .last_packet
            .is_none_or(|at| now.saturating_duration_since(at) > STALL);
        let mut board = self.board.lock();
        let hls = board.stream.as_ref().map(hls::Stream::status);
        let playable = hls
            .as_ref()
            .is_some_and(|hls| hls.state == hls::State::Live);
        let status = &mut board.status;
        status.state = match (&self.publication, &estate.outputs) {
            (Some(_), _) if self.last_packet.is_some() && silent => State::Stalled,
            (Some(_), _) if playable => State::Live,
            (None, Some(_)) => State::Reconnecting,
            (None, None) if hls.is_some() => State::Ended,
            (Some(_) | None, _) => State::Starting,
        };
        status.publication = self
            .publication
            .as_ref()
            .map(|publication| publication.id().to_string());
        status.since = self
            .publication
            .as_ref()
            .map(|publication| status::utc(publication.started()));
        if let Some(outputs) = &estate.outputs {
            status.recording = outputs.recording().into();
        }
        (status.tracks, status.findings) = match &self.publication {
            Some(publication) => status::tracks(
                publication,
                &self.rates,
                self.settings.pipeline.segment_duration,
            ),
            None => (Vec::new(), Vec::new()),
        };
        let offset = self
            .publication
            .as_ref()
            .and_then(|publication| publication.av_offset(now));
        status.av_offset_ms = offset.map(|offset| status::millis(offset.offset));
        status.av_offset_uncertainty_ms = offset.map(|offset| status::millis(offset.uncertainty));
        if status.state == State::Stalled {
            status
                .findings
                .push("nothing has arrived from the publisher for more than 2 s".to_owned());
        }
        if let Some(error) = &status.recording.error {
            status
                .findings
                .push(format!("nothing is recorded: {error}"));
        }
        if let Some(failure) = self.publication.as_ref().and_then(Publication::failure) {
            status
                .findings
                .push(format!("a pipeline failed: {failure}"));
        }
        if self.owner > 0 {
            status.findings.push(format!(
                "the pipelines hung and were replaced {} time(s); after {MAX_SUCCESSORS} the session ends",
                self.owner
            ));
        }
    }
}

impl Actor for Media {
    type Event = Event;

    fn handle(&mut self, event: Event) {
        let span = self.span.clone();
        let _entered = span.enter();
        let now = Instant::now();
        self.take_over(now);
        match event {
            Event::Publish(PublishEvent::Rtp {
                publication,
                track,
                packet,
                arrival,
                // What waited behind a stuck predecessor is late, and the pipelines need a keyframe anyway.
            }) if arrival >= self.since => {
                if let Some(current) = self
                    .publication
                    .as_mut()
                    .filter(|current| current.id() == publication)
                {
                    self.last_packet = Some(arrival);
                    current.packet(track, packet, arrival);
                }
            }
            Event::Publish(PublishEvent::SenderReport {
                publication,
                track,
                report,
                arrival,
            }) if arrival >= self.since => {
                if let Some(current) = self
                    .publication
                    .as_mut()
                    .filter(|current| current.id() == publication)
                {
                    current.sender_report(track, report, arrival);
                }
            }
            Event::Publish(PublishEvent::Rtp { .. } | PublishEvent::SenderReport { .. }) => {}
            Event::Publish(PublishEvent::Started {
                publication,
                tracks,
            }) => {
                self.metrics.publications.inc();
                let codecs: Vec<_> = tracks.iter().map(|track| track.codec.as_str()).collect();
                tracing::info!(%publication, ?codecs, "publisher connected");
                self.begin(publication, &tracks, now);
            }
            Event::Publish(PublishEvent::Ended {
                publication,
                reason,
            }) => {
                self.publication_ended(publication, &reason, now);
            }
            Event::Publish(PublishEvent::Withdrawn { publication }) => {
                // A successor that was quicker goes on with the playlist.
                let ends = self
                    .estate()
                    .filter(|estate| estate.departed == Some(publication))
                    .filter(|_| self.publication.is_none())
                    .map(|mut estate| self.end_stream(&mut estate, now));
                if ends.is_some() {
                    self.next_status = now;
                }
            }
            Event::Resume(checkpoint) => self.resume(&checkpoint, now),
            Event::Close(done) => {
                if let Some(id) = self.publication.as_ref().map(Publication::id) {
                    self.publication_ended(id, &EndReason::Shutdown, now);
                }
                if let Some(mut estate) = self.estate() {
                    self.end_stream(&mut estate, now);
                }
                self.renew_status(now);
                // Whoever asked may have stopped waiting, which changes nothing here.
                let _nobody_waits = done.send(());
            }
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let span = self.span.clone();
        let _entered = span.enter();
        self.take_over(now);
        let mut deadline = None;
        if self.makes_aac() {
            let wanted = self
                .estate()
                .as_mut()
                .and_then(|estate| estate.outputs.as_mut())
                .is_some_and(Outputs::wants_aac);
            if let Some(publication) = &mut self.publication {
                publication.want_aac(wanted);
            }
        }
        if let Some(publication) = &mut self.publication {
            deadline = publication.poll(now, &mut self.made);
            let clock = publication.clock(now);
            self.publish_made(clock, now);
        }
        let mut estate = self.estate()?;
        let ended = estate.ends_at.is_some_and(|at| at <= now);
        if ended {
            self.end_stream(&mut estate, now);
        }
        let active = self.publication.is_some() || estate.outputs.is_some();
        let ends_at = estate.ends_at;
        drop(estate);
        if ended || now >= self.next_status {
            self.renew_status(now);
        }
        [deadline, ends_at, active.then_some(self.next_status)]
            .into_iter()
            .flatten()
            .min()
    }

    fn panicked(&mut self, message: &str) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.fail(&format!("internal error, please report it: {message}"));
        if let Some(mut estate) = self.estate() {
            estate.end_stream(Instant::now());
        }
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        let _entered = self.span.clone().entered();
        if let Some(publication) = self.publication.take() {
            let now = Instant::now();
            let clock = publication.finish(now, &mut self.made);
            self.publish_made(Some(clock), now);
        }
        if let Some(mut estate) = self.estate() {
            self.end_stream(&mut estate, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
