//! What one stream hands to the next under the same URLs, so that no player ever sees a number or a name twice: where a
//! playlist left off ([`Progress`]), and what its renditions are called. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{RenditionId, Settings};
use crate::media::MediaKind;

/// Where the playlists of a stream are. A stream made from it ([`super::Stream::resume`]) goes on from there, also in
/// another process: same URLs, rising numbers, names of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// How many streams there were before under the same session.
    pub generation: u32,
    /// What the names of this stream's media begin with.
    pub key: String,
    /// `EXT-X-TARGETDURATION` in seconds, which must not change (RFC 8216bis section 6.2.1).
    pub target_duration: u64,
    /// Discontinuity sequence number reached.
    pub discontinuity: u64,
    /// The renditions.
    pub renditions: Vec<RenditionProgress>,
}

/// Where one rendition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenditionProgress {
    /// Video or audio.
    pub kind: MediaKind,
    /// Media sequence number of the first segment under this stream's key.
    pub first_msn: u64,
    /// A media sequence number that nobody has seen, be it with a single part. Players place the segments after it by
    /// the difference, so a writer that works ahead of time stays within eight.
    pub next_msn: u64,
}

/// The folder of a rendition's playlist: `video`, and `video-1`, `video-2` for later streams of the session. A stream
/// that does not go on with the one before must not have its URLs, because a playlist that has ended stays ended.
pub(super) fn rendition_name(id: RenditionId, generation: u32) -> String {
    match generation {
        0 => id.as_str().to_owned(),
        later => format!("{}-{later}", id.as_str()),
    }
}

