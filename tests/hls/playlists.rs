//! What the low-latency HLS of a session promises its players (RFC 8216bis), on synthetic media: each test carries the
//! number of the requirement it shows.
use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::time::Instant;
use whipgate::{
    hls::{
        BlockingReload, Chunk, Document, HlsError, PartKey, RenditionId, Settings, State, Stream,
        StreamKey,
    },
    media::{AudioFormat, FileRange, InitSegment, MediaKind, Part},
};

use super::{AUDIO, SKIP, VIDEO, bytes};

fn stream(settings: Settings) -> Stream {
    Stream::with_key(settings, StreamKey::parse("k").unwrap())
}

/// Four seconds of window are less than three target durations, so six seconds are listed: quick to fill.
fn small() -> Settings {
    Settings {
        window: Duration::from_secs(4),
        ..Settings::default()
    }
}

/// Makes parts of one track, 30 pictures or 50 audio frames a second, that follow each other without a gap.
struct Track {
    stream: Stream,
    kind: MediaKind,
    decode_time: u64,
    clock: SystemTime,
    pushed: Vec<(PartKey, Bytes)>,
}

impl Track {
    fn new(stream: &Stream, kind: MediaKind) -> Self {
        let mut track = Self::without_init(stream, kind);
        track.init(0);
        track
    }

    fn without_init(stream: &Stream, kind: MediaKind) -> Self {
        Self {
            stream: stream.clone(),
            kind,
            decode_time: 0,
            clock: SystemTime::UNIX_EPOCH + Duration::from_hours(490_000),
            pushed: Vec::new(),
        }
    }

    fn timescale(&self) -> u32 {
        if self.kind == VIDEO { 90_000 } else { 48_000 }
    }

    fn init(&mut self, variant: u32) {
        let init = InitSegment {
            bytes: Bytes::from(format!("init {} {variant}", self.kind)),
            codecs: match self.kind {
                VIDEO => format!("avc1.64001{:x}", 15 - variant),
                AUDIO => "opus".to_owned(),
            },
            timescale: self.timescale(),
            resolution: (self.kind == VIDEO).then_some((1280 / (variant + 1), 720 / (variant + 1))),
            channels: if self.kind == AUDIO { 2 } else { 0 },
        };
        self.stream.push_init(self.kind, init);
    }

    /// A part of `millis`, made to what the caller wants.
    fn push(&mut self, millis: u64, change: impl FnOnce(&mut Part)) -> Option<PartKey> {
        let duration = u64::from(self.timescale()) * millis / 1000;
        let mut part = Part {
            bytes: Bytes::from(format!("{} {};", self.kind, self.decode_time).repeat(20)),
            decode_time: self.decode_time,
            presentation_time: self.decode_time,
            duration,
            samples: u32::try_from(millis * if self.kind == VIDEO { 30 } else { 50 } / 1000)
                .unwrap(),
            independent: self.kind == AUDIO,
            starts_segment: false,
            discontinuity: false,
        };
        change(&mut part);
        let bytes = part.bytes.clone();
        let key = self.stream.push_part(self.kind, part, self.clock)?;
        self.decode_time += duration;
        self.clock += Duration::from_millis(millis);
        self.pushed.push((key, bytes));
        Some(key)
    }

    fn part(&mut self) {
        self.push(200, |_| {}).unwrap();
    }

    fn key_part(&mut self) {
        self.push(200, start).unwrap();
    }

    /// Ten parts of 200 ms, the first of which starts a segment.
    fn segment(&mut self) {
        self.key_part();
        (1..10).for_each(|_| self.part());
    }
}

fn start(part: &mut Part) {
    part.starts_segment = true;
    part.independent = true;
}

fn msn(msn: u64) -> BlockingReload {
    BlockingReload {
        msn: Some(msn),
        ..BlockingReload::default()
    }
}

fn part(msn: u64, part: u64) -> BlockingReload {
    BlockingReload {
        msn: Some(msn),
        part: Some(part),
        skip: false,
    }
}

/// The answer that is there at once.
fn now<T>(answer: impl Future<Output = Result<T, HlsError>>) -> Result<T, HlsError> {
    answer.now_or_never().expect("an answer at once")
}

fn text(document: &Document) -> &str {
    std::str::from_utf8(document.body()).unwrap()
}

/// The media playlist at this moment, also without a complete segment.
fn playlist(stream: &Stream, rendition: &str) -> Playlist {
    let reload = match now_or_wait(stream.media_playlist(rendition, BlockingReload::default())) {
        Some(_) => BlockingReload::default(),
        None => part(0, 0),
    };
    Playlist::parse(text(
        &now(stream.media_playlist(rendition, reload)).unwrap(),
    ))
}

fn now_or_wait<T>(
    answer: impl Future<Output = Result<T, HlsError>>,
) -> Option<Result<T, HlsError>> {
    // A future that waits needs the timer of a runtime even to be looked at once.
    let runtime = tokio::runtime::Handle::try_current().is_err().then(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    });
    let _entered = runtime.as_ref().map(tokio::runtime::Runtime::enter);
    answer.now_or_never()
}

