//! One rendition: turns parts into segments, keeps the sliding window, and finds what is asked for. Pure but for the
//! instants it is given; who waits for what is decided elsewhere.

mod dvr;
mod keyframe;
mod on_demand;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use super::{
    RenditionId, Settings,
    alignment::Alignment,
    archive::Archive,
    bitrate::Bitrate,
    document::{Chunk, Document},
    playlist::{MediaPlaylist, RenditionReport, skip_boundary},
    segment::{Init, Segment, StoredPart},
    succession::{Progress, RenditionProgress, lost_segments, rendition_name},
};
use crate::media::{FileRange, InitSegment, MediaKind, Part};

/// The media of one rendition and what its playlist says of it.
#[derive(Debug)]
pub(super) struct Rendition {
    pub(super) id: RenditionId,
    /// Directory of its playlist: its kind, with a number in later streams of the session.
    pub(super) name: Arc<str>,
    pub(super) kind: MediaKind,
    /// The present publication has it.
    pub(super) expected: bool,
    /// Told after every change.
    pub(super) changed: Arc<watch::Sender<()>>,
    /// The playlist in its newest state that anybody asked for, with the stream's version it shows.
    pub(super) full: Option<(u64, Arc<Document>)>,
    /// The same, as a delta update.
    pub(super) delta: Option<(u64, Arc<Document>)>,
    pub(super) bitrate: Bitrate,
    /// When somebody last asked for it.
    pub(super) asked_for: Option<Instant>,
    /// When the newest part came.
    pub(super) last_part: Option<Instant>,
    target_duration: u64,
    window: Duration,
    part_duration: Duration,
    segment_duration: Duration,
    /// There is media, and more is to come.
    started: bool,
    first_segment: Duration,
    /// In force for the next part.
    init: Option<Init>,
    next_init: u64,
    /// Complete segments that can be fetched, oldest first; the first `unlisted` are no longer in the playlist.
    segments: VecDeque<Segment>,
    unlisted: usize,
    /// Listed segments that are older than these; `None` where old segments leave the list.
    archive: Option<Archive>,
    /// What is on disk is not kept in memory, however young.
    released: bool,
    /// In progress.
    open: Option<Segment>,
    next_msn: u64,
    next_part: u64,
    /// Media time of everything pushed.
    elapsed: Duration,
    /// Sum of the listed complete segments.
    listed: Duration,
    /// Longest `listed` so far, for the availability duration.
    longest_playlist: Duration,
    /// Discontinuity sequence number of the newest part.
    discontinuity: u64,
    /// The one of the part to come, if that is the first after [`Self::join`].
    joined_at: Option<u64>,
    /// `EXT-X-DISCONTINUITY-SEQUENCE`.
    discontinuity_sequence: u64,
    all_independent: bool,
    warned_segment: bool,
    /// Goes on with the numbers of another one.
    resumed: bool,
    /// Listed numbers before its first segment whose media went with the other one, and the key in their names.
    lost: u64,
    lost_key: Box<str>,
    /// Number of its first segment.
    first_msn: u64,
}

/// What a part that was pushed did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// Its number.
    pub(super) number: u64,
    /// It completed a segment, or was the first one.
    pub(super) boundary: bool,
}

impl Rendition {
    pub(super) fn new(id: RenditionId, generation: u32, settings: &Settings) -> Self {
        let target_duration = settings.target_duration();
        Self {
            id,
            name: rendition_name(id, generation).into(),
            kind: id.kind(),
            expected: true,
            changed: Arc::new(watch::Sender::new(())),
            full: None,
            delta: None,
            bitrate: Bitrate::default(),
            asked_for: None,
            last_part: None,
            target_duration,
            window: settings
                .window
                .max(Duration::from_secs(3 * target_duration)),
            part_duration: settings.part_duration,
            segment_duration: settings.segment_duration,
            started: false,
            first_segment: settings.first_segment,
            init: None,
            next_init: 0,
            segments: VecDeque::new(),
            unlisted: 0,
            archive: (settings.dvr && !is_on_demand(id)).then(Archive::default),
            released: false,
            open: None,
            next_msn: 0,
            next_part: 0,
            elapsed: Duration::ZERO,
            listed: Duration::ZERO,
            longest_playlist: Duration::ZERO,
            discontinuity: 0,
            joined_at: None,
            discontinuity_sequence: 0,
            all_independent: true,
            warned_segment: false,
            resumed: false,
            lost: 0,
            lost_key: Box::default(),
            first_msn: 0,
        }
    }

