//! Lists of recordings and opening them.

use std::{fs, io::Read, time::Duration};

use crate::{AUDIO, Bench, PATIENCE, VIDEO, a_time, finish, media};
use whipgate::recording::{EntryState, RecordingError};

#[test]
fn a_recording_is_listed_live_and_then_complete() {
    let bench = Bench::new();
    let tracks = [&*VIDEO, &*AUDIO];
    let (recorder, written) = bench.start(&tracks);
    let parts = media::interleave(&tracks);
    let half = parts.len() / 2;
    for (kind, part) in parts.iter().take(half).cloned() {
        recorder.push_part(kind, part);
        written.recv_timeout(PATIENCE).unwrap();
    }
    let live = bench.store.list().unwrap().remove(0);
    assert_eq!(live.state, EntryState::Live);
    assert_eq!((live.session_id.as_str(), live.start), ("studio", a_time()));
    assert_eq!(live.codecs, [VIDEO.init.codecs.as_str(), "opus"]);
    assert_eq!(live.resolution, Some((320, 240)));
    assert_eq!(live.bytes, recorder.bytes());
    let difference = live.duration.abs_diff(Duration::from_secs(6));
    assert!(difference < Duration::from_millis(250), "{live:?}");

    let mut open = bench
        .store
        .open_file(&bench.session, &live.file.to_string())
        .unwrap();
    assert!(open.live && open.etag.starts_with("W/\""), "{open:?}");
    assert_eq!(open.len, live.bytes);
    let mut bytes = Vec::new();
    open.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, open.len);

    for (kind, part) in parts.iter().skip(half).cloned() {
        recorder.push_part(kind, part);
    }
    finish(&recorder);
    let complete = bench.store.list_session(&bench.session).unwrap().remove(0);
    assert_eq!(
        (complete.state, complete.indexed),
        (EntryState::Complete, true)
    );
    assert_eq!((complete.start, &complete.codecs), (a_time(), &live.codecs));
    assert_eq!(complete.bytes, fs::metadata(recorder.path()).unwrap().len());
    let difference = complete.duration.abs_diff(Duration::from_secs(12));
    assert!(difference < Duration::from_millis(50), "{complete:?}");
    // The second time comes from memory and is the same.
    assert_eq!(bench.store.list().unwrap(), std::slice::from_ref(&complete));

    let open = bench
        .store
        .open_file(&bench.session, "2026-11-22T06-37-00Z.mp4")
        .unwrap();
    assert!(!open.live && open.etag.starts_with('"'), "{open:?}");
    assert_eq!(open.len, complete.bytes);
    fs::remove_file(recorder.path()).unwrap();
    assert!(bench.store.list().unwrap().is_empty());
}

#[test]
fn only_names_of_recordings_are_opened() {
    let bench = Bench::new();
    bench.record(&[&AUDIO]);
    fs::write(bench.store.root().join("studio/secret"), "secret").unwrap();
    fs::create_dir(bench.store.root().join("studio/2026-11-22T06-37-09Z.mp4")).unwrap();
    for name in [
        "",
        ".",
        "..",
        "secret",
        "./2026-11-22T06-37-00Z.mp4",
        "../studio/2026-11-22T06-37-00Z.mp4",
        "2026-11-22T06-37-00Z.mp4/",
        "2026-11-22T06-37-01Z.mp4",
        "2026-11-22T06-37-09Z.mp4",
        "2026-11-22T06-37-00Z.mp4\0",
    ] {
        let opened = bench.store.open_file(&bench.session, name);
        assert!(
            matches!(opened, Err(RecordingError::NotFound)),
            "{name:?}: {opened:?}"
        );
    }
    let nobody = "nobody".parse().unwrap();
    assert!(bench.store.list_session(&nobody).unwrap().is_empty());
    assert!(
        bench
            .store
            .open_file(&nobody, "2026-11-22T06-37-00Z.mp4")
            .is_err()
    );
}
