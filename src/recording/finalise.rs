//! Turns a fragmented recording into an indexed one in place, in an order in which every interruption leaves a file
//! that plays. Owns the finishing steps; must not know who asks for them (a recorder or a repair).

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path, time::Duration};

use mp4_atom::{Mvhd, Stbl, StszSamples};

use super::{
    RecordingError,
    boxes::{self, Reason},
    merge::{self, RESERVED},
    note::{Ending, Note},
    scan::{self, Scan, Stage, Tail},
    tables::{self, Tables},
};

/// A recording that was finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    /// Length of the movie.
    pub duration: Duration,
    /// Bytes of an unfinished part that were cut off.
    pub cut: u64,
    /// Whether the index was in place already.
    pub already: bool,
}

/// Finishes the recording in `file`, which must be open for reading and writing and locked by the caller.
///
/// Steps: read all fragments and make the index; cut off an unfinished last part; append the index and the closing
/// note; `fsync`; read the index back and compare it with what it was made from; replace the reserved box by the `mdat` header; `fsync`. If
/// anything goes wrong, the file stays (or becomes again) a fragmented one that plays to its last whole part.
pub(super) fn finalise(
    file: &File,
    path: &Path,
    ending: Ending,
) -> Result<Finished, RecordingError> {
    let io = |source| RecordingError::io("finishing", path, source);
    let index = |reason| RecordingError::Index {
        path: path.to_owned(),
        reason,
    };
    let len = scan::length(file, path)?;
    if let Stage::Indexed { moov } = scan::read_head(file, path, len)?.stage {
        let (_, mvhd) = scan::read_index_head(file, path, moov)?;
        return Ok(Finished {
            duration: duration(&mvhd),
            cut: 0,
            already: true,
        });
    }
    let Scan {
        head,
        mut note,
        end,
        parts,
        tail,
    } = scan::scan(file, path, len)?;
    if let Tail::Damaged { offset, reason } = tail {
        return Err(RecordingError::Damaged {
            path: path.to_owned(),
            offset,
            reason,
        });
    }
    if parts == 0 {
        return Err(RecordingError::Empty {
            path: path.to_owned(),
        });
    }
    let reserved = head.reserved;
    note.ended = Some(ending);
    let expected: Vec<_> = head
        .tracks
        .iter()
        .filter(|track| track.samples() > 0)
        .map(|track| (track.id(), track.samples()))
        .collect();
    // The file is not touched before there is an index for it.
    let (mvhd, bytes) = movie(head.mvhd, head.tracks, &note).map_err(index)?;
    if len > end {
        file.set_len(end).map_err(io)?;
    }
    let appended = file
        .write_all_at(&bytes, end)
        .and_then(|()| file.sync_all())
        .map_err(io)
        .and_then(|()| {
            // Lets go of the memory before the index is read back.
            drop(bytes);
            let bytes = read_back(file, end).map_err(io)?;
            verify(&bytes, reserved + RESERVED..end, &mvhd, &expected).map_err(index)
        });
    if let Err(error) = appended {
        // Without its last step an index is only in the way; should even this fail, the next repair cuts it off.
        if let Err(error) = file.set_len(end) {
            tracing::warn!(path = %path.display(), %error, "an unusable index stays at the end of a recording");
        }
        return Err(error);
    }
    let mut header = [0; 16];
    header[..4].copy_from_slice(&1_u32.to_be_bytes());
    header[4..8].copy_from_slice(b"mdat");
    header[8..].copy_from_slice(&(end - reserved).to_be_bytes());
    file.write_all_at(&header, reserved).map_err(io)?;
    file.sync_all().map_err(io)?;
    Ok(Finished {
        duration: duration(&mvhd),
        cut: len - end,
        already: false,
    })
}