    /// One that goes on where another left off: its first segment is a discontinuity.
    pub(super) fn resume(from: RenditionProgress, stream: &Progress, settings: &Settings) -> Self {
        let own = from.next_msn.saturating_sub(from.first_msn);
        Self {
            next_msn: from.next_msn,
            first_msn: from.next_msn,
            discontinuity: stream.discontinuity,
            discontinuity_sequence: stream.discontinuity,
            resumed: true,
            lost: lost_segments(settings).min(own),
            lost_key: stream.key.as_str().into(),
            ..Self::new(from.kind.into(), stream.generation, settings)
        }
    }

    /// Where it is, for one that goes on from here.
    pub(super) fn progress(&self) -> RenditionProgress {
        RenditionProgress {
            kind: self.kind,
            first_msn: self.first_msn,
            next_msn: self.next_msn + u64::from(self.open.is_some()),
        }
    }

    /// Takes a new init segment for the parts to come; `false` if it is the one in force already.
    pub(super) fn push_init(&mut self, init: InitSegment) -> bool {
        if self.init.as_ref().is_some_and(|now| *now.segment == init) {
            return false;
        }
        self.init = Some(Init {
            number: self.next_init,
            segment: Arc::new(init),
        });
        self.next_init += 1;
        self.bitrate.restart_samples();
        true
    }

    /// Is made only while somebody asks for it, so it comes later than others and goes again.
    pub(super) fn is_on_demand(&self) -> bool {
        is_on_demand(self.id)
    }

    /// Takes the next part; `None` if there was no init segment before it.
    pub(super) fn push_part(
        &mut self,
        part: Part,
        program_date_time: SystemTime,
        alignment: &mut Alignment,
        now: Instant,
    ) -> Option<Pushed> {
        let init = self.init.clone()?;
        let duration = ticks(part.duration, init.segment.timescale);
        let first = !std::mem::replace(&mut self.started, true);
        let discontinuity = if first && self.resumed {
            true
        } else if first {
            self.discontinuity = self.joined_at.take().unwrap_or(alignment.current());
            self.discontinuity_sequence = self.discontinuity;
            false
        } else {
            part.discontinuity
                || self.newest().is_some_and(|s| s.init.number != init.number)
                || (part.independent
                    && alignment.is_due(self.discontinuity, program_date_time, duration))
        };
        if discontinuity {
            self.discontinuity += 1;
            alignment.reached(self.discontinuity, program_date_time);
        }

        let boundary = match self.open.as_ref().map(|open| open.duration) {
            Some(so_far) => {
                discontinuity
                    || part.starts_segment
                    || (self.next_msn == 0 && part.independent && so_far >= self.first_segment)
                    || self.is_too_long(so_far + duration)
            }
            None => true,
        };
        if boundary {
            self.complete_segment(now);
            self.all_independent &= part.independent;
        }
        let number = self.next_part;
        self.next_part += 1;
        let open = self.open.get_or_insert_with(|| Segment {
            msn: self.next_msn,
            init,
            discontinuity,
            program_date_time,
            start: self.elapsed,
            duration: Duration::ZERO,
            bytes: 0,
            parts: Vec::new(),
            parts_unlisted: None,
            available_until: None,
        });
        self.elapsed += duration;
        self.last_part = Some(now);
        self.bitrate
            .push(part.bytes.len() as u64, duration, part.samples);
        open.push(StoredPart::new(
            number,
            duration,
            part.independent,
            part.bytes,
        ));
        self.unlist_old_parts(now);
        self.forget(now);
        Some(Pushed { number, boundary })
    }

