//! `/hls/{session_id}/poster.jpg`: the picture, how it may be kept, and why there is none.

use std::time::{Duration, SystemTime};

use whipgate::session::{Poster, PosterError};

use crate::support::{Gateway, header, problem};

const POSTER: &str = "/hls/studio/poster.jpg";

fn poster() -> Poster {
    Poster {
        jpeg: (&b"\xff\xd8 a picture"[..]).into(),
        tag: "key-poster-7".to_owned(),
        made_at: SystemTime::UNIX_EPOCH + Duration::from_hours(500_000),
    }
}

#[tokio::test]
async fn a_poster_is_a_jpeg_that_may_be_kept_for_some_seconds() {
    let gateway = Gateway::start(&[]);
    *gateway.sessions.1.lock().unwrap() = Some(Ok(poster()));
    let response = gateway.get(POSTER).send().await.unwrap();
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("content-type", "image/jpeg"),
        ("cache-control", "public, max-age=5"),
        ("etag", "\"key-poster-7\""),
        ("last-modified", "Fri, 15 Jan 2027 08:00:00 GMT"),
        ("content-length", "12"),
        ("access-control-allow-origin", "*"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(header(&response, name), value, "{name}");
    }
    assert_eq!(response.bytes().await.unwrap(), poster().jpeg);

    let head = gateway.head(POSTER).send().await.unwrap();
    assert_eq!(header(&head, "content-length"), "12");
    let known = gateway
        .get(POSTER)
        .header("if-none-match", "\"key-poster-7\"")
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), 304);
    assert_eq!(header(&known, "cache-control"), "public, max-age=5");
}

#[tokio::test]
async fn a_poster_that_cannot_be_had_is_told_why() {
    let gateway = Gateway::start(&[]);
    for (error, status, words) in [
        (PosterError::NoPicture, 404, "sound only"),
        (
            PosterError::NoDecoder("av1dec (Debian package x)".to_owned()),
            503,
            "Debian package x",
        ),
        (PosterError::Undecodable("why".to_owned()), 503, "why"),
        (PosterError::Overloaded, 503, "too many"),
    ] {
        *gateway.sessions.1.lock().unwrap() = Some(Err(error));
        let response = gateway.get(POSTER).send().await.unwrap();
        let retry = if status == 503 { "5" } else { "" };
        assert_eq!(header(&response, "retry-after"), retry);
        let detail = problem(response, status).await;
        assert!(detail.contains(words), "{detail}");
    }
    let response = gateway.get("/hls/.studio/poster.jpg").send().await.unwrap();
    problem(response, 404).await;
}

#[tokio::test]
async fn w30_a_poster_needs_the_token_of_the_stream() {
    let gateway = Gateway::start(&["auth.play=right"]);
    *gateway.sessions.1.lock().unwrap() = Some(Ok(poster()));
    problem(gateway.get(POSTER).send().await.unwrap(), 401).await;
    let response = gateway
        .get(POSTER)
        .bearer_auth("right")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "cache-control"), "private, max-age=5");
}
