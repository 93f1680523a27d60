//! `whipgate-publisher`: arguments and output of the demo publisher, the load and the measurements.

#![forbid(unsafe_code)]

mod viewers_command;

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use reqwest::Url;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use whipgate_publisher::{
    AudioSource, ClipSpec, LiveSpec, PathOptions, PublishOptions, Publisher, VideoCodec,
    VideoFormat, VideoSource,
    bench::{BenchOptions, bench, table},
    boxes,
    load::{LoadOptions, percentile, run},
    receiver::{Received, Receiver, ReceiverOptions},
    scenarios::{self, ScenarioOptions},
    watch::{Seen, Watcher},
};

#[derive(Parser)]
#[command(
    version,
    about = "Publishes test media to a WHIP endpoint and measures what comes out of the gateway"
)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Publish a moving picture with a clock, a flash and a beep each second, until interrupted.
    Demo(Demo),
    /// Publish one repeated clip over a network that may be bad, and print JSON figures.
    Publish(Publish),
    /// Publish many sessions and print JSON figures.
    Load(Load),
    /// Follow sessions that are live and print JSON figures of their pictures.
    Measure(Measure),
    /// Start a gateway, load it, and print a table (and JSON with --json FILE).
    Bench(Bench),
    /// Start a gateway, publish, let many watch in low-latency HLS, and print a table (and JSON with --json FILE).
    Viewers(viewers_command::Viewers),
    /// Start a gateway, publish hard cases to it, judge HLS and recordings, and print a table; fails when a bound is missed.
    Scenarios(Scenarios),
    /// Publish one of the cases of `scenarios`, for others to judge.
    Case(CaseArguments),
    /// Be a WHIP endpoint that says what it receives, to try clients on.
    Receive(Receive),
    /// Print the boxes of fragmented MP4 files as JSON, an array for each file.
    Boxes(Boxes),
}

#[derive(Args)]
struct Demo {
    /// WHIP endpoint, for example <http://127.0.0.1:4000/whip/demo>.
    #[arg(long)]
    url: String,
    /// Bearer token.
    #[arg(long, env = "WHIP_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// h264, h265, av1 or vp9.
    #[arg(long, default_value = "h264")]
    codec: VideoCodec,
    /// Picture size.
    #[arg(long, default_value = "1280x720", value_parser = size)]
    size: (u32, u32),
    /// Kilobits per second of video.
    #[arg(long, default_value_t = VideoFormat::default().kbps)]
    kbps: u32,
    /// Pictures from one keyframe to the next (at 30 a second).
    #[arg(long, default_value_t = VideoFormat::default().keyframe_every)]
    keyframe_every: u32,
    /// Leave requests for keyframes unanswered, as OBS does.
    #[arg(long)]
    ignore_keyframe_requests: bool,
    /// Stop after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// No sound.
    #[arg(long)]
    no_audio: bool,
}

#[derive(Args)]
struct Publish {
    /// WHIP endpoint, for example <http://127.0.0.1:4000/whip/test>.
    #[arg(long)]
    url: String,
    /// Bearer token.
    #[arg(long, env = "WHIP_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// h264, h265, av1 or vp9.
    #[arg(long, default_value = "h264")]
    codec: VideoCodec,
    /// For how many seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Percentage of packets that are lost on the way.
    #[arg(long, default_value_t = 0.0)]
    loss: f32,
    /// Percentage of payloads that are replaced by random bytes.
    #[arg(long, default_value_t = 0.0)]
    garbage: f32,
    /// Sound starts so many milliseconds late.
    #[arg(long, default_value_t = 0)]
    late_audio: u64,
    /// Sound only.
    #[arg(long)]
    no_video: bool,
}