    /// A segment must not be longer than the target duration, rounded (section 4.4.3.1); whoever cuts the parts sees to
    /// that, and this is what holds when it fails.
    fn is_too_long(&mut self, duration: Duration) -> bool {
        let too_long = (duration + Duration::from_millis(500)).as_secs() > self.target_duration;
        if too_long && !std::mem::replace(&mut self.warned_segment, true) {
            tracing::warn!(
                rendition = %self.name,
                target_duration = self.target_duration,
                "a segment outgrows the target duration and is cut short (said once)"
            );
        }
        too_long
    }

    /// Ends the segment in progress, if there is one; the next part starts a new one.
    pub(super) fn complete_segment(&mut self, now: Instant) -> bool {
        let Some(segment) = self.open.take() else {
            return false;
        };
        self.next_msn = segment.msn + 1;
        self.listed += segment.duration;
        self.longest_playlist = self.longest_playlist.max(self.listed);
        self.bitrate.segment(
            segment.bytes,
            segment.duration,
            Duration::from_secs(self.target_duration),
        );
        self.segments.push_back(segment);
        if self.archive.is_some() {
            return true;
        }
        let lost = |count: u64| Duration::from_secs(count.saturating_mul(self.target_duration));
        while self.lost > 0 && self.listed + lost(self.lost - 1) >= self.window {
            self.lost -= 1;
        }
        while let Some(oldest) = self.segments.get_mut(self.unlisted) {
            if self.listed.saturating_sub(oldest.duration) < self.window {
                break;
            }
            self.listed -= oldest.duration;
            self.discontinuity_sequence += u64::from(oldest.discontinuity);
            oldest.available_until = Some(now + oldest.duration + self.longest_playlist);
            self.unlisted += 1;
        }
        true
    }

    /// Parts leave the playlist, the whole segment's at once, when the first of them begins more than three target
    /// durations before the end (section 6.2.2).
    fn unlist_old_parts(&mut self, now: Instant) {
        let young = Duration::from_secs(3 * self.target_duration);
        for segment in self.segments.iter_mut().rev() {
            if self.elapsed.saturating_sub(segment.start) <= young {
                continue;
            }
            if segment.parts_unlisted.is_some() {
                break;
            }
            segment.unlist_parts(now);
        }
    }

    /// Drops what nobody may ask for any more.
    fn forget(&mut self, now: Instant) {
        while self
            .segments
            .front()
            .is_some_and(|s| s.available_until.is_some_and(|until| until <= now))
        {
            self.segments.pop_front();
            self.unlisted -= 1;
        }
    }

    /// Notes that a part is on disk; `false` if it is not known (any more) or the length differs.
    pub(super) fn offload(&mut self, number: u64, range: FileRange) -> bool {
        let released = self.released;
        self.segment_of_part_mut(number).is_some_and(|segment| {
            let done = segment.offload(number, range);
            if released {
                segment.release_memory();
            }
            done
        })
    }

    fn segment_of_part_mut(&mut self, number: u64) -> Option<&mut Segment> {
        if self.open.as_ref().is_some_and(|s| s.part(number).is_some()) {
            return self.open.as_mut();
        }
        let after = self
            .segments
            .partition_point(|s| s.parts.first().is_some_and(|p| p.number <= number));
        self.segments.get_mut(after.checked_sub(1)?)
    }

    fn segment_of_part(&self, number: u64) -> Option<&Segment> {
        let open = self.open.as_ref().filter(|s| s.part(number).is_some());
        open.or_else(|| {
            let after = self
                .segments
                .partition_point(|s| s.parts.first().is_some_and(|p| p.number <= number));
            self.segments.get(after.checked_sub(1)?)
        })
    }

