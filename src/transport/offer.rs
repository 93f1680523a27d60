//! Reads an SDP offer and decides, before the WebRTC stack sees any of it, what is taken and what is refused.
//!
//! Owns the rules of RFC 9725 section 4.4 and the choice of one codec per media line; the result, [`Offer`], holds
//! checked plain values only. It knows neither peer connections nor HTTP: a refusal is a [`PublishError`] whose text
//! tells the client what was wrong with this offer.

use std::net::IpAddr;

use rtc::sdp::{MediaDescription, SessionDescription, description::common::Attribute};

use super::{IceCredentials, PublishError};
use crate::media::{Codec, MediaKind, TrackInfo};

mod line;
#[cfg(test)]
pub(super) mod tests;

/// More media lines than any publisher needs, few enough to bound the work on a hostile offer.
const MAX_MEDIA_LINES: usize = 8;

/// Candidates of one offer that are looked at.
const MAX_CANDIDATES: usize = 16;

/// A checked offer: everything in it is accepted.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// The accepted media lines in the offer's order; at least one, at most one per kind.
    pub(crate) tracks: Vec<OfferedTrack>,
    /// The offer has a BUNDLE group, so the answer has one as well (RFC 9143 section 7.3).
    pub(crate) bundle: bool,
    /// The publisher's ICE credentials.
    pub(crate) ice: IceCredentials,
    /// The publisher does ICE-lite (RFC 8445 section 2.5).
    pub(crate) ice_lite: bool,
    /// SHA-256 fingerprints of the publisher's certificate, 32 hexadecimal octets joined by colons.
    pub(crate) fingerprints: Vec<String>,
    /// The publisher's part in the DTLS handshake.
    pub(crate) setup: Setup,
    /// UDP candidates with an address, each from `candidate:` on.
    pub(crate) candidates: Vec<String>,
}

/// `a=setup` of an offer (RFC 8842 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// The publisher takes either part.
    ActPass,
    /// The publisher is the DTLS client.
    Active,
    /// The publisher is the DTLS server.
    Passive,
}

/// One accepted media line with the one codec that was chosen for it.
#[derive(Clone, Debug)]
pub(crate) struct OfferedTrack {
    /// What the rest of the gateway learns about the track.
    pub(crate) info: TrackInfo,
    /// The transport protocol of the media line, repeated in the answer.
    pub(crate) protocol: String,
    /// RTCP feedback that both sides know.
    pub(crate) feedback: Feedback,
    /// Identifier of the transport-wide congestion control extension, when it was offered.
    pub(crate) transport_cc: Option<u8>,
    /// Synchronisation sources the offer names for the track; may be empty.
    pub(crate) ssrcs: Vec<u32>,
}

/// RTCP feedback messages a publisher understands for its codec (RFC 4585 section 4.2, RFC 5104 section 7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Feedback {
    /// Generic NACK.
    pub(crate) nack: bool,
    /// Picture loss indication.
    pub(crate) pli: bool,
    /// Full intra request.
    pub(crate) fir: bool,
    /// Transport-wide congestion control.
    pub(crate) transport_cc: bool,
}

