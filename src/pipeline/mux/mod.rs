//! `whipgatemux`, the GStreamer element that turns one track's access units into CMAF parts.
//!
//! One sink pad, one source pad, a plain chain function: no thread, no clock, no aggregation, so that output depends on
//! input only. The element itself (`imp`) is glue; the cut rules, the timeline, the boxes and the codecs are separate
//! modules without GStreamer in them. What operators may rely on is written in `pipelines/README.md`.

mod aac;
mod av1;
mod bits;
mod boxes;
mod format;
mod fragment;
mod h26x;
// Deriving properties makes public accessors.
#[allow(unreachable_pub)]
mod imp;
mod opus;
mod output;
mod settings;
mod silence;
mod vp9;

pub(super) use bits::Bits;
use gst::{glib, prelude::*};
use gstreamer as gst;

/// Name of the element's factory.
pub(crate) const FACTORY: &str = "whipgatemux";
/// Name of the custom meta that every part carries.
const PART_META: &str = "WhipgatePart";
/// Name of the action signal that closes the open part.
pub(crate) const END_PART: &str = "end-part";
/// Name of the action signal that puts silence where sound is missing.
pub(crate) const FILL_SILENCE: &str = "fill-silence";

glib::wrapper! {
    /// The element.
    pub(crate) struct Mux(ObjectSubclass<imp::Mux>) @extends gst::Element, gst::Object;
}

/// Makes the element and its meta known to GStreamer. To be called once, after `gst::init`.
pub(crate) fn register() -> Result<(), glib::BoolError> {
    if !gst::meta::CustomMeta::is_registered(PART_META) {
        gst::meta::CustomMeta::register(PART_META, &[]);
    }
    gst::Element::register(None, FACTORY, gst::Rank::NONE, Mux::static_type())
}

/// What a part's meta says: the exact values that buffer timestamps, being nanoseconds, cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartMeta {
    /// Decode time of the first sample, in ticks.
    pub decode_time: u64,
    /// Earliest presentation time, in ticks.
    pub presentation_time: u64,
    /// Sum of the sample durations, in ticks.
    pub duration: u64,
    /// Number of samples.
    pub samples: u32,
    /// Starts with a sample that can be decoded by itself.
    pub independent: bool,
    /// First part of a segment.
    pub starts_segment: bool,
    /// Not continuous with the part before.
    pub discontinuity: bool,
}

impl PartMeta {
    fn attach(&self, buffer: &mut gst::BufferRef) -> Result<(), glib::BoolError> {
        let mut meta = gst::meta::CustomMeta::add(buffer, PART_META)?;
        let structure = meta.mut_structure();
        structure.set("decode-time", self.decode_time);
        structure.set("presentation-time", self.presentation_time);
        structure.set("duration", self.duration);
        structure.set("samples", self.samples);
        structure.set("independent", self.independent);
        structure.set("starts-segment", self.starts_segment);
        structure.set("discontinuity", self.discontinuity);
        Ok(())
    }

    /// The meta of a part's buffer; `None` if it has none.
    pub(crate) fn of(buffer: &gst::BufferRef) -> Option<Self> {
        let meta = gst::meta::CustomMeta::from_buffer(buffer, PART_META).ok()?;
        let structure = meta.structure();
        Some(Self {
            decode_time: structure.get("decode-time").ok()?,
            presentation_time: structure.get("presentation-time").ok()?,
            duration: structure.get("duration").ok()?,
            samples: structure.get("samples").ok()?,
            independent: structure.get("independent").ok()?,
            starts_segment: structure.get("starts-segment").ok()?,
            discontinuity: structure.get("discontinuity").ok()?,
        })
    }
}
