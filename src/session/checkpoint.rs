//! Checkpoints: what a restart of the process needs to go on with the playlists that a crash cut off.
//!
//! One small file per session in a folder of their own, written by one thread: a new file, `fsync`, `rename`, so that
//! there is never half of one. A file says numbers that nobody has seen yet, some segments ahead, and is written anew
//! well before they are reached: once per [`STEP`] segments, and at each discontinuity. It is deleted when the session
//! is over. Knows no playlist beyond [`hls::Progress`].

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{hls, id::SessionId, media::MediaKind};

/// Segments between two writes; as many are held in reserve beyond the next write, for a disk that is slow.
const STEP: u64 = 4;

/// Of another layout than this nothing can be made.
const VERSION: u32 = 1;

/// Longest file that is read, in bytes; one has about 300.
const LONGEST: u64 = 16 * 1024;

const SUFFIX: &str = ".json";

/// What one file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    version: u32,
    session: SessionId,
    /// When the playlist began, in milliseconds since 1970: presentation times count from there.
    began_ms: u64,
    /// Where a successor goes on.
    pub(super) playlist: hls::Progress,
}

impl Checkpoint {
    /// The tracks, sorted.
    pub(super) fn kinds(&self) -> Vec<MediaKind> {
        let mut kinds: Vec<_> = self.playlist.renditions.iter().map(|r| r.kind).collect();
        kinds.sort_unstable();
        kinds
    }

    /// How old the playlist is.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(self.began_ms);
        now.duration_since(began).unwrap_or_default()
    }
}

/// One session's checkpoints: decides when a new one is due.
#[derive(Debug)]
pub(super) struct Log {
    session: SessionId,
    began_ms: u64,
    files: Option<Arc<Checkpoints>>,
    /// The newest one that was given to the writer.
    last: Option<hls::Progress>,
}

impl Log {
    /// No checkpoint yet; without `files` there never is one.
    pub(super) fn new(session: SessionId, files: Option<Arc<Checkpoints>>) -> Self {
        Self {
            session,
            began_ms: 0,
            files,
            last: None,
        }
    }

    /// A playlist begins, or goes on that began `age` ago.
    pub(super) fn begin(&mut self, age: Duration) {
        let began = SystemTime::now()
            .checked_sub(age)
            .and_then(|began| began.duration_since(SystemTime::UNIX_EPOCH).ok())
            .unwrap_or_default();
        self.began_ms = u64::try_from(began.as_millis()).unwrap_or(u64::MAX);
        self.last = None;
    }

    /// Notes where the playlist is, if what was noted last will not do for much longer. Never blocks.
    pub(super) fn note(&mut self, now: hls::Progress) {
        let Some(files) = &self.files else { return };
        if self.last.as_ref().is_some_and(|last| will_do(last, &now)) {
            return;
        }
        let mut playlist = now;
        for rendition in &mut playlist.renditions {
            rendition.next_msn += 2 * STEP;
        }
        self.last = Some(playlist.clone());
        files.save(Checkpoint {
            version: VERSION,
            session: self.session.clone(),
            began_ms: self.began_ms,
            playlist,
        });
    }

    /// The playlist is over: there is nothing to go on with.
    pub(super) fn end(&mut self) {
        self.last = None;
        if let Some(files) = &self.files {
            files.forget(&self.session);
        }
    }
}

fn will_do(noted: &hls::Progress, now: &hls::Progress) -> bool {
    noted.discontinuity == now.discontinuity
        && noted.renditions.len() == now.renditions.len()
        && noted
            .renditions
            .iter()
            .zip(&now.renditions)
            .all(|(noted, now)| noted.kind == now.kind && now.next_msn + STEP <= noted.next_msn)
}

/// The folder of checkpoints and the thread that writes into it. Dropping it writes what is due and ends the thread.
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoints")
            .field("folder", &self.shared.folder)
            .finish_non_exhaustive()
    }
}

