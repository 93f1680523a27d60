//! The configuration: one struct per section, its defaults, where values come from and what is refused.
//!
//! Owns every key an operator can set and the rules between keys ([`Config::validate`]). Knows nothing of the modules
//! that are configured: the gateway hands each of them its own settings. A key is accepted here only when something
//! reads it; anything else is refused by name, so that a misspelt key never passes for a working one.

mod layers;
mod validate;
mod values;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;

pub use layers::{ConfigError, Sources};
pub use values::{Access, ByteSize, IceServer, IpNetwork, Secret};

use crate::{
    id::SessionId,
    media::{AudioFormat, Codec},
};

/// The documented example file; every default is written out in it.
pub const EXAMPLE: &str = include_str!("../../config/whipgate.example.toml");

/// Everything that can be configured. [`Config::default`] is safe: it listens on loopback only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The HTTP listener.
    pub http: Http,
    /// ICE, DTLS and codecs towards publishers.
    pub webrtc: WebRtc,
    /// Who may publish, play and administer.
    pub auth: Auth,
    /// Low-latency HLS output.
    pub hls: Hls,
    /// MP4 recording.
    pub recording: Recording,
    /// Life of a session.
    pub session: Session,
    /// Where data is kept.
    pub storage: Storage,
    /// Bounds on what a client can make the gateway do.
    pub limits: Limits,
    /// `GStreamer` pipelines.
    pub pipelines: Pipelines,
    /// Logging.
    pub log: Log,
}

/// Section `http`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and TCP port of the HTTP listener.
    pub listen: SocketAddr,
    /// Permits a non-loopback `listen` while `auth.publish` is `none`.
    pub allow_open: bool,
    /// PEM file with the certificate chain; with `tls_key` it turns HTTPS on.
    #[serde(deserialize_with = "values::optional_path")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of `tls_certificate`.
    #[serde(deserialize_with = "values::optional_path")]
    pub tls_key: Option<PathBuf>,
    /// Origins whose scripts may read answers (Fetch standard, CORS); `*` alone means any.
    pub cors_origins: Vec<String>,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNetwork>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4000)),
            allow_open: false,
            tls_certificate: None,
            tls_key: None,
            cors_origins: vec!["*".to_owned()],
            trusted_proxies: Vec::new(),
        }
    }
}

/// Section `webrtc`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebRtc {
    /// The one UDP port of all sessions; `None`: see [`Config::listen_udp`].
    pub listen_udp: Option<SocketAddr>,
    /// ICE-TCP (RFC 6544) for networks that block UDP; `None`: see [`Config::listen_tcp`].
    pub listen_tcp: Option<SocketAddr>,
    /// Addresses to offer instead of the local ones: NAT 1:1, Docker.
    pub public_addresses: Vec<IpAddr>,
    /// STUN and TURN servers offered to publishers by `Link` headers (RFC 9725 section 4.6).
    pub ice_servers: Vec<IceServer>,
    /// Accepted video codecs, best first.
    pub video_codecs: Vec<Codec>,
    /// Take VP8 from publishers that offer nothing else, by transcoding it to H.264.
    pub transcode_vp8: bool,
    /// Audio codecs that are taken from publishers that do not offer Opus, by transcoding to it, best first.
    pub transcode_audio: Vec<Codec>,
    /// Longest time between keyframes before one is asked for; see [`Config::keyframe_interval`].
    #[serde(with = "humantime_serde")]
    pub keyframe_interval: Duration,
}

impl Default for WebRtc {
    fn default() -> Self {
        Self {
            listen_udp: None,
            listen_tcp: None,
            public_addresses: Vec::new(),
            ice_servers: Vec::new(),
            video_codecs: vec![Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9],
            transcode_vp8: false,
            transcode_audio: vec![Codec::G722, Codec::Pcmu, Codec::Pcma],
            keyframe_interval: Duration::from_secs(2),
        }
    }
}

/// Section `auth`: who may do what.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Publishing: `/whip`.
    pub publish: Access,
    /// Watching and downloading: `/hls`, `/recordings`.
    pub play: Access,
    /// Administration: `/api`, `/metrics`. With `none` only clients on this machine, unless `http.allow_open`.
    pub admin: Access,
}

