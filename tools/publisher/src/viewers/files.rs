//! nginx as the measure of what this machine can do: the same bytes as files, asked for in the same pattern.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::known::Kept;
use crate::process::{self, Usage};

/// Longest wait for it to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running nginx with its folder, gone together.
#[derive(Debug)]
pub(super) struct FileServer {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl FileServer {
    /// Serves each rendition's answers as `/{name}/{n}.m3u8` and `/{name}/{n}.mp4`.
    pub(super) async fn start(renditions: &[(String, Kept)]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        for (name, kept) in renditions {
            let path = folder.path().join("files").join(name);
            fs::create_dir_all(&path)?;
            for (number, bytes) in kept.playlists.iter().enumerate() {
                fs::write(path.join(format!("{number}.m3u8")), bytes)?;
            }
            for (number, bytes) in kept.parts.iter().enumerate() {
                fs::write(path.join(format!("{number}.mp4")), bytes)?;
            }
        }
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, settings(address, folder.path()))?;
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start nginx (scripts/viewers --beside-nginx installs it)")?;
        let mut server = Self {
            child,
            address,
            folder,
        };
        server.wait_ready().await?;
        Ok(server)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("nginx does not listen:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The usage of all its processes.
    pub(super) fn usage(&self) -> Result<Usage> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let mut sum = process::usage(pid)?;
        let mut workers = 0;
        for worker in children.split_whitespace() {
            let usage = process::usage(worker.parse()?)?;
            sum.cpu += usage.cpu;
            sum.rss_kib += usage.rss_kib;
            sum.threads += usage.threads;
            workers += 1;
        }
        ensure!(workers > 0, "nginx has no workers");
        Ok(sum)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        // SIGTERM ends master and workers; a killed master would leave its workers behind.
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        if let Err(error) = asked.and_then(|_| self.child.wait()) {
            tracing::warn!(%error, "cannot end nginx");
        }
    }
}

fn settings(address: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    // As root its workers would otherwise not be let into the folder.
    format!(
        "user root;
daemon off;
worker_processes auto;
worker_rlimit_nofile 20000;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 10000; multi_accept on; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 75;
  keepalive_requests 1000000;
  open_file_cache max=1000 inactive=60s;
  open_file_cache_valid 60s;
  client_body_temp_path {folder}/t1;
  proxy_temp_path {folder}/t2;
  fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4;
  scgi_temp_path {folder}/t5;
  server {{ listen {address} backlog=4096 reuseport; root {folder}/files; }}
}}
"
    )
}
