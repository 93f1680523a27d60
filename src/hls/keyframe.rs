//! The newest picture of a stream that can be decoded by itself, as the bytes that viewers get.

use std::sync::Arc;

use super::{RenditionId, Stream, StreamKey, document::Chunk};
use crate::media::InitSegment;

/// A keyframe, and what its part has behind it.
#[derive(Clone, Debug)]
pub struct Keyframe {
    /// The stream it is from.
    pub stream: StreamKey,
    /// Number of its part; with the stream it tells it from all others of the session.
    pub part: u64,
    /// What its part continues.
    pub init: Arc<InitSegment>,
    /// `moof` and `mdat` of the part.
    pub media: Chunk,
}

impl Stream {
    /// The newest keyframe of the video, also after the stream's end; `None` while there is no video.
    pub fn latest_keyframe(&self) -> Option<Keyframe> {
        let state = self.0.lock();
        let mut renditions = state.renditions.iter();
        let video = renditions.find(|r| r.id == RenditionId::Video && r.expected)?;
        let (part, init, media) = video.latest_keyframe()?;
        Some(Keyframe {
            stream: self.0.key.clone(),
            part,
            init,
            media,
        })
    }
}