/// Makes the index of everything that was scanned: the movie header, and the bytes of the `moov` and the closing note.
fn movie(mut mvhd: Mvhd, tracks: Vec<Tables>, note: &Note) -> Result<(Mvhd, Vec<u8>), Reason> {
    let timescale = merge::movie_timescale(tracks.iter().map(Tables::timescale));
    let starts = tracks.iter().filter_map(|track| {
        let span = track.span()?;
        Some(tables::to_movie(span.start, track.timescale(), timescale))
    });
    let zero = starts.min().ok_or("no samples")?;
    mvhd.timescale = timescale;
    mvhd.duration = 0;
    let mut traks = Vec::new();
    for track in tracks {
        if let Some((trak, end)) = track.finish(timescale, zero)? {
            mvhd.duration = mvhd.duration.max(end);
            traks.push(trak);
        }
    }
    let mut bytes = boxes::encode_moov(&mvhd, &traks, None)?;
    bytes.extend(note.encode()?);
    Ok((mvhd, bytes))
}

/// Everything from `end` on.
fn read_back(file: &File, end: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len().saturating_sub(end);
    let mut bytes = Vec::new();
    boxes::read_at(
        file,
        end,
        usize::try_from(len).unwrap_or(usize::MAX),
        &mut bytes,
    )?;
    Ok(bytes)
}

/// Checks an index as it stands in the file: all samples of all tracks, each of them within `media`.
fn verify(
    bytes: &[u8],
    media: Range<u64>,
    mvhd: &Mvhd,
    expected: &[(u32, usize)],
) -> Result<(), Reason> {
    let moov = boxes::decode_moov(bytes)?.moov;
    if moov.mvhd != *mvhd {
        return Err("the movie header was not written as meant".into());
    }
    let mut found = Vec::new();
    for trak in &moov.trak {
        let stbl = &trak.mdia.minf.stbl;
        let StszSamples::Different { sizes } = &stbl.stsz.samples else {
            return Err("the sample sizes were not written as meant".into());
        };
        let timed: u64 = stbl
            .stts
            .entries
            .iter()
            .map(|run| u64::from(run.sample_count))
            .sum();
        if timed != sizes.len() as u64 {
            return Err("not every sample has a time".into());
        }
        let mut sizes_left = sizes.iter();
        for (offset, samples) in chunks(stbl) {
            let length: u64 = sizes_left
                .by_ref()
                .take(samples)
                .map(|&size| u64::from(size))
                .sum();
            if offset < media.start || offset + length > media.end {
                return Err("a sample lies outside of the media data".into());
            }
        }
        if sizes_left.next().is_some() {
            return Err("not every sample has a place".into());
        }
        found.push((trak.tkhd.track_id, sizes.len()));
    }
    if found != expected {
        return Err(format!("samples per track are {found:?} instead of {expected:?}").into());
    }
    Ok(())
}

/// The chunks of a track: offset and number of samples.
fn chunks(stbl: &Stbl) -> impl Iterator<Item = (u64, usize)> {
    let narrow = stbl
        .stco
        .iter()
        .flat_map(|stco| stco.entries.iter().map(|&offset| u64::from(offset)));
    let wide = stbl
        .co64
        .iter()
        .flat_map(|co64| co64.entries.iter().copied());
    let mut runs = stbl.stsc.entries.iter().peekable();
    let mut samples = 0;
    narrow
        .chain(wide)
        .zip(1_u32..)
        .map(move |(offset, number)| {
            while let Some(run) = runs.next_if(|run| run.first_chunk <= number) {
                samples = run.samples_per_chunk as usize;
            }
            (offset, samples)
        })
}

/// How long a movie of these tracks would be.
pub(super) fn span(tracks: &[Tables]) -> Duration {
    let nanos = |time, track: &Tables| tables::to_movie(time, track.timescale(), 1_000_000_000);
    let spans = || {
        tracks
            .iter()
            .filter_map(|track| Some((track.span()?, track)))
    };
    let start = spans().map(|(span, track)| nanos(span.start, track)).min();
    let end = spans().map(|(span, track)| nanos(span.end, track)).max();
    let length = end.unwrap_or(0).saturating_sub(start.unwrap_or(0));
    Duration::from_nanos(u64::try_from(length).unwrap_or(0))
}

/// The length of a movie.
pub(super) fn duration(mvhd: &Mvhd) -> Duration {
    let nanos = u128::from(mvhd.duration) * 1_000_000_000 / u128::from(mvhd.timescale.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
