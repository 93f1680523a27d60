//! Finds the newest part that can be decoded by itself.

use std::sync::Arc;

use super::Rendition;
use crate::{hls::document::Chunk, media::InitSegment};

impl Rendition {
    /// Number of that part, its init segment, and its media.
    pub(in crate::hls) fn latest_keyframe(&self) -> Option<(u64, Arc<InitSegment>, Chunk)> {
        let mut segments = self.open.iter().chain(self.segments.iter().rev());
        segments.find_map(|segment| {
            let part = segment.parts.iter().rev().find(|part| part.independent)?;
            let init = Arc::clone(&segment.init.segment);
            Some((part.number, init, part.chunk()))
        })
    }
}