/// A media playlist, taken apart by a reader that refuses whatever RFC 8216bis section 4 forbids.
#[derive(Clone, Debug, Default, PartialEq)]
struct Playlist {
    text: String,
    tags: BTreeMap<String, String>,
    segments: Vec<Segment>,
    hint: Option<String>,
    reports: Vec<BTreeMap<String, String>>,
    skipped: usize,
    ended: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Segment {
    /// `None` while in progress.
    uri: Option<String>,
    duration: f64,
    map: Option<String>,
    discontinuity: bool,
    date: Option<SystemTime>,
    parts: Vec<PartTag>,
}

#[derive(Clone, Debug, PartialEq)]
struct PartTag {
    uri: String,
    duration: f64,
    independent: bool,
}

impl Playlist {
    fn parse(text: &str) -> Self {
        assert!(
            text.starts_with("#EXTM3U\n") && text.ends_with('\n'),
            "{text}"
        );
        let mut playlist = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        let mut segment = Segment::default();
        let mut extinf = None;
        let mut marked = false;
        for line in text.lines().skip(1) {
            assert!(!playlist.ended, "lines after EXT-X-ENDLIST\n{text}");
            let Some(tag) = line.strip_prefix('#') else {
                segment.duration = extinf.take().expect("EXTINF before each URI");
                segment.uri = Some(line.to_owned());
                let first = segment.parts.first();
                assert!(
                    !std::mem::take(&mut marked) || first.is_none_or(|part| part.independent),
                    "marked as independent\n{text}"
                );
                playlist.segments.push(std::mem::take(&mut segment));
                continue;
            };
            let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
            match name {
                "EXTINF" => extinf = Some(value.strip_suffix(',').unwrap().parse().unwrap()),
                "EXT-X-MAP" => {
                    let attributes = attributes(value);
                    assert!(
                        segment.map.replace(attributes["URI"].clone()).is_none(),
                        "{text}"
                    );
                }
                "EXT-X-DISCONTINUITY" => {
                    assert!(
                        !std::mem::replace(&mut segment.discontinuity, true),
                        "{text}"
                    );
                }
                "EXT-X-PROGRAM-DATE-TIME" => {
                    assert!(value.ends_with('Z') && value.len() == 24, "{value}");
                    let date = humantime::parse_rfc3339(value).unwrap();
                    assert!(segment.date.replace(date).is_none(), "{text}");
                }
                "EXT-X-PART" => {
                    let attributes = attributes(value);
                    segment.parts.push(PartTag {
                        uri: attributes["URI"].clone(),
                        duration: attributes["DURATION"].parse().unwrap(),
                        independent: attributes.get("INDEPENDENT").is_some_and(|v| v == "YES"),
                    });
                }
                "EXT-X-PRELOAD-HINT" => {
                    let attributes = attributes(value);
                    assert_eq!(attributes["TYPE"], "PART");
                    assert!(playlist.hint.replace(attributes["URI"].clone()).is_none());
                }
                "EXT-X-RENDITION-REPORT" => playlist.reports.push(attributes(value)),
                "EXT-X-SKIP" => {
                    playlist.skipped = attributes(value)["SKIPPED-SEGMENTS"].parse().unwrap();
                }
                "EXT-X-ENDLIST" => playlist.ended = true,
                "EXT-X-VERSION"
                | "EXT-X-TARGETDURATION"
                | "EXT-X-SERVER-CONTROL"
                | "EXT-X-PART-INF"
                | "EXT-X-MEDIA-SEQUENCE"
                | "EXT-X-DISCONTINUITY-SEQUENCE"
                | "EXT-X-INDEPENDENT-SEGMENTS" => {
                    assert!(playlist.segments.is_empty() && segment == Segment::default());
                    let twice = playlist.tags.insert(name.to_owned(), value.to_owned());
                    assert_eq!(twice, None, "{name} twice\n{text}");
                }
                " independent segment" => marked = true,
                _ => panic!("unexpected tag {name}\n{text}"),
            }
        }
        assert_eq!(extinf, None);
        if segment != Segment::default() {
            segment.duration = segment.parts.iter().map(|p| p.duration).sum();
            playlist.segments.push(segment);
        }
        playlist
    }

    fn number(&self, tag: &str) -> u64 {
        self.tags[tag].parse().unwrap()
    }

    fn media_sequence(&self) -> u64 {
        self.number("EXT-X-MEDIA-SEQUENCE")
    }

    fn target_duration(&self) -> u64 {
        self.number("EXT-X-TARGETDURATION")
    }

    fn part_target(&self) -> f64 {
        attributes(&self.tags["EXT-X-PART-INF"])["PART-TARGET"]
            .parse()
            .unwrap()
    }

    fn control(&self, name: &str) -> f64 {
        attributes(&self.tags["EXT-X-SERVER-CONTROL"])[name]
            .parse()
            .unwrap()
    }

    fn complete(&self) -> impl DoubleEndedIterator<Item = &Segment> + Clone {
        self.segments.iter().filter(|s| s.uri.is_some())
    }

    fn parts(&self) -> impl Iterator<Item = &PartTag> {
        self.segments.iter().flat_map(|s| &s.parts)
    }

    fn duration(&self) -> f64 {
        self.segments.iter().map(|s| s.duration).sum()
    }

    fn uris(&self) -> Vec<&str> {
        let maps = self.segments.iter().filter_map(|s| s.map.as_deref());
        let segments = self.segments.iter().filter_map(|s| s.uri.as_deref());
        let parts = self.parts().map(|p| p.uri.as_str());
        maps.chain(segments).chain(parts).collect()
    }

    /// Discontinuity sequence number of each segment.
    fn discontinuities(&self) -> Vec<u64> {
        let mut number = self.number("EXT-X-DISCONTINUITY-SEQUENCE");
        let mut numbers = Vec::new();
        for segment in &self.segments {
            number += u64::from(segment.discontinuity);
            numbers.push(number);
        }
        numbers
    }

    /// Whatever must be true of any playlist at any time.
    fn check(&self) {
        let text = &self.text;
        let target = self.target_duration();
        let version = if self.skipped > 0 { "9" } else { "6" };
        assert_eq!(self.tags["EXT-X-VERSION"], version, "H2");
        if self.skipped == 0 {
            assert!(self.segments[0].map.is_some(), "H12\n{text}");
        }
        for segment in self.complete() {
            assert!(segment.duration.round() <= target as f64, "H3\n{text}");
            if !segment.parts.is_empty() {
                let sum: f64 = segment.parts.iter().map(|p| p.duration).sum();
                assert!((sum - segment.duration).abs() < 0.0005, "H14\n{text}");
            }
        }
        for segment in &self.segments {
            assert!(segment.date.is_some(), "H11\n{text}");
            assert!(
                !segment.discontinuity || segment.map.is_some(),
                "H8\n{text}"
            );
        }
        for part in self.parts() {
            assert!(part.duration <= self.part_target(), "H15\n{text}");
        }
        let independent = |s: &&Segment| s.parts.first().is_some_and(|p| !p.independent);
        if self.tags.contains_key("EXT-X-INDEPENDENT-SEGMENTS") {
            assert!(
                !self.segments.iter().any(|s| independent(&s)),
                "H13\n{text}"
            );
        }
        assert!(self.control("HOLD-BACK") >= 3.0 * target as f64, "H16");
        assert!(self.control("CAN-SKIP-UNTIL") >= 6.0 * target as f64, "H16");
        assert!(
            self.control("PART-HOLD-BACK") >= 3.0 * self.part_target() - 1e-9,
            "H16\n{text}"
        );
        assert!(text.contains("CAN-BLOCK-RELOAD=YES"), "H16");
        assert!(!text.contains("PLAYLIST-TYPE"), "H9");
        assert_eq!(self.ended, self.hint.is_none(), "H9 H19\n{text}");
        let mut distance = self.duration();
        for segment in &self.segments {
            if !segment.parts.is_empty() {
                assert!(
                    distance <= 3.0 * target as f64 + 1e-3,
                    "parts listed too long\n{text}"
                );
            }
            distance -= segment.duration;
        }
        let (_, parsed) =
            m3u8_rs::parse_media_playlist(text.as_bytes()).expect("H1: m3u8-rs reads it");
        assert_eq!(parsed.media_sequence, self.media_sequence());
        assert_eq!(parsed.target_duration, target);
        assert_eq!(parsed.end_list, self.ended);
        let uris: Vec<_> = parsed
            .segments
            .iter()
            .filter(|s| !s.uri.is_empty())
            .map(|s| s.uri.clone())
            .collect();
        let expected: Vec<_> = self.segments.iter().filter_map(|s| s.uri.clone()).collect();
        assert_eq!(uris, expected);
    }

