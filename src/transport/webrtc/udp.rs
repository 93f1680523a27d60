//! The one UDP socket of all publishers: binding it, reading it, sending through it.
//!
//! Owns the socket and its reader task. Whose a datagram is, [`Routes`] says.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use webrtc::runtime::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use super::{
    inbox::{Kind, kind},
    routes::{Delivery, Routes},
};

/// Room for a second of 60 publishers at 2.5 Mbit/s while the reader is kept from its work.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Largest UDP payload; with generic receive offload one read returns several datagrams of up to this in total.
const DATAGRAM: usize = 65_535;

/// System calls in a row before other tasks get their turn.
const READS_PER_TURN: usize = 16;

/// Time between two reads while media comes; how long a packet may wait in the socket.
const ROUND: Duration = Duration::from_millis(2);

/// After so many reads without media the reactor watches the socket again. Longer than the pause between the packets of
/// any stream that is live.
const QUIET_ROUNDS: u32 = 100;

/// Pause after a failed read, so that a lasting error does not become a busy loop.
const READ_ERROR_PAUSE: Duration = Duration::from_millis(5);

/// Binds a UDP socket with a large receive buffer; an IPv6 wildcard takes IPv4 as well.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    enlarge_receive_buffer(&socket);
    Ok(socket.into())
}

fn enlarge_receive_buffer(socket: &Socket) {
    let asked = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    // Linux reports twice what it grants, other systems the plain figure.
    let granted = socket.recv_buffer_size().map(|size| {
        if cfg!(target_os = "linux") {
            size / 2
        } else {
            size
        }
    });
    match (asked, granted) {
        (Ok(()), Ok(granted)) if granted >= RECEIVE_BUFFER => {}
        (_, granted) => tracing::warn!(
            granted = granted.unwrap_or_default(),
            wanted = RECEIVE_BUFFER,
            "the UDP receive buffer is small, packets will be lost with many publishers: \
             raise it with `sysctl -w net.core.rmem_max={RECEIVE_BUFFER}`"
        ),
    }
}

/// The sending side of the shared socket.
pub(super) struct Outlet {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    dropped: AtomicU64,
}

impl Outlet {
    /// `socket` is not blocking.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self {
            local: socket.local_addr()?,
            state,
            socket,
            dropped: AtomicU64::new(0),
        })
    }

    /// Sends one datagram. `from` is the address of this machine that the receiver sends to: a socket bound to a
    /// wildcard would leave the choice to the routing table, and ICE takes an answer from another address for none.
    /// What the kernel does not take at once is dropped, as on any network.
    pub(super) fn send(&self, to: SocketAddr, from: Option<IpAddr>, datagram: &[u8]) {
        let destination = match (self.local.is_ipv6(), to.ip()) {
            (true, IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: from.filter(|_| self.local.ip().is_unspecified()),
        };
        let sent = self
            .state
            .try_send(UdpSockRef::from(&self.socket), &transmit);
        if let Err(error) = sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(%to, %error, "datagram not sent");
        }
    }
}

/// Reads the socket for ever and hands each datagram to its peer.
///
/// A wake-up of this thread for every packet would cost more than the work on it. So the reactor watches the socket only
/// while no media comes; from the first media packet on the socket is read every [`ROUND`] instead, and its buffer takes
/// what comes meanwhile.
pub(super) async fn read(outlet: Arc<Outlet>, routes: Arc<Routes>) -> io::Result<()> {
    let mut reader = Reader::new(outlet, routes);
    loop {
        reader.until_media().await?;
        let mut quiet = 0;
        while quiet < QUIET_ROUNDS {
            match reader.read(None).await {
                Round { drained: false, .. } => tokio::task::yield_now().await,
                Round { media, .. } => {
                    quiet = if media { 0 } else { quiet + 1 };
                    tokio::time::sleep(ROUND).await;
                }
            }
        }
    }
}

/// What one turn of reading found.
struct Round {
    /// There was media.
    media: bool,
    /// Nothing is left in the socket.
    drained: bool,
}

struct Reader {
    outlet: Arc<Outlet>,
    routes: Arc<Routes>,
    buffers: Vec<Vec<u8>>,
    metas: Vec<RecvMeta>,
    unknown: u64,
}

impl Reader {
    fn new(outlet: Arc<Outlet>, routes: Arc<Routes>) -> Self {
        Self {
            outlet,
            routes,
            buffers: vec![vec![0; DATAGRAM]; BATCH_SIZE],
            metas: vec![RecvMeta::default(); BATCH_SIZE],
            unknown: 0,
        }
    }

    /// Reads what comes as it comes, until media does: a handshake has no time to lose.
    async fn until_media(&mut self) -> io::Result<()> {
        // A second handle on the same socket, so that the reactor lets go of it at the end.
        let watched = tokio::net::UdpSocket::from_std(self.outlet.socket.try_clone()?)?;
        loop {
            watched.readable().await?;
            if self.read(Some(&watched)).await.media {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    /// Reads what is there, up to [`READS_PER_TURN`] calls. `watched` is told when nothing is left.
    async fn read(&mut self, watched: Option<&tokio::net::UdpSocket>) -> Round {
        let mut media = false;
        for _ in 0..READS_PER_TURN {
            let read = match watched {
                Some(watched) => watched.try_io(Interest::READABLE, || self.receive()),
                None => self.receive(),
            };
            match read {
                Ok(count) => media |= self.deliver(count),
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        // An ICMP message about an earlier datagram, for one; the socket itself goes on.
                        tracing::debug!(%error, unknown = self.unknown, "reading the UDP port");
                        tokio::time::sleep(READ_ERROR_PAUSE).await;
                    }
                    return Round {
                        media,
                        drained: true,
                    };
                }
            }
        }
        Round {
            media,
            drained: false,
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut slices: Vec<IoSliceMut<'_>> = self
            .buffers
            .iter_mut()
            .map(|buffer| IoSliceMut::new(buffer))
            .collect();
        self.outlet.state.recv(
            UdpSockRef::from(&self.outlet.socket),
            &mut slices,
            &mut self.metas,
        )
    }

    /// Hands on the first `count` reads; whether there was media among them.
    fn deliver(&mut self, count: usize) -> bool {
        let mut media = false;
        for (buffer, meta) in self.buffers.iter().zip(&self.metas).take(count) {
            let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let datagrams = buffer.get(..meta.len).unwrap_or_default();
            for datagram in datagrams.chunks(meta.stride.max(1)) {
                match self.routes.deliver(from, meta.dst_ip, datagram) {
                    Delivery::Delivered => media |= kind(datagram) == Kind::Media,
                    Delivery::Unknown => self.unknown += 1,
                }
            }
        }
        media
    }
}
