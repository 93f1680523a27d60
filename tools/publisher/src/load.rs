//! Many publishers at once, and what the gateway makes of them.
//!
//! In phases, so that measuring does not disturb what is measured: start (each session is watched until its first media),
//! a steady part in which nobody watches and CPU is read, a part in which some sessions are followed for the age of
//! their pictures, and a look at everything each session's playlist lists and at the recordings for missing pictures.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use reqwest::Url;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    clip::{AudioClipSpec, Clip, ClipSpec},
    process::{self, Usage},
    publisher::{AudioSource, PublishOptions, Publisher, Stats, VideoSource},
    watch::{FirstMedia, Seen, Watcher, recorded},
};

/// Longest wait for first media, and for a recording to be complete.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time between the last start and the steady part.
const SETTLE: Duration = Duration::from_secs(3);
/// Time between the last picture and the end of its session.
const DRAIN: Duration = Duration::from_millis(500);

/// What to put on the gateway.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// For example `http://127.0.0.1:4000/`.
    pub base: Url,
    /// Bearer token for publishing.
    pub token: Option<String>,
    /// Names of sessions are this and a number.
    pub prefix: String,
    /// How many sessions.
    pub sessions: u32,
    /// Length of the steady part, during which nobody watches.
    pub steady: Duration,
    /// Length of the part in which ages are measured; zero leaves it out.
    pub watch: Duration,
    /// How many sessions are followed in that part.
    pub watchers: u32,
    /// From one start to the next.
    pub ramp: Duration,
    /// The picture.
    pub video: ClipSpec,
    /// The gateway's process, for CPU and memory.
    pub pid: Option<u32>,
    /// The gateway's `recordings` folder, to count pictures there.
    pub recordings: Option<PathBuf>,
    /// Look at HLS at all; without it only publishing is measured.
    pub hls: bool,
}

/// Figures of one session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionFigures {
    /// Its name.
    pub session: String,
    /// The publisher's counters.
    #[serde(flatten)]
    pub stats: Stats,
    /// From the start of the POST to init segment and first part fetched by a player that asks for part 0 of segment 0,
    /// in milliseconds.
    pub first_part_ms: Option<f64>,
    /// The same by a player that asks for the playlist as it is.
    pub first_media_ms: Option<f64>,
    /// Pictures missing between the first and the last one in the playlist's window.
    pub missing_in_window: Option<u64>,
    /// Pictures sent that the recordings lack.
    pub missing_in_recording: Option<u64>,
    /// Pictures of other sessions found in this one.
    pub foreign: u64,
    /// Failed or wrong answers to the watcher.
    pub errors: u64,
}

/// Figures of the whole run.
#[derive(Clone, Debug, Serialize)]
pub struct LoadFigures {
    /// Sessions that were asked for.
    pub sessions: u32,
    /// Sessions that were connected.
    pub connected: usize,
    /// Why the others were not.
    pub failures: Vec<String>,
    /// CPU milliseconds of the gateway per session and second, nobody watching.
    pub cpu_ms_per_session_second: Option<f64>,
    /// The same while `watchers` sessions are followed.
    pub cpu_ms_per_session_second_watched: Option<f64>,
    /// Resident memory of the gateway before the first session, in KiB.
    pub rss_idle_kib: Option<u64>,
    /// Growth of resident memory per session, in KiB.
    pub rss_per_session_kib: Option<f64>,
    /// Threads of the gateway in the steady part.
    pub threads: Option<u64>,
    /// Age of the newest picture of each part when it is received, median, in milliseconds.
    pub age_p50_ms: Option<f64>,
    /// 95th percentile of the same.
    pub age_p95_ms: Option<f64>,
    /// Median of `first_part_ms`.
    pub first_part_p50_ms: Option<f64>,
    /// Largest `first_part_ms`.
    pub first_part_max_ms: Option<f64>,
    /// Median of `first_media_ms`.
    pub first_media_p50_ms: Option<f64>,
    /// Largest `first_media_ms`.
    pub first_media_max_ms: Option<f64>,
    /// Median from POST to DTLS connected.
    pub connected_p50_ms: Option<f64>,
    /// Pictures sent by all.
    pub pictures: u64,
    /// Sum of `missing_in_window`.
    pub missing_in_window: u64,
    /// Sum of `missing_in_recording`.
    pub missing_in_recording: Option<u64>,
    /// Sum of foreign pictures and errors.
    pub wrong: u64,
    /// CPU milliseconds of this load client per session and second: it shares the machine with the gateway.
    pub client_cpu_ms_per_session_second: f64,
    /// Longest time a picture was sent after it was due: large values mean the machine was overloaded.
    pub late_ms: f64,
    /// Each session.
    pub each: Vec<SessionFigures>,
}

