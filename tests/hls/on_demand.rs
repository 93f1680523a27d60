//! A rendition that is made only while somebody plays it: listed without being there, waited for, joined at the live
//! edge, let go of again (RFC 8216bis section 6.2.4).
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use whipgate::{
    hls::{BlockingReload, Document, HlsError, RenditionId, Settings, Stream, StreamKey},
    media::{AudioFormat, InitSegment, MediaKind, Part},
};

const AAC: RenditionId = RenditionId::Aac;

fn stream(audio: &[AudioFormat]) -> Stream {
    let settings = Settings {
        audio: audio.to_vec(),
        ..Settings::default()
    };
    Stream::with_key(settings, StreamKey::parse("k").unwrap())
}

fn init(id: RenditionId) -> InitSegment {
    InitSegment {
        bytes: Bytes::from_static(id.as_str().as_bytes()),
        codecs: match id {
            RenditionId::Video => "avc1.64001f",
            RenditionId::Audio => "opus",
            RenditionId::Aac => "mp4a.40.2",
        }
        .to_owned(),
        timescale: 48_000,
        resolution: (id == RenditionId::Video).then_some((1280, 720)),
        channels: if id == RenditionId::Video { 0 } else { 2 },
    }
}

/// Pushes the part of 200 ms that begins `index` * 200 ms after the start, `shift_ms` earlier or later; every tenth
/// begins a segment.
fn part(stream: &Stream, id: RenditionId, index: u64, shift_ms: i64, discontinuity: bool) {
    let start = SystemTime::UNIX_EPOCH + Duration::from_hours(490_000);
    let at = start + Duration::from_millis((200 * index).checked_add_signed(shift_ms).unwrap());
    let part = Part {
        bytes: Bytes::from(format!("{} {index};", id.as_str())),
        decode_time: index * 9_600,
        presentation_time: index * 9_600,
        duration: 9_600,
        samples: 10,
        independent: true,
        starts_segment: index.is_multiple_of(10) || discontinuity,
        discontinuity,
    };
    stream
        .push_part(id, part, at)
        .expect("it has an init segment");
}

/// A stream with picture and Opus of 23 parts.
fn running(audio: &[AudioFormat]) -> Stream {
    let stream = stream(audio);
    stream.expect(&[MediaKind::Audio, MediaKind::Video]);
    for id in [RenditionId::Video, RenditionId::Audio] {
        stream.push_init(id, init(id));
        (0..23).for_each(|index| part(&stream, id, index, 0, false));
    }
    stream
}

fn text(document: &Document) -> String {
    String::from_utf8(document.body().to_vec()).unwrap()
}

async fn multivariant(stream: &Stream) -> String {
    text(&stream.multivariant().await.unwrap())
}

async fn playlist(stream: &Stream, name: &str) -> Result<String, HlsError> {
    let reload = BlockingReload::default();
    stream.media_playlist(name, reload).await.map(|d| text(&d))
}

fn tag<'a>(playlist: &'a str, tag: &str) -> &'a str {
    let mut lines = playlist.lines();
    lines
        .find_map(|line| line.strip_prefix(tag)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {tag} in {playlist}"))
}

