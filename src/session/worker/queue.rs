//! Which actor runs next, and what each thread does: the queue of those with input, and the clock for deadlines.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::lock;

/// How long input may wait for its worker; also the resolution of deadlines.
const QUANTUM: Duration = Duration::from_millis(3);

/// What one thread does at the moment.
pub(super) struct Post {
    /// When the present call of an actor began, in microseconds since the queue's start.
    pub(super) call_began: AtomicU64,
    pub(super) duty: Mutex<Duty>,
}

pub(super) enum Duty {
    Idle,
    Running(Arc<dyn Runnable>),
    /// Another thread has taken over; this one ends when its call returns.
    Relieved,
}

pub(super) trait Runnable: Send + Sync {
    /// A deadline has come at `now` (microseconds since the queue's start): whether it is to be queued, which it is not
    /// when it is there already or running.
    fn is_due(&self, now: u64) -> bool;
    /// Takes the input at hand.
    fn run(self: Arc<Self>, queue: &Queue, post: &Post);
    /// The thread that runs it does not come back.
    fn abandon(self: Arc<Self>, queue: &Queue);
}

pub(super) struct Queue {
    start: Instant,
    pub(super) state: Mutex<State>,
    pub(super) wake: Condvar,
    pub(super) ended: Condvar,
    /// Threads that were relieved and have not come back.
    pub(super) stuck: AtomicUsize,
}

pub(super) struct State {
    ready: VecDeque<Arc<dyn Runnable>>,
    timers: BinaryHeap<Timer>,
    /// Workers asleep without a time limit; only these are worth a wake-up call.
    idle: usize,
    /// A worker naps, so new input is seen within a quantum without a wake-up call.
    napping: bool,
    pub(super) stopping: bool,
    /// Threads that were not relieved and have not ended.
    pub(super) serving: usize,
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

impl Post {
    pub(super) fn call_begins(&self, queue: &Queue) {
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
    pub(super) fn new() -> Self {
        Self {
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
        }
    }

    pub(super) fn push(&self, task: Arc<dyn Runnable>) {
        let mut state = lock(&self.state);
        state.ready.push_back(task);
        if state.idle > 0 && !state.napping {
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn push_timer(&self, at: Instant, task: Arc<dyn Runnable>) {
        lock(&self.state).timers.push(Timer {
            at: Reverse(at),
            task,
        });
    }

    pub(super) fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn work(&self, post: &Post) {
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
    pub(super) fn goes_on(&self, pause: Duration) -> bool {
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
