//! What came out of one case, against what went in: pictures by their stamps, sound by its packets, and a full decode by
//! FFmpeg of both the HLS and the recording.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    process::{Command, Output as Finished},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::Serialize;

use super::capture::Captured;
use crate::{
    clip::{AudioClipSpec, Clip},
    stamp,
};

/// Packets of the test sound by content: number within the second, for those that are found at one place in it only.
pub(super) type Sounds = HashMap<Bytes, u32>;

/// A packet of sound or a picture: media time and presentation time in seconds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    media: f64,
    shown: f64,
}

/// What is wrong in one output (HLS or recording).
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Output {
    /// Sound against picture, the worst found anywhere, in milliseconds; positive if sound is late.
    pub(super) offset_ms: Option<f64>,
    /// Pictures sent and not in it.
    pub(super) lost: Option<u64>,
    /// Pictures that are in it more than once.
    pub(super) duplicated: u64,
    /// What FFmpeg said of it.
    pub(super) warnings: Vec<String>,
    /// Times that do not follow on each other without a discontinuity, and sound that no packet covers, in milliseconds.
    pub(super) holes_ms: f64,
}

/// Which packets tell where in a second they belong.
pub(super) fn sounds(specs: &[AudioClipSpec]) -> Result<Sounds> {
    let mut places: HashMap<Bytes, HashSet<u32>> = HashMap::new();
    for spec in specs {
        for (index, unit) in Clip::audio(spec)?.units.iter().enumerate() {
            for piece in &unit.pieces {
                let place = index as u32 % 50;
                places.entry(piece.clone()).or_default().insert(place);
            }
        }
    }
    Ok(places
        .into_iter()
        .filter(|(_, places)| places.len() == 1)
        .filter_map(|(piece, places)| Some((piece, places.into_iter().next()?)))
        .collect())
}

/// Judges the HLS renditions. `pictures` are the media times of the pictures sent, `from` is where measuring the offset
/// begins.
pub(super) async fn hls(
    video: Option<&Captured>,
    audio: Option<&Captured>,
    pictures: &[Duration],
    sounds: &Sounds,
    from: Duration,
) -> Result<Output> {
    let mut output = Output::default();
    let mut pictures_seen = Vec::new();
    let mut numbers = Vec::new();
    for piece in video.iter().flat_map(|video| &video.pieces) {
        let scale = f64::from(piece.timescale);
        let mut end = None;
        for sample in &piece.samples {
            if let Some(end) = end.replace(sample.decode_time + sample.duration) {
                output.holes_ms += (sample.decode_time - end).abs() as f64 / scale * 1e3;
            }
            for stamp in stamp::find_all(&sample.data) {
                numbers.push(stamp.picture);
                if let Some(media) = pictures.get(stamp.picture as usize) {
                    pictures_seen.push(Seen {
                        media: media.as_secs_f64(),
                        shown: sample.presentation_time as f64 / scale,
                    });
                }
            }
        }
    }
    count_pictures(&mut output, &numbers, pictures);
    let mut packets = Vec::new();
    for piece in audio.iter().flat_map(|audio| &audio.pieces) {
        let scale = f64::from(piece.timescale);
        let mut end: Option<i64> = None;
        for sample in &piece.samples {
            if let Some(end) = end {
                output.holes_ms += (sample.decode_time - end).abs() as f64 / scale * 1e3;
            }
            let heard = opus_samples(&sample.data) as f64 / 48_000.0;
            let lasts = sample.duration as f64 / scale;
            // Correcting the time of sound stretches packets by up to 5 %.
            if lasts > heard * 1.06 + 0.0026 {
                output.holes_ms += (lasts - heard) * 1e3;
            }
            end = Some(sample.decode_time + sample.duration);
            packets.push((&sample.data[..], sample.presentation_time as f64 / scale));
        }
    }
    output.offset_ms = offset(&pictures_seen, &packets, sounds, from);
    for captured in video.iter().chain(audio.iter()) {
        output.warnings.extend(decode(&captured.playlist).await?);
    }
    Ok(output)
}

/// Judges the files of a recording, which follow each other.
pub(super) async fn recording(
    files: &[PathBuf],
    pictures: &[Duration],
    sounds: &Sounds,
    from: Duration,
) -> Result<Output> {
    let mut output = Output::default();
    let mut numbers = Vec::new();
    for file in files {
        let bytes = Bytes::from(std::fs::read(file)?);
        let mut pictures_seen = Vec::new();
        let mut packets = Vec::new();
        for packet in probe(file).await? {
            let Some(data) = bytes.get(packet.position..packet.position + packet.size) else {
                continue;
            };
            if packet.video {
                for stamp in stamp::find_all(data) {
                    numbers.push(stamp.picture);
                    if let Some(media) = pictures.get(stamp.picture as usize) {
                        pictures_seen.push(Seen {
                            media: media.as_secs_f64(),
                            shown: packet.time,
                        });
                    }
                }
            } else {
                packets.push((data, packet.time));
            }
        }
        let found = offset(&pictures_seen, &packets, sounds, from);
        output.offset_ms = [output.offset_ms, found]
            .into_iter()
            .flatten()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        output.warnings.extend(decode(file).await?);
    }
    count_pictures(&mut output, &numbers, pictures);
    Ok(output)
}