#[derive(Args)]
struct Load {
    /// The gateway, for example <http://127.0.0.1:4000/>.
    #[arg(long, default_value = "http://127.0.0.1:4000/")]
    base: Url,
    /// Bearer token for publishing.
    #[arg(long, env = "WHIP_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How many sessions.
    #[arg(long, default_value_t = 30)]
    sessions: u32,
    /// Sessions are named this and a number.
    #[arg(long, default_value = "load")]
    prefix: String,
    /// Steady part in seconds, nobody watching.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Part with viewers in seconds.
    #[arg(long, default_value_t = 8)]
    watch_seconds: u64,
    /// Sessions followed in that part.
    #[arg(long, default_value_t = 3)]
    watchers: u32,
    /// Milliseconds from one start to the next.
    #[arg(long, default_value_t = 50)]
    ramp: u64,
    /// h264, h265, av1 or vp9; only the first two carry stamps to measure by.
    #[arg(long, default_value = "h264")]
    codec: VideoCodec,
    /// Process id of the gateway, for CPU and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// The gateway's recordings folder, to count pictures there.
    #[arg(long)]
    recordings: Option<PathBuf>,
    /// Publish only, do not look at HLS.
    #[arg(long)]
    no_hls: bool,
}

#[derive(Args)]
struct Measure {
    /// The gateway, for example <http://127.0.0.1:4000/>.
    #[arg(long, default_value = "http://127.0.0.1:4000/")]
    base: Url,
    /// For how many seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Sessions as NAME or NAME=N, where N is the number in the publisher's stamps (0 for the demo).
    #[arg(required = true)]
    sessions: Vec<String>,
}

