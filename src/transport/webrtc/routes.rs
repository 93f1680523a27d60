//! [`Routes`]: which peer a datagram on the one shared port belongs to.
//!
//! Owns the tables by ICE user fragment, by transaction of our own checks, and by source address. An address is
//! learned only from a genuine STUN message, so nobody can take another publisher's datagrams or feed it with his
//! own by writing a foreign source address. Knows [`Link`]s but no sockets.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rtc::crypto::RTCCryptoProvider;

use super::{
    inbox::{Kind, kind},
    link::Link,
    restart::Translated,
    stun::{self, Stun, Transaction},
};

/// Addresses one peer may come from at a time; the oldest is forgotten.
const ADDRESSES: usize = 16;

/// Checks of ours that may be unanswered at a time per peer.
const TRANSACTIONS: usize = 64;

/// The tables of all peers.
pub(super) struct Routes {
    crypto: Arc<dyn RTCCryptoProvider>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    peers: HashMap<String, Entry>,
    /// Peers by the user fragments of ICE restarts.
    restarts: HashMap<String, Arc<Link>>,
    by_address: HashMap<SocketAddr, Arc<Link>>,
    by_transaction: HashMap<Transaction, Arc<Link>>,
}

struct Entry {
    link: Arc<Link>,
    addresses: VecDeque<SocketAddr>,
    transactions: VecDeque<Transaction>,
    /// Our user fragments of ICE restarts.
    restarts: Vec<String>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It went to a peer's driver.
    Delivered,
    /// It belongs to nobody, or is forged.
    Unknown,
}

impl Routes {
    pub(super) fn new(crypto: Arc<dyn RTCCryptoProvider>) -> Self {
        Self {
            crypto,
            tables: Mutex::default(),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a peer, known by its link's user fragment. `false` if that is taken.
    pub(super) fn insert(&self, link: Arc<Link>) -> bool {
        let mut tables = self.tables();
        if tables.peers.contains_key(link.ufrag()) {
            return false;
        }
        tables.peers.insert(
            link.ufrag().to_owned(),
            Entry {
                link,
                addresses: VecDeque::new(),
                transactions: VecDeque::new(),
                restarts: Vec::new(),
            },
        );
        true
    }

    /// Adds the user fragment of an ICE restart of a peer, and takes one out that is no longer answered for. `false` if
    /// the new one is taken or the peer is gone.
    pub(super) fn insert_restart(&self, link: &Arc<Link>, ufrag: &str, gone: Option<&str>) -> bool {
        let mut tables = self.tables();
        let tables = &mut *tables;
        if tables.peers.contains_key(ufrag) || tables.restarts.contains_key(ufrag) {
            return false;
        }
        let Some(entry) = tables.peers.get_mut(link.ufrag()) else {
            return false;
        };
        if let Some(gone) = gone {
            entry.restarts.retain(|known| known != gone);
            tables.restarts.remove(gone);
        }
        entry.restarts.push(ufrag.to_owned());
        tables.restarts.insert(ufrag.to_owned(), Arc::clone(link));
        true
    }

    /// Forgets a peer and every way to it.
    pub(super) fn remove(&self, link: &Link) {
        let mut tables = self.tables();
        let Some(entry) = tables.peers.remove(link.ufrag()) else {
            return;
        };
        for address in entry.addresses {
            tables.by_address.remove(&address);
        }
        for transaction in entry.transactions {
            tables.by_transaction.remove(&transaction);
        }
        for ufrag in entry.restarts {
            tables.restarts.remove(&ufrag);
        }
    }

    /// All peers.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.tables()
            .peers
            .values()
            .map(|entry| Arc::clone(&entry.link))
            .collect()
    }

    /// Remembers a check that `link` sends, so that its response finds the way back: responses have no user name.
    pub(super) fn expect_response(&self, link: &Arc<Link>, transaction: Transaction) {
        let mut tables = self.tables();
        let tables = &mut *tables;
        let Some(entry) = tables.peers.get_mut(link.ufrag()) else {
            return;
        };
        if entry.transactions.len() >= TRANSACTIONS
            && let Some(oldest) = entry.transactions.pop_front()
        {
            tables.by_transaction.remove(&oldest);
        }
        entry.transactions.push_back(transaction);
        tables.by_transaction.insert(transaction, Arc::clone(link));
    }

    /// Hands a datagram that came over UDP to its peer. `to` is the address of this machine it was sent to, if known.
    pub(super) fn deliver(
        &self,
        from: SocketAddr,
        to: Option<IpAddr>,
        datagram: &[u8],
    ) -> Delivery {
        if kind(datagram) == Kind::Stun {
            return self.deliver_stun(from, to, datagram);
        }
        let link = self.tables().by_address.get(&from).cloned();
        match link {
            Some(link) => {
                link.deliver(from, datagram);
                Delivery::Delivered
            }
            None => Delivery::Unknown,
        }
    }

    fn deliver_stun(&self, from: SocketAddr, to: Option<IpAddr>, datagram: &[u8]) -> Delivery {
        match stun::read(datagram) {
            Some(Stun::Request {
                to: ufrag,
                nominates,
                transaction,
            }) => {
                let Some((link, request)) = self.authenticate(ufrag, from, transaction, datagram)
                else {
                    return Delivery::Unknown;
                };
                self.learn(&link, from, true);
                link.paths().met(from, to);
                link.deliver_request(from, &request, nominates);
                Delivery::Delivered
            }
            Some(Stun::Response { transaction }) => match self.take_transaction(transaction) {
                Some(link) => {
                    let Some(response) = self.translate_response(&link, transaction, datagram)
                    else {
                        return Delivery::Unknown;
                    };
                    self.learn(&link, from, false);
                    link.deliver_response(from, &response);
                    Delivery::Delivered
                }
                None => Delivery::Unknown,
            },
            None => Delivery::Unknown,
        }
    }

    /// The peer a binding request is for, if it was made with that peer's password, and the request as the peer's agent
    /// must get it.
    pub(super) fn authenticate<'a>(
        &self,
        ufrag: &str,
        from: SocketAddr,
        transaction: Transaction,
        datagram: &'a [u8],
    ) -> Option<(Arc<Link>, Cow<'a, [u8]>)> {
        let crypto = self.crypto.crypto();
        let (first, restarted) = {
            let tables = self.tables();
            let first = tables.peers.get(ufrag).map(|entry| Arc::clone(&entry.link));
            (first, tables.restarts.get(ufrag).cloned())
        };
        if let Some(link) = first {
            if !stun::is_genuine(datagram, link.pwd(), crypto) {
                return None;
            }
            if let Some(mut restarts) = link.restarts() {
                restarts.met_first(from);
            }
            return Some((link, Cow::Borrowed(datagram)));
        }
        let link = restarted?;
        let request = link
            .restarts()?
            .request_in(ufrag, from, transaction, datagram, crypto)?;
        Some((link, Cow::Owned(request)))
    }

