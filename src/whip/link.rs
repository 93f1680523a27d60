//! [`IceServer`] and its `Link` header (RFC 9725 section 4.6).
//!
//! A value that could break out of its header is refused when the server is made, not when it is sent.

use std::fmt::Write as _;

use actix_web::http::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// A STUN or TURN server that publishers are told of.
#[derive(Clone, Debug)]
pub struct IceServer {
    link: HeaderValue,
}

/// Why something is no [`IceServer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIceServer {
    /// The address does not begin with a known scheme, or holds characters that no URI has.
    #[error(
        "{0:?} is not an ICE server: expected stun:, stuns:, turn: or turns: and a host (RFC 7064, RFC 7065)"
    )]
    Url(String),
    /// A TURN server needs a user name and a credential.
    #[error("the TURN server {0:?} needs a user name and a credential")]
    Credential(String),
    /// The user name or the credential holds characters that fit into no header.
    #[error("the user name or credential of {0:?} holds control or non-ASCII characters")]
    Characters(String),
}

impl IceServer {
    /// A STUN server: `stun:stun.example.net`.
    ///
    /// # Errors
    ///
    /// [`InvalidIceServer`].
    pub fn stun(url: &str) -> Result<Self, InvalidIceServer> {
        check_url(url, &["stun:", "stuns:"])?;
        Self::with(url, "")
    }

    /// A TURN server: `turn:turn.example.net?transport=udp`.
    ///
    /// # Errors
    ///
    /// [`InvalidIceServer`].
    pub fn turn(
        url: &str,
        username: &str,
        credential: &SecretString,
    ) -> Result<Self, InvalidIceServer> {
        check_url(url, &["turn:", "turns:"])?;
        let credential = credential.expose_secret();
        if username.is_empty() || credential.is_empty() {
            return Err(InvalidIceServer::Credential(url.to_owned()));
        }
        let mut parameters = String::new();
        for (name, value) in [("username", username), ("credential", credential)] {
            let quoted =
                quote(value).ok_or_else(|| InvalidIceServer::Characters(url.to_owned()))?;
            // Writing to a String cannot fail.
            write!(parameters, "; {name}={quoted}").ok();
        }
        parameters.push_str("; credential-type=\"password\"");
        Self::with(url, &parameters)
    }

    fn with(url: &str, parameters: &str) -> Result<Self, InvalidIceServer> {
        let text = format!("<{url}>; rel=\"ice-server\"{parameters}");
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| InvalidIceServer::Characters(url.to_owned()))?;
        value.set_sensitive(!parameters.is_empty());
        Ok(Self { link: value })
    }

    /// The value of its `Link` header.
    pub(super) fn link(&self) -> HeaderValue {
        self.link.clone()
    }
}

fn check_url(url: &str, schemes: &[&str]) -> Result<(), InvalidIceServer> {
    // Everything that a URI may hold (RFC 3986), which leaves out what ends the `<...>` of a link. A comma, which some
    // clients split at, has no place in these URIs (RFC 7064, RFC 7065).
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+;=%".contains(&b);
    schemes
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .filter(|rest| !rest.is_empty() && rest.bytes().all(allowed))
        .map(|_| ())
        .ok_or_else(|| InvalidIceServer::Url(url.to_owned()))
}

/// A quoted string (RFC 9110 section 5.6.4).
fn quote(text: &str) -> Option<String> {
    let mut quoted = String::from('"');
    for c in text.chars() {
        if !(c == ' ' || c.is_ascii_graphic()) {
            return None;
        }
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Some(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(server: &IceServer) -> String {
        server.link.to_str().unwrap().to_owned()
    }

    #[test]
    fn writes_the_link_as_in_the_rfc() {
        assert_eq!(
            link(&IceServer::stun("stun:stun.example.net").unwrap()),
            r#"<stun:stun.example.net>; rel="ice-server""#
        );
        let turn = IceServer::turn(
            "turn:turn.example.net?transport=udp",
            "us\"er",
            &"pass\\word".into(),
        )
        .unwrap();
        assert_eq!(
            link(&turn),
            r#"<turn:turn.example.net?transport=udp>; rel="ice-server"; username="us\"er"; credential="pass\\word"; credential-type="password""#
        );
        assert!(!format!("{turn:?}").contains("word"));
    }

    #[test]
    fn refuses_what_would_break_the_header() {
        for url in [
            "http://example.net",
            "stun:",
            "stun:a>b",
            "stun:a,b",
            "stun:a\r\nSet-Cookie: x",
            "stun:a b",
        ] {
            assert!(IceServer::stun(url).is_err(), "{url:?}");
        }
        let turn = |user, secret: &str| IceServer::turn("turn:a", user, &secret.into());
        assert!(matches!(
            turn("", "x"),
            Err(InvalidIceServer::Credential(_))
        ));
        assert!(matches!(
            turn("a\r\nb", "x"),
            Err(InvalidIceServer::Characters(_))
        ));
        assert!(matches!(
            turn("a", "é"),
            Err(InvalidIceServer::Characters(_))
        ));
    }
}
