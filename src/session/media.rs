//! The media state of one session, driven by a media worker: the publication in place and what is made of it.
//!
//! Decides how an interruption looks to viewers: a publisher that goes without a word may return within the grace
//! period and continues the playlist after a discontinuity; one that says goodbye ends it at once.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{
    Settings,
    outputs::Outputs,
    publication::{Made, Publication},
    status::{self, Rates, State, Status},
    worker::Actor,
};
use crate::{
    hls,
    id::SessionId,
    media::{AudioFormat, MediaKind, TrackInfo},
    pipeline::Pipelines,
    recording,
    telemetry::Metrics,
    transport::{EndReason, PublicationId, PublishEvent, PublishTransport},
};

/// How often the published status is renewed.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// A publisher without packets for this long counts as stalled (requirement R5).
const STALL: Duration = Duration::from_secs(2);

/// What reaches the media of a session.
pub(super) enum Event {
    /// From the transport.
    Publish(PublishEvent),
    /// End everything now and say when it is done.
    Close(tokio::sync::oneshot::Sender<()>),
}

/// What others may see of a session's media without asking its worker.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<BoardState>,
    pub(super) transport: OnceLock<Weak<PublishTransport>>,
}

#[derive(Debug)]
pub(super) struct BoardState {
    pub(super) stream: Option<hls::Stream>,
    pub(super) status: Status,
    /// When the session ended or broke, if it did.
    pub(super) over_since: Option<Instant>,
}

impl Board {
    pub(super) fn new(id: SessionId) -> Self {
        Self {
            state: Mutex::new(BoardState {
                stream: None,
                status: Status {
                    id,
                    state: State::Starting,
                    since: None,
                    publication: None,
                    tracks: Vec::new(),
                    hls: None,
                    recording: super::outputs::RecordingStatus::Waiting.into(),
                    findings: Vec::new(),
                    dropped_events: 0,
                },
                over_since: None,
            }),
            transport: OnceLock::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    outputs: Option<Outputs>,
    kinds: Vec<MediaKind>,
    stream_start: Instant,
    publication: Option<Publication>,
    made: Vec<Made>,
    last_packet: Option<Instant>,
    /// When the playlist ends unless a publisher returns.
    ends_at: Option<Instant>,
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
            outputs: None,
            kinds: Vec::new(),
            stream_start: now,
            publication: None,
            made: Vec::new(),
            last_packet: None,
            ends_at: None,
            rates: Rates::default(),
            next_status: now,
            last_status: now,
        }
    }

    fn begin(&mut self, id: PublicationId, tracks: &[TrackInfo], now: Instant) {
        let mut kinds: Vec<_> = tracks.iter().map(|track| track.codec.kind()).collect();
        kinds.sort_unstable();
        if self.outputs.is_none() || self.kinds != kinds {
            // Players cannot be told of a rendition that comes or goes, so other tracks mean another playlist.
            self.end_stream(now);
            let stream = hls::Stream::new(self.settings.hls.clone());
            self.stream_start = now;
            self.board.lock().stream = Some(stream.clone());
            self.outputs = Some(Outputs::new(
                self.id.clone(),
                stream,
                self.recordings.clone(),
            ));
        }
        self.kinds.clone_from(&kinds);
        self.ends_at = None;
        self.last_packet = None;
        self.rates = Rates::default();
        self.metrics.publications.inc();
        let publication = Publication::start(
            id,
            tracks,
            Arc::clone(&self.pipelines),
            self.settings.pipeline,
            self.settings.keyframe_interval,
            now.saturating_duration_since(self.stream_start),
            self.makes_aac(),
        );
        if let Some(outputs) = &mut self.outputs {
            outputs.begin(kinds, publication.started());
        }
        let codecs: Vec<_> = tracks.iter().map(|track| track.codec.as_str()).collect();
        tracing::info!(publication = %id, ?codecs, "publisher connected");
        self.publication = Some(publication);
        self.board.lock().over_since = None;
        self.next_status = now;
    }

    fn makes_aac(&self) -> bool {
        self.settings.hls.audio.contains(&AudioFormat::Aac)
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
        if let Some(publication) = self.publication.take() {
            publication.finish(now, &mut self.made);
        }
        self.publish_made(now);
        if let Some(outputs) = &mut self.outputs {
            outputs.end_recording(now);
            for kind in &self.kinds {
                outputs.pause(*kind);
            }
        }
        if matches!(
            reason,
            EndReason::Deleted | EndReason::Kicked | EndReason::Shutdown
        ) {
            self.end_stream(now);
        } else {
            self.ends_at = Some(now + self.settings.reconnect_grace);
        }
        self.next_status = now;
    }