struct Shared {
    folder: PathBuf,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Told when there is nothing left to write.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    /// The newest state of each session, `None` to delete it: never more entries than sessions.
    due: BTreeMap<SessionId, Option<Checkpoint>>,
    busy: bool,
    stopping: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, session: &SessionId) -> PathBuf {
        self.folder.join(format!("{session}{SUFFIX}"))
    }

    fn work(&self) {
        let mut failing = false;
        let mut queue = self.queue();
        loop {
            if let Some((session, checkpoint)) = queue.due.pop_first() {
                queue.busy = true;
                drop(queue);
                let outcome = match &checkpoint {
                    Some(checkpoint) => self.write(&session, checkpoint),
                    None => remove(&self.path(&session)),
                };
                match outcome {
                    Ok(()) => failing = false,
                    // Said once per trouble, not at every write.
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(
                                folder = %self.folder.display(), %error,
                                "cannot note where the playlists are: after a crash they would begin anew; \
                                 is the data folder writable and the disk not full?"
                            );
                        }
                    }
                }
                queue = self.queue();
                queue.busy = false;
                continue;
            }
            self.idle.notify_all();
            if queue.stopping {
                return;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, session: &SessionId, checkpoint: &Checkpoint) -> io::Result<()> {
        let text = serde_json::to_vec(checkpoint)?;
        // No session id begins with a dot, so this is nobody's file.
        let draft = self.folder.join(format!(".{session}"));
        let mut file = fs::File::create(&draft)?;
        io::Write::write_all(&mut file, &text)?;
        file.sync_all()?;
        fs::rename(&draft, self.path(session))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Checkpoints {
    /// Opens a folder, makes it if it is not there, and reads what an earlier process left in it.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made or read, or there is no thread to be had. A single file that is of no use is no
    /// error: a warning says why it is left out.
    pub(super) fn open(folder: PathBuf) -> io::Result<(Self, Vec<(SessionId, Checkpoint)>)> {
        fs::create_dir_all(&folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            match read(&path) {
                Ok(Some(checkpoint)) => found.push((checkpoint.session.clone(), checkpoint)),
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    path = %path.display(), error,
                    "not a note of a playlist: it is left out, and can be deleted"
                ),
            }
        }
        let shared = Arc::new(Shared {
            folder,
            queue: Mutex::default(),
            wake: Condvar::new(),
            idle: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.work()
            })?;
        let checkpoints = Self {
            shared,
            thread: Mutex::new(Some(thread)),
        };
        Ok((checkpoints, found))
    }

    fn save(&self, checkpoint: Checkpoint) {
        self.queue(checkpoint.session.clone(), Some(checkpoint));
    }

    /// Deletes what is noted of a session.
    pub(super) fn forget(&self, session: &SessionId) {
        self.queue(session.clone(), None);
    }

    fn queue(&self, session: SessionId, checkpoint: Option<Checkpoint>) {
        self.shared.queue().due.insert(session, checkpoint);
        self.shared.wake.notify_one();
    }

    /// Waits until everything is written, at most for `limit`; `false` if that was too short.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let queue = self.shared.queue();
        let (_queue, outcome) = self
            .shared
            .idle
            .wait_timeout_while(queue, limit, |queue| queue.busy || !queue.due.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.shared.queue().stopping = true;
        self.shared.wake.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that notes where the playlists are panicked");
        }
    }
}

