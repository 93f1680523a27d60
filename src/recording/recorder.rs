//! [`Recorder`], the handle a session pushes its parts through, and the state of one recording that the handle shares
//! with the writer. Pushing never touches the disk.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{
    FileName, RecordingError, boxes, merge,
    merge::HeadTrack,
    note::{Note, TrackNote},
    writer::Hub,
};
use crate::{
    id::SessionId,
    media::{FileRange, InitSegment, MediaKind, Part},
};

/// Called on the writer thread for each part that is in the file. It must not block: every recording waits for it.
pub type OnWritten = Arc<dyn Fn(Written) + Send + Sync>;

/// A part that reached the file.
#[derive(Clone, Debug)]
pub struct Written {
    /// The track.
    pub kind: MediaKind,
    /// `mfhd.sequence_number` of the part, as it was pushed.
    pub sequence_number: u32,
    /// [`Part::decode_time`].
    pub decode_time: u64,
    /// Where its bytes are, exactly as pushed. Stays valid for as long as the file exists.
    pub range: FileRange,
}

/// How a recording is doing.
#[derive(Clone, Debug)]
pub enum RecorderState {
    /// Parts are taken.
    Recording,
    /// No more parts are taken; what was pushed is being written and indexed.
    Finishing,
    /// The file is complete and indexed (or was removed, as no part was ever pushed).
    Complete,
    /// The recording stopped for this reason; what was written before plays.
    Failed(Arc<RecordingError>),
}

/// Something for the writer to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Write a part and report it.
    Part {
        track: usize,
        sequence_number: u32,
        part: Part,
    },
    /// Write boxes of ours.
    Boxes(Vec<u8>),
    /// Nothing follows.
    Finish,
}

impl Job {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Part { part, .. } => part.bytes.len(),
            Self::Boxes(bytes) => bytes.len(),
            Self::Finish => 0,
        }
    }
}

/// One recording, shared by its handle, the store and the writer.
pub(super) struct Recording {
    pub session_id: SessionId,
    pub name: FileName,
    pub path: PathBuf,
    pub started: SystemTime,
    /// Open for reading and writing; only the writer and then the finisher use it.
    pub file: File,
    /// Open for reading; handed out with every part.
    pub reader: Arc<File>,
    pub tracks: Vec<HeadTrack>,
    pub on_written: OnWritten,
    pub queue_bytes: usize,
    pub hub: Arc<Hub>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What changes during a recording.
pub(super) struct State {
    pub jobs: VecDeque<Job>,
    /// Bytes in `jobs` and in what the writer has taken and not written yet.
    pub queued: usize,
    /// The writer has the recording on its list or in its hands.
    pub scheduled: bool,
    finishing: bool,
    /// Nothing will be written any more.
    pub done: bool,
    failure: Option<Arc<RecordingError>>,
    /// End of the last whole part in the file.
    pub end: u64,
    /// Number of parts in the file.
    pub parts: u64,
    /// For each track the first and the last time in the file, in nanoseconds on the common clock.
    pub spans: Vec<Option<(u128, u128)>>,
    /// For each track the sample entry that holds after everything in the queue.
    entries: Vec<Bytes>,
    /// What is known about the tracks.
    pub note: Note,
}

impl Recording {
    #[expect(clippy::too_many_arguments, reason = "called once, by the store")]
    pub(super) fn new(
        session_id: SessionId,
        name: FileName,
        path: PathBuf,
        started: SystemTime,
        (file, reader): (File, File),
        head: merge::Head,
        note: Note,
        on_written: OnWritten,
        queue_bytes: usize,
        hub: Arc<Hub>,
    ) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            queued: 0,
            scheduled: false,
            finishing: false,
            done: false,
            failure: None,
            end: head.bytes.len() as u64,
            parts: 0,
            spans: vec![None; head.tracks.len()],
            entries: head
                .tracks
                .iter()
                .map(|track| track.entry.clone())
                .collect(),
            note,
        };
        Self {
            session_id,
            name,
            path,
            started,
            file,
            reader: Arc::new(reader),
            tracks: head.tracks,
            on_written,
            queue_bytes,
            hub,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops taking parts because of `error`; the first reason stays.
    pub(super) fn fail(&self, state: &mut State, error: RecordingError) {
        if state.failure.is_none() {
            tracing::warn!(session_id = %self.session_id, %error, "the recording stops; live goes on");
            state.failure = Some(Arc::new(error));
        }
        state.finishing = true;
        state.jobs.clear();
        state.queued = 0;
    }

    /// Nothing will be written any more.
    pub(super) fn close(&self, error: Option<RecordingError>) {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(path = %self.path.display(), %error, "a recording stays locked until it is closed");
        }
        let mut state = self.state();
        if let Some(error) = error {
            self.fail(&mut state, error);
        }
        state.finishing = true;
        state.done = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Puts a job into the queue, or stops the recording if the queue is full.
    fn push(self: &Arc<Self>, state: &mut State, job: Job) {
        if state.queued.saturating_add(job.len()) > self.queue_bytes {
            let error = RecordingError::TooSlow {
                path: self.path.clone(),
                limit: self.queue_bytes,
            };
            self.fail(state, error);
            state.jobs.push_back(Job::Finish);
        } else {
            state.queued += job.len();
            state.jobs.push_back(job);
        }
        if !state.scheduled {
            state.scheduled = true;
            self.hub.schedule(Arc::clone(self));
        }
    }

    /// Takes no more parts; the file is finished once the queue is empty.
    pub(super) fn finish(self: &Arc<Self>) {
        let mut state = self.state();
        if !state.finishing {
            state.finishing = true;
            self.push(&mut state, Job::Finish);
        }
    }

    /// Length of what is recorded, in the time of the media.
    pub(super) fn duration(state: &State) -> Duration {
        let spans = || state.spans.iter().flatten();
        let start = spans().map(|span| span.0).min().unwrap_or(0);
        let end = spans().map(|span| span.1).max().unwrap_or(0);
        Duration::from_nanos(u64::try_from(end.saturating_sub(start)).unwrap_or(u64::MAX))
    }
}

/// The handle of one recording. Dropping it finishes the recording.
///
/// None of its methods but [`wait`](Self::wait) blocks or touches the disk.
pub struct Recorder(pub(super) Arc<Recording>);

impl Recorder {
    /// Whether the recording has a track of this kind. If not, its parts need a new recording.
    pub fn has(&self, kind: MediaKind) -> bool {
        self.track(kind).is_some()
    }

