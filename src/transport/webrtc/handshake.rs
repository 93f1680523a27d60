//! What is told from the outside of DTLS records (RFC 6347 section 4.1), and [`Flight`], the early repetition of
//! handshake messages.
//!
//! The stack repeats an unanswered flight after a second. That is long for a first picture, and it is what every
//! FFmpeg runs into: it reads our `ClientHello` before its TLS library listens and loses it. So an unanswered flight is
//! sent again after milliseconds; a peer that already has it drops the copies by their record numbers (RFC 6347
//! section 4.1.2.6).

use std::{net::SocketAddr, time::Duration};

/// When an unanswered flight is sent again, counted from the time before.
pub(super) const REPEATS: [Duration; 5] = [
    Duration::from_millis(15),
    Duration::from_millis(30),
    Duration::from_millis(60),
    Duration::from_millis(120),
    Duration::from_millis(240),
];

/// Datagrams of one flight that are kept; ours have one to three.
const FLIGHT_DATAGRAMS: usize = 8;

/// An alert record that leaves us (RFC 5246 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alert {
    /// Encrypted, so the handshake is over: a `close_notify` of ours or the reply to the peer's, or a fatal alert.
    Protected,
    /// In the clear: the handshake failed with this alert description.
    Handshake(u8),
}

/// Reads whether a DTLS datagram is an alert.
pub(super) fn alert(datagram: &[u8]) -> Option<Alert> {
    let (header, body) = datagram.split_first_chunk::<13>()?;
    if header[0] != 21 {
        return None;
    }
    match (u16::from_be_bytes([header[3], header[4]]), body) {
        (0, [_level, description, ..]) => Some(Alert::Handshake(*description)),
        (0, _) => None,
        _ => Some(Alert::Protected),
    }
}

/// An alert description in words.
pub(super) fn describe(description: u8) -> &'static str {
    match description {
        0 => "the publisher closed the connection during the DTLS handshake",
        40 => "the DTLS handshake failed: no common parameters",
        42 | 43 | 46 | 48 => {
            "the DTLS handshake failed: the publisher's certificate does not match the fingerprint in its offer"
        }
        51 => "the DTLS handshake failed: a signature is wrong",
        70 => "the DTLS handshake failed: the publisher does not speak DTLS 1.2",
        71 => "the DTLS handshake failed: insufficient security",
        _ => "the DTLS handshake failed",
    }
}

/// Our last handshake flight, while it is unanswered.
#[derive(Debug, Default)]
pub(super) struct Flight {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    number: u64,
}

impl Flight {
    /// A handshake datagram leaves. Returns the flight's number if it is the first one of a new flight.
    pub(super) fn sent(&mut self, to: SocketAddr, datagram: &[u8]) -> Option<u64> {
        if self.datagrams.len() >= FLIGHT_DATAGRAMS {
            return None;
        }
        self.datagrams.push((to, datagram.to_vec()));
        (self.datagrams.len() == 1).then_some(self.number)
    }

    /// The peer said something: the flight is answered.
    pub(super) fn answered(&mut self) {
        self.datagrams.clear();
        self.number += 1;
    }

    /// The datagrams to send again, if flight `number` is still unanswered.
    pub(super) fn unanswered(&self, number: u64) -> Option<&[(SocketAddr, Vec<u8>)]> {
        (self.number == number && !self.datagrams.is_empty()).then_some(&self.datagrams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_told_by_epoch() {
        let clear = [21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 2, 42];
        assert_eq!(alert(&clear), Some(Alert::Handshake(42)));
        let mut protected = clear;
        protected[4] = 1;
        assert_eq!(alert(&protected), Some(Alert::Protected));
        let mut handshake = clear;
        handshake[0] = 22;
        assert_eq!(alert(&handshake), None);
        assert_eq!(alert(&clear[..13]), None);
        assert_eq!(alert(&clear[..5]), None);
    }

    #[test]
    fn a_flight_is_repeated_until_it_is_answered() {
        let to = "192.0.2.1:9".parse().unwrap();
        let mut flight = Flight::default();
        let number = flight.sent(to, &[1]).unwrap();
        assert_eq!(flight.sent(to, &[2]), None);
        assert_eq!(flight.unanswered(number).unwrap().len(), 2);
        flight.answered();
        assert_eq!(flight.unanswered(number), None);
        let next = flight.sent(to, &[3]).unwrap();
        assert_ne!(next, number);
        assert_eq!(flight.unanswered(number), None);
        for _ in 0..100 {
            flight.sent(to, &[4]);
        }
        assert_eq!(flight.unanswered(next).unwrap().len(), FLIGHT_DATAGRAMS);
    }
}
