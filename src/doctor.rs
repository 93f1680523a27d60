//! `whipgate doctor`: whether this machine is fit for what the configuration asks. Part of the binary.
//!
//! Each check looks at one thing and says what it found and, where something is wrong, what to do about it. Nothing is
//! changed; ports are opened and closed again, a file is written into the data folder and removed.

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use whipgate::{
    config::{ByteSize, Config},
    gateway,
    pipeline::{PipelineError, Pipelines},
};

/// Receive buffer that the UDP port of all sessions needs.
const RECEIVE_BUFFER: u64 = 4 << 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, but not well or not for everybody.
    Warn,
    /// The gateway will not work like this.
    Fail,
}

/// What one check found.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    name: &'static str,
    text: String,
    way_out: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, text: String) -> Self {
        Self {
            level: Level::Ok,
            name,
            text,
            way_out: None,
        }
    }

    fn bad(level: Level, name: &'static str, text: String, way_out: impl Into<String>) -> Self {
        Self {
            level,
            name,
            text,
            way_out: Some(way_out.into()),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        writeln!(f, "{level} {}: {}", self.name, self.text)?;
        match &self.way_out {
            Some(way_out) => writeln!(f, "     -> {way_out}"),
            None => Ok(()),
        }
    }
}

/// All checks, in the order of the output.
const CHECKS: [fn(&Config) -> Finding; 8] = [
    http_port,
    udp_port,
    tcp_port,
    reachability,
    receive_buffer,
    data_folder,
    free_space,
    codecs,
];

/// Runs all checks.
pub(crate) fn examine(config: &Config) -> Vec<Finding> {
    CHECKS.iter().map(|check| check(config)).collect()
}

fn http_port(config: &Config) -> Finding {
    let address = config.http.listen;
    port(
        "HTTP port",
        address,
        "http.listen",
        TcpListener::bind(address).map(drop),
    )
}

fn udp_port(config: &Config) -> Finding {
    let address = config.listen_udp();
    port(
        "UDP port",
        address,
        "webrtc.listen_udp",
        UdpSocket::bind(address).map(drop),
    )
}

fn tcp_port(config: &Config) -> Finding {
    let address = config.listen_tcp();
    port(
        "ICE-TCP port",
        address,
        "webrtc.listen_tcp",
        TcpListener::bind(address).map(drop),
    )
}

