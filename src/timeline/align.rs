//! Brings the tracks of one publication onto one time: by sender reports where they are believable, else by arrival.
//!
//! Owns every decision on offsets between tracks; `mapping` carries them out. All times by sender reports are taken
//! on the sender's NTP axis; `epoch` is where the stream's zero lies on it.
//!
//! Who moves: pictures stay and sound goes to them, because a jump costs video a wait for the next keyframe and sound
//! next to nothing. Only small errors, which bending a line makes up unnoticed, are corrected where they are found.

use super::{
    Timeline, Track,
    mapping::{JUMP, Mapping},
    offset::History,
    stats::MappingSource,
    transit::WINDOW,
    unwrap::{MILLISECOND, SECOND, duration_nanos, nanos},
};
use crate::media::{MediaKind, Monotonic, TrackIndex};

/// Tracks of one stream do not lie further apart: a sender report that says so is not believed.
const ABSURD: i64 = 10 * SECOND;
/// Above this a correction is a jump; below, it is gradual.
const LARGE: i64 = 200 * MILLISECOND;
/// Above this a report contradicts a mapping that is already by reports and must be confirmed by the next one.
const DOUBTFUL: i64 = 20 * MILLISECOND;

/// A sender report on the publication's NTP axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) ssrc: u32,
    /// Nanoseconds on the NTP axis.
    pub(super) time: i64,
    pub(super) rtp_timestamp: u32,
    pub(super) arrival: Monotonic,
}

impl Report {
    /// Time of an RTP timestamp on the NTP axis.
    fn time_of(&self, timestamp: u32, clock_rate: u32) -> i64 {
        let ticks = timestamp.wrapping_sub(self.rtp_timestamp).cast_signed();
        self.time + nanos(i64::from(ticks), clock_rate)
    }
}

/// What is known of a track's reports.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// The newest one.
    pub(super) latest: Option<Report>,
    /// When the last one was followed.
    followed: Option<Monotonic>,
    /// Error of the last doubtful report and how many in a row agreed on it.
    doubt: Option<(i64, u8)>,
    /// Offset of this track's NTP clock that is not believed, in ns.
    pub(super) bias: i64,
    /// The ones that were believed.
    pub(super) history: History,
}

impl Reports {
    /// By how much the last report contradicts the mapping, while nobody knows who is right.
    pub(super) fn doubted(&self) -> Option<i64> {
        self.doubt
            .map(|(error, _)| error)
            .filter(|error| error.abs() <= ABSURD)
    }

    /// The newest report is believed.
    fn follow(&mut self) {
        self.doubt = None;
        if let Some(report) = self.latest {
            self.followed = Some(report.arrival);
            self.history.push(report);
        }
    }

    /// Counts a report that contradicts the mapping by `error`; how many in a row agree.
    fn doubt(&mut self, error: i64) -> u8 {
        let agreeing = match self.doubt {
            Some((before, agreeing)) if (before - error).abs() <= DOUBTFUL => {
                agreeing.saturating_add(1)
            }
            _ => 1,
        };
        self.doubt = Some((error, agreeing));
        agreeing
    }
}

impl Track {
    /// The newest report, if it is about the packets that come next.
    pub(super) fn report(&self) -> Option<Report> {
        let head = self.reorder.media().next();
        self.reports
            .latest
            .filter(|report| head.is_none_or(|head| head.packet.ssrc == report.ssrc))
    }

    /// Least transit of what is held when the first packet lies at `origin`.
    fn held_transit(&self, origin: i64) -> Option<i64> {
        let first = self.reorder.media().next()?.packet.timestamp;
        self.reorder
            .media()
            .map(|held| {
                let ticks = held.packet.timestamp.wrapping_sub(first).cast_signed();
                let pts = origin + nanos(i64::from(ticks), self.clock.clock_rate);
                duration_nanos(held.arrival) - pts
            })
            .min()
    }

    /// Time of the first held packet on the NTP axis.
    fn held_time(&self) -> Option<i64> {
        let head = self.reorder.media().next()?;
        let report = self.report()?;
        Some(report.time_of(head.packet.timestamp, self.clock.clock_rate))
    }

    pub(super) fn by_reports(&self) -> bool {
        self.mapping
            .as_ref()
            .is_some_and(|mapping| mapping.source == MappingSource::SenderReport)
    }

    fn map(&mut self, origin: i64, source: MappingSource) {
        let transit = self.held_transit(origin);
        if let Some((head, transit)) = self.reorder.media().next().zip(transit) {
            self.mapping = Some(Mapping::new(self.clock, head, origin, transit, source));
            if source == MappingSource::SenderReport {
                self.reports.follow();
            }
        }
    }
}

