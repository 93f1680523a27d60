//! [`SdpFragment`], the body of a `PATCH`: `application/trickle-ice-sdpfrag` (RFC 8840 section 9).
//!
//! Text in, values out, and back; no HTTP and no network. Reads more than it writes: clients send unknown attributes,
//! bare line feeds, whole session descriptions, and the end of candidates before the candidates.

use std::fmt;

use crate::transport::{IceCredentials, RemoteCandidate, RemoteCandidates};

/// Media lines that one fragment may have; a bundled session has one.
const MAX_MEDIA: usize = 8;

/// ICE credentials and candidates of one side, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SdpFragment {
    /// `a=ice-lite`.
    pub ice_lite: bool,
    /// The value of `a=ice-options`, for example `trickle ice2`.
    pub ice_options: Option<String>,
    /// The value of `a=group`, for example `BUNDLE 0 1`.
    pub group: Option<String>,
    /// What stands before the first media line.
    pub session: Section,
    /// The media lines.
    pub media: Vec<Media>,
}

/// One media line and what stands under it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// The line without `m=`: `audio 9 UDP/TLS/RTP/SAVPF 0`.
    pub line: String,
    /// `a=mid`.
    pub mid: Option<String>,
    /// The ICE attributes.
    pub section: Section,
}

/// The ICE attributes of one media line, or of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// `a=ice-ufrag` and `a=ice-pwd` (RFC 8839 section 5.4).
    pub ice: Option<IceCredentials>,
    /// The candidates, each as in SDP without `a=` (RFC 8839 section 5.1).
    pub candidates: Vec<String>,
    /// `a=end-of-candidates` (RFC 8840 section 8.2).
    pub end_of_candidates: bool,
}

