//! What the gateway says about itself: the log subscriber of the binary and the metrics registry.
//!
//! Owns names, units and labels of every metric. A session id is never a label: ids come from outside and without
//! bound. Must not know who counts; the counters are handed out as plain fields.

use std::{
    borrow::Cow,
    fmt, fs,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::Registry,
};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Log, LogFormat},
    media::MediaKind,
};

/// Libraries whose messages are of use to their developers only; a filter that names one of them has the last word.
const QUIET: &str = "rtc=error,rtc_ice=error,rtc_dtls=error,webrtc=error,actix_server=warn";

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `log.filter` cannot be read.
    #[error("log.filter: {filter:?} is not a filter such as info or whipgate=debug,warn: {reason}")]
    Filter {
        /// What the configuration says.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has a subscriber already.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Whether `log.filter` can be read; tells the configuration's mistakes before anything is started.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|error| TelemetryError::Filter {
            filter: filter.to_owned(),
            reason: error.to_string(),
        })
}

/// Installs the process-wide subscriber, which writes to standard error. For binaries only: a library leaves that to
/// its application.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(&log.filter)?)
        .with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .finish()
            .try_init(),
        LogFormat::Json => builder.json().finish().try_init(),
    };
    installed.map_err(|_| TelemetryError::AlreadySet)
}

/// Label of metrics that are counted apart for video and audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// `video` or `audio`.
    kind: &'static str,
}

impl From<MediaKind> for KindLabel {
    fn from(kind: MediaKind) -> Self {
        Self {
            kind: kind.as_str(),
        }
    }
}

/// Label of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// `live`, `stalled` and so on.
    pub state: &'static str,
}

/// Labels of HTTP requests: few values each, whatever clients send.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The pattern of the route, `other` for none.
    pub route: Cow<'static, str>,
    /// The method, `other` for unusual ones.
    pub method: &'static str,
    /// `2xx` and so on.
    pub status: &'static str,
}

/// Label of bytes sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabel {
    /// The pattern of the route, `other` for none.
    pub route: Cow<'static, str>,
}

