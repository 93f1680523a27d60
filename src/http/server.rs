//! The listener: sockets, TLS, limits of connections, and its end.
//!
//! Binding and running are two steps, so that the gateway knows its ports, and fails, before it starts anything.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    num::NonZero,
    thread,
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::ServerHandle as ActixHandle,
    http::KeepAlive,
    middleware::from_fn,
    web::{self, ServiceConfig},
};
use socket2::{Domain, Socket, Type};

use super::{AppState, configure, observe, tls};
use crate::config::Config;

/// Longer than players take between two requests of a playlist, shorter than most proxies keep a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long requests in progress may go on after a stop; the longest wait for media is shorter.
const SHUTDOWN_SECONDS: u64 = 5;

/// Connections that wait to be accepted: viewers come in crowds.
const BACKLOG: i32 = 4096;

/// Why the listener cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another program has the port.
    #[error(
        "cannot listen on {address}: another program uses this port. End it, or choose another one: \
         http.listen (find the program with: ss -ltnp 'sport = :{port}')", port = address.port()
    )]
    AddressInUse {
        /// What `http.listen` says.
        address: SocketAddr,
    },
    /// The address is not one of this machine's.
    #[error(
        "cannot listen on {address}: this machine has no such address. Set http.listen to one of its own, or to \
         0.0.0.0 for all"
    )]
    AddressNotAvailable {
        /// What `http.listen` says.
        address: SocketAddr,
    },
    /// Not permitted, mostly a port below 1024.
    #[error(
        "cannot listen on {address}: not permitted. Ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose a \
         higher one with http.listen"
    )]
    NotPermitted {
        /// What `http.listen` says.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// What `http.listen` says.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// It ended by an error.
    #[error("the HTTP server failed: {0}")]
    Run(io::Error),
}

impl ServerError {
    pub(crate) fn listen(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { address },
            io::ErrorKind::AddrNotAvailable => Self::AddressNotAvailable { address },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address },
            _ => Self::Listen { address, source },
        }
    }
}

/// A bound listener that answers once it runs.
pub struct Server {
    running: actix_web::dev::Server,
    addresses: Vec<SocketAddr>,
    https: bool,
}

/// Ends a [`Server`] from anywhere.
#[derive(Clone, Debug)]
pub struct ServerHandle(ActixHandle);

impl ServerHandle {
    /// Accepts nothing new and gives requests in progress some seconds to end; returns when they have.
    pub async fn stop(&self) {
        self.0.stop(true).await;
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("https", &self.https)
            .finish_non_exhaustive()
    }
}

/// A listener whose connections inherit their options from it.
///
/// actix-web waits for a client to take its answer for ever. The kernel does not: a connection on which nothing that was
/// sent is acknowledged, or nothing can be sent because the client reads nothing, ends after the user timeout (tcp(7)).
fn listen(address: SocketAddr, write_timeout: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_user_timeout(Some(write_timeout))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Server {
    /// Binds `http.listen`. `routes` adds what is not this module's: the WHIP endpoint, pages. Signals stay with the
    /// caller.
    ///
    /// # Errors
    /// [`ServerError`], which names the address and the way out.
    pub fn bind<R>(config: &Config, state: AppState, routes: R) -> Result<Self, ServerError>
    where
        R: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        tls::install_crypto_provider();
        let state = web::Data::new(state);
        let app = move || {
            let state = state.clone();
            let routes = routes.clone();
            App::new()
                .app_data(state.clone())
                .wrap(from_fn(observe::observe))
                .configure(move |cfg| {
                    configure(cfg, &state);
                    routes(cfg);
                })
        };
        let workers = thread::available_parallelism().map_or(2, NonZero::get);
        let limits = &config.limits;
        let server = HttpServer::new(app)
            .workers(workers)
            .max_connections(limits.connections.div_ceil(workers))
            .client_request_timeout(limits.header_timeout)
            .client_disconnect_timeout(Duration::from_secs(1))
            .tls_handshake_timeout(limits.header_timeout)
            .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
            // Parts are small and urgent.
            .tcp_nodelay(true)
            // A viewer that goes away must not be waited for.
            .h1_allow_half_closed(false)
            .shutdown_timeout(SHUTDOWN_SECONDS)
            .disable_signals();
        let address = config.http.listen;
        let failed = |source| ServerError::listen(address, source);
        let tls = match (&config.http.tls_certificate, &config.http.tls_key) {
            (Some(certificate), Some(key)) => Some(tls::server_config(certificate, key)?),
            _ => None,
        };
        let https = tls.is_some();
        let listener = listen(address, limits.write_timeout).map_err(failed)?;
        let server = match tls {
            Some(tls) => server.listen_rustls_0_23(listener, tls),
            None => server.listen(listener),
        }
        .map_err(failed)?;
        let addresses = server.addrs();
        Ok(Self {
            running: server.run(),
            addresses,
            https,
        })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// A handle that ends it.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(self.running.handle())
    }

    /// Answers until a handle stops it.
    ///
    /// # Errors
    /// [`ServerError::Run`].
    pub async fn run(self) -> Result<(), ServerError> {
        self.running.await.map_err(ServerError::Run)
    }
}
