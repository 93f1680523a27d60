//! The binary as a user types it: exit codes, what goes to which output, and what is said.

#![allow(clippy::unwrap_used)]

use std::{
    net::TcpListener,
    process::{Command, Output},
};

fn whipgate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whipgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WHIPGATE__") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("WHIPGATE__STORAGE__DATA_DIR", std::env::temp_dir())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn usage_and_configuration_mistakes_end_with_64() {
    for (arguments, words) in [
        (&["--nosuch"][..], "--nosuch"),
        (&["nosuch"], "nosuch"),
        (&["--set"], "--set"),
        (&["--set", "hls.nosuch=1"], "unknown key `hls.nosuch`"),
        (
            &["check-config", "--set", "http.listen=0.0.0.0:4000"],
            "http.allow_open = true",
        ),
        (&["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (&["--set", "log.filter=whipgate=loud"], "log.filter"),
        (
            &["check-config", "--set", "pipelines.dir=/nonexistent"],
            "/nonexistent",
        ),
        (
            &["serve", "--set", "pipelines.dir=/nonexistent"],
            "/nonexistent",
        ),
    ] {
        let output = whipgate(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(words), "{arguments:?}: {output:?}");
        assert_eq!(stdout(&output), "");
        assert!(!stderr(&output).contains("error 2): No such"), "{output:?}");
    }
}

#[test]
fn what_is_asked_for_goes_to_standard_output() {
    for (arguments, words) in [
        (&["--help"][..], "print-default-config"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["check-config"], "The configuration is valid."),
        (&["repair", env!("CARGO_MANIFEST_DIR")], "nothing to repair"),
    ] {
        let output = whipgate(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(stdout(&output).contains(words), "{arguments:?}: {output:?}");
        assert_eq!(stderr(&output), "");
    }
    let example = whipgate(&["print-default-config"]);
    assert_eq!(stdout(&example), whipgate::config::EXAMPLE);
}

#[test]
fn a_port_in_use_ends_with_1_and_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = format!("http.listen={address}");
    let output = whipgate(&[
        "--set",
        &listen,
        "--set",
        "webrtc.listen_udp=127.0.0.1:0",
        "--set",
        "webrtc.listen_tcp=127.0.0.1:0",
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains(&format!("whipgate: cannot listen on {address}")),
        "{output:?}"
    );

    let doctor = whipgate(&["doctor", "--set", &listen]);
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    assert!(
        stdout(&doctor).contains(&format!("FAIL HTTP port: {address} is in use")),
        "{doctor:?}"
    );
    assert!(stdout(&doctor).contains("ok   codecs"), "{doctor:?}");
}
