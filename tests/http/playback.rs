//! Playlists and media: types, caching, conditions, ranges, blocking, refusals.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use reqwest::Method;
use whipgate::media::{FileRange, MediaKind};

use crate::support::{Gateway, PARTS_PER_SEGMENT, Video, header, problem, until, uris};

const PLAYLIST: &str = "/hls/studio/video/index.m3u8";

/// Name of the first segment, of the init segment and of the hinted part.
fn names(playlist: &str) -> (String, String, String) {
    let find = |mark: &str| {
        let found = uris(playlist).into_iter().find(|uri| uri.contains(mark));
        format!(
            "/hls/studio/video/{}",
            found.unwrap_or_else(|| panic!("no {mark} in {playlist}"))
        )
    };
    let hint = playlist
        .lines()
        .find(|line| line.starts_with("#EXT-X-PRELOAD-HINT"))
        .unwrap();
    (
        find("-s0.mp4"),
        find("-init-0.mp4"),
        format!("/hls/studio/video/{}", uris(hint)[0]),
    )
}

#[tokio::test]
async fn h23_playlists_say_how_they_may_be_kept() {
    let gateway = Gateway::start(&[]);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 2);
    for path in ["/hls/studio/index.m3u8", PLAYLIST] {
        let response = gateway.get(path).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(&response, "content-type"),
            "application/vnd.apple.mpegurl"
        );
        let caching = header(&response, "cache-control");
        assert_eq!(caching, "public, max-age=0, s-maxage=1");
        assert_eq!(header(&response, "vary"), "Accept-Encoding");
        assert_eq!(header(&response, "access-control-allow-origin"), "*");
        assert!(header(&response, "access-control-expose-headers").contains("ETag"));
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(header(&response, "content-encoding"), "");
        let etag = header(&response, "etag").to_owned();
        let text = response.text().await.unwrap();
        assert!(text.starts_with("#EXTM3U\n"), "{text}");

        let zipped = gateway
            .get(path)
            .header("accept-encoding", "br, gzip")
            .send()
            .await
            .unwrap();
        assert_eq!(header(&zipped, "content-encoding"), "gzip");
        assert_eq!(header(&zipped, "vary"), "Accept-Encoding");
        let zipped_etag = header(&zipped, "etag").to_owned();
        assert_ne!(zipped_etag, etag);
        let mut unzipped = String::new();
        flate2::read::GzDecoder::new(&zipped.bytes().await.unwrap()[..])
            .read_to_string(&mut unzipped)
            .unwrap();
        assert_eq!(unzipped, text);

        let unchanged = gateway
            .get(path)
            .header("if-none-match", &etag)
            .send()
            .await
            .unwrap();
        assert_eq!(unchanged.status(), 304);
        assert_eq!(header(&unchanged, "etag"), etag);
        assert_eq!(header(&unchanged, "access-control-allow-origin"), "*");
        let changed = gateway
            .get(path)
            .header("if-none-match", &zipped_etag)
            .send()
            .await
            .unwrap();
        assert_eq!(changed.status(), 200);

        let head = gateway.head(path).send().await.unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(header(&head, "content-length"), text.len().to_string());
        assert_eq!(header(&head, "etag"), etag);
        assert!(head.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn h23_media_may_be_kept_for_ever_and_read_in_ranges() {
    let gateway = Gateway::start(&[]);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 2);
    let (segment, init, _) = names(&gateway.text(PLAYLIST).await);
    let all: Vec<u8> = (0..PARTS_PER_SEGMENT).flat_map(Video::part_bytes).collect();
    assert_eq!(gateway.text(&init).await, "the init segment");

    let response = gateway.get(&segment).send().await.unwrap();
    assert_eq!(header(&response, "content-type"), "video/mp4");
    assert_eq!(
        header(&response, "cache-control"),
        "public, max-age=31536000, immutable"
    );
    assert_eq!(header(&response, "accept-ranges"), "bytes");
    assert_eq!(header(&response, "access-control-allow-origin"), "*");
    assert_eq!(header(&response, "vary"), "");
    let etag = header(&response, "etag").to_owned();
    assert!(etag.starts_with('"'));
    assert_eq!(response.bytes().await.unwrap(), all);

    let head = gateway
        .head(&segment)
        .header("range", "bytes=0-1")
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(header(&head, "content-length"), all.len().to_string());
    assert_eq!(
        gateway
            .get(&segment)
            .header("if-none-match", &etag)
            .send()
            .await
            .unwrap()
            .status(),
        304
    );

    let len = all.len();
    for (range, first, last) in [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=1190-1215".to_owned(), 1190, 1215),
        (format!("bytes={}-", len - 5), len - 5, len - 1),
        ("bytes=-7".to_owned(), len - 7, len - 1),
        (format!("bytes=0-{}", len * 2), 0, len - 1),
    ] {
        let part = gateway
            .get(&segment)
            .header("range", &range)
            .send()
            .await
            .unwrap();
        assert_eq!(part.status(), 206, "{range}");
        assert_eq!(
            header(&part, "content-range"),
            format!("bytes {first}-{last}/{len}")
        );
        assert_eq!(
            header(&part, "content-length"),
            (last - first + 1).to_string()
        );
        assert_eq!(part.bytes().await.unwrap(), all[first..=last]);
    }
    let outside = gateway
        .get(&segment)
        .header("range", format!("bytes={len}-"))
        .send()
        .await
        .unwrap();
    assert_eq!(header(&outside, "content-range"), format!("bytes */{len}"));
    assert_eq!(header(&outside, "access-control-allow-origin"), "*");
    problem(outside, 416).await;
    for (range, if_range) in [
        ("bytes=0-0", "\"other\""),
        ("lines=0-0", etag.as_str()),
        ("bytes=0-0,4-5", etag.as_str()),
    ] {
        let whole = gateway
            .get(&segment)
            .header("range", range)
            .header("if-range", if_range)
            .send()
            .await
            .unwrap();
        assert_eq!(whole.status(), 200, "{range} {if_range}");
    }
    let same = gateway
        .get(&segment)
        .header("range", "bytes=0-0")
        .header("if-range", &etag)
        .send()
        .await
        .unwrap();
    assert_eq!(same.status(), 206);
}