/// Reads a file; `None` for the draft of one, which is deleted.
fn read(path: &Path) -> Result<Option<Checkpoint>, String> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or("its name is no session's")?;
    if name.starts_with('.') {
        return remove(path).map(|()| None).map_err(|e| e.to_string());
    }
    let session: SessionId = name
        .strip_suffix(SUFFIX)
        .and_then(|name| name.parse().ok())
        .ok_or("its name is no session's")?;
    let length = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > LONGEST {
        return Err(format!("{length} bytes are too many"));
    }
    let text = fs::read(path).map_err(|e| e.to_string())?;
    let checkpoint: Checkpoint = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if checkpoint.version != VERSION {
        return Err(format!("version {} is not known", checkpoint.version));
    }
    if checkpoint.session != session {
        return Err("it is another session's".to_owned());
    }
    let kinds = checkpoint.kinds();
    if kinds.is_empty() || kinds.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("its renditions make no playlist".to_owned());
    }
    Ok(Some(checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(next_msn: u64, discontinuity: u64) -> hls::Progress {
        hls::Progress {
            generation: 0,
            key: "k".to_owned(),
            target_duration: 2,
            discontinuity,
            renditions: vec![hls::RenditionProgress {
                kind: MediaKind::Video,
                first_msn: 0,
                next_msn,
            }],
        }
    }

    fn log(folder: &Path) -> Log {
        let (files, _) = Checkpoints::open(folder.to_owned()).unwrap();
        let mut log = Log::new("studio".parse().unwrap(), Some(Arc::new(files)));
        log.begin(Duration::ZERO);
        log
    }

    fn flush(log: &Log) {
        assert!(log.files.as_ref().unwrap().flush(Duration::from_secs(5)));
    }

    fn left_in(folder: &Path) -> Vec<(SessionId, Checkpoint)> {
        Checkpoints::open(folder.to_owned()).unwrap().1
    }

    #[test]
    fn what_is_found_after_a_crash_was_never_seen_by_anybody() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path());
        for msn in 0..100 {
            log.note(progress(msn, 0));
            flush(&log);
            let (session, found) = left_in(folder.path()).remove(0);
            assert_eq!(session.as_str(), "studio");
            let ahead = found.playlist.renditions[0].next_msn - msn;
            assert!((STEP..=2 * STEP).contains(&ahead), "{ahead} ahead at {msn}");
        }
    }

    #[test]
    fn it_is_written_once_per_step_and_at_each_discontinuity() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path());
        let mut writes = Vec::new();
        for msn in 0..=2 * STEP {
            log.note(progress(msn, u64::from(msn > 5)));
            let noted = log.last.clone().unwrap();
            if writes.last() != Some(&noted) {
                writes.push(noted);
            }
        }
        let numbers: Vec<_> = writes
            .iter()
            .map(|noted| (noted.renditions[0].next_msn - 2 * STEP, noted.discontinuity))
            .collect();
        assert_eq!(numbers, [(0, 0), (5, 0), (6, 1)]);
    }

    #[test]
    fn the_end_of_the_playlist_deletes_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path());
        log.note(progress(7, 0));
        flush(&log);
        log.end();
        flush(&log);
        assert_eq!(left_in(folder.path()), []);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn torn_and_foreign_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path());
        log.note(progress(7, 3));
        flush(&log);
        let good = fs::read_to_string(folder.path().join("studio.json")).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("torn.json", good.replace("studio", "torn").split_at(40).0);
        write("empty.json", "");
        write("other.json", &good);
        write(
            "later.json",
            &good
                .replace("studio", "later")
                .replace("\"version\":1", "\"version\":2"),
        );
        write(
            "more.json",
            &good
                .replace("studio", "more")
                .replace("\"version\"", "\"x\":0,\"version\""),
        );
        write(
            "none.json",
            &good
                .replace("studio", "none")
                .replace("{\"kind\":\"video\",\"first_msn\":0,\"next_msn\":15}", ""),
        );
        write("huge.json", &" ".repeat(20_000));
        write("notes.txt", "hello");
        write(".studio", "half");
        fs::create_dir(folder.path().join("folder.json")).unwrap();
        let found = left_in(folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].1.playlist, progress(15, 3));
        assert!(
            !folder.path().join(".studio").exists(),
            "drafts are removed"
        );
        assert!(folder.path().join("notes.txt").exists());
    }
}
