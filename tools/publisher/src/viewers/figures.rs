//! The figures: what was read before and after, what came of it, and the table.

use std::{fmt::Write as _, time::Instant};

use anyhow::Result;
use serde::Serialize;

use super::{Case, ViewersOptions, viewer::Tally};
use crate::{
    load::percentile,
    process::{self, Usage},
};

/// Figures of the viewers of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Served {
    /// CPU milliseconds of the server per viewer and second, what it needs without viewers taken off.
    pub cpu_ms_per_viewer_second: f64,
    /// CPU milliseconds of the server per second, everything.
    pub cpu_ms_per_second: f64,
    /// CPU milliseconds of the server per second before the viewers came.
    pub cpu_ms_per_second_before: f64,
    /// CPU milliseconds of this client per second, publishers included.
    pub client_cpu_ms_per_second: f64,
    /// Share of all the machine's processor time that was in use, by anybody.
    pub machine_busy: f64,
    /// Megabits of bodies per viewer and second.
    pub mbit_per_viewer_second: f64,
    /// Answers per viewer and second.
    pub requests_per_viewer_second: f64,
    /// Parts per viewer and second.
    pub parts_per_viewer_second: f64,
    /// Age of the newest picture of a part when the whole part is there, median, in milliseconds. With nginx the time
    /// since the file was due.
    pub age_p50_ms: Option<f64>,
    /// 95th percentile.
    pub age_p95_ms: Option<f64>,
    /// 99th percentile.
    pub age_p99_ms: Option<f64>,
    /// Failed requests and wrong answers, from the first request to the last.
    pub errors: u64,
    /// Some of them.
    pub reasons: Vec<String>,
    /// Resident memory of the server at the end, in KiB.
    pub rss_kib: u64,
    /// Its growth since there was no viewer, per viewer, in KiB.
    pub rss_per_viewer_kib: f64,
    /// Requests that wait after all viewers have gone.
    pub waiters_left: Option<u64>,
}

/// All runs of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// The gateway's figures, one for each run.
    pub gateway: Vec<Served>,
    /// The same for nginx.
    pub nginx: Vec<Served>,
}
/// Two readings and what happened between them.
pub(super) struct Window {
    at: Instant,
    server: Usage,
    client: Usage,
    machine: process::Machine,
}

pub(super) struct Measured {
    seconds: f64,
    server: Usage,
    server_cpu_ms: f64,
    client_cpu_ms: f64,
    machine_busy: f64,
}

impl Window {
    pub(super) fn open(server: &impl Fn() -> Result<Usage>) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: server()?,
            client: process::usage(std::process::id())?,
            machine: process::machine()?,
        })
    }

    pub(super) fn close(self, server: &impl Fn() -> Result<Usage>) -> Result<Measured> {
        let seconds = self.at.elapsed().as_secs_f64();
        let now = server()?;
        let spent = |from: Usage, to: Usage| to.cpu.saturating_sub(from.cpu).as_secs_f64() * 1e3;
        let client = process::usage(std::process::id())?;
        Ok(Measured {
            seconds,
            server: now,
            server_cpu_ms: spent(self.server, now),
            client_cpu_ms: spent(self.client, client),
            machine_busy: process::machine()?.busy_since(self.machine),
        })
    }
}

pub(super) fn figures(
    options: &ViewersOptions,
    case: Case,
    tally: Tally,
    before: &Measured,
    measured: &Measured,
) -> Served {
    let viewers = f64::from(case.streams) * f64::from(case.viewers);
    let viewer_seconds = viewers * options.watch.as_secs_f64();
    let rate = |spent_ms: f64, of: &Measured| {
        if of.seconds > 1.0 {
            spent_ms / of.seconds
        } else {
            0.0
        }
    };
    let idle = rate(before.server_cpu_ms, before);
    let busy = rate(measured.server_cpu_ms, measured);
    let mut ages: Vec<f64> = tally.ages_ms.iter().map(|age| f64::from(*age)).collect();
    Served {
        cpu_ms_per_viewer_second: (busy - idle) / viewers,
        cpu_ms_per_second: busy,
        cpu_ms_per_second_before: idle,
        client_cpu_ms_per_second: rate(measured.client_cpu_ms, measured),
        machine_busy: measured.machine_busy,
        mbit_per_viewer_second: tally.bytes as f64 * 8e-6 / viewer_seconds,
        requests_per_viewer_second: tally.requests as f64 / viewer_seconds,
        parts_per_viewer_second: tally.parts as f64 / viewer_seconds,
        age_p50_ms: percentile(&mut ages, 50.0),
        age_p95_ms: percentile(&mut ages, 95.0),
        age_p99_ms: percentile(&mut ages, 99.0),
        errors: tally.errors,
        reasons: tally.reason.into_iter().collect(),
        rss_kib: measured.server.rss_kib,
        rss_per_viewer_kib: (measured.server.rss_kib as f64 - before.server.rss_kib as f64)
            / viewers,
        waiters_left: None,
    }
}

/// The rows as a Markdown table of medians over the runs.
pub fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| streams x viewers | server | CPU ms per viewer-second | server / client CPU of one core | machine busy \
         | Mbit/s per viewer | requests per viewer-second | age p50 / p95 / p99 ms | memory per viewer | errors |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        for (server, runs) in [("whipgate", &row.gateway), ("nginx", &row.nginx)] {
            if runs.is_empty() {
                continue;
            }
            let median = |figure: fn(&Served) -> Option<f64>| {
                let mut values: Vec<f64> = runs.iter().filter_map(figure).collect();
                percentile(&mut values, 50.0).unwrap_or(f64::NAN)
            };
            let errors: u64 = runs.iter().map(|run| run.errors).sum();
            let line = writeln!(
                table,
                "| {} x {} | {server} | {:.2} | {:.0} % / {:.0} % | {:.0} % | {:.2} | {:.1} | {:.0} / {:.0} / {:.0} | {:.0} KiB | {errors} |",
                row.case.streams,
                row.case.viewers,
                median(|run| Some(run.cpu_ms_per_viewer_second)),
                median(|run| Some(run.cpu_ms_per_second / 10.0)),
                median(|run| Some(run.client_cpu_ms_per_second / 10.0)),
                median(|run| Some(run.machine_busy * 100.0)),
                median(|run| Some(run.mbit_per_viewer_second)),
                median(|run| Some(run.requests_per_viewer_second)),
                median(|run| run.age_p50_ms),
                median(|run| run.age_p95_ms),
                median(|run| run.age_p99_ms),
                median(|run| Some(run.rss_per_viewer_kib)),
            );
            if line.is_err() {
                return table;
            }
        }
    }
    table
}
