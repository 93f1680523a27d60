//! Cross-origin access for publishing web pages (Fetch standard; RFC 9725 sections 4.2 and 4.7.1).
//!
//! Headers only, on every answer, errors included: without them a page cannot even tell its user what went wrong.

use actix_web::http::{
    Method,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
        HeaderMap, HeaderValue, ORIGIN, VARY,
    },
};

/// Headers that a script may read: without the first one it cannot end what it began.
const EXPOSED: &str =
    "Location, ETag, Link, Accept-Patch, Accept-Post, Retry-After, WWW-Authenticate";
/// `*` would not cover `Authorization`.
const ALLOWED_HEADERS: &str = "Authorization, Content-Type, If-Match";
/// Seconds that a browser may remember a preflight; Chromium caps it here.
const MAX_AGE: &str = "7200";

/// Which origins may use the endpoint from a script.
#[derive(Clone, Debug)]
pub(super) struct Cors {
    any: bool,
    origins: Vec<String>,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            any: true,
            origins: Vec::new(),
        }
    }
}

impl Cors {
    pub(super) fn new(origins: impl Iterator<Item = String>) -> Self {
        let origins: Vec<_> = origins.collect();
        Self {
            any: origins.iter().any(|origin| origin == "*"),
            origins,
        }
    }

    /// Puts the headers onto an answer.
    pub(super) fn apply(&self, method: &Method, request: &HeaderMap, answer: &mut HeaderMap) {
        if self.any {
            // No credentials in the sense of Fetch (cookies) are used, so the wildcard is allowed.
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            answer.append(VARY, HeaderValue::from_static("Origin"));
            let Some(origin) = request.get(ORIGIN).filter(|origin| {
                self.origins
                    .iter()
                    .any(|o| o.as_bytes() == origin.as_bytes())
            }) else {
                return;
            };
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        answer.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
        if is_preflight(method, request) {
            answer.insert(
                ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET, HEAD, POST, PATCH, DELETE, OPTIONS"),
            );
            answer.insert(
                ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static(ALLOWED_HEADERS),
            );
            answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        }
    }
}

/// Whether the browser asks on its own account, before a script's request.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
