//! Media worker threads: where the timeline and GStreamer run, never on an async executor.
//!
//! An actor owns all media state of one session. Events for it wait in a bounded inbox; a small pool of threads
//! runs whichever actors have input or a due deadline, one thread at a time per actor. This module knows nothing of media.
//!
//! Waking a thread for every packet would cost more than the work on it (at 370 packets a second and session), so a
//! worker that has live actors naps for [`QUANTUM`] between rounds and takes what has come by then.

use std::{
    any::Any,
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long input may wait for its worker; also the resolution of deadlines.
const QUANTUM: Duration = Duration::from_millis(3);

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
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

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
    inbox: Mutex<VecDeque<A::Event>>,
    capacity: usize,
    scheduled: AtomicBool,
    /// Earliest deadline queued for this actor, in microseconds since the queue's start; `u64::MAX` for none.
    timer: AtomicU64,
    dropped: AtomicU64,
    /// `None` after a panic or once closed.
    actor: Mutex<Option<A>>,
}

trait Runnable: Send + Sync {
    fn run(self: Arc<Self>, queue: &Queue);
}

struct Queue {
    start: Instant,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    ready: VecDeque<Arc<dyn Runnable>>,
    timers: BinaryHeap<Timer>,
    /// Workers asleep without a time limit; only these are worth a wake-up call.
    idle: usize,
    /// A worker naps, so new input is seen within a quantum without a wake-up call.
    napping: bool,
    stopping: bool,
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

impl Workers {
    /// Starts `threads` workers (at least one).
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            start: Instant::now(),
            state: Mutex::new(State {
                ready: VecDeque::new(),
                timers: BinaryHeap::new(),
                idle: 0,
                napping: false,
                stopping: false,
            }),
            wake: Condvar::new(),
        });
        let mut handles = Vec::new();
        for index in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            handles.push(
                std::thread::Builder::new()
                    .name(format!("media-{index}"))
                    .spawn(move || queue.work())?,
            );
        }
        Ok(Self {
            queue,
            threads: Mutex::new(handles),
        })
    }

    /// Gives `actor` a mailbox of `capacity` events.
    pub(super) fn spawn<A: Actor>(&self, actor: A, capacity: usize) -> Mailbox<A> {
        Mailbox {
            cell: Arc::new(Cell {
                inbox: Mutex::new(VecDeque::new()),
                capacity,
                scheduled: AtomicBool::new(false),
                timer: AtomicU64::new(u64::MAX),
                dropped: AtomicU64::new(0),
                actor: Mutex::new(Some(actor)),
            }),
            queue: Arc::clone(&self.queue),
        }
    }

    /// Lets the threads finish the input at hand and joins them.
    pub(super) fn shutdown(&self) {
        lock(&self.queue.state).stopping = true;
        self.queue.wake.notify_all();
        for thread in lock(&self.threads).drain(..) {
            if let Err(panic) = thread.join() {
                tracing::error!(
                    message = panic_message(panic.as_ref()),
                    "a media worker thread panicked"
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
        {
            let mut inbox = lock(&self.cell.inbox);
            if inbox.len() >= self.cell.capacity {
                self.cell.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            inbox.push_back(event);
        }
        self.schedule();
        true
    }

    /// Sends an event that must not be lost; for the few that control the session, never for packets.
    pub(super) fn send(&self, event: A::Event) {
        lock(&self.cell.inbox).push_back(event);
        self.schedule();
    }

    /// Events refused because the inbox was full.
    pub(super) fn dropped(&self) -> u64 {
        self.cell.dropped.load(Ordering::Relaxed)
    }

    fn schedule(&self) {
        if !self.cell.scheduled.swap(true, Ordering::AcqRel) {
            self.queue.push(Arc::clone(&self.cell) as Arc<dyn Runnable>);
        }
    }
}

impl<A: Actor> Runnable for Cell<A> {
    fn run(self: Arc<Self>, queue: &Queue) {
        let mut slot = lock(&self.actor);
        self.scheduled.store(false, Ordering::Release);
        if self.timer.load(Ordering::Acquire) <= queue.micros(Instant::now()) {
            self.timer.store(u64::MAX, Ordering::Release);
        }
        let batch = std::mem::take(&mut *lock(&self.inbox));
        let Some(actor) = slot.as_mut() else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for event in batch {
                actor.handle(event);
            }
            actor.poll(Instant::now())
        }));
        match outcome {
            Ok(Some(deadline)) => {
                // Deadlines mostly move on with every packet: an earlier one already queued leads here again.
                let micros = queue.micros(deadline);
                if micros < self.timer.load(Ordering::Acquire) {
                    self.timer.store(micros, Ordering::Release);
                    drop(slot);
                    queue.push_timer(deadline, Arc::clone(&self) as Arc<dyn Runnable>);
                }
            }
            Ok(None) => {}
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                if let Some(mut broken) = slot.take() {
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
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
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

    fn work(&self) {
        loop {
            let task = {
                let mut state = lock(&self.state);
                loop {
                    let now = Instant::now();
                    while state.timers.peek().is_some_and(|timer| timer.at.0 <= now) {
                        if let Some(timer) = state.timers.pop() {
                            state.ready.push_back(timer.task);
                        }
                    }
                    if let Some(task) = state.ready.pop_front() {
                        if state.idle > 0 && !state.ready.is_empty() && !state.napping {
                            self.wake.notify_one();
                        }
                        break task;
                    }
                    if state.stopping {
                        return;
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
            };
            task.run(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

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
        let workers = Workers::start(2).unwrap();
        let (actor, rx) = probe();
        let mailbox = workers.spawn(actor, 1000);
        for n in 100..600 {
            assert!(mailbox.offer(n));
        }
        for n in 100..600 {
            assert_eq!(next(&rx), n.to_string());
        }
    }

    #[test]
    fn a_deadline_is_polled_without_input() {
        let workers = Workers::start(1).unwrap();
        let (actor, rx) = probe();
        let mailbox = workers.spawn(actor, 10);
        mailbox.send(7);
        assert_eq!(next(&rx), "7");
        assert_eq!(next(&rx), "deadline");
    }

    #[test]
    fn a_panic_ends_one_actor_only() {
        let workers = Workers::start(1).unwrap();
        let (bad, bad_rx) = probe();
        let (good, good_rx) = probe();
        let (bad, good) = (workers.spawn(bad, 10), workers.spawn(good, 10));
        bad.send(13);
        assert_eq!(next(&bad_rx), "panic: thirteen");
        bad.send(1);
        good.send(2);
        assert_eq!(next(&good_rx), "2");
        assert!(bad_rx.try_recv().is_err());
    }

    #[test]
    fn a_full_inbox_counts_drops_and_still_takes_control_events() {
        let workers = Workers::start(1).unwrap();
        let (first, rx) = probe();
        let mailbox = workers.spawn(first, 2);
        // Hold the actor so that nothing is drained meanwhile.
        let held = mailbox.cell.actor.lock().unwrap();
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
}
