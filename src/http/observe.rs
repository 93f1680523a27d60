//! What is done to every request, whatever its route: limits before it is read, a log span around it, metrics after it.
//!
//! The span has the path but never the query, which may carry a token, and the session's name.

use std::{borrow::Cow, time::Instant};

use actix_web::{
    Error,
    body::{BodySize, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    middleware::Next,
    web,
};
use tracing::{Instrument, field};

use super::{AppState, client, problem::Problem, rate::Kind};
use crate::telemetry::{RequestLabels, RouteLabel};

pub(super) async fn observe<B: MessageBody + 'static>(
    state: web::Data<AppState>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let started = Instant::now();
    let method = method(request.method());
    let route = route(&request);
    let address = client::address(
        request.peer_addr(),
        request.headers(),
        &state.trusted_proxies,
    );
    let span = tracing::info_span!(
        "http",
        method,
        path = request.path(),
        client = address.map(field::display),
        session_id = session_id(request.path()),
    );
    let answered = async {
        if let Err(problem) = admit(&state, &request) {
            return Ok(request
                .into_response(problem.response())
                .map_into_right_body());
        }
        next.call(request)
            .await
            .map(ServiceResponse::map_into_left_body)
    }
    .instrument(span.clone())
    .await;
    let status = match &answered {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    span.in_scope(|| {
        let elapsed_ms = started.elapsed().as_millis();
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(status = status.as_u16(), elapsed_ms, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), elapsed_ms, "answered");
        }
    });
    let metrics = &state.metrics;
    metrics
        .http_requests
        .get_or_create(&RequestLabels {
            route: route.clone(),
            method,
            status: class(status),
        })
        .inc();
    answered.map(|mut response| {
        if let BodySize::Sized(bytes) = response.response().body().size() {
            metrics
                .http_response_bytes
                .get_or_create(&RouteLabel { route })
                .inc_by(bytes);
        }
        response.headers_mut().insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        response
    })
}

/// Refuses what costs too much before anything is made of it.
fn admit(state: &AppState, request: &ServiceRequest) -> Result<(), Problem> {
    let head: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum::<usize>()
        + request.uri().to_string().len();
    if head > state.max_head {
        return Err(Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!(
                "the request's head has {head} bytes, {} are accepted",
                state.max_head
            ),
        ));
    }
    let kind = match *request.method() {
        _ if !request.path().starts_with("/whip/") => return Ok(()),
        Method::POST => Kind::Post,
        Method::PATCH | Method::DELETE => Kind::Patch,
        _ => return Ok(()),
    };
    let (peer, headers) = (request.peer_addr(), request.headers());
    // Somebody on this machine, or an unknown number of people behind a proxy on it that is not trusted to tell.
    let Some(address) = client::address(peer, headers, &state.trusted_proxies)
        .filter(|address| !address.is_loopback())
    else {
        return Ok(());
    };
    state
        .rate
        .take(address, kind, Instant::now())
        .map_err(|wait| {
            Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many WHIP requests from this address",
            )
            .retry_after(wait)
        })
}

/// A name for metrics: the pattern of the route, `other` for none.
///
/// What is asked for most is told by its prefix: finding a pattern means trying the expressions of all routes.
fn route(request: &ServiceRequest) -> Cow<'static, str> {
    if request.path().starts_with("/hls/") {
        return Cow::Borrowed("/hls/{session_id}/{tail}");
    }
    request
        .match_pattern()
        .map_or(Cow::Borrowed("other"), |pattern| {
            Cow::Owned(without_expressions(&pattern))
        })
}

/// `/whip/{session_id:[^/]*}` becomes `/whip/{session_id}`.
fn without_expressions(pattern: &str) -> String {
    let mut name = String::with_capacity(pattern.len());
    let mut in_expression = false;
    for c in pattern.chars() {
        in_expression = match c {
            ':' => true,
            '}' => false,
            _ => in_expression,
        };
        if !in_expression {
            name.push(c);
        }
    }
    name
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// The name that a path carries in its second place, on the routes that have one there.
fn session_id(path: &str) -> Option<&str> {
    let mut parts = path.strip_prefix('/')?.split('/');
    match parts.next()? {
        "whip" | "hls" | "recordings" | "watch" | "publish" => {
            parts.next().filter(|name| !name.is_empty())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_lose_their_expressions() {
        for (pattern, name) in [
            ("/hls/{session_id}/{tail:.*}", "/hls/{session_id}/{tail}"),
            ("/whip/{session_id:[^/]*}", "/whip/{session_id}"),
            ("/healthz", "/healthz"),
        ] {
            assert_eq!(without_expressions(pattern), name);
        }
    }

    #[test]
    fn only_session_routes_name_a_session() {
        assert_eq!(session_id("/hls/a/index.m3u8"), Some("a"));
        assert_eq!(session_id("/whip/b"), Some("b"));
        assert_eq!(session_id("/recordings"), None);
        assert_eq!(session_id("/recordings/"), None);
        assert_eq!(session_id("/api/sessions"), None);
    }
}
