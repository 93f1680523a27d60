//! ICE restarts (RFC 8445 section 9, RFC 9725 section 4.3.3) without the stack: [`IceSessions`] translates between the
//! credentials on the wire and the first ones, which are all that the stack's agent ever knows.
//!
//! To the agent the checks of a restart are checks from one more address. So nothing of the session in place is touched:
//! media goes on over the old path until the publisher nominates another one, and a restart that comes to nothing
//! leaves everything as it was. The stack's own restart drops what arrives until a new path is found, and cannot go
//! back. Pure but for the integrity that is checked and written; which datagram belongs to whom is decided elsewhere.

use std::{collections::VecDeque, net::SocketAddr};

use rtc::crypto::RTCCrypto;

use super::stun::{self, Transaction};
use crate::transport::IceCredentials;

/// Restarts that are answered for: the newest, and the one before whose answer may still be on its way.
const SESSIONS: usize = 2;

/// Requests of either side that may be unanswered at a time; the oldest is forgotten.
const TRANSACTIONS: usize = 64;

/// Addresses whose session is remembered.
const ADDRESSES: usize = 16;

/// One ICE session: the credentials of both sides.
#[derive(Clone, Debug)]
struct Session {
    number: u64,
    ours: IceCredentials,
    theirs: IceCredentials,
}

/// The restarts of one peer.
#[derive(Debug, Default)]
pub(super) struct IceSessions {
    first: Option<Session>,
    /// Newest last.
    restarts: VecDeque<Session>,
    count: u64,
    /// Unanswered requests that came with a restart's credentials, and ours that left with them.
    asked: VecDeque<(Transaction, u64)>,
    asking: VecDeque<(Transaction, u64)>,
    /// The newest session that was met at an address.
    met: VecDeque<(SocketAddr, u64)>,
}

fn remember<K: PartialEq>(list: &mut VecDeque<(K, u64)>, key: K, number: u64, limit: usize) {
    list.retain(|(known, _)| *known != key);
    if list.len() >= limit {
        list.pop_front();
    }
    list.push_back((key, number));
}

fn take(list: &mut VecDeque<(Transaction, u64)>, transaction: Transaction) -> Option<u64> {
    let position = list.iter().position(|(known, _)| *known == transaction)?;
    list.remove(position).map(|(_, number)| number)
}

impl IceSessions {
    /// Begins a session with new credentials. `first` are those the agent knows, ours and theirs. Returns our user
    /// fragment of a session that is no longer answered for.
    pub(super) fn restart(
        &mut self,
        first: (IceCredentials, IceCredentials),
        ours: IceCredentials,
        theirs: IceCredentials,
    ) -> Option<String> {
        self.first.get_or_insert(Session {
            number: 0,
            ours: first.0,
            theirs: first.1,
        });
        self.count += 1;
        self.restarts.push_back(Session {
            number: self.count,
            ours,
            theirs,
        });
        if self.restarts.len() > SESSIONS {
            self.restarts.pop_front().map(|session| session.ours.ufrag)
        } else {
            None
        }
    }

    /// The publisher's credentials of the newest session, if there was a restart.
    pub(super) fn theirs(&self) -> Option<&IceCredentials> {
        self.restarts.back().map(|session| &session.theirs)
    }

    fn session(&self, number: u64) -> Option<&Session> {
        self.restarts
            .iter()
            .find(|session| session.number == number)
    }

    /// A request that came with our user fragment of a restart: as the agent would have got it, if it is genuine.
    pub(super) fn request_in(
        &mut self,
        ufrag: &str,
        from: SocketAddr,
        transaction: Transaction,
        datagram: &[u8],
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        let first = self.first.as_ref()?;
        let session = self
            .restarts
            .iter()
            .find(|session| session.ours.ufrag == ufrag)?;
        if !stun::is_genuine(datagram, &session.ours.pwd, crypto) {
            return None;
        }
        let username = format!("{}:{}", first.ours.ufrag, first.theirs.ufrag);
        let translated = stun::resigned(datagram, Some(&username), &first.ours.pwd, crypto)?;
        let number = session.number;
        remember(&mut self.asked, transaction, number, TRANSACTIONS);
        remember(&mut self.met, from, number, ADDRESSES);
        Some(translated)
    }

