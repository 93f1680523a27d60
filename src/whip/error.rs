//! [`WhipError`]: what can be wrong with a request, and the one table that says which status belongs to it.
//!
//! Answers are problem documents (RFC 9457) whose detail is about this very request. Causes on our side go to the log.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
};
use serde::Serialize;
use tracing::{debug, info, warn};

use super::sdp_fragment::FragmentError;
use crate::{id::InvalidSessionId, transport::PublishError};

#[derive(Debug, thiserror::Error)]
pub(super) enum WhipError {
    #[error("{0}")]
    InvalidSessionId(#[from] InvalidSessionId),
    #[error("{method} is not a method of this URL, which takes {allow}")]
    MethodNotAllowed { method: String, allow: &'static str },
    #[error("the request has more than one Authorization header")]
    AmbiguousAuthorization,
    #[error("{}", if *.token_sent { "the bearer token is not valid" } else { "a bearer token is needed" })]
    Unauthorized { token_sent: bool },
    #[error("{0}")]
    Forbidden(String),
    #[error("{}, but {method} takes {accepts}", media_type_text(.sent.as_deref()))]
    UnsupportedType {
        method: Method,
        sent: Option<String>,
        accepts: &'static str,
    },
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive within {} seconds", .limit.as_secs())]
    BodyTooSlow { limit: Duration },
    #[error("the body could not be read: {0}")]
    BodyBroken(String),
    #[error("the body is not UTF-8 text")]
    BodyNotText,
    #[error("the body is not an SDP session description: {0}")]
    NotSdp(&'static str),
    #[error("the body is not a trickle ICE fragment: {0}")]
    InvalidFragment(#[from] FragmentError),
    #[error("an ICE restart (If-Match: *) needs a=ice-ufrag and a=ice-pwd")]
    RestartWithoutCredentials,
    #[error(
        "a PATCH of this URL needs If-Match with the ETag of the session, or * for an ICE restart"
    )]
    PreconditionRequired,
    #[error("{0}")]
    PreconditionFailed(&'static str),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

fn media_type_text(sent: Option<&str>) -> String {
    sent.map_or_else(
        || "the body has no Content-Type".to_owned(),
        // A header can be long, and the answer need not repeat all of it.
        |sent| {
            format!(
                "the body is {:?}",
                sent.chars().take(100).collect::<String>()
            )
        },
    )
}

/// RFC 9457 section 3.1; with the type `about:blank` the title is the status's own.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl WhipError {
    /// The status table.
    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidSessionId(_)
            | Self::AmbiguousAuthorization
            | Self::BodyBroken(_)
            | Self::BodyNotText
            | Self::NotSdp(_)
            | Self::InvalidFragment(_)
            | Self::RestartWithoutCredentials
            | Self::Publish(PublishError::InvalidOffer(_)) => StatusCode::BAD_REQUEST,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::Publish(PublishError::Forbidden(_)) => StatusCode::FORBIDDEN,
            Self::Publish(PublishError::UnknownSession | PublishError::UnknownPublication) => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Publish(PublishError::Conflict { .. }) => StatusCode::CONFLICT,
            Self::PreconditionFailed(_) => StatusCode::PRECONDITION_FAILED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Publish(
                PublishError::UnsupportedMedia(_)
                | PublishError::TooManyCandidates { .. }
                | PublishError::IceRestartUnsupported
                | PublishError::IceRestartFailed(_),
            ) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::Publish(PublishError::Internal(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Publish(PublishError::Overloaded { .. } | PublishError::Unavailable(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The problem document, and the headers that belong to the status.
    pub(super) fn response(&self) -> HttpResponse {
        let status = self.status();
        let detail = self.to_string();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &detail,
        };
        let mut response = HttpResponse::build(status)
            .content_type("application/problem+json")
            .body(serde_json::to_vec(&problem).unwrap_or_default());
        let headers = response.headers_mut();
        match self {
            Self::MethodNotAllowed { allow, .. } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::Unauthorized { token_sent } => {
                let challenge = if *token_sent {
                    "Bearer error=\"invalid_token\""
                } else {
                    "Bearer"
                };
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static(challenge),
                );
            }
            Self::UnsupportedType {
                method, accepts, ..
            } => {
                let name = accept_header(method);
                headers.insert(name, HeaderValue::from_static(accepts));
            }
            Self::Publish(
                PublishError::Conflict { retry_after } | PublishError::Overloaded { retry_after },
            ) => {
                headers.insert(header::RETRY_AFTER, seconds(*retry_after).into());
            }
            _ => {}
        }
        response
    }

    /// Tells the operator.
    pub(super) fn log(&self, method: &Method, session: &str) {
        let status = self.status().as_u16();
        if status >= 500 {
            let cause = match self {
                Self::Publish(PublishError::Internal(source)) => Some(chain(source.as_ref())),
                _ => None,
            };
            warn!(%method, session, status, cause, "request failed: {self}");
        } else if *method == Method::POST {
            info!(%method, session, status, "request refused: {self}");
        } else {
            debug!(%method, session, status, "request refused: {self}");
        }
    }
}

/// The header that says what a method takes (RFC 5789 section 3.1, Linked Data Platform section 7.1).
pub(super) fn accept_header(method: &Method) -> header::HeaderName {
    header::HeaderName::from_static(if *method == Method::PATCH {
        "accept-patch"
    } else {
        "accept-post"
    })
}

/// Whole seconds, rounded up: `Retry-After: 0` would invite a storm.
fn seconds(duration: Duration) -> u64 {
    let begun = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(begun).max(1)
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
