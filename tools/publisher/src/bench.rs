//! The benchmark anyone can rerun: a fresh gateway for each run, the load, and a table of medians.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{
    clip::ClipSpec,
    gateway::Gateway,
    load::{LoadFigures, LoadOptions, percentile, run},
};

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// Further arguments for it.
    pub arguments: Vec<String>,
    /// Numbers of sessions, one row of the table each.
    pub sessions: Vec<u32>,
    /// Runs per row; the table has their medians.
    pub runs: u32,
    /// See [`LoadOptions::steady`].
    pub steady: Duration,
    /// See [`LoadOptions::watch`].
    pub watch: Duration,
    /// See [`LoadOptions::watchers`].
    pub watchers: u32,
    /// See [`LoadOptions::ramp`].
    pub ramp: Duration,
}

/// All runs of one number of sessions.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Sessions.
    pub sessions: u32,
    /// Figures of each run.
    pub runs: Vec<LoadFigures>,
}

/// Measures all rows; says on the log how far it is.
pub async fn bench(options: &BenchOptions) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for sessions in &options.sessions {
        let mut runs = Vec::new();
        for number in 1..=options.runs {
            tracing::info!("{sessions} sessions, run {number} of {}", options.runs);
            runs.push(one(options, *sessions).await?);
        }
        rows.push(Row {
            sessions: *sessions,
            runs,
        });
    }
    Ok(rows)
}

async fn one(options: &BenchOptions, sessions: u32) -> Result<LoadFigures> {
    let mut gateway = Gateway::start(&options.gateway, &options.arguments)?;
    gateway.wait_ready().await?;
    let load = LoadOptions {
        base: gateway.base().clone(),
        token: None,
        prefix: "bench".into(),
        sessions,
        steady: options.steady,
        watch: options.watch,
        watchers: options.watchers,
        ramp: options.ramp,
        video: ClipSpec::default(),
        pid: Some(gateway.pid()),
        recordings: Some(gateway.recordings()),
        hls: true,
    };
    let figures = run(&load).await;
    if figures.is_err() || gateway.has_ended()? {
        bail!(
            "{}\nthe gateway's last words:\n{}",
            error_text(&figures),
            gateway.last_words()
        );
    }
    figures
}

fn error_text(figures: &Result<LoadFigures>) -> String {
    figures.as_ref().map_or_else(
        |error| format!("{error:#}"),
        |_| "the gateway ended during the run".into(),
    )
}

/// The rows as a Markdown table of medians over the runs.
pub fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| sessions | CPU ms per session-second | same, watched | memory per session | pictures lost (of sent) \
         | POST to first part p50 / max | POST to first plain playlist p50 / max | newest picture age p50 / p95 | errors |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let median = |value: &dyn Fn(&LoadFigures) -> Option<f64>| {
            percentile(
                &mut row.runs.iter().filter_map(value).collect::<Vec<_>>(),
                50.0,
            )
        };
        let show = |value: Option<f64>, digits: usize, unit: &str| {
            value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}{unit}"))
        };
        let lost: u64 = row
            .runs
            .iter()
            .map(|run| {
                run.missing_in_window
                    .max(run.missing_in_recording.unwrap_or(0))
            })
            .sum();
        let sent: u64 = row.runs.iter().map(|run| run.pictures).sum();
        let wrong: u64 = row
            .runs
            .iter()
            .map(|run| run.wrong + u64::from(run.sessions) - run.connected as u64)
            .sum();
        // Writing to a string cannot fail.
        let _written = writeln!(
            table,
            "| {} | {} | {} | {} | {lost} ({sent}) | {} / {} | {} / {} | {} / {} | {wrong} |",
            row.sessions,
            show(median(&|run| run.cpu_ms_per_session_second), 2, ""),
            show(median(&|run| run.cpu_ms_per_session_second_watched), 2, ""),
            show(
                median(&|run| run.rss_per_session_kib.map(|kib| kib / 1024.0)),
                2,
                " MiB"
            ),
            show(median(&|run| run.first_part_p50_ms), 0, " ms"),
            show(median(&|run| run.first_part_max_ms), 0, " ms"),
            show(median(&|run| run.first_media_p50_ms), 0, " ms"),
            show(median(&|run| run.first_media_max_ms), 0, " ms"),
            show(median(&|run| run.age_p50_ms), 0, " ms"),
            show(median(&|run| run.age_p95_ms), 0, " ms"),
        );
    }
    let late = rows
        .iter()
        .flat_map(|row| &row.runs)
        .map(|run| run.late_ms)
        .fold(0.0, f64::max);
    let client = rows
        .iter()
        .flat_map(|row| &row.runs)
        .map(|run| run.client_cpu_ms_per_session_second)
        .fold(0.0, f64::max);
    let _written = writeln!(
        table,
        "\n720p30 H.264 2.5 Mbit/s and Opus 128 kbit/s per session, one process with all publishers on the same machine \
         ({} CPUs): it used up to {client:.1} ms per session-second itself and sent a picture at most {late:.0} ms late.",
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    table
}