    /// The agent's answer to a request: as the publisher must get it; `None` for one that stays as it is.
    pub(super) fn response_out(
        &mut self,
        transaction: Transaction,
        datagram: &[u8],
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        let number = take(&mut self.asked, transaction)?;
        let session = self.session(number)?;
        stun::resigned(datagram, None, &session.ours.pwd, crypto)
    }

    /// The agent's check of an address: as the publisher must get it; `None` for one that stays as it is. An address
    /// nobody was met at is one of the newest session.
    pub(super) fn request_out(
        &mut self,
        to: SocketAddr,
        transaction: Transaction,
        datagram: &[u8],
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        let met = self.met.iter().find(|(address, _)| *address == to);
        let session = match met {
            Some((_, number)) => self.session(*number)?,
            None => self.restarts.back()?,
        };
        let username = format!("{}:{}", session.theirs.ufrag, session.ours.ufrag);
        let translated = stun::resigned(datagram, Some(&username), &session.theirs.pwd, crypto)?;
        let number = session.number;
        remember(&mut self.asking, transaction, number, TRANSACTIONS);
        Some(translated)
    }

    /// The response to a check of ours: as the agent would have got it. `None` if it is forged; unchanged, as an empty
    /// list, if the check belongs to the first session.
    pub(super) fn response_in(
        &mut self,
        transaction: Transaction,
        datagram: &[u8],
        crypto: &dyn RTCCrypto,
    ) -> Translated {
        let Some(number) = take(&mut self.asking, transaction) else {
            return Translated::Unchanged;
        };
        let translated =
            self.session(number)
                .zip(self.first.as_ref())
                .and_then(|(session, first)| {
                    stun::is_genuine(datagram, &session.theirs.pwd, crypto)
                        .then(|| stun::resigned(datagram, None, &first.theirs.pwd, crypto))
                        .flatten()
                });
        translated.map_or(Translated::Forged, Translated::To)
    }

    /// An address that was met before the restart belongs to the first session until the publisher uses it again.
    pub(super) fn met_first(&mut self, from: SocketAddr) {
        if !self.restarts.is_empty() {
            remember(&mut self.met, from, 0, ADDRESSES);
        }
    }
}

/// What became of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Translated {
    /// It is one of the first session.
    Unchanged,
    /// As the agent must get it.
    To(Vec<u8>),
    /// Its integrity is not the publisher's.
    Forged,
}

#[cfg(test)]
mod tests {
    use super::{super::stun::tests::request, *};

    fn credentials(name: &str) -> IceCredentials {
        IceCredentials {
            ufrag: name.to_owned(),
            pwd: format!("{name}-password-password-password"),
        }
    }

