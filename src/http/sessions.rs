//! `/api/sessions`: the state of live sessions, and ending them.
//!
//! Reads sessions through [`SessionsView`], so that the routes can be tried without any media.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Serialize;
use serde_json::{Value, json};

use super::{AppState, problem::Problem};
use crate::{
    hls,
    id::SessionId,
    session::{Poster, PosterError, Sessions, Status},
    transport::BoxFuture,
};

/// What the HTTP surface may see of sessions and do to them.
pub trait SessionsView: Send + Sync + 'static {
    /// All sessions there are.
    fn list(&self) -> Vec<Status>;

    /// One session; `None` if there is none of this name.
    fn get(&self, id: &SessionId) -> Option<Status>;

    /// The stream of a session that is live or ended a short while ago.
    fn stream(&self, id: &SessionId) -> Option<hls::Stream>;

    /// A picture of a session that is live or ended a short while ago, or why there is none. Waits for it some seconds at
    /// most.
    fn poster<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Poster, PosterError>>;

    /// Ends the publication in place and its session; `false` if nobody publishes under this name. Returns once the
    /// publisher has been told, within a few seconds.
    fn kick<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, bool>;
}

impl SessionsView for Sessions {
    fn list(&self) -> Vec<Status> {
        Self::list(self)
    }

    fn get(&self, id: &SessionId) -> Option<Status> {
        Self::get(self, id)
    }

    fn stream(&self, id: &SessionId) -> Option<hls::Stream> {
        Self::stream(self, id)
    }

    fn poster<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Poster, PosterError>> {
        Box::pin(Self::poster(self, id))
    }

    fn kick<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, bool> {
        Box::pin(Self::kick(self, id))
    }
}

/// A session's status with its paths on this server.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    status: Status,
    urls: Urls,
}

/// Paths, without scheme and host: only the client knows under which name it reached the gateway.
#[derive(Serialize)]
struct Urls {
    publish: String,
    watch: String,
    hls: String,
    poster: String,
    recordings: String,
}

impl From<Status> for Listed {
    fn from(status: Status) -> Self {
        let id = &status.id;
        Self {
            urls: Urls {
                publish: format!("/whip/{id}"),
                watch: format!("/watch/{id}"),
                hls: format!("/hls/{id}/index.m3u8"),
                poster: format!("/hls/{id}/poster.jpg"),
                recordings: format!("/recordings/{id}"),
            },
            status,
        }
    }
}

/// `GET /api/sessions`: all, by name.
pub(super) fn list(state: &AppState) -> HttpResponse {
    let mut sessions = state.sessions.list();
    sessions.sort_by(|a, b| a.id.cmp(&b.id));
    let sessions: Vec<Listed> = sessions.into_iter().map(Listed::from).collect();
    answer(&json!({ "sessions": sessions }))
}

/// `GET /api/sessions/{session_id}`.
pub(super) fn get(request: &HttpRequest, state: &AppState) -> Result<HttpResponse, Problem> {
    let found = state.sessions.get(&session_id(request)?);
    found
        .map(|status| answer(&json!(Listed::from(status))))
        .ok_or_else(not_found)
}

/// `DELETE /api/sessions/{session_id}`: 204 once the publisher is gone.
pub(super) async fn kick(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id = session_id(&request)?;
    if state.sessions.kick(&id).await {
        tracing::info!(session_id = %id, "ended by an administrator");
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(not_found())
    }
}

fn answer(body: &Value) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(body)
}

fn session_id(request: &HttpRequest) -> Result<SessionId, Problem> {
    let name = request.match_info().get("session_id").unwrap_or_default();
    name.parse().map_err(|_| not_found())
}

fn not_found() -> Problem {
    Problem::not_found("no session of this name is live")
}