impl Offer {
    /// Checks `text`. `codecs` are the codecs to take, the preferred one first; Opus is always taken, before any other
    /// for sound.
    pub(crate) fn parse(text: &str, codecs: &[Codec]) -> Result<Self, PublishError> {
        let sdp = read(text)?;
        let lines = &sdp.media_descriptions;
        if lines.is_empty() {
            return Err(invalid(
                "it has no media: expected one m=video and one m=audio line, or one of them",
            ));
        }
        if lines.len() > MAX_MEDIA_LINES {
            return Err(unsupported(format!(
                "the offer has {} media lines, at most one video and one audio line can be taken",
                lines.len()
            )));
        }
        check_counts(lines)?;
        let tracks = lines
            .iter()
            .map(|line| line::track(&sdp, line, codecs))
            .collect::<Result<Vec<_>, _>>()?;
        let bundle = check_bundle(&sdp, &tracks)?;
        for (index, track) in tracks.iter().enumerate() {
            if tracks[..index]
                .iter()
                .any(|other| other.info.payload_type == track.info.payload_type)
            {
                return Err(invalid(format!(
                    "payload type {} stands for two codecs within one BUNDLE group (RFC 9143 section 9.1)",
                    track.info.payload_type
                )));
            }
        }
        Ok(Self {
            bundle,
            ice: ice_credentials(&sdp)?,
            ice_lite: sdp.has_attribute("ice-lite"),
            fingerprints: fingerprints(&sdp)?,
            setup: setup(&sdp)?,
            candidates: lines
                .iter()
                .flat_map(|line| values(&line.attributes, "candidate"))
                .filter(|candidate| usable_candidate(candidate))
                .map(|candidate| format!("candidate:{candidate}"))
                .take(MAX_CANDIDATES)
                .collect(),
            tracks,
        })
    }
}

/// Whether a remote candidate can be used: component 1, UDP, an address rather than a name. `candidate` is what
/// follows `candidate:`. TCP candidates of a publisher are active ones, which connect to us by themselves; names
/// ending in `.local` (mDNS) are not looked up, as the publisher's own checks reveal its address.
pub(crate) fn usable_candidate(candidate: &str) -> bool {
    let mut words = candidate.split_ascii_whitespace();
    let (_foundation, component, transport, _priority, address, port) = (
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
    );
    component == Some("1")
        && transport.is_some_and(|transport| transport.eq_ignore_ascii_case("udp"))
        && address.is_some_and(|address| {
            address
                .parse::<IpAddr>()
                .is_ok_and(|ip| !ip.is_unspecified() && !ip.is_multicast())
        })
        && port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
        && words.next() == Some("typ")
}

fn invalid(reason: impl Into<String>) -> PublishError {
    PublishError::InvalidOffer(reason.into())
}

fn unsupported(reason: impl Into<String>) -> PublishError {
    PublishError::UnsupportedMedia(reason.into())
}

/// Parses the text from its `v=0` on; some encoders put other text before it.
fn read(text: &str) -> Result<SessionDescription, PublishError> {
    let start = if text.starts_with("v=0") {
        0
    } else {
        text.find("\nv=0")
            .map(|position| position + 1)
            .ok_or_else(|| invalid("it is not SDP: there is no line v=0"))?
    };
    let lines = text
        .get(start..)
        .unwrap_or_default()
        .split(['\r', '\n'])
        .filter(|line| !line.is_empty());
    let mut normalized = String::with_capacity(text.len() + 64);
    for line in lines {
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(invalid("it has a control character in a line"));
        }
        normalized.push_str(line);
        normalized.push_str("\r\n");
    }
    SessionDescription::unmarshal(&mut std::io::Cursor::new(normalized.as_bytes()))
        .map_err(|error| invalid(format!("it is not valid SDP (RFC 8866): {error}")))
}

/// All values of the attribute `key`, in order.
fn values<'a>(attributes: &'a [Attribute], key: &'a str) -> impl Iterator<Item = &'a str> {
    attributes
        .iter()
        .filter(move |attribute| attribute.key == key)
        .filter_map(|attribute| attribute.value.as_deref())
        .map(str::trim)
}

/// The value of `key` in the first media line that has it, else at session level.
fn transport_value<'a>(sdp: &'a SessionDescription, key: &'a str) -> Option<&'a str> {
    sdp.media_descriptions
        .iter()
        .find_map(|line| values(&line.attributes, key).next())
        .or_else(|| values(&sdp.attributes, key).next())
}

