//! What is different in a rendition whose playlist goes back to its beginning (`hls.dvr`): no segment is ever removed from
//! the list. Those that are older than the window are kept as records of where they lie on disk.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Rendition;
use crate::{
    hls::{
        archive::{Packed, Place},
        playlist::{PlaylistType, SegmentEntry, skip_boundary},
    },
    media::FileRange,
};

impl Rendition {
    /// Moves segments that are older than the window, and whose parts nobody may ask for any more, out of memory. What is
    /// not on disk by then never will be, or too late: it becomes a gap, because memory must not grow with it.
    pub(in crate::hls) fn archive_old(
        &mut self,
        now: Instant,
        path_of: impl Fn(&FileRange) -> Option<Arc<Path>>,
    ) {
        let Some(archive) = &mut self.archive else {
            return;
        };
        // A delta update leaves out everything in the archive or nothing of it.
        let young = self.window.max(skip_boundary(self.target_duration));
        let parts_reach = Duration::from_secs(3 * self.target_duration);
        while let Some(oldest) = self.segments.front() {
            let age = self.elapsed.saturating_sub(oldest.start + oldest.duration);
            let parts_gone = oldest
                .parts_unlisted
                .is_some_and(|at| at + parts_reach <= now);
            if age <= young || !parts_gone {
                return;
            }
            let gaps = archive.gaps();
            archive.push(oldest, &path_of);
            if archive.gaps() > gaps && gaps == 0 {
                tracing::warn!(
                    rendition = %self.name,
                    msn = oldest.msn,
                    "a segment that leaves the window is not in a recording: the playlist lists it as a gap (said once)"
                );
            }
            self.segments.pop_front();
        }
    }

    /// Where the bytes of a segment lie that is no longer kept.
    pub(in crate::hls) fn places(&self, msn: u64) -> Option<Vec<Place>> {
        self.archive.as_ref()?.places(msn)
    }

    /// Whatever is on disk leaves memory now and from now on, because nothing is young any more.
    pub(in crate::hls) fn release(&mut self) {
        self.released = self.archive.is_some();
        if self.released {
            for segment in self.segments.iter_mut().chain(&mut self.open) {
                segment.release_memory();
            }
        }
    }

    /// How long everything listed is, if nothing is ever removed.
    pub(in crate::hls) fn dvr_duration(&self) -> Option<Duration> {
        self.archive.as_ref().map(|_| self.elapsed)
    }

    /// Makes the lines of old segments once for all playlists to come.
    pub(in crate::hls) fn pack(&mut self, key: &str) {
        let mark = !self.all_independent;
        if let Some(archive) = &mut self.archive {
            archive.pack(key, mark);
        }
    }

    /// Old segments in two forms: those whose lines are made, and the others.
    pub(super) fn archived(&self) -> (Packed, Vec<SegmentEntry>) {
        self.archive
            .as_ref()
            .map(|archive| (archive.packed(), archive.unpacked().collect()))
            .unwrap_or_default()
    }

    /// `VOD` at the end, although section 6.2.1 lets an `EVENT` playlist have nothing changed but its end: it says that
    /// nothing is added any more, which players that come later go by, and those that saw `EVENT` stop loading it at
    /// `EXT-X-ENDLIST` in any case.
    pub(super) fn playlist_type(&self, ended: bool) -> Option<PlaylistType> {
        self.archive.as_ref().map(|_| {
            if ended {
                PlaylistType::Vod
            } else {
                PlaylistType::Event
            }
        })
    }

    /// How many segments are in files only, how many of them are gaps, and bytes of memory for that.
    pub(in crate::hls) fn archive_counts(&self) -> (usize, usize, u64) {
        self.archive.as_ref().map_or((0, 0, 0), |archive| {
            (archive.len(), archive.gaps(), archive.memory() as u64)
        })
    }
}
