//! One media line of an offer: whether it can be received, and by which codec.

use rtc::sdp::{MediaDescription, SessionDescription};

use super::{Feedback, OfferedTrack, invalid, unsupported, values};
use crate::{
    media::{Codec, MediaKind, TrackInfo},
    transport::PublishError,
};

/// Header extension that carries transport-wide sequence numbers, which congestion feedback refers to.
const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// Checks one media line and chooses its codec.
pub(super) fn track(
    sdp: &SessionDescription,
    line: &MediaDescription,
    codecs: &[Codec],
) -> Result<OfferedTrack, PublishError> {
    let kind = if line.media_name.media == "video" {
        MediaKind::Video
    } else {
        MediaKind::Audio
    };
    let protocol = line.media_name.protos.join("/");
    if !matches!(
        protocol.as_str(),
        "UDP/TLS/RTP/SAVPF" | "UDP/TLS/RTP/SAVP" | "TCP/DTLS/RTP/SAVPF" | "TCP/TLS/RTP/SAVPF"
    ) {
        return Err(invalid(format!(
            "the {kind} line uses {protocol}; WebRTC needs UDP/TLS/RTP/SAVPF (RFC 8827 section 6.5)"
        )));
    }
    if line.media_name.port.value == 0 && !line.has_attribute("bundle-only") {
        return Err(invalid(format!(
            "the {kind} line is switched off (port 0 without a=bundle-only)"
        )));
    }
    if let Some(direction) = ["recvonly", "inactive"]
        .into_iter()
        .find(|direction| direction_of(sdp, line) == Some(*direction))
    {
        return Err(invalid(format!(
            "the {kind} line is {direction}; a publisher sends, so it must be sendonly or sendrecv (RFC 9725 section 4.2)"
        )));
    }
    if !line.has_attribute("rtcp-mux") {
        return Err(invalid(format!(
            "the {kind} line has no a=rtcp-mux (RFC 9725 section 4.4.1)"
        )));
    }
    let mid = values(&line.attributes, "mid").next().unwrap_or_default();
    if mid.is_empty() || mid.len() > 255 || mid.contains(char::is_whitespace) {
        return Err(invalid(format!("the {kind} line has no a=mid")));
    }
    let formats = formats(line);
    let chosen = choose(kind, &formats, codecs)?;
    Ok(OfferedTrack {
        info: TrackInfo {
            codec: chosen.codec,
            payload_type: chosen.format.payload_type,
            clock_rate: chosen.format.clock_rate,
            channels: match kind {
                MediaKind::Video => 0,
                MediaKind::Audio => chosen.format.channels,
            },
            fmtp: chosen.format.fmtp.clone(),
            mid: mid.to_owned(),
        },
        protocol,
        feedback: feedback(line, chosen.format.payload_type),
        transport_cc: values(&line.attributes, "extmap").find_map(|extmap| {
            let (id, uri) = extmap.split_once(' ')?;
            let uri = uri.split_ascii_whitespace().next()?;
            let id = id.split('/').next()?.parse().ok()?;
            (uri == TRANSPORT_CC && (1..=14).contains(&id)).then_some(id)
        }),
        ssrcs: ssrcs(line),
    })
}

/// The direction attribute of a line, or the session's (RFC 8866 section 6.7).
fn direction_of(sdp: &SessionDescription, line: &MediaDescription) -> Option<&'static str> {
    const DIRECTIONS: [&str; 4] = ["sendonly", "sendrecv", "recvonly", "inactive"];
    DIRECTIONS
        .into_iter()
        .find(|direction| line.has_attribute(direction))
        .or_else(|| {
            DIRECTIONS
                .into_iter()
                .find(|direction| sdp.has_attribute(direction))
        })
}

/// One payload type of a media line.
#[derive(Debug)]
struct Format {
    payload_type: u8,
    name: String,
    clock_rate: u32,
    channels: u8,
    fmtp: String,
}

impl Format {
    /// A parameter of the `a=fmtp` line.
    fn parameter(&self, key: &str) -> Option<&str> {
        self.fmtp.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case(key)
                .then_some(value.trim())
        })
    }
}

/// The `a=rtpmap` that a payload type has by RFC 3551 section 6 when the offer leaves it out.
fn static_rtpmap(payload_type: &str) -> Option<&'static str> {
    match payload_type {
        "0" => Some("PCMU/8000"),
        "8" => Some("PCMA/8000"),
        "9" => Some("G722/8000"),
        _ => None,
    }
}

/// The payload types of a media line in the publisher's order; those without a known `a=rtpmap` are left out.
fn formats(line: &MediaDescription) -> Vec<Format> {
    let attribute = |key: &'static str, payload_type: &str| {
        values(&line.attributes, key).find_map(|value| {
            let (number, rest) = value.split_once(char::is_whitespace)?;
            (number == payload_type).then(|| rest.trim().to_owned())
        })
    };
    line.media_name
        .formats
        .iter()
        .filter_map(|number| {
            let rtpmap =
                attribute("rtpmap", number).or_else(|| static_rtpmap(number).map(str::to_owned))?;
            let mut parts = rtpmap.split('/');
            Some(Format {
                payload_type: number.parse().ok().filter(|number| *number < 128)?,
                name: parts.next()?.to_owned(),
                clock_rate: parts.next()?.trim().parse().ok()?,
                channels: match parts.next() {
                    Some(channels) => channels.trim().parse().ok()?,
                    None => 1,
                },
                fmtp: attribute("fmtp", number).unwrap_or_default(),
            })
        })
        .collect()
}

