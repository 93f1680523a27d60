//! What crashes leave behind, and its repair.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    AUDIO, Bench, PATIENCE, VIDEO,
    media::{self, assert_decodes},
    pushed_counts, sample_counts,
};
use proptest::prelude::*;
use whipgate::{
    media::{MediaKind, Part},
    recording::{EntryState, Options, Outcome, RepairReport, Store, repair_path},
};

/// A recording as a crash leaves it: the file's bytes, where each part ends, and the parts.
struct Leftover {
    bytes: Vec<u8>,
    ends: Vec<u64>,
    parts: Vec<(MediaKind, Part)>,
}

fn leftover(seconds: u32) -> Leftover {
    let bench = Bench::new();
    let (video, audio) = (
        media::video(seconds).later(90_000),
        media::audio(seconds).later(48_000),
    );
    let tracks = [&video, &audio];
    let (recorder, written) = bench.start(&tracks);
    let parts = media::interleave(&tracks);
    for (kind, part) in parts.clone() {
        recorder.push_part(kind, part);
    }
    let ends = parts
        .iter()
        .map(|_| {
            let range = written.recv_timeout(PATIENCE).unwrap().range;
            range.offset + range.len
        })
        .collect();
    Leftover {
        bytes: fs::read(recorder.path()).unwrap(),
        ends,
        parts,
    }
}

fn place(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("2026-11-22T06-37-00Z.mp4");
    fs::write(&path, bytes).unwrap();
    path
}

fn repaired(reports: &[RepairReport]) -> (Duration, u64) {
    match reports {
        [
            RepairReport {
                outcome: Outcome::Repaired { duration, cut },
                ..
            },
        ] => (*duration, *cut),
        other => panic!("{other:?}"),
    }
}

/// A folder in memory: thousands of repairs, each with its `fsync`s, would wait for a disk most of the time.
fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

#[test]
fn cut_at_every_byte_of_the_last_parts_a_file_is_repaired_to_its_last_whole_part() {
    let folder = memory_folder();
    let Leftover { bytes, ends, parts } = leftover(2);
    let from = ends[ends.len() - 3];
    for len in from..=bytes.len() as u64 {
        let path = place(folder.path(), &bytes[..usize::try_from(len).unwrap()]);
        let whole = ends.iter().filter(|end| **end <= len).count();
        let (_, cut) = repaired(&repair_path(folder.path()).unwrap());
        assert_eq!(cut, len - ends[whole - 1]);
        assert_eq!(
            sample_counts(&path),
            pushed_counts(&parts[..whole]),
            "cut at {len}"
        );
        if (len - from) % 2500 == 7 || len == bytes.len() as u64 {
            assert_decodes(&path);
        }
    }
}

