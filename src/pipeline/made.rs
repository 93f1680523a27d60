//! What the mux puts out, from GStreamer's buffers into plain values.

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;

use super::{Output, mux::PartMeta};
use crate::media::{InitSegment, Part};

/// The initialization segment in a buffer, whose caps `pad` has; `None` if the mux did not make it.
pub(super) fn init_segment(pad: &gst::Pad, buffer: gst::Buffer) -> Option<Output> {
    let caps = pad.current_caps()?;
    let structure = caps.structure(0)?;
    let size = |name: &str| structure.get::<u32>(name).ok();
    Some(Output::Init(InitSegment {
        bytes: bytes(buffer)?,
        codecs: structure.get("codecs").ok()?,
        timescale: structure.get("timescale").ok()?,
        resolution: size("width").zip(size("height")),
        channels: size("channels")
            .and_then(|c| u8::try_from(c).ok())
            .unwrap_or(0),
    }))
}

/// The part in a buffer; `None` if the mux did not make it.
pub(super) fn part(buffer: gst::Buffer) -> Option<Output> {
    let meta = PartMeta::of(&buffer)?;
    Some(Output::Part(Part {
        bytes: bytes(buffer)?,
        decode_time: meta.decode_time,
        presentation_time: meta.presentation_time,
        duration: meta.duration,
        samples: meta.samples,
        independent: meta.independent,
        starts_segment: meta.starts_segment,
        discontinuity: meta.discontinuity,
    }))
}

/// The buffer's memory, without a copy.
fn bytes(buffer: gst::Buffer) -> Option<Bytes> {
    Some(Bytes::from_owner(
        buffer.into_mapped_buffer_readable().ok()?,
    ))
}
