//! The segments of a DVR playlist that have left the window: where their bytes lie on disk and what the playlist says of
//! them. Pure: opens no file.
//!
//! A segment is one record of [`Record`]'s size, a few bytes per part for its places (parts of all tracks lie side by
//! side in a recording, so a segment is not one piece), and its lines, which are compressed [`LINES`] segments at a time
//! when somebody first asks for them: about 110 bytes in all with ten parts, so 5 MB for 24 hours of one rendition.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    block::Block,
    playlist::{SegmentEntry, write_segment},
    segment::{Init, Segment},
};
use crate::media::FileRange;

/// Segments whose lines are compressed together.
const LINES: usize = 256;

/// A piece of a file that has to be opened to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub(super) path: Arc<Path>,
    /// Offset of the first byte.
    pub(super) offset: u64,
    /// Number of bytes.
    pub(super) len: u64,
}

/// One segment.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Wall-clock time of its first sample, in milliseconds since 1970.
    date: u64,
    /// In nanoseconds.
    duration: u64,
    /// Where its places end in [`Archive::places`].
    places_end: u32,
    /// Number of its init segment.
    init: u32,
    flags: u8,
}

const DISCONTINUITY: u8 = 1;
const INDEPENDENT: u8 = 2;
/// It was never written: there is nothing to fetch.
const GAP: u8 = 4;

/// What is kept of the segments, oldest first.
#[derive(Debug, Default)]
pub(super) struct Archive {
    first_msn: u64,
    records: Vec<Record>,
    /// The places of all of them, see [`write_places`].
    places: Vec<u8>,
    /// The recordings, as the places number them.
    files: Vec<Arc<Path>>,
    /// Every init segment that a record needs.
    inits: Vec<Init>,
    gaps: usize,
    blocks: Vec<Arc<Block>>,
    /// The blocks say which segments are independent.
    marked: bool,
}

impl Archive {
    /// Takes in the segment that follows those that are here. `path_of` knows where the file of a range lies; a segment
    /// that is not wholly in files is a gap from now on.
    pub(super) fn push(
        &mut self,
        segment: &Segment,
        path_of: impl Fn(&FileRange) -> Option<Arc<Path>>,
    ) {
        if self.records.is_empty() {
            self.first_msn = segment.msn;
        }
        let mut flags = 0;
        flags |= u8::from(segment.discontinuity) * DISCONTINUITY;
        flags |= u8::from(segment.parts.first().is_some_and(|part| part.independent)) * INDEPENDENT;
        let places: Option<Vec<Place>> = segment
            .parts
            .iter()
            .map(|part| {
                let range = part.file()?;
                Some(Place {
                    path: path_of(range)?,
                    offset: range.offset,
                    len: range.len,
                })
            })
            .collect();
        if let Some(places) = places {
            self.write_places(&places);
        } else {
            flags |= GAP;
            self.gaps += 1;
        }
        if self.inits.last().map(|init| init.number) != Some(segment.init.number) {
            self.inits.push(segment.init.clone());
        }
        let date = segment.program_date_time.duration_since(UNIX_EPOCH);
        let narrow = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        self.records.push(Record {
            date: narrow(date.unwrap_or_default().as_millis()),
            duration: narrow(segment.duration.as_nanos()),
            places_end: u32::try_from(self.places.len()).unwrap_or(u32::MAX),
            init: u32::try_from(segment.init.number).unwrap_or(u32::MAX),
            flags,
        });
    }

    /// Appends the places of a segment: for each run of bytes that follow each other, twice its distance from the run
    /// before and its length. One in another file than the run before has, instead of the distance, twice its offset plus
    /// one, and the number of the file.
    fn write_places(&mut self, places: &[Place]) {
        let mut before: Option<(usize, u64)> = None;
        let mut rest = places.iter().peekable();
        while let Some(first) = rest.next() {
            let mut len = first.len;
            while let Some(next) =
                rest.next_if(|next| next.path == first.path && next.offset == first.offset + len)
            {
                len += next.len;
            }
            let file = self.file(&first.path);
            let after = before.filter(|(known, end)| *known == file && *end <= first.offset);
            if let Some((_, end)) = after {
                write_number(&mut self.places, (first.offset - end) << 1);
            } else {
                write_number(&mut self.places, (first.offset << 1) | 1);
                write_number(&mut self.places, file as u64);
            }
            write_number(&mut self.places, len);
            before = Some((file, first.offset + len));
        }
    }

    /// The number of a file.
    fn file(&mut self, path: &Arc<Path>) -> usize {
        let known = self.files.iter().rposition(|known| known == path);
        known.unwrap_or_else(|| {
            self.files.push(Arc::clone(path));
            self.files.len() - 1
        })
    }

