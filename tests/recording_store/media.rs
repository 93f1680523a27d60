//! Real media for the tests: ffmpeg encodes, and its fragments are taken apart into init segments and parts.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output},
};

use bytes::Bytes;
use mp4_atom::{Any, Atom, DecodeMaybe, Encode, Moof, Moov};
use whipgate::media::{InitSegment, MediaKind, Part};

/// One encoded track.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(crate) kind: MediaKind,
    pub(crate) init: InitSegment,
    pub(crate) parts: Vec<Part>,
}

/// Runs a program of Debian's `ffmpeg` package.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Output {
    Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program} (Debian package ffmpeg): {error}"))
}

/// 320x240 at 30 pictures a second, a keyframe each second.
pub(crate) fn video(seconds: u32) -> Track {
    x264(seconds, "320x240", &["-bf", "0"])
}

/// The same with B-frames.
pub(crate) fn video_with_b_frames(seconds: u32) -> Track {
    x264(seconds, "320x240", &["-bf", "2"])
}

/// Another picture size, parameter sets also in the stream.
pub(crate) fn video_of_size(seconds: u32, size: &str) -> Track {
    x264(
        seconds,
        size,
        &["-bf", "0", "-x264-params", "repeat-headers=1"],
    )
}

fn x264(seconds: u32, size: &str, options: &[&str]) -> Track {
    let source = format!("testsrc2=size={size}:rate=30");
    let mut args = vec![
        "-c:v", "libx264", "-preset", "veryfast", "-g", "30", "-pix_fmt", "yuv420p",
    ];
    args.extend(["-video_track_timescale", "90000"]);
    args.extend(options);
    encode(MediaKind::Video, 1, &source, seconds, &args)
}

/// Opus, 20 ms packets.
pub(crate) fn audio(seconds: u32) -> Track {
    let args = ["-c:a", "libopus", "-b:a", "64k"];
    encode(
        MediaKind::Audio,
        2,
        "sine=frequency=440:sample_rate=48000",
        seconds,
        &args,
    )
}

fn encode(kind: MediaKind, track_id: u32, source: &str, seconds: u32, options: &[&str]) -> Track {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("track.mp4");
    let seconds = seconds.to_string();
    let mut args = vec!["-v", "error", "-f", "lavfi", "-i", source, "-t", &seconds];
    args.extend(options);
    args.extend(["-movflags", "+frag_keyframe+empty_moov+default_base_moof"]);
    args.extend(["-frag_duration", "200000", file.to_str().unwrap()]);
    let output = run("ffmpeg", args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    split(kind, track_id, &fs::read(&file).unwrap())
}

/// Takes a fragmented file with one track apart and gives the track its id.
fn split(kind: MediaKind, track_id: u32, mut file: &[u8]) -> Track {
    let mut init = None;
    let mut moof: Option<Moof> = None;
    let mut parts: Vec<Part> = Vec::new();
    while let Some(found) = Any::decode_maybe(&mut file).unwrap() {
        match found {
            Any::Moov(moov) => init = Some(init_segment(track_id, moov)),
            Any::Moof(found) => moof = Some(found),
            Any::Mdat(mdat) => {
                let index = parts.len();
                parts.extend(
                    moof.take()
                        .map(|moof| part(track_id, moof, &mdat.data, index)),
                );
            }
            _ => {}
        }
    }
    Track {
        kind,
        init: init.unwrap(),
        parts,
    }
}

fn init_segment(track_id: u32, mut moov: Moov) -> InitSegment {
    moov.trak[0].tkhd.track_id = track_id;
    moov.mvex.as_mut().unwrap().trex[0].track_id = track_id;
    moov.udta = None;
    let codec = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0];
    let (codecs, channels) = match codec {
        mp4_atom::Codec::Avc1(avc1) => {
            let avcc = &avc1.avcc;
            let (profile, compatibility, level) = (
                avcc.avc_profile_indication,
                avcc.profile_compatibility,
                avcc.avc_level_indication,
            );
            (
                format!("avc1.{profile:02x}{compatibility:02x}{level:02x}"),
                0,
            )
        }
        _ => ("opus".to_owned(), 1),
    };
    let resolution = codec
        .visual()
        .map(|visual| (u32::from(visual.width), u32::from(visual.height)));
    let timescale = moov.trak[0].mdia.mdhd.timescale;
    let mut bytes = Vec::new();
    mp4_atom::Ftyp {
        major_brand: b"iso6".into(),
        minor_version: 0,
        compatible_brands: vec![b"iso6".into()],
    }
    .encode(&mut bytes)
    .unwrap();
    moov.encode(&mut bytes).unwrap();
    InitSegment {
        bytes: bytes.into(),
        codecs,
        timescale,
        resolution,
        channels,
    }
}

fn part(track_id: u32, mut moof: Moof, data: &[u8], index: usize) -> Part {
    let traf = &mut moof.traf[0];
    traf.tfhd.track_id = track_id;
    // Offsets depend on the length of the moof, which its content does not change any more.
    let mut bytes = Vec::new();
    moof.encode(&mut bytes).unwrap();
    let data_offset = i32::try_from(bytes.len() + 8).unwrap();
    moof.traf[0].trun[0].data_offset = Some(data_offset);
    bytes.clear();
    moof.encode(&mut bytes).unwrap();
    let mdat = u32::try_from(data.len() + 8).unwrap();
    bytes.extend(mdat.to_be_bytes());
    bytes.extend(b"mdat");
    bytes.extend(data);
    let samples = samples(&bytes);
    Part {
        decode_time: moof.traf[0].tfdt.as_ref().unwrap().base_media_decode_time,
        presentation_time: samples
            .iter()
            .map(|s| s.time)
            .min()
            .unwrap()
            .try_into()
            .unwrap(),
        duration: samples.iter().map(|s| u64::from(s.duration)).sum(),
        samples: u32::try_from(samples.len()).unwrap(),
        independent: samples[0].sync,
        starts_segment: samples[0].sync,
        discontinuity: index == 0,
        bytes: bytes.into(),
    }
}

