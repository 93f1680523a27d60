//! Offers as real clients write them, and offers that must be refused.

use super::*;

const ALL: [Codec; 4] = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9];

macro_rules! offer {
    ($name:literal) => {
        include_str!(concat!("fixtures/", $name, ".sdp"))
    };
}

/// OBS 32.2: libdatachannel, one codec per line, no candidates.
pub(crate) const OBS: &str = offer!("obs");
/// FFmpeg 8.0: passive, H.264 as payload type 106.
pub(crate) const FFMPEG: &str = offer!("ffmpeg");
/// Chromium: many codecs, mDNS candidates.
pub(crate) const CHROMIUM: &str = offer!("chromium");
/// Firefox: bundle-only second line, fingerprint at session level.
pub(crate) const FIREFOX: &str = offer!("firefox");
/// GStreamer's whipclientsink: video first, `OPUS`, red and ulpfec.
pub(crate) const GSTREAMER: &str = offer!("gstreamer");

fn parse(text: &str) -> Result<Offer, PublishError> {
    Offer::parse(text, &ALL)
}

fn refusal(text: &str) -> PublishError {
    parse(text).expect_err("this offer must be refused")
}

fn chosen(text: &str) -> Vec<(Codec, u8)> {
    parse(text)
        .unwrap()
        .tracks
        .iter()
        .map(|track| (track.info.codec, track.info.payload_type))
        .collect()
}

#[test]
fn obs() {
    let offer = parse(OBS).unwrap();
    assert_eq!(chosen(OBS), [(Codec::Opus, 111), (Codec::H264, 96)]);
    assert!(offer.candidates.is_empty());
    assert_eq!(offer.setup, Setup::ActPass);
    let audio = &offer.tracks[0];
    assert_eq!((audio.info.clock_rate, audio.info.channels), (48_000, 2));
    assert!(audio.info.fmtp.contains("sprop-stereo=1"));
    assert!(audio.feedback.nack);
    let video = &offer.tracks[1];
    assert_eq!(video.info.channels, 0);
    assert!(video.feedback.nack && video.feedback.pli);
    assert_eq!(video.transport_cc, None);
    assert_eq!(video.ssrcs.len(), 1);
}

#[test]
fn ffmpeg() {
    let offer = parse(FFMPEG).unwrap();
    assert_eq!(chosen(FFMPEG), [(Codec::Opus, 111), (Codec::H264, 106)]);
    assert_eq!(offer.setup, Setup::Passive);
    assert!(offer.bundle);
    assert_eq!(offer.tracks[1].feedback, Feedback::default());
}

#[test]
fn chromium() {
    let offer = parse(CHROMIUM).unwrap();
    // The first H.264 with packetization mode 1, though mode 0 and VP8 come before it.
    assert_eq!(chosen(CHROMIUM), [(Codec::Opus, 111), (Codec::H264, 103)]);
    let video = &offer.tracks[1];
    assert!(video.feedback.transport_cc);
    assert_eq!(video.transport_cc, Some(3));
    assert_eq!(video.ssrcs, [3_187_482_217], "without the RTX stream");
    assert!(
        offer.candidates.is_empty(),
        ".local and TCP candidates are no use: {:?}",
        offer.candidates
    );
}

#[test]
fn the_configured_order_of_codecs_decides() {
    for (codec, payload_type) in [
        (Codec::Vp9, 98),
        (Codec::Av1, 45),
        (Codec::H265, 116),
        (Codec::H264, 103),
    ] {
        let offer = Offer::parse(CHROMIUM, &[codec, Codec::H264]).unwrap();
        let video = &offer.tracks[1].info;
        assert_eq!((video.codec, video.payload_type), (codec, payload_type));
    }
}

#[test]
fn firefox() {
    let offer = parse(FIREFOX).unwrap();
    assert_eq!(chosen(FIREFOX), [(Codec::Opus, 109), (Codec::Vp9, 121)]);
    assert_eq!(offer.fingerprints.len(), 1);
    assert_eq!(
        offer.candidates,
        ["candidate:0 1 UDP 2122252543 192.0.2.10 51472 typ host"],
        "component 2 and TCP are left out"
    );
}

