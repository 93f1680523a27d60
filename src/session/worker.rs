//! Media worker threads: where the timeline and GStreamer run, never on an async executor.
//!
//! An actor owns all media state of one session. Events for it wait in a bounded inbox; a small pool of threads
//! runs whichever actors have input or a due deadline, one thread at a time per actor. This module knows nothing of media.
//!
//! Waking a thread for every packet would cost more than the work on it (at 370 packets a second and session), so a
//! worker that has live actors naps for a few milliseconds between rounds and takes what has come by then.
//!
//! A thread cannot be taken out of a call that never returns. A watchdog gives up on it instead: another thread takes its
//! place, the actor's inbox goes to a successor, and the old actor is dropped if its call ever comes back.

mod queue;

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use queue::{Duty, Post, Queue, Runnable};

/// How long the threads may take to end at shutdown.
const END_LIMIT: Duration = Duration::from_secs(2);

/// One session's media state, driven by a worker.
pub(super) trait Actor: Send + 'static {
    /// What other threads send to it.
    type Event: Send + 'static;

    /// Takes one event.
    fn handle(&mut self, event: Self::Event);

    /// Called after a batch of events and at the deadline; returns when it wants to be called next.
    fn poll(&mut self, now: Instant) -> Option<Instant>;

    /// The actor panicked with this message; it is never called again.
    fn panicked(&mut self, message: &str);
}

/// A pool of threads. Dropping it (or [`Workers::shutdown`]) ends them after the input at hand.
pub(super) struct Workers {
    queue: Arc<Queue>,
    crew: Arc<Crew>,
    watchdog: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

/// The threads, without those that were relieved.
#[derive(Default)]
struct Crew(Mutex<Vec<Worker>>);

/// A thread and what it does.
struct Worker {
    handle: JoinHandle<()>,
    post: Arc<Post>,
}

/// Makes the actor that takes over from one whose call does not return, or `None` if there is to be none. It is told how
/// many threads are stuck in all, and must not wait for the old actor.
type Succeed<A> = Box<dyn Fn(usize) -> Option<A> + Send + Sync>;

/// Sends events to one actor. The actor ends when it is closed or the last mailbox is dropped.
pub(super) struct Mailbox<A: Actor> {
    cell: Arc<Cell<A>>,
    queue: Arc<Queue>,
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self {
            cell: Arc::clone(&self.cell),
            queue: Arc::clone(&self.queue),
        }
    }
}

impl<A: Actor> fmt::Debug for Mailbox<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

struct Cell<A: Actor> {
    inbox: Mutex<Inbox<A>>,
    capacity: usize,
    dropped: AtomicU64,
    succeed: Succeed<A>,
}

struct Inbox<A: Actor> {
    events: VecDeque<A::Event>,
    /// In the queue or running: whoever sends needs to do no more.
    scheduled: bool,
    /// Earliest deadline queued for the actor, in microseconds since the queue's start; `u64::MAX` for none.
    timer: u64,
    actor: Slot<A>,
}

/// The actor, `None` after a panic. Locked by the one thread that runs it; a successor has a slot of its own.
type Slot<A> = Arc<Mutex<Option<A>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    fn add(&self, queue: &Arc<Queue>) -> std::io::Result<()> {
        let post = Arc::new(Post {
            call_began: AtomicU64::new(0),
            duty: Mutex::new(Duty::Idle),
        });
        let (its_queue, its_post) = (Arc::clone(queue), Arc::clone(&post));
        lock(&queue.state).serving += 1;
        let spawned = std::thread::Builder::new()
            .name("media".to_owned())
            .spawn(move || its_queue.work(&its_post));
        match spawned {
            Ok(handle) => {
                lock(&self.0).push(Worker { handle, post });
                Ok(())
            }
            Err(error) => {
                lock(&queue.state).serving -= 1;
                Err(error)
            }
        }
    }

    /// Replaces the threads that have been in one call of an actor for longer than `limit`, and these actors by their
    /// successors.
    fn relieve(&self, queue: &Arc<Queue>, limit: Duration) {
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        let mut abandoned = Vec::new();
        lock(&self.0).retain(|worker| {
            let mut duty = lock(&worker.post.duty);
            let since = worker.post.call_began.load(Ordering::Acquire);
            let overdue = queue.micros(Instant::now()).saturating_sub(since) > limit;
            if !overdue || !matches!(*duty, Duty::Running(_)) {
                return true;
            }
            queue.stuck.fetch_add(1, Ordering::AcqRel);
            lock(&queue.state).serving -= 1;
            if let Duty::Running(task) = std::mem::replace(&mut *duty, Duty::Relieved) {
                abandoned.push(task);
            }
            false
        });
        for task in abandoned {
            if let Err(error) = self.add(queue) {
                tracing::error!(%error, "cannot start a thread in place of one that is stuck");
            }
            task.abandon(queue);
        }
    }
}

