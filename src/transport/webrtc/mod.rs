//! The WebRTC stack: [`WebRtc`], a [`Connector`] on the `webrtc` crate with one UDP port and one TCP port for all
//! publishers.
//!
//! Owns the sockets, the thread they and all connections run on, and every connection until its end; alone names
//! `webrtc` and `rtc`. It must not know sessions, pipelines or HTTP.
//!
//! ```text
//! UDP port ---> udp::read ---+                             +---> inbox ---> driver (webrtc) ---> Receiver ---> observer
//!                            +---> Routes ---> Link of the |                    |
//! TCP port ---> tcp::accept -+     (ufrag, address) peer   +<--- virtual socket +
//! ```

mod answer;
mod candidates;
mod handshake;
mod inbox;
mod life;
mod link;
mod nack;
mod paths;
mod peer;
mod receiver;
mod restart;
mod resync;
mod routes;
mod socket;
mod stun;
mod tcp;
mod udp;

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

pub use self::candidates::PublicAddress;
use self::{
    candidates::Candidates, link::Link, peer::Families, routes::Routes, socket::Shared, udp::Outlet,
};
use super::{
    Accepted, BoxFuture, Connector, EndReason, IceCredentials, PeerObserver, PublishError,
    offer::Offer,
};
use crate::media::Codec;

/// How often silent peers are looked for.
const SWEEP: Duration = Duration::from_millis(250);

/// Time all peers together have for their farewell at [`WebRtc::shutdown`].
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Settings of [`WebRtc::bind`].
#[derive(Clone, Debug)]
pub struct WebRtcConfig {
    /// The UDP address of all publishers. A wildcard is offered as the addresses of all interfaces; an IPv6 wildcard
    /// takes IPv4 as well; port 0 lets the system choose.
    pub listen_udp: SocketAddr,
    /// The TCP address for publishers whose network blocks UDP (RFC 6544); `None`: no ICE-TCP.
    pub listen_tcp: Option<SocketAddr>,
    /// Addresses that publishers are told instead of the ones listened on (NAT 1:1, containers), best first.
    pub public_addresses: Vec<PublicAddress>,
    /// Video codecs to take, the preferred one first. Opus is always taken.
    pub video_codecs: Vec<Codec>,
    /// Codecs to take from publishers that offer none of the others, because their media is transcoded; the preferred
    /// one first.
    pub transcoded_codecs: Vec<Codec>,
    /// A peer from which nothing genuine came for this time (media, reports, connectivity checks) has ended.
    pub silence_limit: Duration,
}

impl Default for WebRtcConfig {
    /// Loopback with ports of the system's choice, no ICE-TCP, all video codecs, 30 s of silence (RFC 7675 section 5.1).
    fn default() -> Self {
        Self {
            listen_udp: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            listen_tcp: None,
            public_addresses: Vec::new(),
            video_codecs: vec![Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9],
            transcoded_codecs: Vec::new(),
            silence_limit: Duration::from_secs(30),
        }
    }
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The UDP address is taken.
    #[error(
        "cannot receive WebRTC media on UDP {address}: the port is in use; \
         stop the other program or set webrtc.listen_udp to another port"
    )]
    UdpInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The UDP address cannot be bound for another reason.
    #[error(
        "cannot receive WebRTC media on UDP {address}: {source}; \
         set webrtc.listen_udp to an address of this machine"
    )]
    Udp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The TCP address is taken.
    #[error(
        "cannot listen for ICE-TCP on TCP {address}: the port is in use; \
         stop the other program or set webrtc.listen_tcp to another port"
    )]
    TcpInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The TCP address cannot be bound for another reason.
    #[error(
        "cannot listen for ICE-TCP on TCP {address}: {source}; \
         set webrtc.listen_tcp to an address of this machine"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The engine's thread could not be started.
    #[error("cannot start the WebRTC thread: {0}")]
    Thread(#[source] io::Error),
    /// No cryptography is built in.
    #[error("WebRTC has no cryptography: {0}")]
    Crypto(String),
}

fn udp_error(address: SocketAddr, source: io::Error) -> BindError {
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::UdpInUse { address }
    } else {
        BindError::Udp { address, source }
    }
}

