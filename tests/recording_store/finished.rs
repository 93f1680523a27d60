//! Growing and finished recordings of undisturbed sessions.

use std::{collections::HashSet, fs, thread};

use crate::{
    AUDIO, Bench, PATIENCE, VIDEO, a_time, finish, index,
    media::{self, Track, assert_decodes, probe},
    read_back, sample_counts, start,
};
use whipgate::media::MediaKind;

#[test]
fn a_recording_plays_at_every_moment_while_it_grows() {
    let bench = Bench::new();
    let tracks = [&*VIDEO, &*AUDIO];
    let (recorder, written) = bench.start(&tracks);
    let copy = bench.scratch("copy.mp4");
    for (number, (kind, part)) in media::interleave(&tracks).into_iter().enumerate() {
        recorder.push_part(kind, part);
        written.recv_timeout(PATIENCE).unwrap();
        if number % 9 == 2 {
            fs::copy(recorder.path(), &copy).unwrap();
            assert_eq!(fs::metadata(&copy).unwrap().len(), recorder.bytes());
            assert_decodes(&copy);
        }
    }
    assert_decodes(&finish(&recorder));
}

#[test]
fn every_part_stays_where_it_was_reported() {
    let bench = Bench::new();
    let tracks = [&*VIDEO, &*AUDIO];
    let (recorder, written) = bench.start(&tracks);
    let parts = media::interleave(&tracks);
    for (kind, part) in parts.clone() {
        recorder.push_part(kind, part);
    }
    let reports: Vec<_> = parts
        .iter()
        .map(|_| written.recv_timeout(PATIENCE).unwrap())
        .collect();
    let check = || {
        for (number, (report, (kind, part))) in (1..).zip(reports.iter().zip(&parts)) {
            assert_eq!(report.kind, *kind);
            assert_eq!(report.sequence_number, number);
            assert_eq!(report.decode_time, part.decode_time);
            assert!(read_back(report) == part.bytes);
        }
    };
    check();
    finish(&recorder);
    check();
}

/// Presentation time of each packet of each stream as ffprobe sees it, compared with what was pushed.
fn assert_exact_times(file: &std::path::Path, tracks: &[&Track]) {
    let seconds = |time: i64, track: &Track| time as f64 / f64::from(track.init.timescale);
    let first = |track: &&Track| {
        let times = track
            .parts
            .iter()
            .flat_map(|part| media::samples(&part.bytes));
        seconds(times.map(|sample| sample.time).min().unwrap(), track)
    };
    let zero = tracks.iter().map(first).fold(f64::INFINITY, f64::min);
    for (stream, track) in tracks.iter().enumerate() {
        let stream = stream.to_string();
        let packets = probe(
            file,
            &[
                "-select_streams",
                &stream,
                "-show_entries",
                "packet=pts_time,size,flags",
            ],
        );
        let samples: Vec<_> = track
            .parts
            .iter()
            .flat_map(|part| media::samples(&part.bytes))
            .collect();
        assert_eq!(packets.len(), samples.len());
        for (packet, sample) in packets.iter().zip(samples) {
            let [time, size, flags] = packet.split(',').collect::<Vec<_>>()[..] else {
                panic!("{packet}");
            };
            let expected = seconds(sample.time, track) - zero;
            let time: f64 = time.parse().unwrap();
            // ffprobe prints microseconds.
            assert!(
                (time - expected).abs() < 2e-6,
                "{time} instead of {expected}"
            );
            assert_eq!(size, sample.data.len().to_string());
            assert_eq!(flags.starts_with('K'), sample.sync, "{packet}");
        }
    }
}