#[tokio::test(start_paused = true)]
async fn sound_in_two_forms_is_two_groups_with_a_variant_each() {
    let both = running(&[AudioFormat::Opus, AudioFormat::Aac]);
    insta::assert_snapshot!(multivariant(&both).await, @r#"
    #EXTM3U
    #EXT-X-VERSION:4
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="audio",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",URI="audio/index.m3u8"
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="aac",NAME="aac",DEFAULT=NO,AUTOSELECT=YES,CHANNELS="2",URI="aac/index.m3u8"
    #EXT-X-STREAM-INF:BANDWIDTH=720,AVERAGE-BANDWIDTH=684,CODECS="avc1.64001f,opus",RESOLUTION=1280x720,FRAME-RATE=50.000,AUDIO="audio"
    video/index.m3u8
    #EXT-X-STREAM-INF:BANDWIDTH=140360,AVERAGE-BANDWIDTH=130342,CODECS="avc1.64001f,mp4a.40.2",RESOLUTION=1280x720,FRAME-RATE=50.000,AUDIO="aac"
    video/index.m3u8
    "#);
    assert!(
        !both.is_wanted(AAC),
        "a look at the list is no wish to play"
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_form_is_the_preferred_one_and_others_are_not_listed() {
    let aac_first = multivariant(&running(&[AudioFormat::Aac, AudioFormat::Opus])).await;
    let aac = aac_first.find("mp4a.40.2").unwrap();
    assert!(aac < aac_first.find(",opus\"").unwrap(), "{aac_first}");
    let only = multivariant(&running(&[AudioFormat::Aac])).await;
    assert!(
        only.contains("mp4a.40.2") && !only.contains("opus"),
        "{only}"
    );
    let none = multivariant(&running(&[AudioFormat::Opus])).await;
    assert!(none.contains("opus") && !none.contains("mp4a"), "{none}");
}

#[tokio::test(start_paused = true)]
async fn sound_alone_is_a_variant_in_each_form() {
    let stream = stream(&[AudioFormat::Opus, AudioFormat::Aac]);
    stream.expect(&[MediaKind::Audio]);
    stream.push_init(RenditionId::Audio, init(RenditionId::Audio));
    part(&stream, RenditionId::Audio, 0, 0, false);
    let list = multivariant(&stream).await;
    assert!(list.contains("CODECS=\"opus\"\naudio/index.m3u8"), "{list}");
    assert!(
        list.contains("CODECS=\"mp4a.40.2\"\naac/index.m3u8"),
        "{list}"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_waits_until_it_is_made_with_the_numbers_of_the_others() {
    let stream = running(&[AudioFormat::Opus, AudioFormat::Aac]);
    // The sound has had a discontinuity, which is in the numbers.
    part(&stream, RenditionId::Audio, 23, 0, true);
    let asking = tokio::spawn({
        let stream = stream.clone();
        async move { playlist(&stream, "aac").await }
    });
    while !stream.is_wanted(AAC) {
        tokio::task::yield_now().await;
    }
    assert!(!stream.is_wanted(RenditionId::Video));
    stream.push_init(AAC, init(AAC));
    for index in 24..31 {
        part(&stream, RenditionId::Audio, index, 0, false);
        part(&stream, AAC, index, -15, false);
    }
    let aac = asking.await.unwrap().unwrap();
    let opus = playlist(&stream, "audio").await.unwrap();
    // Segments 0, 1, 2 (three parts), 3 after the discontinuity, and 4 in progress.
    assert_eq!(tag(&aac, "#EXT-X-MEDIA-SEQUENCE"), "3");
    assert_eq!(tag(&aac, "#EXT-X-DISCONTINUITY-SEQUENCE"), "1");
    assert!(!aac.contains("#EXT-X-DISCONTINUITY\n"), "{aac}");
    assert!(
        opus.contains("k-s3.mp4") && aac.contains("k-s3.mp4"),
        "{opus} {aac}"
    );
    assert!(opus.contains("LAST-MSN=4,LAST-PART=0"), "{opus}");
    assert!(
        aac.contains("../audio/index.m3u8\",LAST-MSN=4,LAST-PART=0"),
        "{aac}"
    );
    // What comes next happens to both.
    part(&stream, RenditionId::Audio, 31, 0, true);
    part(&stream, AAC, 31, -15, false);
    let aac = playlist(&stream, "aac").await.unwrap();
    assert!(aac.contains("#EXT-X-DISCONTINUITY\n"), "{aac}");
}

#[tokio::test(start_paused = true)]
async fn one_that_begins_ahead_of_the_others_takes_the_segment_to_come() {
    let stream = running(&[AudioFormat::Opus, AudioFormat::Aac]);
    (23..30).for_each(|index| part(&stream, RenditionId::Audio, index, 0, false));
    stream.push_init(AAC, init(AAC));
    part(&stream, AAC, 30, 0, false);
    let reload = BlockingReload {
        msn: Some(3),
        part: Some(0),
        skip: false,
    };
    let aac = text(&stream.media_playlist("aac", reload).await.unwrap());
    assert_eq!(tag(&aac, "#EXT-X-MEDIA-SEQUENCE"), "3");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_and_wishes_fade() {
    let stream = running(&[AudioFormat::Opus, AudioFormat::Aac]);
    let start = tokio::time::Instant::now();
    let error = playlist(&stream, "aac").await.unwrap_err();
    assert!(matches!(error, HlsError::NotReady { .. }), "{error}");
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    assert!(stream.is_wanted(AAC));
    // Numbers from before are no error while it is not there.
    let reload = BlockingReload {
        msn: Some(1_000),
        part: Some(3),
        skip: false,
    };
    let error = stream.media_playlist("aac", reload).await.unwrap_err();
    assert!(matches!(error, HlsError::Timeout), "{error}");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!stream.is_wanted(AAC));
    let error = playlist(&running(&[AudioFormat::Opus]), "aac").await;
    assert!(matches!(error, Err(HlsError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_plays_is_let_go_of_and_joins_anew() {
    let stream = running(&[AudioFormat::Opus, AudioFormat::Aac]);
    stream.push_init(AAC, init(AAC));
    for index in 23..31 {
        part(&stream, RenditionId::Audio, index, 0, false);
        part(&stream, AAC, index, 0, false);
    }
    let before = playlist(&stream, "aac").await.unwrap();
    assert!(
        before.contains("k-s2.mp4") && before.contains("k-p7.mp4"),
        "{before}"
    );
    stream.leave(AAC);
    assert!(stream.resource("aac", "k-s2.mp4").await.is_err());
    let opus = playlist(&stream, "audio").await.unwrap();
    assert!(
        !opus.contains("../aac/"),
        "no report of what is not there: {opus}"
    );
    assert!(multivariant(&stream).await.contains("mp4a.40.2"));
    (31..45).for_each(|index| part(&stream, RenditionId::Audio, index, 0, false));
    stream.push_init(AAC, init(AAC));
    (45..51).for_each(|index| part(&stream, AAC, index, 0, false));
    let after = playlist(&stream, "aac").await.unwrap();
    assert_eq!(tag(&after, "#EXT-X-MEDIA-SEQUENCE"), "4");
    // Names are never given to another content.
    assert!(
        after.contains("k-p8.mp4") && !after.contains("k-p7.mp4"),
        "{after}"
    );
    assert!(after.contains("k-init-1.mp4"), "{after}");
}

#[tokio::test(start_paused = true)]
async fn at_the_end_only_what_is_there_is_listed() {
    let stream = running(&[AudioFormat::Opus, AudioFormat::Aac]);
    stream.end();
    let list = multivariant(&stream).await;
    assert!(list.contains("opus") && !list.contains("mp4a"), "{list}");
    let aac = playlist(&stream, "aac").await;
    assert!(matches!(aac, Err(HlsError::NotFound)));
}
