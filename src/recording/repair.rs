//! Finishes recordings that a crash or a full disk left behind. Must not touch files that are being written (they are
//! locked), that are finished, or that are not ours.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    FileName, RecordingError, finalise,
    note::Ending,
    scan::{self, Stage},
};
use crate::id::SessionId;

/// What became of one leftover.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It is indexed now and listed as `repaired`.
    Repaired {
        /// Length of the movie.
        duration: Duration,
        /// Bytes of an unfinished last part that were cut off.
        cut: u64,
    },
    /// It has no whole part, so there is nothing to play; it is left as it is and not listed.
    Empty,
    /// It stays as it is, for this reason.
    Failed(RecordingError),
}

/// A leftover and what became of it.
#[derive(Debug)]
pub struct RepairReport {
    /// The file.
    pub path: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
}

/// Finishes every unfinished recording at or below `path`: one file, the folder of a session, or the folder of all.
///
/// Only leftovers are reported: finished recordings, recordings being written by any process and files that are not
/// ours are passed over. A file is changed only by cutting off an unfinished last part and by adding the index.
///
/// # Errors
/// [`RecordingError::Io`] if `path` cannot be read; trouble with a single file is in its report.
pub fn repair_path(path: &Path) -> Result<Vec<RepairReport>, RecordingError> {
    let mut reports = Vec::new();
    let unreadable = |source| RecordingError::io("reading", path, source);
    if fs::metadata(path).map_err(unreadable)?.is_file() {
        reports.extend(repair_file(path));
        return Ok(reports);
    }
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            reports.extend(repair_file(&path));
        } else if is_session(&path) {
            for entry in fs::read_dir(&path).map_err(unreadable)? {
                reports.extend(repair_file(&entry.map_err(unreadable)?.path()));
            }
        }
    }
    reports.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(reports)
}

fn is_session(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    path.is_dir() && name.is_some_and(|name| name.parse::<SessionId>().is_ok())
}

/// Finishes one file; `None` if there is nothing to be done about it.
fn repair_file(path: &Path) -> Option<RepairReport> {
    path.file_name()?.to_str()?.parse::<FileName>().ok()?;
    let finished = open_leftover(path).transpose()?.and_then(|file| {
        let finished = finalise::finalise(&file, path, Ending::Repaired);
        // Closing alone would leave the lock to a child process that is being started at this moment.
        if let Err(error) = file.unlock() {
            tracing::debug!(path = %path.display(), %error, "a repaired recording stays locked until it is closed");
        }
        finished
    });
    let outcome = match finished {
        Ok(done) if done.already => return None,
        Err(
            RecordingError::Busy { .. } | RecordingError::Foreign { .. } | RecordingError::NotFound,
        ) => return None,
        Ok(done) => Outcome::Repaired {
            duration: done.duration,
            cut: done.cut,
        },
        Err(RecordingError::Empty { .. }) => Outcome::Empty,
        Err(error) => Outcome::Failed(error),
    };
    Some(RepairReport {
        path: path.to_owned(),
        outcome,
    })
}

/// Opens an unfinished recording for finishing, if nobody is writing it; `None` if it is finished.
fn open_leftover(path: &Path) -> Result<Option<File>, RecordingError> {
    let opening = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RecordingError::NotFound,
        _ => RecordingError::io("opening", path, source),
    };
    // Finished recordings may well be read-only, and there are many of them: they are only looked at.
    let file = File::open(path).map_err(opening)?;
    let head = scan::read_head(&file, path, scan::length(&file, path)?)?;
    if head.stage != Stage::Fragmented {
        return Ok(None);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(opening)?;
    lock(&file, path)?;
    Ok(Some(file))
}

/// Takes the lock that a writer of a recording holds for as long as it has the file open.
///
/// A file system without locks (some network file systems) is worked on without one.
pub(super) fn lock(file: &File, path: &Path) -> Result<(), RecordingError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(RecordingError::Busy {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => {
            tracing::debug!(path = %path.display(), %error, "recordings on this file system cannot be locked");
            Ok(())
        }
    }
}
