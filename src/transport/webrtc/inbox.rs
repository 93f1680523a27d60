//! [`Inbox`]: the datagrams that wait for one peer's driver.
//!
//! Owns their order, their bound and two rules that keep a publisher's first picture: media that overtakes the end of
//! the DTLS handshake is held back until there are keys for it, and the driver is made to finish its work on a
//! handshake message before it sees the next datagram. Knows neither sockets nor what the datagrams mean beyond their
//! first byte (RFC 7983).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    task::{Poll, Waker},
};

/// Datagrams that may wait for the driver; about a second of a fast publisher.
const CAPACITY: usize = 1024;

/// Media datagrams that may wait for the end of the handshake.
const EARLY_MEDIA: usize = 512;

/// Empty buffers that are kept for reuse.
const POOL: usize = 64;

/// What RFC 7983 tells from the first byte of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// STUN (RFC 8489).
    Stun,
    /// DTLS (RFC 6347).
    Dtls,
    /// SRTP or SRTCP (RFC 3711).
    Media,
    /// Nothing that belongs here.
    Other,
}

/// The kind of a datagram.
pub(super) fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0..=3) => Kind::Stun,
        Some(20..=63) => Kind::Dtls,
        Some(128..=191) => Kind::Media,
        _ => Kind::Other,
    }
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

/// A bounded queue of datagrams with one reader.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    ready: VecDeque<Datagram>,
    early: VecDeque<Datagram>,
    pool: Vec<Vec<u8>>,
    waker: Option<Waker>,
    /// There are SRTP keys, so media passes.
    media_passes: bool,
    /// The reader must come round once more before it gets the next datagram.
    pause: bool,
    dropped: u64,
}

impl Inbox {
    /// Appends a datagram; returns the reader's waker if it sleeps. A full queue drops the datagram and counts it.
    pub(super) fn push(&mut self, from: SocketAddr, bytes: &[u8]) -> Option<Waker> {
        let early = !self.media_passes && kind(bytes) == Kind::Media;
        let (queue, capacity) = if early {
            (&mut self.early, EARLY_MEDIA)
        } else {
            (&mut self.ready, CAPACITY)
        };
        if queue.len() >= capacity {
            self.dropped += 1;
            return None;
        }
        let mut buffer = self.pool.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        queue.push_back(Datagram {
            from,
            bytes: buffer,
        });
        if early { None } else { self.waker.take() }
    }

    /// Lets media pass, first what was held back; returns the reader's waker if it sleeps.
    pub(super) fn pass_media(&mut self) -> Option<Waker> {
        self.media_passes = true;
        self.ready.append(&mut self.early);
        if self.ready.is_empty() {
            None
        } else {
            self.waker.take()
        }
    }

    /// Copies the next datagram into `buffer`: its length and source. A longer datagram is cut.
    pub(super) fn poll(&mut self, waker: &Waker, buffer: &mut [u8]) -> Poll<(usize, SocketAddr)> {
        if self.pause {
            self.pause = false;
            waker.wake_by_ref();
            return Poll::Pending;
        }
        let Some(Datagram { from, bytes }) = self.ready.pop_front() else {
            if !self.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
                self.waker = Some(waker.clone());
            }
            return Poll::Pending;
        };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        self.pause = !self.media_passes && kind(&bytes) == Kind::Dtls;
        if self.pool.len() < POOL {
            self.pool.push(bytes);
        }
        Poll::Ready((len, from))
    }

    /// Datagrams that found no room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    const STUN: &[u8] = &[0, 1];
    const DTLS: &[u8] = &[22, 1];
    const MEDIA: &[u8] = &[128, 1];

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn peer() -> SocketAddr {
        "192.0.2.1:5".parse().unwrap()
    }

    fn next(inbox: &mut Inbox) -> Option<Vec<u8>> {
        let mut buffer = [0; 16];
        match inbox.poll(Waker::noop(), &mut buffer) {
            Poll::Ready((len, from)) => {
                assert_eq!(from, peer());
                Some(buffer[..len].to_vec())
            }
            Poll::Pending => None,
        }
    }

    #[test]
    fn media_before_the_keys_is_held_and_then_comes_in_order() {
        let mut inbox = Inbox::default();
        inbox.push(peer(), MEDIA);
        inbox.push(peer(), STUN);
        inbox.push(peer(), &[128, 2]);
        assert_eq!(next(&mut inbox).unwrap(), STUN);
        assert_eq!(next(&mut inbox), None);
        inbox.pass_media();
        assert_eq!(next(&mut inbox).unwrap(), MEDIA);
        assert_eq!(next(&mut inbox).unwrap(), [128, 2]);
        inbox.push(peer(), MEDIA);
        assert_eq!(next(&mut inbox).unwrap(), MEDIA);
    }

    #[test]
    fn a_handshake_message_ends_a_burst() {
        let mut inbox = Inbox::default();
        inbox.push(peer(), DTLS);
        inbox.push(peer(), STUN);
        assert_eq!(next(&mut inbox).unwrap(), DTLS);
        assert_eq!(next(&mut inbox), None, "the driver comes round first");
        assert_eq!(next(&mut inbox).unwrap(), STUN);
    }

    #[test]
    fn a_pause_wakes_its_reader_so_that_nothing_hangs() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut inbox = Inbox::default();
        inbox.push(peer(), DTLS);
        let mut buffer = [0; 16];
        assert!(inbox.poll(&waker, &mut buffer).is_ready());
        assert!(inbox.poll(&waker, &mut buffer).is_pending());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_sleeping_reader_is_woken_once() {
        let mut inbox = Inbox::default();
        let mut buffer = [0; 16];
        assert!(inbox.poll(Waker::noop(), &mut buffer).is_pending());
        assert!(inbox.push(peer(), STUN).is_some());
        assert!(inbox.push(peer(), STUN).is_none());
    }

    #[test]
    fn a_full_inbox_drops_and_counts() {
        let mut inbox = Inbox::default();
        for _ in 0..CAPACITY + 3 {
            inbox.push(peer(), STUN);
        }
        for _ in 0..EARLY_MEDIA + 2 {
            inbox.push(peer(), MEDIA);
        }
        assert_eq!(inbox.dropped(), 5);
    }
}
