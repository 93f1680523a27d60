//! [`VirtualSocket`], what a driver takes for its UDP socket, and [`PeerRuntime`], which hands it out.
//!
//! The stack makes one socket per connection; here every connection shares the one UDP port and the TCP listener.
//! Owns the translation only: datagrams come from and go to the [`Link`]. The runtime is one per connection and also
//! gives the driver a timer that can be cut short.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, TcpListener, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle, time::Sleep};
use webrtc::runtime::{
    self, AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, RecvMeta, Runtime,
    Transmit,
};

use super::{
    handshake::REPEATS,
    inbox::{Kind, kind},
    link::{Family, Link},
    routes::Routes,
    udp::Outlet,
};
use crate::transport::EndReason;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What all peers of one engine share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) routes: Arc<Routes>,
    pub(super) outlet: Arc<Outlet>,
    pub(super) handle: Handle,
}

/// One peer's share of the UDP port and of the TCP listener, in one address family.
struct VirtualSocket {
    link: Arc<Link>,
    shared: Shared,
    family: Family,
    local: SocketAddr,
}

impl VirtualSocket {
    fn send(&self, mut to: SocketAddr, datagram: &[u8]) {
        let kind = kind(datagram);
        if kind != Kind::Stun
            && let Some(current) = self.link.paths().current()
        {
            to = current;
        }
        match kind {
            Kind::Stun => {
                let routes = &self.shared.routes;
                let translated = routes.translate_outgoing(&self.link, to, datagram);
                return transmit(&self.link, &self.shared.outlet, to, &translated);
            }
            Kind::Dtls => {
                if let Some(flight) = self.link.dtls_leaves(to, datagram) {
                    self.repeat(flight);
                }
            }
            Kind::Media | Kind::Other => {}
        }
        transmit(&self.link, &self.shared.outlet, to, datagram);
    }

    /// Starts the early repetition of a handshake flight; it ends by itself within half a second.
    fn repeat(&self, flight: u64) {
        let link = Arc::clone(&self.link);
        let outlet = Arc::clone(&self.shared.outlet);
        self.shared.handle.spawn(async move {
            for pause in REPEATS {
                tokio::time::sleep(pause).await;
                let unanswered = link.repeat_flight(flight, |to, datagram| {
                    transmit(&link, &outlet, to, datagram);
                });
                if !unanswered {
                    break;
                }
            }
        });
    }
}

fn transmit(link: &Link, outlet: &Outlet, to: SocketAddr, datagram: &[u8]) {
    if !link.send_tcp(to, datagram) {
        let from = link.paths().local(to);
        outlet.send(to, from, datagram);
    }
}

impl fmt::Debug for VirtualSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualSocket")
            .field("link", &self.link)
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for VirtualSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_send(&self, _cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        self.send(transmit.destination, transmit.contents);
        Poll::Ready(Ok(transmit.contents.len()))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        self.link
            .poll_datagram(self.family, cx.waker(), buffer)
            .map(|(len, from)| {
                meta.addr = from;
                meta.len = len;
                meta.stride = len.max(1);
                Ok(1)
            })
    }
}

/// The runtime of one connection.
pub(super) struct PeerRuntime {
    link: Arc<Link>,
    shared: Shared,
    driver_spawned: AtomicBool,
}

impl PeerRuntime {
    pub(super) fn new(link: Arc<Link>, shared: Shared) -> Self {
        Self {
            link,
            shared,
            driver_spawned: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for PeerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerRuntime")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// Reports a driver that stops by itself, by an error or a panic.
struct DriverEnd(Arc<Link>);

impl Drop for DriverEnd {
    fn drop(&mut self) {
        self.0
            .life()
            .end(EndReason::Failed("the WebRTC driver stopped".to_owned()));
    }
}

struct Task(JoinHandle<()>);

impl runtime::JoinHandle for Task {
    fn detach(&self) {}

    fn abort(&self) {
        self.0.abort();
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// A timer that a nudge ends early.
struct DriverTimer {
    link: Arc<Link>,
    sleep: Pin<Box<Sleep>>,
}

impl Future for DriverTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.link.life().take_nudge(cx.waker()) {
            return Poll::Ready(());
        }
        self.sleep.as_mut().poll(cx)
    }
}

struct Interval(tokio::time::Interval);

impl AsyncInterval for Interval {
    fn tick(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            self.0.tick().await;
        })
    }
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "a publisher's connection uses the shared sockets only",
    ))
}

impl Runtime for PeerRuntime {
    fn spawn(&self, future: Boxed<'static, ()>) -> Box<dyn runtime::JoinHandle> {
        let end = (!self.driver_spawned.swap(true, Ordering::AcqRel))
            .then(|| DriverEnd(Arc::clone(&self.link)));
        Box::new(Task(self.shared.handle.spawn(async move {
            let _end = end;
            future.await;
        })))
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // The socket itself is closed: its port only names the candidate inside the agent.
        let local = socket.local_addr()?;
        Ok(Arc::new(VirtualSocket {
            link: Arc::clone(&self.link),
            shared: self.shared.clone(),
            family: Family::of(local),
            local,
        }))
    }

    fn wrap_tcp_listener(&self, _listener: TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        unsupported()
    }

    fn connect_tcp(&self, _remote: SocketAddr) -> Boxed<'_, io::Result<Arc<dyn AsyncTcpStream>>> {
        Box::pin(async { unsupported() })
    }

    fn resolve_host<'a>(&'a self, _host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { unsupported() })
    }

    fn sleep(&self, duration: Duration) -> Boxed<'static, ()> {
        Box::pin(DriverTimer {
            link: Arc::clone(&self.link),
            sleep: Box::pin(tokio::time::sleep(duration)),
        })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        Box::new(Interval(tokio::time::interval(period)))
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.shared.handle.block_on(future);
    }

    fn name(&self) -> &'static str {
        "whipgate"
    }
}