    fn track(&self, kind: MediaKind) -> Option<usize> {
        self.0.tracks.iter().position(|track| track.kind == kind)
    }

    /// Queues a part for writing. Its bytes go to the file unchanged: the caller has given it the `track_ID` of its
    /// track's init segment and an `mfhd.sequence_number` that rises over all parts of the recording.
    ///
    /// A part of a kind that the recording does not [have](Self::has) and parts after the end are ignored. If the disk
    /// is too slow for the queue, the recording stops.
    pub fn push_part(&self, kind: MediaKind, part: Part) {
        let Some(track) = self.track(kind) else {
            return;
        };
        let mut state = self.0.state();
        if state.finishing {
            return;
        }
        // mfhd is the first child of moof: moof header, mfhd header, version and flags, then the number.
        let sequence_number = part
            .bytes
            .get(20..24)
            .and_then(|bytes| bytes.try_into().ok());
        match sequence_number.filter(|_| boxes::is_part(&part.bytes)) {
            Some(number) => {
                let job = Job::Part {
                    track,
                    sequence_number: u32::from_be_bytes(number),
                    part,
                };
                self.0.push(&mut state, job);
            }
            None => self.stop(&mut state, RecordingError::InvalidPart { kind }),
        }
    }

    /// The parts of this track that follow need another init segment (new resolution, new parameter sets).
    ///
    /// The file gets a further sample entry. An init segment with another timescale or `track_ID` cannot continue a
    /// file and stops the recording: finish it and start a new one instead.
    pub fn push_init(&self, kind: MediaKind, init: &InitSegment) {
        let Some(index) = self.track(kind) else {
            return;
        };
        let Some(track) = self.0.tracks.get(index) else {
            return;
        };
        let mut state = self.0.state();
        if state.finishing {
            return;
        }
        let boxes = merge::init_track(init).and_then(|found| {
            if found.id != track.id || init.timescale != track.timescale {
                return Err("its timescale or track_ID differs from that of the recording".into());
            }
            let known = state.entries.get_mut(index).ok_or("no such track")?;
            if *known == found.entry {
                return Ok(None);
            }
            let mut boxes = boxes::encode_entry_change(track.id, &found.entry)?;
            *known = found.entry;
            let note = Note {
                tracks: vec![TrackNote::new(track.id, kind, init)],
                ..Note::default()
            };
            boxes.extend(note.encode()?);
            state.note.merge(note);
            Ok(Some(boxes))
        });
        match boxes {
            Ok(Some(boxes)) => self.0.push(&mut state, Job::Boxes(boxes)),
            Ok(None) => {}
            Err(reason) => self.stop(&mut state, RecordingError::InvalidInit { kind, reason }),
        }
    }

    fn stop(&self, state: &mut State, error: RecordingError) {
        self.0.fail(state, error);
        self.0.push(state, Job::Finish);
    }

    /// Takes no more parts; what was pushed is written and the file is indexed in the background.
    pub fn finish(&self) {
        self.0.finish();
    }

    /// How the recording is doing.
    pub fn state(&self) -> RecorderState {
        let state = self.0.state();
        match (&state.failure, state.finishing, state.done) {
            (Some(error), ..) => RecorderState::Failed(Arc::clone(error)),
            (None, _, true) => RecorderState::Complete,
            (None, true, _) => RecorderState::Finishing,
            (None, false, _) => RecorderState::Recording,
        }
    }

    /// Blocks until nothing will be written to the file any more (after [`finish`](Self::finish) or a failure), at most
    /// for `limit`, and returns the state then. Not for async tasks.
    pub fn wait(&self, limit: Duration) -> RecorderState {
        let guard = self.0.state();
        drop(
            self.0
                .changed
                .wait_timeout_while(guard, limit, |state| !state.done)
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.state()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The file, open for reading: the one that every [`Written::range`] names.
    pub fn reader(&self) -> &Arc<File> {
        &self.0.reader
    }

    /// The file's name within the folder of its session.
    pub fn file_name(&self) -> FileName {
        self.0.name
    }

    /// Bytes that are in the file as whole parts, headers included.
    pub fn bytes(&self) -> u64 {
        self.0.state().end
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.0.state().queued
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("path", &self.0.path)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
