//! Request bodies: read within their limits, and not read for ever when refused.
//!
//! Knows nothing of what a body means beyond its media type.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::Payload,
    error::PayloadError,
    http::header::{self, HeaderValue},
    web::{Bytes, BytesMut},
};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::{Limits, error::WhipError};

/// The whole body as text, of the media type `accepts`, within the limits.
pub(super) async fn read(
    request: &HttpRequest,
    payload: &mut Payload,
    accepts: &'static str,
    limits: Limits,
) -> Result<String, WhipError> {
    let headers = request.headers();
    let sent = headers.get(header::CONTENT_TYPE);
    if !sent.is_some_and(|sent| is_type(sent, accepts)) {
        return Err(WhipError::UnsupportedType {
            method: request.method().clone(),
            sent: sent.map(|sent| String::from_utf8_lossy(sent.as_bytes()).into_owned()),
            accepts,
        });
    }
    let too_large = || WhipError::BodyTooLarge { limit: limits.body };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|declared| declared > limits.body) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    let reading = async {
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| broken(&error))?;
            if body.len() + chunk.len() > limits.body {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    timeout(limits.body_time, reading)
        .await
        .map_err(|_| WhipError::BodyTooSlow {
            limit: limits.body_time,
        })??;
    String::from_utf8(body.into()).map_err(|_| WhipError::BodyNotText)
}

fn broken(error: &PayloadError) -> WhipError {
    WhipError::BodyBroken(error.to_string())
}

/// Compares media types: parameters and case do not matter (RFC 9110 section 8.3.1).
fn is_type(sent: &HeaderValue, accepts: &str) -> bool {
    sent.to_str().is_ok_and(|sent| {
        let essence = sent.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case(accepts)
    })
}

/// Keeps what was not read of a request's body until the answer is out.
///
/// The server reads a chunked body that nobody wants to its end, which an endless one never has. While somebody still
/// holds it, the server closes the connection after the answer instead.
pub(super) fn keep_unread(response: HttpResponse, payload: Payload) -> HttpResponse {
    response.map_body(|_, body| {
        // Every answer of this module is in memory, so nothing is ever given back here.
        body.try_into_bytes().map_or_else(
            |body| body,
            |bytes| {
                BoxBody::new(Refusal {
                    bytes,
                    _unread: payload,
                })
            },
        )
    })
}

struct Refusal {
    bytes: Bytes,
    _unread: Payload,
}

impl MessageBody for Refusal {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let bytes = mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
    }
}
