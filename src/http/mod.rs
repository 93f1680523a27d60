//! Everything the gateway answers over HTTP except the signalling itself: HLS, recordings, sessions, health, metrics.
//!
//! Owns routes, statuses, caching, authorization of viewers and administrators, and the listener. With `whip`, it is the
//! only place that names actix-web. Knows sessions through [`SessionsView`], media through [`crate::hls::Stream`] and
//! files through [`crate::recording::Store`]; decides nothing about any of them.
//!
//! | route | who may | what |
//! | --- | --- | --- |
//! | `/hls/{session_id}/...` | play | playlists and media, a poster |
//! | `/recordings[/{session_id}[/{file}]]` | play | lists and files |
//! | `/recordings/{session_id}/{file}/index.m3u8` | play | the playlist of a finished one |
//! | `/api/sessions[/{session_id}]` | admin | state of sessions, `DELETE` ends one |
//! | `/metrics` | admin | Prometheus |
//! | `/healthz`, `/readyz` | anybody | is it alive, does it take work |
//!
//! `/whip` is mounted beside these by the gateway ([`crate::whip::WhipEndpoint::configure`]), and so are the pages.

mod auth;
mod client;
mod content;
mod cors;
mod etag;
mod hls;
mod observe;
mod ops;
mod pages;
mod poster;
mod problem;
mod ranges;
mod rate;
mod recordings;
mod server;
mod sessions;
mod tls;
mod vod;

use std::{
    fmt,
    future::{Ready, ready},
    sync::Arc,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
    middleware::from_fn,
    web,
};

pub use self::{
    auth::PublishTokens,
    ops::Readiness,
    pages::pages,
    problem::Problem,
    server::{Server, ServerError, ServerHandle},
    sessions::SessionsView,
    tls::{TlsError, install_crypto_provider},
};
use crate::{
    config::{Auth, Config, IpNetwork},
    recording,
    telemetry::Metrics,
};

/// What the routes work on; one for the whole server.
pub struct AppState {
    sessions: Arc<dyn SessionsView>,
    recordings: Option<Arc<recording::Store>>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    auth: Auth,
    /// Without `auth.admin`, anybody may administer.
    open_admin: bool,
    https: bool,
    cors: cors::Cors,
    trusted_proxies: Vec<IpNetwork>,
    max_head: usize,
    waiters: hls::Waiters,
    vod: vod::Playlists,
    rate: rate::RateLimit,
}

impl AppState {
    /// The state for these settings. Without `recordings` the lists are empty.
    pub fn new(
        config: &Config,
        sessions: Arc<dyn SessionsView>,
        recordings: Option<Arc<recording::Store>>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
    ) -> Self {
        let http = &config.http;
        let limits = &config.limits;
        Self {
            sessions,
            recordings,
            metrics,
            readiness,
            auth: config.auth.clone(),
            open_admin: http.allow_open || http.listen.ip().to_canonical().is_loopback(),
            https: http.tls_certificate.is_some(),
            cors: cors::Cors::new(&http.cors_origins),
            trusted_proxies: http.trusted_proxies.clone(),
            max_head: limits.header_bytes.as_usize(),
            waiters: hls::Waiters::new(limits.waiters),
            vod: vod::Playlists::default(),
            rate: rate::RateLimit::new(limits.posts_per_second, limits.patches_per_second),
        }
    }
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").finish_non_exhaustive()
    }
}

/// What a read-only resource answers.
const READ: &str = "GET, HEAD";

/// Adds all routes of this module to an application whose middleware is [`Server`]'s.
///
/// Whatever no route takes is a 404 problem. HLS comes first, because routes are tried in turn and most requests are for
/// it; other parts of the gateway add their routes after these.
pub fn configure(cfg: &mut web::ServiceConfig, state: &web::Data<AppState>) {
    type State = web::Data<AppState>;
    let one_session = |request: HttpRequest, state: State| ready(sessions::get(&request, &state));
    let metrics = |state: State| ready(ops::metrics(&state));
    cfg.app_data(state.clone());
    cfg.service(
        web::scope("/hls")
            .wrap(from_fn(auth::play))
            .wrap(from_fn(cors::media))
            // Without a pattern: an expression per request would cost more than the answer.
            .default_service(web::to(hls::get)),
    );
    cfg.service(
        web::scope("/recordings")
            .wrap(from_fn(auth::play))
            .wrap(from_fn(cors::media))
            .service(read_only("", recordings::list))
            .service(read_only("/{session_id}", recordings::list_session))
            .service(read_only("/{session_id}/{file}", recordings::file))
            .service(read_only("/{session_id}/{file}/{name}", vod::get))
            .default_service(web::to(nothing_here)),
    );
    cfg.service(
        web::scope("/api")
            .wrap(from_fn(auth::admin))
            .wrap(from_fn(cors::admin))
            .service(read_only("/sessions", |state: State| {
                ready(sessions::list(&state))
            }))
            .service(
                web::resource("/sessions/{session_id}")
                    .route(web::get().to(one_session))
                    .route(web::head().to(one_session))
                    .route(web::delete().to(sessions::kick))
                    .default_service(web::to(|| not_allowed("GET, HEAD, DELETE"))),
            )
            .default_service(web::to(nothing_here)),
    );
    cfg.service(
        web::resource("/metrics")
            .wrap(from_fn(auth::admin))
            .wrap(from_fn(cors::admin))
            .route(web::get().to(metrics))
            .route(web::head().to(metrics))
            .default_service(web::to(|| not_allowed(READ))),
    );
    cfg.service(read_only("/healthz", || ready(ops::healthy())));
    cfg.service(read_only("/readyz", |state: State| {
        ready(ops::ready(&state))
    }));
    cfg.default_service(web::to(nothing_here));
}

/// A resource that knows `GET` and `HEAD`; anything else is 405.
fn read_only<F, Args>(path: &str, handler: F) -> actix_web::Resource
where
    F: actix_web::Handler<Args> + Clone,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(web::to(|| not_allowed(READ)))
}

fn not_allowed(allow: &'static str) -> Ready<HttpResponse> {
    ready(wrong_method(allow).response())
}

fn wrong_method(allow: &'static str) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("only {allow} are answered here"),
    )
    .header(header::ALLOW, HeaderValue::from_static(allow))
}

fn nothing_here() -> Ready<HttpResponse> {
    ready(Problem::not_found("there is nothing at this path").response())
}