impl Timeline {
    /// Maps the tracks whose wait is over.
    pub(super) fn release(&mut self, now: Monotonic) {
        if self.tracks.iter().all(|track| !track.is_held()) {
            return;
        }
        if !self.started {
            let all_reported = self.tracks.iter().all(|track| track.report().is_some());
            if all_reported
                || self.tracks.len() == 1
                || self.tracks.iter().any(|track| self.is_overdue(track, now))
            {
                self.start(now);
            }
            return;
        }
        for index in 0..self.tracks.len() {
            let track = &self.tracks[index];
            let reported = self.epoch.is_some() && track.report().is_some();
            if track.is_held() && (reported || self.is_overdue(track, now)) {
                self.join(index);
            }
        }
    }

    /// Whether a held track has waited long enough for its sender report.
    fn is_overdue(&self, track: &Track, now: Monotonic) -> bool {
        track.is_held()
            && (self.ended
                || track.reorder.is_full()
                || self.hold_end(track).is_some_and(|end| end <= now))
    }

    /// When a held track stops waiting for its sender report.
    pub(super) fn hold_end(&self, track: &Track) -> Option<Monotonic> {
        track
            .first_media
            .filter(|_| track.is_held())
            .map(|first| first + self.settings.sender_report_wait)
    }

    /// Sets the stream's zero: the earliest first packet of the tracks that have any.
    fn start(&mut self, now: Monotonic) {
        let held: Vec<TrackIndex> = (0..self.tracks.len())
            .filter(|index| self.tracks[*index].is_held())
            .collect();
        let transit = |index: TrackIndex| {
            let track = &self.tracks[index];
            track.held_time().and_then(|time| track.held_transit(time))
        };
        let base = self.prefer_video(&held, |track| track.report().is_some());
        let base = base.and_then(transit).filter(|base| {
            held.iter()
                .filter_map(|index| transit(*index))
                .all(|transit| (transit - base).abs() <= ABSURD)
        });
        let origins: Vec<_> = held
            .iter()
            .filter_map(|index| {
                let track = &self.tracks[*index];
                let by_arrival = track
                    .held_transit(0)
                    .map(|transit| (transit - base.unwrap_or(0), MappingSource::Arrival));
                track
                    .held_time()
                    .filter(|_| base.is_some())
                    .map(|time| (time, MappingSource::SenderReport))
                    .or(by_arrival)
                    .map(|(origin, source)| (*index, origin, source))
            })
            .collect();
        let Some(zero) = origins.iter().map(|(_, origin, _)| *origin).min() else {
            return;
        };
        self.epoch = base.map(|_| zero);
        self.started = true;
        for (index, origin, source) in origins {
            let track = &self.tracks[index];
            if track.report().is_some() || self.tracks.len() == 1 || self.is_overdue(track, now) {
                self.tracks[index].map(origin - zero, source);
            }
        }
    }

    /// Maps a track that comes after the start.
    fn join(&mut self, index: TrackIndex) {
        let Some(partner) = self.partner(index) else {
            return;
        };
        let track = &self.tracks[index];
        let by_report = track
            .held_time()
            .zip(self.epoch)
            .map(|(time, epoch)| time - epoch)
            .filter(|origin| {
                track
                    .held_transit(*origin)
                    .is_some_and(|transit| (transit - partner).abs() <= ABSURD)
            });
        if let Some(origin) = by_report {
            self.tracks[index].map(origin, MappingSource::SenderReport);
        } else if let Some(transit) = track.held_transit(0) {
            self.tracks[index].map(transit - partner, MappingSource::Arrival);
        }
    }

    /// Where another source of a mapped track goes on, if its sender report is known and believable.
    pub(super) fn resume_at(
        &self,
        index: TrackIndex,
        ssrc: u32,
        timestamp: u32,
        arrival: Monotonic,
    ) -> Option<i64> {
        let track = &self.tracks[index];
        let report = track.reports.latest.filter(|report| report.ssrc == ssrc)?;
        let pts =
            report.time_of(timestamp, track.clock.clock_rate) - self.epoch? - track.reports.bias;
        let transit = track.mapping.as_ref()?.transit();
        let credible = (duration_nanos(arrival) - pts - transit).abs() <= ABSURD;
        credible.then_some(pts)
    }

    /// Acts on the newest report of a mapped track.
    pub(super) fn follow_report(&mut self, index: TrackIndex) {
        let others = self.others_by_reports(index);
        let track = &mut self.tracks[index];
        let (Some(mapping), Some(report)) = (&mut track.mapping, track.reports.latest) else {
            return;
        };
        if mapping.ssrc != report.ssrc {
            return;
        }
        let settled = mapping.settled(report.arrival, report.rtp_timestamp);
        let Some(epoch) = self.epoch else {
            self.epoch = Some(report.time - settled);
            mapping.source = MappingSource::SenderReport;
            track.reports.follow();
            return;
        };
        let error = report.time - epoch - track.reports.bias - settled;
        track.stats.mapping_error = error;
        if mapping.source == MappingSource::Arrival && error.abs() <= ABSURD {
            track.reports.follow();
            mapping.source = MappingSource::SenderReport;
            self.correct(index, error, &others, true);
        } else if error.abs() <= DOUBTFUL {
            let followed = track.reports.followed;
            track.reports.follow();
            let interval = report
                .arrival
                .saturating_sub(followed.unwrap_or(report.arrival));
            mapping.follow(error, duration_nanos(interval));
        } else {
            self.doubt(index, error, &others);
        }
    }

