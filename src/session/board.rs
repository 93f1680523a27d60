//! What there is of a session apart from its worker: what others may see, and what outlives media that is stuck.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Instant,
};

use super::{
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
#[derive(Debug, Default)]
pub(super) struct Estate {
    /// Counts successors: only the newest may touch the rest.
    pub(super) owner: u32,
    pub(super) outputs: Option<Outputs>,
    pub(super) kinds: Vec<MediaKind>,
    /// When the playlist began, which is its presentation time 0.
    pub(super) stream_start: Option<Instant>,
    pub(super) publication: Option<(PublicationId, Vec<TrackInfo>)>,
    /// When the playlist ends unless a publisher returns.
    pub(super) ends_at: Option<Instant>,
}

impl Estate {
    /// Ends playlist and recording; `false` if there is none.
    pub(super) fn end_stream(&mut self, now: Instant) -> bool {
        self.ends_at = None;
        let outputs = self.outputs.take();
        let ended = outputs.is_some();
        if let Some(mut outputs) = outputs {
            outputs.end_stream(now);
        }
        ended
    }
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
                    connection: None,
                    tracks: Vec::new(),
                    hls: None,
                    recording: super::outputs::RecordingStatus::Waiting.into(),
                    findings: Vec::new(),
                    dropped_events: 0,
                },
                over_since: None,
            }),
            estate: Mutex::default(),
            transport: OnceLock::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
