//! `/healthz`, `/readyz` and `/metrics`: what orchestrators and Prometheus ask.

use std::sync::atomic::{AtomicU8, Ordering};

use actix_web::{HttpResponse, http::header};
use serde_json::json;

use super::{AppState, problem::Problem};
use crate::{
    session::State,
    telemetry::{Metrics, StateLabel},
};

/// Every state with its label.
const STATES: [(&str, State); 6] = [
    ("starting", State::Starting),
    ("live", State::Live),
    ("stalled", State::Stalled),
    ("reconnecting", State::Reconnecting),
    ("ended", State::Ended),
    ("failed", State::Failed),
];

/// An offset of sound against picture that is known to no better than this says little.
const UNCERTAIN_MS: f64 = 20.0;

/// Whether new work is welcome. Shared by the gateway, which sets it, and `/readyz`, which says it.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    const READY: u8 = 1;
    const DRAINING: u8 = 2;

    /// Everything is started: from now on `/readyz` is 200.
    pub fn ready(&self) {
        self.0.store(Self::READY, Ordering::Relaxed);
    }

    /// Shutdown has begun: from now on `/readyz` is 503.
    pub fn drain(&self) {
        self.0.store(Self::DRAINING, Ordering::Relaxed);
    }

    /// Whether shutdown has begun.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::DRAINING
    }
}

/// `/healthz`: this process answers.
pub(super) fn healthy() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(json!({ "status": "ok" }))
}

/// `/readyz`.
pub(super) fn ready(state: &AppState) -> Result<HttpResponse, Problem> {
    let retry = std::time::Duration::from_secs(1);
    match state.readiness.0.load(Ordering::Relaxed) {
        Readiness::READY => Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .json(json!({ "status": "ready" }))),
        Readiness::DRAINING => Err(Problem::unavailable("the gateway is shutting down", retry)),
        _ => Err(Problem::unavailable("the gateway is starting", retry)),
    }
}

/// `/metrics`.
pub(super) fn metrics(state: &AppState) -> HttpResponse {
    let sessions = state.sessions.list();
    for (name, kind) in STATES {
        let count = sessions
            .iter()
            .filter(|session| session.state == kind)
            .count();
        let label = StateLabel { state: name };
        state
            .metrics
            .sessions
            .get_or_create(&label)
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let offsets = sessions.iter().filter_map(|session| session.av_offset_ms);
    let max = offsets.fold(0.0, |max: f64, offset| max.max(offset.abs()));
    state.metrics.av_offset_max.set(max / 1_000.0);
    let uncertain = sessions
        .iter()
        .filter_map(|session| session.av_offset_uncertainty_ms)
        .filter(|uncertainty| *uncertainty > UNCERTAIN_MS)
        .count();
    state
        .metrics
        .av_offset_uncertain
        .set(i64::try_from(uncertain).unwrap_or(i64::MAX));
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .content_type(Metrics::CONTENT_TYPE)
        .body(state.metrics.encode())
}