/// A sample of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Presentation time in units of the timescale.
    pub(crate) time: i64,
    pub(crate) duration: u32,
    pub(crate) sync: bool,
    pub(crate) data: Bytes,
}

/// The samples of a part, read independently of the code under test.
pub(crate) fn samples(part: &[u8]) -> Vec<Sample> {
    let moof = Moof::decode_maybe(&mut &*part).unwrap().unwrap();
    let [traf] = &moof.traf[..] else {
        panic!("one traf")
    };
    let mut time = i64::try_from(traf.tfdt.as_ref().unwrap().base_media_decode_time).unwrap();
    let mut offset = usize::try_from(traf.trun[0].data_offset.unwrap()).unwrap();
    let mut samples = Vec::new();
    for entry in &traf.trun[0].samples {
        let size = entry.size.or(traf.tfhd.default_sample_size).unwrap() as usize;
        let duration = entry
            .duration
            .or(traf.tfhd.default_sample_duration)
            .unwrap();
        let flags = entry.flags.or(traf.tfhd.default_sample_flags).unwrap_or(0);
        samples.push(Sample {
            time: time + entry.cts.unwrap_or(0),
            duration,
            sync: flags & 0x0001_0000 == 0,
            data: Bytes::copy_from_slice(&part[offset..offset + size]),
        });
        offset += size;
        time += i64::from(duration);
    }
    samples
}

impl Track {
    /// Moves all times by this many units of the timescale.
    pub(crate) fn later(mut self, ticks: u64) -> Self {
        for part in &mut self.parts {
            *part = moved(part, ticks);
        }
        self
    }

    /// Number of samples in all parts.
    pub(crate) fn samples(&self) -> usize {
        self.parts.iter().map(|part| part.samples as usize).sum()
    }

    /// End of the last part in decode order.
    pub(crate) fn end(&self) -> u64 {
        let last = self.parts.last().unwrap();
        last.decode_time + last.duration
    }
}

/// A part at another time.
pub(crate) fn moved(part: &Part, ticks: u64) -> Part {
    let mut bytes = part.bytes.to_vec();
    let tfdt = bytes
        .windows(4)
        .position(|window| window == mp4_atom::Tfdt::KIND.as_ref())
        .unwrap();
    assert_eq!(bytes[tfdt + 4], 1, "a 64-bit tfdt");
    bytes[tfdt + 8..tfdt + 16].copy_from_slice(&(part.decode_time + ticks).to_be_bytes());
    Part {
        decode_time: part.decode_time + ticks,
        presentation_time: part.presentation_time + ticks,
        bytes: bytes.into(),
        ..part.clone()
    }
}

/// The parts of all tracks in the order in which a session pushes them, with rising sequence numbers.
pub(crate) fn interleave(tracks: &[&Track]) -> Vec<(MediaKind, Part)> {
    let mut parts: Vec<_> = tracks
        .iter()
        .flat_map(|track| track.parts.iter().map(move |part| (track, part.clone())))
        .collect();
    parts.sort_by_key(|(track, part)| {
        u128::from(part.decode_time + part.duration) * 1_000_000_000
            / u128::from(track.init.timescale)
    });
    let numbered = (1_u32..)
        .zip(parts)
        .map(|(number, (track, part))| (track.kind, numbered(&part, number)));
    numbered.collect()
}

/// The part with this `mfhd.sequence_number`.
pub(crate) fn numbered(part: &Part, number: u32) -> Part {
    let mut bytes = part.bytes.to_vec();
    bytes[20..24].copy_from_slice(&number.to_be_bytes());
    Part {
        bytes: bytes.into(),
        ..part.clone()
    }
}

/// Decodes everything in a file and fails on the first word of complaint.
pub(crate) fn assert_decodes(file: &Path) {
    let output = run(
        "ffmpeg",
        [
            "-v",
            "warning",
            "-xerror",
            "-i",
            file.to_str().unwrap(),
            "-map",
            "0",
            "-f",
            "null",
            "-",
        ],
    );
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{}: {complaints}",
        file.display()
    );
}

/// Lines that ffprobe prints for a file.
pub(crate) fn probe(file: &Path, args: &[&str]) -> Vec<String> {
    let mut all = vec!["-v", "error"];
    all.extend(args);
    all.extend(["-of", "csv=p=0", file.to_str().unwrap()]);
    let output = run("ffprobe", all);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.trim_end_matches(',').to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// Number of packets that ffprobe finds, whatever it thinks of the file.
pub(crate) fn probe_quietly(file: &Path) -> usize {
    let args = [
        "-v",
        "quiet",
        "-show_entries",
        "packet=pts",
        "-of",
        "csv=p=0",
        file.to_str().unwrap(),
    ];
    let output = run("ffprobe", args);
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.is_empty())
        .count()
}
