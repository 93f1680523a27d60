//! The text of a media playlist (RFC 8216bis section 4) from a plain description of it. Pure: no clock, no state; what
//! is listed and for how long is decided elsewhere.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use time::OffsetDateTime;

use super::{
    archive::Packed,
    document::Document,
    name::{Item, Name},
};

/// Precedes each segment that starts with a keyframe in a playlist where not all do. RFC 8216 has no tag for that, and the
/// attribute of the parts goes with them; this is a comment to players, and tells the watch page where decoding can start.
const INDEPENDENT: &str = "# independent segment";

/// Everything a media playlist says.
#[derive(Clone, Debug)]
pub(super) struct MediaPlaylist<'a> {
    /// The key in every name.
    pub(super) key: &'a str,
    /// `EXT-X-TARGETDURATION`, in seconds.
    pub(super) target_duration: u64,
    /// `PART-TARGET`.
    pub(super) part_target: Duration,
    /// `PART-HOLD-BACK`.
    pub(super) part_hold_back: Duration,
    /// `EXT-X-PLAYLIST-TYPE`, if it has one.
    pub(super) kind: Option<PlaylistType>,
    /// Every listed segment starts with a sample that decodes by itself.
    pub(super) independent_segments: bool,
    /// Media sequence number of the first segment, a lost one included.
    pub(super) media_sequence: u64,
    /// Discontinuity sequence number before the first segment's own `EXT-X-DISCONTINUITY`.
    pub(super) discontinuity_sequence: u64,
    /// How many numbers before the first segment stand for media that is lost.
    pub(super) lost: u64,
    /// The key they had.
    pub(super) lost_key: &'a str,
    /// The oldest segments, if their lines are made already.
    pub(super) packed: Packed,
    /// All other segments, oldest first; the last one may be in progress.
    pub(super) segments: Vec<SegmentEntry>,
    /// How many segments at the beginning are left out, for a delta update; those that are lost or packed are left out
    /// all or none.
    pub(super) skipped: usize,
    /// Number of the part to come, if one is to come.
    pub(super) hinted_part: Option<u64>,
    /// Where the other renditions are.
    pub(super) reports: Vec<RenditionReport>,
    /// Nothing will be added.
    pub(super) ended: bool,
}

/// `EXT-X-PLAYLIST-TYPE` (section 4.4.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlaylistType {
    /// Segments are added and never removed.
    Event,
    /// Nothing changes any more.
    Vod,
}

/// One segment of a [`MediaPlaylist`].
#[derive(Clone, Debug)]
pub(super) struct SegmentEntry {
    /// Its media sequence number when it is complete, `None` while it is in progress.
    pub(super) complete: Option<u64>,
    /// Sum of its parts.
    pub(super) duration: Duration,
    /// Number of its init segment.
    pub(super) init: u64,
    /// Not continuous with the segment before.
    pub(super) discontinuity: bool,
    /// Starts with a sample that decodes by itself.
    pub(super) independent: bool,
    /// There is nothing to fetch.
    pub(super) gap: bool,
    /// Wall-clock time of its first sample.
    pub(super) program_date_time: SystemTime,
    /// Its parts, while they are listed.
    pub(super) parts: Vec<PartEntry>,
}

/// One part of a [`SegmentEntry`].
#[derive(Clone, Copy, Debug)]
pub(super) struct PartEntry {
    /// Number through the rendition.
    pub(super) number: u64,
    /// Duration.
    pub(super) duration: Duration,
    /// Starts with a sample that decodes by itself.
    pub(super) independent: bool,
}

/// `EXT-X-RENDITION-REPORT` (section 4.4.5.4).
#[derive(Clone, Debug)]
pub(super) struct RenditionReport {
    /// The rendition's name.
    pub(super) name: Arc<str>,
    /// Media sequence number of its last segment, complete or not.
    pub(super) last_msn: u64,
    /// Index of the last part in that segment.
    pub(super) last_part: u64,
}

/// The whole text; without the lines that are packed, which only [`MediaPlaylist::document`] has.
impl fmt::Display for MediaPlaylist<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(out)?;
        self.write_rest(out)
    }
}

