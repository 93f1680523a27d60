//! A gateway of its own for a measurement: started from its binary on free ports, gone with its data afterwards.

use std::{
    fs::File,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use reqwest::Url;

/// Longest wait for a gateway to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway on free loopback ports with a data folder that goes when it does.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    base: Url,
    folder: tempfile::TempDir,
}

impl Gateway {
    pub(crate) fn start(binary: &Path, arguments: &[String]) -> Result<Self> {
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

    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
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

    /// Where its HTTP is.
    pub(crate) const fn base(&self) -> &Url {
        &self.base
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder of recordings.
    pub(crate) fn recordings(&self) -> PathBuf {
        self.folder.path().join("data/recordings")
    }

    /// Whether the process is over.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Copies its log into a folder.
    pub(crate) fn keep(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::copy(self.folder.path().join("log"), folder.join("gateway.log"))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        Ok(())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
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