fn assert_finished_file_is_exact(tracks: &[&Track]) {
    let bench = Bench::new();
    let file = bench.record(tracks);
    assert_decodes(&file);
    assert_exact_times(&file, tracks);

    let starts = tracks.iter().map(|track| {
        let first = track
            .parts
            .iter()
            .map(|part| part.presentation_time)
            .min()
            .unwrap();
        first as f64 / f64::from(track.init.timescale)
    });
    let ends = tracks.iter().map(|track| {
        let samples = track
            .parts
            .iter()
            .flat_map(|part| media::samples(&part.bytes));
        let end = samples
            .map(|sample| sample.time + i64::from(sample.duration))
            .max();
        end.unwrap() as f64 / f64::from(track.init.timescale)
    });
    let length = ends.fold(0.0, f64::max) - starts.fold(f64::INFINITY, f64::min);
    let format = probe(&file, &["-show_entries", "format=start_time,duration"]);
    let [start, duration] = format[0].split(',').collect::<Vec<_>>()[..] else {
        panic!("{format:?}");
    };
    assert_eq!(start.parse::<f64>().unwrap(), 0.0);
    let duration: f64 = duration.parse().unwrap();
    assert!(
        (duration - length).abs() < 2e-6,
        "{duration} instead of {length}"
    );

    let moov = index(&file);
    // 2026-11-22T06:37:00Z in seconds since 1904.
    assert_eq!(moov.mvhd.creation_time, 1_795_329_420 + 2_082_844_800);
    assert_eq!(moov.trak.len(), tracks.len());

    // Seeking: one picture from the middle, without a complaint, and it is the right one.
    let picture = bench.scratch("seek.framemd5");
    let seek = |input: &std::path::Path, place: &[&str], filter: &str| {
        let mut args = vec!["-v", "warning", "-xerror", "-y"];
        args.extend(place);
        args.extend(["-i", input.to_str().unwrap(), "-map", "0:v", "-vf", filter]);
        args.extend([
            "-frames:v",
            "1",
            "-f",
            "framemd5",
            picture.to_str().unwrap(),
        ]);
        let output = media::run("ffmpeg", args);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let sums = fs::read_to_string(&picture).unwrap();
        let line = sums.lines().last().unwrap();
        line.rsplit(',').next().unwrap().trim().to_owned()
    };
    if tracks[0].kind == MediaKind::Video {
        assert_eq!(
            seek(&file, &["-ss", "7.5"], "null"),
            seek(&file, &[], "select=gte(t\\,7.4999)"),
        );
    }
}

#[test]
fn a_finished_file_has_exact_times_and_seeks() {
    assert_finished_file_is_exact(&[&VIDEO, &AUDIO]);
}

#[test]
fn b_frames_keep_their_times() {
    assert_finished_file_is_exact(&[&media::video_with_b_frames(12).later(90_000), &AUDIO]);
}

#[test]
fn a_track_that_starts_late_stays_late() {
    // 1/48000 s more than a round number: no timescale of one track alone can say it.
    assert_finished_file_is_exact(&[&VIDEO, &AUDIO.clone().later(48_000 / 4 + 1)]);
    assert_finished_file_is_exact(&[&VIDEO.clone().later(30_001), &AUDIO]);
}

#[test]
fn one_track_is_enough() {
    assert_finished_file_is_exact(&[&VIDEO]);
    let bench = Bench::new();
    let file = bench.record(&[&AUDIO]);
    assert_decodes(&file);
    assert_exact_times(&file, &[&AUDIO]);
}

#[test]
fn a_pause_is_kept() {
    let mut video = VIDEO.clone();
    let mut audio = AUDIO.clone();
    for part in video.parts.iter_mut().skip(30) {
        *part = media::moved(part, 5 * 90_000);
    }
    for part in audio.parts.iter_mut().skip(30) {
        *part = media::moved(part, 5 * 48_000);
    }
    assert_finished_file_is_exact(&[&video, &audio]);
}

#[test]
fn two_recordings_at_once_do_not_mix() {
    let bench = Bench::new();
    let other = "other".parse().unwrap();
    let tracks = [&*VIDEO, &*AUDIO];
    let parts = media::interleave(&tracks);
    let files = thread::scope(|scope| {
        [&bench.session, &other]
            .map(|session| {
                scope.spawn(|| {
                    let (recorder, _written) = start(&bench.store, session, &tracks);
                    for (kind, part) in parts.clone() {
                        recorder.push_part(kind, part);
                    }
                    finish(&recorder)
                })
            })
            .map(|thread| thread.join().unwrap())
    });
    assert_ne!(files[0], files[1]);
    assert!(fs::read(&files[0]).unwrap() == fs::read(&files[1]).unwrap());
    assert_exact_times(&files[0], &tracks);
}