struct Running {
    session: String,
    number: u32,
    publisher: Publisher,
    watcher: Watcher,
    first_media: Option<FirstMedia>,
    window: Seen,
    followed: Seen,
}

/// Runs the load and measures.
pub async fn run(options: &LoadOptions) -> Result<LoadFigures> {
    let spec = options.video;
    tokio::task::spawn_blocking(move || {
        Clip::video(&spec)?;
        Clip::audio(&AudioClipSpec::default())
    })
    .await??;
    let idle = options.pid.map(process::usage).transpose()?;
    let (mut running, failures) = start_all(options).await?;
    tokio::time::sleep(SETTLE).await;

    let steady = Window::open(options.pid)?;
    tokio::time::sleep(options.steady).await;
    let steady = steady.close(options.sessions)?;
    let watched = if options.hls && !options.watch.is_zero() {
        let window = Window::open(options.pid)?;
        follow_some(options, &mut running).await;
        Some(window.close(options.sessions)?)
    } else {
        None
    };
    if options.hls {
        for session in &mut running {
            if let Err(error) = session.watcher.window(&mut session.window).await {
                tracing::warn!("{}: {error:#}", session.session);
                session.window.errors += 1;
            }
        }
    }
    // So that each picture counted as sent has arrived before its session ends.
    for session in &running {
        session.publisher.pause(true, true).await;
    }
    tokio::time::sleep(DRAIN).await;
    let mut each = Vec::new();
    let mut ages = Vec::new();
    for session in running {
        ages.extend_from_slice(&session.followed.ages_ms);
        each.push(finish(options, session).await);
    }
    Ok(sum_up(
        options,
        each,
        failures,
        &mut ages,
        idle,
        &steady,
        watched.as_ref(),
    ))
}