    /// Whatever must be true of a playlist and a later state of it.
    fn check_successor(&self, later: &Self) {
        let text = format!("{}\n-- then --\n{}", self.text, later.text);
        assert_eq!(self.target_duration(), later.target_duration(), "H3");
        assert!(
            later.media_sequence() >= self.media_sequence(),
            "H4\n{text}"
        );
        let removed = usize::try_from(later.media_sequence() - self.media_sequence()).unwrap();
        for (index, old) in self.segments.iter().enumerate().skip(removed) {
            let new = &later.segments[index - removed];
            assert_eq!(
                (old.date, old.discontinuity),
                (new.date, new.discontinuity),
                "H4\n{text}"
            );
            if old.uri.is_some() {
                assert_eq!(
                    (&old.uri, old.duration),
                    (&new.uri, new.duration),
                    "H4\n{text}"
                );
            }
            if !new.parts.is_empty() {
                assert_eq!(old.parts[..], new.parts[..old.parts.len()], "H4\n{text}");
            }
            let (old, new) = (
                &self.discontinuities()[index],
                &later.discontinuities()[index - removed],
            );
            assert_eq!(old, new, "H8\n{text}");
        }
        if removed > 0 {
            let left: f64 = later.complete().map(|s| s.duration).sum();
            assert!(
                left >= 3.0 * later.target_duration() as f64 - 1e-3,
                "H5\n{text}"
            );
        }
    }
}

/// An attribute list (section 4.2), without a name twice.
fn attributes(text: &str) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').unwrap();
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-'),
            "{text}"
        );
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            let (value, after) = quoted.split_once('"').unwrap();
            (value, after.strip_prefix(',').unwrap_or(after))
        } else {
            value.split_once(',').unwrap_or((value, ""))
        };
        assert!(
            attributes
                .insert(name.to_owned(), value.to_owned())
                .is_none(),
            "H1: {name} twice"
        );
        rest = after;
    }
    attributes
}

// ---- the window and what is listed

#[test]
fn aac_that_joins_in_the_first_seconds_has_the_numbers_of_the_opus() {
    // Opus is published up to where AAC begins: in the first segment, at the end of the second, and later.
    for (opus_parts, msn) in [(2, 1), (3, 1), (10, 2), (11, 2), (20, 3)] {
        let settings = Settings {
            first_segment: Duration::from_millis(400),
            audio: vec![AudioFormat::Opus, AudioFormat::Aac],
            ..Settings::default()
        };
        let stream = stream(settings);
        let mut opus = Track::new(&stream, AUDIO);
        let opus_part = |opus: &mut Track, index: u64| {
            let starts = index.is_multiple_of(10);
            opus.push(200, |part| part.starts_segment = starts).unwrap();
        };
        stream.expect(&[AUDIO]);
        (0..opus_parts).for_each(|index| opus_part(&mut opus, index));
        let begins = opus.clock;
        let init = InitSegment {
            bytes: Bytes::from_static(b"aac"),
            codecs: "mp4a.40.2".to_owned(),
            timescale: 48_000,
            resolution: None,
            channels: 2,
        };
        stream.push_init(RenditionId::Aac, init);
        for index in 0..25 {
            let part = Part {
                bytes: Bytes::from_static(b"part"),
                decode_time: index * 9_600,
                presentation_time: index * 9_600,
                duration: 9_600,
                samples: 10,
                independent: true,
                starts_segment: index == 0 || (opus_parts + index).is_multiple_of(10),
                discontinuity: false,
            };
            let at = begins + Duration::from_millis(200 * index);
            stream.push_part(RenditionId::Aac, part, at).unwrap();
            opus_part(&mut opus, opus_parts + index);
        }
        let first = playlist(&stream, "aac").media_sequence();
        assert_eq!(first, msn, "after {opus_parts} parts of Opus");
    }
}

#[test]
fn the_first_segment_ends_early_where_a_keyframe_allows_it() {
    let settings = Settings {
        first_segment: Duration::from_millis(400),
        ..Settings::default()
    };
    let stream = stream(settings);
    let (mut video, mut audio) = (Track::new(&stream, VIDEO), Track::new(&stream, AUDIO));
    video.key_part();
    let independent = |part: &mut Part| part.independent = true;
    video.push(200, independent).unwrap();
    assert_eq!(
        playlist(&stream, "video").segments.len(),
        1,
        "too short yet"
    );
    video.part();
    video.push(200, independent).unwrap();
    for _ in 0..4 {
        audio.part();
    }
    for rendition in ["video", "audio"] {
        let playlist = playlist(&stream, rendition);
        let first = &playlist.segments[0];
        assert!(first.uri.is_some(), "{}", playlist.text);
        assert!((0.4..=0.6).contains(&first.duration), "{}", playlist.text);
        assert!(playlist.tags.contains_key("EXT-X-INDEPENDENT-SEGMENTS"));
    }
    // Only the first one: the next is ended by whoever cuts the parts.
    video.part();
    video.part();
    video.push(200, independent).unwrap();
    let playlist = playlist(&stream, "video");
    assert_eq!(playlist.segments.len(), 2, "{}", playlist.text);
}

#[test]
fn h1_h2_h16_first_playlist_has_every_part_and_no_segment() {
    let stream = stream(Settings::default());
    stream.expect(&[VIDEO]);
    let mut video = Track::new(&stream, VIDEO);
    video.key_part();
    video.part();
    let playlist = playlist(&stream, "video");
    playlist.check();
    assert_eq!(playlist.complete().count(), 0);
    assert_eq!(playlist.parts().count(), 2);
    assert_eq!(playlist.hint.as_deref(), Some("k-p2.mp4"));
    assert!((playlist.part_target() - 0.2).abs() < 1e-9);
}

