//! `/recordings`: what is on disk, and the files with ranges.
//!
//! All file system work goes to blocking threads. A file that is being written has a weak entity tag, so `If-Range`
//! never joins two states of it, and a `Content-Range` says its length at the moment of the answer.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderValue, HttpDate},
    },
    web,
};
use serde::Serialize;
use serde_json::json;

use super::{
    AppState,
    content::{self, Media},
    hls::PLAYLIST,
    problem::Problem,
};
use crate::{
    hls::Chunk,
    id::SessionId,
    media::FileRange,
    recording::{Entry, EntryState, RecordingError, Store},
};

/// One recording in JSON.
#[derive(Serialize)]
struct Listed {
    session_id: SessionId,
    file: String,
    /// Path of the file on this server.
    url: String,
    /// Path of its HLS playlist on this server, once it is finished.
    playlist: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    start: time::OffsetDateTime,
    /// Seconds of media.
    duration: f64,
    bytes: u64,
    codecs: Vec<String>,
    /// `1280x720`, or null without video.
    resolution: Option<String>,
    state: EntryState,
    /// Players can seek in it at once.
    indexed: bool,
}

impl From<Entry> for Listed {
    fn from(entry: Entry) -> Self {
        let file = entry.file.to_string();
        let url = format!("/recordings/{}/{file}", entry.session_id);
        Self {
            playlist: (entry.state != EntryState::Live).then(|| format!("{url}/{PLAYLIST}")),
            url,
            file,
            session_id: entry.session_id,
            start: entry.start.into(),
            duration: entry.duration.as_secs_f64(),
            bytes: entry.bytes,
            codecs: entry.codecs,
            resolution: entry
                .resolution
                .map(|(width, height)| format!("{width}x{height}")),
            state: entry.state,
            indexed: entry.indexed,
        }
    }
}

/// `/recordings`: all of them.
pub(super) async fn list(state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    Ok(listing(with_store(&state, Store::list).await?))
}

/// `/recordings/{session_id}`: those of one session; none for a session that was never recorded.
pub(super) async fn list_session(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let session_id = session_id(&request)?;
    let entries = with_store(&state, move |store| store.list_session(&session_id)).await?;
    Ok(listing(entries))
}

/// `/recordings/{session_id}/{file}`: the MP4.
pub(super) async fn file(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let session_id = session_id(&request)?;
    let name = request
        .match_info()
        .get("file")
        .unwrap_or_default()
        .to_owned();
    // Both are plain names by now or will be refused by the store, so they can stand in a quoted string.
    let disposition = if request
        .query_string()
        .split('&')
        .any(|flag| flag == "download")
    {
        "attachment"
    } else {
        "inline"
    };
    let disposition = format!("{disposition}; filename=\"{session_id}_{name}\"");
    let open = with_store(&state, move |store| {
        store.open_file(&session_id, &name).map(Some)
    })
    .await?
    .ok_or_else(not_found)?;
    let mut headers = vec![(
        header::LAST_MODIFIED,
        header_value(&HttpDate::from(open.modified).to_string())?,
    )];
    headers.push((header::CONTENT_DISPOSITION, header_value(&disposition)?));
    let range = FileRange {
        file: Arc::new(open.file),
        offset: 0,
        len: open.len,
    };
    Ok(content::respond(
        &request,
        Media {
            chunks: vec![Chunk::File(range)],
            len: open.len,
            etag: open.etag,
            content_type: "video/mp4",
            cache_control: "no-cache",
            headers,
        },
    ))
}

fn listing(entries: Vec<Entry>) -> HttpResponse {
    let recordings: Vec<Listed> = entries.into_iter().map(Listed::from).collect();
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .json(json!({ "recordings": recordings }))
}

fn session_id(request: &HttpRequest) -> Result<SessionId, Problem> {
    let name = request.match_info().get("session_id").unwrap_or_default();
    name.parse().map_err(|_| not_found())
}

pub(super) fn not_found() -> Problem {
    Problem::not_found("no such recording")
}

fn header_value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(|_| not_found())
}

/// Runs `work` on a blocking thread; without a store there is simply nothing.
async fn with_store<T: Default + Send + 'static>(
    state: &AppState,
    work: impl FnOnce(&Store) -> Result<T, RecordingError> + Send + 'static,
) -> Result<T, Problem> {
    let Some(store) = state.recordings.clone() else {
        return Ok(T::default());
    };
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "recordings cannot be read");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the recordings cannot be read; the gateway's log says why",
        )
    };
    match web::block(move || work(&store)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(RecordingError::NotFound)) => Err(not_found()),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::FileName;
    use std::time::{Duration, SystemTime};

    #[test]
    fn an_entry_says_what_the_contract_names() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_mins(29_922_157);
        let listed = Listed::from(Entry {
            session_id: "studio".parse().unwrap(),
            file: FileName::new(start, 0),
            start,
            duration: Duration::from_millis(1_500),
            bytes: 42,
            codecs: vec!["avc1.64001f".to_owned(), "opus".to_owned()],
            resolution: Some((1280, 720)),
            state: EntryState::Live,
            indexed: false,
        });
        let file = FileName::new(start, 0).to_string();
        assert_eq!(
            serde_json::to_value(listed).unwrap(),
            json!({
                "session_id": "studio",
                "file": file,
                "url": format!("/recordings/studio/{file}"),
                "playlist": null,
                "start": "2026-11-22T06:37:00Z",
                "duration": 1.5,
                "bytes": 42,
                "codecs": ["avc1.64001f", "opus"],
                "resolution": "1280x720",
                "state": "live",
                "indexed": false,
            })
        );
    }
}
