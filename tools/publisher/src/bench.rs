//! The benchmark anyone can rerun: a fresh gateway for each run, the load, and a table of medians.

use std::{
    fmt::Write as _,
    fs::File,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use reqwest::Url;
use serde::Serialize;

use crate::{
    clip::ClipSpec,
    load::{LoadFigures, LoadOptions, percentile, run},
};

/// Longest wait for a gateway to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

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
        base: gateway.base.clone(),
        token: None,
        prefix: "bench".into(),
        sessions,
        steady: options.steady,
        watch: options.watch,
        watchers: options.watchers,
        ramp: options.ramp,
        video: ClipSpec::default(),
        pid: Some(gateway.child.id()),
        recordings: Some(gateway.folder.path().join("data/recordings")),
        hls: true,
    };
    let figures = run(&load).await;
    if figures.is_err() || gateway.child.try_wait()?.is_some() {
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

/// A gateway on free loopback ports with a data folder that goes when it does.
struct Gateway {
    child: Child,
    base: Url,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn start(binary: &Path, arguments: &[String]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let port = free_port()?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(binary)
            .current_dir(folder.path())
            .arg("--set")
            .arg(format!("http.listen=127.0.0.1:{port}"))
            .arg("--set")
            .arg(format!("webrtc.listen_udp=127.0.0.1:{port}"))
            .arg("--set")
            .arg(format!("webrtc.listen_tcp=127.0.0.1:{}", port + 1))
            .arg("--set")
            .arg(format!(
                "storage.data_dir={}",
                folder.path().join("data").display()
            ))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let base = Url::parse(&format!("http://127.0.0.1:{port}/"))?;
        Ok(Self {
            child,
            base,
            folder,
        })
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let health = self.base.join("healthz")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if reqwest::get(health.clone())
                .await
                .is_ok_and(|response| response.status().is_success())
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the gateway ended at once ({status}):\n{}",
                    self.last_words()
                );
            }
            if Instant::now() >= deadline {
                bail!(
                    "the gateway was not ready after {PATIENCE:?}:\n{}",
                    self.last_words()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Its data goes with the folder: there is nothing to end properly.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::warn!(%error, "cannot end the gateway");
        }
    }
}

/// A port that is free for TCP and UDP, and whose successor is free for TCP.
fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let http = TcpListener::bind("127.0.0.1:0")?;
        let port = http.local_addr()?.port();
        let Some(next) = port.checked_add(1) else {
            continue;
        };
        if UdpSocket::bind(("127.0.0.1", port)).is_ok()
            && TcpListener::bind(("127.0.0.1", next)).is_ok()
        {
            return Ok(port);
        }
    }
    bail!("no free pair of ports on loopback")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_cannot_start_is_named() {
        let missing = Gateway::start(Path::new("/nonexistent/whipgate"), &[])
            .err()
            .unwrap();
        assert!(format!("{missing:#}").contains("/nonexistent/whipgate"));
    }

    #[tokio::test]
    async fn a_gateway_that_ends_at_once_is_quoted() {
        let mut gateway = Gateway::start(Path::new("/bin/echo"), &[]).unwrap();
        let error = gateway.wait_ready().await.unwrap_err().to_string();
        assert!(
            error.contains("ended at once") && error.contains("http.listen="),
            "{error}"
        );
    }

    #[test]
    fn ports_come_in_pairs() {
        let port = free_port().unwrap();
        assert!(port > 0);
    }
}
