//! One viewer's share of one rendition: blocking reload on one connection and each new part on another, as hls.js does
//! in its low-latency mode over HTTP/1.1.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{connection::Connection, known::Known};

/// Longest wait for one answer; a blocking reload is answered within three target durations.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure, before everything is tried anew.
const RETRY: Duration = Duration::from_millis(500);

/// What all viewers of a run share.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Figures count while this is set; errors always.
    pub(super) measuring: AtomicBool,
    /// Renditions that are followed at this moment.
    pub(super) following: AtomicU64,
    /// Sends everybody away, wherever they are.
    pub(super) over: watch::Sender<bool>,
}

/// What one viewer saw of one rendition.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Age of the newest picture of each part when it was there, in milliseconds.
    pub(super) ages_ms: Vec<f32>,
    pub(super) requests: u64,
    pub(super) parts: u64,
    pub(super) bytes: u64,
    pub(super) errors: u64,
    /// The first of them.
    pub(super) reason: Option<String>,
}

impl Tally {
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.reason.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// What there is to follow.
#[derive(Clone, Debug)]
pub(super) struct Rendition {
    pub(super) server: SocketAddr,
    /// Path of the media playlist's folder, with a slash at its end.
    pub(super) folder: Arc<str>,
    /// The headers that come after the request line, with the empty line at their end.
    pub(super) headers: Arc<str>,
    pub(super) known: Arc<Known>,
    pub(super) run: Arc<Run>,
}

/// The headers Chromium sends with such requests.
pub(super) fn headers(server: SocketAddr) -> Arc<str> {
    format!(
        "Host: {server}\r\nConnection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
         sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nAccept: */*\r\n\
         Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\
         Referer: http://{server}/watch/load\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\r\n"
    )
    .into()
}

impl Rendition {
    /// Follows the live edge until the run is over, and over failures.
    pub(super) async fn follow(&self) -> Tally {
        let mut tally = Tally::default();
        let mut over = self.run.over.subscribe();
        while !*over.borrow() {
            let outcome = tokio::select! {
                outcome = self.try_follow(&mut tally) => outcome,
                _ = over.wait_for(|over| *over) => break,
            };
            let Err(error) = outcome else { break };
            tally.failed(&error);
            // The run may end meanwhile.
            drop(timeout(RETRY, over.wait_for(|over| *over)).await);
        }
        tally
    }

    /// Until the playlist ends.
    async fn try_follow(&self, tally: &mut Tally) -> Result<()> {
        let mut playlists = Connection::open(self.server).await?;
        let mut media = Connection::open(self.server).await?;
        let folder = &self.folder;
        let mut next = None;
        let mut parts: Vec<String> = Vec::new();
        let _following = Following::new(&self.run);
        loop {
            let query = match next {
                None => String::new(),
                Some((msn, part)) => format!("?_HLS_msn={msn}&_HLS_part={part}&_HLS_skip=YES"),
            };
            self.ask(&mut playlists, &format!("{folder}index.m3u8{query}"))
                .await?;
            for part in parts.drain(..) {
                timeout(PATIENCE, self.part(&mut media, &part, tally))
                    .await
                    .with_context(|| format!("{part} did not come"))??;
            }
            let listed = timeout(PATIENCE, self.playlist(&mut playlists, tally))
                .await
                .context("a playlist did not come")??;
            let playlist = &listed.playlist;
            if playlist.ended {
                return Ok(());
            }
            if let Some(next) = next {
                let fresh = playlist
                    .parts
                    .iter()
                    .filter(|p| (p.msn, p.index) >= next && !p.uri.is_empty());
                parts.extend(fresh.map(|part| part.uri.clone()));
                ensure!(
                    !parts.is_empty(),
                    "a blocking reload came without the part asked for"
                );
            } else if let Some(map) = &playlist.map {
                parts.push(map.clone());
            }
            next = Some(playlist.next());
        }
    }

    async fn ask(&self, connection: &mut Connection, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\n{}", self.headers);
        connection.send(request.as_bytes()).await
    }

    async fn playlist(
        &self,
        connection: &mut Connection,
        tally: &mut Tally,
    ) -> Result<Arc<super::known::Listed>> {
        let head = connection.head().await?;
        ensure!(head.status == 200, "a playlist answered {}", head.status);
        let known = self.known.playlist(connection.etag());
        let listed = if let Some(listed) = known {
            connection.discard(head).await?;
            listed
        } else {
            let etag = connection.etag().to_vec();
            let body = connection.body(head).await?;
            self.known.add_playlist(&etag, head.gzip, body)?
        };
        ensure!(
            listed.length == head.length,
            "one entity tag for two playlists"
        );
        self.count(tally, head.length);
        Ok(listed)
    }

    async fn part(&self, connection: &mut Connection, uri: &str, tally: &mut Tally) -> Result<()> {
        self.ask(connection, &format!("{}{uri}", self.folder))
            .await?;
        let head = connection.head().await?;
        ensure!(head.status == 200, "{uri} answered {}", head.status);
        let measured = if let Some(measured) = self.known.part(uri) {
            connection.discard(head).await?;
            measured
        } else {
            let body = connection.body(head).await?;
            self.known.add_part(uri, body)
        };
        let now = SystemTime::now();
        ensure!(
            measured.length == head.length,
            "{uri} came in two lengths: {} and {}",
            measured.length,
            head.length
        );
        ensure!(
            measured.foreign == 0,
            "{uri} has pictures of another session"
        );
        if self.count(tally, head.length) {
            tally.parts += 1;
            if let Some(newest) = measured.newest {
                tally
                    .ages_ms
                    .push(newest.age(now).as_secs_f64() as f32 * 1e3);
            }
        }
        Ok(())
    }

    fn count(&self, tally: &mut Tally, bytes: usize) -> bool {
        let measuring = self.run.measuring.load(Ordering::Relaxed);
        if measuring {
            tally.requests += 1;
            tally.bytes += bytes as u64;
        }
        measuring
    }

    /// Asks for files `0.m3u8`, `0.mp4`, `1.m3u8` and so on of a folder in turn, `count` of each, two at each tick: what a
    /// server of files has to do for the same traffic. The age of a part is the time since its tick.
    pub(super) async fn fetch(&self, ticks: Ticks) -> Tally {
        let mut tally = Tally::default();
        let mut over = self.run.over.subscribe();
        while !*over.borrow() {
            let outcome = tokio::select! {
                outcome = self.try_fetch(ticks, &mut tally) => outcome,
                _ = over.wait_for(|over| *over) => break,
            };
            let Err(error) = outcome else { break };
            tally.failed(&error);
            // The run may end meanwhile.
            drop(timeout(RETRY, over.wait_for(|over| *over)).await);
        }
        tally
    }

    async fn try_fetch(&self, ticks: Ticks, tally: &mut Tally) -> Result<()> {
        let mut playlists = Connection::open(self.server).await?;
        let mut media = Connection::open(self.server).await?;
        let folder = &self.folder;
        let _following = Following::new(&self.run);
        let mut tick = ticks.next();
        loop {
            let due = ticks.at(tick);
            tokio::time::sleep_until(due).await;
            let number = tick % u64::from(ticks.count);
            for (connection, path) in [
                (&mut playlists, format!("{folder}{number}.m3u8")),
                (&mut media, format!("{folder}{number}.mp4")),
            ] {
                let answer = async {
                    self.ask(connection, &path).await?;
                    let head = connection.head().await?;
                    ensure!(head.status == 200, "{path} answered {}", head.status);
                    connection.discard(head).await?;
                    Ok(head.length)
                };
                let length = timeout(PATIENCE, answer)
                    .await
                    .with_context(|| format!("{path} did not come"))??;
                self.count(tally, length);
            }
            if self.run.measuring.load(Ordering::Relaxed) {
                tally.parts += 1;
                tally.ages_ms.push(due.elapsed().as_secs_f64() as f32 * 1e3);
            }
            // Whoever is late takes the next one that is not over yet.
            tick = ticks.next().max(tick + 1);
        }
    }
}

/// The times at which files are asked for, the same for all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    pub(super) start: Instant,
    pub(super) every: Duration,
    /// How many files there are of each kind.
    pub(super) count: u32,
}

impl Ticks {
    fn at(&self, tick: u64) -> Instant {
        self.start + self.every.mul_f64(tick as f64)
    }

    fn next(&self) -> u64 {
        (self.start.elapsed().as_secs_f64() / self.every.as_secs_f64()) as u64 + 1
    }
}

struct Following<'a>(&'a Run);

impl<'a> Following<'a> {
    fn new(run: &'a Run) -> Self {
        run.following.fetch_add(1, Ordering::Relaxed);
        Self(run)
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.following.fetch_sub(1, Ordering::Relaxed);
    }
}
