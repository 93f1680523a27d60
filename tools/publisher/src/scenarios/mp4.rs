//! Samples of fragmented MP4 as HLS parts and segments have it (ISO/IEC 14496-12 section 8.8): one track, `moof` before
//! its `mdat`. Reads only what measuring needs.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

/// A picture or a packet of sound.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When it is decoded, in ticks.
    pub(super) decode_time: i64,
    /// When it is shown, in ticks.
    pub(super) presentation_time: i64,
    /// Until the next one, in ticks.
    pub(super) duration: i64,
    /// The media.
    pub(super) data: Bytes,
}

/// Ticks per second of the track, from an initialization segment.
pub(super) fn timescale(init: &Bytes) -> Result<u32> {
    let mdhd = ["moov", "trak", "mdia", "mdhd"]
        .into_iter()
        .try_fold(init.clone(), |body, name| child(&body, name))
        .context("the init segment has no mdhd")?;
    let at = if mdhd.first() == Some(&1) { 20 } else { 12 };
    word(&mdhd, at).context("mdhd is cut off")
}

/// All samples of a segment or part.
pub(super) fn samples(segment: &Bytes) -> Result<Vec<Sample>> {
    let mut all = Vec::new();
    let mut rest = segment.clone();
    let mut moof = None;
    while let Some((name, len, body)) = next_box(&rest) {
        match &name {
            b"moof" => moof = Some((body, rest.clone())),
            b"mdat" => {
                let (moof, from) = moof.take().context("mdat without moof")?;
                fragment(&moof, &from, &mut all)?;
            }
            _ => {}
        }
        rest = rest.slice(len..);
    }
    ensure!(rest.is_empty(), "a segment ends in half a box");
    Ok(all)
}

/// `from` starts at the moof, where data offsets count from.
fn fragment(moof: &Bytes, from: &Bytes, all: &mut Vec<Sample>) -> Result<()> {
    let traf = child(moof, "traf").context("moof without traf")?;
    let tfhd = child(&traf, "tfhd").context("traf without tfhd")?;
    let tfdt = child(&traf, "tfdt").context("traf without tfdt")?;
    let trun = child(&traf, "trun").context("traf without trun")?;
    let mut time = if tfdt.first() == Some(&1) {
        (i64::from(word(&tfdt, 4).context("tfdt")?) << 32)
            | i64::from(word(&tfdt, 8).context("tfdt")?)
    } else {
        i64::from(word(&tfdt, 4).context("tfdt")?)
    };
    let flags = word(&tfhd, 0).context("tfhd")? & 0xff_ffff;
    let mut at = 8;
    let mut optional = |bit: u32, len: usize| {
        let value = (flags & bit != 0).then(|| word(&tfhd, at)).flatten();
        at += if flags & bit != 0 { len } else { 0 };
        value
    };
    optional(0x1, 8);
    optional(0x2, 4);
    let default_duration = optional(0x8, 4);
    let default_size = optional(0x10, 4);

    let flags = word(&trun, 0).context("trun")? & 0xff_ffff;
    let count = word(&trun, 4).context("trun")?;
    let mut at = 8;
    let mut field = |bit: u32| -> Result<Option<u32>> {
        if flags & bit == 0 {
            return Ok(None);
        }
        at += 4;
        Ok(Some(word(&trun, at - 4).context("trun is cut off")?))
    };
    let mut offset = field(0x1)?.context("trun without data offset")? as usize;
    field(0x4)?;
    for _ in 0..count {
        let duration = field(0x100)?.or(default_duration).context("no duration")?;
        let size = field(0x200)?.or(default_size).context("no size")? as usize;
        field(0x400)?;
        let later = field(0x800)?.unwrap_or(0).cast_signed();
        ensure!(offset + size <= from.len(), "a sample is cut off");
        all.push(Sample {
            decode_time: time,
            presentation_time: time + i64::from(later),
            duration: i64::from(duration),
            data: from.slice(offset..offset + size),
        });
        offset += size;
        time += i64::from(duration);
    }
    Ok(())
}

fn child(body: &Bytes, name: &str) -> Option<Bytes> {
    let mut rest = body.clone();
    while let Some((found, len, body)) = next_box(&rest) {
        if found == name.as_bytes() {
            return Some(body);
        }
        rest = rest.slice(len..);
    }
    None
}

/// Name, length and body of the first box.
fn next_box(bytes: &Bytes) -> Option<([u8; 4], usize, Bytes)> {
    let len = word(bytes, 0)? as usize;
    let name: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    (len >= 8 && len <= bytes.len()).then(|| (name, len, bytes.slice(8..len)))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(name: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend_from_slice(&name);
        bytes.extend_from_slice(body);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn reads_times_and_data() {
        let tfhd = boxed(*b"tfhd", &words(&[0x02_0000, 1]));
        let tfdt = boxed(*b"tfdt", &words(&[0x0100_0000, 0, 90_000]));
        let trun = |offset: u32| {
            let fields = [0x0100_0b01, 2, offset, 3000, 2, 6000, 3000, 1, u32::MAX];
            boxed(*b"trun", &words(&fields))
        };
        let moof = |offset| {
            let traf = boxed(
                *b"traf",
                &[tfhd.clone(), tfdt.clone(), trun(offset)].concat(),
            );
            boxed(*b"moof", &traf)
        };
        let offset = moof(0).len() as u32 + 8;
        let segment: Bytes = [moof(offset), boxed(*b"mdat", &[7, 8, 9])].concat().into();
        let found = samples(&segment).unwrap();
        let seen: Vec<_> = found
            .iter()
            .map(|sample| {
                (
                    sample.decode_time,
                    sample.presentation_time,
                    &sample.data[..],
                )
            })
            .collect();
        assert_eq!(
            seen,
            [(90_000, 96_000, &[7, 8][..]), (93_000, 92_999, &[9])]
        );
        assert!(samples(&segment.slice(..segment.len() - 1)).is_err());
    }
}