    /// Has an init segment and a part.
    pub(super) fn has_media(&self) -> bool {
        self.started
    }

    /// Has a complete segment.
    pub(super) fn has_segment(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Goes on with the numbers of another one but has no whole segment of its own yet.
    pub(super) fn awaits_segment(&self) -> bool {
        self.resumed && !self.has_segment()
    }

    /// There is something to show, be it only the end.
    pub(super) fn can_end(&self) -> bool {
        self.resumed || self.has_media()
    }

    /// Media sequence number of the segment in progress, or of the one to come.
    pub(super) fn next_msn(&self) -> u64 {
        self.next_msn
    }

    /// Number of the part to come.
    pub(super) fn next_part(&self) -> u64 {
        self.next_part
    }

    /// Parts of the segment in progress.
    pub(super) fn open_parts(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.parts.len() as u64)
    }

    /// The newest segment, in progress or complete.
    fn newest(&self) -> Option<&Segment> {
        self.open.as_ref().or_else(|| self.segments.back())
    }

    /// Segment and index of the newest part.
    pub(super) fn edge(&self) -> Option<(u64, u64)> {
        let newest = self.newest()?;
        Some((newest.msn, (newest.parts.len() as u64).checked_sub(1)?))
    }

    /// The init segment in force.
    pub(super) fn init(&self) -> Option<&InitSegment> {
        self.init.as_ref().map(|init| &*init.segment)
    }

    /// RFC 6381 codecs of everything listed, newest first.
    pub(super) fn codecs(&self) -> Vec<String> {
        let mut codecs: Vec<String> = Vec::new();
        let listed = self.segments.iter().skip(self.unlisted).chain(&self.open);
        let archived = self.archive.iter().flat_map(Archive::inits).rev();
        let inits = self.init.iter().chain(listed.rev().map(|s| &s.init));
        for init in inits.chain(archived) {
            if !codecs.contains(&init.segment.codecs) {
                codecs.push(init.segment.codecs.clone());
            }
        }
        codecs
    }

    /// Every segment so far began with a sample that decodes by itself.
    pub(super) fn all_independent(&self) -> bool {
        self.all_independent
    }

    /// Longest part that is listed or is to be, rounded up to milliseconds. Grows when pictures are further apart than the
    /// part duration that was set, because no part may be longer than what the playlist says (section 4.4.4.9). Goes back
    /// once none that long is listed: `PART-HOLD-BACK` follows it, so a freeze of two seconds would otherwise leave
    /// viewers six seconds behind for good.
    pub(super) fn part_target(&self) -> Duration {
        let listed = self.segments.iter().chain(&self.open).rev();
        let longest = listed
            .take_while(|segment| segment.parts_unlisted.is_none())
            .flat_map(|segment| segment.parts.iter().map(|part| part.duration))
            .fold(self.part_duration, Duration::max);
        // Hundredths of a millisecond are what the playlist shows of a part's duration.
        let shown = (longest.as_nanos() + 5_000) / 10_000;
        Duration::from_millis(u64::try_from(shown.div_ceil(100)).unwrap_or(u64::MAX))
    }

    pub(super) fn init_chunk(&self, number: u64) -> Option<Chunk> {
        let mut inits = self
            .segments
            .iter()
            .chain(&self.open)
            .map(|segment| &segment.init)
            .chain(&self.init)
            .chain(self.archive.iter().flat_map(Archive::inits));
        let init = inits.find(|init| init.number == number)?;
        Some(Chunk::Memory(init.segment.bytes.clone()))
    }

    /// The parts of a complete segment that is still available.
    pub(super) fn segment_chunks(&self, msn: u64, now: Instant) -> Option<Vec<Chunk>> {
        let first = self.segments.front()?.msn;
        let index = usize::try_from(msn.checked_sub(first)?).ok()?;
        let segment = self.segments.get(index)?;
        if segment.available_until.is_some_and(|until| until <= now) {
            return None;
        }
        Some(segment.parts.iter().map(StoredPart::chunk).collect())
    }