fn port(name: &'static str, address: SocketAddr, key: &str, opened: io::Result<()>) -> Finding {
    match opened {
        Ok(()) => Finding::ok(name, format!("{address} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::bad(
            Level::Fail,
            name,
            format!("{address} is in use"),
            format!(
                "fine if that is whipgate itself; otherwise end the other program or set {key}"
            ),
        ),
        Err(error) => Finding::bad(
            Level::Fail,
            name,
            format!("{address} cannot be opened: {error}"),
            format!("set {key} to an address of this machine and a port that this user may open"),
        ),
    }
}

fn reachability(config: &Config) -> Finding {
    let name = "publishers elsewhere";
    let (http, udp) = (config.http.listen.ip(), config.listen_udp().ip());
    let public = &config.webrtc.public_addresses;
    if http.is_loopback() {
        Finding::ok(
            name,
            "none: only this machine can publish and watch. For others set http.listen = \"0.0.0.0:4000\" and \
             auth.publish"
                .to_owned(),
        )
    } else if udp.is_loopback() && public.is_empty() {
        Finding::bad(
            Level::Fail,
            name,
            format!("HTTP is open on {http}, but media is received on {udp} only"),
            "remove webrtc.listen_udp, or set it to an address that publishers reach",
        )
    } else if public.is_empty() {
        Finding::ok(
            name,
            "are told this machine's own addresses. Behind NAT or in Docker set webrtc.public_addresses".to_owned(),
        )
    } else {
        let list: Vec<String> = public.iter().map(ToString::to_string).collect();
        Finding::ok(
            name,
            format!("are told to send media to {}", list.join(", ")),
        )
    }
}

fn receive_buffer(_: &Config) -> Finding {
    let name = "UDP receive buffer";
    let file = "/proc/sys/net/core/rmem_max";
    let most = fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(ByteSize);
    match most {
        Some(most) if most.0 >= RECEIVE_BUFFER => {
            Finding::ok(name, format!("the kernel gives up to {most}"))
        }
        Some(most) => Finding::bad(
            Level::Warn,
            name,
            format!("the kernel gives at most {most}; many sessions at once will lose packets"),
            format!("sysctl -w net.core.rmem_max={RECEIVE_BUFFER}, and the same in /etc/sysctl.d"),
        ),
        None => Finding::bad(
            Level::Warn,
            name,
            format!("{file} cannot be read"),
            "make sure that UDP sockets may have a receive buffer of 4 MiB",
        ),
    }
}

fn data_folder(config: &Config) -> Finding {
    let name = "data folder";
    let folder = &config.storage.data_dir;
    let shown = folder.display();
    let existing = existing(folder);
    match tempfile_in(existing) {
        Ok(()) if existing == folder => Finding::ok(name, format!("{shown} can be written to")),
        Ok(()) => Finding::ok(name, format!("{shown} can be made")),
        Err(error) => Finding::bad(
            Level::Fail,
            name,
            format!("{} cannot be written to: {error}", existing.display()),
            "make it writable for this user, or set storage.data_dir",
        ),
    }
}

fn free_space(config: &Config) -> Finding {
    let name = "free space";
    let folder = existing(&config.storage.data_dir);
    let wanted = config.recording.min_free_bytes;
    match rustix::fs::statvfs(folder) {
        Ok(disk) => {
            let free = ByteSize(disk.f_bavail.saturating_mul(disk.f_frsize));
            // A recording of 6 Mbit/s.
            let hours = free.0 / (6_000_000 / 8 * 3_600);
            let text = format!(
                "{} MiB, about {hours} hours of one 6 Mbit/s session",
                free.0 >> 20
            );
            if free < wanted {
                let way_out = format!(
                    "free some, or set storage.data_dir to a larger disk (recording.min_free_bytes = {wanted})"
                );
                Finding::bad(Level::Warn, name, text, way_out)
            } else {
                Finding::ok(name, text)
            }
        }
        Err(error) => Finding::bad(
            Level::Warn,
            name,
            format!("of {} is unknown: {error}", folder.display()),
            "check the file system",
        ),
    }
}

fn codecs(config: &Config) -> Finding {
    let name = "codecs";
    let texts = gateway::pipeline_texts(config);
    match Pipelines::load_only(config.pipelines.dir.as_deref(), &texts) {
        Ok(pipelines) if !pipelines.lacking().is_empty() => {
            let missing = pipelines.lacking().iter();
            let missing = missing.flat_map(|(_, elements)| elements.clone()).collect();
            Finding::bad(
                Level::Warn,
                name,
                format!(
                    "some posters cannot be made: {}",
                    PipelineError::MissingElements(missing)
                ),
                "install the packages named; all else works without",
            )
        }
        Ok(pipelines) => {
            let list: Vec<String> = pipelines
                .origins()
                .map(|(text, _)| text.to_string())
                .collect();
            Finding::ok(name, format!("pipelines for {} work", list.join(", ")))
        }
        Err(error) => Finding::bad(
            Level::Fail,
            name,
            error.to_string(),
            "install the packages named, or mend the text in pipelines.dir; webrtc.transcode_audio, webrtc.transcode_vp8 \
             and hls.audio say which of the transcoding texts are needed",
        ),
    }
}

/// The folder, or the one above it that exists.
fn existing(folder: &Path) -> &Path {
    folder
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("."))
}

/// Makes a file in a folder and removes it.
fn tempfile_in(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".whipgate-doctor-{}", std::process::id()));
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_with_the_key() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.http.listen = taken.local_addr().unwrap();
        let finding = http_port(&config);
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.to_string().contains("http.listen"), "{finding}");
        config.http.listen.set_port(0);
        assert_eq!(http_port(&config).level, Level::Ok);
    }

    #[test]
    fn a_data_folder_that_cannot_be_is_told() {
        let mut config = Config::default();
        config.storage.data_dir = "/proc/whipgate".into();
        let finding = data_folder(&config);
        assert_eq!(finding.level, Level::Fail);
        assert!(
            finding.to_string().contains("storage.data_dir"),
            "{finding}"
        );
        let folder = tempfile::tempdir().unwrap();
        config.storage.data_dir = folder.path().join("not/yet/there");
        assert_eq!(data_folder(&config).level, Level::Ok);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn space_below_the_limit_is_a_warning() {
        let mut config = Config::default();
        config.storage.data_dir = std::env::temp_dir();
        config.recording.min_free_bytes = ByteSize(0);
        assert_eq!(free_space(&config).level, Level::Ok);
        config.recording.min_free_bytes = ByteSize(u64::MAX);
        let finding = free_space(&config);
        assert_eq!(finding.level, Level::Warn, "{finding}");
    }

    #[test]
    fn media_on_loopback_behind_open_http_is_told() {
        let mut config = Config::default();
        assert_eq!(reachability(&config).level, Level::Ok);
        config.http.listen = "0.0.0.0:4000".parse().unwrap();
        assert_eq!(reachability(&config).level, Level::Ok);
        config.webrtc.listen_udp = Some("127.0.0.1:4000".parse().unwrap());
        assert_eq!(reachability(&config).level, Level::Fail);
    }
}