impl MediaPlaylist<'_> {
    /// The playlist under `tag`, which names this state of it and no other.
    pub(super) fn document(&self, tag: String) -> Arc<Document> {
        if self.packed.blocks.is_empty() || self.skipped > 0 {
            return Document::new(self.to_string(), tag);
        }
        let (mut head, mut rest) = (String::new(), String::new());
        let written = self
            .write_head(&mut head)
            .and_then(|()| self.write_rest(&mut rest));
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        Document::packed(head, self.packed.blocks.clone(), rest, tag)
    }

    fn has_gaps(&self) -> bool {
        self.lost > 0 || self.packed.gaps || self.segments.iter().any(|segment| segment.gap)
    }

    fn write_head(&self, out: &mut impl fmt::Write) -> fmt::Result {
        // Section 8: EXT-X-MAP asks for 6, EXT-X-SKIP for 9; the low-latency tags ask for nothing. EXT-X-GAP came with 8.
        let version = match (self.skipped, self.has_gaps()) {
            (0, false) => 6,
            (0, true) => 8,
            _ => 9,
        };
        writeln!(out, "#EXTM3U\n#EXT-X-VERSION:{version}")?;
        match self.kind {
            Some(PlaylistType::Event) => writeln!(out, "#EXT-X-PLAYLIST-TYPE:EVENT")?,
            Some(PlaylistType::Vod) => writeln!(out, "#EXT-X-PLAYLIST-TYPE:VOD")?,
            None => {}
        }
        if self.independent_segments {
            writeln!(out, "#EXT-X-INDEPENDENT-SEGMENTS")?;
        }
        writeln!(out, "#EXT-X-TARGETDURATION:{}", self.target_duration)?;
        writeln!(
            out,
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={}.0,HOLD-BACK={}.0,PART-HOLD-BACK={:.3}",
            skip_boundary(self.target_duration).as_secs(),
            3 * self.target_duration,
            self.part_hold_back.as_secs_f64(),
        )?;
        writeln!(
            out,
            "#EXT-X-PART-INF:PART-TARGET={:.3}",
            self.part_target.as_secs_f64()
        )?;
        writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{}", self.media_sequence)?;
        writeln!(
            out,
            "#EXT-X-DISCONTINUITY-SEQUENCE:{}",
            self.discontinuity_sequence
        )?;
        if self.skipped > 0 {
            writeln!(out, "#EXT-X-SKIP:SKIPPED-SEGMENTS={}", self.skipped)?;
        }
        // Section 4.4.4.7: players keep their place by these and load none of them.
        let lost = if self.skipped > 0 { 0 } else { self.lost };
        for msn in (self.media_sequence..).take(usize::try_from(lost).unwrap_or(usize::MAX)) {
            let uri = Name {
                key: self.lost_key,
                item: Item::Segment(msn),
            };
            writeln!(
                out,
                "#EXT-X-GAP\n#EXTINF:{}.00000,\n{uri}",
                self.target_duration
            )?;
        }
        Ok(())
    }

    fn write_rest(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let before = usize::try_from(self.lost)
            .unwrap_or(usize::MAX)
            .saturating_add(self.packed.segments);
        let skipped = self.skipped.saturating_sub(before);
        let mut init = self.packed.init;
        for (index, segment) in self.segments.iter().enumerate() {
            if index >= skipped {
                write_segment(out, self.key, !self.independent_segments, segment, init)?;
            }
            init = Some(segment.init);
        }
        if let Some(part) = self.hinted_part {
            let uri = Name {
                key: self.key,
                item: Item::Part(part),
            };
            writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{uri}\"")?;
        }
        for report in &self.reports {
            writeln!(
                out,
                "#EXT-X-RENDITION-REPORT:URI=\"../{}/index.m3u8\",LAST-MSN={},LAST-PART={}",
                report.name, report.last_msn, report.last_part
            )?;
        }
        if self.ended {
            writeln!(out, "#EXT-X-ENDLIST")?;
        }
        Ok(())
    }
}

