//! What each subcommand does. Part of the binary.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use whipgate::{
    config::{self, Config, ConfigError, Sources},
    gateway::{self, Gateway, GatewayError},
    http::ServerError,
    pipeline::{PipelineError, Pipelines},
    recording::{self, Outcome},
    telemetry::{self, TelemetryError},
};

use crate::{Arguments, Command, doctor};

/// Runs the command and returns the exit code of one that could be run.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let command = arguments.command.unwrap_or(Command::Serve);
    if matches!(command, Command::PrintDefaultConfig) {
        print(config::EXAMPLE)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(&Sources::of_process(arguments.config, arguments.set))?;
    telemetry::parse_filter(&config.log.filter)?;
    match command {
        Command::Serve => serve(config)?,
        Command::CheckConfig => check_config(&config)?,
        Command::Doctor => return doctor(&config),
        Command::Repair { path } => return repair(&config, path),
        Command::PrintDefaultConfig => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the fault is the configuration's, for the exit code.
pub(crate) fn is_configuration(error: &anyhow::Error) -> bool {
    let of_gateway = error.downcast_ref::<GatewayError>().is_some_and(|error| {
        matches!(
            error,
            GatewayError::Pipeline(_)
                | GatewayError::IceServer(_)
                | GatewayError::Http(ServerError::Tls(_))
        )
    });
    of_gateway
        || error.is::<ConfigError>()
        || error.is::<PipelineError>()
        || error.is::<TelemetryError>()
}

/// Writes an error to standard error, with those of its causes that it does not tell itself.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    // If standard error is gone, the exit code remains.
    drop(writeln!(io::stderr(), "whipgate: {text}"));
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has read enough: `whipgate doctor | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to standard output"),
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.log)?;
    allow_files(config.limits.connections);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let gateway = Gateway::load(config).await?;
        print(&banner(gateway.scheme(), gateway.http_address()))?;
        gateway.run().await?;
        Ok(())
    })
}

/// Asks for as many open files as the system allows: every connection is one, and services often start with 1,024.
fn allow_files(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    let allowed = getrlimit(Resource::Nofile).current;
    if allowed.is_some_and(|allowed| allowed <= connections as u64) {
        tracing::warn!(
            allowed,
            connections,
            "fewer files may be open than limits.connections says; raise the limit (ulimit -Hn, LimitNOFILE= of \
             systemd) or lower the setting"
        );
    }
}

/// What a newcomer pastes where.
fn banner(scheme: &str, listen: SocketAddr) -> String {
    let base = format!("{scheme}://{}", reachable(listen));
    format!(
        "whipgate {} is ready. Replace demo with any name.\n\
         \x20 OBS      {base}/whip/demo    (Settings, Stream, Service: WHIP, Server)\n\
         \x20 Publish  {base}/publish/demo    (from a browser)\n\
         \x20 Watch    {base}/watch/demo\n\
         \x20 Console  {base}/\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// An address to type: for "all addresses", the one that this machine would use towards others.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // Connecting a UDP socket sends nothing; it only makes the kernel choose a source address.
    let outward = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    let ip = outward().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    SocketAddr::new(ip, listen.port())
}

fn check_config(config: &Config) -> anyhow::Result<()> {
    let pipelines = Pipelines::load_only(
        config.pipelines.dir.as_deref(),
        &gateway::pipeline_texts(config),
    )?;
    let mut lines = vec!["The configuration is valid.\n".to_owned()];
    let lacks = |text| {
        pipelines
            .lacking()
            .iter()
            .any(|(lacking, _)| *lacking == text)
    };
    let origins = pipelines.origins().filter(|(text, _)| !lacks(*text));
    lines.extend(origins.map(|(text, origin)| format!("pipeline {text}: {origin}\n")));
    lines.extend(pipelines.lacking().iter().map(|(text, elements)| {
        let missing = PipelineError::MissingElements(elements.clone());
        format!("no {text}, which nothing else depends on: {missing}\n")
    }));
    print(&lines.concat())
}

fn doctor(config: &Config) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(config);
    let text: String = findings.iter().map(ToString::to_string).collect();
    print(&text)?;
    let failed = findings
        .iter()
        .any(|finding| finding.level == doctor::Level::Fail);
    Ok(ExitCode::from(u8::from(failed)))
}

fn repair(config: &Config, path: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let path = path.unwrap_or_else(|| config.storage.data_dir.join("recordings"));
    let reports = recording::repair_path(&path)?;
    let mut lines = Vec::new();
    let mut failed = false;
    for report in &reports {
        let outcome = match &report.outcome {
            Outcome::Repaired { duration, cut } => format!(
                "repaired, {} long, {cut} bytes of an unfinished part cut off",
                humantime::format_duration(std::time::Duration::from_millis(
                    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
                ))
            ),
            Outcome::Empty => "left as it is: there is nothing to play in it".to_owned(),
            Outcome::Failed(error) => {
                failed = true;
                format!("left as it is: {error}")
            }
            _ => "left as it is".to_owned(),
        };
        lines.push(format!("{}: {outcome}\n", report.path.display()));
    }
    if lines.is_empty() {
        lines.push(format!("{}: nothing to repair\n", path.display()));
    }
    print(&lines.concat())?;
    Ok(ExitCode::from(u8::from(failed)))
}
