//! As much of an HTTP/1.1 server as the stand-ins of tests need: one request per connection, no keep-alive.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest request that is read.
const LIMIT: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A request, read completely.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method, in capitals.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Lower-case names with values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads one request.
    pub async fn read(stream: &mut TcpStream) -> Result<Self> {
        tokio::time::timeout(TIMEOUT, Self::read_all(stream))
            .await
            .context("the request took too long")?
    }

    async fn read_all(stream: &mut TcpStream) -> Result<Self> {
        let mut received = Vec::new();
        let head_len = loop {
            if let Some(at) = memchr::memmem::find(&received, b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(received.len() < LIMIT, "the request is too long");
            ensure!(
                stream.read_buf(&mut received).await? > 0,
                "the connection closed before the request was complete"
            );
        };
        let head =
            String::from_utf8(received[..head_len].to_vec()).context("the request is not text")?;
        let mut lines = head.lines();
        let mut first = lines.next().context("an empty request")?.split(' ');
        let method = first.next().context("no method")?.to_owned();
        let path = first.next().context("no path")?.to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request = Self {
            method,
            path,
            headers,
            body: Vec::new(),
        };
        let len: usize = request
            .header("content-length")
            .map_or(Ok(0), str::parse)
            .context("bad Content-Length")?;
        ensure!(len < LIMIT, "the body is too long");
        while received.len() < head_len + len {
            ensure!(
                stream.read_buf(&mut received).await? > 0,
                "the connection closed before the body was complete"
            );
        }
        request.body = received[head_len..head_len + len].to_vec();
        Ok(request)
    }
}

/// Answers and closes.
pub async fn respond(
    mut stream: TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<()> {
    let mut head = format!(
        "HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await.map_err(Into::into)
}
