//! The head of a recording: one `moov` made of the tracks' own init segments. Pure; must not touch the disk.

use std::time::SystemTime;

use bytes::Bytes;
use mp4_atom::{Atom, BufMut, Encode, FourCC, Ftyp, Moov, Mvex, Mvhd, Trak, Trex};

use super::{
    RecordingError,
    boxes::{self, Reason, TrakParts},
    note::{self, Note, TrackNote},
};
use crate::media::{InitSegment, MediaKind};

/// Length of the head of the `free` box that becomes the 64-bit header of the final `mdat`.
pub(super) const RESERVED: u64 = 16;
/// Seconds from 1904, where ISO/IEC 14496-12 counts from, to 1970.
const SECONDS_1904_TO_1970: u64 = 2_082_844_800;

/// The first bytes of a recording and what they say about its tracks.
#[derive(Debug)]
pub(super) struct Head {
    /// `ftyp`, `free`, `moov` and the first note.
    pub bytes: Vec<u8>,
    /// The tracks in the order given.
    pub tracks: Vec<HeadTrack>,
}

/// One track of a new recording.
#[derive(Clone, Debug)]
pub(super) struct HeadTrack {
    /// Video or audio.
    pub kind: MediaKind,
    /// `track_ID`.
    pub id: u32,
    /// Units per second.
    pub timescale: u32,
    /// The sample entry that the next part needs.
    pub entry: Bytes,
}

/// What an init segment has to say about its one track.
pub(super) struct InitTrack {
    trak: Trak,
    trex: Trex,
    /// `track_ID`.
    pub id: u32,
    /// The sample entry.
    pub entry: Bytes,
}

/// Makes the head for these tracks.
pub(super) fn head(
    started: SystemTime,
    tracks: &[(MediaKind, InitSegment)],
) -> Result<Head, RecordingError> {
    if tracks.is_empty() {
        return Err(RecordingError::NoTracks);
    }
    let mut head = Head {
        bytes: Vec::new(),
        tracks: Vec::new(),
    };
    let start_ns = note::unix_nanos(started);
    let mut first_note = Note {
        start_ns: Some(start_ns),
        ..Note::default()
    };
    let mut traks = Vec::new();
    let mut mvex = Mvex::default();
    for (kind, init) in tracks {
        let invalid = |reason: Reason| RecordingError::InvalidInit {
            kind: *kind,
            reason,
        };
        let InitTrack {
            trak,
            trex,
            id,
            entry,
        } = init_track(init).map_err(invalid)?;
        if head
            .tracks
            .iter()
            .any(|other| other.id == id || other.kind == *kind)
        {
            return Err(invalid(
                format!("another track is {kind} or has track_ID {id} too").into(),
            ));
        }
        first_note.tracks.push(TrackNote::new(id, *kind, init));
        head.tracks.push(HeadTrack {
            kind: *kind,
            id,
            timescale: init.timescale,
            entry: entry.clone(),
        });
        mvex.trex.push(trex);
        traks.push(TrakParts {
            trak,
            entries: vec![entry],
        });
    }
    let created = start_ns / 1_000_000_000 + SECONDS_1904_TO_1970;
    let mvhd = Mvhd {
        creation_time: created,
        modification_time: created,
        timescale: movie_timescale(head.tracks.iter().map(|track| track.timescale)),
        next_track_id: head
            .tracks
            .iter()
            .map(|track| track.id)
            .max()
            .unwrap_or(0)
            .saturating_add(1),
        rate: 1.into(),
        volume: 1.into(),
        ..Mvhd::default()
    };
    for TrakParts { trak, .. } in &mut traks {
        trak.tkhd.creation_time = created;
        trak.tkhd.modification_time = created;
        trak.mdia.mdhd.creation_time = created;
        trak.mdia.mdhd.modification_time = created;
    }
    write(&mut head.bytes, &mvhd, &traks, &mvex, &first_note).map_err(|reason| {
        RecordingError::InvalidInit {
            kind: head
                .tracks
                .first()
                .map_or(MediaKind::Video, |track| track.kind),
            reason,
        }
    })?;
    Ok(head)
}