    /// How many segments there are.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many of them cannot be fetched.
    pub(super) fn gaps(&self) -> usize {
        self.gaps
    }

    /// Media sequence number of the oldest one.
    pub(super) fn first_msn(&self) -> Option<u64> {
        (!self.records.is_empty()).then_some(self.first_msn)
    }

    /// Every init segment that is needed, oldest first.
    pub(super) fn inits(&self) -> impl DoubleEndedIterator<Item = &Init> {
        self.inits.iter()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(|block| block.memory()).sum();
        let inits = self.inits.iter().map(|init| init.segment.bytes.len());
        self.records.capacity() * size_of::<Record>()
            + self.places.capacity()
            + blocks
            + inits.sum::<usize>()
    }

    fn index(&self, msn: u64) -> Option<usize> {
        let index = usize::try_from(msn.checked_sub(self.first_msn)?).ok()?;
        (index < self.records.len()).then_some(index)
    }

    /// Where the bytes of a segment lie, in order; `None` for one that is not here or a gap.
    pub(super) fn places(&self, msn: u64) -> Option<Vec<Place>> {
        let index = self.index(msn)?;
        let record = self.records.get(index)?;
        if record.flags & GAP != 0 {
            return None;
        }
        let start = index
            .checked_sub(1)
            .and_then(|before| self.records.get(before))
            .map_or(0, |before| before.places_end as usize);
        let mut bytes = self.places.get(start..record.places_end as usize)?;
        let mut places: Vec<Place> = Vec::new();
        while !bytes.is_empty() {
            let distance = read_number(&mut bytes)?;
            let (path, offset) = if distance & 1 == 1 {
                let file = usize::try_from(read_number(&mut bytes)?).ok()?;
                (Arc::clone(self.files.get(file)?), distance >> 1)
            } else {
                let before = places.last()?;
                let end = before.offset + before.len;
                (Arc::clone(&before.path), end + (distance >> 1))
            };
            let len = read_number(&mut bytes)?;
            places.push(Place { path, offset, len });
        }
        Some(places)
    }

    /// As the playlist shows a segment.
    fn entry(&self, index: usize) -> Option<SegmentEntry> {
        let record = self.records.get(index)?;
        Some(SegmentEntry {
            complete: Some(self.first_msn + index as u64),
            duration: Duration::from_nanos(record.duration),
            init: u64::from(record.init),
            discontinuity: record.flags & DISCONTINUITY != 0,
            independent: record.flags & INDEPENDENT != 0,
            gap: record.flags & GAP != 0,
            program_date_time: SystemTime::UNIX_EPOCH + Duration::from_millis(record.date),
            parts: Vec::new(),
        })
    }

    /// Compresses the lines of all segments that are not yet, but for the last ones that do not fill a block. `key` is in
    /// their names; with `mark` they say which segments are independent.
    pub(super) fn pack(&mut self, key: &str, mark: bool) {
        if std::mem::replace(&mut self.marked, mark) != mark {
            self.blocks.clear();
        }
        while self.records.len() >= (self.blocks.len() + 1) * LINES {
            let first = self.blocks.len() * LINES;
            let mut init = self.init_before(first);
            let mut lines = String::new();
            for index in first..first + LINES {
                let Some(entry) = self.entry(index) else {
                    return;
                };
                // Writing to a String cannot fail.
                if write_segment(&mut lines, key, mark, &entry, init).is_err() {
                    return;
                }
                init = Some(entry.init);
            }
            self.blocks.push(Arc::new(Block::new(&lines)));
        }
    }

    fn init_before(&self, index: usize) -> Option<u64> {
        let before = self.records.get(index.checked_sub(1)?)?;
        Some(u64::from(before.init))
    }

    /// The lines that are compressed.
    pub(super) fn packed(&self) -> Packed {
        Packed {
            blocks: self.blocks.clone(),
            segments: self.blocks.len() * LINES,
            init: self.init_before(self.blocks.len() * LINES),
            gaps: self.gaps > 0,
        }
    }

    /// The segments whose lines are not.
    pub(super) fn unpacked(&self) -> impl Iterator<Item = SegmentEntry> {
        (self.blocks.len() * LINES..self.records.len()).filter_map(|index| self.entry(index))
    }
}

/// Compressed lines at the beginning of a playlist.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    pub(super) blocks: Vec<Arc<Block>>,
    /// How many segments they list.
    pub(super) segments: usize,
    /// Number of the init segment in force after them.
    pub(super) init: Option<u64>,
    /// Some segments, here or among those that are not packed, are gaps.
    pub(super) gaps: bool,
}

/// Appends a number in as many groups of seven bits as it needs, the lowest first (LEB128).
fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