#[test]
fn cut_within_the_head_or_the_first_part_there_is_nothing_to_list_and_nothing_is_lost() {
    let folder = memory_folder();
    let session = folder.path().join("studio");
    fs::create_dir(&session).unwrap();
    let Leftover { bytes, ends, .. } = leftover(1);
    let store = Store::open(folder.path(), Options::default()).unwrap();
    for len in (0..ends[0]).step_by(13) {
        let cut = &bytes[..usize::try_from(len).unwrap()];
        let path = place(&session, cut);
        for report in store.repair().unwrap() {
            assert!(matches!(report.outcome, Outcome::Empty), "{report:?}");
        }
        assert!(fs::read(&path).unwrap() == cut, "cut at {len}");
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn killed_between_the_steps_of_finishing_a_file_plays_and_is_repaired() {
    let folder = memory_folder();
    let Leftover { bytes, parts, .. } = leftover(3);
    let path = place(folder.path(), &bytes);
    repair_path(&path).unwrap();
    let finished = fs::read(&path).unwrap();
    // Before the last step the file is the finished one with its reserved box still in place.
    let ftyp = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    let mut before_switch = finished.clone();
    before_switch[ftyp..ftyp + 16].copy_from_slice(&bytes[ftyp..ftyp + 16]);
    assert!(
        before_switch[..bytes.len()] == bytes,
        "no byte of the fragments may change"
    );
    let mut lengths: Vec<_> = (bytes.len()..finished.len()).step_by(97).collect();
    lengths.push(finished.len());
    for len in lengths {
        let path = place(folder.path(), &before_switch[..len]);
        if len % 5 == 0 {
            // ffmpeg may mention the second moov, but every packet is there.
            let packets = media::probe_quietly(&path);
            assert_eq!(packets, pushed_counts(&parts).into_values().sum::<usize>());
        }
        repaired(&repair_path(folder.path()).unwrap());
        assert!(fs::read(&path).unwrap() == finished, "interrupted at {len}");
    }
}

#[test]
fn repaired_is_remembered_and_finished_files_are_left_alone() {
    let bench = Bench::new();
    let good = bench.record(&[&VIDEO, &AUDIO]);
    let before = (
        fs::read(&good).unwrap(),
        fs::metadata(&good).unwrap().modified().unwrap(),
    );
    let folder = bench.store.root().join("crashed");
    fs::create_dir(&folder).unwrap();
    let Leftover { bytes, ends, .. } = leftover(3);
    let path = place(&folder, &bytes[..bytes.len() - 3]);
    fs::write(folder.join("2026-11-22T06-37-05Z.mp4"), "not a movie").unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();

    let listed = bench.store.list().unwrap();
    let states: Vec<_> = listed
        .iter()
        .map(|entry| (entry.session_id.as_str(), entry.indexed))
        .collect();
    assert_eq!(states, [("crashed", false), ("studio", true)]);
    let unrepaired = listed[0].duration;

    let reports = bench.store.repair().unwrap();
    assert_eq!(reports[0].path, path);
    let (duration, cut) = repaired(&reports);
    assert_eq!(duration, unrepaired);
    assert_eq!(cut, bytes.len() as u64 - 3 - ends[ends.len() - 2]);
    assert!(bench.store.repair().unwrap().is_empty());

    let store = Store::open(bench.store.root(), Options::default()).unwrap();
    let listed = store.list().unwrap();
    let states: Vec<_> = listed
        .iter()
        .map(|entry| (entry.state, entry.indexed, entry.duration))
        .collect();
    assert_eq!(states[0], (EntryState::Repaired, true, duration));
    assert_eq!((states[1].0, states[1].1), (EntryState::Complete, true));
    let after = (
        fs::read(&good).unwrap(),
        fs::metadata(&good).unwrap().modified().unwrap(),
    );
    assert!(after == before);
    assert_eq!(fs::read(folder.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(
        fs::read(folder.join("2026-11-22T06-37-05Z.mp4")).unwrap(),
        b"not a movie"
    );
    assert_decodes(&path);
}

#[test]
fn a_recording_in_progress_is_not_repaired() {
    let bench = Bench::new();
    let (recorder, written) = bench.start(&[&AUDIO]);
    let parts = media::interleave(&[&AUDIO]);
    for (kind, part) in parts.iter().take(5).cloned() {
        recorder.push_part(kind, part);
        written.recv_timeout(PATIENCE).unwrap();
    }
    let before = fs::read(recorder.path()).unwrap();
    assert!(bench.store.repair().unwrap().is_empty());
    assert!(repair_path(recorder.path()).unwrap().is_empty());
    assert!(fs::read(recorder.path()).unwrap() == before);
    for (kind, part) in parts.iter().skip(5).cloned() {
        recorder.push_part(kind, part);
    }
    assert_eq!(
        sample_counts(&crate::finish(&recorder)),
        pushed_counts(&parts)
    );
}

#[test]
fn a_tail_of_zeros_is_cut_off() {
    let folder = memory_folder();
    let Leftover {
        mut bytes, parts, ..
    } = leftover(2);
    bytes.resize(bytes.len() + 70_000, 0);
    let path = place(folder.path(), &bytes);
    assert_eq!(repaired(&repair_path(&path).unwrap()).1, 70_000);
    assert_eq!(sample_counts(&path), pushed_counts(&parts));
}

#[test]
fn damage_in_the_middle_is_reported_and_nothing_is_cut() {
    let folder = memory_folder();
    let Leftover {
        mut bytes, ends, ..
    } = leftover(2);
    let at = usize::try_from(ends[4]).unwrap();
    bytes[at + 4..at + 8].copy_from_slice(b"????");
    let path = place(folder.path(), &bytes);
    let reports = repair_path(&path).unwrap();
    let Outcome::Failed(error) = &reports[0].outcome else {
        panic!("{reports:?}");
    };
    assert!(
        error
            .to_string()
            .contains(&format!("is damaged at byte {at}")),
        "{error}"
    );
    assert!(fs::read(&path).unwrap() == bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a disk does to a file: repair does not panic, touches nothing before the first damage, and if it
    /// changes the file at all, the result is a readable index over whole parts.
    #[test]
    fn repair_of_arbitrary_damage_makes_nothing_worse(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        static LEFTOVER: std::sync::LazyLock<Leftover> = std::sync::LazyLock::new(|| leftover(1));
        let folder = memory_folder();
        let mut bytes = LEFTOVER.bytes.clone();
        bytes.truncate(1 + cut.index(bytes.len()));
        for (index, value) in &damage {
            let index = index.index(bytes.len());
            bytes[index] = *value;
        }
        let path = place(folder.path(), &bytes);
        let reports = repair_path(&path).unwrap();
        let after = fs::read(&path).unwrap();
        match reports.first().map(|report| &report.outcome) {
            Some(Outcome::Repaired { cut, .. }) => {
                let kept = bytes.len() - usize::try_from(*cut).unwrap();
                let ftyp = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
                prop_assert!(after[..ftyp] == bytes[..ftyp]);
                prop_assert!(after[ftyp + 16..kept] == bytes[ftyp + 16..kept]);
                prop_assert!(sample_counts(&path).values().sum::<usize>() > 0);
            }
            _ => prop_assert!(after == bytes),
        }
    }
}
