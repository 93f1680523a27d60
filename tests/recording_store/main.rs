//! Recordings made from real media: what is on disk plays at every moment, exactly as it was pushed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    clippy::print_stdout,
    clippy::redundant_clone,
    clippy::let_underscore_must_use,
    reason = "helpers of tests fail by panicking, and times are compared as the seconds that ffprobe prints"
)]

mod catalog;
mod finished;
mod interrupted;
mod long;
mod media;
mod segments;
mod trouble;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, mpsc},
    time::{Duration, SystemTime},
};

use media::Track;
use whipgate::{
    id::SessionId,
    media::{MediaKind, Part},
    recording::{OnWritten, Options, Recorder, RecorderState, Store, Written},
};

/// Longest wait for anything that is done in the background.
const PATIENCE: Duration = Duration::from_mins(1);

/// Twelve seconds of picture and sound; both start one second late, as a session's do.
static VIDEO: LazyLock<Track> = LazyLock::new(|| media::video(12).later(90_000));
static AUDIO: LazyLock<Track> = LazyLock::new(|| media::audio(12).later(48_000));

/// A store in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    session: SessionId,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("recordings"), Options::default()).unwrap();
        Self {
            folder,
            store,
            session: "studio".parse().unwrap(),
        }
    }

    fn start(&self, tracks: &[&Track]) -> (Recorder, mpsc::Receiver<Written>) {
        start(&self.store, &self.session, tracks)
    }

    /// A finished recording of these tracks.
    fn record(&self, tracks: &[&Track]) -> PathBuf {
        let (recorder, _written) = self.start(tracks);
        for (kind, part) in media::interleave(tracks) {
            recorder.push_part(kind, part);
        }
        finish(&recorder)
    }

    /// A recording, not yet finished, of pictures that change their size and back, all of it on disk; and the codecs
    /// strings of both sizes.
    fn record_changing_sizes(&self) -> (Recorder, [String; 2]) {
        let small = media::video_of_size(3, "320x240").later(90_000);
        let large = media::video_of_size(3, "640x360").later(small.end());
        let back = media::video_of_size(2, "320x240").later(large.end());
        let (recorder, written) = self.start(&[&small]);
        let mut number = 0;
        for track in [&small, &large, &back] {
            recorder.push_init(MediaKind::Video, &track.init);
            for part in &track.parts {
                number += 1;
                recorder.push_part(MediaKind::Video, media::numbered(part, number));
                written.recv_timeout(PATIENCE).unwrap();
            }
        }
        (recorder, [small.init.codecs, large.init.codecs])
    }

    /// A file outside of the store.
    fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// 2026-11-22T06:37:00Z and 250 ms.
fn a_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_329_420_250)
}

fn start(
    store: &Store,
    session: &SessionId,
    tracks: &[&Track],
) -> (Recorder, mpsc::Receiver<Written>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let on_written: OnWritten = Arc::new(move |written| {
        // A test that does not look at it has dropped the receiver.
        let _ = sender.lock().unwrap().send(written);
    });
    let tracks: Vec<_> = tracks
        .iter()
        .map(|track| (track.kind, track.init.clone()))
        .collect();
    let recorder = store.start(session, a_time(), &tracks, on_written).unwrap();
    (recorder, receiver)
}

fn finish(recorder: &Recorder) -> PathBuf {
    recorder.finish();
    let state = recorder.wait(PATIENCE);
    assert!(matches!(state, RecorderState::Complete), "{state:?}");
    recorder.path().to_owned()
}

/// Reads what a [`Written`] points to.
fn read_back(written: &Written) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(written.range.len).unwrap()];
    written
        .range
        .file
        .read_exact_at(&mut bytes, written.range.offset)
        .unwrap();
    bytes
}

/// The final index of a file, which is all that a player of the finished file sees.
fn index(path: &Path) -> mp4_atom::Moov {
    use mp4_atom::DecodeMaybe;
    let bytes = fs::read(path).unwrap();
    let mut moov = None;
    let mut rest = &bytes[..];
    let mut kinds = Vec::new();
    while let Some(found) = mp4_atom::Any::decode_maybe(&mut rest).unwrap() {
        kinds.push(found.kind().to_string());
        if let mp4_atom::Any::Moov(found) = found {
            assert!(found.mvex.is_none());
            moov = Some(found);
        }
    }
    assert!(rest.is_empty());
    assert_eq!(kinds, ["ftyp", "mdat", "moov", "uuid"]);
    moov.unwrap()
}

/// Samples per `track_ID` in the final index.
fn sample_counts(path: &Path) -> BTreeMap<u32, usize> {
    index(path)
        .trak
        .iter()
        .map(|trak| {
            let mp4_atom::StszSamples::Different { sizes } = &trak.mdia.minf.stbl.stsz.samples
            else {
                panic!("sizes are listed one by one");
            };
            (trak.tkhd.track_id, sizes.len())
        })
        .collect()
}

/// Samples per `track_ID` in these parts.
fn pushed_counts(parts: &[(MediaKind, Part)]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for (kind, part) in parts {
        let track_id = match kind {
            MediaKind::Video => 1,
            MediaKind::Audio => 2,
        };
        *counts.entry(track_id).or_insert(0) += part.samples as usize;
    }
    counts
}

/// Samples per track in the final index, without reading the media data.
fn sample_counts_only(path: &Path) -> Vec<usize> {
    use mp4_atom::{Any, Header, ReadAtom, ReadFrom};
    use std::io::{Seek, SeekFrom};
    let mut file = fs::File::open(path).unwrap();
    while let Some(header) = <Option<Header>>::read_from(&mut file).unwrap() {
        if header.kind == mp4_atom::FourCC::new(b"moov") {
            let Any::Moov(moov) = Any::read_atom(&header, &mut file).unwrap() else {
                panic!("a moov");
            };
            let stbl = moov.trak.iter().map(|trak| &trak.mdia.minf.stbl);
            let times = stbl.map(|stbl| {
                stbl.stts
                    .entries
                    .iter()
                    .map(|run| run.sample_count as usize)
                    .sum()
            });
            return times.collect();
        }
        file.seek(SeekFrom::Current(
            i64::try_from(header.size.unwrap()).unwrap(),
        ))
        .unwrap();
    }
    panic!("no index in {}", path.display());
}