#[test]
fn h3_target_duration_is_rounded_up_and_holds_whatever_comes() {
    let stream = stream(Settings {
        segment_duration: Duration::from_millis(1500),
        ..Settings::default()
    });
    let mut video = Track::new(&stream, VIDEO);
    video.key_part();
    // A publisher and a mux that never start another segment.
    (0..100).for_each(|_| video.part());
    let playlist = playlist(&stream, "video");
    playlist.check();
    assert_eq!(playlist.target_duration(), 2);
    assert!(playlist.complete().count() > 5);
    assert!(
        !playlist.tags.contains_key("EXT-X-INDEPENDENT-SEGMENTS"),
        "H13"
    );
}

#[test]
fn h4_h5_media_sequence_rises_by_one_for_each_segment_removed() {
    let stream = stream(small());
    let mut video = Track::new(&stream, VIDEO);
    let mut last = None;
    for _ in 0..20 {
        video.segment();
        let playlist = playlist(&stream, "video");
        playlist.check();
        if let Some(last) = last.replace(playlist.clone()) {
            Playlist::check_successor(&last, &playlist);
        }
    }
    let playlist = last.unwrap();
    // 19 complete, of which three fill the six seconds of the least window.
    assert_eq!(playlist.media_sequence(), 16);
    assert_eq!(playlist.complete().count(), 3);
}

#[tokio::test(start_paused = true)]
async fn h6_removed_segments_and_parts_stay_for_their_time() {
    let stream = stream(small());
    let mut video = Track::new(&stream, VIDEO);
    let (mut unlisted, mut part_unlisted) = (None, None);
    let begin = Instant::now();
    for number in 0..200_u32 {
        if number % 10 == 0 {
            video.key_part();
        } else {
            video.part();
        }
        let playlist = playlist(&stream, "video");
        if playlist.media_sequence() > 0 {
            unlisted.get_or_insert(begin.elapsed());
        }
        if !playlist.parts().any(|p| p.uri == "k-p0.mp4") {
            part_unlisted.get_or_insert(begin.elapsed());
        }
        if let Some(since) = unlisted {
            // Its own two seconds and the eight of the longest playlist that had it.
            let there = now(stream.resource("video", "k-s0.mp4")).is_ok();
            let age = begin.elapsed() - since;
            assert_eq!(there, age < Duration::from_secs(10), "segment at {age:?}");
        }
        if let Some(since) = part_unlisted {
            let there = now(stream.resource("video", "k-p0.mp4")).is_ok();
            let age = begin.elapsed() - since;
            assert_eq!(there, age < Duration::from_secs(6), "part at {age:?}");
        }
        tokio::time::advance(Duration::from_millis(200)).await;
    }
    assert!(unlisted.is_some() && part_unlisted.is_some());
}

#[test]
fn h8_a_new_init_is_a_discontinuity_with_its_map_and_the_count_is_kept() {
    let stream = stream(small());
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    video.init(1);
    // In the middle of what the mux takes for a segment.
    video.push(200, |p| p.independent = true).unwrap();
    video.part();
    let changed = playlist(&stream, "video");
    changed.check();
    assert_eq!(changed.discontinuities(), [0, 1]);
    assert_eq!(changed.segments[1].map.as_deref(), Some("k-init-1.mp4"));
    assert_eq!(
        bytes(&now(stream.resource("video", "k-init-1.mp4")).unwrap()),
        b"init video 1"
    );

    // The same init again is no change; a flagged part is.
    video.init(1);
    video.segment();
    video
        .push(200, |p| {
            start(p);
            p.discontinuity = true;
        })
        .unwrap();
    assert_eq!(playlist(&stream, "video").discontinuities(), [0, 1, 1, 2]);
    assert_eq!(
        playlist(&stream, "video").segments[3].map.as_deref(),
        Some("k-init-1.mp4")
    );

    (0..10).for_each(|_| video.segment());
    let later = playlist(&stream, "video");
    later.check();
    assert_eq!(later.number("EXT-X-DISCONTINUITY-SEQUENCE"), 2);
    assert_eq!(later.discontinuities().last(), Some(&2));
}

#[test]
fn h8_discontinuities_are_at_the_same_time_in_every_rendition() {
    let stream = stream(Settings::default());
    let (mut video, mut audio) = (Track::new(&stream, VIDEO), Track::new(&stream, AUDIO));
    for number in 0..20 {
        if number % 10 == 0 {
            video.key_part();
            audio.key_part();
        } else {
            video.part();
            audio.part();
        }
    }
    // Only the picture changes.
    video.init(1);
    video.segment();
    audio.segment();
    let (v, a) = (playlist(&stream, "video"), playlist(&stream, "audio"));
    a.check();
    assert_eq!(v.discontinuities(), [0, 0, 1]);
    assert_eq!(a.discontinuities(), [0, 0, 1]);
    assert_eq!(a.segments[2].date, v.segments[2].date);

    // Only the sound changes: the picture follows at its next keyframe, and sound does not count twice.
    audio
        .push(200, |p| {
            start(p);
            p.discontinuity = true;
        })
        .unwrap();
    audio.part();
    video.part();
    video.part();
    video.push(200, |p| p.independent = true).unwrap();
    audio.part();
    let (v, a) = (playlist(&stream, "video"), playlist(&stream, "audio"));
    v.check();
    assert_eq!(v.discontinuities(), [0, 0, 1, 2]);
    assert_eq!(a.discontinuities(), [0, 0, 1, 2]);

    // Both change, as when the publisher comes back.
    for track in [&mut video, &mut audio] {
        track.init(2);
        track
            .push(200, |p| {
                start(p);
                p.discontinuity = true;
            })
            .unwrap();
        track.part();
    }
    assert_eq!(
        playlist(&stream, "video").discontinuities().last(),
        Some(&3)
    );
    assert_eq!(
        playlist(&stream, "audio").discontinuities().last(),
        Some(&3)
    );
}

#[test]
fn h8_a_track_that_joins_late_has_the_number_of_the_others() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    video.init(1);
    video.segment();
    let mut audio = Track::new(&stream, AUDIO);
    audio.segment();
    assert_eq!(playlist(&stream, "audio").discontinuities(), [1]);
}

#[test]
fn h10_a_segment_is_its_parts_and_everything_listed_is_there() {
    let stream = stream(small());
    let mut video = Track::new(&stream, VIDEO);
    (0..3).for_each(|_| video.segment());
    let playlist = playlist(&stream, "video");
    for uri in playlist.uris() {
        assert!(now(stream.resource("video", uri)).is_ok(), "{uri}");
    }
    for (msn, segment) in playlist.segments.iter().enumerate().take(2) {
        let parts: Vec<u8> = video.pushed[msn * 10..msn * 10 + 10]
            .iter()
            .flat_map(|(_, b)| b.to_vec())
            .collect();
        let resource = now(stream.resource("video", segment.uri.as_deref().unwrap())).unwrap();
        assert_eq!(bytes(&resource), parts);
        assert_eq!(resource.content_type, "video/mp4");
        assert_eq!(resource.etag, format!("\"k-s{msn}.mp4\""));
    }
}

