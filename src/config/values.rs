//! Types of single values that TOML has no word for: byte sizes, access lists, networks, ICE servers, secrets.
//!
//! Messages made here never contain the value of a secret.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};
use subtle::ConstantTimeEq;

/// A number of bytes, written as `1GiB`, `64 KiB`, `500MB` or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is not a [`ByteSize`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number with B, KiB, MiB, GiB, TiB or kB, MB, GB, TB")]
pub struct InvalidByteSize(String);

impl ByteSize {
    const UNITS: [(&'static str, u64); 10] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
        ("", 1),
    ];

    /// `n` times 1,024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` times 1,073,741,824 bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// As a length in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = Self::UNITS
            .into_iter()
            .take(4)
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidByteSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidByteSize(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        let (_, factor) = Self::UNITS
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))
            .ok_or_else(invalid)?;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(factor).map(Self).ok_or_else(invalid)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64KiB\" or \"1GiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                u64::try_from(number)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A text that is neither printed nor compared in a time that depends on its content.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text.
    pub fn new(text: &str) -> Self {
        Self(SecretString::from(text))
    }

    /// Whether `candidate` is this secret; the time taken depends only on the two lengths.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.expose().as_bytes().ct_eq(candidate).into()
    }

    /// The text itself, for the one place that must send it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.expose().as_bytes())
    }
}

impl Eq for Secret {}

/// Who may use one side of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// `none`: no credential is asked for.
    #[default]
    Anyone,
    /// Any one of these bearer tokens (RFC 6750); never empty.
    Tokens(Vec<Secret>),
}

/// One string or several, told apart by the deserializer; `expecting` keeps the value out of the message.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"none\", a token in quotes, or a list of tokens in quotes (JWT and webhooks are not available in this version)"
)]
enum RawAccess {
    One(String),
    Many(Vec<String>),
}

impl Access {
    fn from_raw(raw: RawAccess) -> Result<Self, &'static str> {
        let tokens = match raw {
            RawAccess::One(word) if word.trim().eq_ignore_ascii_case("none") => {
                return Ok(Self::Anyone);
            }
            RawAccess::One(list) => list.split(',').map(|t| t.trim().to_owned()).collect(),
            RawAccess::Many(list) => list,
        };
        if tokens.is_empty() || tokens.iter().any(String::is_empty) {
            return Err("a token must not be empty: write \"none\" to ask for no token");
        }
        // Words that mean a kind of access, here or in a later version, must not turn into tokens by accident.
        if let Some(word) = ["none", "jwt", "jwks", "webhook"]
            .into_iter()
            .find(|word| tokens.iter().any(|token| token.eq_ignore_ascii_case(word)))
        {
            return Err(match word {
                "none" => "\"none\" stands alone, it is not a token",
                _ => {
                    "JWT and webhooks are not available in this version: use \"none\" or a list of tokens"
                }
            });
        }
        if !tokens.iter().all(|token| is_bearer_token(token)) {
            return Err(
                "a token may contain only letters, digits and - . _ ~ + /, and = at its end (RFC 6750 section 2.1)",
            );
        }
        Ok(Self::Tokens(
            tokens.iter().map(|token| Secret::new(token)).collect(),
        ))
    }
}

/// The `b64token` of RFC 6750 section 2.1.
fn is_bearer_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty()
        && body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

impl<'de> Deserialize<'de> for Access {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_raw(RawAccess::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A STUN or TURN server to offer (RFC 9725 section 4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:`, `stuns:`, `turn:` or `turns:` URI (RFC 7064, RFC 7065).
    pub url: String,
    /// User name for TURN.
    pub username: Option<String>,
    /// Password for TURN; always present together with the user name.
    pub credential: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"stun:host:port\" or { url = \"turn:host:port\", username = \"...\", credential = \"...\" }"
)]
enum RawIceServer {
    Url(String),
    Full(FullIceServer),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FullIceServer {
    url: String,
    username: Option<String>,
    credential: Option<String>,
}

impl IceServer {
    fn from_raw(raw: RawIceServer) -> Result<Self, &'static str> {
        let (url, username, credential) = match raw {
            RawIceServer::Url(url) => (url, None, None),
            RawIceServer::Full(full) => (full.url, full.username, full.credential),
        };
        // These texts end up inside a header field.
        let plain = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_graphic() && !b"<>\"\\,;".contains(&b))
        };
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        match scheme {
            Some("stun" | "stuns") => {}
            Some("turn" | "turns") if username.is_some() && credential.is_some() => {}
            Some("turn" | "turns") => return Err("a TURN server needs username and credential"),
            _ => return Err("an ICE server's URL starts with stun:, stuns:, turn: or turns:"),
        }
        if username.is_some() != credential.is_some() {
            return Err("username and credential of an ICE server belong together");
        }
        if !plain(&url)
            || !username.as_deref().is_none_or(plain)
            || !credential.as_deref().is_none_or(plain)
        {
            return Err(
                "url, username and credential of an ICE server are visible ASCII without < > \" \\ , ;",
            );
        }
        Ok(Self {
            url,
            username,
            credential: credential.as_deref().map(Secret::new),
        })
    }
}

impl<'de> Deserialize<'de> for IceServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_raw(RawIceServer::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// An address, or a network written as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not an [`IpNetwork`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address or a network such as 10.0.0.0/8 or fd00::/8")]
pub struct InvalidIpNetwork(String);

impl IpNetwork {
    /// Whether `address` lies in the network; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for IpNetwork {
    type Err = InvalidIpNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIpNetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| invalid())?,
            None => longest,
        };
        if prefix > longest {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

impl<'de> Deserialize<'de> for IpNetwork {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A path; an empty text means none, so that a variable can take back what a file says.
pub(super) fn optional_path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_are_read_and_written() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("1GiB", 1 << 30),
            ("500MB", 500_000_000),
            ("2B", 2),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "1XiB", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize::gib(1).to_string(), "1GiB");
        assert_eq!(ByteSize(1_536).to_string(), "1536B");
    }

    #[test]
    fn networks_contain_their_addresses() {
        let contains = |network: &str, address: &str| {
            network
                .parse::<IpNetwork>()
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.1.2"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("192.0.2.1", "192.0.2.1"));
        assert!(!contains("192.0.2.1", "192.0.2.2"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(contains("fd00::/8", "fd12::1"));
        assert!(!contains("fd00::/8", "fe80::1"));
        assert!(!contains("0.0.0.0/0", "::1"));
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "host"] {
            assert!(text.parse::<IpNetwork>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let access = Access::Tokens(vec![Secret::new("hunter2")]);
        assert!(!format!("{access:?}").contains("hunter2"));
        assert_eq!(access, access.clone());
        assert!(!Secret::new("hunter2").matches(b"hunter"));
    }
}
