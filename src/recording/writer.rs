//! The two threads of a store: one writes the parts of all recordings, one finishes files. They are apart so that
//! indexing a long recording holds up nobody's parts. Owns the order of work; must not know how files are laid out.

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    RecordingError, Written, finalise,
    note::Ending,
    recorder::{Job, Recording},
};
use crate::media::{FileRange, Part};

/// The recordings that wait for a thread. Each is on the list at most once, so their number bounds it.
#[derive(Default)]
pub(super) struct Hub {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    ready: VecDeque<Arc<Recording>>,
    closed: bool,
    exited: bool,
}

impl Hub {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a recording on the list. The thread is there for as long as anybody has something for it: a store ends its
    /// threads after it has finished all recordings, and a finished recording takes nothing more.
    pub(super) fn schedule(&self, recording: Arc<Recording>) {
        self.pending().ready.push_back(recording);
        self.wake.notify_all();
    }

    /// The next recording; `None` once the hub is closed and nothing waits.
    fn next(&self) -> Option<Arc<Recording>> {
        let mut pending = self
            .wake
            .wait_while(self.pending(), |pending| {
                pending.ready.is_empty() && !pending.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let next = pending.ready.pop_front();
        pending.exited = next.is_none();
        next
    }

    /// Lets the thread end when it has nothing left to do.
    fn close(&self) {
        self.pending().closed = true;
        self.wake.notify_all();
    }
}

/// A thread that works through a hub.
pub(super) struct Worker {
    pub hub: Arc<Hub>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts a thread that does `work` for each recording on the list. A panic ends at the recording it happened in:
    /// `on_panic` gets it.
    pub(super) fn start(
        name: &str,
        work: impl Fn(&Arc<Recording>) + Send + 'static,
        on_panic: impl Fn(&Arc<Recording>) + Send + 'static,
    ) -> io::Result<Self> {
        let hub = Arc::new(Hub::default());
        let thread = thread::Builder::new().name(name.to_owned()).spawn({
            let hub = Arc::clone(&hub);
            move || {
                while let Some(recording) = hub.next() {
                    if catch_unwind(AssertUnwindSafe(|| work(&recording))).is_err() {
                        on_panic(&recording);
                    }
                }
                hub.wake.notify_all();
            }
        })?;
        Ok(Self {
            hub,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits until the thread has done everything on its list and ended, at most until `deadline`; tells whether it
    /// has. A thread that hangs on a dead disk is left behind.
    pub(super) fn join(&self, deadline: Instant) -> bool {
        self.hub.close();
        let limit = deadline.saturating_duration_since(Instant::now());
        let (pending, _) = self
            .hub
            .wake
            .wait_timeout_while(self.hub.pending(), limit, |pending| !pending.exited)
            .unwrap_or_else(PoisonError::into_inner);
        let exited = pending.exited;
        drop(pending);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match thread {
            Some(thread) if exited => thread.join().is_ok(),
            _ => exited,
        }
    }
}

/// Writes what waits in a recording's queue; when it is over, the recording goes to the finisher.
pub(super) fn write_queued(recording: &Arc<Recording>, finisher: &Hub) {
    let jobs = std::mem::take(&mut recording.state().jobs);
    for job in jobs {
        let len = job.len();
        let written = match job {
            Job::Finish => {
                finisher.schedule(Arc::clone(recording));
                return;
            }
            Job::Boxes(bytes) => append(recording, &bytes).map(|_| ()),
            Job::Part {
                track,
                sequence_number,
                part,
            } => write_part(recording, track, sequence_number, &part),
        };
        let mut state = recording.state();
        state.queued = state.queued.saturating_sub(len);
        if let Err(error) = written {
            recording.fail(&mut state, error);
            drop(state);
            finisher.schedule(Arc::clone(recording));
            return;
        }
    }
    let mut state = recording.state();
    if state.jobs.is_empty() {
        state.scheduled = false;
    } else {
        recording.hub.schedule(Arc::clone(recording));
    }
}

/// Writes bytes after the last whole part; what cannot be written whole is taken back.
fn append(recording: &Recording, bytes: &[u8]) -> Result<u64, RecordingError> {
    let offset = recording.state().end;
    recording.file.write_all_at(bytes, offset).map_err(|source| {
        if let Err(error) = recording.file.set_len(offset) {
            tracing::debug!(path = %recording.path.display(), %error, "a torn part stays until repair");
        }
        RecordingError::io("writing", &recording.path, source)
    })?;
    recording.state().end = offset + bytes.len() as u64;
    Ok(offset)
}

fn write_part(
    recording: &Recording,
    track: usize,
    sequence_number: u32,
    part: &Part,
) -> Result<(), RecordingError> {
    let Some(head) = recording.tracks.get(track) else {
        return Ok(());
    };
    let offset = append(recording, &part.bytes)?;
    let nanos = |time: u64| u128::from(time) * 1_000_000_000 / u128::from(head.timescale.max(1));
    let start = nanos(part.presentation_time);
    let end = nanos(part.presentation_time.saturating_add(part.duration));
    let mut state = recording.state();
    state.parts += 1;
    if let Some(span) = state.spans.get_mut(track) {
        let (first, last) = span.unwrap_or((start, end));
        *span = Some((first.min(start), last.max(end)));
    }
    drop(state);
    (recording.on_written)(Written {
        kind: head.kind,
        sequence_number,
        decode_time: part.decode_time,
        range: FileRange {
            file: Arc::clone(&recording.reader),
            offset,
            len: part.bytes.len() as u64,
        },
    });
    Ok(())
}

/// Stops a recording whose receiver panicked while its parts were written.
pub(super) fn stop_after_panic(recording: &Arc<Recording>, finisher: &Hub) {
    let path = recording.path.clone();
    recording.fail(&mut recording.state(), RecordingError::Callback { path });
    finisher.schedule(Arc::clone(recording));
}

/// Indexes a file to which nothing will be added.
pub(super) fn finish(recording: &Recording) -> Result<(), RecordingError> {
    let started = Instant::now();
    match finalise::finalise(&recording.file, &recording.path, Ending::Complete) {
        Ok(done) => {
            let took = started.elapsed();
            tracing::debug!(path = %recording.path.display(), duration = ?done.duration, ?took, "recording indexed");
            sync_folder(recording);
            Ok(())
        }
        // There is nothing in it to play, and nobody has seen it in a list.
        Err(RecordingError::Empty { path }) => {
            fs::remove_file(&path).map_err(|source| RecordingError::io("removing", path, source))
        }
        Err(error) => Err(error),
    }
}

/// Makes the file's name as durable as its content.
fn sync_folder(recording: &Recording) {
    let Some(folder) = recording.path.parent() else {
        return;
    };
    if let Err(error) = fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(path = %folder.display(), %error, "the folder could not be synced");
    }
}

/// How long dropping a store waits for its threads.
pub(super) const DROP_LIMIT: Duration = Duration::from_secs(10);