#[test]
fn h11_program_date_time_is_the_first_parts_and_utc_with_milliseconds() {
    let stream = stream(Settings::default());
    let mut audio = Track::new(&stream, AUDIO);
    let begin = audio.clock;
    audio.segment();
    audio.clock += Duration::from_millis(7);
    audio.segment();
    let playlist = playlist(&stream, "audio");
    assert_eq!(playlist.segments[0].date, Some(begin));
    assert_eq!(
        playlist.segments[1].date,
        Some(begin + Duration::from_millis(2007))
    );
}

#[test]
fn h13_independent_segments_is_said_as_long_as_it_is_true() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    video.segment();
    assert!(
        playlist(&stream, "video")
            .tags
            .contains_key("EXT-X-INDEPENDENT-SEGMENTS")
    );
    assert!(stream.status().renditions[0].independent_segments);
    // No keyframe came in time.
    video.push(200, |p| p.starts_segment = true).unwrap();
    assert!(
        !playlist(&stream, "video")
            .tags
            .contains_key("EXT-X-INDEPENDENT-SEGMENTS")
    );
    playlist(&stream, "video").check();
    let multivariant = now(stream.multivariant()).unwrap();
    assert!(!text(&multivariant).contains("INDEPENDENT-SEGMENTS"));
}

#[test]
fn h15_part_target_follows_pictures_that_are_further_apart() {
    let stream = stream(Settings::default());
    let (mut video, mut audio) = (Track::new(&stream, VIDEO), Track::new(&stream, AUDIO));
    video.push(250, start).unwrap();
    audio.key_part();
    let v = playlist(&stream, "video");
    v.check();
    assert!((v.part_target() - 0.25).abs() < 1e-9);
    let a = playlist(&stream, "audio");
    a.check();
    assert!((a.part_target() - 0.2).abs() < 1e-9);
    assert_eq!(
        v.tags["EXT-X-SERVER-CONTROL"], a.tags["EXT-X-SERVER-CONTROL"],
        "one for all"
    );
    video.push(200, |_| {}).unwrap();
    assert!((playlist(&stream, "video").part_target() - 0.25).abs() < 1e-9);
}

#[test]
fn h15_a_single_long_part_does_not_hold_viewers_back_for_good() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.push(2000, start).unwrap();
    let frozen = playlist(&stream, "video");
    frozen.check();
    assert!((frozen.part_target() - 2.0).abs() < 1e-9);
    for number in 0..50 {
        video
            .push(200, |p| {
                if number % 10 == 0 {
                    start(p);
                }
            })
            .unwrap();
        playlist(&stream, "video").check();
    }
    let later = playlist(&stream, "video");
    assert!((later.part_target() - 0.2).abs() < 1e-9);
    assert!((later.control("PART-HOLD-BACK") - 0.6).abs() < 1e-9);
}

#[test]
fn h15_odd_frame_rates_are_listed_exactly() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    // Six pictures of 1001/30000 s: 200.2 ms.
    for number in 0..30 {
        video
            .push(200, |p| {
                p.duration = 6 * 3003;
                if number % 10 == 0 {
                    start(p);
                }
            })
            .unwrap();
    }
    let playlist = playlist(&stream, "video");
    playlist.check();
    assert!((playlist.part_target() - 0.201).abs() < 1e-9);
    assert!((playlist.segments[0].duration - 2.002).abs() < 1e-9);
}

#[test]
fn a_pause_completes_the_segment_in_progress() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.key_part();
    video.part();
    stream.complete_segment(VIDEO);
    stream.complete_segment(VIDEO);
    let paused = playlist(&stream, "video");
    paused.check();
    assert_eq!(paused.complete().count(), 1);
    assert_eq!(paused.hint.as_deref(), Some("k-p2.mp4"));
    video.part();
    let resumed = playlist(&stream, "video");
    paused.check_successor(&resumed);
    assert_eq!(resumed.segments.len(), 2);
}

#[test]
fn parts_without_an_init_or_after_the_end_are_dropped() {
    let stream = stream(Settings::default());
    let mut video = Track::without_init(&stream, VIDEO);
    assert_eq!(video.push(200, start), None);
    video.init(0);
    video.key_part();
    stream.end();
    assert_eq!(video.push(200, start), None);
    assert_eq!(playlist(&stream, "video").parts().count(), 1);
}

// ---- blocking