/// Every metric of the gateway. Counters are shared and cheap to count on.
pub struct Metrics {
    registry: Registry,
    /// `whipgate_sessions`: sessions there are, by state; set at each scrape.
    pub sessions: Family<StateLabel, Gauge>,
    /// `whipgate_av_offset_max_seconds`: largest offset of sound against picture, of all sessions and without its sign;
    /// set at each scrape.
    pub av_offset_max: Gauge<f64, AtomicU64>,
    /// `whipgate_av_offset_uncertain_sessions`: sessions whose offset is known to no better than 20 ms; set at each
    /// scrape.
    pub av_offset_uncertain: Gauge,
    /// `whipgate_publications_total`: publications accepted.
    pub publications: Counter,
    /// `whipgate_rtp_packets_total`: RTP packets received.
    pub rtp_packets: Family<KindLabel, Counter>,
    /// `whipgate_rtp_packets_lost_total`: RTP packets that never came.
    pub rtp_packets_lost: Family<KindLabel, Counter>,
    /// `whipgate_media_events_dropped_total`: events that found a session's queue full.
    pub events_dropped: Counter,
    /// `whipgate_stuck_workers`: media threads that hang in a call and were replaced; set once a second.
    pub stuck_workers: Gauge,
    /// `whipgate_parts_total`: parts published.
    pub parts: Family<KindLabel, Counter>,
    /// `whipgate_part_bytes_total`: bytes of the parts published.
    pub part_bytes: Family<KindLabel, Counter>,
    /// `whipgate_hls_waiters`: HLS requests that wait for media.
    pub hls_waiters: Gauge,
    /// `whipgate_posters_total`: posters decoded, failures included.
    pub posters: Counter,
    /// `whipgate_poster_failures_total`: posters that could not be decoded.
    pub poster_failures: Counter,
    /// `whipgate_http_requests_total`: HTTP requests answered.
    pub http_requests: Family<RequestLabels, Counter>,
    /// `whipgate_http_response_bytes_total`: length of the bodies of answers, before they are sent.
    pub http_response_bytes: Family<RouteLabel, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// `Content-Type` of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A registry with everything at zero.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        let ours = registry.sub_registry_with_prefix("whipgate");
        ours.register(
            "build",
            "Version of the gateway",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        macro_rules! register {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                ours.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let mut metrics = Self {
            sessions: register!("sessions", "Sessions there are, by state"),
            av_offset_max: register!(
                "av_offset_max_seconds",
                "Largest measured offset of sound against picture of all sessions"
            ),
            av_offset_uncertain: register!(
                "av_offset_uncertain_sessions",
                "Sessions whose offset of sound against picture is uncertain by more than 20 ms"
            ),
            publications: register!("publications", "Publications accepted"),
            rtp_packets: register!("rtp_packets", "RTP packets received"),
            rtp_packets_lost: register!("rtp_packets_lost", "RTP packets that never came"),
            events_dropped: register!(
                "media_events_dropped",
                "Events that found the queue of a session full"
            ),
            stuck_workers: register!(
                "stuck_workers",
                "Media threads that hang in a call and were replaced"
            ),
            parts: register!("parts", "Parts published"),
            part_bytes: register!("part_bytes", "Bytes of the parts published"),
            hls_waiters: register!("hls_waiters", "HLS requests that wait for media"),
            posters: register!("posters", "Posters decoded, failures included"),
            poster_failures: register!("poster_failures", "Posters that could not be decoded"),
            http_requests: register!("http_requests", "HTTP requests answered"),
            http_response_bytes: register!(
                "http_response_bytes",
                "Length of the bodies of HTTP answers"
            ),
            registry: Registry::default(),
        };
        metrics.registry = registry;
        Arc::new(metrics)
    }

    /// The present values in the `OpenMetrics` text format, which Prometheus reads.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry) {
            tracing::error!(%error, "metrics cannot be written out");
        }
        out
    }
}

/// Figures of this process under the names that dashboards know, read at each scrape.
#[derive(Debug)]
struct Process {
    started: f64,
}

impl Process {
    fn new() -> Self {
        Self {
            started: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        let figures = [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                field("VmRSS:").map(|kib| kib * 1_024),
            ),
            ("process_threads", "Number of threads", field("Threads:")),
            (
                "process_open_fds",
                "Number of open file descriptors",
                fs::read_dir("/proc/self/fd")
                    .ok()
                    .map(|fds| fds.count() as u64),
            ),
        ];
        for (name, help, value) in figures {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let started = ConstGauge::new(self.started);
        let name = "process_start_time_seconds";
        let help = "Start time of the process since the Unix epoch in seconds";
        started.encode(encoder.encode_descriptor(name, help, None, started.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_and_counted() {
        let metrics = Metrics::new();
        metrics
            .sessions
            .get_or_create(&StateLabel { state: "live" })
            .set(3);
        metrics
            .rtp_packets
            .get_or_create(&MediaKind::Video.into())
            .inc_by(7);
        let text = metrics.encode();
        for line in [
            concat!(
                "whipgate_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "whipgate_sessions{state=\"live\"} 3",
            "whipgate_publications_total 0",
            "whipgate_rtp_packets_total{kind=\"video\"} 7",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        for name in [
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let value = text
                .lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            assert!(value.unwrap().parse::<f64>().unwrap() > 0.0, "{name}");
        }
    }

    #[test]
    fn filters_are_checked() {
        assert!(parse_filter("whipgate=debug,warn").is_ok());
        let error = parse_filter("whipgate=loud").unwrap_err().to_string();
        assert!(
            error.contains("log.filter") && error.contains("whipgate=loud"),
            "{error}"
        );
    }
}