    /// A part that is listed, or has not been unlisted for more than three target durations.
    pub(super) fn part_chunk(&self, number: u64, now: Instant) -> Option<Chunk> {
        let segment = self.segment_of_part(number)?;
        let grace = Duration::from_secs(3 * self.target_duration);
        if segment.parts_unlisted.is_some_and(|at| at + grace <= now) {
            return None;
        }
        segment.part(number).map(StoredPart::chunk)
    }

    /// `EXT-X-RENDITION-REPORT` for the playlists of the others.
    pub(super) fn report(&self) -> Option<RenditionReport> {
        let (last_msn, last_part) = self.edge()?;
        Some(RenditionReport {
            name: Arc::clone(&self.name),
            last_msn,
            last_part,
        })
    }

    /// The playlist as it is now; `skip` leaves out what a delta update may leave out.
    pub(super) fn playlist<'a>(
        &'a self,
        key: &'a str,
        part_hold_back: Duration,
        reports: Vec<RenditionReport>,
        skip: bool,
        ended: bool,
    ) -> MediaPlaylist<'a> {
        let complete = self.segments.iter().skip(self.unlisted);
        let boundary = skip_boundary(self.target_duration);
        let (packed, mut segments) = self.archived();
        let archived = packed.segments + segments.len();
        let skipped = if skip && (self.lost == 0 || archived > 0) {
            let young = complete
                .clone()
                .take_while(|s| self.elapsed.saturating_sub(s.start + s.duration) > boundary)
                .count();
            usize::try_from(self.lost).unwrap_or(0) + archived + young
        } else {
            0
        };
        segments.extend(complete.map(|s| s.entry(true)));
        segments.extend(self.open.iter().map(|s| s.entry(false)));
        MediaPlaylist {
            key,
            target_duration: self.target_duration,
            part_target: self.part_target(),
            part_hold_back,
            kind: self.playlist_type(ended),
            independent_segments: self.all_independent,
            media_sequence: self.first_listed() - self.lost,
            lost: self.lost,
            lost_key: &self.lost_key,
            discontinuity_sequence: self.discontinuity_sequence,
            packed,
            segments,
            skipped,
            hinted_part: (!ended && self.has_media()).then_some(self.next_part),
            reports,
            ended,
        }
    }

    /// Media sequence number of the first listed segment that is not lost.
    fn first_listed(&self) -> u64 {
        let archived = self.archive.as_ref().and_then(Archive::first_msn);
        let kept = self.segments.get(self.unlisted).or(self.open.as_ref());
        archived
            .or(kept.map(|segment| segment.msn))
            .unwrap_or(self.next_msn)
    }

    /// Bytes of media held in memory.
    pub(super) fn memory(&self) -> u64 {
        self.segments
            .iter()
            .chain(&self.open)
            .map(Segment::memory)
            .sum()
    }

    /// Media sequence number of the first listed segment, number of listed segments, and of parts listed one by one.
    pub(super) fn counts(&self) -> (u64, usize, usize) {
        let listed = self.segments.iter().skip(self.unlisted).chain(&self.open);
        let parts = listed
            .clone()
            .filter(|s| s.parts_unlisted.is_none())
            .map(|s| s.parts.len())
            .sum();
        let archived = self.archive.as_ref().map_or(0, Archive::len);
        let first = self.first_listed() - self.lost;
        (first, archived + listed.count(), parts)
    }

    /// Discontinuity sequence number of the newest part.
    pub(super) fn discontinuity(&self) -> u64 {
        self.discontinuity
    }
}

/// See [`Rendition::is_on_demand`].
fn is_on_demand(id: RenditionId) -> bool {
    id == RenditionId::Aac
}

/// Media time in units of a timescale as a duration, to the nanosecond.
pub(super) fn ticks(ticks: u64, timescale: u32) -> Duration {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(timescale.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
