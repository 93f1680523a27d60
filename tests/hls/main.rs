//! What the HLS of a session promises, on synthetic media.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::unchecked_time_subtraction
)]

mod dvr;
mod on_demand;
mod playlists;

use std::os::unix::fs::FileExt as _;

use whipgate::{
    hls::{BlockingReload, Chunk, Resource},
    media::MediaKind,
};

const VIDEO: MediaKind = MediaKind::Video;
const AUDIO: MediaKind = MediaKind::Audio;

/// A delta update, at once.
const SKIP: BlockingReload = BlockingReload {
    msn: None,
    part: None,
    skip: true,
};

/// The bytes of a resource, out of memory and files.
fn bytes(resource: &Resource) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in &resource.chunks {
        match chunk {
            Chunk::Memory(memory) => bytes.extend_from_slice(memory),
            Chunk::File(range) => {
                let mut read = vec![0; usize::try_from(range.len).unwrap()];
                range.file.read_exact_at(&mut read, range.offset).unwrap();
                bytes.extend_from_slice(&read);
            }
        }
    }
    assert_eq!(resource.len, bytes.len() as u64);
    bytes
}
