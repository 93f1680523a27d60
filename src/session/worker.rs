//! Media worker threads: where the timeline and GStreamer run, never on an async executor.
//!
//! An actor owns all media state of one session. Events for it wait in a bounded inbox; a small pool of threads
//! runs whichever actors have input or a due deadline, one thread at a time per actor. This module knows nothing of media.
//!
//! Waking a thread for every packet would cost more than the work on it (at 370 packets a second and session), so a
//! worker that has live actors naps for [`QUANTUM`] between rounds and takes what has come by then.
//!
//! A thread cannot be taken out of a call that never returns. A watchdog gives up on it instead: another thread takes its
//! place, the actor's inbox goes to a successor, and the old actor is dropped if its call ever comes back.

use std::{
    any::Any,
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long input may wait for its worker; also the resolution of deadlines.
const QUANTUM: Duration = Duration::from_millis(3);

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

/// What one thread does at the moment.
struct Post {
    /// When the present call of an actor began, in microseconds since the queue's start.
    call_began: AtomicU64,
    duty: Mutex<Duty>,
}

enum Duty {
    Idle,
    Running(Arc<dyn Runnable>),
    /// Another thread has taken over; this one ends when its call returns.
    Relieved,
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

trait Runnable: Send + Sync {
    /// A deadline has come at `now` (microseconds since the queue's start): whether it is to be queued, which it is not
    /// when it is there already or running.
    fn is_due(&self, now: u64) -> bool;
    /// Takes the input at hand.
    fn run(self: Arc<Self>, queue: &Queue, post: &Post);
    /// The thread that runs it does not come back.
    fn abandon(self: Arc<Self>, queue: &Queue);
}

struct Queue {
    start: Instant,
    state: Mutex<State>,
    wake: Condvar,
    ended: Condvar,
    /// Threads that were relieved and have not come back.
    stuck: AtomicUsize,
}

struct State {
    ready: VecDeque<Arc<dyn Runnable>>,
    timers: BinaryHeap<Timer>,
    /// Workers asleep without a time limit; only these are worth a wake-up call.
    idle: usize,
    /// A worker naps, so new input is seen within a quantum without a wake-up call.
    napping: bool,
    stopping: bool,
    /// Threads that were not relieved and have not ended.
    serving: usize,
}

struct Timer {
    at: Reverse<Instant>,
    task: Arc<dyn Runnable>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

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
            queue: Arc::new(Queue {
                start: Instant::now(),
                state: Mutex::new(State {
                    ready: VecDeque::new(),
                    timers: BinaryHeap::new(),
                    idle: 0,
                    napping: false,
                    stopping: false,
                    serving: 0,
                }),
                wake: Condvar::new(),
                ended: Condvar::new(),
                stuck: AtomicUsize::new(0),
            }),
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

impl Post {
    fn call_begins(&self, queue: &Queue) {
        self.call_began
            .store(queue.micros(Instant::now()), Ordering::Release);
    }

    /// Runs `task`; `false` if somebody else has taken this thread's place meanwhile.
    fn run(&self, task: Arc<dyn Runnable>, queue: &Queue) -> bool {
        self.call_begins(queue);
        *lock(&self.duty) = Duty::Running(Arc::clone(&task));
        task.run(queue, self);
        let mut duty = lock(&self.duty);
        if matches!(*duty, Duty::Relieved) {
            return false;
        }
        *duty = Duty::Idle;
        true
    }
}

impl Queue {
    fn push(&self, task: Arc<dyn Runnable>) {
        let mut state = lock(&self.state);
        state.ready.push_back(task);
        if state.idle > 0 && !state.napping {
            drop(state);
            self.wake.notify_one();
        }
    }

    fn push_timer(&self, at: Instant, task: Arc<dyn Runnable>) {
        lock(&self.state).timers.push(Timer {
            at: Reverse(at),
            task,
        });
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    fn work(&self, post: &Post) {
        while let Some(task) = self.next() {
            if !post.run(task, self) {
                self.stuck.fetch_sub(1, Ordering::AcqRel);
                tracing::info!("a media worker thread that was stuck has come back and ends");
                return;
            }
        }
        lock(&self.state).serving -= 1;
        self.ended.notify_all();
    }

    /// Waits for `pause`; `false` once the pool is shut down.
    fn goes_on(&self, pause: Duration) -> bool {
        let (state, _) = self
            .ended
            .wait_timeout_while(lock(&self.state), pause, |state| !state.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        !state.stopping
    }

    /// Waits for an actor to run; `None` when there is nothing left to do and the pool is shut down.
    fn next(&self) -> Option<Arc<dyn Runnable>> {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            while state.timers.peek().is_some_and(|timer| timer.at.0 <= now) {
                if let Some(timer) = state.timers.pop()
                    && timer.task.is_due(self.micros(now))
                {
                    state.ready.push_back(timer.task);
                }
            }
            if let Some(task) = state.ready.pop_front() {
                if state.idle > 0 && !state.ready.is_empty() && !state.napping {
                    self.wake.notify_one();
                }
                return Some(task);
            }
            if state.stopping {
                return None;
            }
            // One worker at a time watches the clock; the others sleep until there is more than it can do.
            if state.timers.is_empty() || state.napping {
                state.idle += 1;
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            } else {
                state.napping = true;
                state = self
                    .wake
                    .wait_timeout(state, QUANTUM)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                state.napping = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Longer than any test but those of the watchdog.
    const LIMIT: Duration = Duration::from_secs(60);

    struct Probe {
        seen: mpsc::Sender<String>,
        deadline: Option<Instant>,
    }

    impl Actor for Probe {
        type Event = u32;

        fn handle(&mut self, event: u32) {
            assert!(event != 13, "thirteen");
            self.seen.send(event.to_string()).unwrap();
            if event == 7 {
                self.deadline = Some(Instant::now() + Duration::from_millis(20));
            }
        }

        fn poll(&mut self, now: Instant) -> Option<Instant> {
            if self.deadline.is_some_and(|at| at <= now) {
                self.deadline = None;
                self.seen.send("deadline".into()).unwrap();
            }
            self.deadline
        }

        fn panicked(&mut self, message: &str) {
            self.seen.send(format!("panic: {message}")).unwrap();
        }
    }

    fn probe() -> (Probe, mpsc::Receiver<String>) {
        let (seen, rx) = mpsc::channel();
        (
            Probe {
                seen,
                deadline: None,
            },
            rx,
        )
    }

    fn next(rx: &mpsc::Receiver<String>) -> String {
        rx.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn events_arrive_in_order() {
        let workers = Workers::start(2, LIMIT).unwrap();
        let (actor, rx) = probe();
        let mailbox = workers.spawn(actor, 1000, |_| None);
        for n in 100..600 {
            assert!(mailbox.offer(n));
        }
        for n in 100..600 {
            assert_eq!(next(&rx), n.to_string());
        }
    }

    #[test]
    fn a_deadline_is_polled_without_input() {
        let workers = Workers::start(1, LIMIT).unwrap();
        let (actor, rx) = probe();
        let mailbox = workers.spawn(actor, 10, |_| None);
        mailbox.send(7);
        assert_eq!(next(&rx), "7");
        assert_eq!(next(&rx), "deadline");
    }

    #[test]
    fn a_panic_ends_one_actor_only() {
        let workers = Workers::start(1, LIMIT).unwrap();
        let (bad, bad_rx) = probe();
        let (good, good_rx) = probe();
        let (bad, good) = (
            workers.spawn(bad, 10, |_| None),
            workers.spawn(good, 10, |_| None),
        );
        bad.send(13);
        assert_eq!(next(&bad_rx), "panic: thirteen");
        bad.send(1);
        good.send(2);
        assert_eq!(next(&good_rx), "2");
        assert!(bad_rx.try_recv().is_err());
    }

    #[test]
    fn a_full_inbox_counts_drops_and_still_takes_control_events() {
        let workers = Workers::start(1, LIMIT).unwrap();
        let (first, rx) = probe();
        let mailbox = workers.spawn(first, 2, |_| None);
        // Hold the actor so that nothing is drained meanwhile.
        let slot = Arc::clone(&mailbox.cell.inbox.lock().unwrap().actor);
        let held = slot.lock().unwrap();
        let mut accepted = 0;
        for n in 20..40 {
            accepted += u32::from(mailbox.offer(n));
        }
        mailbox.send(99);
        drop(held);
        assert!(accepted < 20);
        assert_eq!(mailbox.dropped(), u64::from(20 - accepted));
        let mut last = String::new();
        while last != "99" {
            last = next(&rx);
        }
    }

    /// Hangs at an odd event until it is let go, and numbers its successors.
    struct Hanging {
        number: u32,
        seen: mpsc::Sender<(u32, u32)>,
        gate: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Actor for Hanging {
        type Event = u32;

        fn handle(&mut self, event: u32) {
            if event % 2 == 1 {
                let (open, opened) = &*self.gate;
                drop(
                    opened
                        .wait_while(open.lock().unwrap(), |open| !*open)
                        .unwrap(),
                );
            }
            self.seen.send((self.number, event)).unwrap();
        }

        fn poll(&mut self, _: Instant) -> Option<Instant> {
            None
        }

        fn panicked(&mut self, message: &str) {
            panic!("{message}");
        }
    }

    impl Drop for Hanging {
        fn drop(&mut self) {
            // Told to whoever still listens.
            let _gone = self.seen.send((self.number, u32::MAX));
        }
    }

    #[test]
    fn a_call_that_hangs_costs_its_actor_and_nobody_else() {
        let workers = Workers::start(1, Duration::from_millis(40)).unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (seen, rx) = mpsc::channel();
        let wait = || rx.recv_timeout(Duration::from_secs(5)).unwrap();
        let numbers = AtomicUsize::new(0);
        let make = {
            let gate = Arc::clone(&gate);
            move || Hanging {
                number: u32::try_from(numbers.fetch_add(1, Ordering::Relaxed)).unwrap(),
                seen: seen.clone(),
                gate: Arc::clone(&gate),
            }
        };
        let first = make();
        let (asked, told) = mpsc::channel();
        let hanging = workers.spawn(first, 10, move |stuck| {
            asked.send(stuck).unwrap();
            (stuck < 3).then(&make)
        });
        let relieved = || told.recv_timeout(Duration::from_secs(5)).unwrap();
        let (good, good_rx) = probe();
        let good = workers.spawn(good, 10, |_| None);

        hanging.send(2);
        assert_eq!(wait(), (0, 2));
        hanging.send(1);
        good.send(100);
        // The only thread hangs, and still the other actor gets its turn.
        assert_eq!(relieved(), 1);
        assert_eq!(next(&good_rx), "100");
        hanging.send(4);
        assert_eq!(wait(), (1, 4), "the successor takes over the inbox");
        assert_eq!(workers.stuck(), 1);

        hanging.send(3);
        hanging.send(6);
        assert_eq!(relieved(), 2);
        assert_eq!(wait(), (2, 6));
        assert_eq!(workers.stuck(), 2);
        // Too many: there is no successor, and what is sent is dropped.
        hanging.send(5);
        assert_eq!(relieved(), 3);
        good.send(101);
        assert_eq!(next(&good_rx), "101");
        assert_eq!(workers.stuck(), 3);
        hanging.send(8);

        // The calls return: the old actors end without another call, and so do their threads.
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        let mut late: Vec<_> = (0..6).map(|_| wait()).collect();
        late.sort_unstable();
        assert_eq!(
            late,
            [
                (0, 1),
                (0, u32::MAX),
                (1, 3),
                (1, u32::MAX),
                (2, 5),
                (2, u32::MAX)
            ]
        );
        workers.shutdown();
        assert!(rx.try_recv().is_err(), "nothing was called after its end");
        good.send(102);
        assert!(good_rx.recv_timeout(Duration::from_millis(50)).is_err());
    }
}