#[derive(Args)]
struct Bench {
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/whipgate")]
    gateway: PathBuf,
    /// Numbers of sessions, separated by commas; a row each.
    #[arg(long, value_delimiter = ',', default_value = "30")]
    sessions: Vec<u32>,
    /// Runs per row; the table has medians.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Steady part in seconds, nobody watching.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Part with viewers in seconds.
    #[arg(long, default_value_t = 8)]
    watch_seconds: u64,
    /// Sessions followed in that part.
    #[arg(long, default_value_t = 3)]
    watchers: u32,
    /// Milliseconds from one start to the next.
    #[arg(long, default_value_t = 50)]
    ramp: u64,
    /// Also write everything measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Further arguments for the gateway, after `--`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Args)]
struct Scenarios {
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/whipgate")]
    gateway: PathBuf,
    /// Only cases with this in their name.
    #[arg(long)]
    only: Option<String>,
    /// Only a short selection of cases.
    #[arg(long)]
    quick: bool,
    /// Print the names and lengths of all cases as JSON, and do nothing.
    #[arg(long)]
    list: bool,
    /// Cases at a time.
    #[arg(long, default_value_t = 3)]
    at_once: usize,
    /// Also write everything measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep captured HLS, recordings and the gateway's log in this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Further arguments for the gateway, after `--`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Args)]
struct CaseArguments {
    /// WHIP endpoint, for example <http://127.0.0.1:4000/whip/test>.
    #[arg(long)]
    url: String,
    /// Name of the case.
    name: String,
}

#[derive(Args)]
struct Receive {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:4001")]
    listen: SocketAddr,
    /// The video codec to accept.
    #[arg(long, default_value = "h264")]
    codec: VideoCodec,
}

#[derive(Args)]
struct Boxes {
    /// The files; an init segment precedes its fragments in the same file.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,whipgate_publisher=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(dispatch(cli.command)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: What) -> Result<()> {
    match command {
        What::Demo(arguments) => demo(arguments).await,
        What::Publish(arguments) => publish(arguments).await,
        What::Load(arguments) => load(arguments).await,
        What::Measure(arguments) => measure(arguments).await,
        What::Bench(arguments) => run_bench(arguments).await,
        What::Viewers(arguments) => viewers_command::run(arguments).await,
        What::Scenarios(arguments) => run_scenarios(arguments).await,
        What::Case(arguments) => scenarios::publish(&arguments.name, &arguments.url)
            .await
            .map(drop),
        What::Receive(arguments) => receive(arguments).await,
        What::Boxes(arguments) => print_boxes(&arguments),
    }
}

/// A picture size as `1280x720`; the encoders take even numbers only.
fn size(text: &str) -> Result<(u32, u32), String> {
    text.split_once('x')
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
        .filter(|(width, height)| {
            [width, height]
                .iter()
                .all(|n: &&u32| **n > 0 && n.is_multiple_of(2))
        })
        .ok_or_else(|| "expected two even numbers, as 1280x720".to_owned())
}

/// Publishes, and again two seconds after a failure or an end by the gateway, as OBS does.
async fn demo(arguments: Demo) -> Result<()> {
    const RETRY: Duration = Duration::from_secs(2);
    let (width, height) = arguments.size;
    let format = VideoFormat {
        codec: arguments.codec,
        width,
        height,
        kbps: arguments.kbps,
        keyframe_every: arguments.keyframe_every,
        ..VideoFormat::default()
    };
    let options = PublishOptions {
        url: arguments.url.clone(),
        token: arguments.token,
        video: Some(VideoSource::Live(LiveSpec {
            format,
            ignores_keyframe_requests: arguments.ignore_keyframe_requests,
            ..LiveSpec::default()
        })),
        audio: (!arguments.no_audio).then_some(AudioSource::Live),
        ..PublishOptions::default()
    };
    let end = arguments
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut stop = std::pin::pin!(stopped(end));
    loop {
        let publisher = tokio::select! {
            publisher = Publisher::start(options.clone()) => publisher,
            () = &mut stop => return Ok(()),
        };
        match publisher {
            Ok(publisher) => {
                tracing::info!("publishing to {}", arguments.url);
                tokio::select! {
                    ended = publisher.wait_ended() => tracing::warn!("the publication ended ({ended:?})"),
                    () = &mut stop => return print(&publisher.stop().await?),
                }
            }
            Err(error) => tracing::warn!("cannot publish: {error:#}"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = &mut stop => return Ok(()),
        }
    }
}

async fn publish(arguments: Publish) -> Result<()> {
    let path = PathOptions {
        loss_percent: arguments.loss,
        garbage_percent: arguments.garbage,
        ..PathOptions::default()
    };
    let publisher = Publisher::start(PublishOptions {
        url: arguments.url,
        token: arguments.token,
        video: (!arguments.no_video).then(|| {
            VideoSource::Clip(ClipSpec {
                format: VideoFormat {
                    codec: arguments.codec,
                    ..VideoFormat::default()
                },
                ..ClipSpec::default()
            })
        }),
        video_path: path,
        audio_path: PathOptions {
            starts_after: Duration::from_millis(arguments.late_audio),
            ..path
        },
        ..PublishOptions::default()
    })
    .await?;
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    tokio::select! {
        ended = publisher.wait_ended() => anyhow::bail!("the publication ended ({ended:?})"),
        () = stopped(Some(end)) => print(&publisher.stop().await?),
    }
}

/// Until SIGINT, SIGTERM or `end`.
async fn stopped(end: Option<Instant>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return tracing::error!("cannot listen for signals");
    };
    let time = async {
        match end {
            Some(end) => tokio::time::sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = time => {}
    }
}

async fn load(arguments: Load) -> Result<()> {
    let format = VideoFormat {
        codec: arguments.codec,
        ..VideoFormat::default()
    };
    let options = LoadOptions {
        base: arguments.base,
        token: arguments.token,
        prefix: arguments.prefix,
        sessions: arguments.sessions,
        steady: Duration::from_secs(arguments.seconds),
        watch: Duration::from_secs(arguments.watch_seconds),
        watchers: arguments.watchers,
        ramp: Duration::from_millis(arguments.ramp),
        video: ClipSpec {
            format,
            ..ClipSpec::default()
        },
        pid: arguments.pid,
        recordings: arguments.recordings,
        hls: !arguments.no_hls,
    };
    print(&run(&options).await?)
}

#[derive(Serialize)]
struct Measured {
    session: String,
    pictures: usize,
    missing: u64,
    foreign: u64,
    parts: u64,
    errors: u64,
    ended: bool,
    age_p50_ms: Option<f64>,
    age_p95_ms: Option<f64>,
}

async fn measure(arguments: Measure) -> Result<()> {
    let http = Watcher::http_client()?;
    let hls = arguments.base.join("hls/")?;
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut following = Vec::new();
    for session in arguments.sessions {
        let (name, number) = match session.split_once('=') {
            Some((name, number)) => (
                name.to_owned(),
                number.parse().context("NAME=N with N a number")?,
            ),
            None => (session, 0),
        };
        let mut watcher = Watcher::new(&http, &hls, &name, number)?;
        following.push((
            name,
            tokio::spawn(async move {
                let mut seen = Seen::default();
                let followed = watcher.follow(until, &mut seen).await;
                (seen, followed)
            }),
        ));
    }
    let mut all = Vec::new();
    for (session, following) in following {
        let (mut seen, followed) = following.await?;
        if let Err(error) = followed {
            tracing::warn!("{session}: {error:#}");
            seen.errors += 1;
        }
        all.push(Measured {
            session,
            pictures: seen.pictures.len(),
            missing: seen.gaps(),
            foreign: seen.foreign,
            parts: seen.parts,
            errors: seen.errors,
            ended: seen.ended,
            age_p50_ms: percentile(&mut seen.ages_ms, 50.0),
            age_p95_ms: percentile(&mut seen.ages_ms, 95.0),
        });
    }
    print(&all)
}

fn gateway_binary(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| {
        format!(
            "no gateway at {}: build it with `cargo build --release`",
            path.display()
        )
    })
}

async fn run_scenarios(arguments: Scenarios) -> Result<()> {
    if arguments.list {
        let names = serde_json::to_string(&scenarios::names())?;
        return writeln!(io::stdout(), "{names}").context("cannot print");
    }
    let rows = scenarios::run(&ScenarioOptions {
        gateway: gateway_binary(&arguments.gateway)?,
        arguments: arguments.arguments,
        only: arguments.only,
        quick: arguments.quick,
        at_once: arguments.at_once,
        keep: arguments.keep,
    })
    .await?;
    if let Some(file) = arguments.json {
        let json = serde_json::to_vec_pretty(&rows)?;
        std::fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    write!(io::stdout(), "{}", scenarios::table(&rows)).context("cannot print")?;
    let missed = rows.iter().filter(|row| !row.failures.is_empty()).count();
    anyhow::ensure!(
        missed == 0,
        "{missed} of {} cases missed a bound",
        rows.len()
    );
    Ok(())
}

async fn run_bench(arguments: Bench) -> Result<()> {
    let gateway = gateway_binary(&arguments.gateway)?;
    let options = BenchOptions {
        gateway,
        arguments: arguments.arguments,
        sessions: arguments.sessions,
        runs: arguments.runs.max(1),
        steady: Duration::from_secs(arguments.seconds),
        watch: Duration::from_secs(arguments.watch_seconds),
        watchers: arguments.watchers,
        ramp: Duration::from_millis(arguments.ramp),
    };
    let rows = bench(&options).await?;
    if let Some(file) = arguments.json {
        let json = serde_json::to_vec_pretty(&rows)?;
        std::fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    write!(io::stdout(), "{}", table(&rows)).context("cannot print")
}

async fn receive(arguments: Receive) -> Result<()> {
    let options = ReceiverOptions {
        listen: arguments.listen,
        codec: arguments.codec,
        ..ReceiverOptions::default()
    };
    let mut receiver = Receiver::start(options).await?;
    tracing::info!("publish to {}", receiver.url());
    let mut stop = std::pin::pin!(stopped(None));
    loop {
        let received = tokio::select! {
            received = receiver.next() => received.context("the endpoint failed")?,
            () = &mut stop => return Ok(()),
        };
        match received {
            Received::Unit {
                kind,
                timestamp,
                data,
                contiguous,
            } => {
                let gap = if contiguous { "" } else { ", after a gap" };
                tracing::debug!("{kind} {timestamp}: {} bytes{gap}", data.len());
            }
            other => tracing::info!("{other:?}"),
        }
    }
}

fn print_boxes(arguments: &Boxes) -> Result<()> {
    let files = arguments.files.iter().map(|file| {
        let of = || format!("{}", file.display());
        let bytes = std::fs::read(file).with_context(of)?;
        boxes::read(&bytes).with_context(of)
    });
    let files = files.collect::<Result<Vec<_>>>()?;
    writeln!(io::stdout(), "{}", serde_json::to_string(&files)?).context("cannot print")
}

fn print(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    writeln!(io::stdout(), "{json}").context("cannot print")
}
