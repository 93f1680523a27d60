//! What Linux says about a running process: CPU time and memory.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// `USER_HZ`, the same on every Linux architecture that matters here.
const TICK: Duration = Duration::from_millis(10);

/// A reading of `/proc/PID`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    /// User and system time of all threads since the start.
    pub cpu: Duration,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Threads.
    pub threads: u64,
}

/// Reads the process's usage now.
pub fn usage(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let status = read("status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    Ok(Usage {
        cpu: cpu(&read("stat")?).context("unreadable /proc stat")?,
        rss_kib: field("VmRSS").context("no VmRSS")?,
        threads: field("Threads").context("no Threads")?,
    })
}

/// Fields 14 and 15 of `stat`, counted after the command, which may hold spaces and brackets (proc(5)).
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_command_with_brackets() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 100 1000 200";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
    }

    #[test]
    fn reads_this_process() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_kib > 100 && usage.threads >= 1);
    }
}
