//! Lines of a playlist that never change again, compressed once and then part of every answer: a playlist over many
//! hours costs a reload little more than one over minutes. Pure.

use std::{
    io::{self, Read as _, Write as _},
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, Crc, read::DeflateDecoder, write::DeflateEncoder};

/// What stands before the deflated data (RFC 1952 section 2.3): no name, no time, unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Some lines.
#[derive(Debug)]
pub(super) struct Block {
    /// Deflated by themselves up to a byte boundary (RFC 1951), without the mark of the last block, so that they can stand
    /// anywhere within a gzip stream.
    deflated: Bytes,
    checksum: Crc,
}

impl Block {
    pub(super) fn new(text: &str) -> Self {
        Self {
            // Writing to a Vec cannot fail; lines that are missing would be the visible sign if it ever did.
            deflated: deflate(text.as_bytes()).unwrap_or_default().into(),
            checksum: checksum(text.as_bytes()),
        }
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.deflated.len() + size_of::<Self>()
    }
}

fn checksum(bytes: &[u8]) -> Crc {
    let mut checksum = Crc::new();
    checksum.update(bytes);
    checksum
}

/// Deflates up to a byte boundary; more may follow.
fn deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.flush()?;
    Ok(encoder.get_ref().clone())
}

/// `head`, the blocks and `tail` as they are.
pub(super) fn plain(head: &[u8], blocks: &[Arc<Block>], tail: &[u8]) -> io::Result<Bytes> {
    let len: usize = blocks
        .iter()
        .map(|block| usize::try_from(block.checksum.amount()).unwrap_or(0))
        .sum();
    let mut out = Vec::with_capacity(head.len() + len + tail.len());
    out.extend_from_slice(head);
    for block in blocks {
        // A block has no last mark, so a decoder would ask for more than there is at its end.
        let len = u64::from(block.checksum.amount());
        DeflateDecoder::new(&*block.deflated)
            .take(len)
            .read_to_end(&mut out)?;
    }
    out.extend_from_slice(tail);
    Ok(out.into())
}

/// `head`, the blocks and `tail` in `gzip` coding.
pub(super) fn gzip(head: &[u8], blocks: &[Arc<Block>], tail: &[u8]) -> io::Result<Bytes> {
    let mut out = GZIP_HEAD.to_vec();
    out.extend(deflate(head)?);
    let mut whole = checksum(head);
    for block in blocks {
        out.extend_from_slice(&block.deflated);
        whole.combine(&block.checksum);
    }
    let mut encoder = DeflateEncoder::new(out, Compression::default());
    encoder.write_all(tail)?;
    let mut out = encoder.finish()?;
    whole.combine(&checksum(tail));
    out.extend(whole.sum().to_le_bytes());
    out.extend(whole.amount().to_le_bytes());
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_forms_say_the_same(head in "[a-z\n]{0,300}", lines in proptest::collection::vec("[a-z0-9:\n]{0,900}", 0..6), tail in "[a-z\n]{0,300}") {
            let blocks: Vec<_> = lines.iter().map(|text| Arc::new(Block::new(text))).collect();
            let text = [head.clone(), lines.concat(), tail.clone()].concat();
            let plain = plain(head.as_bytes(), &blocks, tail.as_bytes()).unwrap();
            prop_assert_eq!(&plain[..], text.as_bytes());
            let packed = gzip(head.as_bytes(), &blocks, tail.as_bytes()).unwrap();
            let mut decoder = GzDecoder::new(&packed[..]);
            let mut decoded = String::new();
            decoder.read_to_string(&mut decoded).unwrap();
            prop_assert_eq!(decoded, text);
            // One member, and nothing after it.
            prop_assert!(decoder.into_inner().is_empty());
        }
    }
}
