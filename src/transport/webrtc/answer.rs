//! The two session descriptions of a negotiation: the plain offer the stack sees, and the answer the publisher gets.
//!
//! Owns their text, made from checked values only ([`Offer`]). The stack never sees a publisher's own SDP, so its
//! opinions on codecs, header extensions, simulcast or rejected lines do not matter; the answer is ours to the last
//! line (RFC 9725 section 4.4, RFC 9429 section 5.3.1).

use std::{fmt::Write as _, net::SocketAddr};

use super::candidates::Candidates;
use crate::{
    media::MediaKind,
    transport::{
        IceCredentials,
        offer::{Offer, OfferedTrack, Setup},
    },
};

/// Longest answer FFmpeg reads, in bytes.
#[cfg(test)]
const LONGEST: usize = 8192;

/// Our part in the DTLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// We send the `ClientHello`.
    Active,
    /// We wait for it.
    Passive,
}

impl Role {
    /// The part that fits the offer's; where both would do, we begin, as RFC 8842 section 5.3 recommends.
    pub(super) fn answering(setup: Setup) -> Self {
        match setup {
            Setup::ActPass | Setup::Passive => Self::Active,
            Setup::Active => Self::Passive,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

/// The `a=rtpmap` value without the payload type.
fn rtpmap(track: &OfferedTrack) -> String {
    let info = &track.info;
    let name = info.codec.encoding_name();
    match info.codec.kind() {
        MediaKind::Video => format!("{name}/{}", info.clock_rate),
        // One channel goes without saying (RFC 8866 section 6.6).
        MediaKind::Audio if info.channels <= 1 => format!("{name}/{}", info.clock_rate),
        MediaKind::Audio => format!("{name}/{}/{}", info.clock_rate, info.channels),
    }
}

/// The offer in the few words the stack needs for ICE, DTLS and SRTP.
pub(super) fn plain_offer(offer: &Offer) -> String {
    let mut sdp = String::with_capacity(2048);
    sdp.push_str("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n");
    line(&mut sdp, &format!("group:BUNDLE{}", mids(offer)));
    if offer.ice_lite {
        line(&mut sdp, "ice-lite");
    }
    for fingerprint in &offer.fingerprints {
        line(&mut sdp, &format!("fingerprint:sha-256 {fingerprint}"));
    }
    let setup = match Role::answering(offer.setup) {
        Role::Active => "passive",
        Role::Passive => "active",
    };
    for (index, track) in offer.tracks.iter().enumerate() {
        let info = &track.info;
        let payload_type = info.payload_type;
        let kind = info.codec.kind();
        let _infallible = write!(
            sdp,
            "m={kind} 9 UDP/TLS/RTP/SAVPF {payload_type}\r\nc=IN IP4 0.0.0.0\r\n"
        );
        line(&mut sdp, &format!("mid:{}", info.mid));
        line(&mut sdp, "sendonly");
        line(&mut sdp, "rtcp-mux");
        line(&mut sdp, &format!("ice-ufrag:{}", offer.ice.ufrag));
        line(&mut sdp, &format!("ice-pwd:{}", offer.ice.pwd));
        line(&mut sdp, &format!("setup:{setup}"));
        line(
            &mut sdp,
            &format!("rtpmap:{payload_type} {}", rtpmap(track)),
        );
        if index == 0 {
            for candidate in &offer.candidates {
                line(&mut sdp, candidate);
            }
        }
    }
    sdp
}

/// The complete answer.
pub(super) fn answer(
    offer: &Offer,
    ice: &IceCredentials,
    fingerprint: &str,
    candidates: &Candidates,
    session: u64,
) -> String {
    let role = Role::answering(offer.setup).as_str();
    let address = candidates
        .udp
        .first()
        .copied()
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 9)));
    let connection = match address.ip() {
        std::net::IpAddr::V4(ip) => format!("IN IP4 {ip}"),
        std::net::IpAddr::V6(ip) => format!("IN IP6 {ip}"),
    };
    let mut sdp = String::with_capacity(2048);
    let _infallible = write!(
        sdp,
        "v=0\r\no=- {session} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    );
    if offer.bundle {
        line(&mut sdp, &format!("group:BUNDLE{}", mids(offer)));
    }
    line(&mut sdp, "ice-options:trickle");
    for (index, track) in offer.tracks.iter().enumerate() {
        let kind = track.info.codec.kind();
        let _infallible = write!(
            sdp,
            "m={kind} {} {} {}\r\nc={connection}\r\n",
            address.port(),
            track.protocol,
            track.info.payload_type
        );
        line(&mut sdp, &format!("mid:{}", track.info.mid));
        line(&mut sdp, "recvonly");
        line(&mut sdp, "rtcp-mux");
        line(&mut sdp, "rtcp-mux-only");
        line(&mut sdp, &format!("ice-ufrag:{}", ice.ufrag));
        line(&mut sdp, &format!("ice-pwd:{}", ice.pwd));
        line(&mut sdp, &format!("fingerprint:sha-256 {fingerprint}"));
        line(&mut sdp, &format!("setup:{role}"));
        codec(&mut sdp, track);
        // The first line's candidates stand for the whole BUNDLE group.
        if index == 0 {
            for candidate in candidates.lines() {
                line(&mut sdp, &candidate);
            }
            line(&mut sdp, "end-of-candidates");
        }
    }
    sdp
}

/// The codec of a track, with the feedback and extensions that both sides know.
fn codec(sdp: &mut String, track: &OfferedTrack) {
    let payload_type = track.info.payload_type;
    line(sdp, &format!("rtpmap:{payload_type} {}", rtpmap(track)));
    if !track.info.fmtp.is_empty() {
        line(sdp, &format!("fmtp:{payload_type} {}", track.info.fmtp));
    }
    let feedback = track.feedback;
    for (name, known) in [
        ("nack", feedback.nack),
        ("nack pli", feedback.pli),
        ("ccm fir", feedback.fir),
        ("transport-cc", feedback.transport_cc),
    ] {
        if known {
            line(sdp, &format!("rtcp-fb:{payload_type} {name}"));
        }
    }
    if let Some(id) = track.transport_cc.filter(|_| feedback.transport_cc) {
        line(
            sdp,
            &format!(
                "extmap:{id} {}",
                rtc::sdp::description::media::EXT_MAP_VALUE_TRANSPORT_CC_URI
            ),
        );
    }
}

fn line(sdp: &mut String, attribute: &str) {
    sdp.push_str("a=");
    sdp.push_str(attribute);
    sdp.push_str("\r\n");
}

fn mids(offer: &Offer) -> String {
    offer.tracks.iter().fold(String::new(), |mut mids, track| {
        mids.push(' ');
        mids.push_str(&track.info.mid);
        mids
    })
}

/// The value of the first SHA-256 fingerprint in the stack's own answer.
pub(super) fn fingerprint_of(sdp: &str) -> Option<&str> {
    sdp.lines()
        .find_map(|line| line.strip_prefix("a=fingerprint:sha-256 "))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media::Codec,
        transport::offer::tests::{CHROMIUM, FFMPEG, FIREFOX, OBS},
    };

