//! Recordings: lists, ranges over growing and complete files, names that lead nowhere.

use crate::support::{Gateway, header, problem};

const FILE: &str = "2026-11-22T06-37-00Z.mp4";

#[tokio::test]
async fn a_file_is_served_whole_and_in_ranges() {
    let gateway = Gateway::start(&[]);
    // More than is read at once.
    let bytes: Vec<u8> = (0..400_000_u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    gateway.recording("studio", FILE, &bytes);
    let path = format!("/recordings/studio/{FILE}");

    let response = gateway.get(&path).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "video/mp4");
    assert_eq!(header(&response, "accept-ranges"), "bytes");
    assert_eq!(header(&response, "cache-control"), "no-cache");
    assert_eq!(header(&response, "access-control-allow-origin"), "*");
    assert_eq!(
        header(&response, "content-disposition"),
        format!("inline; filename=\"studio_{FILE}\"")
    );
    assert!(header(&response, "last-modified").ends_with(" GMT"));
    let etag = header(&response, "etag").to_owned();
    assert!(etag.starts_with('"'), "{etag}");
    assert_eq!(response.bytes().await.unwrap(), bytes);

    let head = gateway.head(&path).send().await.unwrap();
    assert_eq!(header(&head, "content-length"), "400000");
    assert_eq!(header(&head, "etag"), etag);

    let part = gateway
        .get(&path)
        .header("range", "bytes=131000-300000")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(header(&part, "content-range"), "bytes 131000-300000/400000");
    assert_eq!(part.bytes().await.unwrap(), bytes[131_000..=300_000]);
    let tail = gateway
        .get(&path)
        .header("range", "bytes=-3")
        .header("if-range", &etag)
        .send()
        .await
        .unwrap();
    assert_eq!(tail.status(), 206);
    assert_eq!(tail.bytes().await.unwrap(), bytes[399_997..]);
    let outside = gateway
        .get(&path)
        .header("range", "bytes=400000-")
        .send()
        .await
        .unwrap();
    assert_eq!(header(&outside, "content-range"), "bytes */400000");
    problem(outside, 416).await;
    assert_eq!(
        gateway
            .get(&path)
            .header("if-none-match", &etag)
            .send()
            .await
            .unwrap()
            .status(),
        304
    );

    let download = gateway
        .get(&format!("{path}?download"))
        .send()
        .await
        .unwrap();
    assert!(header(&download, "content-disposition").starts_with("attachment; "));

    // Another state of the file has another tag, so a client that resumes gets the whole.
    gateway.recording("studio", FILE, &bytes[..1000]);
    let resumed = gateway
        .get(&path)
        .header("range", "bytes=500-")
        .header("if-range", &etag)
        .send()
        .await
        .unwrap();
    assert_eq!(resumed.status(), 200);
    assert_eq!(resumed.bytes().await.unwrap(), bytes[..1000]);
}

#[tokio::test]
async fn names_that_no_recording_has_lead_nowhere() {
    let gateway = Gateway::start(&[]);
    gateway.recording("studio", FILE, b"x");
    gateway.recording("studio", "notes.txt", b"x");
    std::fs::write(gateway.data.path().join(FILE), b"x").unwrap();
    for path in [
        format!("/recordings/other/{FILE}"),
        format!("/recordings/%2e%2e/{FILE}"),
        format!("/recordings/studio/%2e%2e%2f{FILE}"),
        format!("/recordings/studio/..%2fstudio%2f{FILE}"),
        format!("/recordings/studio/{FILE}/"),
        format!("/recordings/studio/{FILE}%00"),
        "/recordings/studio/notes.txt".to_owned(),
        "/recordings/studio/2026-11-22T06-37-01Z.mp4".to_owned(),
        "/recordings/studio/a%22b.mp4".to_owned(),
        "/recordings/a%2fb".to_owned(),
    ] {
        gateway.nothing_at(&path).await;
    }
}

#[tokio::test]
async fn lists_are_json_even_when_there_is_nothing() {
    let gateway = Gateway::start(&[]);
    // Neither is a recording: one is not of ours, the other has no part.
    gateway.recording("studio", FILE, b"not an mp4");
    for path in ["/recordings", "/recordings/studio", "/recordings/nobody"] {
        let response = gateway.get(path).send().await.unwrap();
        assert_eq!(header(&response, "content-type"), "application/json");
        assert_eq!(response.text().await.unwrap(), "{\"recordings\":[]}");
    }
}