#[tokio::test]
async fn old_parts_come_back_from_the_disk() {
    let gateway = Gateway::start(&[]);
    let mut video = gateway.session("studio");
    let keys = video.push(6 * PARTS_PER_SEGMENT);
    let mut file = tempfile::tempfile().unwrap();
    let mut offset = 0;
    let mut ranges = Vec::new();
    for number in 0..keys.len() as u64 {
        let bytes = Video::part_bytes(number);
        file.write_all(&bytes).unwrap();
        ranges.push((offset, bytes.len() as u64));
        offset += bytes.len() as u64;
    }
    let file = Arc::new(file);
    for (key, (offset, len)) in keys.into_iter().zip(ranges) {
        assert!(video.stream.offload(
            MediaKind::Video,
            key,
            FileRange {
                file: file.clone(),
                offset,
                len
            }
        ));
    }
    video.push(PARTS_PER_SEGMENT);
    let (segment, ..) = names(&gateway.text(PLAYLIST).await);
    let all: Vec<u8> = (0..PARTS_PER_SEGMENT).flat_map(Video::part_bytes).collect();
    assert_eq!(gateway.text(&segment).await.as_bytes(), all);
    let part = gateway
        .get(&segment)
        .header("range", "bytes=1195-1204")
        .send()
        .await
        .unwrap();
    assert_eq!(part.bytes().await.unwrap(), all[1195..=1204]);
}

#[tokio::test]
async fn a_request_for_what_comes_next_waits_and_a_viewer_that_leaves_is_forgotten() {
    let gateway = Gateway::start(&[]);
    let mut video = gateway.session("studio");
    video.push(PARTS_PER_SEGMENT + 2);
    let (.., hinted) = names(&gateway.text(PLAYLIST).await);
    let next = tokio::spawn(
        gateway
            .get(&format!("{PLAYLIST}?_HLS_msn=1&_HLS_part=2"))
            .send(),
    );
    let part = tokio::spawn(gateway.get(&hinted).send());
    let leaving = tokio::spawn(
        gateway
            .get(&format!("{PLAYLIST}?_HLS_msn=1&_HLS_part=3"))
            .send(),
    );
    until("three wait", async || {
        gateway.metrics.hls_waiters.get() == 3
    })
    .await;
    leaving.abort();
    until("one has left", async || {
        gateway.metrics.hls_waiters.get() == 2
    })
    .await;
    video.push(1);
    let playlist = next.await.unwrap().unwrap();
    assert_eq!(playlist.status(), 200);
    assert!(
        uris(&playlist.text().await.unwrap())
            .iter()
            .any(|uri| hinted.ends_with(uri))
    );
    let bytes = part.await.unwrap().unwrap().bytes().await.unwrap();
    assert_eq!(bytes, Video::part_bytes(PARTS_PER_SEGMENT + 2));
    until("nobody waits", async || {
        gateway.metrics.hls_waiters.get() == 0
    })
    .await;
}