    fn restarted() -> IceSessions {
        let mut sessions = IceSessions::default();
        let first = (credentials("ours"), credentials("theirs"));
        assert_eq!(
            sessions.restart(first, credentials("ours1"), credentials("theirs1")),
            None
        );
        sessions
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn transaction(datagram: &[u8]) -> Transaction {
        *datagram[..20].last_chunk().unwrap()
    }

    /// As a success response; who checks integrity looks at nothing else.
    fn response(to: &[u8], password: &str) -> Vec<u8> {
        let provider = rtc::crypto::default_provider().unwrap();
        let mut datagram = to.to_vec();
        datagram[0] = 1;
        datagram[1] = 1;
        stun::resigned(&datagram, None, password, provider.crypto()).unwrap()
    }

    #[test]
    fn the_agent_sees_a_request_with_the_first_credentials_and_the_publisher_the_answer_with_the_new()
     {
        let provider = rtc::crypto::default_provider().unwrap();
        let crypto = provider.crypto();
        let mut sessions = restarted();
        let wire = request("ours1:theirs1", &credentials("ours1").pwd, true);
        let id = transaction(&wire);
        let seen = sessions
            .request_in("ours1", address(1), id, &wire, crypto)
            .unwrap();
        assert_eq!(transaction(&seen), id);
        assert!(stun::is_genuine(&seen, &credentials("ours").pwd, crypto));
        assert!(matches!(
            stun::read(&seen),
            Some(stun::Stun::Request {
                to: "ours",
                nominates: true,
                ..
            })
        ));
        let answer = response(&seen, &credentials("ours").pwd);
        let sent = sessions.response_out(id, &answer, crypto).unwrap();
        assert!(stun::is_genuine(&sent, &credentials("ours1").pwd, crypto));
        assert_eq!(sessions.response_out(id, &answer, crypto), None, "once");
    }

    #[test]
    fn our_check_leaves_with_the_new_credentials_and_its_response_comes_back_with_the_first() {
        let provider = rtc::crypto::default_provider().unwrap();
        let crypto = provider.crypto();
        let mut sessions = restarted();
        let check = request("theirs:ours", &credentials("theirs").pwd, false);
        let id = transaction(&check);
        let sent = sessions
            .request_out(address(1), id, &check, crypto)
            .unwrap();
        assert!(stun::is_genuine(&sent, &credentials("theirs1").pwd, crypto));
        assert!(matches!(
            stun::read(&sent),
            Some(stun::Stun::Request { to: "theirs1", .. })
        ));
        let answer = response(&sent, &credentials("theirs1").pwd);
        let Translated::To(seen) = sessions.response_in(id, &answer, crypto) else {
            panic!("not translated");
        };
        assert!(stun::is_genuine(&seen, &credentials("theirs").pwd, crypto));

        sessions
            .request_out(address(1), id, &check, crypto)
            .unwrap();
        let forged = response(&sent, &credentials("other").pwd);
        assert_eq!(
            sessions.response_in(id, &forged, crypto),
            Translated::Forged
        );
        assert_eq!(
            sessions.response_in(id, &forged, crypto),
            Translated::Unchanged
        );
    }

    #[test]
    fn the_old_session_goes_on_where_the_publisher_still_uses_it() {
        let provider = rtc::crypto::default_provider().unwrap();
        let crypto = provider.crypto();
        let mut sessions = restarted();
        sessions.met_first(address(7));
        let check = request("theirs:ours", &credentials("theirs").pwd, false);
        assert_eq!(
            sessions.request_out(address(7), transaction(&check), &check, crypto),
            None
        );
        assert_eq!(sessions.response_out([0; 12], &check, crypto), None);
        let forged = request("ours1:theirs1", &credentials("ours").pwd, true);
        assert_eq!(
            sessions.request_in("ours1", address(7), transaction(&forged), &forged, crypto),
            None
        );
        let unknown = request("ours2:theirs1", &credentials("ours1").pwd, true);
        assert_eq!(
            sessions.request_in("ours2", address(7), transaction(&unknown), &unknown, crypto),
            None
        );
    }

    #[test]
    fn nothing_grows_without_end() {
        let provider = rtc::crypto::default_provider().unwrap();
        let crypto = provider.crypto();
        let mut sessions = restarted();
        for number in 0..200u8 {
            let check = request("theirs:ours", &credentials("theirs").pwd, false);
            sessions.request_out(address(number.into()), transaction(&check), &check, crypto);
            let wire = request("ours1:theirs1", &credentials("ours1").pwd, true);
            sessions.request_in(
                "ours1",
                address(number.into()),
                transaction(&wire),
                &wire,
                crypto,
            );
        }
        assert_eq!(
            (sessions.asked.len(), sessions.asking.len()),
            (TRANSACTIONS, TRANSACTIONS)
        );
        assert_eq!(sessions.met.len(), ADDRESSES);
        let first = || (credentials("ours"), credentials("theirs"));
        assert_eq!(
            sessions.restart(first(), credentials("ours2"), credentials("theirs2")),
            None
        );
        let gone = sessions.restart(first(), credentials("ours3"), credentials("theirs3"));
        assert_eq!(gone.as_deref(), Some("ours1"));
        assert_eq!(sessions.theirs().unwrap().ufrag, "theirs3");
    }
}
