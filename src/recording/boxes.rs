//! Box-level reading and our own two `uuid` boxes. Knows bytes and box structure; must not know tracks or files' states.
//!
//! Sample entries are carried as the raw bytes of their boxes, so that nothing a pipeline puts into one is lost.

use std::{error::Error as StdError, fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;
use mp4_atom::{
    Atom, BufMut, DecodeMaybe, Encode, FourCC, Header, Mdia, Minf, Moov, Mvex, Mvhd, Stbl, Stsd,
    Trak,
};

/// What is wrong with some bytes.
pub(super) type Reason = Box<dyn StdError + Send + Sync>;

/// Extended type of a note.
pub(super) const NOTE: [u8; 16] = *b"whipgatenote\xc0\xde\x00\x01";
/// Extended type of a sample entry change.
pub(super) const SAMPLE_ENTRY: [u8; 16] = *b"whipgatestsd\xc0\xde\x00\x01";

/// A box's place: its type and how many bytes its header and the whole box have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The four-character code.
    pub kind: FourCC,
    /// Length of the header: 8, or 16 with a 64-bit size.
    pub header: u64,
    /// Length of header and body; `None` for "up to the end of the file".
    pub total: Option<u64>,
}

/// Reads the box header at the start of `bytes`; `None` if it is not all there.
pub(super) fn extent(mut bytes: &[u8]) -> Result<Option<Extent>, Reason> {
    let before = bytes.len();
    let Some(Header { kind, size }) = Header::decode_maybe(&mut bytes)? else {
        return Ok(None);
    };
    let header = (before - bytes.len()) as u64;
    Ok(Some(Extent {
        kind,
        header,
        total: size.map(|size| (size as u64).saturating_add(header)),
    }))
}

/// The boxes in `bytes`, one after the other, as (type, whole box, length of its header).
pub(super) fn children(
    bytes: &[u8],
) -> impl Iterator<Item = Result<(FourCC, &[u8], usize), Reason>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let child = extent(rest).and_then(|found| {
            let found = found.ok_or("a box header is cut off")?;
            let total = usize::try_from(found.total.unwrap_or(rest.len() as u64))?;
            let header = usize::try_from(found.header)?;
            let (child, after) = rest.split_at_checked(total).ok_or("a box is cut off")?;
            rest = after;
            Ok((found.kind, child, header))
        });
        if child.is_err() {
            rest = &[];
        }
        Some(child)
    })
}

/// The body of the first child of type `kind`.
fn child(bytes: &[u8], kind: FourCC) -> Result<&[u8], Reason> {
    for found in children(bytes) {
        let (found, whole, header) = found?;
        if found == kind {
            return Ok(whole.get(header..).unwrap_or_default());
        }
    }
    Err(format!("no {kind} box").into())
}

/// A `moov` with the sample entries of each track as raw boxes, in the order of its tracks.
#[derive(Debug)]
pub(super) struct RawMoov {
    /// Everything that is not a sample entry is taken from here.
    pub moov: Moov,
    /// For each track the boxes in its `stsd`.
    pub entries: Vec<Vec<Bytes>>,
}

/// Decodes a whole `moov` box.
pub(super) fn decode_moov(bytes: &[u8]) -> Result<RawMoov, Reason> {
    let moov = Moov::decode_maybe(&mut &*bytes)?.ok_or("the moov box is cut off")?;
    let mut entries = Vec::new();
    for found in children(child(bytes, Moov::KIND)?) {
        let (kind, trak, header) = found?;
        if kind == Trak::KIND {
            entries.push(sample_entries(trak.get(header..).unwrap_or_default())?);
        }
    }
    if entries.len() != moov.trak.len() {
        return Err("tracks are missing".into());
    }
    Ok(RawMoov { moov, entries })
}

/// The sample entries in the body of a `trak`.
fn sample_entries(trak: &[u8]) -> Result<Vec<Bytes>, Reason> {
    let path = [b"mdia", b"minf", b"stbl"].map(FourCC::new);
    let stbl = path.into_iter().try_fold(trak, child)?;
    // An stsd is a full box: version, flags and the number of entries stand before the entries.
    let stsd = child(stbl, Stsd::KIND)?
        .get(8..)
        .ok_or("the stsd box is cut off")?;
    children(stsd)
        .map(|entry| Ok(Bytes::copy_from_slice(entry?.1)))
        .collect()
}

/// Writes an `stsd` with these sample entries.
fn encode_stsd(buf: &mut Vec<u8>, entries: &[Bytes]) -> mp4_atom::Result<()> {
    buf.encode_atom(Stsd::KIND, |buf| {
        0_u32.encode(buf)?;
        u32::try_from(entries.len())
            .map_err(|_| mp4_atom::Error::TooLarge(Stsd::KIND))?
            .encode(buf)?;
        for entry in entries {
            buf.append_slice(entry);
        }
        Ok(())
    })
}

/// A track as [`encode_moov`] writes it.
#[derive(Debug)]
pub(super) struct TrakParts {
    /// Everything but the sample entries.
    pub trak: Trak,
    /// The sample entries.
    pub entries: Vec<Bytes>,
}

