use super::*;
use std::sync::{Condvar, atomic::AtomicUsize, mpsc};

/// Longer than any test but those of the watchdog.
const LIMIT: Duration = Duration::from_mins(1);

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
