//! The media that goes on when other media of the same session is stuck in a call.

use std::{
    sync::{Arc, TryLockError},
    time::Instant,
};

use super::{
    super::{Settings, board::Board, publication::Made},
    Media,
};
use crate::{id::SessionId, media::MediaKind, pipeline::Pipelines, recording, telemetry::Metrics};

/// How often the media of a session may get stuck before the session is given up.
pub(super) const MAX_SUCCESSORS: u32 = 3;

impl Media {
    /// Media that goes on where a predecessor is stuck in a call, unless that happens too often or `overloaded` says
    /// that too many are stuck already: then the session ends. Does not wait for the predecessor.
    pub(in crate::session) fn succeed(
        id: SessionId,
        settings: Arc<Settings>,
        pipelines: Arc<Pipelines>,
        recordings: Option<Arc<recording::Store>>,
        metrics: Arc<Metrics>,
        board: Arc<Board>,
        overloaded: bool,
    ) -> Option<Self> {
        let mut media = Self::new(id, settings, pipelines, recordings, metrics, board);
        let span = media.span.clone();
        let _entered = span.enter();
        let board = Arc::clone(&media.board);
        // Whoever is stuck with the outputs themselves in hand, in a call to a disk, cannot be succeeded.
        let mut estate = match board.estate.try_lock() {
            Ok(estate) => Some(estate),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        match &mut estate {
            Some(estate) if estate.owner < MAX_SUCCESSORS && !overloaded => {
                tracing::error!(
                    "a call of the session's media does not return: its pipelines are replaced"
                );
                estate.owner += 1;
                media.owner = estate.owner;
                media.predecessors.clone_from(&estate.publication);
                Some(media)
            }
            _ => {
                if let Some(estate) = &mut estate {
                    estate.owner = u32::MAX;
                    estate.end_stream(media.since);
                } else if let Some(stream) = &board.lock().stream {
                    stream.end();
                }
                drop(estate);
                media.owner = u32::MAX - 1;
                media.fail("its media hangs in calls that do not return");
                None
            }
        }
    }

    /// Goes on with the publication of a predecessor.
    pub(super) fn take_over(&mut self, now: Instant) {
        let Some((id, tracks)) = self.predecessors.take() else {
            return;
        };
        self.begin(id, &tracks, now);
        for (index, track) in tracks.iter().enumerate() {
            if track.codec.kind() == MediaKind::Video {
                self.made.push(Made::KeyframeRequest(index));
            }
        }
    }
}