#[test]
fn gstreamer() {
    let offer = parse(GSTREAMER).unwrap();
    assert_eq!(chosen(GSTREAMER), [(Codec::H264, 96), (Codec::Opus, 97)]);
    assert_eq!(offer.tracks[0].info.mid, "video0");
    assert_eq!(offer.tracks[1].info.mid, "audio1");
    assert_eq!(offer.candidates.len(), 1, "{:?}", offer.candidates);
}

#[test]
fn a_simulcast_offer_is_taken_as_a_plain_one() {
    let simulcast = OBS.replace(
        "a=mid:1\r\n",
        "a=mid:1\r\na=rid:0 send\r\na=rid:1 send\r\na=simulcast:send 0;1\r\n",
    );
    assert_ne!(simulcast, OBS);
    assert_eq!(chosen(&simulcast), chosen(OBS));
}

#[test]
fn text_before_the_description_is_cut_off() {
    let offer = format!("some encoder, 1.0\nanother line v=0\n{OBS}");
    assert_eq!(chosen(&offer), chosen(OBS));
    let bare_newlines = OBS.replace("\r\n", "\n");
    assert_eq!(chosen(&bare_newlines), chosen(OBS));
}

/// An offer is refused as invalid with a text that names the trouble.
#[track_caller]
fn invalid(text: &str, expected: &str) {
    match refusal(text) {
        PublishError::InvalidOffer(reason) => {
            assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
        }
        other => panic!("expected an invalid offer, got {other:?}"),
    }
}

/// An offer is refused because its media cannot be taken, with a text that names the trouble.
#[track_caller]
fn unsupported(text: &str, expected: &str) {
    match refusal(text) {
        PublishError::UnsupportedMedia(reason) => {
            assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
        }
        other => panic!("expected unsupported media, got {other:?}"),
    }
}

/// Replaces `from` in a good offer, which must have it.
#[track_caller]
fn changed(offer: &str, from: &str, to: &str) -> String {
    assert!(offer.contains(from), "the offer has no {from:?}");
    offer.replace(from, to)
}

#[test]
fn what_is_no_description_is_refused() {
    invalid("", "not SDP");
    invalid("hello", "not SDP");
    invalid("v=0\r\n", "not valid SDP");
    invalid(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n",
        "no media",
    );
    invalid(
        &changed(OBS, "a=mid:1", "a=mid:\u{7}1"),
        "control character",
    );
}

#[test]
fn vp8_alone_is_refused_with_both_sides_named() {
    let vp8 = changed(OBS, "H264/90000", "VP8/90000");
    unsupported(&vp8, "offers VP8; H264, H265, AV1, VP9 can be received");
    let error = Offer::parse(OBS, &[Codec::Av1]).unwrap_err().to_string();
    assert!(
        error.contains("offers H264; AV1 can be received"),
        "{error}"
    );
    let error = Offer::parse(OBS, &[]).unwrap_err().to_string();
    assert!(error.contains("no video can be received"), "{error}");
}

#[test]
fn other_audio_than_opus_is_refused() {
    let pcm = changed(OBS, "opus/48000/2", "PCMU/8000");
    unsupported(&pcm, "offers PCMU; opus can be received");
}

#[test]
fn too_many_or_foreign_media_lines_are_refused() {
    let (head, rest) = OBS.split_once("m=audio").unwrap();
    let (audio, video) = rest.split_once("m=video").unwrap();
    let second = video.replace("a=mid:1", "a=mid:2");
    let bundled = head.replace("BUNDLE 0 1", "BUNDLE 0 1 2");
    unsupported(
        &format!("{bundled}m=audio{audio}m=video{video}m=video{second}"),
        "2 video lines",
    );
    let second = audio.replace("a=mid:0", "a=mid:2");
    unsupported(
        &format!("{bundled}m=audio{audio}m=video{video}m=audio{second}"),
        "2 audio lines",
    );
    let data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\na=sctp-port:5000\r\n";
    unsupported(&format!("{OBS}{data}"), "data channel");
    unsupported(&format!("{head}{}", data.repeat(9)), "9 media lines");
}

