//! One kept HTTP/1.1 connection with as little work per answer as can be: thousands of them share the machine with the
//! server they measure. Reads answers with `Content-Length` only, which is all that playlists and media need.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::SocketAddr,
    ops::Range,
};

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
};

/// Longest head of an answer, and what is read at once until it is complete.
const HEAD: usize = 8 * 1024;
/// Longest body that is kept in memory.
const BODY: usize = 16 << 20;
/// What is thrown away at once.
const GULP: usize = 256 * 1024;
/// Linux throws received bytes of a TCP stream away instead of copying them (tcp(7)).
const MSG_TRUNC: i32 = 0x20;

thread_local! {
    /// Where thrown away bytes would go; never written to.
    static VOID: RefCell<Vec<MaybeUninit<u8>>> = RefCell::new(vec![MaybeUninit::uninit(); GULP]);
}

/// Head of an answer whose body is still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) length: usize,
    pub(super) gzip: bool,
}

/// A connection and what was received of the answer in progress.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    head_len: usize,
    etag: Range<usize>,
}

impl Connection {
    pub(super) async fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server)
            .await
            .with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: Vec::new(),
            head_len: 0,
            etag: 0..0,
        })
    }

    /// Sends a request; the one before must have been answered and its body read.
    pub(super) async fn send(&mut self, request: &[u8]) -> Result<()> {
        self.stream
            .write_all(request)
            .await
            .context("cannot send a request")
    }

    /// Reads the head of the answer.
    pub(super) async fn head(&mut self) -> Result<Head> {
        self.received.clear();
        self.received.reserve(HEAD);
        loop {
            let mut limited = (&mut self.stream).take((HEAD - self.received.len()) as u64);
            let count = limited.read_buf(&mut self.received).await?;
            ensure!(count > 0, "the connection was closed before the answer");
            if let Some(at) = memmem::find(&self.received, b"\r\n\r\n") {
                self.head_len = at + 4;
                break;
            }
            ensure!(self.received.len() < HEAD, "the head is too long");
        }
        let (head, etag) = parse(&self.received[..self.head_len])?;
        self.etag = etag;
        Ok(head)
    }

    /// The entity tag of the last head, without anything if there was none.
    pub(super) fn etag(&self) -> &[u8] {
        &self.received[self.etag.clone()]
    }

    /// Reads the body and gives it.
    pub(super) async fn body(&mut self, head: Head) -> Result<&[u8]> {
        ensure!(head.length <= BODY, "a body of {} bytes", head.length);
        let end = self.head_len + head.length;
        while self.received.len() < end {
            let mut limited = (&mut self.stream).take((end - self.received.len()) as u64);
            ensure!(
                limited.read_buf(&mut self.received).await? > 0,
                "the body was cut off"
            );
        }
        ensure!(
            self.received.len() == end,
            "more was sent than Content-Length says"
        );
        Ok(&self.received[self.head_len..])
    }

    /// Receives the body without looking at it.
    pub(super) async fn discard(&mut self, head: Head) -> Result<()> {
        let here = self.received.len() - self.head_len;
        let Some(mut missing) = head.length.checked_sub(here) else {
            bail!("more was sent than Content-Length says");
        };
        while missing > 0 {
            let count = self
                .stream
                .async_io(Interest::READABLE, || throw_away(&self.stream, missing))
                .await?;
            ensure!(count > 0, "the body was cut off");
            missing -= count;
        }
        Ok(())
    }
}

fn throw_away(stream: &TcpStream, most: usize) -> io::Result<usize> {
    VOID.with_borrow_mut(|void| {
        let most = most.min(void.len());
        SockRef::from(stream).recv_with_flags(&mut void[..most], MSG_TRUNC)
    })
}

/// Status, length and where the entity tag is.
fn parse(head: &[u8]) -> Result<(Head, Range<usize>)> {
    let text = std::str::from_utf8(head)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "the head is not text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .with_context(|| format!("not HTTP/1.1: {first:?}"))?;
    let mut at = first.len() + 2;
    let (mut length, mut gzip, mut etag) = (None, false, 0..0);
    for line in lines {
        if let Some((name, value)) = line.split_once(": ") {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok();
            } else if name.eq_ignore_ascii_case("content-encoding") {
                gzip = value == "gzip";
            } else if name.eq_ignore_ascii_case("etag") {
                etag = at + name.len() + 2..at + line.len();
            }
        }
        at += line.len() + 2;
    }
    let length = length.context("an answer without Content-Length")?;
    let head = Head {
        status,
        length,
        gzip,
    };
    Ok((head, etag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn heads_are_read() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\netag: \"a-1\"\r\nContent-Encoding: gzip\r\n\r\n";
        let (head, etag) = parse(text.as_bytes()).unwrap();
        assert_eq!((head.status, head.length, head.gzip), (200, 12, true));
        assert_eq!(text.get(etag), Some("\"a-1\""));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"ICY 200 OK\r\ncontent-length: 1\r\n\r\n").is_err());
    }

    /// Answers each request on one connection with the next of `answers`, in pieces of `piece` bytes.
    async fn server(answers: Vec<Vec<u8>>, piece: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut request = [0; 4];
                stream.read_exact(&mut request).await.unwrap();
                for piece in answer.chunks(piece) {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        address
    }

    fn answer(body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn bodies_are_read_and_thrown_away_to_the_byte() {
        for piece in [7, 5_000, 1 << 20] {
            let body: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
            let answers = vec![answer(&body), answer(b""), answer(&body), answer(b"end")];
            let mut connection = Connection::open(server(answers, piece).await)
                .await
                .unwrap();
            for keep in [false, true, true, true] {
                connection.send(b"next").await.unwrap();
                let head = connection.head().await.unwrap();
                if !keep {
                    assert_eq!(head.length, body.len());
                    connection.discard(head).await.unwrap();
                    continue;
                }
                let got = connection.body(head).await.unwrap();
                assert!(got == body || got.is_empty() || got == b"end");
                assert_eq!(got.len(), head.length);
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_is_an_error() {
        for keep in [false, true] {
            let mut short = answer(&[1; 1_000]);
            short.truncate(500);
            let mut connection = Connection::open(server(vec![short], 100).await)
                .await
                .unwrap();
            connection.send(b"next").await.unwrap();
            let head = connection.head().await.unwrap();
            let outcome = if keep {
                connection.body(head).await.map(drop)
            } else {
                connection.discard(head).await
            };
            assert!(outcome.unwrap_err().to_string().contains("cut off"));
        }
    }
}
