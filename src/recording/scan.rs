//! Reads the structure of a recording: its head, and box by box the headers of its fragments. Media data is skipped, so
//! memory grows only with the sample tables. Never writes.

use std::{fs::File, io, ops::Range, path::Path};

use mp4_atom::{Atom, Decode, FourCC, Moof, Moov, Mvhd, Traf, TrunEntry};

use super::{
    RecordingError,
    boxes::{self, Extent, Reason},
    merge::RESERVED,
    note::Note,
    tables::{Sample, Tables},
};

/// Bytes read at once while going through fragments: enough for the `moof` of a part of a few hundred milliseconds.
pub(super) const WINDOW: usize = 1024;
/// Bytes read at once for the head of a file; grows if the head is longer.
const HEAD_WINDOW: usize = 16 * 1024;
/// Longest head, `moof` or note of ours that is believed.
pub(super) const MAX_HEADERS: u64 = 16 * 1024 * 1024;
/// Longest unfinished rest that is believed to be a torn part rather than a damaged middle.
const MAX_TORN: u64 = 64 * 1024 * 1024;

pub(super) const MOOF: FourCC = FourCC::new(b"moof");
pub(super) const MDAT: FourCC = FourCC::new(b"mdat");
pub(super) const UUID: FourCC = FourCC::new(b"uuid");

/// How far a recording has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Fragments only; the reserved box is still in its place.
    Fragmented,
    /// The index at this offset is in force.
    Indexed {
        /// Where the final `moov` starts.
        moov: u64,
    },
}

/// The head of a recording.
#[derive(Debug)]
pub(super) struct FileHead {
    /// Where the reserved 16 bytes are.
    pub reserved: u64,
    /// Fragmented or indexed.
    pub stage: Stage,
    /// `mvhd` of the growing file.
    pub mvhd: Mvhd,
    /// Empty tables of the tracks.
    pub tracks: Vec<Tables>,
    /// The `ftyp` and `moov` boxes that are an init segment for the fragments; `None` in files that have no `ftyp` there.
    pub init: Option<Range<u64>>,
    /// Where the fragments start (notes stand among them).
    pub end: u64,
}

/// What follows the last whole part.
#[derive(Debug)]
pub(super) enum Tail {
    /// Nothing.
    Clean,
    /// A part that was being written, or an index that never came into force: may be cut off.
    Torn,
    /// Something unexpected with data after it.
    Damaged { offset: u64, reason: Reason },
}

/// A recording that was read up to its last whole part.
#[derive(Debug)]
pub(super) struct Scan {
    pub head: FileHead,
    /// What all notes say together.
    pub note: Note,
    /// End of the last whole part, or of the head.
    pub end: u64,
    /// Number of whole parts.
    pub parts: u64,
    pub tail: Tail,
}

/// An open file under a scan.
pub(super) struct Source<'a> {
    pub file: &'a File,
    pub path: &'a Path,
    pub len: u64,
    pub window: Vec<u8>,
}

impl Source<'_> {
    /// Reads `len` bytes at `offset`, fewer at the end of the file.
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Result<&[u8], RecordingError> {
        boxes::read_at(self.file, offset, len, &mut self.window)
            .map_err(|source| RecordingError::io("reading", self.path, source))?;
        Ok(&self.window)
    }

    /// Reads a whole box that is known to lie inside the file and to have `total` bytes.
    pub(super) fn read_box(&mut self, offset: u64, total: u64) -> Result<&[u8], RecordingError> {
        let len = usize::try_from(total).unwrap_or(usize::MAX);
        if self.window.len() < len {
            self.read(offset, len)?;
        }
        Ok(self.window.get(..len).unwrap_or_default())
    }
}

/// Opens a file for a scan: its length now.
pub(super) fn length(file: &File, path: &Path) -> Result<u64, RecordingError> {
    Ok(file
        .metadata()
        .map_err(|source| RecordingError::io("reading", path, source))?
        .len())
}