    fn end_stream(&mut self, now: Instant) {
        self.ends_at = None;
        if let Some(mut outputs) = self.outputs.take() {
            outputs.end_stream(now);
            tracing::info!("stream ended");
            self.board.lock().over_since = Some(now);
        }
    }

    fn publish_made(&mut self, now: Instant) {
        let Some(outputs) = &mut self.outputs else {
            self.made.clear();
            return;
        };
        for made in self.made.drain(..) {
            match made {
                Made::Init(kind, init) => outputs.init(kind, init, now),
                Made::Part(kind, part, at) => {
                    self.metrics.parts.get_or_create(&kind.into()).inc();
                    self.metrics
                        .part_bytes
                        .get_or_create(&kind.into())
                        .inc_by(part.bytes.len() as u64);
                    outputs.part(kind, part, at, now);
                }
                Made::Pause(kind) => outputs.pause(kind),
                Made::AacInit(init) => outputs.aac_init(init),
                Made::AacPart(part, at) => outputs.aac_part(part, at),
                Made::AacLeft => outputs.leave_aac(),
                Made::KeyframeRequest(track) => {
                    if let Some(transport) = self.board.transport.get().and_then(Weak::upgrade) {
                        transport.request_keyframe(track);
                    }
                }
            }
        }
        outputs.poll(now);
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
        let silent = self
            .last_packet
            .is_none_or(|at| now.saturating_duration_since(at) > STALL);
        let mut board = self.board.lock();
        let hls = board.stream.as_ref().map(hls::Stream::status);
        let playable = hls
            .as_ref()
            .is_some_and(|hls| hls.state == hls::State::Live);
        let status = &mut board.status;
        status.state = match (&self.publication, &self.outputs) {
            (Some(_), _) if self.last_packet.is_some() && silent => State::Stalled,
            (Some(_), _) if playable => State::Live,
            (None, Some(_)) => State::Reconnecting,
            (None, None) if hls.is_some() => State::Ended,
            (Some(_) | None, _) => State::Starting,
        };
        status.hls = hls;
        status.publication = self
            .publication
            .as_ref()
            .map(|publication| publication.id().to_string());
        status.since = self
            .publication
            .as_ref()
            .map(|publication| status::utc(publication.started()));
        if let Some(outputs) = &self.outputs {
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
            status.findings.push(format!(
                "a pipeline failed and was started again: {failure}"
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
        match event {
            Event::Publish(PublishEvent::Rtp {
                publication,
                track,
                packet,
                arrival,
            }) => {
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
            }) => {
                if let Some(current) = self
                    .publication
                    .as_mut()
                    .filter(|current| current.id() == publication)
                {
                    current.sender_report(track, report, arrival);
                }
            }
            Event::Publish(PublishEvent::Started {
                publication,
                tracks,
            }) => self.begin(publication, &tracks, now),
            Event::Publish(PublishEvent::Ended {
                publication,
                reason,
            }) => {
                self.publication_ended(publication, &reason, now);
            }
            Event::Close(done) => {
                if let Some(id) = self.publication.as_ref().map(Publication::id) {
                    self.publication_ended(id, &EndReason::Shutdown, now);
                }
                self.end_stream(now);
                self.renew_status(now);
                // Whoever asked may have stopped waiting, which changes nothing here.
                let _nobody_waits = done.send(());
            }
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let span = self.span.clone();
        let _entered = span.enter();
        let mut deadline = None;
        if self.makes_aac()
            && let Some(outputs) = &mut self.outputs
        {
            let wanted = outputs.wants_aac();
            if let Some(publication) = &mut self.publication {
                publication.want_aac(wanted);
            }
        }
        if let Some(publication) = &mut self.publication {
            deadline = publication.poll(now, &mut self.made);
        }
        self.publish_made(now);
        if self.ends_at.is_some_and(|at| at <= now) {
            self.end_stream(now);
            self.next_status = now;
        }
        let active = self.publication.is_some() || self.outputs.is_some();
        if now >= self.next_status {
            self.renew_status(now);
        }
        [deadline, self.ends_at, active.then_some(self.next_status)]
            .into_iter()
            .flatten()
            .min()
    }

    fn panicked(&mut self, message: &str) {
        let span = self.span.clone();
        let _entered = span.enter();
        tracing::error!(
            message,
            "the session's media broke; this session ends, others go on"
        );
        {
            let mut board = self.board.lock();
            board.status.state = State::Failed;
            board.status.findings = vec![format!("internal error, please report it: {message}")];
            board.over_since = Some(Instant::now());
        }
        if let Some(mut outputs) = self.outputs.take() {
            outputs.end_stream(Instant::now());
        }
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        let _entered = self.span.clone().entered();
        if let Some(publication) = self.publication.take() {
            publication.finish(Instant::now(), &mut self.made);
            self.publish_made(Instant::now());
        }
        self.end_stream(Instant::now());
    }
}
