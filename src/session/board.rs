//! What there is of a session apart from its worker: what others may see, and what outlives media that is stuck.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{
    checkpoint::{Checkpoints, Log},
    outputs::Outputs,
    status::{State, Status},
};
use crate::{
    hls,
    id::SessionId,
    media::{MediaKind, TrackInfo},
    transport::{PublicationId, PublishTransport},
};

/// What others may see of a session's media without asking its worker.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<BoardState>,
    pub(super) estate: Mutex<Estate>,
    pub(super) transport: OnceLock<Weak<PublishTransport>>,
}

#[derive(Debug)]
pub(super) struct BoardState {
    pub(super) stream: Option<hls::Stream>,
    pub(super) status: Status,
    /// When the session ended or broke, if it did.
    pub(super) over_since: Option<Instant>,
}

/// What outlives a [`Media`](super::media::Media) that is stuck.
#[derive(Debug)]
pub(super) struct Estate {
    /// Counts successors: only the newest may touch the rest.
    pub(super) owner: u32,
    pub(super) outputs: Option<Outputs>,
    pub(super) kinds: Vec<MediaKind>,
    /// When this process began with the playlist, and how old it was then.
    stream_start: Instant,
    stream_age: Duration,
    log: Log,
    /// In place, with its tracks.
    pub(super) publication: Option<(PublicationId, Vec<TrackInfo>)>,
    /// The publication that ended last.
    pub(super) departed: Option<PublicationId>,
    /// When the playlist ends unless a publisher returns.
    pub(super) ends_at: Option<Instant>,
}

impl Estate {
    /// A playlist begins that is `age` old already.
    pub(super) fn begin_stream(&mut self, outputs: Outputs, age: Duration, now: Instant) {
        self.outputs = Some(outputs);
        self.stream_start = now;
        self.stream_age = age;
        self.log.begin(age);
    }

    /// Age of the playlist: presentation times count from its beginning.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.stream_age + now.saturating_duration_since(self.stream_start)
    }

    /// Notes how far the playlist is, for a restart after a crash.
    pub(super) fn note(&mut self) {
        if let Some(outputs) = &self.outputs {
            self.log.note(outputs.progress());
        }
    }

    /// Ends playlist and recording; `false` if there is none.
    pub(super) fn end_stream(&mut self, now: Instant) -> bool {
        self.ends_at = None;
        let outputs = self.outputs.take();
        let ended = outputs.is_some();
        if let Some(mut outputs) = outputs {
            outputs.end_stream(now);
            self.log.end();
        }
        ended
    }
}

impl Board {
    pub(super) fn new(id: SessionId, checkpoints: Option<Arc<Checkpoints>>) -> Self {
        Self {
            estate: Mutex::new(Estate {
                owner: 0,
                outputs: None,
                kinds: Vec::new(),
                stream_start: Instant::now(),
                stream_age: Duration::ZERO,
                log: Log::new(id.clone(), checkpoints),
                publication: None,
                departed: None,
                ends_at: None,
            }),
            state: Mutex::new(BoardState {
                stream: None,
                status: Status {
                    id,
                    state: State::Starting,
                    since: None,
                    publication: None,
                    connection: None,
                    tracks: Vec::new(),
                    av_offset_ms: None,
                    av_offset_uncertainty_ms: None,
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
