//! Arguments and output of `whipgate-publisher viewers`.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use whipgate_publisher::{
    ClipSpec, VideoFormat,
    viewers::{self, ViewersOptions},
};

#[derive(Args)]
pub(crate) struct Viewers {
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/whipgate")]
    gateway: PathBuf,
    /// Numbers of streams and of viewers of each, separated by commas; a row each.
    #[arg(long, value_delimiter = ',', default_value = "1x1,1x1000,60x10")]
    cases: Vec<viewers::Case>,
    /// Runs per row; the table has medians.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Seconds without viewers, to know what publishing costs.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Seconds with viewers.
    #[arg(long, default_value_t = 15)]
    watch_seconds: u64,
    /// Milliseconds from the start of one viewer to that of the next.
    #[arg(long, default_value_t = 2)]
    ramp: u64,
    /// Kilobits per second of video.
    #[arg(long, default_value_t = VideoFormat::default().kbps)]
    kbps: u32,
    /// Leave the sound out.
    #[arg(long)]
    video_only: bool,
    /// Let nginx serve the same bytes as files, to the same viewers, beside it.
    #[arg(long)]
    beside_nginx: bool,
    /// Also write everything measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Further arguments for the gateway, after `--`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Measures, prints, and fails when anything went wrong.
pub(crate) async fn run(arguments: Viewers) -> Result<()> {
    let rows = viewers::viewers(&ViewersOptions {
        gateway: crate::gateway_binary(&arguments.gateway)?,
        arguments: arguments.arguments,
        cases: arguments.cases,
        runs: arguments.runs.max(1),
        steady: Duration::from_secs(arguments.seconds.max(2)),
        watch: Duration::from_secs(arguments.watch_seconds.max(2)),
        ramp: Duration::from_millis(arguments.ramp),
        video_only: arguments.video_only,
        beside_nginx: arguments.beside_nginx,
        video: ClipSpec {
            format: VideoFormat {
                kbps: arguments.kbps,
                ..VideoFormat::default()
            },
            ..ClipSpec::default()
        },
    })
    .await?;
    if let Some(file) = arguments.json {
        let json = serde_json::to_vec_pretty(&rows)?;
        std::fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    write!(io::stdout(), "{}", viewers::table(&rows)).context("cannot print")?;
    for served in rows
        .iter()
        .flat_map(|row| row.gateway.iter().chain(&row.nginx))
    {
        anyhow::ensure!(
            served.errors == 0,
            "{} errors, such as: {:?}",
            served.errors,
            served.reasons
        );
        anyhow::ensure!(
            served.waiters_left.unwrap_or_default() == 0,
            "viewers that are gone still wait"
        );
    }
    Ok(())
}