fn write(
    bytes: &mut Vec<u8>,
    mvhd: &Mvhd,
    traks: &[TrakParts],
    mvex: &Mvex,
    first_note: &Note,
) -> Result<(), Reason> {
    let ftyp = ftyp()?;
    bytes.extend_from_slice(&ftyp);
    bytes.encode_atom(FourCC::new(b"free"), |bytes| {
        bytes.append_slice(&[0; 8]);
        bytes.append_slice(&ftyp);
        Ok(())
    })?;
    bytes.extend(boxes::encode_moov(mvhd, traks, Some(mvex))?);
    bytes.extend(first_note.encode()?);
    Ok(())
}

/// The `ftyp` box: iso6 covers tfdt and default-base-is-moof of the growing file, mp42 and isom the finished one.
pub(super) fn ftyp() -> mp4_atom::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Ftyp {
        major_brand: b"isom".into(),
        minor_version: 0x200,
        compatible_brands: [b"isom", b"iso6", b"mp41", b"mp42"]
            .map(FourCC::new)
            .to_vec(),
    }
    .encode(&mut bytes)?;
    Ok(bytes)
}

/// Reads the one track of an init segment.
///
/// An edit list is left out: the time in the parts (`tfdt`) is the time of presentation for all tracks alike.
pub(super) fn init_track(init: &InitSegment) -> Result<InitTrack, Reason> {
    let moov = boxes::children(&init.bytes)
        .find_map(|found| match found {
            Ok((kind, whole, _)) => (kind == Moov::KIND).then_some(Ok(whole)),
            Err(error) => Some(Err(error)),
        })
        .ok_or("no moov box")??;
    let raw = boxes::decode_moov(moov)?;
    let [trak] = <[Trak; 1]>::try_from(raw.moov.trak)
        .map_err(|traks| format!("{} tracks instead of one", traks.len()))?;
    let entry = raw
        .entries
        .into_iter()
        .flatten()
        .next()
        .ok_or("no sample entry")?;
    if trak.mdia.mdhd.timescale != init.timescale || init.timescale == 0 {
        return Err(format!(
            "mdhd says timescale {}, the segment's description {}",
            trak.mdia.mdhd.timescale, init.timescale
        )
        .into());
    }
    let id = trak.tkhd.track_id;
    let trex = raw
        .moov
        .mvex
        .and_then(|mvex| mvex.trex.into_iter().find(|trex| trex.track_id == id))
        .ok_or("no trex box for the track")?;
    Ok(InitTrack {
        trak: Trak { edts: None, ..trak },
        trex,
        id,
        entry,
    })
}

/// The smallest timescale in which every tick of every track is a whole number, so that the tracks' offsets to each
/// other are exact; the largest of them if there is none that fits.
pub(super) fn movie_timescale(timescales: impl Iterator<Item = u32> + Clone) -> u32 {
    timescales
        .clone()
        .try_fold(1_u32, |common, timescale| {
            (common / gcd(common, timescale)).checked_mul(timescale)
        })
        .unwrap_or_else(|| timescales.max().unwrap_or(1))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_all_tracks_are_whole_in_the_movie_timescale() {
        assert_eq!(movie_timescale([90_000, 48_000].into_iter()), 720_000);
        assert_eq!(movie_timescale([90_000].into_iter()), 90_000);
        assert_eq!(
            movie_timescale([4_294_967_291, 4_294_967_279].into_iter()),
            4_294_967_291
        );
    }

    #[test]
    fn a_head_needs_usable_tracks() {
        assert!(matches!(
            head(SystemTime::UNIX_EPOCH, &[]),
            Err(RecordingError::NoTracks)
        ));
        let init = InitSegment {
            bytes: Bytes::from_static(b"\0\0\0\x08free"),
            codecs: "avc1.64001f".to_owned(),
            timescale: 90_000,
            resolution: None,
            channels: 0,
        };
        let error = head(SystemTime::UNIX_EPOCH, &[(MediaKind::Video, init)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unusable init segment of the video track: no moov box"
        );
    }
}
