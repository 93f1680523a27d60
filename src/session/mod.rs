//! Sessions: the only place that joins transport, timeline, pipelines, HLS and recordings.
//!
//! A *session* is a name that publishers and viewers share. Each *publication* in it is one publisher's connection; the
//! playlist may go on over several. A *recording* is the file of one publication.
//!
//! [`Sessions`] owns them all: it makes a session when somebody publishes, answers for it while it lives, and lets go of
//! it some time after its end. The media of each runs as an actor on the media workers.

mod aac;
mod board;
mod checkpoint;
mod media;
mod outputs;
mod posters;
mod publication;
mod repair;
mod status;
mod wall_clock;
mod worker;

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::posters::{INTERVAL as POSTER_INTERVAL, Poster, PosterError};
pub use self::status::{Connection, Recording, State, Status, Track};
use self::{
    board::Board,
    checkpoint::{Checkpoint, Checkpoints},
    media::{Event, Media},
    posters::Posters,
    worker::{Mailbox, Workers},
};
use crate::{
    hls,
    id::SessionId,
    pipeline::{self, Pipelines},
    recording,
    telemetry::Metrics,
    transport::{
        Connector, EndReason, PublishError, PublishEvent, PublishOptions, PublishSink,
        PublishTransport,
    },
    whip::PublishTransportProvider,
};

/// Events a session may have waiting for its worker: at 370 packets a second more than 5 s of them.
const INBOX: usize = 2048;

/// A call into a session's media that takes longer is given up: its timeline and pipelines need microseconds for a
/// packet, and at most 4 s to drain two pipelines at the end.
const CALL_LIMIT: Duration = Duration::from_secs(6);

/// With so many threads lost in calls that do not return, nothing is started any more.
const MAX_STUCK: usize = 16;

/// How often sessions that are over are looked for.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// A session that somebody asked for but nobody connected to is kept for this long.
const UNUSED: Duration = Duration::from_secs(10);

/// How long closing one session may take at shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long the disk may take at shutdown to forget the playlists, which have all ended.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How sessions are made and kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What publishers may do.
    pub publish: PublishOptions,
    /// How HLS is cut and kept.
    pub hls: hls::Settings,
    /// How the pipelines cut.
    pub pipeline: pipeline::Settings,
    /// A keyframe is asked for when none came for this long.
    pub keyframe_interval: Duration,
    /// How long a playlist waits for a publisher that went without a word.
    pub reconnect_grace: Duration,
    /// Folder that says where the playlists are, so that they go on after a crash of the process; `None`: they do not.
    pub checkpoints: Option<PathBuf>,
    /// Sessions that may be there at once.
    pub max_sessions: usize,
    /// The only ids that may publish; empty for any.
    pub known_sessions: Vec<SessionId>,
    /// Media worker threads.
    pub workers: usize,
}

/// All sessions. A handle: cloning is cheap.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("count", &self.0.map().len())
            .finish_non_exhaustive()
    }
}

