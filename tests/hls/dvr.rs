//! What a playlist that goes back to the beginning of the stream (`hls.dvr`) promises, on synthetic media.
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::FutureExt as _;
use whipgate::{
    hls::{BlockingReload, HlsError, PartKey, RenditionId, Settings, Stream},
    media::{AudioFormat, FileRange, InitSegment, MediaKind, Part},
};

use super::{AUDIO, SKIP, VIDEO, bytes};

/// Six seconds of window and twelve that a delta update may not leave out.
fn dvr() -> Settings {
    Settings {
        window: Duration::from_secs(6),
        dvr: true,
        ..Settings::default()
    }
}

/// The part of a recorder: one file that gets every part of every track.
struct Recording {
    _folder: tempfile::TempDir,
    path: PathBuf,
    writer: File,
    reader: Arc<File>,
    end: u64,
}

impl Recording {
    fn start(stream: &Stream) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"head").unwrap();
        let reader = Arc::new(File::open(&path).unwrap());
        stream.recorded_in(&reader, &path);
        Self {
            _folder: folder,
            path,
            writer,
            reader,
            end: 4,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> FileRange {
        self.writer.write_all(bytes).unwrap();
        let offset = self.end;
        self.end += bytes.len() as u64;
        FileRange {
            file: Arc::clone(&self.reader),
            offset,
            len: bytes.len() as u64,
        }
    }
}

/// A publisher of both tracks, and what it has sent.
struct Live {
    stream: Stream,
    recording: Option<Recording>,
    clock: SystemTime,
    segments: u64,
    /// Bytes of each segment, by rendition.
    sent: BTreeMap<&'static str, Vec<Vec<u8>>>,
}

impl Live {
    fn start(stream: Stream) -> Self {
        stream.expect(&[VIDEO, AUDIO]);
        let mut live = Self {
            recording: Some(Recording::start(&stream)),
            stream,
            clock: SystemTime::UNIX_EPOCH + Duration::from_hours(490_000),
            segments: 0,
            sent: BTreeMap::new(),
        };
        live.init(0);
        live
    }

    fn init(&mut self, variant: u32) {
        for kind in [VIDEO, AUDIO] {
            let init = InitSegment {
                bytes: format!("init {kind} {variant}").into(),
                codecs: match kind {
                    VIDEO => format!("avc1.64001{:x}", 15 - variant),
                    AUDIO => "opus".to_owned(),
                },
                timescale: 48_000,
                resolution: None,
                channels: 2,
            };
            self.stream.push_init(kind, init);
        }
    }

    fn push(&mut self, kind: MediaKind, first: bool, independent: bool) -> Option<PartKey> {
        let number = self.sent.get(kind.as_str()).map_or(0, Vec::len);
        let text = format!("{kind} {number:06} {} ", self.clock.elapsed().is_ok());
        let bytes = Bytes::from(text.repeat(8));
        let part = Part {
            bytes: bytes.clone(),
            decode_time: 0,
            presentation_time: 0,
            duration: 9_600,
            samples: 6,
            independent,
            starts_segment: first,
            discontinuity: false,
        };
        let sent = self.sent.entry(kind.as_str()).or_default();
        if first {
            sent.push(Vec::new());
        }
        sent.last_mut().unwrap().extend_from_slice(&bytes);
        let key = self.stream.push_part(kind, part, self.clock)?;
        if let Some(recording) = &mut self.recording {
            let range = recording.write(&bytes);
            self.stream.offload(kind, key, range);
        }
        Some(key)
    }

    /// A segment of ten parts in both renditions, side by side.
    async fn segment_with(&mut self, independent: bool) {
        for part in 0..10 {
            self.push(VIDEO, part == 0, part == 0 && independent);
            self.push(AUDIO, part == 0, true);
            self.clock += Duration::from_millis(200);
        }
        self.segments += 1;
        tokio::time::advance(Duration::from_secs(2)).await;
    }

    async fn segments(&mut self, count: u64) {
        for _ in 0..count {
            self.segment_with(true).await;
        }
    }

    fn text(&self, rendition: &str, reload: BlockingReload) -> String {
        let document = self
            .stream
            .media_playlist(rendition, reload)
            .now_or_never()
            .expect("an answer at once")
            .unwrap();
        let text = String::from_utf8(document.body().to_vec()).unwrap();
        let mut unpacked = String::new();
        GzDecoder::new(&document.gzip()[..])
            .read_to_string(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, text, "gzip says the same");
        text
    }

    fn playlist(&self, rendition: &str) -> String {
        self.text(rendition, BlockingReload::default())
    }

    async fn get(&self, rendition: &str, name: &str) -> Result<Vec<u8>, HlsError> {
        Ok(bytes(&self.stream.resource(rendition, name).await?))
    }

    fn memory(&self) -> u64 {
        self.stream.status().memory_bytes
    }
}