/// Why a text is no [`SdpFragment`]. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// The line is not of the form `a=...` or `m=...`.
    #[error("line {line} is not of the form a=... or m=...")]
    Line {
        /// Which line.
        line: usize,
    },
    /// The line holds control characters.
    #[error("line {line} holds control characters")]
    Control {
        /// Which line.
        line: usize,
    },
    /// The candidate has too few fields or a field of the wrong form.
    #[error("line {line} is not a candidate: {problem}")]
    Candidate {
        /// Which line.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The user fragment or password has the wrong length or characters, or stands there twice.
    #[error("line {line} holds unusable ICE credentials: {problem}")]
    Credential {
        /// Which line.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// One of user fragment and password is there, the other is not.
    #[error("a=ice-ufrag and a=ice-pwd belong together, but one of them is missing")]
    HalfCredentials,
    /// Too many media lines.
    #[error("more than {MAX_MEDIA} media lines")]
    TooManyMedia,
    /// Neither credentials nor candidates nor their end.
    #[error("it holds no ICE credentials, no candidates and no end of candidates")]
    Nothing,
}

/// Credentials while they are being read.
#[derive(Default)]
struct Credentials {
    ufrag: Option<String>,
    pwd: Option<String>,
}

impl Credentials {
    fn complete(self) -> Result<Option<IceCredentials>, FragmentError> {
        match (self.ufrag, self.pwd) {
            (Some(ufrag), Some(pwd)) => Ok(Some(IceCredentials { ufrag, pwd })),
            (None, None) => Ok(None),
            _ => Err(FragmentError::HalfCredentials),
        }
    }
}

impl SdpFragment {
    /// Reads a fragment.
    ///
    /// # Errors
    ///
    /// [`FragmentError`], which names the line.
    pub fn parse(text: &str) -> Result<Self, FragmentError> {
        let mut fragment = Self::default();
        let mut credentials = Credentials::default();
        for (index, line) in text.split('\n').enumerate() {
            let number = index + 1;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            if line.chars().any(|c| c.is_control() && c != '\t') {
                return Err(FragmentError::Control { line: number });
            }
            let (kind, value) = match line.split_once('=') {
                Some((kind, value)) if kind.len() == 1 => (kind, value),
                _ => return Err(FragmentError::Line { line: number }),
            };
            match kind {
                "a" => fragment.attribute(number, value, &mut credentials)?,
                "m" => {
                    if fragment.media.len() == MAX_MEDIA {
                        return Err(FragmentError::TooManyMedia);
                    }
                    let before = std::mem::take(&mut credentials);
                    fragment.section().ice = before.complete()?;
                    fragment.media.push(Media {
                        line: value.to_owned(),
                        ..Media::default()
                    });
                }
                // Some clients send a whole session description; its other lines say nothing new.
                _ if kind.bytes().all(|b| b.is_ascii_lowercase()) => {}
                _ => return Err(FragmentError::Line { line: number }),
            }
        }
        fragment.section().ice = credentials.complete()?;
        let says_something = |section: &Section| {
            section.ice.is_some() || !section.candidates.is_empty() || section.end_of_candidates
        };
        if says_something(&fragment.session)
            || fragment
                .media
                .iter()
                .any(|media| says_something(&media.section))
        {
            Ok(fragment)
        } else {
            Err(FragmentError::Nothing)
        }
    }

    fn attribute(
        &mut self,
        line: usize,
        attribute: &str,
        credentials: &mut Credentials,
    ) -> Result<(), FragmentError> {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        match name {
            "ice-lite" => self.ice_lite = true,
            "ice-options" => self.ice_options = Some(value.trim().to_owned()),
            "group" => self.group = Some(value.trim().to_owned()),
            "mid" => {
                if let Some(media) = self.media.last_mut() {
                    media.mid = Some(value.trim().to_owned());
                }
            }
            "ice-ufrag" => set_credential(&mut credentials.ufrag, value, 4, line)?,
            "ice-pwd" => set_credential(&mut credentials.pwd, value, 22, line)?,
            // An empty candidate is what the WebRTC API makes of the end.
            "end-of-candidates" => self.section().end_of_candidates = true,
            "candidate" if value.trim().is_empty() => self.section().end_of_candidates = true,
            "candidate" => {
                check_candidate(value)
                    .map_err(|problem| FragmentError::Candidate { line, problem })?;
                self.section().candidates.push(attribute.trim().to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// The section that lines belong to at this point.
    fn section(&mut self) -> &mut Section {
        match self.media.last_mut() {
            Some(media) => &mut media.section,
            None => &mut self.session,
        }
    }

    /// All of it in the words of the transport. Credentials of a media line win over those of the session.
    pub fn into_remote_candidates(self) -> RemoteCandidates {
        let mut remote = RemoteCandidates {
            ice: self
                .media
                .iter()
                .find_map(|media| media.section.ice.clone())
                .or(self.session.ice),
            end_of_candidates: self.session.end_of_candidates,
            candidates: Vec::new(),
        };
        let of_session = self.session.candidates.into_iter();
        remote
            .candidates
            .extend(of_session.map(|candidate| RemoteCandidate {
                mid: None,
                mline_index: None,
                candidate,
            }));
        for (index, media) in (0_u16..).zip(self.media) {
            remote.end_of_candidates |= media.section.end_of_candidates;
            let mline_index = media.mid.is_none().then_some(index);
            for candidate in media.section.candidates {
                remote.candidates.push(RemoteCandidate {
                    mid: media.mid.clone(),
                    mline_index,
                    candidate,
                });
            }
        }
        remote
    }

    /// Our side of an ICE restart: new credentials and candidates for the first media line of our `answer`, whose ICE
    /// options it repeats (RFC 9725 section 4.3.3).
    pub fn restart(answer: &str, ice: IceCredentials, candidates: Vec<String>) -> Self {
        let mut fragment = Self::default();
        for line in answer.lines() {
            match line.split_once('=') {
                Some(("m", _)) if !fragment.media.is_empty() => break,
                Some(("m", value)) => fragment.media.push(Media {
                    line: value.to_owned(),
                    ..Media::default()
                }),
                Some(("a", attribute)) => {
                    let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
                    match (name, fragment.media.last_mut()) {
                        ("mid", Some(media)) => media.mid = Some(value.to_owned()),
                        ("ice-lite", _) => fragment.ice_lite = true,
                        ("ice-options", _) => fragment.ice_options = Some(value.to_owned()),
                        ("group", _) => fragment.group = Some(value.to_owned()),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        *fragment.section() = Section {
            ice: Some(ice),
            candidates,
            end_of_candidates: true,
        };
        fragment
    }
}

fn set_credential(
    place: &mut Option<String>,
    value: &str,
    shortest: usize,
    line: usize,
) -> Result<(), FragmentError> {
    let value = value.trim();
    let problem = if place.as_ref().is_some_and(|before| before != value) {
        "they stand there twice and differ"
    } else if !(shortest..=256).contains(&value.len()) {
        "a user fragment has 4 to 256 characters, a password 22 to 256"
    } else if !value.bytes().all(|b| b.is_ascii_graphic()) {
        "they hold characters that are not allowed"
    } else {
        *place = Some(value.to_owned());
        return Ok(());
    };
    Err(FragmentError::Credential { line, problem })
}

/// The fixed fields of a candidate (RFC 8839 section 5.1). Whether it is of any use is not decided here.
fn check_candidate(value: &str) -> Result<(), &'static str> {
    let mut fields = value.split_ascii_whitespace();
    let mut next = || fields.next().ok_or("it has too few fields");
    if next()?.len() > 32 {
        return Err("the foundation has more than 32 characters");
    }
    next()?
        .parse::<u16>()
        .map_err(|_| "the component is not a number")?;
    let _transport = next()?;
    next()?
        .parse::<u32>()
        .map_err(|_| "the priority is not a number of 32 bits")?;
    let _address = next()?;
    next()?
        .parse::<u16>()
        .map_err(|_| "the port is not a number up to 65535")?;
    if next()? != "typ" {
        return Err("the seventh field is not \"typ\"");
    }
    next().map(|_| ())
}

impl fmt::Display for SdpFragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ice_lite {
            f.write_str("a=ice-lite\r\n")?;
        }
        if let Some(options) = &self.ice_options {
            write!(f, "a=ice-options:{options}\r\n")?;
        }
        if let Some(group) = &self.group {
            write!(f, "a=group:{group}\r\n")?;
        }
        self.session.fmt(f)?;
        for media in &self.media {
            write!(f, "m={}\r\n", media.line)?;
            if let Some(mid) = &media.mid {
                write!(f, "a=mid:{mid}\r\n")?;
            }
            media.section.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ice) = &self.ice {
            write!(f, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", ice.ufrag, ice.pwd)?;
        }
        for candidate in &self.candidates {
            write!(f, "a={candidate}\r\n")?;
        }
        if self.end_of_candidates {
            f.write_str("a=end-of-candidates\r\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CREDENTIALS: &str = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n";
    const HOST: &str = "candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host";

    fn remote(text: &str) -> RemoteCandidates {
        SdpFragment::parse(text).unwrap().into_remote_candidates()
    }

    #[test]
    fn reads_the_body_of_whip_whep() {
        let read = remote(&format!(
            "{CREDENTIALS}m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na={HOST}\r\n"
        ));
        assert_eq!(read.ice.unwrap().ufrag, "abcd");
        assert_eq!(read.candidates.len(), 1);
        assert_eq!(read.candidates[0].mid.as_deref(), Some("0"));
        assert_eq!(read.candidates[0].candidate, HOST);
        assert!(!read.end_of_candidates);
    }

    #[test]
    fn reads_the_body_of_simple_whip_client() {
        let tcp = "candidate:2 1 TCP 1019216383 192.0.2.1 9 typ host tcptype active";
        let read = remote(&format!(
            "{CREDENTIALS}m=audio 9 RTP/AVP 0\r\na=mid:video0\r\na={HOST}\r\na={tcp}\r\n"
        ));
        assert_eq!(read.candidates.len(), 2);
        assert_eq!(read.candidates[1].candidate, tcp);
        assert_eq!(read.candidates[1].mid.as_deref(), Some("video0"));
    }

    #[test]
    fn reads_the_end_alone_and_in_either_order() {
        assert!(remote(&format!("{CREDENTIALS}a=end-of-candidates")).end_of_candidates);
        assert!(
            remote(&format!(
                "m=audio 9 RTP/AVP 0\na=mid:0\na=candidate:\na={HOST}\n"
            ))
            .end_of_candidates
        );
    }

    #[test]
    fn keeps_candidates_that_it_cannot_judge() {
        let mdns = "candidate:3 1 UDP 2122252543 0f1e2d3c.local 54321 typ host generation 0 ufrag abcd network-cost 999";
        let odd = "candidate:4 2 SCTP 1 host.example 0 typ token-ring";
        let read = remote(&format!("a={mdns}\r\na={odd}\r\n"));
        assert_eq!(read.candidates.len(), 2);
        assert_eq!(
            (&read.candidates[0].mid, read.candidates[0].mline_index),
            (&None, None)
        );
    }

    #[test]
    fn credentials_of_the_media_line_win() {
        let text = format!(
            "{CREDENTIALS}m=audio 9 RTP/AVP 0\r\na=ice-ufrag:media\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na={HOST}\r\n"
        );
        let read = remote(&text);
        assert_eq!(read.ice.unwrap().ufrag, "media");
        assert_eq!(read.candidates[0].mline_index, Some(0));
    }

    #[test]
    fn a_whole_session_description_is_a_fragment_too() {
        let text =
            format!("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n{CREDENTIALS}a={HOST}\r\n");
        assert_eq!(remote(&text).candidates.len(), 1);
    }

    #[test]
    fn refuses_with_the_line() {
        use FragmentError as E;
        let many = "m=audio 9 RTP/AVP 0\r\n".repeat(9);
        for (text, expected) in [
            ("", E::Nothing),
            ("\r\n\r\n", E::Nothing),
            ("a=mid:0\r\n", E::Nothing),
            ("hello", E::Line { line: 1 }),
            ("a=ice-lite\r\n{}", E::Line { line: 2 }),
            ("A=x", E::Line { line: 1 }),
            ("a=x\0", E::Control { line: 1 }),
            ("a=x\ra=y", E::Control { line: 1 }),
            ("a=ice-ufrag:abcd\r\n", E::HalfCredentials),
            (
                "a=ice-pwd:0123456789012345678901\r\nm=audio 9 RTP/AVP 0\r\na=ice-ufrag:abcd",
                E::HalfCredentials,
            ),
            (many.as_str(), E::TooManyMedia),
        ] {
            assert_eq!(SdpFragment::parse(text), Err(expected), "{text:?}");
        }
        for text in [
            "a=ice-ufrag:abc",
            "a=ice-pwd:short",
            "a=ice-ufrag:a b c d",
            "a=ice-ufrag:abcd\r\na=ice-ufrag:efgh",
        ] {
            assert!(
                matches!(SdpFragment::parse(text), Err(E::Credential { .. })),
                "{text:?}"
            );
        }
        for text in [
            "a=candidate:1",
            "a=candidate:1 x udp 1 192.0.2.1 1 typ host",
            "a=candidate:1 1 udp 4294967296 192.0.2.1 1 typ host",
            "a=candidate:1 1 udp 1 192.0.2.1 65536 typ host",
            "a=candidate:1 1 udp 1 192.0.2.1 1 type host",
            "a=candidate:1 1 udp 1 192.0.2.1 1 typ",
        ] {
            assert!(
                matches!(SdpFragment::parse(text), Err(E::Candidate { line: 1, .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_restart_repeats_the_options_of_the_answer() {
        let answer = "v=0\r\na=group:BUNDLE 0 1\r\na=ice-options:trickle ice2\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:old\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\n";
        let ice = IceCredentials {
            ufrag: "new1".to_owned(),
            pwd: "0123456789012345678901".to_owned(),
        };
        assert_eq!(
            SdpFragment::restart(answer, ice, vec![HOST.to_owned()]).to_string(),
            format!(
                "a=ice-options:trickle ice2\r\na=group:BUNDLE 0 1\r\n\
                 m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
                 a=ice-ufrag:new1\r\na=ice-pwd:0123456789012345678901\r\n\
                 a={HOST}\r\na=end-of-candidates\r\n"
            )
        );
    }

    fn section() -> impl Strategy<Value = Section> {
        let ice = ("[A-Za-z0-9+/]{4,32}", "[A-Za-z0-9+/]{22,64}")
            .prop_map(|(ufrag, pwd)| IceCredentials { ufrag, pwd });
        let candidate = (
            "[a-zA-Z0-9+/]{1,32}",
            1_u16..257,
            "udp|TCP|tcp",
            any::<u32>(),
            any::<std::net::IpAddr>(),
            any::<u16>(),
            "host|srflx|relay",
        )
            .prop_map(|(f, c, t, p, a, port, typ)| {
                format!("candidate:{f} {c} {t} {p} {a} {port} typ {typ}")
            });
        (
            prop::option::of(ice),
            prop::collection::vec(candidate, 0..4),
            any::<bool>(),
        )
            .prop_map(|(ice, candidates, end_of_candidates)| Section {
                ice,
                candidates,
                end_of_candidates,
            })
    }

    fn fragment() -> impl Strategy<Value = SdpFragment> {
        let media = (
            "(audio|video) 9 UDP/TLS/RTP/SAVPF [0-9]{1,3}",
            prop::option::of("[a-z0-9]{1,8}"),
            section(),
        )
            .prop_map(|(line, mid, section)| Media { line, mid, section });
        (
            any::<bool>(),
            prop::option::of("[a-z0-9]{1,8}( [a-z0-9]{1,8})?"),
            prop::option::of("BUNDLE( [0-9]){1,3}"),
            section(),
            prop::collection::vec(media, 0..=MAX_MEDIA),
        )
            .prop_map(
                |(ice_lite, ice_options, group, session, media)| SdpFragment {
                    ice_lite,
                    ice_options,
                    group,
                    session,
                    media,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(fragment in fragment()) {
            match SdpFragment::parse(&fragment.to_string()) {
                Ok(read) => prop_assert_eq!(read, fragment),
                Err(error) => {
                    prop_assert_eq!(error, FragmentError::Nothing);
                    let remote = fragment.into_remote_candidates();
                    prop_assert_eq!(remote, RemoteCandidates::default());
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic_or_lets_a_control_character_through(
            text in "([am]=|[a-z]=)?(ice-ufrag:|ice-pwd:|candidate:|mid:|end-of-candidates)?.{0,40}(\r\n|\n|\r)?.{0,40}"
        ) {
            if let Ok(fragment) = SdpFragment::parse(&text) {
                for candidate in fragment.into_remote_candidates().candidates {
                    prop_assert!(!candidate.candidate.contains(['\r', '\n', '\0']));
                }
            }
        }
    }
}