/// Writes a `moov`.
pub(super) fn encode_moov(
    mvhd: &Mvhd,
    traks: &[TrakParts],
    mvex: Option<&Mvex>,
) -> mp4_atom::Result<Vec<u8>> {
    let mut buf = Vec::new();
    buf.encode_atom(Moov::KIND, |buf| {
        mvhd.encode(buf)?;
        for TrakParts { trak, entries } in traks {
            buf.encode_atom(Trak::KIND, |buf| {
                trak.tkhd.encode(buf)?;
                trak.edts.encode(buf)?;
                encode_mdia(buf, &trak.mdia, entries)
            })?;
        }
        mvex.map_or(Ok(()), |mvex| mvex.encode(buf))
    })?;
    Ok(buf)
}

/// Writes an `mdia` with raw sample entries.
fn encode_mdia(buf: &mut Vec<u8>, mdia: &Mdia, entries: &[Bytes]) -> mp4_atom::Result<()> {
    let Mdia { mdhd, hdlr, minf } = mdia;
    buf.encode_atom(Mdia::KIND, |buf| {
        mdhd.encode(buf)?;
        hdlr.encode(buf)?;
        buf.encode_atom(Minf::KIND, |buf| {
            minf.vmhd.encode(buf)?;
            minf.smhd.encode(buf)?;
            minf.nmhd.encode(buf)?;
            minf.dinf.encode(buf)?;
            buf.encode_atom(Stbl::KIND, |buf| {
                let stbl = &minf.stbl;
                encode_stsd(buf, entries)?;
                stbl.stts.encode(buf)?;
                stbl.ctts.encode(buf)?;
                stbl.stss.encode(buf)?;
                stbl.stsc.encode(buf)?;
                stbl.stsz.encode(buf)?;
                stbl.stco.encode(buf)?;
                stbl.co64.encode(buf)
            })
        })
    })
}

/// A `uuid` box.
pub(super) fn encode_uuid(extended_type: [u8; 16], payload: &[u8]) -> mp4_atom::Result<Vec<u8>> {
    let mut buf = Vec::with_capacity(24 + payload.len());
    buf.encode_atom(FourCC::new(b"uuid"), |buf| {
        buf.append_slice(&extended_type);
        buf.append_slice(payload);
        Ok(())
    })?;
    Ok(buf)
}

/// A sample entry change for a track.
pub(super) fn encode_entry_change(track_id: u32, entry: &[u8]) -> mp4_atom::Result<Vec<u8>> {
    let mut payload = vec![0; 4];
    payload.extend_from_slice(&track_id.to_be_bytes());
    payload.extend_from_slice(entry);
    encode_uuid(SAMPLE_ENTRY, &payload)
}

/// Reads the payload of a sample entry change: track id and sample entry.
pub(super) fn decode_entry_change(payload: &[u8]) -> Result<(u32, Bytes), Reason> {
    let (head, entry) = payload
        .split_first_chunk::<8>()
        .ok_or("a sample entry change is cut off")?;
    let [0, 0, 0, 0, a, b, c, d] = *head else {
        return Err("a sample entry change has an unknown version".into());
    };
    match children(entry).next() {
        Some(Ok((_, whole, _))) if whole.len() == entry.len() => Ok((
            u32::from_be_bytes([a, b, c, d]),
            Bytes::copy_from_slice(entry),
        )),
        _ => Err("a sample entry change holds no sample entry".into()),
    }
}

/// Checks that `bytes` are one `moof` and one `mdat` and nothing else.
pub(super) fn is_part(bytes: &[u8]) -> bool {
    let mut kinds = children(bytes).map(|found| found.map(|(kind, ..)| kind).ok());
    let is = |found: Option<Option<FourCC>>, kind| found.flatten() == Some(FourCC::new(kind));
    is(kinds.next(), b"moof") && is(kinds.next(), b"mdat") && kinds.next().is_none()
}

/// Reads up to `len` bytes at `offset`, fewer only at the end of the file.
pub(super) fn read_at(file: &File, offset: u64, len: usize, buf: &mut Vec<u8>) -> io::Result<()> {
    buf.resize(len, 0);
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buf.truncate(filled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn our_boxes_are_read_back() {
        let entry = [0, 0, 0, 12, b'a', b'v', b'c', b'1', 1, 2, 3, 4];
        let change = encode_entry_change(7, &entry).unwrap();
        let (kind, whole, header) = children(&change).next().unwrap().unwrap();
        assert_eq!((kind, whole.len(), header), (FourCC::new(b"uuid"), 44, 8));
        assert_eq!(&change[8..24], SAMPLE_ENTRY);
        let (track, read) = decode_entry_change(&change[24..]).unwrap();
        assert_eq!((track, &read[..]), (7, &entry[..]));
    }

    #[test]
    fn a_part_is_moof_and_mdat() {
        let moof = [0, 0, 0, 8, b'm', b'o', b'o', b'f'];
        let mdat = [0, 0, 0, 9, b'm', b'd', b'a', b't', 1];
        assert!(is_part(&[&moof[..], &mdat].concat()));
        assert!(!is_part(&[&moof[..], &mdat[..8]].concat()));
        assert!(!is_part(&[&moof[..], &mdat, &[0]].concat()));
        assert!(!is_part(&[&mdat[..], &moof].concat()));
        assert!(!is_part(&moof));
        assert!(!is_part(&[]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode_moov(&bytes).is_err());
            if let Ok((_, entry)) = decode_entry_change(&bytes) {
                prop_assert_eq!(&entry[..], &bytes[8..]);
            }
            prop_assert!(!is_part(&bytes));
            prop_assert!(children(&bytes).count() <= bytes.len());
        }
    }
}
