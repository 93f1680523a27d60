//! [`Paths`]: the addresses one publisher was met at, and which of them to send to.
//!
//! The stack stays with the first pair the publisher nominates. A publisher may move on, from UDP to TCP or from one
//! network to another, and then wants its feedback there (RFC 8445 section 8.1.1). Owns that choice; pure.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

/// Addresses that are remembered.
const MOST: usize = 16;

#[derive(Debug)]
struct Path {
    remote: SocketAddr,
    /// The address of this machine the publisher sends to.
    local: Option<IpAddr>,
    /// A check of ours was answered from there, so it is no forged address.
    answered: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Paths {
    known: VecDeque<Path>,
    nominated: Option<SocketAddr>,
}

impl Paths {
    fn entry(&mut self, remote: SocketAddr) -> Option<&mut Path> {
        if !self.known.iter().any(|path| path.remote == remote) {
            if self.known.len() >= MOST {
                self.known.pop_front();
            }
            self.known.push_back(Path {
                remote,
                local: None,
                answered: false,
            });
        }
        self.known.iter_mut().find(|path| path.remote == remote)
    }

    /// A genuine request came from `remote` to the address `local` of this machine.
    pub(super) fn met(&mut self, remote: SocketAddr, local: Option<IpAddr>) {
        if let Some(path) = self.entry(remote)
            && local.is_some()
        {
            path.local = local;
        }
    }

    /// The publisher nominates the path it sends from.
    pub(super) fn nominate(&mut self, remote: SocketAddr) {
        self.met(remote, None);
        self.nominated = Some(remote);
    }

    /// A check of ours was answered from `remote`.
    pub(super) fn answered(&mut self, remote: SocketAddr) {
        if let Some(path) = self.entry(remote) {
            path.answered = true;
        }
    }

    /// Where the publisher wants media feedback: the path it nominated last, once that has proved itself.
    pub(super) fn current(&self) -> Option<SocketAddr> {
        self.known
            .iter()
            .find(|path| Some(path.remote) == self.nominated && path.answered)
            .map(|path| path.remote)
    }

    /// The address of this machine to send from, to be taken for the one `remote` knows.
    pub(super) fn local(&self, remote: SocketAddr) -> Option<IpAddr> {
        self.known
            .iter()
            .find(|path| path.remote == remote)
            .and_then(|path| path.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn the_last_nomination_counts_once_it_is_proved() {
        let mut paths = Paths::default();
        assert_eq!(paths.current(), None);
        paths.nominate(address(1));
        assert_eq!(paths.current(), None);
        paths.answered(address(1));
        assert_eq!(paths.current(), Some(address(1)));
        paths.nominate(address(2));
        assert_eq!(paths.current(), None, "the stack's own choice until then");
        paths.answered(address(2));
        assert_eq!(paths.current(), Some(address(2)));
    }

    #[test]
    fn answers_leave_from_where_the_request_came_to() {
        let mut paths = Paths::default();
        let local = "198.51.100.7".parse().ok();
        paths.met(address(1), local);
        paths.nominate(address(1));
        assert_eq!(paths.local(address(1)), local);
        assert_eq!(paths.local(address(2)), None);
    }

    #[test]
    fn many_addresses_cost_little() {
        let mut paths = Paths::default();
        for port in 1..1000 {
            paths.met(address(port), None);
        }
        assert_eq!(paths.known.len(), MOST);
    }
}
