//! Takes an encoder's output apart into the pieces RTP payload formats speak of: NAL units, OBUs. Knows no RTP.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use memchr::memmem;

use crate::codec::VideoCodec;

/// Splits one access unit of the encoder into NAL units without start codes (H.264, H.265), OBUs without size fields and
/// without temporal delimiters (AV1), or leaves it whole (VP9).
pub(crate) fn split(codec: VideoCodec, unit: &Bytes) -> Result<Vec<Bytes>> {
    match codec {
        VideoCodec::H264 | VideoCodec::H265 => Ok(nal_units(unit)),
        VideoCodec::Av1 => obus(unit),
        VideoCodec::Vp9 => Ok(vec![unit.clone()]),
    }
}

/// NAL units of an Annex B byte stream, without start codes and trailing zeros.
pub(crate) fn nal_units(stream: &Bytes) -> Vec<Bytes> {
    let starts: Vec<usize> = memmem::find_iter(stream, &[0, 0, 1]).collect();
    starts
        .iter()
        .enumerate()
        .filter_map(|(index, start)| {
            let begin = start + 3;
            let mut end = starts.get(index + 1).copied().unwrap_or(stream.len());
            while end > begin && stream[end - 1] == 0 {
                end -= 1;
            }
            (end > begin).then(|| stream.slice(begin..end))
        })
        .collect()
}

/// OBUs of an AV1 temporal unit in the low-overhead format, each with `obu_has_size_field` cleared (RTP payload format
/// section 4.5), without temporal delimiters, tile lists and padding.
pub(crate) fn obus(unit: &Bytes) -> Result<Vec<Bytes>> {
    const TEMPORAL_DELIMITER: u8 = 2;
    const TILE_LIST: u8 = 8;
    const PADDING: u8 = 15;
    let mut rest = unit.clone();
    let mut found = Vec::new();
    while let Some(&header) = rest.first() {
        let kind = (header >> 3) & 0x0f;
        let header_len = if header & 0x04 != 0 { 2 } else { 1 };
        ensure!(header & 0x02 != 0, "AV1 OBU without size field");
        ensure!(rest.len() > header_len, "AV1 OBU cut off in its header");
        let (size, size_len) = leb128(&rest[header_len..]).context("AV1 OBU with a broken size")?;
        let begin = header_len + size_len;
        let end = begin + size;
        ensure!(rest.len() >= end, "AV1 OBU cut off");
        if ![TEMPORAL_DELIMITER, TILE_LIST, PADDING].contains(&kind) {
            let mut obu = Vec::with_capacity(header_len + size);
            obu.push(header & !0x02);
            obu.extend_from_slice(&rest[1..header_len]);
            obu.extend_from_slice(&rest[begin..end]);
            found.push(obu.into());
        }
        rest = rest.slice(end..);
    }
    Ok(found)
}

fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0usize;
    for (index, byte) in bytes.iter().take(8).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nal_units_lose_start_codes_and_trailing_zeros() {
        let stream = Bytes::from_static(&[
            0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0, 4,
        ]);
        let nals = nal_units(&stream);
        assert_eq!(nals, [&[0x67u8, 1, 2][..], &[0x68, 3], &[0x65, 0, 4]]);
    }

    #[test]
    fn obus_lose_sizes_and_delimiters() {
        let unit = Bytes::from_static(&[0x12, 0, 0x0a, 2, 9, 8, 0x36, 0x40, 1, 7]);
        assert_eq!(
            obus(&unit).unwrap(),
            [&[0x08u8, 9, 8][..], &[0x34, 0x40, 7]]
        );
    }

    #[test]
    fn a_cut_obu_is_an_error() {
        assert!(obus(&Bytes::from_static(&[0x0a, 5, 1])).is_err());
        assert!(obus(&Bytes::from_static(&[0x0a])).is_err());
    }
}
