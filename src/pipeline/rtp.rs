//! RTP packets as GStreamer buffers, and what a depayloader must be told about a track.

use gstreamer as gst;

use crate::media::{Codec, RtpPacket, TrackInfo};

/// Length of an RTP header without contributing sources and extensions (RFC 3550 section 5.1).
const HEADER_LEN: usize = 12;

/// A packet as it would be on the wire, in one piece of memory.
pub(super) fn buffer(packet: &RtpPacket, time: gst::ClockTime, after_loss: bool) -> gst::Buffer {
    let mut bytes = Vec::with_capacity(HEADER_LEN + packet.payload.len());
    bytes.push(2 << 6);
    bytes.push(u8::from(packet.marker) << 7 | packet.payload_type & 0x7f);
    bytes.extend_from_slice(&packet.sequence_number.to_be_bytes());
    bytes.extend_from_slice(&packet.timestamp.to_be_bytes());
    bytes.extend_from_slice(&packet.ssrc.to_be_bytes());
    bytes.extend_from_slice(&packet.payload);
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    if let Some(buffer) = buffer.get_mut() {
        buffer.set_pts(time);
        // Parsers guess decode times when they are absent; the timestamper replaces these.
        buffer.set_dts(time);
        if after_loss {
            buffer.set_flags(gst::BufferFlags::DISCONT);
        }
    }
    buffer
}

/// `application/x-rtp` caps of a track.
pub(super) fn caps(track: &TrackInfo) -> gst::Caps {
    let codec = track.codec;
    let mut caps = gst::Caps::builder("application/x-rtp")
        .field("media", codec.kind().as_str())
        .field("clock-rate", i32::try_from(track.clock_rate).unwrap_or(0))
        // Caps are compared with case, and GStreamer writes these names in capitals.
        .field("encoding-name", codec.encoding_name().to_uppercase())
        .field("payload", i32::from(track.payload_type));
    for (name, value) in parameters(&track.fmtp) {
        if is_wanted(codec, name, value) {
            caps = caps.field(name, value);
        }
    }
    caps.build()
}

/// `name=value` pairs of an `a=fmtp` line (RFC 8866 section 6.15).
fn parameters(fmtp: &str) -> impl Iterator<Item = (&str, &str)> {
    fmtp.split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| !name.is_empty())
}

/// Whether a depayloader should hear of a parameter. Parameter sets only if they are some: a depayloader decodes
/// whatever it is given and passes it on as the stream's own.
fn is_wanted(codec: Codec, name: &str, value: &str) -> bool {
    let nal_units = |is_parameter_set: fn(u8) -> bool| {
        value
            .split(',')
            .all(|text| first_byte(text).is_some_and(is_parameter_set))
    };
    match (codec, name) {
        (Codec::H264, "packetization-mode") => matches!(value, "0" | "1"),
        (Codec::H264, "sprop-parameter-sets") => nal_units(|b| matches!(b & 0x1f, 7 | 8)),
        (Codec::H265, "sprop-vps" | "sprop-sps" | "sprop-pps") => {
            nal_units(|b| (32..=34).contains(&(b >> 1 & 0x3f)))
        }
        (Codec::Opus, "sprop-stereo") => matches!(value, "0" | "1"),
        _ => false,
    }
}

/// First byte of a base64 text that is long enough to be a parameter set.
fn first_byte(text: &str) -> Option<u8> {
    let digits = text.trim_end_matches('=');
    let valid = digits.len() >= 6
        && digits
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    if !valid {
        return None;
    }
    gst::glib::base64_decode(text).first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn track(codec: Codec, fmtp: &str) -> TrackInfo {
        TrackInfo {
            codec,
            payload_type: 96,
            clock_rate: codec.clock_rate(),
            channels: 0,
            fmtp: fmtp.to_owned(),
            mid: "0".to_owned(),
        }
    }

    #[test]
    fn a_packet_is_written_as_on_the_wire() {
        gst::init().unwrap();
        let packet = RtpPacket {
            payload_type: 0x60,
            marker: true,
            sequence_number: 0x0102,
            timestamp: 0x0304_0506,
            ssrc: 0x0708_090a,
            payload: Bytes::from_static(&[0xaa, 0xbb]),
        };
        let buffer = buffer(&packet, gst::ClockTime::from_nseconds(7), true);
        assert_eq!(
            buffer.map_readable().unwrap().as_slice(),
            [0x80, 0xe0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0xaa, 0xbb]
        );
        assert_eq!(buffer.pts(), Some(gst::ClockTime::from_nseconds(7)));
        assert!(buffer.flags().contains(gst::BufferFlags::DISCONT));
    }

    #[test]
    fn sane_parameters_reach_the_caps_and_others_do_not() {
        gst::init().unwrap();
        let caps_of = |fmtp: &str| caps(&track(Codec::H264, fmtp)).to_string();
        let good = caps_of(
            "profile-level-id=42e01f; packetization-mode=1;sprop-parameter-sets=Z0LAH9kA8AUbARAAAAMAEAAAAwPA8YMkgA==,aMuDyyA=",
        );
        assert!(good.contains("packetization-mode=(string)1"), "{good}");
        assert!(good.contains("sprop-parameter-sets"), "{good}");
        for bad in [
            "sprop-parameter-sets=",
            "sprop-parameter-sets=!!!!!!!!",
            "sprop-parameter-sets=AAAAAAAA",
            "packetization-mode=9;sprop-interleaving-depth=3",
        ] {
            let caps = caps_of(bad);
            assert!(!caps.contains("sprop"), "{caps}");
            assert!(!caps.contains("packetization-mode"), "{caps}");
        }
    }

    #[test]
    fn encoding_names_are_in_capitals() {
        gst::init().unwrap();
        let caps = caps(&track(Codec::Opus, "stereo=1;sprop-stereo=1"));
        assert!(
            caps.to_string().contains("encoding-name=(string)OPUS"),
            "{caps}"
        );
    }
}