/// Writes the lines of one segment. `key` is in its names; `mark` says that it starts with a keyframe, if it does; `init`
/// is the init segment in force, by the segment before.
pub(super) fn write_segment(
    out: &mut impl fmt::Write,
    key: &str,
    mark: bool,
    segment: &SegmentEntry,
    init: Option<u64>,
) -> fmt::Result {
    let name = |item| Name { key, item };
    if segment.discontinuity {
        writeln!(out, "#EXT-X-DISCONTINUITY")?;
    }
    if segment.discontinuity || init != Some(segment.init) {
        let uri = name(Item::Init(segment.init));
        writeln!(out, "#EXT-X-MAP:URI=\"{uri}\"")?;
    }
    write_date(out, segment.program_date_time)?;
    if segment.independent && mark {
        writeln!(out, "{INDEPENDENT}")?;
    }
    for part in &segment.parts {
        write!(
            out,
            "#EXT-X-PART:DURATION={:.5},URI=\"{}\"",
            part.duration.as_secs_f64(),
            name(Item::Part(part.number))
        )?;
        out.write_str(if part.independent {
            ",INDEPENDENT=YES\n"
        } else {
            "\n"
        })?;
    }
    if let Some(msn) = segment.complete {
        if segment.gap {
            writeln!(out, "#EXT-X-GAP")?;
        }
        let uri = name(Item::Segment(msn));
        writeln!(out, "#EXTINF:{:.5},\n{uri}", segment.duration.as_secs_f64())?;
    }
    Ok(())
}

/// `CAN-SKIP-UNTIL`: segments further than this from the playlist's end may be skipped (section 4.4.3.8).
pub(super) const fn skip_boundary(target_duration: u64) -> Duration {
    Duration::from_secs(6 * target_duration)
}