struct Chosen<'a> {
    codec: Codec,
    format: &'a Format,
}

/// Chooses the payload type to receive: the first codec in our order that was offered.
fn choose<'a>(
    kind: MediaKind,
    formats: &'a [Format],
    codecs: &[Codec],
) -> Result<Chosen<'a>, PublishError> {
    let opus = (kind == MediaKind::Audio).then_some(Codec::Opus);
    let further = codecs.iter().copied().filter(|codec| codec.kind() == kind);
    let wanted: Vec<_> = opus.into_iter().chain(further).collect();
    for codec in wanted.iter().copied() {
        let best = formats
            .iter()
            .filter(|format| {
                format.name.eq_ignore_ascii_case(codec.encoding_name())
                    && format.clock_rate == codec.clock_rate()
                    && (kind == MediaKind::Video || codec == Codec::Opus || format.channels == 1)
            })
            // `min_by_key` keeps the first of equals, so the publisher's order decides among the rest.
            .min_by_key(|format| u8::from(!preferred(codec, format)));
        if let Some(format) = best {
            return Ok(Chosen { codec, format });
        }
    }
    let offered = offered_names(formats);
    let accepted = wanted
        .iter()
        .map(|codec| codec.encoding_name())
        .collect::<Vec<_>>()
        .join(", ");
    Err(unsupported(if accepted.is_empty() {
        format!("no {kind} can be received here; the offer has {kind}")
    } else if offered.is_empty() {
        format!("the {kind} line names no codec; {accepted} can be received")
    } else {
        format!(
            "the {kind} line offers {offered}; {accepted} can be received{}",
            way_out(formats)
        )
    }))
}

/// The setting that would take what is offered, for an error text.
fn way_out(formats: &[Format]) -> String {
    let offered = Codec::ALL
        .into_iter()
        .filter(|codec| codec.transcoded_to().is_some())
        .find(|codec| {
            formats
                .iter()
                .any(|format| format.name.eq_ignore_ascii_case(codec.encoding_name()))
        });
    match offered {
        Some(Codec::Vp8) => {
            " (the gateway can transcode VP8 to H264: webrtc.transcode_vp8 = true)".to_owned()
        }
        Some(codec) => format!(
            " (the gateway can transcode {} to opus: add {codec} to webrtc.transcode_audio)",
            codec.encoding_name()
        ),
        None => String::new(),
    }
}

/// Variants of a codec that are taken first where several are offered: H.264 in packetization mode 1 (mode 0 cannot
/// split a picture's slices over packets) and VP9 with 8 bits a sample.
fn preferred(codec: Codec, format: &Format) -> bool {
    match codec {
        Codec::H264 => format.parameter("packetization-mode") == Some("1"),
        Codec::Vp9 => format.parameter("profile-id").unwrap_or("0") == "0",
        Codec::Av1 => format.parameter("profile").unwrap_or("0") == "0",
        Codec::H265 | Codec::Vp8 | Codec::Opus | Codec::G722 | Codec::Pcmu | Codec::Pcma => true,
    }
}

/// The offered codecs for an error text, without retransmission and error correction formats.
fn offered_names(formats: &[Format]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for format in formats {
        let auxiliary = [
            "rtx",
            "red",
            "ulpfec",
            "flexfec-03",
            "telephone-event",
            "CN",
        ]
        .into_iter()
        .any(|name| format.name.eq_ignore_ascii_case(name));
        if !auxiliary
            && !names
                .iter()
                .any(|name| name.eq_ignore_ascii_case(&format.name))
        {
            names.push(&format.name);
        }
    }
    let names: Vec<String> = names
        .into_iter()
        .take(8)
        .map(|name| name.chars().take(32).collect())
        .collect();
    names.join(", ")
}

/// The feedback of `payload_type` that we make use of.
fn feedback(line: &MediaDescription, payload_type: u8) -> Feedback {
    let mut feedback = Feedback::default();
    for value in values(&line.attributes, "rtcp-fb") {
        let Some((number, kind)) = value.split_once(char::is_whitespace) else {
            continue;
        };
        if number != "*" && number.parse() != Ok(payload_type) {
            continue;
        }
        match kind.trim() {
            "nack" => feedback.nack = true,
            "nack pli" => feedback.pli = true,
            "ccm fir" => feedback.fir = true,
            "transport-cc" => feedback.transport_cc = true,
            _ => {}
        }
    }
    feedback
}

/// The line's synchronisation sources, without those that repeat others (`FID`, RFC 4588) or protect them.
fn ssrcs(line: &MediaDescription) -> Vec<u32> {
    let repairs: Vec<u32> = values(&line.attributes, "ssrc-group")
        .filter(|group| group.starts_with("FID") || group.starts_with("FEC"))
        .flat_map(|group| group.split_ascii_whitespace().skip(2))
        .filter_map(|ssrc| ssrc.parse().ok())
        .collect();
    let mut ssrcs = Vec::new();
    for value in values(&line.attributes, "ssrc") {
        if let Some(ssrc) = value
            .split_ascii_whitespace()
            .next()
            .and_then(|ssrc| ssrc.parse().ok())
            && !repairs.contains(&ssrc)
            && !ssrcs.contains(&ssrc)
            && ssrcs.len() < 16
        {
            ssrcs.push(ssrc);
        }
    }
    ssrcs
}