#[tokio::test]
async fn waiters_are_limited_but_what_is_there_is_served() {
    let gateway = Gateway::start(&["limits.waiters=1"]);
    let mut video = gateway.session("studio");
    video.push(PARTS_PER_SEGMENT + 2);
    let next = format!("{PLAYLIST}?_HLS_msn=1&_HLS_part=2");
    let waiting = tokio::spawn(gateway.get(&next).send());
    until("one waits", async || gateway.metrics.hls_waiters.get() == 1).await;
    let refused = gateway.get(&next).send().await.unwrap();
    assert_eq!(header(&refused, "retry-after"), "1");
    assert_eq!(header(&refused, "access-control-allow-origin"), "*");
    problem(refused, 503).await;
    gateway.text(PLAYLIST).await;
    video.push(1);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn refusals_are_problems_that_any_page_may_read() {
    let gateway = Gateway::start(&[]);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 2);
    for path in [
        "/hls/nobody/index.m3u8",
        "/hls/%2e%2e/index.m3u8",
        "/hls/a%2Fb/index.m3u8",
        "/hls/a%00b/index.m3u8",
        "/hls/studio",
        "/hls/studio/",
        "/hls/studio/nothing",
        "/hls/studio/audio/index.m3u8",
        "/hls/studio/video/other-s0.mp4",
        "/hls/studio/video/../../../etc/passwd",
        "/hls/",
    ] {
        gateway.nothing_at(path).await;
    }
    problem(gateway.get("/nothing").send().await.unwrap(), 404).await;
    for query in [
        "_HLS_msn=x",
        "_HLS_part=1",
        "_HLS_msn=99",
        "_HLS_msn=1&_HLS_msn=1",
    ] {
        problem(
            gateway
                .get(&format!("{PLAYLIST}?{query}"))
                .send()
                .await
                .unwrap(),
            400,
        )
        .await;
    }
    for method in [Method::POST, Method::DELETE, Method::PUT, Method::OPTIONS] {
        let response = gateway.request(method, PLAYLIST).send().await.unwrap();
        assert_eq!(header(&response, "allow"), "GET, HEAD");
        problem(response, 405).await;
    }
}

#[tokio::test]
async fn an_ended_stream_does_not_keep_anybody_waiting() {
    let gateway = Gateway::start(&[]);
    let mut video = gateway.session("studio");
    video.push(PARTS_PER_SEGMENT + 2);
    let waiting = tokio::spawn(gateway.get(&format!("{PLAYLIST}?_HLS_msn=2")).send());
    until("it waits", async || gateway.metrics.hls_waiters.get() == 1).await;
    video.stream.end();
    let playlist = tokio::time::timeout(Duration::from_secs(5), waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(playlist.text().await.unwrap().contains("#EXT-X-ENDLIST"));
}

#[tokio::test]
async fn browsers_may_ask_first_and_origins_can_be_named() {
    let preflight = |gateway: &Gateway, origin: &str| {
        gateway
            .request(Method::OPTIONS, PLAYLIST)
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization")
            .send()
    };
    // No token is asked for: the browser sends none on its own account.
    let any = Gateway::start(&["auth.play=t"]);
    let response = preflight(&any, "https://a.example").await.unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(header(&response, "access-control-allow-origin"), "*");
    assert_eq!(
        header(&response, "access-control-allow-methods"),
        "GET, HEAD"
    );
    assert!(header(&response, "access-control-allow-headers").contains("Authorization"));

    let named = Gateway::start(&["http.cors_origins=https://a.example,https://b.example"]);
    named.session("studio").push(PARTS_PER_SEGMENT + 2);
    for (origin, allowed) in [("https://b.example", true), ("https://c.example", false)] {
        let expected = if allowed { origin } else { "" };
        let response = preflight(&named, origin).await.unwrap();
        assert_eq!(header(&response, "access-control-allow-origin"), expected);
        let response = named
            .get(PLAYLIST)
            .header("origin", origin)
            .send()
            .await
            .unwrap();
        assert_eq!(header(&response, "access-control-allow-origin"), expected);
        let vary: Vec<_> = response.headers().get_all("vary").iter().collect();
        assert_eq!(vary, ["Accept-Encoding", "Origin"]);
    }
}