#[test]
fn one_line_is_enough() {
    let (head, rest) = OBS.split_once("m=audio").unwrap();
    let (audio, video) = rest.split_once("m=video").unwrap();
    let head = head.replace("BUNDLE 0 1", "BUNDLE 0");
    assert_eq!(
        chosen(&format!("{head}m=audio{audio}")),
        [(Codec::Opus, 111)]
    );
    let head = head.replace("a=group:BUNDLE 0\r\n", "");
    let offer = format!("{head}m=video{video}");
    assert_eq!(chosen(&offer), [(Codec::H264, 96)]);
    assert!(!parse(&offer).unwrap().bundle);
}

#[test]
fn a_publisher_must_send() {
    invalid(&changed(OBS, "a=sendonly", "a=recvonly"), "recvonly");
    invalid(&changed(OBS, "a=sendonly", "a=inactive"), "inactive");
    assert!(parse(&changed(OBS, "a=sendonly", "a=sendrecv")).is_ok());
    // No direction means sendrecv, unless the session has one.
    let silent = changed(OBS, "a=sendonly\r\n", "");
    assert!(parse(&silent).is_ok());
    invalid(
        &changed(&silent, "t=0 0\r\n", "t=0 0\r\na=recvonly\r\n"),
        "recvonly",
    );
}

#[test]
fn the_transport_must_be_webrtc() {
    invalid(&changed(OBS, "UDP/TLS/RTP/SAVPF", "RTP/AVP"), "RTP/AVP");
    invalid(&changed(OBS, "a=rtcp-mux\r\n", ""), "rtcp-mux");
    invalid(&changed(OBS, "a=ice-ufrag", "a=x"), "ice-ufrag");
    invalid(&changed(OBS, "a=ice-pwd", "a=x"), "ice-pwd");
    invalid(&changed(OBS, "a=fingerprint", "a=x"), "no a=fingerprint");
    invalid(&changed(OBS, "sha-256", "sha-1"), "sha-256");
    invalid(&changed(OBS, "sha-256 ", "sha-256 zz:"), "sha-256");
    invalid(&changed(OBS, "setup:actpass", "setup:holdconn"), "holdconn");
    invalid(&changed(OBS, "a=setup:actpass", "a=x"), "no a=setup");
    assert_eq!(
        parse(&changed(OBS, "setup:actpass", "setup:active"))
            .unwrap()
            .setup,
        Setup::Active
    );
    assert!(parse(&changed(OBS, "sha-256", "SHA-256")).is_ok());
}

#[test]
fn lines_must_be_bundled_and_named() {
    invalid(&changed(OBS, "a=mid:1\r\n", ""), "no a=mid");
    invalid(&changed(OBS, "a=mid:1", "a=mid:0"), "two media lines");
    invalid(&changed(OBS, "BUNDLE 0 1", "BUNDLE 0"), "BUNDLE");
    invalid(&changed(OBS, "a=group:BUNDLE 0 1\r\n", ""), "BUNDLE");
    invalid(&changed(OBS, "m=video 9", "m=video 0"), "switched off");
    let same = changed(
        OBS,
        "m=video 9 UDP/TLS/RTP/SAVPF 96",
        "m=video 9 UDP/TLS/RTP/SAVPF 111",
    );
    let same = same.replace(":96 ", ":111 ");
    invalid(&same, "payload type 111");
}

