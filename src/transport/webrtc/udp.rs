//! The one UDP socket of all publishers: binding it, reading it, sending through it.
//!
//! Owns the socket and its reader task. Whose a datagram is, [`Routes`] says.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};
use webrtc::runtime::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use super::routes::{Delivery, Routes};

/// Room for a second of 60 publishers at 2.5 Mbit/s while the reader is kept from its work.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Largest UDP payload; with generic receive offload one read returns several datagrams of up to this in total.
const DATAGRAM: usize = 65_535;

/// System calls in a row before other tasks get their turn.
const READS_PER_TURN: usize = 16;

/// Pause after a failed read, so that a lasting error does not become a busy loop.
const READ_ERROR_PAUSE: Duration = Duration::from_millis(5);

/// Binds a UDP socket with a large receive buffer; an IPv6 wildcard takes IPv4 as well.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
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
    /// Must be called on the runtime that reads the socket.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let socket = UdpSocket::from_std(socket)?;
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
        let sent = self.socket.try_io(Interest::WRITABLE, || {
            self.state
                .try_send(UdpSockRef::from(&self.socket), &transmit)
        });
        if let Err(error) = sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(%to, %error, "datagram not sent");
        }
    }
}

/// Reads the socket for ever and hands each datagram to its peer.
pub(super) async fn read(outlet: Arc<Outlet>, routes: Arc<Routes>) -> io::Result<()> {
    let socket = &outlet.socket;
    let mut buffers = vec![vec![0; DATAGRAM]; BATCH_SIZE];
    let mut metas = vec![RecvMeta::default(); BATCH_SIZE];
    let mut unknown: u64 = 0;
    loop {
        socket.readable().await?;
        for _ in 0..READS_PER_TURN {
            let read = socket.try_io(Interest::READABLE, || {
                let mut slices: Vec<IoSliceMut<'_>> = buffers
                    .iter_mut()
                    .map(|buffer| IoSliceMut::new(buffer))
                    .collect();
                outlet
                    .state
                    .recv(UdpSockRef::from(socket), &mut slices, &mut metas)
            });
            match read {
                Ok(count) => {
                    for (buffer, meta) in buffers.iter().zip(&metas).take(count) {
                        let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                        let datagrams = buffer.get(..meta.len).unwrap_or_default();
                        for datagram in datagrams.chunks(meta.stride.max(1)) {
                            if routes.deliver(from, meta.dst_ip, datagram) == Delivery::Unknown {
                                unknown += 1;
                            }
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP message about an earlier datagram, for one; the socket itself goes on.
                Err(error) => {
                    tracing::debug!(%error, unknown, "reading the UDP port");
                    tokio::time::sleep(READ_ERROR_PAUSE).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}