/// Reads the head of a recording that has `len` bytes.
pub(super) fn read_head(file: &File, path: &Path, len: u64) -> Result<FileHead, RecordingError> {
    let foreign = |reason: Reason| RecordingError::Foreign {
        path: path.to_owned(),
        reason,
    };
    let mut source = Source {
        file,
        path,
        len,
        window: Vec::new(),
    };
    let mut window = HEAD_WINDOW;
    loop {
        match parse_head(source.read(0, window)?).map_err(foreign)? {
            Ok(head) => return Ok(head),
            Err(needed) if needed <= source.len.min(MAX_HEADERS) && needed > window as u64 => {
                window = usize::try_from(needed).unwrap_or(HEAD_WINDOW);
            }
            Err(_) => return Err(foreign("its head is cut off".into())),
        }
    }
}

/// Takes a head apart; the inner error is the number of bytes that are needed to see all of it.
fn parse_head(bytes: &[u8]) -> Result<Result<FileHead, u64>, Reason> {
    let need = |offset: u64, extent: Option<Extent>| {
        Err(offset + extent.and_then(|found| found.total).unwrap_or(RESERVED))
    };
    let at = |offset: u64| bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..);

    let ftyp = boxes::extent(bytes)?;
    let Some(reserved) = ftyp
        .filter(|found| found.kind == FourCC::new(b"ftyp"))
        .and_then(|found| found.total)
    else {
        return Err("it does not start with an ftyp box".into());
    };
    let Some(second) = at(reserved).map(boxes::extent).transpose()?.flatten() else {
        return Ok(need(reserved, None));
    };
    let stage = match second {
        Extent {
            kind,
            header: 8,
            total: Some(RESERVED..),
        } if kind == FourCC::new(b"free") => Stage::Fragmented,
        Extent {
            kind: MDAT,
            header: RESERVED,
            total: Some(total),
        } => Stage::Indexed {
            moov: reserved.saturating_add(total),
        },
        _ => return Err("there is no room for an index after its ftyp box".into()),
    };
    let inner = reserved + RESERVED;
    let second_ftyp = at(inner)
        .map(boxes::extent)
        .transpose()?
        .flatten()
        .filter(|found| found.kind == FourCC::new(b"ftyp"))
        .and_then(|found| found.total);
    let moov_at = inner.saturating_add(second_ftyp.unwrap_or(0));
    if stage == Stage::Fragmented && second.total != Some(moov_at - reserved) {
        return Err("there is something else than room for an index after its ftyp box".into());
    }
    let third = at(moov_at).map(boxes::extent).transpose()?.flatten();
    let Some((total, moov)) = third.and_then(|found| {
        let total = found.total.filter(|_| found.kind == Moov::KIND)?;
        let moov = at(moov_at)?.get(..usize::try_from(total).ok()?)?;
        Some((total, moov))
    }) else {
        return Ok(need(moov_at, third));
    };
    let raw = boxes::decode_moov(moov)?;
    let mvex = raw
        .moov
        .mvex
        .ok_or("its head is not that of a fragmented file")?;
    let tracks = raw
        .moov
        .trak
        .into_iter()
        .zip(raw.entries)
        .map(|(trak, entries)| {
            let id = trak.tkhd.track_id;
            let trex = mvex.trex.iter().find(|trex| trex.track_id == id);
            Ok(Tables::new(
                trak,
                trex.ok_or("a track has no trex box")?.clone(),
                entries,
            ))
        })
        .collect::<Result<_, Reason>>()?;
    Ok(Ok(FileHead {
        reserved,
        stage,
        mvhd: raw.moov.mvhd,
        tracks,
        init: second_ftyp.map(|_| inner..moov_at + total),
        end: moov_at + total,
    }))
}

/// Reads a recording up to its last whole part. `len` is how much of the file counts.
pub(super) fn scan(file: &File, path: &Path, len: u64) -> Result<Scan, RecordingError> {
    let head = read_head(file, path, len)?;
    // In an indexed file the fragments end where its mdat does.
    let len = match head.stage {
        Stage::Fragmented => len,
        Stage::Indexed { moov } => moov.min(len),
    };
    let mut scan = Scan {
        end: head.end,
        head,
        note: Note::default(),
        parts: 0,
        tail: Tail::Clean,
    };
    let mut source = Source {
        file,
        path,
        len,
        window: Vec::new(),
    };
    let mut moof = None;
    let mut offset = scan.end;
    let mut samples = Vec::new();
    while offset < len {
        match step(&mut scan, &mut source, offset, &mut moof, &mut samples)? {
            Step::Next(next) => offset = next,
            Step::Torn => break,
            Step::OldIndex => {
                scan.tail = Tail::Torn;
                return Ok(scan);
            }
            Step::Damaged(reason) => {
                scan.tail = Tail::Damaged { offset, reason };
                return Ok(scan);
            }
        }
    }
    if scan.end < len {
        scan.tail = match len - scan.end {
            ..=MAX_TORN => Tail::Torn,
            rest => Tail::Damaged {
                offset: scan.end,
                reason: format!("{rest} bytes after it cannot be reached").into(),
            },
        };
    }
    Ok(scan)
}

