//! `/hls/{session_id}/poster.jpg`: a picture of a session. What it shows and when it is made is the session's business.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderValue, HttpDate},
};

use super::{
    AppState,
    content::{self, Media},
    problem::Problem,
};
use crate::{
    config::Access,
    hls::Chunk,
    id::SessionId,
    session::{POSTER_INTERVAL, PosterError},
};

/// How long a poster may be kept: until there can be another one ([`POSTER_INTERVAL`]).
const PUBLIC: &str = "public, max-age=5";
const PRIVATE: &str = "private, max-age=5";

/// Its name within a session's folder.
pub(super) const NAME: &str = "poster.jpg";

/// Answers `GET` and `HEAD`.
pub(super) async fn get(
    request: &HttpRequest,
    state: &AppState,
    session_id: &str,
) -> Result<HttpResponse, Problem> {
    let id: SessionId = session_id
        .parse()
        .map_err(|_| refusal(&PosterError::NoPicture))?;
    let poster = state.sessions.poster(&id).await;
    let poster = poster.map_err(|error| refusal(&error))?;
    let modified = HttpDate::from(poster.made_at).to_string();
    let headers = HeaderValue::from_str(&modified)
        .map(|value| vec![(header::LAST_MODIFIED, value)])
        .unwrap_or_default();
    Ok(content::respond(
        request,
        Media {
            len: poster.jpeg.len() as u64,
            chunks: vec![Chunk::Memory(poster.jpeg)],
            etag: format!("\"{}\"", poster.tag),
            content_type: "image/jpeg",
            cache_control: match state.auth.play {
                Access::Anyone => PUBLIC,
                Access::Tokens(_) => PRIVATE,
            },
            headers,
        },
    ))
}

fn refusal(error: &PosterError) -> Problem {
    let detail = error.to_string();
    match error {
        PosterError::NoPicture => Problem::not_found(detail),
        _ => Problem::unavailable(detail, POSTER_INTERVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poster_may_be_kept_until_the_next_one() {
        let seconds = POSTER_INTERVAL.as_secs();
        assert_eq!(PUBLIC, format!("public, max-age={seconds}"));
        assert_eq!(PRIVATE, format!("private, max-age={seconds}"));
    }
}
