//! MP4 recordings on disk: writing them part by part, finishing and repairing them, listing and opening them.
//!
//! Owns the folder `<root>/<session_id>/` and the layout of the files in it. Knows sessions by their id and media as
//! ready-made init segments and parts; must not know where these come from (GStreamer), who else uses the same bytes
//! (HLS) or how files reach a client (HTTP).
//!
//! # The file
//!
//! A recording is written once and never copied. While it grows it is a fragmented MP4 (ISO/IEC 14496-12 section 8.8):
//!
//! ```text
//! ftyp | free (16 bytes, ftyp) | moov (tracks, no samples) | uuid (note) | moof mdat | moof mdat | ...
//! ```
//!
//! The parts of all tracks follow each other unchanged, so the file plays at every moment, also after `kill -9`. To
//! finish it, a second `moov` with the complete sample tables and a closing note are appended and then the first 16 bytes
//! of `free` are replaced by the 64-bit header of an `mdat` that covers everything up to the new `moov`:
//!
//! ```text
//! ftyp | mdat (16-byte header; holds ftyp, the old moov and all fragments as they were) | moov (index) | uuid (note)
//! ```
//!
//! That one write within the first disk sector switches the file from fragmented to indexed. Before it the file is
//! still the fragmented one, after it the indexed one, and no byte of a part has moved: a [`FileRange`] handed out
//! while recording stays valid for as long as the file exists. The `ftyp` in `free` and the `moov` after it are an init
//! segment, so a finished file can also be played fragment by fragment ([`SegmentIndex`]). Files of before have no `ftyp`
//! there, and `free` is 16 bytes long.
//!
//! # Our own boxes
//!
//! Players skip `uuid` boxes that they do not know (ISO/IEC 14496-12 section 4.2). Ours are
//!
//! * the *note*, extended type `7768697067617465 6e6f7465c0de0001` ("whipgatenote" and four bytes), whose payload is JSON:
//!   start in nanoseconds since 1970, `track_ID`, codecs and picture size of the tracks, and in the closing note how the
//!   recording `ended`: `complete` or `repaired`. That is where the state in a list comes from;
//! * the *sample entry change*, extended type `7768697067617465 73747364c0de0001` ("whipgatestsd" and four bytes):
//!   `u32 0; u32 track_ID;` and one sample entry box as in an `stsd`. It holds for the parts of that track which follow,
//!   and the index gets a further sample entry. Until then players go by the parameter sets within the parts.
//!
//! # Durability
//!
//! Each part reaches the kernel with its own `write` before [`Written`] reports it, so it survives the death of the
//! process. The disk is asked to make it durable (`fsync`) when the recording is finished. A writer holds a lock
//! (`flock`) on its file, so that no repair, of this process or another, touches a recording in progress.

mod boxes;
mod catalog;
mod finalise;
mod merge;
mod note;
mod path;
mod recorder;
mod repair;
mod scan;
mod segments;
mod store;
mod tables;
mod writer;

use std::{error::Error as StdError, io, path::PathBuf};

pub use catalog::{Entry, EntryState, OpenRecording};
pub use path::FileName;
pub use recorder::{OnWritten, Recorder, RecorderState, Written};
pub use repair::{Outcome, RepairReport, repair_path};
pub use segments::{RecordedInit, RecordedSegment, SegmentIndex};
pub use store::{Options, Store};

use crate::media::MediaKind;

#[cfg(doc)]
use crate::media::FileRange;

/// Why something about a recording did not work. Every variant names the path or the track it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The folder for recordings cannot be created or written to.
    #[error(
        "cannot write recordings to {}: {source}; make the folder writable for this user, point storage.data_dir to \
         another one, or set recording.enabled = false", path.display()
    )]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or the quota is used up.
    #[error("no space left for {}: {source}; free some or move storage.data_dir to a larger disk", path.display())]
    DiskFull {
        /// The recording.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading, writing or listing failed.
    #[error("{operation} {} failed: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk did not keep up and the recording's queue is full.
    #[error("writing {} is too slow: {limit} bytes are waiting already", path.display())]
    TooSlow {
        /// The recording.
        path: PathBuf,
        /// Capacity of the queue in bytes.
        limit: usize,
    },
    /// A recording needs at least one track.
    #[error("a recording needs at least one track")]
    NoTracks,
    /// An init segment cannot be used.
    #[error("unusable init segment of the {kind} track: {reason}")]
    InvalidInit {
        /// The track.
        kind: MediaKind,
        /// What is wrong with it.
        reason: Box<dyn StdError + Send + Sync>,
    },
    /// What was pushed is not one `moof` followed by one `mdat`.
    #[error("a part of the {kind} track is not one moof box followed by one mdat box")]
    InvalidPart {
        /// The track.
        kind: MediaKind,
    },
    /// The `on_written` callback panicked.
    #[error("the receiver of written parts of {} panicked", path.display())]
    Callback {
        /// The recording.
        path: PathBuf,
    },
    /// The store was closed.
    #[error("the recording store is closed")]
    Closed,
    /// No such recording, or a name that no recording can have.
    #[error("no such recording")]
    NotFound,
    /// The file is being written, by this process or another.
    #[error("{} is being recorded at the moment", path.display())]
    Busy {
        /// The recording.
        path: PathBuf,
    },
    /// The file has a recording's name but not its structure.
    #[error("{} is not a recording of ours: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is missing or different.
        reason: Box<dyn StdError + Send + Sync>,
    },
    /// The file has no whole part, so there is nothing to play.
    #[error("{} holds no whole part", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Something in the middle of the file is not readable; it is left as it is.
    #[error("{} is damaged at byte {offset}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the first box that cannot be read.
        offset: u64,
        /// What is wrong with it.
        reason: Box<dyn StdError + Send + Sync>,
    },
    /// The index could not be made or did not pass its check; the file stays fragmented and playable.
    #[error("cannot index {}: {reason}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: Box<dyn StdError + Send + Sync>,
    },
}

impl RecordingError {
    /// Wraps an I/O error, telling a full disk from everything else.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, source }
            }
            _ => Self::Io {
                operation,
                path,
                source,
            },
        }
    }
}