/// The lines that belong to segments and stay: no parts, which leave the list, and nothing that is said of the edge.
fn lasting(playlist: &str) -> Vec<&str> {
    let passing = ["#EXT-X-PART:", "#EXT-X-PRELOAD", "#EXT-X-RENDITION"];
    let lines: Vec<&str> = playlist
        .lines()
        .skip_while(|line| !line.starts_with("#EXT-X-DISCONTINUITY-SEQUENCE"))
        .filter(|line| !passing.iter().any(|tag| line.starts_with(tag)))
        .collect();
    // Of the segment in progress there is only a date.
    let complete = lines.iter().rposition(|line| !line.starts_with('#'));
    lines[..=complete.unwrap()].to_vec()
}

/// How many segments a delta update leaves out.
fn skipped(delta: &str) -> usize {
    let tag = "#EXT-X-SKIP:SKIPPED-SEGMENTS=";
    let mut lines = delta.lines();
    let number = lines.find_map(|line| line.strip_prefix(tag));
    number.unwrap().parse().unwrap()
}

fn uris(playlist: &str) -> Vec<&str> {
    playlist.lines().filter(|l| !l.starts_with('#')).collect()
}

#[tokio::test(start_paused = true)]
async fn everything_since_the_beginning_is_listed_and_read_from_the_recording() {
    let mut live = Live::start(Stream::new(dvr()));
    let mut before = BTreeMap::new();
    let mut most = 0;
    for round in 0..40 {
        live.segments(15).await;
        if round == 20 {
            live.init(1);
        }
        if round == 3 {
            most = live.memory();
        }
        for rendition in ["video", "audio"] {
            let playlist = live.playlist(rendition);
            assert!(playlist.contains("#EXT-X-PLAYLIST-TYPE:EVENT\n"));
            assert!(playlist.contains("#EXT-X-MEDIA-SEQUENCE:0\n"));
            assert!(playlist.contains("#EXT-X-PART:") && playlist.contains("#EXT-X-PRELOAD-HINT"));
            if let Some(before) = before.insert(rendition, playlist.clone()) {
                let (old, new) = (lasting(&before), lasting(&playlist));
                assert_eq!(old, new[..old.len()], "nothing that is listed changes");
            }
        }
    }
    assert!(live.memory() <= most, "{} > {most}", live.memory());
    for rendition in ["video", "audio"] {
        let playlist = live.playlist(rendition);
        // The last one is in progress.
        let uris = uris(&playlist);
        assert_eq!(uris.len(), 599);
        for (uri, sent) in uris.iter().zip(&live.sent[rendition]) {
            assert_eq!(live.get(rendition, uri).await.as_ref(), Ok(sent), "{uri}");
        }
        for map in playlist
            .lines()
            .filter_map(|l| l.strip_prefix("#EXT-X-MAP:URI=\""))
        {
            assert!(
                live.get(rendition, map.trim_end_matches('"')).await.is_ok(),
                "{map}"
            );
        }
        assert_eq!(playlist.matches("#EXT-X-MAP").count(), 2);
        assert_eq!(playlist.matches("#EXT-X-DISCONTINUITY\n").count(), 1);
        assert!(playlist.contains("#EXT-X-DISCONTINUITY-SEQUENCE:0\n"));
    }
    let status = live.stream.status();
    let video = &status.renditions[0];
    assert_eq!(
        (video.media_sequence, video.segments, video.gaps),
        (0, 600, 0)
    );
    assert!(video.archived_segments > 580, "{}", video.archived_segments);
    let each = video.archive_bytes / video.archived_segments as u64;
    assert!(each < 150, "{each} bytes per segment");
}

