//! [`Store`], the folder of all recordings: starts recordings, lists and opens them, repairs what a crash left behind.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    Entry, EntryState, FileName, OnWritten, OpenRecording, Recorder, RecordingError, RepairReport,
    catalog::{self, Cache},
    merge,
    note::{self, Note, TrackNote},
    recorder::Recording,
    repair,
    segments::{Indexes, SegmentIndex},
    writer::{self, DROP_LIMIT, Worker},
};
use crate::{
    id::SessionId,
    media::{InitSegment, MediaKind},
};

/// How many recordings of one session may start within the same second.
const MAX_COPIES: u32 = 10_000;

/// What can be set about a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Bytes that may wait for the disk, per recording. A recording whose queue is full stops.
    pub queue_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_bytes: 16 * 1024 * 1024,
        }
    }
}

/// The recordings being made.
type Active = Mutex<Recordings>;

#[derive(Default)]
struct Recordings {
    by_path: BTreeMap<PathBuf, Arc<Recording>>,
    /// No more are started.
    closed: bool,
}

/// The folder of all recordings and the threads that write into it.
///
/// Its methods do file system work and may block for as long as the disk does; in async code call them on a blocking
/// thread. Only [`Recorder`]s never block.
pub struct Store {
    root: PathBuf,
    options: Options,
    active: Arc<Active>,
    cache: Cache,
    indexes: Indexes,
    writer: Worker,
    finisher: Worker,
}

impl Store {
    /// Opens (and creates if need be) the folder `root` and makes sure that it can be written to.
    ///
    /// Leftovers of a crash are not touched before [`repair`](Self::repair) is called.
    ///
    /// # Errors
    /// [`RecordingError::Unwritable`] with the path and the ways out.
    pub fn open(root: impl Into<PathBuf>, options: Options) -> Result<Self, RecordingError> {
        let root = root.into();
        check_writable(&root).map_err(|source| RecordingError::Unwritable {
            path: root.clone(),
            source,
        })?;
        let active = Arc::new(Active::default());
        let threads = |source| RecordingError::io("starting the threads for", &root, source);
        let finished = |active: &Active, recording: &Recording, error| {
            lock(active).by_path.remove(&recording.path);
            recording.close(error);
        };
        let finisher = Worker::start(
            "recording-index",
            {
                let active = Arc::clone(&active);
                move |recording| finished(&active, recording, writer::finish(recording).err())
            },
            {
                let active = Arc::clone(&active);
                move |recording| {
                    let error = RecordingError::Index {
                        path: recording.path.clone(),
                        reason: "the indexer panicked".into(),
                    };
                    finished(&active, recording, Some(error));
                }
            },
        )
        .map_err(threads)?;
        let writer = Worker::start(
            "recording-write",
            {
                let finisher = Arc::clone(&finisher.hub);
                move |recording| writer::write_queued(recording, &finisher)
            },
            {
                let finisher = Arc::clone(&finisher.hub);
                move |recording| writer::stop_after_panic(recording, &finisher)
            },
        )
        .map_err(threads)?;
        Ok(Self {
            root,
            options,
            active,
            cache: Cache::default(),
            indexes: Indexes::default(),
            writer,
            finisher,
        })
    }

    /// The folder of all recordings.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts a recording of these tracks, each with its first init segment, in a new file
    /// `<root>/<session_id>/<UTC start>.mp4`.
    ///
    /// An existing file is never opened for writing: if the name is taken, `-1`, `-2` ... is added to it. The file is
    /// there, locked and with its head written when this returns. A recording that ends without a single part leaves
    /// no file.
    ///
    /// # Errors
    /// [`RecordingError::NoTracks`] and [`RecordingError::InvalidInit`] for unusable tracks (no two may have the same
    /// kind or `track_ID`), [`RecordingError::Unwritable`], [`RecordingError::DiskFull`] or [`RecordingError::Io`] from
    /// the disk, [`RecordingError::Closed`] after [`close`](Self::close).
    pub fn start(
        &self,
        session_id: &SessionId,
        started: SystemTime,
        tracks: &[(MediaKind, InitSegment)],
        on_written: OnWritten,
    ) -> Result<Recorder, RecordingError> {
        let head = merge::head(started, tracks)?;
        let folder = self.root.join(session_id.as_str());
        fs::create_dir_all(&folder).map_err(|source| RecordingError::Unwritable {
            path: folder.clone(),
            source,
        })?;
        let mut active = lock(&self.active);
        if active.closed {
            return Err(RecordingError::Closed);
        }
        let (name, path, file) = create_new(&folder, started)?;
        let written = repair::lock(&file, &path)
            .and_then(|()| {
                let written = file.write_all_at(&head.bytes, 0);
                written.map_err(|source| RecordingError::io("writing", &path, source))
            })
            .and_then(|()| {
                File::open(&path).map_err(|source| RecordingError::io("opening", &path, source))
            });
        let reader = match written {
            Ok(reader) => reader,
            Err(error) => {
                // Made a moment ago by this very call and not worth keeping.
                if let Err(error) = fs::remove_file(&path) {
                    tracing::debug!(path = %path.display(), %error, "an empty recording stays");
                }
                return Err(error);
            }
        };
        let described = tracks.iter().zip(&head.tracks);
        let note = Note {
            start_ns: Some(note::unix_nanos(started)),
            tracks: described
                .map(|((kind, init), track)| TrackNote::new(track.id, *kind, init))
                .collect(),
            ended: None,
        };
        let recording = Arc::new(Recording::new(
            session_id.clone(),
            name,
            path.clone(),
            started,
            (file, reader),
            head,
            note,
            on_written,
            self.options.queue_bytes,
            Arc::clone(&self.writer.hub),
        ));
        active.by_path.insert(path, Arc::clone(&recording));
        Ok(Recorder(recording))
    }