    /// The response to a check as the peer's agent must get it; `None` if it is forged.
    pub(super) fn translate_response<'a>(
        &self,
        link: &Link,
        transaction: Transaction,
        datagram: &'a [u8],
    ) -> Option<Cow<'a, [u8]>> {
        let Some(mut restarts) = link.restarts() else {
            return Some(Cow::Borrowed(datagram));
        };
        match restarts.response_in(transaction, datagram, self.crypto.crypto()) {
            Translated::Unchanged => Some(Cow::Borrowed(datagram)),
            Translated::To(response) => Some(Cow::Owned(response)),
            Translated::Forged => None,
        }
    }

    /// A connectivity check or an answer of the peer's agent as the publisher must get it.
    pub(super) fn translate_outgoing<'a>(
        &self,
        link: &Arc<Link>,
        to: SocketAddr,
        datagram: &'a [u8],
    ) -> Cow<'a, [u8]> {
        let crypto = self.crypto.crypto();
        let translated = match stun::read(datagram) {
            Some(Stun::Request { transaction, .. }) => {
                self.expect_response(link, transaction);
                link.restarts().and_then(|mut restarts| {
                    restarts.request_out(to, transaction, datagram, crypto)
                })
            }
            Some(Stun::Response { transaction }) => link
                .restarts()
                .and_then(|mut restarts| restarts.response_out(transaction, datagram, crypto)),
            None => None,
        };
        translated.map_or(Cow::Borrowed(datagram), Cow::Owned)
    }

    /// The peer whose check this transaction was, once.
    pub(super) fn take_transaction(&self, transaction: Transaction) -> Option<Arc<Link>> {
        let mut tables = self.tables();
        let link = tables.by_transaction.remove(&transaction)?;
        if let Some(entry) = tables.peers.get_mut(link.ufrag()) {
            entry.transactions.retain(|other| *other != transaction);
        }
        Some(link)
    }

    /// Routes an address to a peer. A request proves who is there and may move the address from one peer to another;
    /// a response does not, as its sender was chosen by the one who offered the candidate.
    fn learn(&self, link: &Arc<Link>, from: SocketAddr, may_move: bool) {
        let mut tables = self.tables();
        let tables = &mut *tables;
        if let Some(holder) = tables.by_address.get(&from) {
            if Arc::ptr_eq(holder, link) || !may_move {
                return;
            }
            let holder = holder.ufrag().to_owned();
            if let Some(entry) = tables.peers.get_mut(&holder) {
                entry.addresses.retain(|address| *address != from);
            }
        }
        let Some(entry) = tables.peers.get_mut(link.ufrag()) else {
            return;
        };
        if entry.addresses.len() >= ADDRESSES
            && let Some(oldest) = entry.addresses.pop_front()
        {
            tables.by_address.remove(&oldest);
        }
        entry.addresses.push_back(from);
        tables.by_address.insert(from, Arc::clone(link));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stun::tests::request, *};

    const PASSWORD: &str = "abcdefghijklmnopqrstuvwxyz";

    fn routes() -> Routes {
        Routes::new(rtc::crypto::default_provider().unwrap())
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn link(routes: &Routes, ufrag: &str) -> Arc<Link> {
        let link = Arc::new(Link::for_tests(ufrag, PASSWORD));
        assert!(routes.insert(Arc::clone(&link)));
        link
    }

    #[test]
    fn media_follows_the_address_of_a_genuine_check() {
        let routes = routes();
        let first = link(&routes, "first");
        let second = link(&routes, "second");
        assert_eq!(
            routes.deliver(address(1), None, &[128, 0]),
            Delivery::Unknown
        );
        for (ufrag, port) in [("first", 1), ("second", 2)] {
            let check = request(&format!("{ufrag}:x"), PASSWORD, false);
            assert_eq!(
                routes.deliver(address(port), None, &check),
                Delivery::Delivered
            );
        }
        assert_eq!(
            routes.deliver(address(1), None, &[22, 7]),
            Delivery::Delivered
        );
        assert_eq!(
            routes.deliver(address(2), None, &[22, 8]),
            Delivery::Delivered
        );
        assert_eq!(first.waiting().last().unwrap().1, [22, 7]);
        assert_eq!(second.waiting().last().unwrap().1, [22, 8]);
    }

    #[test]
    fn a_forged_check_gets_nowhere_and_moves_no_address() {
        let routes = routes();
        let victim = link(&routes, "victim");
        let check = request("victim:x", PASSWORD, false);
        routes.deliver(address(1), None, &check);
        let _other = link(&routes, "other");
        let forged = request("other:x", "not the password of other", true);
        assert_eq!(routes.deliver(address(1), None, &forged), Delivery::Unknown);
        let unknown = request("nobody:x", PASSWORD, true);
        assert_eq!(
            routes.deliver(address(1), None, &unknown),
            Delivery::Unknown
        );
        routes.deliver(address(1), None, &[22, 9]);
        assert_eq!(victim.waiting().last().unwrap().1, [22, 9]);
    }

    #[test]
    fn the_response_to_our_check_comes_back_once() {
        let routes = routes();
        let link = link(&routes, "ours");
        let mut response = request("x:y", PASSWORD, false);
        response[0] = 0x01;
        response[1] = 0x01;
        let transaction = *response[..20].last_chunk::<12>().unwrap();
        assert_eq!(
            routes.deliver(address(3), None, &response),
            Delivery::Unknown
        );
        routes.expect_response(&link, transaction);
        assert_eq!(
            routes.deliver(address(3), None, &response),
            Delivery::Delivered
        );
        assert_eq!(
            routes.deliver(address(3), None, &response),
            Delivery::Unknown
        );
        assert_eq!(
            routes.deliver(address(3), None, &[22, 1]),
            Delivery::Delivered
        );
    }

    #[test]
    fn a_removed_peer_leaves_nothing_behind() {
        let routes = routes();
        let link = link(&routes, "gone");
        for port in 1..100 {
            let check = request("gone:x", PASSWORD, false);
            routes.deliver(address(port), None, &check);
            routes.expect_response(&link, [u8::try_from(port).unwrap(); 12]);
        }
        {
            let tables = routes.tables();
            assert_eq!(tables.by_address.len(), ADDRESSES);
            assert_eq!(tables.by_transaction.len(), TRANSACTIONS);
        }
        routes.remove(&link);
        let tables = routes.tables();
        assert!(tables.peers.is_empty());
        assert!(tables.by_address.is_empty());
        assert!(tables.by_transaction.is_empty());
    }
}