impl Workers {
    /// Starts `threads` workers (at least one), and a watchdog that replaces those that are in one call of an actor for
    /// longer than `call_limit`.
    pub(super) fn start(threads: usize, call_limit: Duration) -> std::io::Result<Self> {
        let workers = Self {
            queue: Arc::new(Queue::new()),
            crew: Arc::default(),
            watchdog: Mutex::default(),
        };
        for _ in 0..threads.max(1) {
            workers.crew.add(&workers.queue)?;
        }
        let (queue, crew) = (Arc::clone(&workers.queue), Arc::clone(&workers.crew));
        let watchdog = std::thread::Builder::new()
            .name("media-watchdog".to_owned())
            .spawn(move || {
                while queue.goes_on(call_limit / 4) {
                    crew.relieve(&queue, call_limit);
                }
            })?;
        *lock(&workers.watchdog) = Some(watchdog);
        Ok(workers)
    }

    /// Gives `actor` a mailbox of `capacity` events. `succeed` is called when a call of the actor does not return.
    pub(super) fn spawn<A: Actor>(
        &self,
        actor: A,
        capacity: usize,
        succeed: impl Fn(usize) -> Option<A> + Send + Sync + 'static,
    ) -> Mailbox<A> {
        Mailbox {
            cell: Arc::new(Cell {
                inbox: Mutex::new(Inbox {
                    events: VecDeque::new(),
                    scheduled: false,
                    timer: u64::MAX,
                    actor: Arc::new(Mutex::new(Some(actor))),
                }),
                capacity,
                dropped: AtomicU64::new(0),
                succeed: Box::new(succeed),
            }),
            queue: Arc::clone(&self.queue),
        }
    }

    /// Threads that were replaced and whose call has not returned.
    pub(super) fn stuck(&self) -> usize {
        self.queue.stuck.load(Ordering::Acquire)
    }

