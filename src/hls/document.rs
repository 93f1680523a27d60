//! What readers get: rendered playlists, and media as pieces of memory and files. Knows no HTTP.

use std::{
    io::Write as _,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::block::{self, Block};
use crate::media::{FileRange, MediaKind};

/// A playlist, rendered once per state of its stream and shared by everybody who gets that state.
#[derive(Debug)]
pub struct Document {
    body: OnceLock<Bytes>,
    /// What the body is made of when somebody asks for it, if it is not there from the beginning.
    pieces: Option<Pieces>,
    tag: String,
    gzip: OnceLock<Bytes>,
}

/// A long playlist whose older lines are compressed already.
#[derive(Debug)]
struct Pieces {
    head: String,
    blocks: Vec<Arc<Block>>,
    tail: String,
}

impl Document {
    /// `Content-Type` of every playlist (RFC 8216bis section 4).
    pub const CONTENT_TYPE: &'static str = "application/vnd.apple.mpegurl";

    /// `tag` names this state of this playlist and no other.
    pub(super) fn new(body: String, tag: String) -> Arc<Self> {
        Arc::new(Self {
            body: Bytes::from(body).into(),
            pieces: None,
            tag,
            gzip: OnceLock::new(),
        })
    }

    /// The same with the lines of `blocks` between `head` and `tail`. Only who asks for it uncompressed makes it long.
    pub(super) fn packed(
        head: String,
        blocks: Vec<Arc<Block>>,
        tail: String,
        tag: String,
    ) -> Arc<Self> {
        Arc::new(Self {
            body: OnceLock::new(),
            pieces: Some(Pieces { head, blocks, tail }),
            tag,
            gzip: OnceLock::new(),
        })
    }

    /// The playlist, UTF-8.
    pub fn body(&self) -> &Bytes {
        self.body.get_or_init(|| {
            // What was compressed here can be read; an empty body would be the visible sign if it ever could not.
            self.pieces
                .as_ref()
                .and_then(|Pieces { head, blocks, tail }| {
                    block::plain(head.as_bytes(), blocks, tail.as_bytes()).ok()
                })
                .unwrap_or_default()
        })
    }

    /// The playlist in `gzip` coding: compressed by the first who asks, about 0.1 ms of computing, and shared from
    /// then on. Brotli at the same cost saves 80 bytes more of 4,000, which is not worth a second form.
    pub fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| {
            if let Some(Pieces { head, blocks, tail }) = &self.pieces {
                return block::gzip(head.as_bytes(), blocks, tail.as_bytes()).unwrap_or_default();
            }
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            // Writing to a Vec cannot fail; an empty body would be the visible sign if it ever did.
            let written = encoder.write_all(self.body());
            written
                .and_then(|()| encoder.finish())
                .map(Bytes::from)
                .unwrap_or_default()
        })
    }

    /// Strong entity tag of [`Self::body`], with its quotes.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.tag)
    }

    /// Strong entity tag of [`Self::gzip`], with its quotes: other bytes, so another tag (RFC 9110 section 8.8.3).
    pub fn gzip_etag(&self) -> String {
        format!("\"{}-gzip\"", self.tag)
    }
}

/// A piece of media.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Bytes in memory.
    Memory(Bytes),
    /// Bytes in a file, to be read by position.
    File(FileRange),
}

impl Chunk {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(range) => range.len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An init segment, segment or part. Complete and unchangeable: it may be cached for ever under its name.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The media, in order. Pieces that lie side by side in a file are one.
    pub chunks: Vec<Chunk>,
    /// Sum of the chunks, in bytes.
    pub len: u64,
    /// Strong entity tag, with its quotes.
    pub etag: String,
    /// `Content-Type`.
    pub content_type: &'static str,
}

impl Resource {
    pub(super) fn new(
        name: &str,
        kind: MediaKind,
        pieces: impl IntoIterator<Item = Chunk>,
    ) -> Self {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut len = 0;
        for piece in pieces {
            len += piece.len();
            match (chunks.last_mut(), &piece) {
                (Some(Chunk::File(last)), Chunk::File(next))
                    if Arc::ptr_eq(&last.file, &next.file)
                        && last.offset + last.len == next.offset =>
                {
                    last.len += next.len;
                }
                _ => chunks.push(piece),
            }
        }
        Self {
            chunks,
            len,
            etag: format!("\"{name}\""),
            content_type: match kind {
                MediaKind::Video => "video/mp4",
                MediaKind::Audio => "audio/mp4",
            },
        }
    }
}
