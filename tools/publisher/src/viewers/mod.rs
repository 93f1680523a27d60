//! Many viewers of low-latency HLS: what they cost the gateway, and how old the pictures are when they have them.
//!
//! For each case a fresh gateway, publishers, a part without viewers (whose CPU time is taken off later), then the viewers
//! and a part in which everything is measured. Viewers decode nothing and share what they find out (`known`).

mod connection;
mod figures;
mod files;
mod known;
mod viewer;

use std::{
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinSet,
};

pub use self::figures::{Row, Served, table};
use self::{
    connection::Connection,
    figures::{Measured, Window, figures},
    files::FileServer,
    known::{Kept, Known},
    viewer::{Rendition, Run, Tally, Ticks, headers},
};
use crate::{
    clip::{AudioClipSpec, Clip, ClipSpec},
    gateway::Gateway,
    process::{self, Usage},
    publisher::{AudioSource, PublishOptions, Publisher, VideoSource},
    watch::{audio_rendition, first_variant},
};

/// Longest wait for playlists, for viewers to be there, and for nobody to wait any more.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between the last start and a measurement.
const SETTLE: Duration = Duration::from_secs(3);

/// So many viewers of each of so many streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Streams, each with its own publisher.
    pub streams: u32,
    /// Viewers of each.
    pub viewers: u32,
}

/// `60x10`: streams, then viewers of each.
impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('x')
            .and_then(|(streams, viewers)| {
                Some(Self {
                    streams: streams.parse().ok()?,
                    viewers: viewers.parse().ok()?,
                })
            })
            .filter(|case| case.streams > 0 && case.viewers > 0)
            .ok_or_else(|| {
                "expected streams x viewers of each, both at least 1, as 60x10".to_owned()
            })
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct ViewersOptions {
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// Further arguments for it.
    pub arguments: Vec<String>,
    /// One row of the table each.
    pub cases: Vec<Case>,
    /// Runs per row; the table has their medians.
    pub runs: u32,
    /// Length of the part without viewers.
    pub steady: Duration,
    /// Length of the part that is measured.
    pub watch: Duration,
    /// From the start of one viewer to that of the next.
    pub ramp: Duration,
    /// Viewers leave the sound out.
    pub video_only: bool,
    /// Measure nginx with the same bytes, too.
    pub beside_nginx: bool,
    /// The picture.
    pub video: ClipSpec,
}

/// Measures all cases; says on the log how far it is.
pub async fn viewers(options: &ViewersOptions) -> Result<Vec<Row>> {
    // A runtime of their own: publishers must not wait for viewers.
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("viewers")
        .enable_all()
        .build()
        .context("cannot start the viewers' runtime")?;
    let rows = all(options, runtime.handle()).await;
    Runtime::shutdown_background(runtime);
    rows
}