fn write_date(out: &mut impl fmt::Write, at: SystemTime) -> fmt::Result {
    let at = OffsetDateTime::from(at);
    writeln!(
        out,
        "#EXT-X-PROGRAM-DATE-TIME:{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(complete: Option<u64>, parts: &[u64]) -> SegmentEntry {
        SegmentEntry {
            complete,
            duration: Duration::from_secs(2),
            init: 0,
            discontinuity: false,
            independent: parts.first().is_none_or(|number| number % 2 == 0),
            gap: false,
            program_date_time: SystemTime::UNIX_EPOCH
                + Duration::from_micros(1_764_000_000_123_999),
            parts: parts
                .iter()
                .map(|number| PartEntry {
                    number: *number,
                    duration: Duration::from_nanos(200_004_999),
                    independent: number % 2 == 0,
                })
                .collect(),
        }
    }

    fn playlist() -> MediaPlaylist<'static> {
        let mut changed = segment(Some(8), &[]);
        changed.init = 1;
        changed.discontinuity = true;
        let mut inherits = segment(Some(9), &[40, 41]);
        inherits.init = 1;
        let mut open = segment(None, &[42, 43]);
        open.init = 1;
        MediaPlaylist {
            key: "k1",
            target_duration: 2,
            part_target: Duration::from_millis(200),
            part_hold_back: Duration::from_millis(600),
            kind: None,
            independent_segments: true,
            media_sequence: 7,
            discontinuity_sequence: 3,
            lost: 0,
            lost_key: "",
            packed: Packed::default(),
            segments: vec![segment(Some(7), &[]), changed, inherits, open],
            skipped: 0,
            hinted_part: Some(44),
            reports: vec![RenditionReport {
                name: "audio".into(),
                last_msn: 10,
                last_part: 1,
            }],
            ended: false,
        }
    }

    #[test]
    fn live_playlist() {
        insta::assert_snapshot!(playlist(), @r#"
        #EXTM3U
        #EXT-X-VERSION:6
        #EXT-X-INDEPENDENT-SEGMENTS
        #EXT-X-TARGETDURATION:2
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=12.0,HOLD-BACK=6.0,PART-HOLD-BACK=0.600
        #EXT-X-PART-INF:PART-TARGET=0.200
        #EXT-X-MEDIA-SEQUENCE:7
        #EXT-X-DISCONTINUITY-SEQUENCE:3
        #EXT-X-MAP:URI="k1-init-0.mp4"
        #EXT-X-PROGRAM-DATE-TIME:2025-11-24T16:00:00.123Z
        #EXTINF:2.00000,
        k1-s7.mp4
        #EXT-X-DISCONTINUITY
        #EXT-X-MAP:URI="k1-init-1.mp4"
        #EXT-X-PROGRAM-DATE-TIME:2025-11-24T16:00:00.123Z
        #EXTINF:2.00000,
        k1-s8.mp4
        #EXT-X-PROGRAM-DATE-TIME:2025-11-24T16:00:00.123Z
        #EXT-X-PART:DURATION=0.20000,URI="k1-p40.mp4",INDEPENDENT=YES
        #EXT-X-PART:DURATION=0.20000,URI="k1-p41.mp4"
        #EXTINF:2.00000,
        k1-s9.mp4
        #EXT-X-PROGRAM-DATE-TIME:2025-11-24T16:00:00.123Z
        #EXT-X-PART:DURATION=0.20000,URI="k1-p42.mp4",INDEPENDENT=YES
        #EXT-X-PART:DURATION=0.20000,URI="k1-p43.mp4"
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI="k1-p44.mp4"
        #EXT-X-RENDITION-REPORT:URI="../audio/index.m3u8",LAST-MSN=10,LAST-PART=1
        "#);
    }

    #[test]
    fn segments_that_start_with_a_keyframe_are_marked_when_not_all_do() {
        let mut some = playlist();
        some.independent_segments = false;
        some.segments[2].independent = false;
        let text = some.to_string();
        assert!(!text.contains("INDEPENDENT-SEGMENTS"));
        let marked = format!("{INDEPENDENT}\n#EXTINF:2.00000,\nk1-s");
        assert_eq!(text.matches(&marked).count(), 2, "{text}");
        assert_eq!(text.matches(INDEPENDENT).count(), 3, "{text}");
        assert!(!playlist().to_string().contains(INDEPENDENT));
    }

    #[test]
    fn lost_segments_are_gaps_of_their_version() {
        let mut resumed = playlist();
        (resumed.lost, resumed.lost_key) = (2, "k0");
        let text = resumed.to_string();
        assert!(text.contains("#EXT-X-VERSION:8\n"), "{text}");
        assert!(
            text.contains("#EXT-X-GAP\n#EXTINF:2.00000,\nk0-s8.mp4\n"),
            "{text}"
        );
    }

    #[test]
    fn delta_update() {
        let mut delta = playlist();
        delta.skipped = 3;
        insta::assert_snapshot!(delta, @r#"
        #EXTM3U
        #EXT-X-VERSION:9
        #EXT-X-INDEPENDENT-SEGMENTS
        #EXT-X-TARGETDURATION:2
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=12.0,HOLD-BACK=6.0,PART-HOLD-BACK=0.600
        #EXT-X-PART-INF:PART-TARGET=0.200
        #EXT-X-MEDIA-SEQUENCE:7
        #EXT-X-DISCONTINUITY-SEQUENCE:3
        #EXT-X-SKIP:SKIPPED-SEGMENTS=3
        #EXT-X-PROGRAM-DATE-TIME:2025-11-24T16:00:00.123Z
        #EXT-X-PART:DURATION=0.20000,URI="k1-p42.mp4",INDEPENDENT=YES
        #EXT-X-PART:DURATION=0.20000,URI="k1-p43.mp4"
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI="k1-p44.mp4"
        #EXT-X-RENDITION-REPORT:URI="../audio/index.m3u8",LAST-MSN=10,LAST-PART=1
        "#);
    }

    #[test]
    fn ended_playlist() {
        let mut ended = playlist();
        ended.ended = true;
        ended.hinted_part = None;
        ended.reports.clear();
        ended.independent_segments = false;
        ended.segments.drain(..2);
        ended.segments[1].complete = Some(10);
        insta::assert_snapshot!(ended, @r#"
        #EXTM3U
        #EXT-X-VERSION:6
        #EXT-X-TARGETDURATION:2
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=12.0,HOLD-BACK=6.0,PART-HOLD-BACK=0.600
        #EXT-X-PART-INF:PART-TARGET=0.200
        #EXT-X-MEDIA-SEQUENCE:7
        #EXT-X-DISCONTINUITY-SEQUENCE:3
        #EXT-X-MAP:URI="k1-init-1.mp4"
        #EXT-X-PROGRAM-DATE-TIME:2025-11-24T16:00:00.123Z
        # independent segment
        #EXT-X-PART:DURATION=0.20000,URI="k1-p40.mp4",INDEPENDENT=YES
        #EXT-X-PART:DURATION=0.20000,URI="k1-p41.mp4"
        #EXTINF:2.00000,
        k1-s9.mp4
        #EXT-X-PROGRAM-DATE-TIME:2025-11-24T16:00:00.123Z
        # independent segment
        #EXT-X-PART:DURATION=0.20000,URI="k1-p42.mp4",INDEPENDENT=YES
        #EXT-X-PART:DURATION=0.20000,URI="k1-p43.mp4"
        #EXTINF:2.00000,
        k1-s10.mp4
        #EXT-X-ENDLIST
        "#);
    }
}
