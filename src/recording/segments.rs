//! A finished recording as segments that can be fetched by byte range: found once by going through the headers of its
//! fragments, which lie in the file as they were recorded. Never writes; knows no playlist.
//!
//! A segment has the fragments of all tracks, as they lie side by side, from one keyframe to another. Boxes of ours
//! between two segments belong to neither.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use mp4_atom::{Decode, FourCC, Moof, Mvex};

use super::{
    RecordingError,
    boxes::{self, Reason, TrakParts},
    catalog::OpenRecording,
    merge,
    scan::{self, FileHead, MAX_HEADERS, MDAT, MOOF, Source, Stage, UUID, WINDOW},
    tables::Tables,
};

/// A segment ends at the first keyframe after so much of it: keyframes that come more often are no reason for more
/// requests.
const LEAST: u64 = 1_500_000_000;

/// Media that goes on after nothing of any track for longer than this is a discontinuity.
const GAP: u64 = 500_000_000;

/// A recording as segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The init segments, each once.
    pub inits: Vec<RecordedInit>,
    /// The segments, in order.
    pub segments: Vec<RecordedSegment>,
}

/// An init segment for all tracks of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedInit {
    /// It lies in the file.
    Range(Range<u64>),
    /// It is made of what lies in the file, because the encoding changed.
    Made(Bytes),
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedSegment {
    /// Offset of its first byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// From its start to that of the next one, or to its end if that is not continuous.
    pub duration: Duration,
    /// Index of its init segment.
    pub init: usize,
    /// Its pictures start with a keyframe, or it has none.
    pub independent: bool,
    /// Encoding or time is not continuous with the segment before.
    pub discontinuity: bool,
}

/// The segments of recordings that somebody asked for lately.
#[derive(Default)]
pub(super) struct Indexes(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_path: HashMap<PathBuf, Entry>,
    /// Oldest request first.
    used: VecDeque<PathBuf>,
}

struct Entry {
    etag: String,
    /// Made by the first who asks; others wait for it.
    index: Arc<OnceLock<Option<Arc<SegmentIndex>>>>,
}

impl Indexes {
    /// How many are remembered. One has about 90 kB per hour of recording.
    const LIMIT: usize = 32;

