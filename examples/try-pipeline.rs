//! Runs one pipeline text on a media file or a test source and tells what comes out; `scripts/try-pipeline` calls it.

#![allow(
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[path = "../tests/pipelines/media.rs"]
mod media;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Parser;
use whipgate::{
    media::MediaKind,
    pipeline::{Output, Pipelines, Settings, Text},
};

/// Runs one pipeline text on a media file or a test source and tells what comes out.
#[derive(Debug, Parser)]
#[command(name = "try-pipeline")]
struct Arguments {
    /// h264, h265, av1, vp9, vp8, opus, g722, pcmu, pcma; opus-aac, g722-aac, pcmu-aac or pcma-aac
    text: Text,
    /// A media file with a track of that codec [default: a test source]
    file: Option<PathBuf>,
    /// Directory with texts that replace the built-in ones
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Longest part
    #[arg(long, default_value = "200ms", value_parser = humantime::parse_duration)]
    part_duration: Duration,
    /// Wanted length of a segment
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    segment_duration: Duration,
    /// Seconds of the test source
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Directory to write init-N.mp4, the parts and all of them in one (all-N.mp4) to
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let text = arguments.text;
    let codec = text.codec();
    let pipelines = Pipelines::load_only(arguments.dir.as_deref(), &[text])?;
    for (_, origin) in pipelines.origins() {
        println!("text      {origin}");
    }
    let seconds = arguments.seconds;
    let media = match &arguments.file {
        Some(file) => media::file(codec, file),
        None if codec.kind() == MediaKind::Audio => media::tone(codec, seconds as usize * 50),
        None => media::Video {
            size: (1280, 720),
            ..media::Video::new(codec, seconds as usize * 30)
        }
        .make(),
    };
    let bytes: usize = media.packets.iter().map(|(p, _)| p.payload.len()).sum();
    println!("input     {} packets, {bytes} bytes", media.packets.len());

    let settings = Settings {
        part_duration: arguments.part_duration,
        segment_duration: arguments.segment_duration,
        track_id: 1 + u32::from(codec.kind() == MediaKind::Audio),
    };
    let outputs = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&outputs);
    let output = move |output| sink.lock().unwrap().push(output);
    let mut pipeline = match text {
        Text::Main(_) => pipelines.start(&media.track, &settings, output)?,
        Text::Aac(_) => pipelines.start_aac(&media.track, &settings, None, output)?,
        Text::Poster(_) => {
            return Err("posters are made of keyframes; use the text of the codec".into());
        }
    };
    let start = processor_time();
    for (packet, pts) in &media.packets {
        pipeline.push(packet, *pts, false)?;
    }
    pipeline.finish()?;
    let took = processor_time().saturating_sub(start);
    let outputs = outputs.lock().unwrap();
    if let Some(out) = &arguments.out {
        write(out, &outputs)?;
    }
    let duration = report(&outputs);
    println!(
        "{duration:.3} s of media, {:.2} ms of processor time per second",
        took.as_secs_f64() * 1e3 / duration.max(0.001)
    );
    Ok(())
}

/// Time this process has spent on processors, in steps of 10 ms; encoders have threads of their own.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may have anything in it; user and system time are the 12th and 13th field after it.
    let ticks: u64 = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Prints what came out. Returns the seconds it lasts.
fn report(outputs: &[Output]) -> f64 {
    let mut timescale = 1.0;
    let mut seconds = 0.0;
    for output in outputs {
        match output {
            Output::Init(init) => {
                timescale = f64::from(init.timescale);
                println!(
                    "init      {} {} timescale {} {} bytes",
                    init.codecs,
                    match init.resolution {
                        Some((width, height)) => format!("{width}x{height}"),
                        None => format!("{} channels", init.channels),
                    },
                    init.timescale,
                    init.bytes.len()
                );
            }
            Output::Part(part) => {
                let duration = part.duration as f64 / timescale;
                seconds += duration;
                println!(
                    "part      {:10.6} s + {duration:.6} s  {:3} samples {:7} bytes{}{}{}",
                    part.decode_time as f64 / timescale,
                    part.samples,
                    part.bytes.len(),
                    if part.starts_segment { " segment" } else { "" },
                    if part.independent { " independent" } else { "" },
                    if part.discontinuity {
                        " discontinuity"
                    } else {
                        ""
                    },
                );
            }
            other => println!("{other:?}"),
        }
    }
    seconds
}

fn write(out: &PathBuf, outputs: &[Output]) -> std::io::Result<()> {
    fs::create_dir_all(out)?;
    let (mut inits, mut parts) = (0, 0);
    let mut all = Vec::new();
    for output in outputs {
        match output {
            Output::Init(init) => {
                inits += 1;
                all = init.bytes.to_vec();
                fs::write(out.join(format!("init-{inits}.mp4")), &init.bytes)?;
            }
            Output::Part(part) => {
                parts += 1;
                all.extend_from_slice(&part.bytes);
                fs::write(out.join(format!("part-{parts:05}.m4s")), &part.bytes)?;
                fs::write(out.join(format!("all-{inits}.mp4")), &all)?;
            }
            _ => {}
        }
    }
    Ok(())
}
