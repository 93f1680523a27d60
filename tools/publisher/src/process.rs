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

/// A reading of `/proc/stat`: processor time of the whole machine, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    all: u64,
    idle: u64,
}

impl Machine {
    /// Share of the time since an earlier reading that was in use by anybody, 0 to 1.
    pub fn busy_since(&self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let idle = self.idle.saturating_sub(before.idle);
        1.0 - idle as f64 / all.max(1) as f64
    }
}

/// Reads the machine's usage now.
pub fn machine() -> Result<Machine> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    of_machine(&stat).context("unreadable /proc/stat")
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal; what guests used is in the first two already.
fn of_machine(stat: &str) -> Option<Machine> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    Some(Machine {
        all: ticks.iter().sum(),
        idle: ticks.get(3)? + ticks.get(4)?,
    })
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
    fn the_machine_is_busy_when_it_is_not_idle() {
        let before = of_machine("cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1 2 3\n").unwrap();
        let after = of_machine("cpu  30 0 20 130 20 0 0 0 25 5\n").unwrap();
        assert!((after.busy_since(before) - 0.3).abs() < 1e-9);
        assert!(of_machine("intr 1").is_none());
        assert!((0.0..=1.0).contains(&machine().unwrap().busy_since(before)));
    }

    #[test]
    fn reads_this_process() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_kib > 100 && usage.threads >= 1);
    }
}