fn tcp_error(address: SocketAddr, source: io::Error) -> BindError {
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::TcpInUse { address }
    } else {
        BindError::Tcp { address, source }
    }
}

/// The WebRTC engine. One thread of its own reads the sockets and drives all connections, so that media neither waits
/// for HTTP nor wanders between cores.
pub struct WebRtc {
    config: WebRtcConfig,
    udp: SocketAddr,
    tcp: Option<SocketAddr>,
    /// Gone after the shutdown: what is shared holds the UDP socket.
    shared: Mutex<Option<Shared>>,
    closing: CancellationToken,
    thread_ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl WebRtc {
    /// Binds the sockets and starts the engine.
    ///
    /// # Errors
    ///
    /// A [`BindError`] that names the address and the way out.
    pub async fn bind(config: WebRtcConfig) -> Result<Arc<Self>, BindError> {
        let crypto = rtc::crypto::default_provider()
            .map_err(|error| BindError::Crypto(error.to_string()))?;
        let udp_socket =
            udp::bind(config.listen_udp).map_err(|error| udp_error(config.listen_udp, error))?;
        let udp = udp_socket
            .local_addr()
            .map_err(|error| udp_error(config.listen_udp, error))?;
        let tcp_socket = config
            .listen_tcp
            .map(|address| {
                tcp::bind(address)
                    .and_then(|socket| Ok((socket.local_addr()?, socket)))
                    .map_err(|error| tcp_error(address, error))
            })
            .transpose()?;
        let (tcp, tcp_socket) = tcp_socket.unzip();

        let closing = CancellationToken::new();
        let routes = Arc::new(Routes::new(crypto));
        let (started, starting) = oneshot::channel();
        let (ended, ending) = oneshot::channel();
        let engine = Engine {
            routes,
            silence_limit: config.silence_limit,
            closing: closing.clone(),
        };
        std::thread::Builder::new()
            .name("whipgate-webrtc".to_owned())
            .spawn(move || {
                engine.run(udp_socket, tcp_socket, started);
                let _nobody_waits = ended.send(());
            })
            .map_err(BindError::Thread)?;
        let shared = starting
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))
            .map_err(BindError::Thread)?;
        tracing::info!(%udp, tcp = tcp.map(tracing::field::display), "WebRTC ready");
        Ok(Arc::new(Self {
            config,
            udp,
            tcp,
            shared: Mutex::new(Some(shared)),
            closing,
            thread_ended: Mutex::new(Some(ending)),
        }))
    }

    /// The UDP address that is bound.
    pub fn local_udp_addr(&self) -> SocketAddr {
        self.udp
    }

    /// The TCP address that is bound, if ICE-TCP is on.
    pub fn local_tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Says goodbye to all publishers (DTLS `close_notify`), frees the sockets and ends the thread. Takes a few
    /// milliseconds, at most about 3 s. Offers are refused from now on.
    pub async fn shutdown(&self) {
        self.closing.cancel();
        let _socket = lock(&self.shared).take();
        let ending = lock(&self.thread_ended).take();
        if let Some(ending) = ending {
            let _thread_gone = ending.await;
        }
    }

    async fn answer(
        &self,
        offer: &str,
        observer: Arc<dyn PeerObserver>,
    ) -> Result<Accepted, PublishError> {
        let Some(shared) = lock(&self.shared).clone() else {
            return Err(shutting_down());
        };
        let codecs: Vec<_> = self
            .config
            .video_codecs
            .iter()
            .chain(&self.config.transcoded_codecs)
            .copied()
            .collect();
        let offer = Offer::parse(offer, &codecs)?;
        let ice = new_credentials();
        let candidates = Candidates::new(
            self.udp,
            self.tcp,
            &self.config.public_addresses,
            candidates::interfaces,
        );
        let link = Arc::new(Link::new(ice.clone(), observer));
        if !shared.routes.insert(Arc::clone(&link)) {
            return Err(PublishError::internal("two peers have one name"));
        }
        let mut registered = Registered {
            link: Arc::clone(&link),
            routes: Arc::clone(&shared.routes),
            started: false,
        };
        let families = Families {
            ipv4: self.udp.is_ipv4() || self.udp.ip().is_unspecified(),
            ipv6: self.udp.is_ipv6(),
        };
        let handle = shared.handle.clone();
        let offered = candidates.clone();
        let negotiation = handle.spawn(async move {
            let started = Box::pin(peer::start(&offer, link, shared, families, offered)).await?;
            Ok::<_, PublishError>((offer, started))
        });
        let (offer, started) = negotiation.await.map_err(|error| {
            if self.closing.is_cancelled() {
                shutting_down()
            } else {
                PublishError::internal(error)
            }
        })??;
        registered.started = true;
        let session = rand::random::<u64>() >> 2;
        Ok(Accepted {
            answer: answer::answer(&offer, &ice, &started.fingerprint, &candidates, session),
            ice,
            tracks: offer.tracks.into_iter().map(|track| track.info).collect(),
            peer: started.peer,
        })
    }
}