#[tokio::test(start_paused = true)]
async fn h9_the_end_is_listed_and_releases_everybody() {
    let stream = stream(Settings::default());
    stream.expect(&[VIDEO, AUDIO]);
    let (mut video, mut audio) = (Track::new(&stream, VIDEO), Track::new(&stream, AUDIO));
    video.segment();
    audio.segment();
    let reload = tokio::spawn({
        let s = stream.clone();
        async move { s.media_playlist("video", part(1, 0)).await }
    });
    let hinted = tokio::spawn({
        let s = stream.clone();
        async move { s.resource("audio", "k-p10.mp4").await }
    });
    tokio::task::yield_now().await;
    assert_eq!(stream.status().waiters, 2);
    let begin = Instant::now();
    stream.end();
    let last = Playlist::parse(text(&reload.await.unwrap().unwrap()));
    assert_eq!(hinted.await.unwrap().unwrap_err(), HlsError::NotFound);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    last.check();
    assert!(last.ended && last.reports.is_empty());
    assert_eq!(last.complete().count(), 1);
    assert_eq!(stream.status().state, State::Ended);
    assert_eq!(stream.status().waiters, 0);
    // Directives no longer count.
    for reload in [
        msn(99),
        part(0, 99),
        BlockingReload {
            skip: true,
            ..msn(5)
        },
    ] {
        let answer = now(stream.media_playlist("video", reload)).unwrap();
        assert_eq!(text(&answer), last.text);
    }
    assert!(now(stream.resource("video", "k-s0.mp4")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn h17_blocks_for_a_whole_segment_or_a_part() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    video.key_part();
    // Segment 0 is complete, segment 1 has part 0.
    for reload in [
        msn(0),
        part(0, 0),
        part(0, 9),
        part(0, 10),
        part(0, 1000),
        part(1, 0),
    ] {
        assert!(
            now(stream.media_playlist("video", reload)).is_ok(),
            "{reload:?}"
        );
    }
    let waits = |reload| {
        let stream = stream.clone();
        tokio::spawn(async move { stream.media_playlist("video", reload).await })
    };
    let (whole, next, past_end, next_first) = (
        waits(msn(1)),
        waits(part(1, 1)),
        waits(part(1, 12)),
        waits(part(2, 0)),
    );
    tokio::task::yield_now().await;
    assert!(
        [&whole, &next, &past_end, &next_first]
            .iter()
            .all(|w| !w.is_finished())
    );
    video.part();
    let answer = next.await.unwrap().unwrap();
    assert!(text(&answer).contains("k-p11.mp4\"\n"), "{}", text(&answer));
    (0..8).for_each(|_| video.part());
    tokio::task::yield_now().await;
    assert!(
        [&whole, &past_end, &next_first]
            .iter()
            .all(|w| !w.is_finished())
    );
    // The next segment's first part completes segment 1 and answers for part 12 of it.
    video.key_part();
    for answer in [whole, past_end, next_first] {
        let playlist = Playlist::parse(text(&answer.await.unwrap().unwrap()));
        assert_eq!(playlist.complete().count(), 2);
        assert_eq!(playlist.segments[2].parts.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn h18_too_far_ahead_is_refused_at_once_and_what_does_not_come_after_three_target_durations()
{
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    video.key_part();
    // The last complete segment is 0; the newest part is 0 of segment 1; 15 parts ahead are allowed.
    for reload in [
        msn(3),
        part(3, 0),
        part(1, 16),
        part(2, 15),
        msn(u64::MAX),
        part(1, u64::MAX),
    ] {
        let answer = now(stream.media_playlist("video", reload));
        assert!(matches!(answer, Err(HlsError::BadRequest(_))), "{reload:?}");
    }
    for reload in [msn(1), msn(2), part(1, 15), part(2, 14)] {
        let begin = Instant::now();
        let answer = stream.media_playlist("video", reload).await;
        assert_eq!(answer.unwrap_err(), HlsError::Timeout, "{reload:?}");
        assert_eq!(begin.elapsed(), Duration::from_secs(6));
    }
    assert_eq!(
        now(stream.media_playlist("audio", msn(0))).unwrap_err(),
        HlsError::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn h19_a_hinted_part_blocks_and_arrives_whole_and_nothing_else_does() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    let hint = playlist(&stream, "video").hint.unwrap();
    let blocked = tokio::spawn({
        let (s, hint) = (stream.clone(), hint.clone());
        async move { s.resource("video", &hint).await }
    });
    tokio::task::yield_now().await;
    assert!(!blocked.is_finished());
    // It begins a new segment, which nobody knew when it was hinted.
    video.key_part();
    assert_eq!(bytes(&blocked.await.unwrap().unwrap()), video.pushed[10].1);
    assert!(playlist(&stream, "video").parts().any(|p| p.uri == hint));
    for name in [
        "k-p12.mp4",
        "k-s1.mp4",
        "k-s2.mp4",
        "k-init-1.mp4",
        "x-p0.mp4",
        "k-p00.mp4",
        "nonsense",
        "",
    ] {
        assert_eq!(
            now(stream.resource("video", name)).unwrap_err(),
            HlsError::NotFound,
            "{name}"
        );
    }
    assert_eq!(
        now(stream.resource("audio", "k-p0.mp4")).unwrap_err(),
        HlsError::NotFound
    );
    let begin = Instant::now();
    assert_eq!(
        stream.resource("video", "k-p11.mp4").await.unwrap_err(),
        HlsError::Timeout
    );
    assert_eq!(begin.elapsed(), Duration::from_secs(6));
}

#[test]
fn h20_a_delta_update_completes_an_older_playlist() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    (0..3).for_each(|_| video.segment());
    let young = now(stream.media_playlist("video", SKIP)).unwrap();
    assert!(!text(&young).contains("EXT-X-SKIP"), "nothing to skip");
    video.init(1);
    (0..7).for_each(|_| video.segment());
    let old = playlist(&stream, "video");
    video.segment();
    video.key_part();
    let full = playlist(&stream, "video");
    let delta = Playlist::parse(text(&now(stream.media_playlist("video", SKIP)).unwrap()));
    full.check();
    delta.check();
    // 22.2 s are listed, and what ends more than 12 s before the end is left out.
    assert_eq!(delta.skipped, 5);
    assert!(delta.text.len() < full.text.len());
    let mut merged = old.segments[..5].to_vec();
    merged.extend(delta.segments.clone());
    assert_eq!(merged, full.segments);
    assert_eq!(delta.media_sequence(), full.media_sequence());
}

#[test]
fn h21_each_rendition_reports_the_other() {
    let stream = stream(Settings::default());
    stream.expect(&[VIDEO, AUDIO]);
    let (mut video, mut audio) = (Track::new(&stream, VIDEO), Track::new(&stream, AUDIO));
    video.segment();
    video.key_part();
    audio.segment();
    let report = &playlist(&stream, "audio").reports;
    assert_eq!(report.len(), 1);
    let (uri, msn, part) = (
        &report[0]["URI"],
        &report[0]["LAST-MSN"],
        &report[0]["LAST-PART"],
    );
    assert_eq!(
        (uri.as_str(), msn.as_str(), part.as_str()),
        ("../video/index.m3u8", "1", "0")
    );
    assert_eq!(playlist(&stream, "video").reports[0]["LAST-PART"], "9");
}

// ---- the multivariant playlist

#[test]
fn h22_multivariant_says_what_is_in_it() {
    let stream = stream(Settings::default());
    stream.expect(&[VIDEO, AUDIO]);
    let (mut video, mut audio) = (Track::new(&stream, VIDEO), Track::new(&stream, AUDIO));
    for _ in 0..3 {
        video.segment();
        audio.segment();
    }
    let document = now(stream.multivariant()).unwrap();
    let (_, parsed) = m3u8_rs::parse_master_playlist(document.body()).unwrap();
    let variant = &parsed.variants[0];
    assert_eq!(variant.uri, "video/index.m3u8");
    assert_eq!(variant.codecs.as_deref(), Some("avc1.64001f,opus"));
    assert_eq!(
        variant.resolution.map(|r| (r.width, r.height)),
        Some((1280, 720))
    );
    assert_eq!(variant.frame_rate, Some(30.0));
    assert_eq!(variant.audio.as_deref(), Some("audio"));
    let sound = &parsed.alternatives[0];
    assert_eq!(sound.uri.as_deref(), Some("audio/index.m3u8"));
    assert_eq!(
        (sound.default, sound.autoselect, sound.channels.is_some()),
        (true, true, true)
    );
    let rate = |track: &Track| {
        track
            .pushed
            .iter()
            .map(|(_, b)| b.len() as u64 * 8)
            .sum::<u64>()
            / 6
    };
    assert_eq!(variant.average_bandwidth, Some(rate(&video) + rate(&audio)));
    assert!(variant.bandwidth >= variant.average_bandwidth.unwrap());
    assert!(variant.bandwidth < variant.average_bandwidth.unwrap() * 2);

    // After a change both formats are in the window.
    video.init(1);
    video.segment();
    let document = now(stream.multivariant()).unwrap();
    assert!(
        text(&document).contains("CODECS=\"avc1.64001e,avc1.64001f,opus\",RESOLUTION=640x360"),
        "{}",
        text(&document)
    );
}

#[test]
fn h22_audio_alone_is_a_variant() {
    let stream = stream(Settings::default());
    stream.expect(&[AUDIO]);
    Track::new(&stream, AUDIO).segment();
    let document = now(stream.multivariant()).unwrap();
    let (_, parsed) = m3u8_rs::parse_master_playlist(document.body()).unwrap();
    assert!(parsed.independent_segments && parsed.alternatives.is_empty());
    assert_eq!(parsed.variants[0].uri, "audio/index.m3u8");
    assert_eq!(parsed.variants[0].codecs.as_deref(), Some("opus"));
    assert_eq!(parsed.variants[0].audio, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_starting_is_waited_for() {
    let stream = stream(Settings::default());
    let begin = Instant::now();
    assert!(matches!(
        stream.multivariant().await,
        Err(HlsError::NotReady { .. })
    ));
    assert_eq!(begin.elapsed(), Duration::from_secs(5));
    assert_eq!(stream.status().state, State::Starting);

    let waiting = tokio::spawn({
        let s = stream.clone();
        async move { s.multivariant().await }
    });
    let media = tokio::spawn({
        let s = stream.clone();
        async move { s.media_playlist("video", part(0, 0)).await }
    });
    let plain = tokio::spawn({
        let s = stream.clone();
        async move { s.media_playlist("video", BlockingReload::default()).await }
    });
    tokio::task::yield_now().await;
    stream.expect(&[VIDEO, AUDIO]);
    let (mut video, mut audio) = (Track::new(&stream, VIDEO), Track::new(&stream, AUDIO));
    video.key_part();
    tokio::task::yield_now().await;
    assert!(
        media.is_finished(),
        "a low-latency player has its first part"
    );
    assert!(!waiting.is_finished(), "the sound is missing");
    audio.key_part();
    tokio::task::yield_now().await;
    assert!(waiting.is_finished());
    assert_eq!(stream.status().state, State::Live);
    assert!(!plain.is_finished(), "others want a whole segment");
    (1..10).for_each(|_| video.part());
    video.key_part();
    let playlist = Playlist::parse(text(&plain.await.unwrap().unwrap()));
    assert_eq!(playlist.complete().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_track_is_waited_for_two_seconds_and_may_join_later() {
    let stream = stream(Settings::default());
    stream.expect(&[VIDEO, AUDIO]);
    let mut video = Track::new(&stream, VIDEO);
    video.key_part();
    let begin = Instant::now();
    let without = stream.multivariant().await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
    assert!(!text(&without).contains("EXT-X-MEDIA"));
    let mut audio = Track::new(&stream, AUDIO);
    audio.segment();
    audio.segment();
    let with = now(stream.multivariant()).unwrap();
    assert!(text(&with).contains("EXT-X-MEDIA"));
    assert_ne!(with.etag(), without.etag());
    // The next publication has no sound.
    stream.expect(&[VIDEO]);
    assert!(!text(&now(stream.multivariant()).unwrap()).contains("EXT-X-MEDIA"));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_start_hears_of_the_end() {
    let stream = stream(Settings::default());
    stream.expect(&[VIDEO]);
    let waiting = tokio::spawn({
        let stream = stream.clone();
        async move { stream.multivariant().await }
    });
    tokio::task::yield_now().await;
    let begin = Instant::now();
    stream.end();
    assert_eq!(waiting.await.unwrap().unwrap_err(), HlsError::NotFound);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[test]
fn a_stream_that_ended_without_media_is_not_found() {
    let stream = stream(Settings::default());
    stream.expect(&[VIDEO]);
    stream.end();
    assert_eq!(now(stream.multivariant()).unwrap_err(), HlsError::NotFound);
    assert_eq!(
        now(stream.media_playlist("video", part(0, 0))).unwrap_err(),
        HlsError::NotFound
    );
}

// ---- many readers

#[tokio::test(start_paused = true)]
async fn h24_waiters_get_the_same_answer_and_leave_nothing() {
    let stream = stream(Settings::default());
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    let wait = |_| {
        let stream = stream.clone();
        tokio::spawn(async move { stream.media_playlist("video", part(1, 0)).await })
    };
    let waiters: Vec<_> = (0..25).map(wait).collect();
    let quitters: Vec<_> = (0..25).map(wait).collect();
    tokio::task::yield_now().await;
    assert_eq!(stream.status().waiters, 50);
    for quitter in quitters {
        quitter.abort();
        assert!(quitter.await.unwrap_err().is_cancelled());
    }
    assert_eq!(stream.status().waiters, 25);
    video.key_part();
    let mut answers = Vec::new();
    for waiter in waiters {
        answers.push(waiter.await.unwrap().unwrap());
    }
    assert!(
        answers.iter().all(|a| Arc::ptr_eq(a, &answers[0])),
        "rendered once"
    );
    assert!(
        std::ptr::eq(answers[0].gzip(), answers[24].gzip()),
        "compressed once"
    );
    assert_eq!(stream.status().waiters, 0);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_limited() {
    let stream = stream(Settings {
        max_waiters: 2,
        ..Settings::default()
    });
    let mut video = Track::new(&stream, VIDEO);
    video.segment();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let s = stream.clone();
            tokio::spawn(async move { s.media_playlist("video", part(1, 0)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let refused = stream.media_playlist("video", part(1, 0)).await;
    assert!(matches!(refused, Err(HlsError::Overloaded { .. })));
    assert!(
        now(stream.media_playlist("video", part(0, 0))).is_ok(),
        "whoever need not wait is served"
    );
    video.key_part();
    for waiting in waiting {
        assert!(waiting.await.unwrap().is_ok());
    }
}

#[test]
fn h23_gzip_is_the_same_playlist_under_a_tag_of_its_own() {
    use std::io::Read as _;
    let stream = stream(Settings::default());
    Track::new(&stream, VIDEO).segment();
    let document = now(stream.multivariant()).unwrap();
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&document.gzip()[..])
        .read_to_end(&mut unpacked)
        .unwrap();
    assert_eq!(unpacked, document.body()[..]);
    assert_ne!(document.etag(), document.gzip_etag());
    assert_eq!(Document::CONTENT_TYPE, "application/vnd.apple.mpegurl");
}

// ---- memory

/// Writes what it is given into a file and says where.
struct Recorder {
    file: Arc<std::fs::File>,
    offset: u64,
}

impl Recorder {
    fn new() -> Self {
        Self {
            file: Arc::new(tempfile::tempfile().unwrap()),
            offset: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> FileRange {
        (&*self.file).write_all(bytes).unwrap();
        let range = FileRange {
            file: Arc::clone(&self.file),
            offset: self.offset,
            len: bytes.len() as u64,
        };
        self.offset += range.len;
        range
    }
}

#[test]
fn offloaded_media_is_the_same_and_leaves_memory_when_it_is_no_longer_young() {
    let stream = stream(Settings::default());
    let (mut video, mut recorder) = (Track::new(&stream, VIDEO), Recorder::new());
    (0..8).for_each(|_| video.segment());
    let in_memory = bytes(&now(stream.resource("video", "k-s1.mp4")).unwrap());
    let total: u64 = video.pushed.iter().map(|(_, b)| b.len() as u64).sum();
    assert_eq!(stream.status().memory_bytes, total);
    for (key, part) in &video.pushed {
        assert!(stream.offload(VIDEO, *key, recorder.write(part)));
    }
    // Three target durations are 30 parts; segments keep theirs together.
    let young: u64 = video.pushed[50..].iter().map(|(_, b)| b.len() as u64).sum();
    assert_eq!(stream.status().memory_bytes, young);
    let resource = now(stream.resource("video", "k-s1.mp4")).unwrap();
    assert!(
        matches!(&resource.chunks[..], [Chunk::File(_)]),
        "one piece of the file"
    );
    assert_eq!(bytes(&resource), in_memory);
    assert_eq!(
        bytes(&now(stream.resource("video", "k-p12.mp4")).unwrap()),
        video.pushed[12].1
    );
    // As a recording has it, with another track's parts in between.
    let mut audio = Track::new(&stream, AUDIO);
    (0..8).for_each(|_| audio.segment());
    let in_memory = bytes(&now(stream.resource("audio", "k-s1.mp4")).unwrap());
    for (key, part) in &audio.pushed {
        recorder.write(b"a part of the other track");
        assert!(stream.offload(AUDIO, *key, recorder.write(part)));
    }
    let resource = now(stream.resource("audio", "k-s1.mp4")).unwrap();
    assert_eq!(resource.chunks.len(), 10);
    assert_eq!(bytes(&resource), in_memory);
    // A range that cannot be the same bytes is refused.
    let (key, part) = video.pushed[79].clone();
    assert!(!stream.offload(VIDEO, key, recorder.write(&part[1..])));
}

#[tokio::test(start_paused = true)]
async fn memory_is_constant_over_a_long_stream() {
    let stream = stream(Settings::default());
    let (mut video, mut recorder) = (Track::new(&stream, VIDEO), Recorder::new());
    let mut most_parts = 0;
    let mut unlisted = 0;
    // Two hours.
    for number in 0..36_000_u32 {
        let blob = Bytes::from(vec![7; 1000]);
        let key = video
            .push(200, |p| {
                p.bytes = blob.clone();
                if number % 10 == 0 {
                    start(p);
                }
            })
            .unwrap();
        assert!(stream.offload(VIDEO, key, recorder.write(&blob)));
        video.pushed.clear();
        tokio::time::advance(Duration::from_millis(200)).await;
        if number % 100 == 0 {
            let status = stream.status();
            assert!(status.memory_bytes <= 40_000, "{status:?}");
            let status = &status.renditions[0];
            most_parts = most_parts.max(status.parts);
            if number > 10_000 {
                let oldest = status.media_sequence.saturating_sub(40);
                unlisted +=
                    usize::from(now(stream.resource("video", &format!("k-s{oldest}.mp4"))).is_ok());
            }
        }
    }
    assert!(most_parts <= 40);
    assert_eq!(unlisted, 0, "segments are forgotten");
}

// ---- anything in any order

#[derive(Clone, Debug)]
enum Step {
    Part {
        audio: bool,
        millis: u64,
        independent: bool,
        starts: bool,
        discontinuity: bool,
    },
    Init {
        audio: bool,
        variant: u32,
    },
    Pause {
        audio: bool,
    },
    Offload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (any::<bool>(), 20_u64..=260, prop::bool::weighted(0.3), prop::bool::weighted(0.15), prop::bool::weighted(0.02))
            .prop_map(|(audio, millis, independent, starts, discontinuity)| Step::Part { audio, millis, independent, starts, discontinuity }),
        1 => (any::<bool>(), 0_u32..3).prop_map(|(audio, variant)| Step::Init { audio, variant }),
        1 => any::<bool>().prop_map(|audio| Step::Pause { audio }),
        2 => Just(Step::Offload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_window_keeps_its_promises(steps in prop::collection::vec(step(), 50..400)) {
        let stream = stream(small());
        let mut tracks = [Track::new(&stream, VIDEO), Track::new(&stream, AUDIO)];
        let mut last: [Option<Playlist>; 2] = [None, None];
        let mut recorder = Recorder::new();
        for (count, step) in steps.into_iter().enumerate() {
            let touched = match step {
                Step::Part { audio, millis, independent, starts, discontinuity } => {
                    tracks[usize::from(audio)].push(millis, |p| {
                        p.independent |= independent;
                        p.starts_segment = starts;
                        p.discontinuity = discontinuity;
                    });
                    audio
                }
                Step::Init { audio, variant } => { tracks[usize::from(audio)].init(variant); audio }
                Step::Pause { audio } => { stream.complete_segment(tracks[usize::from(audio)].kind); audio }
                Step::Offload => {
                    for track in &mut tracks {
                        for (key, bytes) in track.pushed.drain(..) {
                            stream.offload(track.kind, key, recorder.write(&bytes));
                        }
                    }
                    false
                }
            };
            let (index, name) = (usize::from(touched), if touched { "audio" } else { "video" });
            if stream.status().renditions[index].parts_total == 0 {
                continue;
            }
            let playlist = playlist(&stream, name);
            playlist.check();
            if let Some(last) = &last[index] {
                last.check_successor(&playlist);
            }
            if count % 7 == 0 {
                for uri in playlist.uris() {
                    prop_assert!(now(stream.resource(name, uri)).is_ok(), "H10 {uri}\n{}", playlist.text);
                }
            }
            last[index] = Some(playlist);
        }
    }
}