    const VIDEO: [Codec; 4] = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9];

    fn answer_to(offer: &str) -> String {
        let offer = Offer::parse(offer, &VIDEO).unwrap();
        let candidates = Candidates {
            udp: (1..=8)
                .map(|n| SocketAddr::from(([0x2001, 0xdb8, 1, 2, 3, 4, 5, n], 40_000)))
                .collect(),
            tcp: vec!["192.0.2.1:4001".parse().unwrap()],
        };
        let ice = IceCredentials {
            ufrag: "0123456789abcdef".to_owned(),
            pwd: "0123456789abcdef0123456789abcdef".to_owned(),
        };
        answer(&offer, &ice, &"AB:".repeat(31), &candidates, 7)
    }

    #[test]
    fn the_answer_follows_the_offer() {
        insta::assert_snapshot!(answer_to(CHROMIUM).replace('\r', ""));
    }

    #[test]
    fn ffmpeg_can_use_it() {
        let answer = answer_to(FFMPEG);
        assert!(answer.starts_with("v="));
        assert!(answer.len() <= LONGEST, "{} bytes", answer.len());
        assert!(answer.contains("a=setup:active\r\n"));
        let host = answer
            .lines()
            .find(|line| line.contains("typ host"))
            .unwrap();
        assert!(host.contains(" udp "), "{host}");
        let fingerprint = answer
            .lines()
            .find(|line| line.starts_with("a=fingerprint"))
            .unwrap();
        assert!(fingerprint.starts_with("a=fingerprint:sha-256 "));
    }

    #[test]
    fn nothing_is_answered_that_was_not_offered() {
        for offer in [CHROMIUM, FFMPEG, FIREFOX, OBS] {
            let answer = answer_to(offer);
            for line in answer.lines().filter(|line| {
                ["a=rtpmap:", "a=extmap:", "a=mid:", "a=rtcp-fb:"]
                    .iter()
                    .any(|key| line.starts_with(key))
            }) {
                assert!(
                    offer
                        .lines()
                        .any(|offered| offered.eq_ignore_ascii_case(line)),
                    "{line} is not in the offer"
                );
            }
            assert!(!answer.contains("simulcast") && !answer.contains("actpass"));
        }
    }

    #[test]
    fn the_plain_offer_is_one_the_stack_can_read() {
        for offer in [CHROMIUM, FFMPEG, FIREFOX, OBS] {
            let offer = Offer::parse(offer, &VIDEO).unwrap();
            let plain = plain_offer(&offer);
            let again = Offer::parse(&plain, &VIDEO).unwrap();
            assert_eq!(again.ice.ufrag, offer.ice.ufrag);
            assert_eq!(again.fingerprints, offer.fingerprints);
            assert_eq!(again.tracks.len(), offer.tracks.len());
            assert_eq!(again.candidates, offer.candidates);
        }
    }

    #[test]
    fn the_stacks_fingerprint_is_found() {
        let sdp = "v=0\r\na=fingerprint:sha-512 00\r\na=fingerprint:sha-256 AB:CD\r\n";
        assert_eq!(fingerprint_of(sdp), Some("AB:CD"));
        assert_eq!(fingerprint_of("v=0\r\n"), None);
    }
}
