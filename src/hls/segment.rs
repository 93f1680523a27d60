//! One segment and its parts: what they are made of, and whether that is in memory or in a file.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    document::Chunk,
    playlist::{PartEntry, SegmentEntry},
};
use crate::media::{FileRange, InitSegment};

/// An init segment under its number.
#[derive(Clone, Debug)]
pub(super) struct Init {
    pub(super) number: u64,
    pub(super) segment: Arc<InitSegment>,
}

/// A part as it is kept.
#[derive(Debug)]
pub(super) struct StoredPart {
    /// Number through the rendition.
    pub(super) number: u64,
    pub(super) duration: Duration,
    pub(super) independent: bool,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Memory(Bytes),
    /// On disk too, and in memory while the part is young.
    Both(Bytes, FileRange),
    File(FileRange),
}

impl StoredPart {
    pub(super) fn new(number: u64, duration: Duration, independent: bool, bytes: Bytes) -> Self {
        Self {
            number,
            duration,
            independent,
            data: Data::Memory(bytes),
        }
    }

    pub(super) fn chunk(&self) -> Chunk {
        match &self.data {
            Data::Memory(bytes) | Data::Both(bytes, _) => Chunk::Memory(bytes.clone()),
            Data::File(range) => Chunk::File(range.clone()),
        }
    }

    /// Where it lies on disk, if it does.
    pub(super) fn file(&self) -> Option<&FileRange> {
        match &self.data {
            Data::Memory(_) => None,
            Data::Both(_, range) | Data::File(range) => Some(range),
        }
    }

    /// Bytes held in memory.
    pub(super) fn memory(&self) -> u64 {
        match &self.data {
            Data::Memory(bytes) | Data::Both(bytes, _) => bytes.len() as u64,
            Data::File(_) => 0,
        }
    }

    /// Notes where the part lies on disk. A range of another length cannot be the same bytes: `false`, and memory stays.
    fn offload(&mut self, range: FileRange) -> bool {
        match &self.data {
            Data::Memory(bytes) | Data::Both(bytes, _) if bytes.len() as u64 == range.len => {
                self.data = Data::Both(bytes.clone(), range);
                true
            }
            _ => false,
        }
    }

    fn release_memory(&mut self) {
        if let Data::Both(_, range) = &self.data {
            self.data = Data::File(range.clone());
        }
    }
}

/// A segment, complete or in progress; has one part at least.
#[derive(Debug)]
pub(super) struct Segment {
    /// Media sequence number.
    pub(super) msn: u64,
    pub(super) init: Init,
    pub(super) discontinuity: bool,
    pub(super) program_date_time: SystemTime,
    /// Media time of its beginning, counted from the rendition's first part.
    pub(super) start: Duration,
    /// Sum of the parts.
    pub(super) duration: Duration,
    /// Sum of the parts.
    pub(super) bytes: u64,
    pub(super) parts: Vec<StoredPart>,
    /// When the parts left the playlist, if they did.
    pub(super) parts_unlisted: Option<Instant>,
    /// Until when it can be fetched, once it has left the playlist.
    pub(super) available_until: Option<Instant>,
}

impl Segment {
    pub(super) fn push(&mut self, part: StoredPart) {
        self.duration += part.duration;
        self.bytes += part.chunk().len();
        self.parts.push(part);
    }

    pub(super) fn part(&self, number: u64) -> Option<&StoredPart> {
        self.index(number).map(|index| &self.parts[index])
    }

    fn index(&self, number: u64) -> Option<usize> {
        let first = self.parts.first()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        (index < self.parts.len()).then_some(index)
    }

    /// Notes where a part lies on disk.
    pub(super) fn offload(&mut self, number: u64, range: FileRange) -> bool {
        let Some(index) = self.index(number) else {
            return false;
        };
        let done = self.parts[index].offload(range);
        if self.parts_unlisted.is_some() {
            self.parts[index].release_memory();
        }
        done
    }

    /// The parts are no longer listed: whatever is on disk leaves memory.
    pub(super) fn unlist_parts(&mut self, now: Instant) {
        self.parts_unlisted = Some(now);
        self.release_memory();
    }

    /// Whatever is on disk leaves memory.
    pub(super) fn release_memory(&mut self) {
        self.parts.iter_mut().for_each(StoredPart::release_memory);
    }

    pub(super) fn memory(&self) -> u64 {
        self.parts.iter().map(StoredPart::memory).sum()
    }

    /// As the playlist shows it.
    pub(super) fn entry(&self, complete: bool) -> SegmentEntry {
        let listed = if self.parts_unlisted.is_none() {
            self.parts.as_slice()
        } else {
            &[]
        };
        SegmentEntry {
            complete: complete.then_some(self.msn),
            duration: self.duration,
            init: self.init.number,
            discontinuity: self.discontinuity,
            independent: self.parts.first().is_some_and(|part| part.independent),
            gap: false,
            program_date_time: self.program_date_time,
            parts: listed
                .iter()
                .map(|part| PartEntry {
                    number: part.number,
                    duration: part.duration,
                    independent: part.independent,
                })
                .collect(),
        }
    }
}
