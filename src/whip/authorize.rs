//! [`Authorizer`], the application's say in who may publish, and the bearer token it judges by.
//!
//! Knows where a token is in a request, not what makes a token good. A token is never logged and never part of an error.

use std::{fmt, net::SocketAddr};

use actix_web::http::header::{AUTHORIZATION, HeaderMap};

use super::error::WhipError;
use crate::{id::SessionId, transport::BoxFuture};

/// Decides who may publish. Asked before the body of a request is read and before it shows whether the session exists.
pub trait Authorizer: Send + Sync + 'static {
    /// Judges one request. Comparing a token with a secret takes constant time.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    fn authorize<'a>(&'a self, request: AuthorizeRequest<'a>) -> BoxFuture<'a, Result<(), Denied>>;
}

/// What an [`Authorizer`] judges by.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct AuthorizeRequest<'a> {
    /// The session that the request is about.
    pub session_id: &'a SessionId,
    /// The bearer token of the `Authorization` header (RFC 6750 section 2.1).
    pub token: Option<&'a str>,
    /// Address of the connection, that of a proxy if there is one.
    pub peer: Option<SocketAddr>,
}

impl fmt::Debug for AuthorizeRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizeRequest")
            .field("session_id", &self.session_id)
            .field("token", &self.token.map(|_| "..."))
            .field("peer", &self.peer)
            .finish()
    }
}

/// Why a request was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// The token is missing or not good: 401, with `error="invalid_token"` when one was sent (RFC 6750 section 3).
    Unauthorized,
    /// The token is good, but not for this: 403. The text goes to the client.
    Forbidden(String),
}

/// The bearer token of a request; the scheme's case does not matter (RFC 9110 section 11.1).
pub(super) fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, WhipError> {
    let mut values = headers.get_all(AUTHORIZATION);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        // Which of them a proxy in front has looked at is anybody's guess.
        return Err(WhipError::AmbiguousAuthorization);
    }
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty());
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(value: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        bearer_token(&headers).unwrap().map(str::to_owned)
    }

    #[test]
    fn finds_the_token_whatever_the_case_of_the_scheme() {
        assert_eq!(token_of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token_of("bEARER  a/b+c== ").as_deref(), Some("a/b+c=="));
        for other in ["Basic abc", "Bearer", "Bearer ", "abc", ""] {
            assert_eq!(token_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn two_headers_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        headers.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert!(bearer_token(&headers).is_err());
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let request = AuthorizeRequest {
            session_id: &"s".parse().unwrap(),
            token: Some("secret"),
            peer: None,
        };
        assert!(!format!("{request:?}").contains("secret"));
    }
}
