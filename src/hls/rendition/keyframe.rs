//! Finds the newest part that can be decoded by itself.

use std::sync::Arc;

use super::Rendition;
use crate::{hls::document::Chunk, media::InitSegment};

impl Rendition {
    /// Number of that part, its init segment, and its media.
    pub(in crate::hls) fn latest_keyframe(&self) -> Option<(u64, Arc<InitSegment>, Chunk)> {
        let segments = self.open.iter().chain(self.segments.iter().rev());
        segments
            .filter_map(|segment| {
                let part = segment.parts.iter().rev().find(|part| part.independent)?;
                Some((part.number, Arc::clone(&segment.init.segment), part.chunk()))
            })
            .next()
    }
}
