//! `/hls/{session_id}/...`: playlists and media of a session's stream.
//!
//! Turns requests into the stream's words and its answers into HTTP; which URIs there are, what blocks and what is too
//! far ahead is the stream's own knowledge.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        Method, StatusCode,
        header::{self, HeaderName},
    },
    web,
};

use super::{
    AppState, READ,
    content::{self, Media},
    etag, poster,
    problem::Problem,
    wrong_method,
};
use crate::{
    config::Access,
    hls::{BlockingReload, Document, HlsError},
    id::SessionId,
    telemetry::Metrics,
};

/// Name of every playlist within its folder.
pub(super) const PLAYLIST: &str = "index.m3u8";

/// Retry hint where the stream has none to give.
const RETRY: Duration = Duration::from_secs(1);

/// Counts the requests that wait, over all sessions.
#[derive(Debug)]
pub(super) struct Waiters {
    limit: usize,
    waiting: AtomicUsize,
}

impl Waiters {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            waiting: AtomicUsize::new(0),
        }
    }

    fn enter<'a>(&'a self, metrics: &'a Metrics) -> Option<Waiting<'a>> {
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < self.limit).then_some(n + 1)
            })
            .ok()?;
        metrics.hls_waiters.inc();
        Some(Waiting {
            waiters: self,
            metrics,
        })
    }
}

/// One request that waits; gives its place back however it ends, also when the client hangs up.
struct Waiting<'a> {
    waiters: &'a Waiters,
    metrics: &'a Metrics,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.waiting.fetch_sub(1, Ordering::Relaxed);
        self.metrics.hls_waiters.dec();
    }
}

/// Answers `GET` and `HEAD` for everything under `/hls`: the part of the path that is left is a session's name, a slash
/// and what is asked for.
pub(super) async fn get(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(wrong_method(READ));
    }
    let path = request.match_info().unprocessed();
    let (session_id, tail) = path
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .ok_or_else(|| Problem::not_found("there is nothing at this path"))?;
    if tail == poster::NAME {
        return poster::get(&request, &state, session_id).await;
    }
    let stream = session_id
        .parse::<SessionId>()
        .ok()
        .and_then(|session_id| state.sessions.stream(&session_id))
        .ok_or_else(|| Problem::not_found("no session of this name is live"))?;
    let mut blocking = false;
    let document = match tail.split_once('/') {
        None if tail == PLAYLIST => waiting(&state, stream.multivariant()).await?,
        Some((rendition, PLAYLIST)) => {
            let reload =
                BlockingReload::parse(request.query_string()).map_err(|error| refusal(&error))?;
            blocking = reload.msn.is_some();
            waiting(&state, stream.media_playlist(rendition, reload)).await?
        }
        Some((rendition, name)) => {
            let resource = waiting(&state, stream.resource(rendition, name)).await?;
            return Ok(content::respond(
                &request,
                Media {
                    chunks: resource.chunks,
                    len: resource.len,
                    etag: resource.etag,
                    content_type: resource.content_type,
                    cache_control: match state.auth.play {
                        Access::Anyone => "public, max-age=31536000, immutable",
                        Access::Tokens(_) => "private, max-age=31536000, immutable",
                    },
                    headers: Vec::new(),
                },
            ));
        }
        None => return Err(refusal(&HlsError::NotFound)),
    };
    let caching = playlist_caching(
        &state.auth.play,
        stream.settings().target_duration(),
        blocking,
    );
    Ok(playlist(&request, &document, &caching))
}

/// `Cache-Control` of a playlist, by its target duration in seconds. Browsers ask each time, because they ask when
/// they expect something new. Shared caches keep one for half a target duration, after which all viewers would ask
/// again anyway, and the answer to a blocking reload, which stays right for those who come late with the same query,
/// for a whole one. No longer, since a player may begin with `_HLS_msn=0`, and begins at what it gets.
fn playlist_caching(access: &Access, target_duration: u64, blocking: bool) -> String {
    let shared = if blocking {
        target_duration
    } else {
        (target_duration / 2).max(1)
    };
    match access {
        Access::Anyone => format!("public, max-age=0, s-maxage={shared}"),
        Access::Tokens(_) => "private, no-cache".to_owned(),
    }
}