#[test]
fn usable_candidates() {
    assert!(usable_candidate(
        "1 1 udp 2130706431 192.0.2.1 3478 typ host"
    ));
    assert!(usable_candidate(
        "1 1 UDP 2130706431 2001:db8::1 3478 typ srflx raddr 0.0.0.0 rport 0"
    ));
    for useless in [
        "",
        "1 1 udp",
        "1 2 udp 2130706431 192.0.2.1 3478 typ host",
        "1 1 tcp 2130706431 192.0.2.1 9 typ host tcptype active",
        "1 1 udp 2130706431 b6b1ad0d-1c1e-4d52-a3a0-1e1c0a5f4e0a.local 3478 typ host",
        "1 1 udp 2130706431 example.com 3478 typ host",
        "1 1 udp 2130706431 0.0.0.0 3478 typ host",
        "1 1 udp 2130706431 192.0.2.1 0 typ host",
        "1 1 udp 2130706431 192.0.2.1 99999 typ host",
        "1 1 udp 2130706431 192.0.2.1 3478",
    ] {
        assert!(!usable_candidate(useless), "{useless:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered_without_harm(text in ".{0,400}") {
        let _any = parse(&format!("v=0\r\n{text}"));
    }

    #[test]
    fn a_damaged_offer_is_answered_without_harm(position in 0usize..6000, byte in 0u8..128) {
        let mut bytes = CHROMIUM.as_bytes().to_vec();
        let position = position % bytes.len();
        bytes[position] = byte;
        let _any = parse(std::str::from_utf8(&bytes).unwrap());
    }
}

/// What is taken by transcoding, behind what is passed through.
const WITH_TRANSCODED: [Codec; 8] = [
    Codec::H264,
    Codec::H265,
    Codec::Av1,
    Codec::Vp9,
    Codec::Vp8,
    Codec::G722,
    Codec::Pcmu,
    Codec::Pcma,
];

#[test]
fn vp8_is_taken_only_when_nothing_else_is_offered() {
    let codec = |text: &str| {
        let offer = Offer::parse(text, &WITH_TRANSCODED).unwrap();
        (offer.tracks[1].info.codec, offer.tracks[1].feedback.pli)
    };
    assert_eq!(codec(CHROMIUM), (Codec::H264, true));
    assert_eq!(codec(FIREFOX).0, Codec::Vp9);
    let alone = changed(OBS, "H264/90000", "VP8/90000");
    assert_eq!(codec(&alone), (Codec::Vp8, true));
    unsupported(&alone, "webrtc.transcode_vp8 = true");
}

#[test]
fn opus_comes_before_what_has_to_be_transcoded() {
    let audio = |text: &str| {
        let offer = Offer::parse(text, &WITH_TRANSCODED).unwrap();
        let info = offer.tracks[0].info.clone();
        (
            info.codec,
            info.payload_type,
            info.clock_rate,
            info.channels,
        )
    };
    assert_eq!(audio(CHROMIUM), (Codec::Opus, 111, 48_000, 2));
    // Firefox without Opus: G.722 is wideband, so it comes first, with its clock rate of 8000.
    let without_opus = changed(FIREFOX, "opus/48000/2", "nonsense/48000/2");
    assert_eq!(audio(&without_opus), (Codec::G722, 9, 8_000, 1));
    let pcmu = changed(&without_opus, "G722/8000/1", "nonsense/8000");
    assert_eq!(audio(&pcmu), (Codec::Pcmu, 0, 8_000, 1));
    unsupported(&pcmu, "add pcmu to webrtc.transcode_audio");
    // Two channels of G.711 are registered, but no depayloader takes them.
    let stereo = changed(OBS, "opus/48000/2", "PCMU/8000/2");
    assert!(Offer::parse(&stereo, &WITH_TRANSCODED).is_err());
}

#[test]
fn static_payload_types_need_no_rtpmap() {
    for (number, codec) in [(0, Codec::Pcmu), (8, Codec::Pcma), (9, Codec::G722)] {
        let text: String = FIREFOX
            .lines()
            .filter(|line| {
                let numbers = ["109", "9", "0", "8", "101"];
                !numbers.iter().any(|n| {
                    line.starts_with(&format!("a=rtpmap:{n} "))
                        || line.starts_with(&format!("a=fmtp:{n} "))
                })
            })
            .map(|line| {
                if line.starts_with("m=audio ") {
                    format!("m=audio 9 UDP/TLS/RTP/SAVPF {number}\r\n")
                } else {
                    format!("{line}\r\n")
                }
            })
            .collect();
        let offer = Offer::parse(&text, &WITH_TRANSCODED).unwrap();
        let info = &offer.tracks[0].info;
        assert_eq!((info.codec, info.payload_type), (codec, number));
        assert_eq!(info.clock_rate, 8_000);
    }
}