    /// All recordings with something to play, by session and start.
    ///
    /// # Errors
    /// [`RecordingError::Io`] if the folder cannot be read; files that cannot be read are left out.
    pub fn list(&self) -> Result<Vec<Entry>, RecordingError> {
        let mut entries = Vec::new();
        for folder in read_folder(&self.root)? {
            if let Some(session_id) = folder.to_str().and_then(|name| name.parse().ok()) {
                entries.extend(self.list_session(&session_id)?);
            }
        }
        entries.sort_by(|a, b| (&a.session_id, a.file).cmp(&(&b.session_id, b.file)));
        Ok(entries)
    }

    /// The recordings of one session, by start; none for a session that was never recorded.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn list_session(&self, session_id: &SessionId) -> Result<Vec<Entry>, RecordingError> {
        let folder = self.root.join(session_id.as_str());
        let mut entries = Vec::new();
        let mut present = Vec::new();
        for file in read_folder(&folder)? {
            let Some(name) = file.to_str().and_then(|name| name.parse::<FileName>().ok()) else {
                continue;
            };
            let path = folder.join(&file);
            let recording = lock(&self.active).by_path.get(&path).cloned();
            entries.extend(match recording {
                Some(recording) => live_entry(&recording),
                None => self.cache.entry(session_id, name, &path),
            });
            present.push(path);
        }
        self.cache.retain(&folder, &present);
        entries.sort_by_key(|entry| entry.file);
        Ok(entries)
    }

    /// Opens a recording for reading.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`] for a name that no recording has or can have, [`RecordingError::Io`] otherwise.
    pub fn open_file(
        &self,
        session_id: &SessionId,
        file: &str,
    ) -> Result<OpenRecording, RecordingError> {
        let name: FileName = file.parse().map_err(|_| RecordingError::NotFound)?;
        let path = self.root.join(session_id.as_str()).join(name.to_string());
        let recording = lock(&self.active).by_path.get(&path).cloned();
        let live_len = recording.map(|recording| recording.state().end);
        catalog::open(&path, live_len)
    }

    /// The segments of a recording that nobody is writing, and the file. Reads through it the first time: a second or so
    /// for many hours.
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file); [`RecordingError::Busy`] for a recording that is being made;
    /// [`RecordingError::Foreign`], [`RecordingError::Empty`] or [`RecordingError::Damaged`] for a file that has no segments.
    pub fn segments(
        &self,
        session_id: &SessionId,
        file: &str,
    ) -> Result<(OpenRecording, Arc<SegmentIndex>), RecordingError> {
        let open = self.open_file(session_id, file)?;
        let path = self.root.join(session_id.as_str()).join(file);
        if open.live {
            return Err(RecordingError::Busy { path });
        }
        let index = self.indexes.get(&path, &open)?;
        Ok((open, index))
    }

    /// Finishes what a crash left behind; see [`repair_path`](super::repair_path). Recordings being made are not touched.
    ///
    /// # Errors
    /// As [`repair_path`](super::repair_path).
    pub fn repair(&self) -> Result<Vec<RepairReport>, RecordingError> {
        repair::repair_path(&self.root)
    }

    /// Finishes all recordings and ends the threads, waiting at most `limit`; tells whether everything was finished.
    /// What was not is finished by the next [`repair`](Self::repair). A second call finds nothing to do.
    pub fn close(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let active: Vec<_> = {
            let mut active = lock(&self.active);
            active.closed = true;
            active.by_path.values().cloned().collect()
        };
        for recording in active {
            recording.finish();
        }
        // The writer passes recordings on to the finisher, so it ends first.
        self.writer.join(deadline) && self.finisher.join(deadline)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.close(DROP_LIMIT) {
            tracing::warn!(path = %self.root.display(), "recordings stay unfinished until the next repair");
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.root)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn lock(active: &Active) -> MutexGuard<'_, Recordings> {
    active.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry of a recording that is being made; `None` before its first part.
fn live_entry(recording: &Recording) -> Option<Entry> {
    let state = recording.state();
    (state.parts > 0).then(|| Entry {
        session_id: recording.session_id.clone(),
        file: recording.name,
        start: recording.started,
        duration: Recording::duration(&state),
        bytes: state.end,
        codecs: state.note.codecs(),
        resolution: state.note.resolution(),
        state: EntryState::Live,
        indexed: false,
    })
}

/// Creates the folder and a file in it that is removed again.
fn check_writable(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let probe = root.join(format!(".write-test-{}", std::process::id()));
    let written = File::create(&probe).and_then(|file| file.write_all_at(b"test", 0));
    let removed = fs::remove_file(&probe);
    written.and(removed)
}

/// Creates a file with a name that nobody has.
fn create_new(
    folder: &Path,
    started: SystemTime,
) -> Result<(FileName, PathBuf, File), RecordingError> {
    for copy in 0..MAX_COPIES {
        let name = FileName::new(started, copy);
        let path = folder.join(name.to_string());
        match OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
        {
            Ok(file) => return Ok((name, path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(RecordingError::io("creating", path, source)),
        }
    }
    let source = io::Error::from(io::ErrorKind::AlreadyExists);
    Err(RecordingError::io(
        "creating",
        folder.join(FileName::new(started, 0).to_string()),
        source,
    ))
}

/// The names in a folder; none if there is no such folder.
fn read_folder(folder: &Path) -> Result<Vec<std::ffi::OsString>, RecordingError> {
    let reading = |source| RecordingError::io("listing", folder, source);
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(reading)?.file_name()))
            .collect(),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(reading(error)),
    }
}