/// Credentials of ours for a new ICE session.
fn new_credentials() -> IceCredentials {
    IceCredentials {
        ufrag: format!("{:016x}", rand::random::<u64>()),
        pwd: format!("{:032x}", rand::random::<u128>()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shutting_down() -> PublishError {
    PublishError::Unavailable("the gateway is shutting down".to_owned())
}

/// Forgets a peer whose negotiation did not come to an end.
struct Registered {
    link: Arc<Link>,
    routes: Arc<Routes>,
    started: bool,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !self.started {
            self.link.life().stop();
            self.routes.remove(&self.link);
        }
    }
}

impl Connector for WebRtc {
    fn accept<'a>(
        &'a self,
        offer: &'a str,
        observer: Arc<dyn PeerObserver>,
    ) -> BoxFuture<'a, Result<Accepted, PublishError>> {
        Box::pin(self.answer(offer, observer))
    }
}

impl Drop for WebRtc {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl fmt::Debug for WebRtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRtc")
            .field("udp", &self.udp)
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

/// What the engine's thread runs.
struct Engine {
    routes: Arc<Routes>,
    silence_limit: Duration,
    closing: CancellationToken,
}

impl Engine {
    /// Runs until the engine closes. Dropping the runtime at the end drops every task and socket.
    fn run(
        self,
        udp: std::net::UdpSocket,
        tcp: Option<std::net::TcpListener>,
        started: oneshot::Sender<io::Result<Shared>>,
    ) {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                let _nobody_waits = started.send(Err(error));
                return;
            }
        };
        runtime.block_on(async move {
            match self.start(udp, tcp) {
                Ok(shared) => {
                    let _nobody_waits = started.send(Ok(shared));
                }
                Err(error) => {
                    let _nobody_waits = started.send(Err(error));
                    return;
                }
            }
            self.sweep().await;
            self.close_all().await;
        });
    }

    /// Starts the readers.
    fn start(
        &self,
        udp: std::net::UdpSocket,
        tcp: Option<std::net::TcpListener>,
    ) -> io::Result<Shared> {
        let outlet = Arc::new(Outlet::new(udp)?);
        if let Some(tcp) = tcp {
            let listener = TcpListener::from_std(tcp)?;
            tokio::spawn(tcp::accept(listener, Arc::clone(&self.routes)));
        }
        let reader = udp::read(Arc::clone(&outlet), Arc::clone(&self.routes));
        tokio::spawn(async move {
            if let Err(error) = reader.await {
                tracing::error!(%error, "the UDP port cannot be read any more");
            }
        });
        Ok(Shared {
            routes: Arc::clone(&self.routes),
            outlet,
            handle: Handle::current(),
        })
    }

    /// Ends silent peers until the engine closes.
    async fn sweep(&self) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.closing.cancelled() => return,
            }
            let now = Instant::now();
            for link in self.routes.links() {
                if link.life().silence(now) >= self.silence_limit {
                    link.life().end(EndReason::TimedOut);
                }
            }
        }
    }

    /// Says goodbye to every peer and waits until they are gone.
    async fn close_all(&self) {
        let deadline = tokio::time::Instant::now() + SHUTDOWN;
        loop {
            let links = self.routes.links();
            if links.is_empty() || tokio::time::Instant::now() >= deadline {
                return;
            }
            for link in links {
                link.life().stop();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
