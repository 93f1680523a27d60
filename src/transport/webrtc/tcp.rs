//! ICE-TCP (RFC 6544): publishers whose network blocks UDP connect here.
//!
//! Owns the listener and its connections, each framed by RFC 4571. A connection belongs to nobody until its first
//! frame is a genuine binding request; from then on its frames go the same way as datagrams, and the ICE agent takes
//! the connection for one more remote address.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
};

use super::{
    link::Link,
    routes::Routes,
    stun::{self, Stun},
};

/// Connections at a time, of all publishers and of strangers.
const CONNECTIONS: usize = 512;

/// Time a connection has to show whose it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Frames that may wait to be written; beyond that they are dropped.
const QUEUE: usize = 256;

/// A peer that takes longer than this for one frame of ours is gone.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// Largest frame that is read: more than any path carries in one packet.
const FRAME: usize = 8192;

/// Pause after a failed accept (out of file descriptors, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds the listener; an IPv6 wildcard takes IPv4 as well.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, routes: Arc<Routes>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                let routes = Arc::clone(&routes);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, from, &routes).await {
                        tracing::debug!(%from, %error, "ICE-TCP connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an ICE-TCP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, from: SocketAddr, routes: &Routes) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let mut read = BufReader::with_capacity(16 * 1024, read);
    let mut frame = vec![0; FRAME];
    let introduction = read_frame(&mut read, &mut frame);
    let length = tokio::time::timeout(INTRODUCTION, introduction)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no binding request came"))??;
    let first = frame.get(..length).unwrap_or_default();
    let Some(Stun::Request {
        to,
        nominates,
        transaction,
    }) = stun::read(first)
    else {
        return Err(invalid("the first frame is no binding request"));
    };
    let (link, request) = routes
        .authenticate(to, from, transaction, first)
        .ok_or_else(|| invalid("the binding request is for nobody here"))?;
    let (out, queue) = mpsc::channel(QUEUE);
    if !link.add_tcp(from, out) {
        return Err(invalid("the peer has too many connections or is gone"));
    }
    link.deliver_request(from, &request, nominates);
    let writer = tokio::spawn(write_frames(write, queue));
    let result = tokio::select! {
        result = read_frames(&mut read, &mut frame, from, &link, routes) => result,
        // Frames that were queued before, the DTLS close_notify above all, are the writer's to finish.
        () = link.life().stopped() => Ok(()),
    };
    if !link.life().is_over() {
        link.remove_tcp(from);
    }
    // Ends when the link has let go of the queue, or when the peer does not read any more.
    let _writer_panicked = writer.await;
    result
}

async fn read_frames(
    read: &mut BufReader<OwnedReadHalf>,
    frame: &mut [u8],
    from: SocketAddr,
    link: &Link,
    routes: &Routes,
) -> io::Result<()> {
    loop {
        let length = read_frame(read, frame).await?;
        let datagram = frame.get(..length).unwrap_or_default();
        match stun::read(datagram) {
            Some(Stun::Request {
                to,
                nominates,
                transaction,
            }) => {
                if let Some((holder, request)) =
                    routes.authenticate(to, from, transaction, datagram)
                    && std::ptr::eq(Arc::as_ptr(&holder), link)
                {
                    link.deliver_request(from, &request, nominates);
                }
            }
            Some(Stun::Response { transaction }) => {
                if routes.take_transaction(transaction).is_some()
                    && let Some(response) = routes.translate_response(link, transaction, datagram)
                {
                    link.deliver_response(from, &response);
                }
            }
            None => link.deliver(from, datagram),
        }
    }
}

/// Reads one frame: a length of two bytes and as many bytes (RFC 4571 section 2).
async fn read_frame(read: &mut BufReader<OwnedReadHalf>, frame: &mut [u8]) -> io::Result<usize> {
    let length = usize::from(read.read_u16().await?);
    let room = frame
        .get_mut(..length)
        .ok_or_else(|| invalid("a frame is too long"))?;
    read.read_exact(room).await?;
    Ok(length)
}

async fn write_frames(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    let mut bytes = Vec::new();
    while let Some(datagram) = queue.recv().await {
        let Ok(length) = u16::try_from(datagram.len()) else {
            continue;
        };
        bytes.clear();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&datagram);
        let written = tokio::time::timeout(WRITE_TIME, write.write_all(&bytes)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
    let _already_closed = write.shutdown().await;
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
