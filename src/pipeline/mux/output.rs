//! The buffers that leave the element.

use gst::{glib, prelude::*};
use gstreamer as gst;

use super::{PartMeta, boxes, format::TrackFormat, fragment::Fragment};

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("cannot write boxes: {0}")]
    Boxes(#[from] mp4_atom::Error),
    #[error("cannot describe a part: {0}")]
    Meta(#[from] glib::BoolError),
}

/// The initialization segment of a track, and the caps of everything after it.
pub(super) fn init(
    format: &TrackFormat,
    track_id: u32,
    timescale: u32,
) -> Result<(gst::Caps, gst::Buffer), WriteError> {
    let bytes = boxes::init_segment(format, track_id, timescale)?;
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    if let Some(buffer) = buffer.get_mut() {
        buffer.set_flags(gst::BufferFlags::HEADER);
    }
    let mut caps = gst::Caps::builder("video/quicktime")
        .field("variant", "iso-fragmented")
        .field("codecs", &format.codecs)
        .field("timescale", timescale)
        .field("streamheader", gst::Array::new([&buffer]));
    if let Some((width, height)) = format.resolution {
        caps = caps.field("width", width).field("height", height);
    } else {
        caps = caps.field("channels", u32::from(format.channels));
    }
    Ok((caps.build(), buffer))
}

/// What leaves the mux.
pub(super) fn made() -> gst::Caps {
    gst::Caps::builder("video/quicktime")
        .field("variant", "iso-fragmented")
        .build()
}

/// One part.
pub(super) fn part(
    fragment: &Fragment<gst::Buffer>,
    track_id: u32,
    timescale: u32,
) -> Result<gst::Buffer, WriteError> {
    let bytes = boxes::part(fragment, track_id, |data, bytes| {
        if let Ok(map) = data.map_readable() {
            bytes.extend_from_slice(&map);
        }
    })?;
    let meta = PartMeta {
        decode_time: fragment.decode_time,
        presentation_time: fragment.presentation_time,
        duration: fragment.duration,
        samples: u32::try_from(fragment.samples.len()).unwrap_or(u32::MAX),
        independent: fragment.samples.first().is_some_and(|s| s.sync),
        starts_segment: fragment.starts_segment,
        discontinuity: fragment.discontinuity,
    };
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    if let Some(buffer) = buffer.get_mut() {
        let time = |ticks| gst::ClockTime::SECOND.mul_div_round(ticks, u64::from(timescale));
        buffer.set_dts(time(meta.decode_time));
        buffer.set_pts(time(meta.presentation_time));
        buffer.set_duration(time(meta.duration));
        if !meta.independent {
            buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        if meta.discontinuity {
            buffer.set_flags(gst::BufferFlags::DISCONT);
        }
        meta.attach(buffer)?;
    }
    Ok(buffer)
}