/// Section `hls`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hls {
    /// Target duration of a part (RFC 8216bis section 4.4.3.7).
    #[serde(with = "humantime_serde")]
    pub part_duration: Duration,
    /// Target duration of a segment (RFC 8216 section 4.3.3.1).
    #[serde(with = "humantime_serde")]
    pub segment_duration: Duration,
    /// How much of the past a live playlist lists.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// The playlist lists everything since the beginning; what is older than the window is read from the recording.
    pub dvr: bool,
    /// Forms in which sound is listed, the preferred one first. AAC is made only while somebody plays it.
    pub audio: Vec<AudioFormat>,
}

impl Default for Hls {
    fn default() -> Self {
        Self {
            part_duration: Duration::from_millis(200),
            segment_duration: Duration::from_secs(2),
            window: Duration::from_secs(30),
            dvr: false,
            audio: vec![AudioFormat::Opus],
        }
    }
}

/// Section `recording`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    /// Record every publication.
    pub enabled: bool,
    /// Free space below which `doctor` warns about the disk.
    pub min_free_bytes: ByteSize,
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            enabled: true,
            min_free_bytes: ByteSize::gib(1),
        }
    }
}

/// Section `session`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// What a second publisher of a session meets.
    pub on_conflict: OnConflict,
    /// How long a session whose publisher vanished waits for its return before it ends.
    #[serde(with = "humantime_serde")]
    pub reconnect_grace: Duration,
    /// Sessions at once; one more is answered with 503.
    pub max_sessions: usize,
    /// Ids that may publish; empty: any.
    pub known_sessions: Vec<SessionId>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            on_conflict: OnConflict::Probe,
            reconnect_grace: Duration::from_secs(15),
            max_sessions: 200,
            known_sessions: Vec::new(),
        }
    }
}

/// What happens to a publisher that finds another one in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// It takes over when the one in place is silent, and is refused when that one is live.
    Probe,
    /// It takes over at once.
    Replace,
    /// It is refused at once.
    Reject,
}

/// Section `storage`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Folder for recordings and state; made when missing.
    pub data_dir: PathBuf,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
        }
    }
}

/// Section `limits`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest request body; more is answered with 413.
    pub body_bytes: ByteSize,
    /// Longest request head; more is answered with 431.
    pub header_bytes: ByteSize,
    /// Time for a request head to arrive; afterwards the connection is closed with 408.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Time for a request with a body to be read and answered; afterwards 408.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// A client that takes nothing of an answer for so long, or is gone without a word, is cut off.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// TCP connections at once on the HTTP listener; more wait to be accepted. A viewer of low-latency HLS holds four.
    pub connections: usize,
    /// HLS requests at once that wait for media; one more is answered with 503. Each holds a connection, and a viewer has two
    /// to four of them.
    pub waiters: usize,
    /// WHIP `POST` requests per second and client address, with bursts of twice as many; more are answered with 429.
    pub posts_per_second: u32,
    /// WHIP `PATCH` and `DELETE` requests per second and client address, likewise.
    pub patches_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: ByteSize::kib(64),
            header_bytes: ByteSize::kib(16),
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(20),
            connections: 10_000,
            waiters: 10_000,
            posts_per_second: 10,
            patches_per_second: 50,
        }
    }
}

/// Section `pipelines`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pipelines {
    /// Folder with pipeline texts that replace the built-in ones.
    #[serde(deserialize_with = "values::optional_path")]
    pub dir: Option<PathBuf>,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`: `info`, `whipgate=debug,warn`.
    pub filter: String,
    /// How it is written.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Address of the UDP port all sessions share: `webrtc.listen_udp`, or address and port number of `http.listen`.
    pub fn listen_udp(&self) -> SocketAddr {
        self.webrtc.listen_udp.unwrap_or(self.http.listen)
    }

    /// Address of ICE-TCP: `webrtc.listen_tcp`, or the address of `http.listen` with the next port number. Port 0
    /// stays 0 (any free port).
    pub fn listen_tcp(&self) -> SocketAddr {
        self.webrtc.listen_tcp.unwrap_or_else(|| {
            let http = self.http.listen;
            let port = match http.port() {
                0 => 0,
                port => port.saturating_add(1),
            };
            SocketAddr::new(http.ip(), port)
        })
    }

    /// `webrtc.keyframe_interval`, but never longer than a segment: segments start with a keyframe.
    pub fn keyframe_interval(&self) -> Duration {
        self.webrtc.keyframe_interval.min(self.hls.segment_duration)
    }
}