    /// The segments of an open file.
    pub(super) fn get(
        &self,
        path: &Path,
        open: &OpenRecording,
    ) -> Result<Arc<SegmentIndex>, RecordingError> {
        let index = self.entry(path, &open.etag);
        let mut failure = None;
        let made = index.get_or_init(|| match read(&open.file, path, open.len) {
            Ok(index) => Some(Arc::new(index)),
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        if let Some(made) = made {
            return Ok(Arc::clone(made));
        }
        // Nothing is remembered of what could not be read: it may be repaired.
        self.known().by_path.remove(path);
        Err(failure.unwrap_or(RecordingError::NotFound))
    }

    fn entry(&self, path: &Path, etag: &str) -> Arc<OnceLock<Option<Arc<SegmentIndex>>>> {
        let mut known = self.known();
        known.used.retain(|used| used != path);
        known.used.push_back(path.to_owned());
        while known.used.len() > Self::LIMIT {
            if let Some(oldest) = known.used.pop_front() {
                known.by_path.remove(&oldest);
            }
        }
        if let Some(entry) = known.by_path.get(path).filter(|known| known.etag == etag) {
            return Arc::clone(&entry.index);
        }
        let index = Arc::default();
        let entry = Entry {
            etag: etag.to_owned(),
            index: Arc::clone(&index),
        };
        known.by_path.insert(path.to_owned(), entry);
        index
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the segments of a file that nobody is writing, up to its last whole part.
fn read(file: &File, path: &Path, len: u64) -> Result<SegmentIndex, RecordingError> {
    let head = scan::read_head(file, path, len)?;
    let len = match head.stage {
        Stage::Fragmented => len,
        Stage::Indexed { moov } => moov.min(len),
    };
    let mut source = Source {
        file,
        path,
        len,
        window: Vec::new(),
    };
    let mut offset = head.end;
    let damaged = |offset, reason| RecordingError::Damaged {
        path: path.to_owned(),
        offset,
        reason,
    };
    let mut builder = Builder::new(head).map_err(|reason| damaged(0, reason))?;
    let mut moof = None;
    while offset < len {
        match step(&mut builder, &mut source, offset, &mut moof)? {
            Ok(Some(next)) => offset = next,
            Ok(None) => break,
            Err(reason) => return Err(damaged(offset, reason)),
        }
    }
    let index = builder.finish();
    if index.segments.is_empty() {
        return Err(RecordingError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(index)
}

/// Takes in the box at `offset` and says where the next one is; `None` at the torn end of a file that was not repaired.
fn step(
    builder: &mut Builder,
    source: &mut Source<'_>,
    offset: u64,
    moof: &mut Option<Vec<Run>>,
) -> Result<Result<Option<u64>, Reason>, RecordingError> {
    let left = source.len - offset;
    let extent = match boxes::extent(source.read(offset, WINDOW)?) {
        Ok(Some(extent)) => extent,
        Ok(None) => return Ok(Ok(None)),
        Err(reason) => return Ok(Err(reason)),
    };
    let Some(total) = extent.total.filter(|total| *total <= left) else {
        return Ok(Ok(None));
    };
    let taken = match extent.kind {
        MOOF if total <= MAX_HEADERS => Moof::decode(&mut source.read_box(offset, total)?)
            .map_err(Reason::from)
            .and_then(|decoded| builder.runs(&decoded))
            .map(|runs| *moof = Some(runs).filter(|runs| !runs.is_empty())),
        MDAT => {
            if let Some(runs) = moof.take() {
                builder.part(builder.moof_at..offset + total, &runs);
            }
            Ok(())
        }
        UUID if total <= MAX_HEADERS => {
            let header = usize::try_from(extent.header).unwrap_or(usize::MAX);
            let body = source.read_box(offset, total)?.get(header..);
            builder.uuid(body.unwrap_or_default())
        }
        _ => Ok(()),
    };
    if extent.kind == MOOF {
        builder.moof_at = offset;
    }
    Ok(taken.map(|()| Some(offset + total)))
}

/// What one fragment has of one track; times in nanoseconds on the common clock.
#[derive(Clone, Copy, Debug)]
struct Run {
    track: usize,
    start: u64,
    end: u64,
    sync: bool,
}

/// A segment that is growing.
#[derive(Debug)]
struct Open {
    segment: RecordedSegment,
    start: u64,
    /// Whether its first picture is a keyframe.
    pictures: Option<bool>,
}

/// Puts fragments together.
struct Builder {
    head: FileHead,
    /// The track that says where segments start, if there are pictures.
    video: Option<usize>,
    inits: Vec<(Vec<Bytes>, RecordedInit)>,
    init: usize,
    segments: Vec<RecordedSegment>,
    open: Option<Open>,
    /// End of everything so far.
    horizon: u64,
    /// Where the `moof` box is that the next `mdat` belongs to.
    moof_at: u64,
}

impl Builder {
    fn new(head: FileHead) -> Result<Self, Reason> {
        let video = head
            .tracks
            .iter()
            .position(|track| track.trak.mdia.hdlr.handler == FourCC::new(b"vide"));
        let first = match &head.init {
            Some(range) => RecordedInit::Range(range.clone()),
            None => RecordedInit::Made(make_init(&head)?),
        };
        Ok(Self {
            inits: vec![(entries(&head), first)],
            head,
            video,
            init: 0,
            segments: Vec::new(),
            open: None,
            horizon: 0,
            moof_at: 0,
        })
    }

    /// What a fragment holds.
    fn runs(&self, moof: &Moof) -> Result<Vec<Run>, Reason> {
        let mut runs = Vec::new();
        for traf in &moof.traf {
            let id = traf.tfhd.track_id;
            let tracks = &self.head.tracks;
            let index = tracks.iter().position(|track| track.id() == id);
            let Some((index, track)) = index.and_then(|index| Some((index, tracks.get(index)?)))
            else {
                return Err(format!("a part of an unknown track {id}").into());
            };
            let tfdt = traf.tfdt.as_ref().ok_or("a part without a tfdt box")?;
            let mut time = tfdt.base_media_decode_time;
            let mut run: Option<Run> = None;
            for entry in traf.trun.iter().flat_map(|trun| &trun.samples) {
                let sample = scan::resolve(track, traf, entry, time);
                let shown = time.saturating_add_signed(sample.composition_offset);
                let start = nanos(shown, track);
                let end = nanos(shown.saturating_add(u64::from(sample.duration)), track);
                let run = run.get_or_insert(Run {
                    track: index,
                    start,
                    end,
                    sync: sample.sync,
                });
                run.start = run.start.min(start);
                run.end = run.end.max(end);
                time = time.saturating_add(u64::from(sample.duration));
            }
            runs.extend(run);
        }
        Ok(runs)
    }

    /// Adds a whole fragment.
    fn part(&mut self, bytes: Range<u64>, runs: &[Run]) {
        let start = runs.iter().map(|run| run.start).min().unwrap_or(0);
        let end = runs.iter().map(|run| run.end).max().unwrap_or(0);
        let pictures = runs.iter().find(|run| Some(run.track) == self.video);
        let pictures = pictures.map(|run| run.sync);
        let gap = self.open.is_some() && start > self.horizon.saturating_add(GAP);
        let changed = (self.open.as_ref()).is_some_and(|open| open.segment.init != self.init);
        let can_start = pictures.unwrap_or(self.video.is_none());
        let long =
            (self.open.as_ref()).is_some_and(|open| start.saturating_sub(open.start) >= LEAST);
        if self.open.is_none() || gap || changed || (can_start && long) {
            self.close(if gap { self.horizon } else { start });
            self.open = Some(Open {
                segment: RecordedSegment {
                    offset: bytes.start,
                    len: 0,
                    duration: Duration::ZERO,
                    init: self.init,
                    independent: true,
                    discontinuity: gap || changed,
                },
                start,
                pictures: None,
            });
        }
        let is_first = self.segments.is_empty();
        if let Some(open) = &mut self.open {
            open.segment.len = bytes.end - open.segment.offset;
            open.pictures = open.pictures.or(pictures);
            // Nothing comes before the first segment, so it starts with whatever is earliest.
            if is_first {
                open.start = open.start.min(start);
            }
        }
        self.horizon = self.horizon.max(end);
    }

    /// Ends the segment that is growing at this time.
    fn close(&mut self, end: u64) {
        if let Some(Open {
            mut segment,
            start,
            pictures,
        }) = self.open.take()
        {
            segment.duration = Duration::from_nanos(end.saturating_sub(start));
            segment.independent = pictures.unwrap_or(true);
            self.segments.push(segment);
        }
    }

    /// Takes in one of our own boxes; only a change of a sample entry counts.
    fn uuid(&mut self, body: &[u8]) -> Result<(), Reason> {
        let Some((&boxes::SAMPLE_ENTRY, payload)) = body.split_first_chunk::<16>() else {
            return Ok(());
        };
        let (id, entry) = boxes::decode_entry_change(payload)?;
        if let Some(track) = self.head.tracks.iter_mut().find(|track| track.id() == id) {
            track.set_entry(entry)?;
        }
        let entries = entries(&self.head);
        let known = self.inits.iter().position(|(known, _)| *known == entries);
        self.init = known.unwrap_or(self.inits.len());
        if known.is_none() {
            let init = RecordedInit::Made(make_init(&self.head)?);
            self.inits.push((entries, init));
        }
        Ok(())
    }

    fn finish(mut self) -> SegmentIndex {
        self.close(self.horizon);
        SegmentIndex {
            inits: self.inits.into_iter().map(|(_, init)| init).collect(),
            segments: self.segments,
        }
    }
}

/// A time of a track in nanoseconds.
fn nanos(time: u64, track: &Tables) -> u64 {
    let nanos = u128::from(time) * 1_000_000_000 / u128::from(track.timescale().max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// The sample entries in force.
fn entries(head: &FileHead) -> Vec<Bytes> {
    head.tracks
        .iter()
        .filter_map(Tables::entry)
        .cloned()
        .collect()
}

/// An init segment of the head of a file with the sample entries in force.
fn make_init(head: &FileHead) -> Result<Bytes, Reason> {
    let traks: Vec<_> = head
        .tracks
        .iter()
        .map(|track| TrakParts {
            trak: track.trak.clone(),
            entries: track.entry().cloned().into_iter().collect(),
        })
        .collect();
    let mvex = Mvex {
        trex: head.tracks.iter().map(|track| track.trex.clone()).collect(),
        ..Mvex::default()
    };
    let mut bytes = merge::ftyp()?;
    bytes.extend(boxes::encode_moov(&head.mvhd, &traks, Some(&mvex))?);
    Ok(bytes.into())
}