async fn all(options: &ViewersOptions, handle: &Handle) -> Result<Vec<Row>> {
    let spec = options.video;
    tokio::task::spawn_blocking(move || {
        Clip::video(&spec)?;
        Clip::audio(&AudioClipSpec::default())
    })
    .await??;
    let mut rows = Vec::new();
    for case in &options.cases {
        let mut row = Row {
            case: *case,
            gateway: Vec::new(),
            nginx: Vec::new(),
        };
        for number in 1..=options.runs {
            tracing::info!(
                "{} streams with {} viewers each, run {number} of {}",
                case.streams,
                case.viewers,
                options.runs
            );
            let (served, kept) = by_gateway(options, *case, handle).await?;
            row.gateway.push(served);
            if options.beside_nginx {
                row.nginx
                    .push(by_nginx(options, *case, &kept, handle).await?);
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

async fn by_gateway(
    options: &ViewersOptions,
    case: Case,
    handle: &Handle,
) -> Result<(Served, Vec<(String, Kept)>)> {
    let mut gateway = Gateway::start(&options.gateway, &options.arguments)?;
    gateway.wait_ready().await?;
    let outcome = watch_gateway(options, case, handle, &gateway).await;
    match outcome {
        Ok(figures) if !gateway.has_ended()? => Ok(figures),
        outcome => {
            let text = outcome.map_or_else(
                |error| format!("{error:#}"),
                |_| "the gateway ended during the run".to_owned(),
            );
            bail!(
                "{text}\nthe gateway's last words:\n{}",
                gateway.last_words()
            );
        }
    }
}

async fn watch_gateway(
    options: &ViewersOptions,
    case: Case,
    handle: &Handle,
    gateway: &Gateway,
) -> Result<(Served, Vec<(String, Kept)>)> {
    let server = gateway
        .base()
        .socket_addrs(|| None)?
        .first()
        .copied()
        .context("the gateway has no address")?;
    let mut publishers = Vec::new();
    for number in 0..case.streams {
        let publish = PublishOptions {
            url: gateway
                .base()
                .join(&format!("whip/{}", stream(number)))?
                .into(),
            video: Some(VideoSource::Clip(options.video)),
            audio: Some(AudioSource::default()),
            stamp: Some(number),
            ..PublishOptions::default()
        };
        publishers.push(Publisher::start(publish).await?);
    }
    let run = Arc::new(Run::default());
    let mut streams = Vec::new();
    for number in 0..case.streams {
        let deadline = Instant::now() + PATIENCE;
        let found = loop {
            match renditions(server, number, &run, options).await {
                Ok(found) => break found,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context("no playlist in time"));
                }
                // The stream may not have begun yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        streams.push(found);
    }
    tokio::time::sleep(SETTLE).await;
    let usage = || process::usage(gateway.pid());
    let before = Window::open(&usage)?;
    tokio::time::sleep(options.steady).await;
    let before = before.close(&usage)?;

    let viewers = (0..case.viewers).flat_map(|_| &streams);
    let mut following = JoinSet::new();
    for viewer in viewers {
        for rendition in viewer.clone() {
            following.spawn_on(async move { rendition.follow().await }, handle);
        }
        tokio::time::sleep(options.ramp).await;
    }
    let measured = measure(options, &run, &following, &usage).await?;
    let tally = sum(&run, following).await?;
    let mut served = figures(options, case, tally, &before, &measured);
    served.waiters_left = Some(waiters_left(server).await?);
    for publisher in publishers {
        publisher.stop().await?;
    }
    let kept = streams[0]
        .iter()
        .map(|rendition| (name(&rendition.folder), rendition.known.kept()))
        .collect();
    Ok((served, kept))
}

async fn by_nginx(
    options: &ViewersOptions,
    case: Case,
    kept: &[(String, Kept)],
    handle: &Handle,
) -> Result<Served> {
    let files = FileServer::start(kept).await?;
    let usage = || files.usage();
    let before = Window::open(&usage)?.close(&usage)?;
    let run = Arc::new(Run::default());
    let start = tokio::time::Instant::now();
    let mut following = JoinSet::new();
    for viewer in 0..case.viewers * case.streams {
        let stream = viewer % case.streams;
        for (index, (name, kept)) in kept.iter().enumerate() {
            let count = kept.playlists.len().min(kept.parts.len());
            let count = u32::try_from(count)?;
            ensure!(count > 1, "too little was kept of {name}");
            let every = Duration::from_millis(200);
            // Streams and renditions do not come at the same moment; with the gateway neither do they.
            let shift = f64::from(stream) / f64::from(case.streams) + 0.5 * index as f64;
            let ticks = Ticks {
                start: start + every.mul_f64(shift % 1.0),
                every,
                count,
            };
            let server = files.address();
            let rendition = Rendition {
                server,
                folder: format!("/{name}/").into(),
                headers: headers(server),
                known: Arc::new(Known::new(0, false)),
                run: Arc::clone(&run),
            };
            following.spawn_on(async move { rendition.fetch(ticks).await }, handle);
        }
        tokio::time::sleep(options.ramp).await;
    }
    let measured = measure(options, &run, &following, &usage).await?;
    let tally = sum(&run, following).await?;
    Ok(figures(options, case, tally, &before, &measured))
}

/// Waits until all are there, and measures.
async fn measure(
    options: &ViewersOptions,
    run: &Run,
    following: &JoinSet<Tally>,
    usage: &impl Fn() -> Result<Usage>,
) -> Result<Measured> {
    let deadline = Instant::now() + PATIENCE;
    let expected = following.len() as u64;
    while run.following.load(Ordering::Relaxed) < expected && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let window = Window::open(usage)?;
    run.measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(options.watch).await;
    run.measuring.store(false, Ordering::Relaxed);
    let measured = window.close(usage)?;
    let there = run.following.load(Ordering::Relaxed);
    ensure!(
        there == expected,
        "{there} of {expected} connections' worth of viewers are there at the end"
    );
    Ok(measured)
}

/// Sends them away, wherever they are.
async fn sum(run: &Run, mut following: JoinSet<Tally>) -> Result<Tally> {
    run.over.send_replace(true);
    let mut sum = Tally::default();
    while let Some(tally) = following.join_next().await {
        let tally = tally.context("a viewer panicked")?;
        sum.ages_ms.extend(tally.ages_ms);
        sum.requests += tally.requests;
        sum.parts += tally.parts;
        sum.bytes += tally.bytes;
        sum.errors += tally.errors;
        sum.reason = sum.reason.or(tally.reason);
    }
    Ok(sum)
}

fn stream(number: u32) -> String {
    format!("load{number}")
}

/// Last folder of a path that ends in a slash.
fn name(folder: &str) -> String {
    let path = folder.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Video and, if asked for, sound of a stream.
async fn renditions(
    server: SocketAddr,
    number: u32,
    run: &Arc<Run>,
    options: &ViewersOptions,
) -> Result<Vec<Rendition>> {
    let base = format!("/hls/{}/", stream(number));
    let text = get(server, &format!("{base}index.m3u8")).await?;
    let video = first_variant(&text).context("no variant is listed")?;
    let audio = audio_rendition(&text).filter(|_| !options.video_only);
    let headers = headers(server);
    let uris = [Some(video), audio];
    let found = uris.into_iter().flatten().map(|uri| {
        let folder = uri
            .strip_suffix("index.m3u8")
            .context("not a playlist of this gateway")?;
        Ok(Rendition {
            server,
            folder: format!("{base}{folder}").into(),
            headers: Arc::clone(&headers),
            known: Arc::new(Known::new(number, options.beside_nginx && number == 0)),
            run: Arc::clone(run),
        })
    });
    found.collect()
}

async fn get(server: SocketAddr, path: &str) -> Result<String> {
    let mut connection = Connection::open(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    connection.send(request.as_bytes()).await?;
    let head = connection.head().await?;
    ensure!(head.status == 200, "{path} answered {}", head.status);
    String::from_utf8(connection.body(head).await?.to_vec())
        .with_context(|| format!("{path} is not text"))
}

/// Requests that still wait, once there are none or time is up.
async fn waiters_left(server: SocketAddr) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = get(server, "/metrics").await?;
        let waiting = metrics
            .lines()
            .find_map(|line| line.strip_prefix("whipgate_hls_waiters "))
            .and_then(|count| count.parse().ok())
            .context("no whipgate_hls_waiters in the metrics")?;
        if waiting == 0 || Instant::now() >= deadline {
            return Ok(waiting);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_streams_and_viewers() {
        let case = Case {
            streams: 60,
            viewers: 10,
        };
        assert_eq!("60x10".parse(), Ok(case));
        for wrong in ["60", "0x1", "1x0", "x", "1x1x1", "-1x1"] {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
    }
}
