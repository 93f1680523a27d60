//! How far sound and picture are apart, measured against what the publisher's own clock says of them.
//!
//! Owns the history of believed sender reports and the estimate made of it. Looks only: corrections are decided in
//! `align`, from single reports as they come.

use std::{collections::VecDeque, time::Duration};

use super::{
    Timeline, Track,
    align::Report,
    mapping::Mapping,
    unwrap::{MILLISECOND, duration_nanos, nanos},
};
use crate::media::{MediaKind, Monotonic, TrackIndex};

/// Reports looked at: enough to see how much they scatter, few enough to forget a rate that is corrected by now.
const REPORTS: usize = 5;
/// Error of a report whose scatter is not known yet, in ns: Chromium's and aiortc's were seen to be up to 2 ms off.
const REPORT: i64 = 2 * MILLISECOND;
/// Error that reports have in common even if they agree, in ns.
const AGREEING: i64 = MILLISECOND / 2;
/// Error of a clock rate that a whole history of reports has corrected, as 1/n: 50 ppm.
const KNOWN_RATE: i64 = 20_000;
/// Error of a clock rate that is not measured yet, as 1/n: 300 ppm.
const UNKNOWN_RATE: i64 = 3_333;
/// Error of the arrivals of two tracks as a measure of when they were captured, in ns: encoders, pacers and paths may
/// differ by so much, and arrivals cannot tell by how much they do.
const ARRIVAL: i64 = 300 * MILLISECOND;

/// Measured offset of sound against picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvOffset {
    /// How much later than its picture sound is presented, in ns; negative when it is early. Holds for what was handed
    /// on last, so a correction under way counts as far as it is carried out.
    pub offset: i64,
    /// The true offset is within `offset` plus or minus this, in ns: from the scatter and the age of sender reports,
    /// and, for a track without usable ones, from what arrivals cannot show.
    pub uncertainty: i64,
}

/// The newest reports of one source that were believed, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Report>);

impl History {
    pub(super) fn push(&mut self, report: Report) {
        if self.0.back().is_some_and(|last| last.ssrc != report.ssrc) {
            self.0.clear();
        }
        if self.0.len() == REPORTS {
            self.0.pop_front();
        }
        self.0.push_back(report);
    }

    /// What was said before holds no longer.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// How much too early a track is presented, and how well that is known, in ns.
#[derive(Clone, Copy)]
struct Error {
    error: i64,
    uncertainty: i64,
}

impl Track {
    /// By the reports that were believed; `None` where they do not tell.
    fn error_by_reports(&self, epoch: i64, now: Monotonic) -> Option<Error> {
        let mapping = self.mapping.as_ref()?;
        let history = &self.reports.history.0;
        let newest = *history.back()?;
        if self.reports.bias != 0 || newest.ssrc != mapping.ssrc {
            return None;
        }
        let rate = mapping.rate();
        let errors: Vec<i64> = history
            .iter()
            .map(|report| {
                let elapsed = nanos(
                    mapping.newest_ticks() - mapping.ticks_of(report.rtp_timestamp),
                    self.clock.clock_rate,
                );
                report.time - epoch + elapsed + scaled(elapsed, rate) - mapping.newest_pts()
            })
            .collect();
        let error = *errors.last()?;
        let scatter = errors.iter().map(|other| (other - error).abs()).max()?;
        let age = duration_nanos(now.saturating_sub(newest.arrival));
        let drift = age
            / if errors.len() == REPORTS {
                KNOWN_RATE
            } else {
                UNKNOWN_RATE
            };
        let each = if errors.len() < 3 { REPORT } else { AGREEING };
        // A report that contradicts the others may be right: the next one decides.
        let doubt = self.reports.doubted().map_or(0, i64::abs);
        Some(Error {
            error,
            uncertainty: (scatter.max(each) + drift).max(doubt),
        })
    }
}

impl Timeline {
    /// Offset of sound against picture at `now`; `None` unless there is one track of each kind and both have been
    /// handed on.
    pub fn av_offset(&self, now: Monotonic) -> Option<AvOffset> {
        let of = |kind| {
            let mut tracks = self.tracks.iter().filter(|track| track.clock.kind == kind);
            tracks
                .next()
                .filter(|track| track.mapping.is_some() && tracks.next().is_none())
        };
        let (video, audio) = (of(MediaKind::Video)?, of(MediaKind::Audio)?);
        let by_reports = self.epoch.and_then(|epoch| {
            video
                .error_by_reports(epoch, now)
                .zip(audio.error_by_reports(epoch, now))
        });
        let (video, audio) = by_reports.unwrap_or_else(|| {
            let by_arrivals = |track: &Track| Error {
                error: track.mapping.as_ref().map_or(0, Mapping::transit),
                uncertainty: ARRIVAL / 2 + duration_nanos(track.jitter.get()),
            };
            (by_arrivals(video), by_arrivals(audio))
        });
        Some(AvOffset {
            offset: video.error - audio.error,
            uncertainty: video.uncertainty + audio.uncertainty,
        })
    }

    /// For how long packets of a track have come while it is placed by arrival, because usable sender reports are
    /// missing; `None` while it is not, and for a track that has nothing to be aligned with.
    pub fn aligned_by_arrival(&self, track: TrackIndex) -> Option<Duration> {
        if self.tracks.len() < 2 {
            return None;
        }
        let track = self.tracks.get(track)?;
        let unusable = track.mapping.is_some() && (track.reports.bias != 0 || !track.by_reports());
        track
            .last_media
            .zip(track.first_media)
            .filter(|_| unusable)
            .map(|(last, first)| last.saturating_sub(first))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "at most 0.1 % of some seconds"
)]
fn scaled(elapsed: i64, rate: f64) -> i64 {
    (elapsed as f64 * rate) as i64
}