/// Refuses what can be told from the kinds of the media lines alone (RFC 9725 section 4.4.2).
fn check_counts(lines: &[MediaDescription]) -> Result<(), PublishError> {
    let count = |kind: MediaKind| {
        lines
            .iter()
            .filter(|line| line.media_name.media == kind.as_str())
            .count()
    };
    for line in lines {
        let media = line.media_name.media.as_str();
        match media {
            "video" | "audio" => {}
            "application" => {
                return Err(unsupported(
                    "the offer has a data channel (m=application), which cannot be received; offer video and audio only",
                ));
            }
            other => {
                return Err(unsupported(format!(
                    "the offer has an m={other} line; only video and audio can be received"
                )));
            }
        }
    }
    for kind in [MediaKind::Video, MediaKind::Audio] {
        if count(kind) > 1 {
            return Err(unsupported(format!(
                "the offer has {} {kind} lines; at most one video and one audio line can be received",
                count(kind)
            )));
        }
    }
    Ok(())
}

/// All media lines must share one transport (RFC 9725 section 4.4.1). Returns whether there is a BUNDLE group.
fn check_bundle(sdp: &SessionDescription, tracks: &[OfferedTrack]) -> Result<bool, PublishError> {
    let group = values(&sdp.attributes, "group")
        .find_map(|group| group.strip_prefix("BUNDLE"))
        .map(|mids| mids.split_ascii_whitespace().collect::<Vec<_>>());
    for (index, track) in tracks.iter().enumerate() {
        let mid = track.info.mid.as_str();
        if tracks[..index].iter().any(|other| other.info.mid == mid) {
            return Err(invalid(format!("two media lines have the mid {mid:?}")));
        }
        let bundled = group.as_ref().is_some_and(|mids| mids.contains(&mid));
        if !bundled && (group.is_some() || tracks.len() > 1) {
            return Err(invalid(format!(
                "the media line {mid:?} is not in a BUNDLE group (RFC 9725 section 4.4.1)"
            )));
        }
    }
    Ok(group.is_some())
}

fn ice_credentials(sdp: &SessionDescription) -> Result<IceCredentials, PublishError> {
    let credential = |key: &'static str, least: usize| {
        transport_value(sdp, key)
            .filter(|value| {
                (least..=256).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic())
            })
            .map(str::to_owned)
            .ok_or_else(|| {
                invalid(format!(
                    "it has no usable a={key} ({least} to 256 characters, RFC 8839 section 5.4)"
                ))
            })
    };
    Ok(IceCredentials {
        ufrag: credential("ice-ufrag", 4)?,
        pwd: credential("ice-pwd", 22)?,
    })
}

fn fingerprints(sdp: &SessionDescription) -> Result<Vec<String>, PublishError> {
    let mut all = values(&sdp.attributes, "fingerprint")
        .chain(
            sdp.media_descriptions
                .iter()
                .flat_map(|line| values(&line.attributes, "fingerprint")),
        )
        .peekable();
    if all.peek().is_none() {
        return Err(invalid("it has no a=fingerprint (RFC 8842 section 5.1)"));
    }
    let mut usable: Vec<String> = Vec::new();
    for value in all {
        let Some((algorithm, octets)) = value.split_once(char::is_whitespace) else {
            continue;
        };
        let octets = octets.trim().to_ascii_uppercase();
        let well_formed = octets.split(':').count() == 32
            && octets
                .split(':')
                .all(|octet| octet.len() == 2 && octet.bytes().all(|b| b.is_ascii_hexdigit()));
        if algorithm.eq_ignore_ascii_case("sha-256")
            && well_formed
            && !usable.contains(&octets)
            && usable.len() < 8
        {
            usable.push(octets);
        }
    }
    if usable.is_empty() {
        return Err(invalid(
            "it has no well-formed sha-256 a=fingerprint (RFC 8122 section 5)",
        ));
    }
    Ok(usable)
}

fn setup(sdp: &SessionDescription) -> Result<Setup, PublishError> {
    match transport_value(sdp, "setup") {
        Some("actpass") => Ok(Setup::ActPass),
        Some("active") => Ok(Setup::Active),
        Some("passive") => Ok(Setup::Passive),
        Some(other) => Err(invalid(format!(
            "a=setup:{other} cannot be answered; expected actpass (RFC 8842 section 5.2)"
        ))),
        None => Err(invalid("it has no a=setup (RFC 8842 section 5.2)")),
    }
}