struct Inner {
    settings: Arc<Settings>,
    connector: Arc<dyn Connector>,
    pipelines: Arc<Pipelines>,
    recordings: Option<Arc<recording::Store>>,
    checkpoints: Option<Arc<Checkpoints>>,
    metrics: Arc<Metrics>,
    posters: Posters,
    workers: Workers,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
    draining: AtomicBool,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// One session.
struct Session {
    transport: Arc<PublishTransport>,
    board: Arc<Board>,
    mailbox: Mailbox<Media>,
    poster: Arc<posters::Slot>,
    /// When a publisher last asked for it.
    asked_for: Mutex<Instant>,
}

/// Passes what the transport says on to the session's worker.
struct ToMedia {
    mailbox: Mailbox<Media>,
    metrics: Arc<Metrics>,
}

impl PublishSink for ToMedia {
    fn on_event(&self, event: PublishEvent) {
        match event {
            PublishEvent::Rtp { .. } | PublishEvent::SenderReport { .. } => {
                // To the timeline a dropped packet is a lost one.
                if !self.mailbox.offer(Event::Publish(event)) {
                    self.metrics.events_dropped.inc();
                }
            }
            PublishEvent::Started { .. }
            | PublishEvent::Ended { .. }
            | PublishEvent::Withdrawn { .. } => {
                self.mailbox.send(Event::Publish(event));
            }
        }
    }
}

impl Inner {
    fn map(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Whether somebody publishes or may still return.
    fn is_busy(&self) -> bool {
        let waits_for_return = {
            let board = self.board.lock();
            board.stream.is_some() && board.over_since.is_none()
        };
        waits_for_return || self.transport.current().is_some()
    }

    /// Whether nothing is lost by forgetting it.
    ///
    /// An ended stream is kept for its viewers: for as long as it says, or no longer than `at_most`.
    fn is_spent(&self, now: Instant, at_most: Option<Duration>) -> bool {
        if self.transport.current().is_some() {
            return false;
        }
        let asked_for = *self
            .asked_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(asked_for) < UNUSED {
            return false;
        }
        let board = self.board.lock();
        match board.over_since {
            Some(since) => {
                let reach = board.stream.as_ref().map(hls::Stream::reach);
                let keep = reach.unwrap_or_default();
                let keep = at_most.map_or(keep, |limit| keep.min(limit));
                now.saturating_duration_since(since) > keep
            }
            None => board.stream.is_none(),
        }
    }

    fn status(&self) -> Status {
        let (mut status, stream) = {
            let board = self.board.lock();
            (board.status.clone(), board.stream.clone())
        };
        // Goes on changing when the media is over: the last parts come to lie on disk.
        status.hls = stream.as_ref().map(hls::Stream::status);
        status.connection = self.transport.current().as_ref().map(Into::into);
        status.dropped_events = self.mailbox.dropped();
        if status.dropped_events > 0 {
            status.findings.push(format!(
                "{} packets were dropped because the session's queue was full: the publisher sends too much at once, or \
                 this machine is too slow",
                status.dropped_events
            ));
        }
        status
    }
}

impl Sessions {
    /// No sessions but those that a crash of an earlier process cut off: their playlists wait for their publishers, for
    /// [`Settings::reconnect_grace`] at most. Must be called within a tokio runtime, on which the housekeeping then
    /// runs.
    ///
    /// # Errors
    ///
    /// When the worker threads cannot be started.
    pub fn new(
        settings: Settings,
        connector: Arc<dyn Connector>,
        pipelines: Arc<Pipelines>,
        recordings: Option<Arc<recording::Store>>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (checkpoints, left) = match settings.checkpoints.clone().map(Checkpoints::open) {
            Some(Ok((checkpoints, left))) => (Some(Arc::new(checkpoints)), left),
            Some(Err(error)) => {
                tracing::warn!(%error, "playlists will not go on after a crash: their folder cannot be used");
                (None, Vec::new())
            }
            None => (None, Vec::new()),
        };
        let sessions = Self(Arc::new(Inner {
            workers: Workers::start(settings.workers, CALL_LIMIT)?,
            posters: Posters::new(
                Arc::clone(&pipelines),
                Arc::clone(&metrics),
                settings.hls.max_waiters,
            ),
            settings: Arc::new(settings),
            connector,
            pipelines,
            recordings,
            checkpoints,
            metrics,
            sessions: Mutex::default(),
            draining: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        for (id, checkpoint) in left {
            sessions.resume(id, checkpoint);
        }
        let reaper = sessions.clone();
        sessions.0.tasks.spawn(async move {
            let mut interval = tokio::time::interval(REAP_INTERVAL);
            loop {
                tokio::select! {
                    () = reaper.0.stopping.cancelled() => return,
                    _ = interval.tick() => reaper.reap().await,
                }
            }
        });
        Ok(sessions)
    }

    /// The HLS of a session, also for some time after its end.
    pub fn stream(&self, id: &SessionId) -> Option<hls::Stream> {
        self.0.map().get(id)?.board.lock().stream.clone()
    }

    /// All sessions by name.
    pub fn list(&self) -> Vec<Status> {
        let sessions: Vec<_> = self.0.map().values().cloned().collect();
        let mut list: Vec<_> = sessions.iter().map(|session| session.status()).collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// One session.
    pub fn get(&self, id: &SessionId) -> Option<Status> {
        let session = self.0.map().get(id).cloned()?;
        Some(session.status())
    }

    /// Ends a session's publication and its playlist; `false` if nobody is publishing.
    pub async fn kick(&self, id: &SessionId) -> bool {
        let session = self.0.map().get(id).cloned();
        match session {
            Some(session) => session
                .transport
                .delete(None, EndReason::Kicked)
                .await
                .is_ok(),
            None => false,
        }
    }

    /// Threads that hang in calls into a session's media; each was replaced by another.
    pub fn stuck_workers(&self) -> usize {
        self.0.workers.stuck()
    }

    /// Whether new publishers are refused because the gateway is going down.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Refuses new publishers, closes all peers, ends all playlists and recordings, and stops the workers.
    pub async fn shutdown(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        let sessions: Vec<_> = self.0.map().values().cloned().collect();
        futures_util::future::join_all(sessions.iter().map(|session| async {
            session.transport.close(EndReason::Shutdown).await;
            let (done, finished) = tokio::sync::oneshot::channel();
            session.mailbox.send(Event::Close(done));
            if tokio::time::timeout(CLOSE_LIMIT, finished).await.is_err() {
                tracing::warn!(session_id = %session.board.lock().status.id, "the session's media did not end in time");
            }
        }))
        .await;
        if let Some(checkpoints) = self.0.checkpoints.clone() {
            let flushed = tokio::task::spawn_blocking(move || checkpoints.flush(FLUSH_LIMIT)).await;
            if !matches!(flushed, Ok(true)) {
                tracing::warn!("the playlists' checkpoints were not deleted in time");
            }
        }
    }

    /// Goes on with a playlist that a crash cut off.
    fn resume(&self, id: SessionId, checkpoint: Checkpoint) {
        let settings = &self.0.settings;
        let known = &settings.known_sessions;
        let mut sessions = self.0.map();
        if checkpoint.playlist.target_duration != settings.hls.target_duration()
            || (!known.is_empty() && !known.contains(&id))
            || sessions.len() >= settings.max_sessions
        {
            tracing::info!(session_id = %id, "the playlist does not go on: the configuration is another one");
            drop(sessions);
            if let Some(checkpoints) = &self.0.checkpoints {
                checkpoints.forget(&id);
            }
            return;
        }
        let session = self.make(id.clone());
        session.mailbox.send(Event::Resume(Box::new(checkpoint)));
        sessions.insert(id, session);
    }

    /// Lets go of sessions that are over, and counts the threads that are stuck.
    async fn reap(&self) {
        let now = Instant::now();
        let stuck = i64::try_from(self.stuck_workers()).unwrap_or(i64::MAX);
        self.0.metrics.stuck_workers.set(stuck);
        let spent: Vec<_> = {
            let mut sessions = self.0.map();
            // Streams that can still be watched from the beginning must not take the place of new publishers.
            let crowded = sessions.len() >= self.0.settings.max_sessions;
            let at_most = crowded.then(|| self.0.settings.hls.reach());
            let spent: Vec<_> = sessions
                .iter()
                .filter(|(_, session)| session.is_spent(now, at_most))
                .map(|(id, _)| id.clone())
                .collect();
            spent.iter().filter_map(|id| sessions.remove(id)).collect()
        };
        for session in spent {
            session.transport.close(EndReason::TimedOut).await;
        }
        // A session whose media broke ends; its publisher is told by the closed connection.
        let broken: Vec<_> = {
            let sessions = self.0.map();
            sessions
                .values()
                .filter(|session| session.board.lock().status.state == State::Failed)
                .cloned()
                .collect()
        };
        for session in broken {
            let id = session.board.lock().status.id.clone();
            self.0.map().remove(&id);
            session
                .transport
                .close(EndReason::Failed("the session's media broke".to_owned()))
                .await;
        }
    }

    fn open(&self, id: SessionId) -> Result<Arc<Session>, PublishError> {
        if self.is_draining() {
            return Err(PublishError::Unavailable(
                "the gateway is shutting down".to_owned(),
            ));
        }
        if self.stuck_workers() >= MAX_STUCK {
            return Err(PublishError::Unavailable(format!(
                "{MAX_STUCK} media threads hang in calls that do not return: see the log for whose, and restart the gateway"
            )));
        }
        let settings = &self.0.settings;
        if !settings.known_sessions.is_empty() && !settings.known_sessions.contains(&id) {
            return Err(PublishError::UnknownSession);
        }
        let mut sessions = self.0.map();
        if let Some(session) = sessions.get(&id) {
            *session
                .asked_for
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return Ok(Arc::clone(session));
        }
        let busy = sessions
            .values()
            .filter(|session| session.is_busy())
            .count();
        if busy >= settings.max_sessions
            || sessions.len() >= settings.max_sessions.saturating_mul(2) + 16
        {
            return Err(PublishError::Overloaded {
                retry_after: REAP_INTERVAL * 5,
            });
        }
        let session = self.make(id.clone());
        sessions.insert(id, Arc::clone(&session));
        Ok(session)
    }

    fn make(&self, id: SessionId) -> Arc<Session> {
        let settings = &self.0.settings;
        let board = Arc::new(Board::new(id.clone(), self.0.checkpoints.clone()));
        let media = Media::new(
            id.clone(),
            Arc::clone(settings),
            Arc::clone(&self.0.pipelines),
            self.0.recordings.clone(),
            Arc::clone(&self.0.metrics),
            Arc::clone(&board),
        );
        let succeed = {
            let settings = Arc::clone(settings);
            let pipelines = Arc::clone(&self.0.pipelines);
            let recordings = self.0.recordings.clone();
            let metrics = Arc::clone(&self.0.metrics);
            let board = Arc::clone(&board);
            move |stuck| {
                Media::succeed(
                    id.clone(),
                    Arc::clone(&settings),
                    Arc::clone(&pipelines),
                    recordings.clone(),
                    Arc::clone(&metrics),
                    Arc::clone(&board),
                    stuck > MAX_STUCK,
                )
            }
        };
        let mailbox = self.0.workers.spawn(media, INBOX, succeed);
        let transport = PublishTransport::new(
            Arc::clone(&self.0.connector),
            Arc::new(ToMedia {
                mailbox: mailbox.clone(),
                metrics: Arc::clone(&self.0.metrics),
            }),
            settings.publish.clone(),
        );
        // Set once, right here.
        board.transport.get_or_init(|| Arc::downgrade(&transport));
        Arc::new(Session {
            transport,
            board,
            mailbox,
            poster: Arc::default(),
            asked_for: Mutex::new(Instant::now()),
        })
    }
}

impl PublishTransportProvider for Sessions {
    async fn get_publish_transport(
        &self,
        session_id: &str,
    ) -> Result<Arc<PublishTransport>, PublishError> {
        // The endpoint has checked the name already; one that is none has no session.
        let id = session_id
            .parse()
            .map_err(|_| PublishError::UnknownSession)?;
        Ok(Arc::clone(&self.open(id)?.transport))
    }

    async fn find_publish_transport(
        &self,
        session_id: &str,
    ) -> Result<Arc<PublishTransport>, PublishError> {
        let id: SessionId = session_id
            .parse()
            .map_err(|_| PublishError::UnknownSession)?;
        let session = self
            .0
            .map()
            .get(&id)
            .cloned()
            .ok_or(PublishError::UnknownSession)?;
        Ok(Arc::clone(&session.transport))
    }
}
