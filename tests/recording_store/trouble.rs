//! Disks and receivers that do not do what they should.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, mpsc},
};

use crate::{AUDIO, Bench, PATIENCE, VIDEO, a_time, finish, media, start};
use whipgate::{
    media::MediaKind,
    recording::{EntryState, Options, RecorderState, RecordingError, Store},
};

/// A file system of two megabytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let mount = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            "size=2m",
            "tmpfs",
            at.to_str().unwrap(),
        ];
        assert!(
            as_root(&mount),
            "mounting a tmpfs needs root or sudo without a password"
        );
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        assert!(as_root(&["umount", self.0.to_str().unwrap()]));
    }
}

/// Runs a command, with sudo if it does not work without.
fn as_root(command: &[&str]) -> bool {
    let run = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).status();
        status.is_ok_and(|status| status.success())
    };
    run(command[0], &command[1..]) || run("sudo", &[&["-n"], command].concat())
}

fn failure(state: &RecorderState) -> &RecordingError {
    match state {
        RecorderState::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_stops_the_recording_and_leaves_what_fits() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"));
    let store = Store::open(disk.0.join("recordings"), Options::default()).unwrap();
    let session = "studio".parse().unwrap();
    let (recorder, written) = start(&store, &session, &[&VIDEO, &AUDIO]);
    let mut number = 0;
    let mut pushed = 0;
    let mut later = 0;
    // Round and round until the disk is full.
    while matches!(recorder.state(), RecorderState::Recording) {
        for (kind, part) in media::interleave(&[&VIDEO, &AUDIO]) {
            number += 1;
            pushed += part.bytes.len();
            let rate = if kind == MediaKind::Video {
                90_000
            } else {
                48_000
            };
            recorder.push_part(
                kind,
                media::numbered(&media::moved(&part, later * rate), number),
            );
        }
        later += 12;
        assert!(pushed < 16 << 20, "the disk never became full");
    }
    let state = recorder.wait(PATIENCE);
    let error = failure(&state);
    assert!(matches!(error, RecordingError::DiskFull { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(recorder.path().to_str().unwrap())
    );
    let copy = folder.path().join("copy.mp4");
    fs::copy(recorder.path(), &copy).unwrap();
    media::assert_decodes(&copy);
    let entry = &store.list().unwrap()[0];
    assert_eq!(entry.state, EntryState::Complete);
    assert!(entry.bytes > 1 << 20, "{entry:?}");
    assert!(entry.duration.as_secs() > 5, "{entry:?}");

    // When there is room again, so is recording. Open files keep their room, also removed ones.
    drop((recorder, written));
    fs::remove_file(
        disk.0
            .join("recordings/studio")
            .join(entry.file.to_string()),
    )
    .unwrap();
    let (recorder, written) = start(&store, &session, &[&AUDIO]);
    for (kind, part) in media::interleave(&[&AUDIO]) {
        recorder.push_part(kind, part);
    }
    finish(&recorder);
    drop((recorder, written, store, disk));
}

#[test]
fn a_disk_that_hangs_stops_the_recording_and_never_the_caller() {
    let bench = Bench::new();
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let tracks = [(MediaKind::Video, VIDEO.init.clone())];
    let slow = bench
        .store
        .start(
            &bench.session,
            a_time(),
            &tracks,
            Arc::new(move |_| {
                // Stands for a write that does not return: the writer thread waits here.
                let _ = hang.lock().unwrap().recv();
            }),
        )
        .unwrap();
    let mut number = 0;
    let mut later = 0;
    while matches!(slow.state(), RecorderState::Recording) {
        for part in &VIDEO.parts {
            number += 1;
            slow.push_part(
                MediaKind::Video,
                media::numbered(&media::moved(part, later), number),
            );
            assert!(slow.queued_bytes() <= 16 << 20);
        }
        later += 12 * 90_000;
        assert!(number < 10_000, "the queue has no end");
    }
    let state = slow.state();
    let error = failure(&state);
    assert!(matches!(error, RecordingError::TooSlow { .. }), "{error}");
    drop(release);
    slow.wait(PATIENCE);
    media::assert_decodes(slow.path());
    assert!(bench.store.list().unwrap()[0].indexed);
}

#[test]
fn a_receiver_that_panics_ends_only_its_own_recording() {
    let bench = Bench::new();
    let tracks = [(MediaKind::Audio, AUDIO.init.clone())];
    let broken = bench
        .store
        .start(
            &bench.session,
            a_time(),
            &tracks,
            Arc::new(|_| panic!("on purpose")),
        )
        .unwrap();
    let (good, _written) = bench.start(&[&AUDIO]);
    for (kind, part) in media::interleave(&[&AUDIO]) {
        broken.push_part(kind, part.clone());
        good.push_part(kind, part);
    }
    let state = broken.wait(PATIENCE);
    assert!(matches!(failure(&state), RecordingError::Callback { .. }));
    media::assert_decodes(&finish(&good));
}

#[test]
fn what_is_not_a_part_never_reaches_the_file() {
    let bench = Bench::new();
    let (recorder, written) = bench.start(&[&AUDIO]);
    recorder.push_part(MediaKind::Audio, AUDIO.parts[0].clone());
    written.recv_timeout(PATIENCE).unwrap();
    let mut broken = AUDIO.parts[1].clone();
    broken.bytes = broken.bytes.slice(..broken.bytes.len() - 1);
    recorder.push_part(MediaKind::Audio, broken);
    let state = recorder.wait(PATIENCE);
    assert!(matches!(
        failure(&state),
        RecordingError::InvalidPart {
            kind: MediaKind::Audio
        }
    ));
    media::assert_decodes(recorder.path());
}

#[test]
fn an_init_segment_that_cannot_continue_the_file_stops_the_recording() {
    let bench = Bench::new();
    let (recorder, _written) = bench.start(&[&VIDEO]);
    for part in &VIDEO.parts {
        recorder.push_part(MediaKind::Video, part.clone());
    }
    recorder.push_init(MediaKind::Video, &AUDIO.init);
    let state = recorder.wait(PATIENCE);
    assert!(
        failure(&state)
            .to_string()
            .contains("differs from that of the recording"),
        "{state:?}"
    );
}

#[test]
fn an_unusable_folder_is_named_with_the_ways_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(file.join("recordings"), Options::default())
        .unwrap_err()
        .to_string();
    for words in [
        file.to_str().unwrap(),
        "storage.data_dir",
        "recording.enabled",
    ] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_folder_that_was_removed_is_made_again() {
    let bench = Bench::new();
    fs::remove_dir_all(bench.store.root()).unwrap();
    assert!(bench.store.list().unwrap().is_empty());
    media::assert_decodes(&bench.record(&[&AUDIO]));
    fs::remove_dir_all(bench.store.root()).unwrap();
    fs::write(bench.store.root(), "in the way").unwrap();
    let tracks = [(MediaKind::Audio, AUDIO.init.clone())];
    let refused = bench
        .store
        .start(&bench.session, a_time(), &tracks, Arc::new(|_| ()));
    assert!(
        matches!(refused, Err(RecordingError::Unwritable { .. })),
        "{refused:?}"
    );
}
