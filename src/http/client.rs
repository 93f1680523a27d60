//! Whose request it is: the connection's address, or what a trusted proxy says. Pure.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::{self, HeaderMap};

use crate::config::IpNetwork;

/// The client's address: the last one in `X-Forwarded-For` that is no trusted proxy, if the connection itself comes
/// from one; otherwise the connection's.
pub(super) fn address(
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
    trusted: &[IpNetwork],
) -> Option<IpAddr> {
    let peer = peer?.ip().to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return Some(peer);
    }
    let mut client = peer;
    let forwarded: Vec<&str> = headers
        .get_all(header::X_FORWARDED_FOR)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for hop in forwarded.into_iter().rev() {
        // Whatever stands left of a hop that cannot be read was not written by a proxy of ours.
        let Some(hop) = parse(hop.trim()) else { break };
        client = hop;
        if !is_trusted(hop) {
            break;
        }
    }
    Some(client)
}

/// Whether the request comes from this machine, and is not passed on by a proxy on it.
pub(super) fn is_local(
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
    trusted: &[IpNetwork],
) -> bool {
    let passed_on = [header::X_FORWARDED_FOR, header::FORWARDED, header::VIA]
        .iter()
        .any(|name| headers.contains_key(name));
    let client_is_loopback =
        address(peer, headers, trusted).is_some_and(|client| client.is_loopback());
    let peer_is_trusted = peer.is_some_and(|peer| trusted.iter().any(|n| n.contains(peer.ip())));
    client_is_loopback && (!passed_on || peer_is_trusted)
}

/// An address as proxies write it: alone, with a port, or in brackets.
fn parse(hop: &str) -> Option<IpAddr> {
    hop.parse::<IpAddr>()
        .or_else(|_| hop.parse::<SocketAddr>().map(|with_port| with_port.ip()))
        .ok()
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(header::X_FORWARDED_FOR, value.parse().unwrap());
        }
        let trusted: Vec<_> = trusted
            .iter()
            .map(|network| network.parse().unwrap())
            .collect();
        address(
            Some(SocketAddr::new(peer.parse().unwrap(), 1)),
            &headers,
            &trusted,
        )
        .unwrap()
        .to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("192.0.2.1", &["203.0.113.5"], &[]), "192.0.2.1");
        assert_eq!(
            client("192.0.2.1", &["203.0.113.5"], &["192.0.2.1"]),
            "203.0.113.5"
        );
        assert_eq!(
            client(
                "10.0.0.1",
                &["1.1.1.1, 203.0.113.5", "10.0.0.2"],
                &["10.0.0.0/8"]
            ),
            "203.0.113.5"
        );
        assert_eq!(
            client("10.0.0.1", &["1.1.1.1, junk, 10.0.0.2"], &["10.0.0.0/8"]),
            "10.0.0.2"
        );
        assert_eq!(client("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(
            client("10.0.0.1", &["[2001:db8::1]:443"], &["10.0.0.0/8"]),
            "2001:db8::1"
        );
        assert_eq!(client("::ffff:192.0.2.1", &[], &[]), "192.0.2.1");
    }

    #[test]
    fn what_a_proxy_passes_on_is_not_local() {
        let local = |peer: &str, forwarded: Option<&str>, trusted: &[IpNetwork]| {
            let mut headers = HeaderMap::new();
            if let Some(value) = forwarded {
                headers.insert(header::X_FORWARDED_FOR, value.parse().unwrap());
            }
            is_local(
                Some(SocketAddr::new(peer.parse().unwrap(), 1)),
                &headers,
                trusted,
            )
        };
        let loopback = ["127.0.0.0/8".parse().unwrap()];
        assert!(local("127.0.0.1", None, &[]));
        assert!(local("::1", None, &[]));
        assert!(!local("192.0.2.1", None, &[]));
        assert!(!local("127.0.0.1", Some("127.0.0.1"), &[]));
        assert!(!local("127.0.0.1", Some("203.0.113.5"), &loopback));
        assert!(local("127.0.0.1", Some("127.0.0.1"), &loopback));
    }
}