    /// Follows the arrivals of a track that has no reports: `transit` is the least of the window that is just over.
    pub(super) fn follow_arrivals(&mut self, index: TrackIndex, transit: i64) {
        let partner = self
            .others_by_reports(index)
            .first()
            .and_then(|other| self.tracks[*other].mapping.as_ref())
            .map(Mapping::transit);
        let track = &mut self.tracks[index];
        let Some(mapping) = track
            .mapping
            .as_mut()
            .filter(|mapping| mapping.source == MappingSource::Arrival)
        else {
            return;
        };
        let target = partner.unwrap_or_else(|| *track.usual_transit.get_or_insert(transit));
        let error = transit - target;
        track.stats.mapping_error = error;
        if error.abs() <= JUMP {
            track.windows_out_of_line = 0;
            mapping.follow(error, duration_nanos(WINDOW));
            return;
        }
        // One window may be a stall of the network; what lasts is an RTP clock that stood still or was set.
        track.windows_out_of_line += 1;
        if track.windows_out_of_line >= 2 {
            track.windows_out_of_line = 0;
            mapping.jump(error);
        }
    }

    /// A report that contradicts the ones before: waits for confirmation, then finds out who is wrong.
    fn doubt(&mut self, index: TrackIndex, error: i64, others: &[TrackIndex]) {
        let track = &mut self.tracks[index];
        let agreeing = track.reports.doubt(error);
        let needed = if error.abs() > ABSURD { 3 } else { 2 };
        if agreeing < needed {
            track.stats.ignored_reports += 1;
            return;
        }
        let sender_clock_stepped = others.iter().any(|other| {
            let doubt = self.tracks[*other].reports.doubt;
            doubt.is_some_and(|(theirs, _)| (theirs - error).abs() <= DOUBTFUL)
        });
        for track in &mut self.tracks {
            track.reports.history.clear();
        }
        self.tracks[index].reports.follow();
        if let Some(mapping) = &mut self.tracks[index].mapping {
            mapping.source = MappingSource::SenderReport;
        }
        if others.is_empty() || sender_clock_stepped {
            self.move_epoch(error);
        } else if error.abs() > ABSURD {
            // Its clock has nothing to do with the others': only its rate is followed from now on.
            self.tracks[index].reports.bias += error;
        } else {
            self.correct(index, error, others, false);
        }
    }

    /// Makes up `error` of one track. `at_once`: the other tracks' reports are known to be on the same clock.
    fn correct(&mut self, index: TrackIndex, error: i64, others: &[TrackIndex], at_once: bool) {
        let sound_moves =
            self.tracks[index].clock.kind == MediaKind::Video && self.all_audio(others);
        if others.is_empty() {
            self.move_epoch(error);
        } else if error.abs() > LARGE && sound_moves {
            self.move_epoch(error);
            for other in others.iter().filter(|_| at_once) {
                if let Some(mapping) = &mut self.tracks[*other].mapping {
                    mapping.jump(-error);
                }
            }
        } else if let Some(mapping) = &mut self.tracks[index].mapping {
            if error.abs() > LARGE {
                mapping.jump(error);
            } else {
                mapping.slew(error);
            }
        }
    }

    /// Places the stream's zero later on the NTP axis.
    fn move_epoch(&mut self, offset: i64) {
        self.epoch = self.epoch.map(|epoch| epoch + offset);
    }

    fn all_audio(&self, tracks: &[TrackIndex]) -> bool {
        tracks
            .iter()
            .all(|index| self.tracks[*index].clock.kind == MediaKind::Audio)
    }

    /// The other tracks that are mapped by sender reports, video first.
    fn others_by_reports(&self, index: TrackIndex) -> Vec<TrackIndex> {
        let mut others: Vec<_> = (0..self.tracks.len())
            .filter(|other| *other != index && self.tracks[*other].by_reports())
            .collect();
        others.sort_by_key(|other| self.tracks[*other].clock.kind != MediaKind::Video);
        others
    }

    /// Least transit of the track that a newcomer is measured against.
    fn partner(&self, newcomer: TrackIndex) -> Option<i64> {
        let mapped: Vec<TrackIndex> = (0..self.tracks.len())
            .filter(|index| *index != newcomer && self.tracks[*index].mapping.is_some())
            .collect();
        let index = self
            .prefer_video(&mapped, Track::by_reports)
            .or_else(|| self.prefer_video(&mapped, |_| true))?;
        self.tracks[index].mapping.as_ref().map(Mapping::transit)
    }

    fn prefer_video(
        &self,
        candidates: &[TrackIndex],
        fits: impl Fn(&Track) -> bool,
    ) -> Option<TrackIndex> {
        candidates
            .iter()
            .copied()
            .filter(|index| fits(&self.tracks[*index]))
            .min_by_key(|index| self.tracks[*index].clock.kind != MediaKind::Video)
    }
}
