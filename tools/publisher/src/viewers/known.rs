//! What the viewers of one rendition know together: each playlist is parsed once and each part searched for its pictures
//! once, by whoever gets it first, so that a thousand viewers cost little more than their sockets.

use std::{
    collections::HashMap,
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use bytes::Bytes;

use crate::{
    stamp::{self, Stamp},
    watch::MediaPlaylist,
};

/// More than anybody can be behind; then all is forgotten, to bound memory.
const LIMIT: usize = 512;
/// How much is kept for [`Kept`]: 20 s at five parts a second.
const KEEP: usize = 100;

/// A playlist as it was sent.
#[derive(Debug)]
pub(super) struct Listed {
    /// Bytes on the wire.
    pub(super) length: usize,
    pub(super) playlist: MediaPlaylist,
}

/// A part as it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Bytes on the wire.
    pub(super) length: usize,
    /// The newest picture in it.
    pub(super) newest: Option<Stamp>,
    /// Pictures of other sessions in it.
    pub(super) foreign: u64,
}

/// Answers to be served again by something else.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) playlists: Vec<Bytes>,
    pub(super) parts: Vec<Bytes>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    publication: u32,
    keep: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    playlists: HashMap<Box<[u8]>, Arc<Listed>>,
    parts: HashMap<Box<str>, Measured>,
    kept: Kept,
}

impl Known {
    /// `publication` is what the publisher puts into its stamps.
    pub(super) fn new(publication: u32, keep: bool) -> Self {
        Self {
            publication,
            keep,
            state: Mutex::default(),
        }
    }

    pub(super) fn playlist(&self, etag: &[u8]) -> Option<Arc<Listed>> {
        self.lock().playlists.get(etag).cloned()
    }

    pub(super) fn add_playlist(&self, etag: &[u8], gzip: bool, body: &[u8]) -> Result<Arc<Listed>> {
        let text = if gzip {
            let mut text = String::new();
            flate2::read::GzDecoder::new(body)
                .read_to_string(&mut text)
                .context("a playlist is not gzip")?;
            text
        } else {
            String::from_utf8(body.to_vec()).context("a playlist is not text")?
        };
        let listed = Arc::new(Listed {
            length: body.len(),
            playlist: MediaPlaylist::parse(&text)?,
        });
        let mut state = self.lock();
        if state.playlists.len() >= LIMIT {
            state.playlists.clear();
        }
        let known = state.playlists.insert(etag.into(), Arc::clone(&listed));
        if self.keep && known.is_none() && state.kept.playlists.len() < KEEP {
            state.kept.playlists.push(Bytes::copy_from_slice(body));
        }
        Ok(listed)
    }

    pub(super) fn part(&self, uri: &str) -> Option<Measured> {
        self.lock().parts.get(uri).copied()
    }

    pub(super) fn add_part(&self, uri: &str, body: &[u8]) -> Measured {
        let mut measured = Measured {
            length: body.len(),
            newest: None,
            foreign: 0,
        };
        for stamp in stamp::find_all(body) {
            if stamp.publication == self.publication {
                measured.newest = measured.newest.max(Some(stamp));
            } else {
                measured.foreign += 1;
            }
        }
        let mut state = self.lock();
        if state.parts.len() >= LIMIT {
            state.parts.clear();
        }
        let known = state.parts.insert(uri.into(), measured);
        if self.keep && known.is_none() && state.kept.parts.len() < KEEP {
            state.kept.parts.push(Bytes::copy_from_slice(body));
        }
        measured
    }

    /// What was kept, to be served again.
    pub(super) fn kept(&self) -> Kept {
        self.lock().kept.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn playlists_and_parts_are_known_by_their_names() {
        let known = Known::new(7, true);
        let text = "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:3\n#EXT-X-PART:DURATION=1,URI=\"a\"\n";
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(text.as_bytes()).unwrap();
        let zipped = zip.finish().unwrap();
        assert!(known.playlist(b"\"x\"").is_none());
        known.add_playlist(b"\"x\"", true, &zipped).unwrap();
        known.add_playlist(b"\"x\"", true, &zipped).unwrap();
        let listed = known.playlist(b"\"x\"").unwrap();
        assert_eq!(listed.length, zipped.len());
        assert_eq!(listed.playlist.next(), (3, 1));
        assert!(known.add_playlist(b"\"y\"", true, b"junk").is_err());

        let stamps = [Stamp::now(7, 1), Stamp::now(7, 2), Stamp::now(8, 9)];
        let part: Vec<u8> = stamps.iter().flat_map(Stamp::h264_sei).collect();
        let measured = known.add_part("a", &part);
        assert_eq!(measured.newest.unwrap().picture, 2);
        assert_eq!(measured.foreign, 1);
        assert_eq!(known.part("a").unwrap().length, part.len());
        assert!(known.part("b").is_none());
        let kept = known.kept();
        assert_eq!((kept.playlists.len(), kept.parts.len()), (1, 1));
    }
}
