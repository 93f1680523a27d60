//! Rules between keys and ranges of single keys, checked once at start.

use std::{collections::HashSet, time::Duration};

use super::{Access, Config, ConfigError};
use crate::media::MediaKind;

impl Config {
    /// Checks every rule and reports all that are broken, each with its key and the way out.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.check_exposure(&mut problems);
        self.check_http(&mut problems);
        self.check_webrtc(&mut problems);
        self.check_hls(&mut problems);
        self.check_session_and_limits(&mut problems);
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid { problems })
        }
    }

    fn check_exposure(&self, problems: &mut Vec<String>) {
        let listen = self.http.listen;
        if !listen.ip().to_canonical().is_loopback()
            && self.auth.publish == Access::Anyone
            && !self.http.allow_open
        {
            problems.push(format!(
                "http.listen = {listen} lets everybody who can reach this machine publish, because auth.publish = none. \
                 Two ways out: set a token (auth.publish = [\"...\"]), or say http.allow_open = true"
            ));
        }
    }

    fn check_http(&self, problems: &mut Vec<String>) {
        let http = &self.http;
        match (&http.tls_certificate, &http.tls_key) {
            (Some(_), None) => {
                problems.push("http.tls_certificate is set, but http.tls_key is not".to_owned());
            }
            (None, Some(_)) => {
                problems.push("http.tls_key is set, but http.tls_certificate is not".to_owned());
            }
            _ => {}
        }
        if http.cors_origins.len() > 1 && http.cors_origins.iter().any(|origin| origin == "*") {
            problems.push(
                "http.cors_origins: \"*\" already means every origin, so it stands alone"
                    .to_owned(),
            );
        }
        for origin in &http.cors_origins {
            if origin != "*" && !is_origin(origin) {
                problems.push(format!(
                    "http.cors_origins: {origin:?} is not an origin: write scheme://host or scheme://host:port without a path, or \"*\""
                ));
            }
        }
    }

    fn check_webrtc(&self, problems: &mut Vec<String>) {
        let webrtc = &self.webrtc;
        let http = self.http.listen;
        if webrtc.listen_tcp.is_none() && http.port() == u16::MAX {
            problems.push(
                "webrtc.listen_tcp: there is no port after 65535 of http.listen, so it must be set"
                    .to_owned(),
            );
        } else if http.port() != 0 && self.listen_tcp().port() == http.port() {
            let tcp = self.listen_tcp().ip();
            if tcp == http.ip() || tcp.is_unspecified() || http.ip().is_unspecified() {
                problems.push(format!(
                    "webrtc.listen_tcp uses the same TCP port as http.listen ({}): give it another one",
                    http.port()
                ));
            }
        }
        for address in &webrtc.public_addresses {
            if address.is_unspecified() || address.is_multicast() {
                problems.push(format!(
                    "webrtc.public_addresses: {address} is no address that a publisher can send to"
                ));
            }
        }
        if webrtc.video_codecs.is_empty() {
            problems
                .push("webrtc.video_codecs: name at least one of h264, h265, av1, vp9".to_owned());
        }
        let mut seen = HashSet::new();
        for codec in &webrtc.video_codecs {
            if codec.kind() != MediaKind::Video {
                problems.push(format!("webrtc.video_codecs: {codec} is not a video codec"));
            } else if codec.transcoded_to().is_some() {
                problems.push(format!(
                    "webrtc.video_codecs: {codec} is not passed through; webrtc.transcode_{codec} = true takes it from \
                     publishers that offer nothing else"
                ));
            } else if !seen.insert(codec) {
                problems.push(format!("webrtc.video_codecs: {codec} is named twice"));
            }
        }
        for codec in &webrtc.transcode_audio {
            if codec.kind() != MediaKind::Audio || codec.transcoded_to().is_none() {
                problems.push(format!(
                    "webrtc.transcode_audio: {codec} is none of g722, pcmu, pcma (opus is always taken)"
                ));
            } else if !seen.insert(codec) {
                problems.push(format!("webrtc.transcode_audio: {codec} is named twice"));
            }
        }
        range(
            problems,
            "webrtc.keyframe_interval",
            webrtc.keyframe_interval,
            Duration::from_millis(250),
            Duration::from_mins(1),
        );
    }

    fn check_hls(&self, problems: &mut Vec<String>) {
        let hls = &self.hls;
        range(
            problems,
            "hls.part_duration",
            hls.part_duration,
            Duration::from_millis(50),
            Duration::from_secs(5),
        );
        range(
            problems,
            "hls.segment_duration",
            hls.segment_duration,
            Duration::from_millis(500),
            Duration::from_secs(30),
        );
        if hls.dvr && !self.recording.enabled {
            problems.push(
                "hls.dvr = true reads the past from the recording, but recording.enabled = false. Two ways out: record \
                 (recording.enabled = true), or keep to the window (hls.dvr = false)"
                    .to_owned(),
            );
        }
        if hls.audio.is_empty() {
            problems.push("hls.audio: name opus, aac or both".to_owned());
        }
        if hls.audio.iter().collect::<HashSet<_>>().len() < hls.audio.len() {
            problems.push("hls.audio: each form of sound can be named once only".to_owned());
        }
        if hls.part_duration >= hls.segment_duration {
            problems.push(format!(
                "hls.part_duration ({}) must be shorter than hls.segment_duration ({})",
                show(hls.part_duration),
                show(hls.segment_duration)
            ));
        }
        // Nothing may leave the playlist that leaves less than three target durations (RFC 8216 section 6.2.2).
        if hls.window < hls.segment_duration.saturating_mul(3) {
            problems.push(format!(
                "hls.window ({}) must be at least three times hls.segment_duration ({})",
                show(hls.window),
                show(hls.segment_duration)
            ));
        }
        if hls.window > Duration::from_hours(1) {
            problems.push(format!(
                "hls.window ({}) must be at most 1h",
                show(hls.window)
            ));
        }
    }

    fn check_session_and_limits(&self, problems: &mut Vec<String>) {
        let (session, limits) = (&self.session, &self.limits);
        range(
            problems,
            "session.reconnect_grace",
            session.reconnect_grace,
            Duration::ZERO,
            Duration::from_mins(10),
        );
        range(
            problems,
            "limits.header_timeout",
            limits.header_timeout,
            Duration::from_millis(100),
            Duration::from_mins(1),
        );
        range(
            problems,
            "limits.write_timeout",
            limits.write_timeout,
            Duration::from_secs(1),
            Duration::from_mins(10),
        );
        range(
            problems,
            "limits.body_timeout",
            limits.body_timeout,
            Duration::from_secs(5),
            Duration::from_mins(5),
        );
        within(
            problems,
            "limits.body_bytes",
            limits.body_bytes.0,
            4 << 10,
            16 << 20,
        );
        // The HTTP parser itself gives up at 128 KiB.
        within(
            problems,
            "limits.header_bytes",
            limits.header_bytes.0,
            1 << 10,
            128 << 10,
        );
        for (key, value) in [
            ("session.max_sessions", session.max_sessions as u64),
            ("limits.connections", limits.connections as u64),
            ("limits.waiters", limits.waiters as u64),
            (
                "limits.posts_per_second",
                u64::from(limits.posts_per_second),
            ),
            (
                "limits.patches_per_second",
                u64::from(limits.patches_per_second),
            ),
        ] {
            within(problems, key, value, 1, 1_000_000);
        }
    }
}

fn range(problems: &mut Vec<String>, key: &str, value: Duration, least: Duration, most: Duration) {
    if value < least || value > most {
        problems.push(format!(
            "{key} ({}) must be from {} to {}",
            show(value),
            show(least),
            show(most)
        ));
    }
}

fn within(problems: &mut Vec<String>, key: &str, value: u64, least: u64, most: u64) {
    if value < least || value > most {
        problems.push(format!("{key} ({value}) must be from {least} to {most}"));
    }
}

fn show(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

/// `scheme://host[:port]` as browsers write it in `Origin`.
fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_lowercase())
            && !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
    })
}
