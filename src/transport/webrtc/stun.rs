//! Just enough STUN (RFC 8489) to tell whose a datagram is and whether it is genuine.
//!
//! Owns the reading of a message's class, transaction and user name; integrity is checked with the stack's own STUN
//! implementation. Sends nothing and keeps nothing: connectivity checks themselves are the ICE agent's work.

use rtc::{
    crypto::RTCCrypto,
    stun::{
        attributes::{ATTR_FINGERPRINT, ATTR_MESSAGE_INTEGRITY, ATTR_USERNAME},
        fingerprint::FINGERPRINT,
        integrity::MessageIntegrity,
        message::{Message, Setter as _},
    },
};

const HEADER: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const USERNAME: u16 = 0x0006;
const USE_CANDIDATE: u16 = 0x0025;

/// Identifies a request and its response: 96 random bits.
pub(super) type Transaction = [u8; 12];

/// What a STUN datagram is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stun<'a> {
    /// A binding request (RFC 8445 section 7.2).
    Request {
        /// Its transaction.
        transaction: Transaction,
        /// The receiver's user fragment, the part of USERNAME before the colon.
        to: &'a str,
        /// It nominates the candidate pair it comes through.
        nominates: bool,
    },
    /// A success or error response.
    Response {
        /// The transaction of the request it answers.
        transaction: Transaction,
    },
}

/// Reads a datagram; `None` if it is no STUN message that can be of use.
pub(super) fn read(datagram: &[u8]) -> Option<Stun<'_>> {
    let header = datagram.first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[4..8] != MAGIC_COOKIE || HEADER + length != datagram.len() {
        return None;
    }
    let transaction = *header.last_chunk::<12>()?;
    match u16::from_be_bytes([header[0], header[1]]) {
        0x0001 => {
            let username = attribute(datagram, USERNAME)?;
            let (to, _from) = std::str::from_utf8(username).ok()?.split_once(':')?;
            Some(Stun::Request {
                transaction,
                to,
                nominates: attribute(datagram, USE_CANDIDATE).is_some(),
            })
        }
        0x0101 | 0x0111 => Some(Stun::Response { transaction }),
        _ => None,
    }
}

/// The value of the first attribute of this type.
fn attribute(datagram: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = datagram.get(HEADER..)?;
    loop {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if kind == wanted {
            return tail.get(..length);
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
}

/// Whether `datagram` carries a MESSAGE-INTEGRITY made with `password` (RFC 8489 section 14.5).
pub(super) fn is_genuine(datagram: &[u8], password: &str, crypto: &dyn RTCCrypto) -> bool {
    let mut message = Message {
        raw: datagram.to_vec(),
        ..Message::default()
    };
    message.decode().is_ok()
        && MessageIntegrity::check(&mut message, password.as_bytes(), crypto).is_ok()
}

/// The same message under another password, and as another user if `username` says so.
pub(super) fn resigned(
    datagram: &[u8],
    username: Option<&str>,
    password: &str,
    crypto: &dyn RTCCrypto,
) -> Option<Vec<u8>> {
    let mut message = Message {
        raw: datagram.to_vec(),
        ..Message::default()
    };
    message.decode().ok()?;
    let mut again = Message::new();
    again.typ = message.typ;
    again.transaction_id = message.transaction_id;
    again.write_header();
    for attribute in &message.attributes.0 {
        match (attribute.typ, username) {
            // These two cover what stands before them.
            (ATTR_MESSAGE_INTEGRITY | ATTR_FINGERPRINT, _) => {}
            (ATTR_USERNAME, Some(username)) => again.add(ATTR_USERNAME, username.as_bytes()),
            (kind, _) => again.add(kind, &attribute.value),
        }
    }
    MessageIntegrity::new_short_term_integrity_with_provider(password.to_owned(), crypto)
        .add_to(&mut again)
        .ok()?;
    FINGERPRINT.add_to(&mut again).ok()?;
    Some(again.raw)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rtc::stun::{
        attributes::{ATTR_USE_CANDIDATE, ATTR_USERNAME, RawAttribute},
        fingerprint::FINGERPRINT,
        message::{BINDING_REQUEST, BINDING_SUCCESS, Setter, TransactionId},
        textattrs::Username,
    };

    use super::*;

    struct UseCandidate;

    impl Setter for UseCandidate {
        fn add_to(&self, message: &mut Message) -> rtc::shared::error::Result<()> {
            message.add(ATTR_USE_CANDIDATE, &[]);
            Ok(())
        }
    }

    /// A binding request as FFmpeg 8.0 sends it: no PRIORITY, no ICE-CONTROLLING.
    pub(in super::super) fn request(username: &str, password: &str, nominates: bool) -> Vec<u8> {
        let provider = rtc::crypto::default_provider().unwrap();
        let mut message = Message::new();
        let mut parts: Vec<Box<dyn Setter>> = vec![
            Box::new(BINDING_REQUEST),
            Box::new(TransactionId::new()),
            Box::new(Username::new(ATTR_USERNAME, username.to_owned())),
        ];
        if nominates {
            parts.push(Box::new(UseCandidate));
        }
        parts.push(Box::new(
            MessageIntegrity::new_short_term_integrity_with_provider(
                password.to_owned(),
                provider.crypto(),
            ),
        ));
        parts.push(Box::new(FINGERPRINT));
        message.build(&parts).unwrap();
        message.raw
    }

    #[test]
    fn a_request_names_its_receiver_and_is_checked() {
        let provider = rtc::crypto::default_provider().unwrap();
        let datagram = request("ours:theirs", "secretsecretsecretsecret", true);
        assert!(matches!(
            read(&datagram),
            Some(Stun::Request {
                to: "ours",
                nominates: true,
                ..
            })
        ));
        assert!(is_genuine(
            &datagram,
            "secretsecretsecretsecret",
            provider.crypto()
        ));
        assert!(!is_genuine(
            &datagram,
            "anothersecretanothersecret",
            provider.crypto()
        ));
        let datagram = request("ours:theirs", "secretsecretsecretsecret", false);
        assert!(matches!(
            read(&datagram),
            Some(Stun::Request {
                nominates: false,
                ..
            })
        ));
    }

    #[test]
    fn a_response_names_its_transaction() {
        let mut message = Message::new();
        let id = TransactionId::new();
        message
            .build(&[Box::new(BINDING_SUCCESS), Box::new(id)])
            .unwrap();
        assert_eq!(
            read(&message.raw),
            Some(Stun::Response { transaction: id.0 })
        );
        let _: Option<RawAttribute> = None;
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let provider = rtc::crypto::default_provider().unwrap();
            let _ = read(&bytes);
            prop_assert!(!is_genuine(&bytes, "secretsecretsecretsecret", provider.crypto()));
        }

        #[test]
        fn damaged_requests_are_never_genuine(position in 0usize..60, flip in 1u8..) {
            let provider = rtc::crypto::default_provider().unwrap();
            let mut bytes = request("ours:theirs", "secretsecretsecretsecret", true);
            let integrity = bytes.len() - 8 - 24;
            let position = position % integrity;
            // The length field is what tells where the message ends, it is rewritten for the check.
            prop_assume!(!(2..4).contains(&position));
            bytes[position] ^= flip;
            prop_assert!(!is_genuine(&bytes, "secretsecretsecretsecret", provider.crypto()));
        }
    }
}