enum Step {
    Next(u64),
    Torn,
    /// An index that never came into force, whole or not; it is as long as the recording makes it.
    OldIndex,
    Damaged(Reason),
}

/// Takes in the box at `offset`.
fn step(
    scan: &mut Scan,
    source: &mut Source<'_>,
    offset: u64,
    moof: &mut Option<(u64, Moof)>,
    samples: &mut Vec<Sample>,
) -> Result<Step, RecordingError> {
    let left = source.len - offset;
    let extent = match boxes::extent(source.read(offset, WINDOW)?) {
        Ok(Some(extent)) => extent,
        Ok(None) => return Ok(Step::Torn),
        Err(reason) => return Ok(Step::Damaged(reason)),
    };
    if extent.kind == FourCC::from([0; 4]) {
        // A file that grew while its data never reached the disk ends in zeros.
        return Ok(match only_zeros(source, offset) {
            Ok(true) => Step::Torn,
            Ok(false) => Step::Damaged("zeros instead of a box".into()),
            Err(error) => return Err(error),
        });
    }
    let known = [
        b"moof", b"mdat", b"uuid", b"moov", b"free", b"styp", b"sidx", b"prft", b"emsg",
    ];
    if !known.iter().any(|known| extent.kind == FourCC::new(known)) {
        return Ok(Step::Damaged(
            format!("unexpected box {}", extent.kind).into(),
        ));
    }
    let total = match extent.total {
        _ if extent.kind == Moov::KIND => return Ok(Step::OldIndex),
        None => return Ok(Step::Damaged("a box without an end".into())),
        Some(total) if total > left => return Ok(Step::Torn),
        Some(total) => total,
    };
    let next = offset + total;
    let taken = match extent.kind {
        MOOF if total > MAX_HEADERS => Err("a moof box of impossible length".into()),
        MOOF => Moof::decode(&mut source.read_box(offset, total)?)
            .map(|decoded| *moof = Some((offset, decoded)))
            .map_err(Reason::from),
        MDAT => match moof.take() {
            Some((start, moof)) => add_part(
                &mut scan.head.tracks,
                &moof,
                start,
                offset + extent.header..next,
                samples,
            )
            .map(|()| {
                scan.parts += 1;
                scan.end = next;
            }),
            None => Err("an mdat box without a moof box".into()),
        },
        UUID if total <= MAX_HEADERS => {
            let body = source
                .read_box(offset, total)?
                .get(usize::try_from(extent.header).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
            take_uuid(&mut scan.head.tracks, &mut scan.note, body).map(|()| scan.end = next)
        }
        _ => Ok(()),
    };
    Ok(match taken {
        Ok(()) => Step::Next(next),
        Err(reason) => Step::Damaged(reason),
    })
}

/// Whether nothing but zeros follows.
fn only_zeros(source: &mut Source<'_>, mut offset: u64) -> Result<bool, RecordingError> {
    while offset < source.len {
        let bytes = source.read(offset, 64 * 1024)?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        if bytes.is_empty() {
            break;
        }
        offset += bytes.len() as u64;
    }
    Ok(true)
}

/// Takes in one of our own boxes; others are skipped.
fn take_uuid(tracks: &mut [Tables], note: &mut Note, body: &[u8]) -> Result<(), Reason> {
    match body.split_first_chunk::<16>() {
        Some((&boxes::NOTE, payload)) => note.merge(Note::decode(payload)?),
        Some((&boxes::SAMPLE_ENTRY, payload)) => {
            let (id, entry) = boxes::decode_entry_change(payload)?;
            if let Some(track) = tracks.iter_mut().find(|track| track.id() == id) {
                track.set_entry(entry)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Adds the samples of a whole part whose media data lies at `data`.
fn add_part(
    tracks: &mut [Tables],
    moof: &Moof,
    start: u64,
    data: Range<u64>,
    samples: &mut Vec<Sample>,
) -> Result<(), Reason> {
    for traf in &moof.traf {
        let track = tracks
            .iter_mut()
            .find(|track| track.id() == traf.tfhd.track_id)
            .ok_or_else(|| format!("a part of an unknown track {}", traf.tfhd.track_id))?;
        let mut decode_time = traf
            .tfdt
            .as_ref()
            .ok_or("a part without a tfdt box")?
            .base_media_decode_time;
        let base = traf.tfhd.base_data_offset.unwrap_or(start);
        let mut position = base;
        for trun in &traf.trun {
            if let Some(data_offset) = trun.data_offset {
                position = base
                    .checked_add_signed(i64::from(data_offset))
                    .ok_or("a data offset is out of range")?;
            }
            let chunk = position;
            samples.clear();
            for entry in &trun.samples {
                let sample = resolve(track, traf, entry, decode_time);
                position = position
                    .checked_add(u64::from(sample.size))
                    .filter(|end| chunk >= data.start && *end <= data.end)
                    .ok_or("samples lie outside of their mdat box")?;
                if sample.size == 0 && samples.len() >= WINDOW {
                    return Err("a run of empty samples".into());
                }
                decode_time = decode_time
                    .checked_add(u64::from(sample.duration))
                    .ok_or("a time is out of range")?;
                samples.push(sample);
            }
            track.add_chunk(chunk, samples)?;
        }
    }
    Ok(())
}

/// Fills in the defaults of a sample (ISO/IEC 14496-12 sections 8.8.3, 8.8.7 and 8.8.8).
pub(super) fn resolve(track: &Tables, traf: &Traf, entry: TrunEntry, decode_time: u64) -> Sample {
    /// `sample_is_non_sync_sample`.
    const NON_SYNC: u32 = 0x0001_0000;
    let (tfhd, trex) = (&traf.tfhd, &track.trex);
    let flags = entry
        .flags
        .or(tfhd.default_sample_flags)
        .unwrap_or(trex.default_sample_flags);
    Sample {
        decode_time,
        composition_offset: entry.cts.unwrap_or(0),
        duration: entry
            .duration
            .or(tfhd.default_sample_duration)
            .unwrap_or(trex.default_sample_duration),
        size: entry
            .size
            .or(tfhd.default_sample_size)
            .unwrap_or(trex.default_sample_size),
        sync: flags & NON_SYNC == 0,
    }
}

/// Where a file's index says that it ends and how long the movie is: read from the first bytes of its final `moov`.
pub(super) fn read_index_head(
    file: &File,
    path: &Path,
    moov: u64,
) -> Result<(u64, Mvhd), RecordingError> {
    let foreign = |reason: Reason| RecordingError::Foreign {
        path: path.to_owned(),
        reason,
    };
    let mut bytes = Vec::new();
    boxes::read_at(file, moov, 256, &mut bytes)
        .map_err(|source| RecordingError::io("reading", path, source))?;
    let total = boxes::extent(&bytes)
        .map_err(foreign)?
        .filter(|found| found.kind == Moov::KIND && found.header == 8)
        .and_then(|found| found.total)
        .ok_or_else(|| foreign("its index is missing".into()))?;
    let mvhd = Mvhd::decode(&mut bytes.get(8..).unwrap_or_default())
        .map_err(|error| foreign(error.into()))?;
    Ok((moov + total, mvhd))
}

/// The note at `offset`, which is the last thing in the file.
pub(super) fn read_last_note(file: &File, offset: u64) -> io::Result<Option<Note>> {
    let mut bytes = Vec::new();
    boxes::read_at(file, offset, HEAD_WINDOW, &mut bytes)?;
    let note = match boxes::children(&bytes).next() {
        Some(Ok((UUID, whole, header))) => whole
            .get(header..)
            .and_then(|body| body.split_first_chunk::<16>())
            .filter(|(extended_type, _)| **extended_type == boxes::NOTE)
            .and_then(|(_, payload)| Note::decode(payload).ok()),
        _ => None,
    };
    Ok(note)
}