#[tokio::test(start_paused = true)]
async fn a_delta_update_stays_small_and_completes_the_older_playlist() {
    let mut live = Live::start(Stream::new(dvr()));
    live.segments(400).await;
    let older = live.playlist("video");
    live.segments(3).await;
    let (full, delta) = (live.playlist("video"), live.text("video", SKIP));
    let skipped = skipped(&delta);
    assert!(
        delta.contains("#EXT-X-VERSION:9\n") && delta.len() < 8_000,
        "{}",
        delta.len()
    );
    let merged: Vec<_> = uris(&older)[..skipped]
        .iter()
        .chain(&uris(&delta))
        .copied()
        .collect();
    assert_eq!(merged, uris(&full));
    assert_eq!(merged.len(), 402);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_it_is_vod_complete_and_out_of_memory() {
    let mut live = Live::start(Stream::new(dvr()));
    live.segments(30).await;
    let before = live.playlist("video");
    live.stream.end();
    let playlist = live.playlist("video");
    assert!(playlist.contains("#EXT-X-PLAYLIST-TYPE:VOD\n"));
    assert!(playlist.ends_with("#EXT-X-ENDLIST\n") && !playlist.contains("PRELOAD-HINT"));
    let (old, new) = (lasting(&before), lasting(&playlist));
    assert_eq!(old, new[..old.len()]);
    assert_eq!(uris(&playlist).len(), 30);
    assert_eq!(live.memory(), 0, "all of it is on disk");
    for (uri, sent) in uris(&playlist).iter().zip(&live.sent["video"]) {
        assert_eq!(live.get("video", uri).await.as_ref(), Ok(sent), "{uri}");
    }
    assert_eq!(live.stream.reach(), Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_recorded_leaves_memory_and_is_a_gap() {
    let mut live = Live::start(Stream::new(dvr()));
    live.segments(20).await;
    let first = live.recording.take();
    live.segments(20).await;
    let most = live.memory();
    live.segments(100).await;
    assert!(live.memory() <= most);
    live.recording = Some(Recording::start(&live.stream));
    live.segments(300).await;
    assert!(
        first
            .as_ref()
            .is_some_and(|recording| recording.path.exists())
    );

    let playlist = live.playlist("video");
    let mut gap = false;
    let mut gaps = 0;
    for line in playlist.lines() {
        gap |= line == "#EXT-X-GAP";
        if line.starts_with('#') {
            continue;
        }
        let msn: u64 = line
            .rsplit_once("-s")
            .unwrap()
            .1
            .trim_end_matches(".mp4")
            .parse()
            .unwrap();
        assert_eq!(gap, (20..140).contains(&msn), "{line}");
        assert_eq!(live.get("video", line).await.is_err(), gap, "{line}");
        gaps += usize::from(std::mem::take(&mut gap));
    }
    assert_eq!(live.stream.status().renditions[0].gaps, gaps);
}

#[tokio::test(start_paused = true)]
async fn a_recording_that_was_deleted_is_not_found() {
    let mut live = Live::start(Stream::new(dvr()));
    live.segments(40).await;
    let playlist = live.playlist("video");
    let first = uris(&playlist)[0];
    assert!(live.get("video", first).await.is_ok());
    std::fs::remove_file(&live.recording.as_ref().unwrap().path).unwrap();
    assert_eq!(live.get("video", first).await, Err(HlsError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn old_segments_are_marked_too_once_one_does_not_start_with_a_keyframe() {
    let mut live = Live::start(Stream::new(dvr()));
    live.segments(300).await;
    assert!(
        live.playlist("video")
            .contains("#EXT-X-INDEPENDENT-SEGMENTS\n")
    );
    live.segment_with(false).await;
    live.segments(2).await;
    let playlist = live.playlist("video");
    assert!(!playlist.contains("INDEPENDENT-SEGMENTS"));
    assert_eq!(playlist.matches("# independent segment\n").count(), 302);
    assert_eq!(uris(&playlist).len(), 302);
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_after_gaps_and_still_has_small_deltas() {
    let mut live = Live::start(Stream::new(dvr()));
    live.segments(30).await;
    let progress = live.stream.progress();
    let mut next = Live::start(Stream::resume(dvr(), &progress));
    next.segments(60).await;
    let (full, delta) = (next.playlist("video"), next.text("video", SKIP));
    let gaps = full.matches("#EXT-X-GAP\n").count();
    assert!(gaps > 0 && uris(&full).len() == gaps + 59, "{full}");
    assert!(
        full.contains(&format!("#EXT-X-MEDIA-SEQUENCE:{}\n", 30 - gaps)),
        "{full}"
    );
    let skipped = skipped(&delta);
    assert_eq!(skipped + uris(&delta).len(), uris(&full).len());
    assert!(!delta.contains("#EXT-X-GAP"));
}

#[tokio::test(start_paused = true)]
async fn what_is_made_on_demand_and_not_recorded_has_the_window_only() {
    let settings = Settings {
        audio: vec![AudioFormat::Opus, AudioFormat::Aac],
        ..dvr()
    };
    let mut live = Live::start(Stream::new(settings));
    let init = InitSegment {
        bytes: "aac".into(),
        codecs: "mp4a.40.2".to_owned(),
        timescale: 48_000,
        resolution: None,
        channels: 2,
    };
    live.stream.push_init(RenditionId::Aac, init);
    for _ in 0..20 {
        live.segments(1).await;
        let part = Part {
            bytes: "aac".into(),
            decode_time: 0,
            presentation_time: 0,
            duration: 96_000,
            samples: 94,
            independent: true,
            starts_segment: true,
            discontinuity: false,
        };
        live.stream.push_part(RenditionId::Aac, part, live.clock);
    }
    let playlist = live.playlist("aac");
    assert!(!playlist.contains("PLAYLIST-TYPE"));
    assert!(uris(&playlist).len() < 6, "{playlist}");
    assert!(live.playlist("audio").contains("PLAYLIST-TYPE:EVENT"));
}
