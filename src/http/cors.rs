//! Cross-origin access for players on other sites' pages (Fetch standard): headers on every answer, also on 404.
//!
//! With any origin allowed the answer is always `*` and does not depend on the request, so that a shared cache keeps
//! one copy for all.

use actix_web::{
    Error, HttpResponse,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{self, HeaderMap, HeaderValue},
    },
    middleware::Next,
    web,
};

use super::AppState;
use crate::config::Access;

/// What a script may read beyond the usual.
const EXPOSED: &str =
    "Accept-Ranges, Content-Length, Content-Range, Date, ETag, Retry-After, WWW-Authenticate";

/// What a script may send; `*` would not cover `Authorization`.
const ALLOWED: &str = "Authorization, Content-Type, If-None-Match, If-Range, Range";

/// Origins whose scripts may read answers.
#[derive(Clone, Debug)]
pub(super) struct Cors {
    any: bool,
    origins: Vec<String>,
}

impl Cors {
    pub(super) fn new(origins: &[String]) -> Self {
        Self {
            any: origins.iter().any(|origin| origin == "*"),
            origins: origins.to_vec(),
        }
    }

    fn apply(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        if self.any {
            answer.insert(
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                HeaderValue::from_static("*"),
            );
        } else {
            answer.append(header::VARY, HeaderValue::from_static("Origin"));
            let known = origin.filter(|origin| {
                let mut origins = self.origins.iter();
                origins.any(|known| known.as_bytes() == origin.as_bytes())
            });
            let Some(origin) = known else { return };
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        answer.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
    }
}

/// For what is played and downloaded.
pub(super) async fn media<B: MessageBody + 'static>(
    state: web::Data<AppState>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    answer(Some(&state.cors), "GET, HEAD", request, next).await
}

/// For administration. `*` does not count here as long as no token is asked for: any page that an operator happens to
/// visit could otherwise end sessions on the operator's own machine.
pub(super) async fn admin<B: MessageBody + 'static>(
    state: web::Data<AppState>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let guarded = !state.cors.any || state.auth.admin != Access::Anyone;
    let cors = guarded.then_some(&state.cors);
    answer(cors, "GET, HEAD, DELETE", request, next).await
}

async fn answer<B: MessageBody + 'static>(
    cors: Option<&Cors>,
    methods: &'static str,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let origin = request.headers().get(header::ORIGIN).cloned();
    // A browser asks this on its own account and without a token.
    let preflight = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if preflight {
        let mut response = HttpResponse::NoContent().finish();
        if let Some(cors) = cors {
            let headers = response.headers_mut();
            cors.apply(origin.as_ref(), headers);
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED),
                (header::ACCESS_CONTROL_MAX_AGE, "7200"),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        return Ok(request.into_response(response).map_into_right_body());
    }
    let mut response = next.call(request).await?;
    if let Some(cors) = cors {
        cors.apply(origin.as_ref(), response.headers_mut());
    }
    Ok(response.map_into_left_body())
}
