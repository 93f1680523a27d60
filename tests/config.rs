//! The configuration as an operator meets it: order of sources, refusals, their wording, and the documented example.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{ffi::OsString, io::Write, time::Duration};

use tempfile::NamedTempFile;
use whipgate::{
    config::{
        Access, ByteSize, Config, ConfigError, EXAMPLE, LogFormat, OnConflict, Secret, Sources,
    },
    id::SessionId,
    media::Codec,
};

fn load(
    file: &str,
    environment: &[(&str, &str)],
    overrides: &[&str],
) -> Result<Config, ConfigError> {
    let mut on_disk = NamedTempFile::with_suffix(".toml").unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    Config::load(&Sources {
        file: Some(on_disk.path().to_owned()),
        environment: environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
        overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
    })
}

fn set(text: &str) -> Result<Config, ConfigError> {
    load("", &[], &[text])
}

fn refusal(result: Result<Config, ConfigError>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn the_documented_example_equals_the_defaults() {
    assert_eq!(load(EXAMPLE, &[], &[]).unwrap(), Config::default());
}

/// serde lists the keys it knows when it meets one it does not.
fn known_keys(toml: &str) -> Vec<String> {
    let message = refusal(Config::from_toml(toml, "x"));
    let (_, list) = message
        .split_once("expected one of ")
        .or_else(|| message.split_once("expected "))
        .unwrap();
    list.lines()
        .next()
        .unwrap()
        .split(['`', ',', ' '])
        .filter(|key| !key.is_empty() && *key != "or")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_documented_example_names_every_key() {
    let mut documented = Vec::new();
    let mut section = String::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && !line.starts_with("# ")
        {
            documented.push(format!("{section}.{key}"));
        }
    }
    documented.sort();
    let mut known: Vec<String> = known_keys("zzz = 1")
        .iter()
        .flat_map(|section| {
            known_keys(&format!("[{section}]\nzzz = 1"))
                .into_iter()
                .map(move |key| format!("{section}.{key}"))
        })
        .collect();
    known.sort();
    assert_eq!(documented, known);
}

#[test]
fn what_the_example_shows_in_comments_is_accepted_too() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = load(&uncommented, &[], &[]).unwrap();
    assert_eq!(config.webrtc.listen_udp, Some(config.listen_udp()));
    assert_eq!(config.listen_udp(), Config::default().listen_udp());
    assert_eq!(config.listen_tcp(), Config::default().listen_tcp());
    assert!(config.http.tls_key.is_some() && config.pipelines.dir.is_some());
}

#[test]
fn a_later_source_wins() {
    let file = "[hls]\npart_duration = \"300ms\"\nsegment_duration = \"3s\"\nwindow = \"40s\"\n";
    let environment = [
        ("WHIPGATE__HLS__SEGMENT_DURATION", "4s"),
        ("WHIPGATE__HLS__WINDOW", "50s"),
        ("WHIPGATE_HLS_WINDOW", "not ours"),
        ("HOME", "/root"),
    ];
    let hls = load(
        file,
        &environment,
        &[
            "hls.window=1m",
            "session.max_sessions=7",
            "session.max_sessions=8",
        ],
    )
    .unwrap();
    assert_eq!(hls.hls.part_duration, Duration::from_millis(300));
    assert_eq!(hls.hls.segment_duration, Duration::from_secs(4));
    assert_eq!(hls.hls.window, Duration::from_mins(1));
    assert_eq!(hls.session.max_sessions, 8);
    assert_eq!(hls.http, Config::default().http);
}