/// The outcome of `answer`; one that is not there at once needs a place among the waiters.
async fn waiting<T>(
    state: &AppState,
    answer: impl Future<Output = Result<T, HlsError>>,
) -> Result<T, Problem> {
    let mut answer = pin!(answer);
    if let Poll::Ready(outcome) = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
        return outcome.map_err(|error| refusal(&error));
    }
    let _waiting = state.waiters.enter(&state.metrics).ok_or_else(|| {
        Problem::unavailable(
            "too many requests are waiting for media on this gateway",
            RETRY,
        )
    })?;
    answer.await.map_err(|error| refusal(&error))
}

fn refusal(error: &HlsError) -> Problem {
    let detail = error.to_string();
    match error {
        HlsError::NotFound => Problem::not_found(detail),
        HlsError::BadRequest(_) => Problem::new(StatusCode::BAD_REQUEST, detail),
        HlsError::NotReady { retry_after } | HlsError::Overloaded { retry_after } => {
            Problem::unavailable(detail, *retry_after)
        }
        HlsError::Timeout => Problem::unavailable(detail, RETRY),
    }
}

pub(super) fn playlist(request: &HttpRequest, document: &Document, caching: &str) -> HttpResponse {
    let text = |name: HeaderName| request.headers().get(name)?.to_str().ok();
    let gzip = text(header::ACCEPT_ENCODING).is_some_and(accepts_gzip);
    let etag = if gzip {
        document.gzip_etag()
    } else {
        document.etag()
    };
    let mut answer = HttpResponseBuilder::new(StatusCode::OK);
    answer
        .insert_header((header::ETAG, etag.as_str()))
        .insert_header((header::CACHE_CONTROL, caching))
        .insert_header((header::VARY, "Accept-Encoding"));
    if text(header::IF_NONE_MATCH).is_some_and(|tags| etag::none_match_fails(tags, &etag)) {
        return answer.status(StatusCode::NOT_MODIFIED).finish();
    }
    answer.content_type(Document::CONTENT_TYPE);
    if gzip {
        answer.insert_header((header::CONTENT_ENCODING, "gzip"));
        answer.body(document.gzip().clone())
    } else {
        answer.body(document.body().clone())
    }
}

/// Whether an `Accept-Encoding` header takes gzip (RFC 9110 section 12.5.3).
fn accepts_gzip(header: &str) -> bool {
    let mut any = false;
    for item in header.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts
            .find_map(|parameter| {
                parameter
                    .strip_prefix("q=")
                    .or(parameter.strip_prefix("Q="))
            })
            .map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return weight > 0.0;
        }
        any |= coding == "*" && weight > 0.0;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_only_where_it_is_welcome() {
        for (header, welcome) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5, br", true),
            ("*", true),
            ("br, *;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("br", false),
            ("identity", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(header), welcome, "{header:?}");
        }
    }

    #[test]
    fn shared_caches_keep_playlists_for_less_than_their_next_state_lasts() {
        for (target, blocking, seconds) in [
            (1, false, 1),
            (1, true, 1),
            (2, false, 1),
            (6, false, 3),
            (6, true, 6),
        ] {
            assert_eq!(
                playlist_caching(&Access::Anyone, target, blocking),
                format!("public, max-age=0, s-maxage={seconds}")
            );
        }
        let guarded = playlist_caching(&Access::Tokens(Vec::new()), 2, true);
        assert_eq!(guarded, "private, no-cache");
    }

    #[test]
    fn places_are_given_back() {
        let (waiters, metrics) = (Waiters::new(2), Metrics::new());
        let first = waiters.enter(&metrics);
        let second = waiters.enter(&metrics);
        assert!(first.is_some() && second.is_some());
        assert!(waiters.enter(&metrics).is_none());
        assert_eq!(metrics.hls_waiters.get(), 2);
        drop(first);
        assert!(waiters.enter(&metrics).is_some());
        drop(second);
        assert_eq!(metrics.hls_waiters.get(), 0);
    }

    #[test]
    fn every_refusal_has_its_status() {
        let retry_after = Duration::from_millis(1_200);
        for (error, status, retry) in [
            (HlsError::NotFound, 404, None),
            (HlsError::BadRequest("x".to_owned()), 400, None),
            (HlsError::NotReady { retry_after }, 503, Some("2")),
            (HlsError::Overloaded { retry_after }, 503, Some("2")),
            (HlsError::Timeout, 503, Some("1")),
        ] {
            let response = refusal(&error).response();
            assert_eq!(response.status(), status);
            let header = response.headers().get(header::RETRY_AFTER);
            assert_eq!(header.map(|value| value.to_str().unwrap()), retry);
        }
    }
}
