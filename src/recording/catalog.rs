//! What is known about recordings on disk: entries of a list and opened files. Reads heads, index headers and notes
//! only; must not change anything.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    FileName, RecordingError, finalise,
    note::{Ending, Note},
    scan::{self, Stage},
};
use crate::id::SessionId;

/// The state of a listed recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    /// It is being written.
    Live,
    /// Nobody is writing it, and everything that was recorded is in it.
    Complete,
    /// A repair finished it after a crash; its last, unfinished part may be missing.
    Repaired,
}

/// One recording in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The session it belongs to.
    pub session_id: SessionId,
    /// Its name within the folder of the session.
    pub file: FileName,
    /// When it started.
    pub start: SystemTime,
    /// Length in media time.
    pub duration: Duration,
    /// Bytes; of a live recording those of its whole parts.
    pub bytes: u64,
    /// RFC 6381 codecs strings of its tracks, each once.
    pub codecs: Vec<String>,
    /// Picture size at the start; `None` without video.
    pub resolution: Option<(u32, u32)>,
    /// Being written, complete or repaired.
    pub state: EntryState,
    /// Has its index, so players can seek in it at once. False while live, and after that only if the index could not
    /// be written (a full disk); such a file plays and is finished by the next repair.
    pub indexed: bool,
}

/// A recording opened for download.
#[derive(Debug)]
pub struct OpenRecording {
    /// The file, open for reading.
    pub file: File,
    /// Bytes that may be read from it now; a live file grows.
    pub len: u64,
    /// Whether it is being written.
    pub live: bool,
    /// Entity tag with its quotes (RFC 9110 section 8.8.3): strong, but weak while the file is live.
    pub etag: String,
    /// When it was last changed.
    pub modified: SystemTime,
}

/// What a file says about itself, as long as it does not change.
#[derive(Clone)]
struct Known {
    len: u64,
    modified: Option<SystemTime>,
    /// `None` for files that are not ours or have nothing to play.
    facts: Option<Facts>,
}

#[derive(Clone)]
struct Facts {
    start: SystemTime,
    duration: Duration,
    codecs: Vec<String>,
    resolution: Option<(u32, u32)>,
    state: EntryState,
    indexed: bool,
}

/// Entries of files that were looked at before, by path.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<PathBuf, Known>>);

impl Cache {
    /// The entry of a file that nobody is writing; `None` if there is nothing to list.
    pub(super) fn entry(
        &self,
        session_id: &SessionId,
        name: FileName,
        path: &Path,
    ) -> Option<Entry> {
        let metadata = fs::metadata(path).ok().filter(Metadata::is_file)?;
        let (len, modified) = (metadata.len(), metadata.modified().ok());
        let cached = self
            .known()
            .get(path)
            .filter(|known| known.len == len && known.modified == modified)
            .cloned();
        let known = cached.unwrap_or_else(|| {
            let facts = read_facts(path, name, len).unwrap_or_else(|error| {
                tracing::debug!(path = %path.display(), %error, "not listed");
                None
            });
            let known = Known {
                len,
                modified,
                facts,
            };
            self.known().insert(path.to_owned(), known.clone());
            known
        });
        let facts = known.facts?;
        Some(Entry {
            session_id: session_id.clone(),
            file: name,
            start: facts.start,
            duration: facts.duration,
            bytes: len,
            codecs: facts.codecs,
            resolution: facts.resolution,
            state: facts.state,
            indexed: facts.indexed,
        })
    }

    /// Forgets the files of `folder` that are not among `present`.
    pub(super) fn retain(&self, folder: &Path, present: &[PathBuf]) {
        self.known()
            .retain(|path, _| path.parent() != Some(folder) || present.contains(path));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what there is to say about a file of `len` bytes.
fn read_facts(path: &Path, name: FileName, len: u64) -> Result<Option<Facts>, RecordingError> {
    let file = File::open(path).map_err(|source| RecordingError::io("opening", path, source))?;
    let facts = |note: &Note, duration, indexed| Facts {
        start: note.start().unwrap_or_else(|| name.start()),
        duration,
        codecs: note.codecs(),
        resolution: note.resolution(),
        state: match note.ended {
            Some(Ending::Repaired) => EntryState::Repaired,
            _ => EntryState::Complete,
        },
        indexed,
    };
    match scan::read_head(&file, path, len)?.stage {
        Stage::Indexed { moov } => {
            let (end, mvhd) = scan::read_index_head(&file, path, moov)?;
            let note = scan::read_last_note(&file, end)
                .map_err(|source| RecordingError::io("reading", path, source))?
                .unwrap_or_default();
            Ok(Some(facts(&note, finalise::duration(&mvhd), true)))
        }
        // A leftover that was not repaired: rare, and then looked through once.
        Stage::Fragmented => {
            let scan = scan::scan(&file, path, len)?;
            let duration = finalise::span(&scan.head.tracks);
            Ok((scan.parts > 0).then(|| facts(&scan.note, duration, false)))
        }
    }
}

/// Opens a file of which `live_len` bytes count, or all of it if nobody is writing it.
pub(super) fn open(path: &Path, live_len: Option<u64>) -> Result<OpenRecording, RecordingError> {
    let opening = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => RecordingError::NotFound,
        _ => RecordingError::io("opening", path, source),
    };
    let file = File::open(path).map_err(opening)?;
    let metadata = file.metadata().map_err(opening)?;
    if !metadata.is_file() {
        return Err(RecordingError::NotFound);
    }
    let modified = metadata.modified().map_err(opening)?;
    let len = live_len.unwrap_or(metadata.len());
    let nanos = super::note::unix_nanos(modified);
    let weak = if live_len.is_some() { "W/" } else { "" };
    Ok(OpenRecording {
        file,
        len,
        live: live_len.is_some(),
        etag: format!("{weak}\"{len:x}-{nanos:x}\""),
        modified,
    })
}