#[test]
fn every_type_can_come_from_text() {
    let config = load(
        "",
        &[
            ("WHIPGATE__RECORDING__ENABLED", "false"),
            ("WHIPGATE__LIMITS__BODY_BYTES", "128 KiB"),
            ("WHIPGATE__WEBRTC__VIDEO_CODECS", "vp9, h264"),
            ("WHIPGATE__WEBRTC__PUBLIC_ADDRESSES", "203.0.113.7"),
            ("WHIPGATE__LOG__FORMAT", "json"),
            ("WHIPGATE__SESSION__ON_CONFLICT", "reject"),
            ("WHIPGATE__HTTP__TRUSTED_PROXIES", ""),
            ("WHIPGATE__PIPELINES__DIR", ""),
        ],
        &[
            "session.known_sessions=1234,studio",
            "http.cors_origins=[\"https://a.example\", \"https://b.example:8443\"]",
            "webrtc.ice_servers=[{ url = \"turn:t.example\", username = \"u\", credential = \"c\" }]",
            "limits.header_bytes=20000",
            "storage.data_dir=/srv/data",
        ],
    )
    .unwrap();
    assert!(!config.recording.enabled);
    assert_eq!(config.limits.body_bytes, ByteSize::kib(128));
    assert_eq!(config.limits.header_bytes, ByteSize(20_000));
    assert_eq!(config.webrtc.video_codecs, [Codec::Vp9, Codec::H264]);
    assert_eq!(
        config.webrtc.public_addresses,
        ["203.0.113.7".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.session.on_conflict, OnConflict::Reject);
    assert!(config.http.trusted_proxies.is_empty());
    assert_eq!(config.pipelines.dir, None);
    let known: Vec<_> = config
        .session
        .known_sessions
        .iter()
        .map(SessionId::as_str)
        .collect();
    assert_eq!(known, ["1234", "studio"]);
    assert_eq!(config.http.cors_origins.len(), 2);
    assert_eq!(
        config.webrtc.ice_servers[0].credential,
        Some(Secret::new("c"))
    );
    assert_eq!(config.storage.data_dir.to_str(), Some("/srv/data"));
}

#[test]
fn unknown_keys_are_refused_by_name_from_every_source() {
    let message = refusal(load("\n[hls]\npart_durations = \"1s\"\n", &[], &[]));
    assert!(
        message.contains(".toml:3:1: unknown key `part_durations`"),
        "{message}"
    );
    assert!(
        message.contains("3 | part_durations = \"1s\"\n  | ^^^^^^^^^^^^^^"),
        "{message}"
    );
    let message = refusal(load("", &[("WHIPGATE__HLS__PART_DURATIONS", "1s")], &[]));
    assert!(
        message.starts_with(
            "environment variable WHIPGATE__HLS__PART_DURATIONS: unknown key `hls.part_durations`"
        ),
        "{message}"
    );
    let message = refusal(set("hls.rewind=true"));
    assert!(
        message.starts_with("--set hls.rewind: unknown key `hls.rewind`"),
        "{message}"
    );
    for text in [
        "nosuch.key=1",
        "listen=1",
        ".x=1",
        "http.=1",
        "hls.window.x=1",
    ] {
        let key = text.split('=').next().unwrap();
        let message = refusal(set(text));
        assert!(
            message.contains(&format!("unknown key `{key}`")),
            "{message}"
        );
    }
    assert_eq!(
        refusal(set("hls.window")),
        "--set: expected section.key=value"
    );
    let message = refusal(load("", &[("WHIPGATE__LISTEN", "x")], &[]));
    assert!(message.contains("unknown key `listen`"), "{message}");
}

#[test]
fn wrong_values_are_refused_with_the_key_and_a_reason() {
    for (text, reason) in [
        ("hls.window=soon", "expected a duration"),
        ("http.listen=4000", "invalid socket address"),
        ("http.allow_open=maybe", "expected a boolean"),
        ("session.max_sessions=many", "expected usize"),
        ("session.max_sessions=-1", "expected usize"),
        ("session.on_conflict=fight", "`probe`, `replace`, `reject`"),
        ("session.known_sessions=a/b", "not '/'"),
        ("webrtc.video_codecs=h264,vp7", "unknown variant `vp7`"),
        ("hls.audio=mp3", "unknown variant `mp3`"),
        ("webrtc.ice_servers=http://x", "starts with stun:"),
        (
            "webrtc.ice_servers=turn:t.example",
            "needs username and credential",
        ),
        ("limits.body_bytes=64KX", "not a size"),
        ("http.trusted_proxies=10.0.0.0/99", "not an IP address"),
    ] {
        let message = refusal(set(text));
        let key = text.split('=').next().unwrap();
        assert!(message.starts_with(&format!("--set {key}: ")), "{message}");
        assert!(message.contains(reason), "{text}: {message}");
    }
    let message = refusal(load("[hls]\nwindow = 30\n", &[], &[]));
    assert!(message.contains(":2:10: "), "{message}");
    let message = refusal(load("[hls\n", &[], &[]));
    assert!(message.contains(":1:"), "{message}");
    let missing = Config::load(&Sources {
        file: Some("/nonexistent/whipgate.toml".into()),
        ..Sources::default()
    });
    assert!(
        refusal(missing).contains("cannot read the configuration file /nonexistent/whipgate.toml")
    );
}

#[test]
fn tokens_are_lists_or_single_texts_and_digits_stay_text() {
    let tokens = |names: &[&str]| Access::Tokens(names.iter().map(|t| Secret::new(t)).collect());
    for (text, expected) in [
        ("auth.publish=none", Access::Anyone),
        ("auth.publish=123456", tokens(&["123456"])),
        ("auth.publish=true", tokens(&["true"])),
        ("auth.publish=one,two", tokens(&["one", "two"])),
        (
            "auth.publish=[\"one\", \"two==\"]",
            tokens(&["one", "two=="]),
        ),
    ] {
        assert_eq!(set(text).unwrap().auth.publish, expected, "{text}");
    }
    let file = load(
        "[auth]\npublish = [\"a.b-c_d~e+f/g=\"]\nplay = \"solo\"\n",
        &[],
        &[],
    )
    .unwrap();
    assert_eq!(file.auth.publish, tokens(&["a.b-c_d~e+f/g="]));
    assert_eq!(file.auth.play, tokens(&["solo"]));
}

#[test]
fn no_refusal_shows_a_token() {
    for file in [
        "[auth]\npublish = [\"hunter2 hunter2\"]\n",
        "[auth]\npublish = [\"hunter2\", 5]\n",
        "[auth]\npublish = \"hunter2\n",
        "[auth]\nplay = { token = \"hunter2\" }\n",
        "auth.publish = [\"hunter2\"\n",
        "auth = { publish = \"hunter2 \" , x = 1 }\n",
        "[auth]\npublish = \"hunter2\"\npublish = \"hunter2\"\n",
        "[webrtc]\nice_servers = [{ url = \"x\", username = \"u\", credential = \"hunter2\" }]\n",
        "[webrtc]\nice_servers = [{ url = \"turn:x\", username = \"u\", credential = \"hunter2 \" }]\n",
    ] {
        let message = refusal(load(file, &[], &[]));
        assert!(!message.contains("hunter2"), "{message}");
        assert!(message.contains(".toml:"), "{message}");
    }
    for text in [
        "auth.publish=hunter2 x",
        "auth.publish=[\"hunter2\", 1]",
        "auth.play={ hunter2 = 1 }",
    ] {
        let message = refusal(set(text));
        assert!(!message.contains("hunter2"), "{message}");
        let message = refusal(load(
            "",
            &[("WHIPGATE__AUTH__ADMIN", text.split_once('=').unwrap().1)],
            &[],
        ));
        assert!(!message.contains("hunter2"), "{message}");
    }
    let shown = format!("{:?}", set("auth.publish=hunter2").unwrap());
    assert!(
        shown.contains("[secret]") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn kinds_of_access_that_do_not_exist_are_refused_and_not_taken_for_tokens() {
    for text in [
        "auth.publish=jwt",
        "auth.play=webhook",
        "auth.admin={ jwks = \"https://x\" }",
        "auth.publish=[]",
        "auth.publish=[\"none\"]",
        "auth.publish=a,webhook",
        "auth.publish=",
    ] {
        let message = refusal(set(text));
        assert!(message.contains("none"), "{text}: {message}");
    }
}

#[test]
fn listening_openly_without_a_token_is_refused_with_both_ways_out() {
    for listen in ["0.0.0.0:4000", "192.0.2.1:4000", "[::]:4000"] {
        let listen = format!("http.listen={listen}");
        let message = refusal(set(&listen));
        assert!(
            message.contains("auth.publish = [") && message.contains("http.allow_open = true"),
            "{message}"
        );
        load("", &[], &[&listen, "auth.publish=t"]).unwrap();
        load("", &[], &[&listen, "http.allow_open=true"]).unwrap();
    }
    for listen in [
        "127.0.0.1:80",
        "127.9.9.9:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        set(&format!("http.listen={listen}")).unwrap();
    }
}

#[test]
fn keys_that_contradict_each_other_are_all_reported() {
    for (overrides, words) in [
        (
            &["hls.part_duration=2s"][..],
            "hls.part_duration (2s) must be shorter than hls.segment_duration (2s)",
        ),
        (
            &["hls.part_duration=1ms"],
            "hls.part_duration (1ms) must be from 50ms to 5s",
        ),
        (&["hls.window=5s"], "at least three times"),
        (&["hls.window=2h"], "at most 1h"),
        (
            &["hls.dvr=true", "recording.enabled=false"],
            "Two ways out: record (recording.enabled = true), or keep to the window (hls.dvr = false)",
        ),
        (&["http.tls_key=/k"], "http.tls_certificate is not"),
        (&["http.tls_certificate=/k"], "http.tls_key is not"),
        (&["http.cors_origins=*,https://a"], "stands alone"),
        (&["http.cors_origins=https://a/path"], "not an origin"),
        (&["http.listen=127.0.0.1:65535"], "webrtc.listen_tcp"),
        (&["webrtc.listen_tcp=127.0.0.1:4000"], "same TCP port"),
        (&["webrtc.video_codecs="], "at least one"),
        (&["webrtc.video_codecs=opus"], "not a video codec"),
        (&["webrtc.video_codecs=h264,h264"], "named twice"),
        (
            &["webrtc.video_codecs=h264,vp8"],
            "webrtc.transcode_vp8 = true",
        ),
        (&["webrtc.transcode_audio=opus"], "none of g722, pcmu, pcma"),
        (&["webrtc.transcode_audio=h264"], "none of g722, pcmu, pcma"),
        (&["webrtc.transcode_audio=pcmu,pcmu"], "named twice"),
        (&["hls.audio="], "opus, aac or both"),
        (&["hls.audio=aac,aac"], "named once only"),
        (&["webrtc.public_addresses=0.0.0.0"], "public_addresses"),
        (
            &["webrtc.keyframe_interval=10ms"],
            "must be from 250ms to 1m",
        ),
        (&["session.max_sessions=0"], "session.max_sessions (0)"),
        (&["limits.body_bytes=1"], "limits.body_bytes (1)"),
        (&["limits.header_timeout=0s"], "limits.header_timeout (0s)"),
        (&["limits.write_timeout=0s"], "limits.write_timeout (0s)"),
    ] {
        let message = refusal(load("", &[], overrides));
        assert!(message.contains(words), "{overrides:?}: {message}");
    }
    let message = refusal(load(
        "",
        &[],
        &["http.tls_key=/k", "session.max_sessions=0"],
    ));
    assert_eq!(message.lines().count(), 2, "{message}");
}

#[test]
fn the_media_ports_follow_the_http_port() {
    let config = load("", &[], &["http.listen=127.0.0.1:5000"]).unwrap();
    assert_eq!(config.listen_udp().to_string(), "127.0.0.1:5000");
    assert_eq!(config.listen_tcp().to_string(), "127.0.0.1:5001");
    let config = load(
        "",
        &[],
        &[
            "http.listen=127.0.0.1:0",
            "webrtc.listen_udp=127.0.0.1:7000",
        ],
    )
    .unwrap();
    assert_eq!(config.listen_udp().to_string(), "127.0.0.1:7000");
    assert_eq!(config.listen_tcp().to_string(), "127.0.0.1:0");
    let short = load("", &[], &["hls.segment_duration=1s"]).unwrap();
    assert_eq!(short.keyframe_interval(), Duration::from_secs(1));
}