async fn start_all(options: &LoadOptions) -> Result<(Vec<Running>, Vec<String>)> {
    let hls = options.base.join("hls/")?;
    let http = Watcher::http_client()?;
    let mut starting = JoinSet::new();
    for number in 0..options.sessions {
        let session = format!("{}{number}", options.prefix);
        let watcher = Watcher::new(&http, &hls, &session, number)?;
        let publish = PublishOptions {
            url: options.base.join(&format!("whip/{session}"))?.into(),
            token: options.token.clone(),
            video: Some(VideoSource::Clip(options.video)),
            audio: Some(AudioSource::default()),
            stamp: Some(number),
            ..PublishOptions::default()
        };
        starting.spawn(start(publish, session, number, watcher, options.hls));
        tokio::time::sleep(options.ramp).await;
    }
    let (mut running, mut failures) = (Vec::new(), Vec::new());
    while let Some(started) = starting.join_next().await {
        match started.context("a starting session panicked")? {
            Ok(session) => running.push(session),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    running.sort_by_key(|session| session.number);
    Ok((running, failures))
}

async fn start(
    publish: PublishOptions,
    session: String,
    number: u32,
    mut watcher: Watcher,
    watch: bool,
) -> Result<Running> {
    let publisher = Publisher::start(publish)
        .await
        .with_context(|| session.clone())?;
    let posted = publisher.posted_at();
    let mut window = Seen::default();
    let mut first_media = None;
    if watch {
        match watcher.first_media(posted + PATIENCE).await {
            Ok(first) => first_media = Some(first),
            Err(error) => {
                tracing::warn!("{session}: {error:#}");
                window.errors += 1;
            }
        }
    }
    Ok(Running {
        session,
        number,
        publisher,
        watcher,
        first_media,
        window,
        followed: Seen::default(),
    })
}

async fn follow_some(options: &LoadOptions, running: &mut [Running]) {
    let until = Instant::now() + options.watch;
    let watchers = (options.watchers as usize).min(running.len()).max(1);
    let every = running.len().div_ceil(watchers).max(1);
    let following = running.iter_mut().step_by(every).map(|session| async move {
        if let Err(error) = session.watcher.follow(until, &mut session.followed).await {
            tracing::warn!("{}: {error:#}", session.session);
            session.followed.errors += 1;
        }
    });
    let mut following: Vec<_> = following.map(Box::pin).collect();
    // All at once on this task: following is waiting, mostly.
    std::future::poll_fn(|context| {
        following.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if following.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

async fn finish(options: &LoadOptions, session: Running) -> SessionFigures {
    let Running {
        session,
        number,
        publisher,
        first_media,
        window,
        followed,
        ..
    } = session;
    let mut errors = window.errors + followed.errors;
    let before = publisher.stats();
    let since_post = |at: Instant| at.duration_since(publisher.posted_at()).as_secs_f64() * 1e3;
    let first_part_ms = first_media.map(|first| since_post(first.asked));
    let first_media_ms = first_media.map(|first| since_post(first.plain));
    if let Some(ended) = publisher.ended() {
        tracing::warn!("{session}: ended by itself: {ended:?}");
        errors += 1;
    }
    let stats = match publisher.stop().await {
        Ok(stats) => stats,
        Err(error) => {
            tracing::warn!("{session}: {error:#}");
            errors += 1;
            before
        }
    };
    let missing_in_recording = match &options.recordings {
        Some(folder) => Some(missing(folder, &session, number, stats.pictures).await),
        None => None,
    };
    SessionFigures {
        first_part_ms,
        first_media_ms,
        missing_in_window: options.hls.then(|| window.gaps() + followed.gaps()),
        missing_in_recording,
        foreign: window.foreign + followed.foreign,
        session,
        stats,
        errors,
    }
}

/// Pictures sent that the recording lacks, once it is complete or time is up.
async fn missing(folder: &std::path::Path, session: &str, number: u32, sent: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = recorded(folder, session, number).map_or(0, |seen| seen.pictures.len() as u64);
        let missing = sent.saturating_sub(found);
        if missing == 0 || Instant::now() >= deadline {
            return missing;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Two readings and what happened between them.
struct Window {
    pid: Option<u32>,
    at: Instant,
    gateway: Option<Usage>,
    client: Usage,
}

struct Measured {
    cpu_ms: Option<f64>,
    client_cpu_ms: f64,
    end: Option<Usage>,
}

impl Window {
    fn open(pid: Option<u32>) -> Result<Self> {
        let gateway = pid.map(process::usage).transpose()?;
        Ok(Self {
            pid,
            at: Instant::now(),
            gateway,
            client: process::usage(std::process::id())?,
        })
    }

    fn close(self, sessions: u32) -> Result<Measured> {
        let end = self.pid.map(process::usage).transpose()?;
        let client = process::usage(std::process::id())?;
        let session_seconds = self.at.elapsed().as_secs_f64() * f64::from(sessions.max(1));
        let per = |from: Usage, to: Usage| {
            to.cpu.saturating_sub(from.cpu).as_secs_f64() * 1e3 / session_seconds
        };
        let cpu_ms = self.gateway.zip(end).map(|(from, to)| per(from, to));
        Ok(Measured {
            cpu_ms,
            client_cpu_ms: per(self.client, client),
            end,
        })
    }
}

fn sum_up(
    options: &LoadOptions,
    each: Vec<SessionFigures>,
    failures: Vec<String>,
    ages: &mut [f64],
    idle: Option<Usage>,
    steady: &Measured,
    watched: Option<&Measured>,
) -> LoadFigures {
    let mut first: Vec<f64> = each
        .iter()
        .filter_map(|session| session.first_media_ms)
        .collect();
    let mut part: Vec<f64> = each
        .iter()
        .filter_map(|session| session.first_part_ms)
        .collect();
    let mut connected: Vec<f64> = each
        .iter()
        .map(|session| session.stats.connected_ms)
        .collect();
    let growth = |idle: Usage, end: Usage| {
        (end.rss_kib as f64 - idle.rss_kib as f64) / f64::from(options.sessions.max(1))
    };
    LoadFigures {
        sessions: options.sessions,
        connected: each.len(),
        failures,
        cpu_ms_per_session_second: steady.cpu_ms,
        cpu_ms_per_session_second_watched: watched.and_then(|watched| watched.cpu_ms),
        rss_idle_kib: idle.map(|idle| idle.rss_kib),
        rss_per_session_kib: idle.zip(steady.end).map(|(idle, end)| growth(idle, end)),
        threads: steady.end.map(|end| end.threads),
        age_p50_ms: percentile(ages, 50.0),
        age_p95_ms: percentile(ages, 95.0),
        first_part_p50_ms: percentile(&mut part, 50.0),
        first_part_max_ms: percentile(&mut part, 100.0),
        first_media_p50_ms: percentile(&mut first, 50.0),
        first_media_max_ms: percentile(&mut first, 100.0),
        connected_p50_ms: percentile(&mut connected, 50.0),
        pictures: each.iter().map(|session| session.stats.pictures).sum(),
        missing_in_window: each
            .iter()
            .filter_map(|session| session.missing_in_window)
            .sum(),
        missing_in_recording: each
            .iter()
            .map(|session| session.missing_in_recording)
            .sum(),
        wrong: each
            .iter()
            .map(|session| session.foreign + session.errors)
            .sum(),
        client_cpu_ms_per_session_second: steady.client_cpu_ms,
        late_ms: each
            .iter()
            .map(|session| session.stats.late_ms)
            .fold(0.0, f64::max),
        each,
    }
}

/// The nearest-rank percentile; `None` of nothing.
pub fn percentile(values: &mut [f64], percent: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&mut values, 50.0), Some(2.0));
        assert_eq!(percentile(&mut values, 95.0), Some(4.0));
        assert_eq!(percentile(&mut values, 100.0), Some(4.0));
        assert_eq!(percentile(&mut [], 50.0), None);
    }
}