/// How many lost segments a resumed playlist lists before its own, so that a player at the live edge finds its place.
/// [`RenditionProgress::next_msn`] may be up to eight ahead of what players have seen, and four at least; the list must
/// reach back to that but never before the oldest segment that was listed at the time.
pub(super) fn lost_segments(settings: &Settings) -> u64 {
    let target = Duration::from_secs(settings.target_duration());
    if settings.window >= target * 8 { 12 } else { 7 }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{
        hls::{BlockingReload, HlsError, Name, Settings, Stream},
        media::{InitSegment, Part},
    };

    const VIDEO: MediaKind = MediaKind::Video;
    const AUDIO: MediaKind = MediaKind::Audio;

    fn init(stream: &Stream, kind: MediaKind) {
        stream.push_init(
            kind,
            InitSegment {
                bytes: Bytes::from_static(b"init"),
                codecs: "opus".to_owned(),
                timescale: 1000,
                resolution: None,
                channels: 2,
            },
        );
    }

    fn part(stream: &Stream, kind: MediaKind, at: u64, starts_segment: bool) {
        let part = Part {
            bytes: Bytes::from_static(b"part"),
            decode_time: at,
            presentation_time: at,
            duration: 1000,
            samples: 50,
            independent: true,
            starts_segment,
            discontinuity: false,
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        assert!(stream.push_part(kind, part, time).is_some());
    }

    /// One whole segment of 2 s and the first part of the next one.
    fn segment(stream: &Stream, kind: MediaKind, at: u64) {
        part(stream, kind, at, true);
        part(stream, kind, at + 1000, false);
        part(stream, kind, at + 2000, true);
    }

    fn reload(text: &str) -> BlockingReload {
        BlockingReload::parse(text).unwrap()
    }

    /// The playlist's text, if it is there at once.
    fn playlist(stream: &Stream, rendition: &str, query: &str) -> Option<Result<String, HlsError>> {
        let answer = stream
            .media_playlist(rendition, reload(query))
            .now_or_never()?;
        Some(answer.map(|document| String::from_utf8(document.body().to_vec()).unwrap()))
    }

    fn names(playlist: &str) -> Vec<&str> {
        let quoted = playlist.split("URI=\"").skip(1);
        quoted
            .filter_map(|text| text.split('"').next())
            .chain(playlist.lines().filter(|line| !line.starts_with('#')))
            .filter(|name| Name::parse(name).is_some())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_resumed_playlist_goes_on_with_rising_numbers_after_a_discontinuity() {
        let first = Stream::new(Settings::default());
        first.expect(&[VIDEO, AUDIO]);
        for kind in [VIDEO, AUDIO] {
            init(&first, kind);
            segment(&first, kind, 0);
        }
        let progress = first.progress();
        let numbers: Vec<_> = progress.renditions.iter().map(|r| r.next_msn).collect();
        assert_eq!(numbers, [2, 2], "segment 1 was seen with a part");
        let before = playlist(&first, "video", "").unwrap().unwrap();

        let second = Stream::resume(Settings::default(), &progress);
        assert!(
            playlist(&second, "video", "").is_none(),
            "nothing to list yet"
        );
        for kind in [VIDEO, AUDIO] {
            init(&second, kind);
            part(&second, kind, 10_000, true);
        }
        for query in ["", "_HLS_msn=1&_HLS_part=3", "_HLS_msn=1"] {
            assert!(playlist(&second, "video", query).is_none(), "{query}");
        }
        for kind in [VIDEO, AUDIO] {
            part(&second, kind, 11_000, false);
            part(&second, kind, 12_000, true);
        }
        for rendition in ["video", "audio"] {
            let now = playlist(&second, rendition, "_HLS_msn=1&_HLS_part=3")
                .unwrap()
                .unwrap();
            // Segments 0 and 1 are lost, and keep their numbers and names so that players keep their place.
            let key = &progress.key;
            let expected = format!(
                "#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-DISCONTINUITY-SEQUENCE:0\n\
                 #EXT-X-GAP\n#EXTINF:2.00000,\n{key}-s0.mp4\n\
                 #EXT-X-GAP\n#EXTINF:2.00000,\n{key}-s1.mp4\n\
                 #EXT-X-DISCONTINUITY\n#EXT-X-MAP"
            );
            assert!(now.contains(&expected), "{now}");
            let (_, now) = now.split_once("#EXT-X-DISCONTINUITY\n").unwrap();
            assert!(!now.contains("#EXT-X-DISCONTINUITY\n"), "{now}");
            assert!(
                names(now).iter().all(|name| !before.contains(name)),
                "{now}"
            );
        }
        assert_eq!(second.progress().discontinuity, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resumed_playlist_whose_publisher_stays_away_ends() {
        let first = Stream::new(Settings::default());
        first.expect(&[AUDIO]);
        init(&first, AUDIO);
        segment(&first, AUDIO, 0);
        let second = Stream::resume(Settings::default(), &first.progress());
        let waiting = tokio::spawn({
            let second = second.clone();
            async move { second.media_playlist("audio", reload("_HLS_msn=2")).await }
        });
        tokio::task::yield_now().await;
        second.end();
        let document = waiting.await.unwrap().unwrap();
        let text = String::from_utf8(document.body().to_vec()).unwrap();
        assert_eq!(text.matches("#EXT-X-GAP\n").count(), 2, "{text}");
        assert!(text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_resumed_playlist_is_waited_for_as_a_starting_one() {
        let first = Stream::new(Settings::default());
        first.expect(&[AUDIO]);
        let second = Stream::resume(Settings::default(), &first.progress());
        let answer = second.media_playlist("audio", reload("_HLS_msn=7")).await;
        assert!(matches!(answer, Err(HlsError::BadRequest(_))), "{answer:?}");
        let start = tokio::time::Instant::now();
        let answer = second.media_playlist("audio", reload("_HLS_msn=0")).await;
        assert!(
            matches!(answer, Err(HlsError::NotReady { .. })),
            "{answer:?}"
        );
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_stream_leaves_the_ended_one_its_urls_for_a_while() {
        let first = Stream::new(Settings::default());
        first.expect(&[VIDEO, AUDIO]);
        for kind in [VIDEO, AUDIO] {
            init(&first, kind);
            segment(&first, kind, 0);
        }
        first.end();
        let second = Stream::after(Settings::default(), &first);
        second.expect(&[AUDIO]);
        init(&second, AUDIO);
        segment(&second, AUDIO, 60_000);

        let ended = playlist(&second, "audio", "").unwrap().unwrap();
        assert!(ended.ends_with("#EXT-X-ENDLIST\n"), "{ended}");
        let new = playlist(&second, "audio-1", "").unwrap().unwrap();
        assert!(
            new.contains("#EXT-X-MEDIA-SEQUENCE:0\n") && !new.contains("ENDLIST"),
            "{new}"
        );
        assert!(names(&new).iter().all(|name| !ended.contains(name)));
        for (rendition, playlist) in [("audio", &ended), ("audio-1", &new)] {
            let name = playlist
                .lines()
                .find(|line| Name::parse(line).is_some())
                .unwrap();
            let resource = second.resource(rendition, name).now_or_never().unwrap();
            assert_eq!(resource.unwrap().len, 8);
        }
        let index = second.multivariant().await.unwrap();
        let index = String::from_utf8(index.body().to_vec()).unwrap();
        assert!(index.ends_with("\naudio-1/index.m3u8\n"), "{index}");

        tokio::time::advance(Settings::default().reach() + Duration::from_secs(1)).await;
        part(&second, AUDIO, 63_000, true);
        assert_eq!(
            playlist(&second, "audio", ""),
            Some(Err(HlsError::NotFound))
        );
        assert!(playlist(&second, "audio-1", "").unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn lost_segments_leave_the_playlist_as_it_grows_and_the_numbers_rise() {
        let progress = Progress {
            generation: 3,
            key: "before".to_owned(),
            target_duration: 2,
            discontinuity: 7,
            renditions: vec![RenditionProgress {
                kind: AUDIO,
                first_msn: 5,
                next_msn: 100,
            }],
        };
        let stream = Stream::resume(Settings::default(), &progress);
        init(&stream, AUDIO);
        let mut last = 0;
        for segment in 0..40 {
            part(&stream, AUDIO, segment * 2000, true);
            part(&stream, AUDIO, segment * 2000 + 1000, false);
            if segment == 0 {
                continue;
            }
            let text = playlist(&stream, "audio-3", "").unwrap().unwrap();
            let number = |tag: &str| -> u64 {
                let (_, rest) = text.split_once(tag).unwrap();
                rest.lines().next().unwrap().parse().unwrap()
            };
            let first = number("#EXT-X-MEDIA-SEQUENCE:");
            let lost = text.matches("#EXT-X-GAP").count() as u64;
            assert!(first >= last && first >= 88, "{first} after {last}");
            last = first;
            assert_eq!(lost, 100_u64.saturating_sub(first), "{text}");
            let listed = text.matches("#EXTINF").count() as u64;
            assert_eq!(first + listed, 100 + segment, "{text}");
            let tag = u64::from(text.contains("#EXT-X-DISCONTINUITY\n"));
            assert_eq!(number("#EXT-X-DISCONTINUITY-SEQUENCE:") + tag, 8, "{text}");
        }
        assert!(last > 115, "{last}");
    }
}