fn count_pictures(output: &mut Output, numbers: &[u32], pictures: &[Duration]) {
    if numbers.is_empty() {
        return;
    }
    let distinct: HashSet<u32> = numbers.iter().copied().collect();
    output.lost = Some((pictures.len() as u64).saturating_sub(distinct.len() as u64));
    output.duplicated = (numbers.len() - distinct.len()) as u64;
}

/// Sound against picture where it is worst: each packet of a beep against the picture shown nearest to it.
fn offset(
    pictures: &[Seen],
    packets: &[(&[u8], f64)],
    sounds: &Sounds,
    from: Duration,
) -> Option<f64> {
    packets
        .iter()
        .filter_map(|(data, shown)| {
            let place = f64::from(*sounds.get(*data)?) * 0.02;
            let picture = pictures
                .iter()
                .filter(|picture| picture.media >= from.as_secs_f64())
                .min_by(|a, b| (a.shown - shown).abs().total_cmp(&(b.shown - shown).abs()))
                .filter(|picture| (picture.shown - shown).abs() < 0.05)?;
            // Media time of what is heard while this picture is seen, up to whole seconds.
            let expected = picture.media + (shown - picture.shown);
            let off = (expected - place).rem_euclid(1.0);
            let off = if off > 0.5 { off - 1.0 } else { off };
            Some(off * 1e3)
        })
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
}

/// Samples at 48 kHz in an Opus packet (RFC 6716 section 3.1).
fn opus_samples(packet: &[u8]) -> i64 {
    let Some(&toc) = packet.first() else {
        return 0;
    };
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config % 4)],
        config @ 12..=15 => [480, 960][usize::from(config % 2)],
        config => [120, 240, 480, 960][usize::from(config % 4)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => i64::from(packet.get(1).copied().unwrap_or(1) & 0x3f),
    };
    frame * frames
}

struct Packet {
    video: bool,
    time: f64,
    position: usize,
    size: usize,
}

async fn probe(file: &Path) -> Result<Vec<Packet>> {
    let entries = "packet=codec_type,pts_time,size,pos";
    let mut command = Command::new("ffprobe");
    command
        .args([
            "-v",
            "error",
            "-show_entries",
            entries,
            "-of",
            "compact=p=0",
        ])
        .arg(file);
    let output = finished(command).await?;
    ensure!(
        output.status.success(),
        "ffprobe: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| {
            let field = |name: &str| {
                line.split('|')
                    .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
            };
            Some(Packet {
                video: field("codec_type")? == "video",
                time: field("pts_time")?.parse().ok()?,
                position: field("pos")?.parse().ok()?,
                size: field("size")?.parse().ok()?,
            })
        })
        .collect())
}

/// Runs a program to its end.
async fn finished(mut command: Command) -> Result<Finished> {
    let run = move || {
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .output()
            .with_context(|| format!("cannot run {name} (Debian package ffmpeg)"))
    };
    tokio::task::spawn_blocking(run).await?
}

/// Decodes everything and returns what FFmpeg warns of.
async fn decode(input: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-nostdin", "-hide_banner", "-v", "warning", "-i"])
        .arg(input)
        // The pictures as they are: FFmpeg would otherwise round their times to a constant rate, scale all to the first
        // size, and warn of what it does there.
        .args(["-map", "0", "-fps_mode", "passthrough"])
        .args(["-enc_time_base", "-1", "-autoscale", "0", "-f", "null", "-"]);
    let output = finished(command).await?;
    let mut said: Vec<String> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| !line.trim().is_empty())
        // Said of every init segment after the first, which RFC 8216 permits.
        .filter(|line| !line.contains("Found duplicated MOOV Atom"))
        .filter(|line| !line.trim().starts_with("Last message repeated"))
        .map(str::to_owned)
        .collect();
    if !output.status.success() {
        said.push(format!("ffmpeg ended with {}", output.status));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_sound_is_positive() {
        let pictures: Vec<Seen> = (0..90)
            .map(|n| Seen {
                media: f64::from(n) / 30.0,
                shown: 5.0 + f64::from(n) / 30.0,
            })
            .collect();
        let sounds = Sounds::from([(Bytes::from_static(b"beep"), 0)]);
        let at = |shown| offset(&pictures, &[(&b"beep"[..], shown)], &sounds, Duration::ZERO);
        assert!((at(6.0).unwrap()).abs() < 0.01);
        assert!((at(6.020).unwrap() - 20.0).abs() < 0.01);
        assert!((at(5.970).unwrap() + 30.0).abs() < 0.01);
        assert_eq!(at(20.0), None, "nothing is seen there");
        let later = offset(
            &pictures,
            &[(&b"beep"[..], 6.0)],
            &sounds,
            Duration::from_secs(2),
        );
        assert_eq!(later, None, "not measured yet");
    }

    #[test]
    fn pictures_are_counted() {
        let mut output = Output::default();
        count_pictures(&mut output, &[0, 1, 1, 3], &[Duration::ZERO; 5]);
        assert_eq!((output.lost, output.duplicated), (Some(2), 1));
    }
}
