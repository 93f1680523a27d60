//! Finished recordings as segments by byte range.

use std::{fs, path::Path, time::Duration};

use crate::{
    AUDIO, Bench, VIDEO, a_time, finish,
    media::{self, assert_decodes, probe},
};
use whipgate::recording::{RecordedInit, RecordedSegment, RecordingError, SegmentIndex};

/// A file of the init segment with this number and all segments that need it, as a player puts them together.
fn played(file: &Path, index: &SegmentIndex, init: usize) -> Vec<u8> {
    let bytes = fs::read(file).unwrap();
    let range = |start: u64, end: u64| {
        &bytes[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]
    };
    let mut out = match &index.inits[init] {
        RecordedInit::Range(found) => range(found.start, found.end).to_vec(),
        RecordedInit::Made(found) => found.to_vec(),
    };
    for segment in index.segments.iter().filter(|segment| segment.init == init) {
        out.extend_from_slice(range(segment.offset, segment.offset + segment.len));
    }
    out
}

fn total(segments: &[RecordedSegment]) -> Duration {
    segments.iter().map(|segment| segment.duration).sum()
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

fn pictures(file: &Path) -> usize {
    let args = ["-select_streams", "v", "-show_entries", "frame=pts"];
    probe(file, &args).len()
}

#[test]
fn the_segments_are_all_of_the_recording_and_each_starts_with_a_keyframe() {
    let bench = Bench::new();
    let file = bench.record(&[&VIDEO, &AUDIO]);
    let (_, index) = bench.store.segments(&bench.session, name(&file)).unwrap();
    assert!(matches!(index.inits[..], [RecordedInit::Range(_)]));
    // A keyframe each second, which is too often for a segment.
    assert_eq!(index.segments.len(), 6);
    let listed = bench.store.list_session(&bench.session).unwrap();
    let difference = total(&index.segments).abs_diff(listed[0].duration);
    assert!(difference < Duration::from_micros(1), "{difference:?}");
    for pair in index.segments.windows(2) {
        assert_eq!(pair[0].offset + pair[0].len, pair[1].offset);
        assert_eq!(pair[0].duration.as_millis().div_ceil(100), 20);
    }
    let copy = bench.scratch("played.mp4");
    for segment in &index.segments {
        assert!(segment.independent && !segment.discontinuity);
        let alone = SegmentIndex {
            segments: vec![*segment],
            ..SegmentIndex::clone(&index)
        };
        fs::write(&copy, played(&file, &alone, 0)).unwrap();
        assert_decodes(&copy);
        assert_eq!(pictures(&copy), 60);
    }
    fs::write(&copy, played(&file, &index, 0)).unwrap();
    assert_decodes(&copy);
    assert_eq!(pictures(&copy), pictures(&file));

    let (_, again) = bench.store.segments(&bench.session, name(&file)).unwrap();
    assert!(std::sync::Arc::ptr_eq(&index, &again), "read once");
}

#[test]
fn another_size_is_another_init_segment_after_a_discontinuity() {
    let bench = Bench::new();
    let (recorder, _codecs) = bench.record_changing_sizes();
    let file = finish(&recorder);
    let (_, index) = bench.store.segments(&bench.session, name(&file)).unwrap();
    let inits: Vec<_> = index.segments.iter().map(|segment| segment.init).collect();
    assert_eq!(inits, [0, 0, 1, 1, 0]);
    for pair in index.segments.windows(2) {
        assert_eq!(pair[1].discontinuity, pair[0].init != pair[1].init);
    }
    assert_eq!(total(&index.segments), Duration::from_secs(8));
    let copy = bench.scratch("played.mp4");
    for (init, size, count) in [(0, "320,240", 150), (1, "640,360", 90)] {
        fs::write(&copy, played(&file, &index, init)).unwrap();
        assert_decodes(&copy);
        let args = [
            "-select_streams",
            "v",
            "-show_entries",
            "frame=width,height",
        ];
        assert_eq!(probe(&copy, &args), vec![size; count]);
    }
}

#[test]
fn a_time_without_media_is_a_discontinuity_and_not_a_long_segment() {
    let bench = Bench::new();
    let (before, sound) = (media::video(3).later(90_000), media::audio(3).later(48_000));
    let (after, sound_after) = (
        media::video(3).later(90_000 * 34),
        media::audio(3).later(48_000 * 34),
    );
    let (recorder, _written) = bench.start(&[&before, &sound]);
    for tracks in [[&before, &sound], [&after, &sound_after]] {
        for (kind, part) in media::interleave(&tracks) {
            recorder.push_part(kind, part);
        }
    }
    let file = finish(&recorder);
    let (_, index) = bench.store.segments(&bench.session, name(&file)).unwrap();
    let breaks: Vec<_> = index.segments.iter().map(|s| s.discontinuity).collect();
    assert_eq!(breaks, [false, false, true, false]);
    let longest = index.segments.iter().map(|s| s.duration).max().unwrap();
    assert!(longest < Duration::from_millis(2_100), "{longest:?}");
    let sum = total(&index.segments);
    assert!(
        sum.abs_diff(Duration::from_secs(6)) < Duration::from_millis(60),
        "{sum:?}"
    );
}

#[test]
fn sound_alone_has_segments_of_two_seconds_or_so() {
    let bench = Bench::new();
    let file = bench.record(&[&AUDIO]);
    let (_, index) = bench.store.segments(&bench.session, name(&file)).unwrap();
    assert!(
        (6..9).contains(&index.segments.len()),
        "{}",
        index.segments.len()
    );
    assert!(index.segments.iter().all(|segment| segment.independent));
}

#[test]
fn a_recording_in_progress_has_no_segments_yet_and_a_repaired_one_has() {
    let bench = Bench::new();
    let (recorder, written) = bench.start(&[&VIDEO, &AUDIO]);
    let mut crashed = Vec::new();
    for (kind, part) in media::interleave(&[&VIDEO, &AUDIO]) {
        recorder.push_part(kind, part);
        written.recv_timeout(crate::PATIENCE).unwrap();
        crashed = fs::read(recorder.path()).unwrap();
    }
    let live = bench.store.segments(&bench.session, name(recorder.path()));
    assert!(matches!(live, Err(RecordingError::Busy { .. })), "{live:?}");
    finish(&recorder);

    // A part of which the second half is missing.
    crashed.truncate(crashed.len() - 100);
    let file = recorder.path().with_file_name("2026-11-22T07-00-00Z.mp4");
    fs::write(&file, &crashed).unwrap();
    let found = bench.store.segments(&bench.session, name(&file)).unwrap().1;
    assert_eq!(bench.store.repair().unwrap().len(), 1);
    let repaired = bench.store.segments(&bench.session, name(&file)).unwrap().1;
    assert_eq!(found, repaired, "repair moves nothing");
    let copy = bench.scratch("played.mp4");
    fs::write(&copy, played(&file, &repaired, 0)).unwrap();
    assert_decodes(&copy);
}

#[test]
fn a_file_without_a_second_ftyp_gets_its_init_segment_made() {
    let bench = Bench::new();
    let (recorder, written) = bench.start(&[&VIDEO, &AUDIO]);
    for (kind, part) in media::interleave(&[&VIDEO, &AUDIO]) {
        recorder.push_part(kind, part);
        written.recv_timeout(crate::PATIENCE).unwrap();
    }
    let mut bytes = fs::read(recorder.path()).unwrap();
    finish(&recorder);
    // As it was laid out before: the reserved box holds nothing.
    let ftyp = usize::try_from(u32::from_be_bytes(bytes[..4].try_into().unwrap())).unwrap();
    assert_eq!(bytes[ftyp + 16..2 * ftyp + 16], bytes[..ftyp]);
    bytes.drain(ftyp + 16..2 * ftyp + 16);
    bytes[ftyp..ftyp + 4].copy_from_slice(&16_u32.to_be_bytes());
    let file = recorder.path().with_file_name("2026-11-22T07-00-00Z.mp4");
    fs::write(&file, &bytes).unwrap();
    assert_eq!(bench.store.repair().unwrap().len(), 1);
    assert_decodes(&file);

    let (_, index) = bench.store.segments(&bench.session, name(&file)).unwrap();
    assert!(matches!(index.inits[..], [RecordedInit::Made(_)]));
    let copy = bench.scratch("played.mp4");
    fs::write(&copy, played(&file, &index, 0)).unwrap();
    assert_decodes(&copy);
    assert_eq!(pictures(&copy), pictures(&file));
}

#[test]
fn what_is_no_recording_of_ours_has_no_segments() {
    let bench = Bench::new();
    let folder = bench.store.root().join(bench.session.as_str());
    fs::create_dir_all(&folder).unwrap();
    let name = whipgate::recording::FileName::new(a_time(), 0).to_string();
    fs::write(folder.join(&name), b"something else").unwrap();
    for _ in 0..2 {
        let refused = bench.store.segments(&bench.session, &name);
        assert!(refused.is_err(), "{refused:?}");
    }
    let missing = bench
        .store
        .segments(&bench.session, "2026-11-22T07-00-00Z.mp4");
    assert!(
        matches!(missing, Err(RecordingError::NotFound)),
        "{missing:?}"
    );
}
