//! `/recordings/{session_id}/{file}/...`: the playlist of a finished recording, over the bytes of the recording itself.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use bytes::Bytes;

use super::{
    AppState,
    content::{self, Media},
    hls::{self, PLAYLIST},
    problem::Problem,
    recordings,
};
use crate::{
    hls::{Chunk, Document, VodMap, VodPlaylist, VodSegment},
    id::SessionId,
    recording::{RecordedInit, RecordingError, SegmentIndex, Store},
};

/// Playlists that were asked for lately, rendered; the newest last.
#[derive(Debug, Default)]
pub(super) struct Playlists(Mutex<VecDeque<(String, Arc<Document>)>>);

impl Playlists {
    /// How many are kept. One has about 200 kB per hour of recording.
    const LIMIT: usize = 16;

    /// The playlist under this key, made if it is not here.
    fn get(&self, key: &str, make: impl FnOnce() -> Arc<Document>) -> Arc<Document> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = {
            let mut kept = kept();
            let index = kept.iter().position(|(known, _)| known == key);
            index.and_then(|index| kept.remove(index))
        };
        let document = match found.take() {
            Some((_, document)) => document,
            None => make(),
        };
        let mut kept = kept();
        kept.push_back((key.to_owned(), Arc::clone(&document)));
        if kept.len() > Self::LIMIT {
            kept.pop_front();
        }
        document
    }
}

/// What stands below a recording.
enum Asked {
    Playlist(Arc<Document>),
    Init(Bytes, String),
}

/// Answers `GET` and `HEAD`.
pub(super) async fn get(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let part = |name| request.match_info().get(name).unwrap_or_default();
    let session_id: SessionId = part("session_id").parse().map_err(|_| not_found())?;
    let (file, name) = (part("file").to_owned(), part("name").to_owned());
    let store = state.recordings.clone().ok_or_else(not_found)?;
    let shared = state.clone();
    let asked = web::block(move || look(&store, &shared.vod, &session_id, &file, &name))
        .await
        .unwrap_or_else(|error| Err(unreadable(&error)))?;
    Ok(match asked {
        Asked::Playlist(document) => hls::playlist(&request, &document, "no-cache"),
        Asked::Init(bytes, etag) => content::respond(
            &request,
            Media {
                len: bytes.len() as u64,
                chunks: vec![Chunk::Memory(bytes)],
                etag,
                content_type: "video/mp4",
                cache_control: "no-cache",
                headers: Vec::new(),
            },
        ),
    })
}

/// Finds what was asked for; reads files.
fn look(
    store: &Store,
    playlists: &Playlists,
    session_id: &SessionId,
    file: &str,
    name: &str,
) -> Result<Asked, Problem> {
    let init = init_number(name);
    if init.is_none() && name != PLAYLIST {
        return Err(not_found());
    }
    let (open, index) = store
        .segments(session_id, file)
        .map_err(|error| refusal(&error, session_id))?;
    let tag = open.etag.trim_matches('"');
    let Some(number) = init else {
        let key = format!("{session_id}/{file}/{tag}");
        let document = playlists.get(&key, || playlist(file, &index).document(tag));
        return Ok(Asked::Playlist(document));
    };
    match index.inits.get(number) {
        Some(RecordedInit::Made(bytes)) => Ok(Asked::Init(
            bytes.clone(),
            format!("\"{tag}-init-{number}\""),
        )),
        _ => Err(not_found()),
    }
}

/// The number in `init-<number>.mp4`.
fn init_number(name: &str) -> Option<usize> {
    let number = name.strip_prefix("init-")?.strip_suffix(".mp4")?;
    number
        .parse()
        .ok()
        .filter(|parsed: &usize| parsed.to_string() == number)
}

/// The playlist of a recording, which stands in a folder of the file's name beside the file.
fn playlist(file: &str, index: &SegmentIndex) -> VodPlaylist {
    let maps = index.inits.iter().enumerate();
    let maps = maps.map(|(number, init)| match init {
        RecordedInit::Range(range) => VodMap::Range {
            offset: range.start,
            len: range.end - range.start,
        },
        RecordedInit::Made(_) => VodMap::Uri(format!("init-{number}.mp4")),
    });
    let segments = index.segments.iter().map(|segment| VodSegment {
        offset: segment.offset,
        len: segment.len,
        duration: segment.duration,
        map: segment.init,
        independent: segment.independent,
        discontinuity: segment.discontinuity,
    });
    VodPlaylist {
        uri: format!("../{file}"),
        maps: maps.collect(),
        segments: segments.collect(),
    }
}

fn refusal(error: &RecordingError, session_id: &SessionId) -> Problem {
    match error {
        RecordingError::Busy { .. } => Problem::not_found(format!(
            "this is still being recorded, and has a playlist when it is finished; until then watch it at /hls/{session_id}/{PLAYLIST}"
        )),
        RecordingError::NotFound
        | RecordingError::Empty { .. }
        | RecordingError::Foreign { .. } => not_found(),
        RecordingError::Damaged { .. } => {
            tracing::warn!(%error, "a recording has no playlist");
            Problem::not_found(
                "this recording is damaged, so it has no playlist; the gateway's log says where",
            )
        }
        error => unreadable(error),
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%error, "recordings cannot be read");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the recordings cannot be read; the gateway's log says why",
    )
}

fn not_found() -> Problem {
    recordings::not_found()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inits_have_one_spelling() {
        assert_eq!(init_number("init-12.mp4"), Some(12));
        for name in ["init-.mp4", "init-01.mp4", "init-+1.mp4", "init-1", "1.mp4"] {
            assert_eq!(init_number(name), None, "{name}");
        }
    }

    #[test]
    fn playlists_are_kept_and_bounded() {
        let playlists = Playlists::default();
        let document = || playlist("a.mp4", &empty()).document("tag");
        let first = playlists.get("0", document);
        for key in 1..Playlists::LIMIT {
            playlists.get(&key.to_string(), document);
        }
        let again = |key: &str| Arc::ptr_eq(&first, &playlists.get(key, document));
        assert!(again("0"), "kept");
        playlists.get("one more", document);
        assert!(again("0"), "used lately");
        for key in 0..Playlists::LIMIT {
            playlists.get(&format!("other {key}"), document);
        }
        assert!(!again("0"));
    }

    fn empty() -> SegmentIndex {
        SegmentIndex {
            inits: Vec::new(),
            segments: Vec::new(),
        }
    }
}
