//! Our ICE candidates: which addresses publishers are told to send to.
//!
//! Owns the choice and order of addresses and the text of candidate lines (RFC 8839 section 5.1, RFC 6544 section
//! 4.5). UDP comes first: FFmpeg uses the first candidate only, and it must be UDP.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, SocketAddr},
    str::FromStr,
};

/// More addresses than this help nobody and make the answer long (FFmpeg takes 8192 bytes).
const MOST: usize = 8;

/// An address publishers reach us by, where it is not the one we listen on: behind NAT, in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublicAddress {
    /// The port is the one we listen on.
    Ip(IpAddr),
    /// The UDP port is another one. The port of ICE-TCP stays the one we listen on.
    Socket(SocketAddr),
}

impl PublicAddress {
    fn ip(self) -> IpAddr {
        match self {
            Self::Ip(ip) => ip,
            Self::Socket(address) => address.ip(),
        }
    }

    fn with_default_port(self, port: u16) -> SocketAddr {
        match self {
            Self::Ip(ip) => SocketAddr::new(ip, port),
            Self::Socket(address) => address,
        }
    }
}

impl FromStr for PublicAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self::Socket)
            .or_else(|_| text.parse().map(Self::Ip))
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Socket(address) => address.fmt(f),
        }
    }
}

impl From<IpAddr> for PublicAddress {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl From<SocketAddr> for PublicAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

/// Where publishers can reach us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidates {
    /// UDP addresses, best first.
    pub(super) udp: Vec<SocketAddr>,
    /// Addresses of the ICE-TCP listener, best first.
    pub(super) tcp: Vec<SocketAddr>,
}

impl Candidates {
    /// The candidates for sockets bound to `udp` and `tcp`. `public` addresses, if there are any, stand in for the
    /// local ones; a wildcard stands for the addresses of `interfaces`.
    pub(super) fn new(
        udp: SocketAddr,
        tcp: Option<SocketAddr>,
        public: &[PublicAddress],
        interfaces: impl Fn() -> Vec<IpAddr>,
    ) -> Self {
        if !public.is_empty() {
            return Self {
                udp: unique(
                    public
                        .iter()
                        .map(|address| address.with_default_port(udp.port())),
                ),
                tcp: unique(tcp.iter().flat_map(|tcp| {
                    public
                        .iter()
                        .map(|address| SocketAddr::new(address.ip(), tcp.port()))
                })),
            };
        }
        let expand = |bound: SocketAddr| {
            if bound.ip().is_unspecified() {
                usable(bound, interfaces())
            } else {
                vec![SocketAddr::new(bound.ip().to_canonical(), bound.port())]
            }
        };
        Self {
            udp: expand(udp),
            tcp: tcp.map(expand).unwrap_or_default(),
        }
    }

    /// The candidates as in SDP without `a=`, UDP first.
    pub(super) fn lines(&self) -> Vec<String> {
        let udp = self.udp.iter().enumerate().map(|(index, address)| {
            let priority = (126 << 24) | ((65_535 - preference(index)) << 8) | 255;
            format!(
                "candidate:{} 1 udp {priority} {} {} typ host",
                index + 1,
                address.ip(),
                address.port()
            )
        });
        let tcp = self.tcp.iter().enumerate().map(|(index, address)| {
            // Direction preference 4 is that of a passive candidate (RFC 6544 section 4.2).
            let local = (4 << 13) | (8_191 - preference(index));
            let priority = (90 << 24) | (local << 8) | 255;
            format!(
                "candidate:{} 1 tcp {priority} {} {} typ host tcptype passive",
                self.udp.len() + index + 1,
                address.ip(),
                address.port()
            )
        });
        udp.chain(tcp).collect()
    }
}

fn preference(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX).min(8_191)
}

fn unique(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for address in addresses {
        if !all.contains(&address) && all.len() < MOST {
            all.push(address);
        }
    }
    all
}

/// The interface addresses a wildcard socket can be reached by: IPv4 first, loopback only if there is nothing else.
fn usable(bound: SocketAddr, mut interfaces: Vec<IpAddr>) -> Vec<SocketAddr> {
    interfaces.retain(|ip| {
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        !ip.is_unspecified()
            && !ip.is_multicast()
            && !link_local
            && (bound.is_ipv6() || ip.is_ipv4())
    });
    if interfaces.iter().any(|ip| !ip.is_loopback()) {
        interfaces.retain(|ip| !ip.is_loopback());
    }
    interfaces.sort_by_key(IpAddr::is_ipv6);
    unique(
        interfaces
            .into_iter()
            .map(|ip| SocketAddr::new(ip, bound.port())),
    )
}

/// The addresses of this machine's interfaces.
pub(super) fn interfaces() -> Vec<IpAddr> {
    match rtc::shared::ifaces::ifaces() {
        Ok(interfaces) => interfaces
            .into_iter()
            .filter_map(|interface| interface.addr)
            .map(|address| address.ip())
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot list the network interfaces; set webrtc.public_addresses");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_plain_address_is_its_own_candidate_and_udp_comes_first() {
        let candidates = Candidates::new(
            address("127.0.0.1:4000"),
            Some(address("127.0.0.1:4001")),
            &[],
            Vec::new,
        );
        assert_eq!(
            candidates.lines(),
            [
                "candidate:1 1 udp 2130706431 127.0.0.1 4000 typ host",
                "candidate:2 1 tcp 1520435199 127.0.0.1 4001 typ host tcptype passive",
            ]
        );
    }

    #[test]
    fn a_wildcard_stands_for_the_interfaces() {
        let interfaces = || {
            ips(&[
                "127.0.0.1",
                "::1",
                "fe80::1",
                "2001:db8::7",
                "169.254.0.9",
                "192.0.2.4",
                "192.0.2.4",
            ])
        };
        let v4 = Candidates::new(address("0.0.0.0:4000"), None, &[], interfaces);
        assert_eq!(v4.udp, [address("192.0.2.4:4000")]);
        let both = Candidates::new(address("[::]:4000"), None, &[], interfaces);
        assert_eq!(
            both.udp,
            [address("192.0.2.4:4000"), address("[2001:db8::7]:4000")]
        );
    }

    #[test]
    fn a_machine_without_a_network_still_has_loopback() {
        let candidates = Candidates::new(address("0.0.0.0:4000"), None, &[], || {
            ips(&["127.0.0.1", "::1"])
        });
        assert_eq!(candidates.udp, [address("127.0.0.1:4000")]);
    }

    #[test]
    fn public_addresses_replace_the_local_ones() {
        let candidates = Candidates::new(
            address("0.0.0.0:4000"),
            Some(address("0.0.0.0:4001")),
            &[
                "203.0.113.5:5000".parse().unwrap(),
                "2001:db8::1".parse().unwrap(),
            ],
            || panic!("the interfaces do not matter"),
        );
        assert_eq!(
            candidates.udp,
            [address("203.0.113.5:5000"), address("[2001:db8::1]:4000")]
        );
        assert_eq!(
            candidates.tcp,
            [address("203.0.113.5:4001"), address("[2001:db8::1]:4001")]
        );
    }

    #[test]
    fn this_machine_has_interfaces() {
        assert!(interfaces().iter().any(IpAddr::is_loopback));
    }
}