#[test]
fn names_are_never_reused() {
    let bench = Bench::new();
    let folder = bench.store.root().join("studio");
    fs::create_dir_all(&folder).unwrap();
    let taken = folder.join("2026-11-22T06-37-00Z-1.mp4");
    fs::write(&taken, "mine").unwrap();
    let files: Vec<_> = (0..3)
        .map(|_| {
            let file = bench.record(&[&AUDIO]);
            file.file_name().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        files,
        [
            "2026-11-22T06-37-00Z.mp4",
            "2026-11-22T06-37-00Z-2.mp4",
            "2026-11-22T06-37-00Z-3.mp4"
        ]
    );
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
}

#[test]
fn a_change_of_picture_size_is_one_file_with_two_sample_entries() {
    let bench = Bench::new();
    let (recorder, codecs) = bench.record_changing_sizes();
    let sizes = |file: &std::path::Path| {
        let mut runs: Vec<(String, usize)> = Vec::new();
        for size in probe(
            file,
            &[
                "-select_streams",
                "v",
                "-show_entries",
                "frame=width,height",
            ],
        ) {
            match runs.last_mut() {
                Some(run) if run.0 == size => run.1 += 1,
                _ => runs.push((size, 1)),
            }
        }
        runs
    };
    let expected = [("320,240", 90), ("640,360", 90), ("320,240", 60)]
        .map(|(size, count)| (size.to_owned(), count));
    let copy = bench.scratch("growing.mp4");
    fs::copy(recorder.path(), &copy).unwrap();
    assert_eq!(sizes(&copy), expected);
    let file = finish(&recorder);
    assert_eq!(sizes(&file), expected);
    assert_decodes(&file);
    let moov = index(&file);
    let stbl = &moov.trak[0].mdia.minf.stbl;
    let widths: Vec<_> = stbl
        .stsd
        .codecs
        .iter()
        .map(|codec| codec.visual().unwrap().width)
        .collect();
    assert_eq!(widths, [320, 640]);
    let entries: Vec<_> = stbl
        .stsc
        .entries
        .iter()
        .map(|run| run.sample_description_index)
        .collect();
    assert_eq!(entries.iter().collect::<HashSet<_>>().len(), 2);
    assert_eq!((entries[0], entries.last()), (1, Some(&1)));
    let entry = &bench.store.list().unwrap()[0];
    assert_eq!(entry.codecs, codecs);
    assert_eq!(entry.resolution, Some((320, 240)));
}

#[test]
fn a_recording_without_parts_leaves_no_file() {
    let bench = Bench::new();
    let (recorder, _written) = bench.start(&[&VIDEO]);
    assert!(recorder.path().exists());
    assert!(recorder.has(MediaKind::Video) && !recorder.has(MediaKind::Audio));
    assert!(bench.store.list().unwrap().is_empty());
    assert!(!finish(&recorder).exists());
}

#[test]
fn dropping_the_store_finishes_everything() {
    let bench = Bench::new();
    let tracks = [&*VIDEO, &*AUDIO];
    let (recorder, _written) = bench.start(&tracks);
    let parts = media::interleave(&tracks);
    for (kind, part) in parts.clone() {
        recorder.push_part(kind, part);
    }
    let Bench { folder, store, .. } = bench;
    assert!(store.close(PATIENCE));
    assert_eq!(sample_counts(recorder.path()), crate::pushed_counts(&parts));
    let (session, init) = ("late".parse().unwrap(), VIDEO.init.clone());
    let refused = store.start(
        &session,
        a_time(),
        &[(MediaKind::Video, init)],
        std::sync::Arc::new(|_| ()),
    );
    assert!(matches!(
        refused,
        Err(whipgate::recording::RecordingError::Closed)
    ));
    drop(store);
    drop(folder);
}
