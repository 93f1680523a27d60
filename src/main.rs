//! The `whipgate` binary: arguments, configuration, logging, exit codes. All else is the library's.

mod commands;
mod doctor;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// A gateway that takes live streams over WHIP and turns each one into low-latency HLS and an MP4 recording.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Configuration: defaults < file < environment (WHIPGATE__HLS__PART_DURATION=200ms) \
    < --set. All keys: whipgate print-default-config"
)]
struct Arguments {
    /// TOML file with settings
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// One setting, stronger than file and environment; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", global = true)]
    set: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do; without one of these, `serve`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Serve,
    /// Check configuration and pipelines, and name missing GStreamer elements
    CheckConfig,
    /// Write the documented default configuration to standard output
    PrintDefaultConfig,
    /// Check that ports, disk, codecs and kernel settings are fit for use
    Doctor,
    /// Finish recordings that a crash left behind
    Repair {
        /// A recording, the folder of a session, or the folder of all; without it, that of the configuration
        path: Option<PathBuf>,
    },
}

/// `EX_USAGE` of sysexits.h: wrong arguments or configuration.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for, everything else is a mistake.
            let wrong = error.use_stderr();
            return match error.print() {
                Ok(()) if !wrong => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            commands::complain(&error);
            ExitCode::from(if commands::is_configuration(&error) {
                USAGE
            } else {
                1
            })
        }
    }
}