    /// Lets the threads finish the input at hand and joins them; those that do not end in time are left behind.
    pub(super) fn shutdown(&self) {
        let mut state = lock(&self.queue.state);
        state.stopping = true;
        self.queue.wake.notify_all();
        self.queue.ended.notify_all();
        let (state, _) = self
            .queue
            .ended
            .wait_timeout_while(state, END_LIMIT, |state| state.serving > 0)
            .unwrap_or_else(PoisonError::into_inner);
        let all_ended = state.serving == 0;
        drop(state);
        let watchdog = lock(&self.watchdog).take();
        let workers = lock(&self.crew.0)
            .drain(..)
            .map(|worker| worker.handle)
            .collect::<Vec<_>>();
        for thread in watchdog.into_iter().chain(workers) {
            if !all_ended && !thread.is_finished() {
                tracing::warn!("a media thread does not end and is left behind");
            } else if let Err(panic) = thread.join() {
                tracing::error!(
                    message = panic_message(panic.as_ref()),
                    "a media thread panicked"
                );
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl<A: Actor> Mailbox<A> {
    /// Sends an event unless the inbox is full; a full one counts a drop and returns `false`.
    pub(super) fn offer(&self, event: A::Event) -> bool {
        let inbox = lock(&self.cell.inbox);
        if inbox.events.len() >= self.cell.capacity {
            self.cell.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.put(inbox, event);
        true
    }

    /// Sends an event that must not be lost; for the few that control the session, never for packets.
    pub(super) fn send(&self, event: A::Event) {
        self.put(lock(&self.cell.inbox), event);
    }

    /// Events refused because the inbox was full.
    pub(super) fn dropped(&self) -> u64 {
        self.cell.dropped.load(Ordering::Relaxed)
    }

    fn put(&self, mut inbox: MutexGuard<'_, Inbox<A>>, event: A::Event) {
        inbox.events.push_back(event);
        let queued = std::mem::replace(&mut inbox.scheduled, true);
        drop(inbox);
        if !queued {
            self.queue.push(Arc::clone(&self.cell) as Arc<dyn Runnable>);
        }
    }
}

impl<A: Actor> Cell<A> {
    /// The next event, as long as the actor in `slot` is in charge. One by one, so that a successor gets the rest.
    fn take(&self, slot: &Slot<A>) -> Option<A::Event> {
        let mut inbox = lock(&self.inbox);
        Arc::ptr_eq(&inbox.actor, slot)
            .then(|| inbox.events.pop_front())
            .flatten()
    }

    /// One round of the actor in `slot`, with as many events as there are; returns its next deadline.
    fn round(&self, slot: &Slot<A>, events: usize, queue: &Queue, post: &Post) -> Option<Instant> {
        let mut guard = lock(slot);
        let Some(actor) = guard.as_mut() else {
            for _ in 0..events {
                self.take(slot);
            }
            return None;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for event in (0..events).map_while(|_| self.take(slot)) {
                post.call_begins(queue);
                actor.handle(event);
            }
            post.call_begins(queue);
            actor.poll(Instant::now())
        }));
        match outcome {
            Ok(deadline) => deadline,
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                if let Some(mut broken) = guard.take() {
                    // The state may be inconsistent: report, then drop it, each guarded on its own.
                    if catch_unwind(AssertUnwindSafe(|| broken.panicked(&message))).is_err()
                        || catch_unwind(AssertUnwindSafe(|| drop(broken))).is_err()
                    {
                        tracing::error!(
                            message,
                            "a session's media panicked again while it was taken down"
                        );
                    }
                }
                None
            }
        }
    }
}

impl<A: Actor> Runnable for Cell<A> {
    fn is_due(&self, now: u64) -> bool {
        let mut inbox = lock(&self.inbox);
        if inbox.timer <= now {
            inbox.timer = u64::MAX;
        }
        !std::mem::replace(&mut inbox.scheduled, true)
    }

    fn run(self: Arc<Self>, queue: &Queue, post: &Post) {
        let (events, slot) = {
            let inbox = lock(&self.inbox);
            (inbox.events.len(), Arc::clone(&inbox.actor))
        };
        let deadline = self.round(&slot, events, queue, post);

        let mut inbox = lock(&self.inbox);
        if !Arc::ptr_eq(&inbox.actor, &slot) {
            // A successor has taken over; this was the last call of the old one.
            drop(inbox);
            let old = lock(&slot).take();
            if catch_unwind(AssertUnwindSafe(|| drop(old))).is_err() {
                tracing::error!("a session's media panicked while it was taken down");
            }
            return;
        }
        // Deadlines mostly move on with every packet: an earlier one already queued leads here again.
        let timer = deadline.filter(|deadline| queue.micros(*deadline) < inbox.timer);
        if let Some(deadline) = timer {
            inbox.timer = queue.micros(deadline);
        }
        inbox.scheduled = !inbox.events.is_empty();
        let again = inbox.scheduled;
        drop(inbox);
        if let Some(deadline) = timer {
            queue.push_timer(deadline, Arc::clone(&self) as Arc<dyn Runnable>);
        }
        if again {
            queue.push(self);
        }
    }

    fn abandon(self: Arc<Self>, queue: &Queue) {
        // The old actor may still be anywhere but in its own call; the successor gets a slot before it gets input.
        let successor = catch_unwind(AssertUnwindSafe(|| {
            (self.succeed)(queue.stuck.load(Ordering::Acquire))
        }))
        .unwrap_or_else(|panic| {
            tracing::error!(
                message = panic_message(panic.as_ref()),
                "a session's media cannot be started again"
            );
            None
        });
        let mut inbox = lock(&self.inbox);
        inbox.actor = Arc::new(Mutex::new(successor));
        inbox.scheduled = true;
        drop(inbox);
        queue.push(self);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod tests;
