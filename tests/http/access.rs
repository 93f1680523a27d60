//! Tokens for playing and administering, and what becomes of them.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use reqwest::Method;

use crate::support::{Gateway, PARTS_PER_SEGMENT, header, problem};

const PLAYLIST: &str = "/hls/studio/video/index.m3u8";

#[tokio::test]
async fn w30_players_need_a_token_and_learn_nothing_without() {
    let gateway = Gateway::start(&["auth.play=right,other"]);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 2);
    for path in [
        PLAYLIST,
        "/hls/nobody/index.m3u8",
        "/recordings",
        "/recordings/a/b",
        "/recordings/a/2026-11-22T06-37-00Z.mp4/index.m3u8",
        "/hls/a%2fb/x",
    ] {
        let none = gateway.get(path).send().await.unwrap();
        assert_eq!(
            header(&none, "www-authenticate"),
            "Bearer realm=\"whipgate\""
        );
        assert_eq!(header(&none, "access-control-allow-origin"), "*");
        let detail = problem(none, 401).await;
        for authorization in [
            "Bearer wrong",
            "Bearer righ",
            "Bearer rightt",
            "bearer RIGHT",
        ] {
            let wrong = gateway
                .get(path)
                .header("authorization", authorization)
                .send()
                .await
                .unwrap();
            assert_eq!(
                header(&wrong, "www-authenticate"),
                "Bearer realm=\"whipgate\", error=\"invalid_token\""
            );
            assert_ne!(problem(wrong, 401).await, detail);
        }
        let basic = gateway
            .get(path)
            .header("authorization", "Basic right")
            .send()
            .await
            .unwrap();
        assert_eq!(
            header(&basic, "www-authenticate"),
            "Bearer realm=\"whipgate\""
        );
    }
    for authorization in ["Bearer right", "bEARER other"] {
        let right = gateway
            .get(PLAYLIST)
            .header("authorization", authorization)
            .send()
            .await
            .unwrap();
        assert_eq!(right.status(), 200);
        assert_eq!(header(&right, "set-cookie"), "");
    }
    assert_eq!(gateway.get("/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_token_in_the_query_is_followed_by_a_cookie_for_that_session() {
    let gateway = Gateway::start(&["auth.play=a/b+c=="]);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 2);
    for query in ["token=a/b+c==", "x=1&token=a%2Fb%2bc%3D%3D"] {
        let response = gateway
            .get(&format!("{PLAYLIST}?{query}"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(&response, "set-cookie"),
            "whipgate_play=a/b+c==; Path=/hls/studio/; HttpOnly; SameSite=Strict"
        );
        let playlist = response.text().await.unwrap();
        assert!(!playlist.contains("token"), "{playlist}");
        let segment = crate::support::uris(&playlist)
            .into_iter()
            .find(|uri| uri.contains("-s0.mp4"))
            .unwrap();
        let path = format!("/hls/studio/video/{segment}");
        problem(gateway.get(&path).send().await.unwrap(), 401).await;
        let media = gateway
            .get(&path)
            .header("cookie", "a=b; whipgate_play=a/b+c==")
            .send()
            .await
            .unwrap();
        assert_eq!(media.status(), 200);
        // A shared cache must not hand it on to those without a token.
        assert_eq!(
            header(&media, "cache-control"),
            "private, max-age=31536000, immutable"
        );
        assert_eq!(header(&media, "set-cookie"), "");
    }
    let wrong = gateway
        .get(&format!("{PLAYLIST}?token=x"))
        .send()
        .await
        .unwrap();
    assert_eq!(header(&wrong, "set-cookie"), "");
    assert_eq!(
        header(&wrong, "www-authenticate"),
        "Bearer realm=\"whipgate\", error=\"invalid_token\""
    );
}

#[tokio::test]
async fn administrators_see_and_end_sessions() {
    let gateway = Gateway::start(&[]);
    gateway.session("studio").push(1);
    gateway.session("attic").push(1);
    let list: serde_json::Value = gateway
        .get("/api/sessions")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let ids: Vec<_> = list["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["attic", "studio"]);
    let one: serde_json::Value = gateway
        .get("/api/sessions/studio")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(one["state"], "live");
    assert_eq!(one["tracks"][0]["resolution"], "1280x720");
    assert_eq!(one["urls"]["hls"], "/hls/studio/index.m3u8");
    assert_eq!(one["urls"]["publish"], "/whip/studio");
    assert_eq!(one["urls"]["watch"], "/watch/studio");

    let kick = || {
        gateway
            .request(Method::DELETE, "/api/sessions/studio")
            .send()
    };
    assert_eq!(kick().await.unwrap().status(), 204);
    problem(kick().await.unwrap(), 404).await;
    problem(
        gateway.get("/api/sessions/studio").send().await.unwrap(),
        404,
    )
    .await;
    problem(
        gateway.get("/api/sessions/a%2fb").send().await.unwrap(),
        404,
    )
    .await;
    let response = gateway
        .request(Method::POST, "/api/sessions/attic")
        .send()
        .await
        .unwrap();
    assert_eq!(header(&response, "allow"), "GET, HEAD, DELETE");
    problem(response, 405).await;
}

#[tokio::test]
async fn administration_asks_for_its_own_token() {
    let gateway = Gateway::start(&["auth.admin=boss", "auth.play=viewer"]);
    gateway.session("studio").push(1);
    for path in [
        "/api/sessions",
        "/api/sessions/studio",
        "/api/nothing",
        "/metrics",
    ] {
        problem(gateway.get(path).send().await.unwrap(), 401).await;
        problem(
            gateway
                .get(path)
                .header("authorization", "Bearer viewer")
                .send()
                .await
                .unwrap(),
            401,
        )
        .await;
        // The query is for players only: it ends up in histories.
        problem(
            gateway
                .get(&format!("{path}?token=boss"))
                .send()
                .await
                .unwrap(),
            401,
        )
        .await;
    }
    let response = gateway
        .get("/metrics")
        .header("authorization", "Bearer boss")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    problem(
        gateway
            .request(Method::DELETE, "/api/sessions/studio")
            .send()
            .await
            .unwrap(),
        401,
    )
    .await;
    assert_eq!(
        gateway
            .get("/api/sessions")
            .header("authorization", "Bearer boss")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn an_open_listener_without_admin_token_is_administered_from_its_own_machine_only() {
    let gateway = Gateway::start(&["http.listen=0.0.0.0:0", "auth.publish=t"]);
    assert_eq!(
        gateway.get("/api/sessions").send().await.unwrap().status(),
        200
    );
    let through_a_proxy = gateway
        .get("/api/sessions")
        .header("x-forwarded-for", "127.0.0.1")
        .send()
        .await
        .unwrap();
    assert!(problem(through_a_proxy, 403).await.contains("auth.admin"));
    let open = Gateway::start(&["http.listen=0.0.0.0:0", "http.allow_open=true"]);
    let response = open
        .get("/api/sessions")
        .header("x-forwarded-for", "192.0.2.1")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_administer_without_a_token() {
    let preflight = |gateway: &Gateway| {
        gateway
            .request(Method::OPTIONS, "/api/sessions/studio")
            .header("origin", "https://evil.example")
            .header("access-control-request-method", "DELETE")
            .send()
    };
    let open = Gateway::start(&[]);
    assert_eq!(
        header(
            &preflight(&open).await.unwrap(),
            "access-control-allow-origin"
        ),
        ""
    );
    let read = open
        .get("/api/sessions")
        .header("origin", "https://evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(header(&read, "access-control-allow-origin"), "");
    let guarded = Gateway::start(&["auth.admin=boss"]);
    assert_eq!(
        header(
            &preflight(&guarded).await.unwrap(),
            "access-control-allow-origin"
        ),
        "*"
    );
    let named = Gateway::start(&["http.cors_origins=https://console.example"]);
    assert_eq!(
        header(
            &preflight(&named).await.unwrap(),
            "access-control-allow-origin"
        ),
        ""
    );
    let read = named
        .get("/api/sessions")
        .header("origin", "https://console.example")
        .send()
        .await
        .unwrap();
    assert_eq!(
        header(&read, "access-control-allow-origin"),
        "https://console.example"
    );
}

/// Everything that is logged, by all threads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn w30_no_token_reaches_the_log_even_at_trace() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("whipgate=trace,actix_web=trace,actix_http=trace,actix_server=trace")
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .try_init()
        .unwrap();
    let gateway = Gateway::start(&["auth.play=hunter2", "auth.admin=hunter3"]);
    gateway.session("logged").push(PARTS_PER_SEGMENT + 2);
    for token in ["hunter2", "hunter4"] {
        let path = format!("/hls/logged/index.m3u8?token={token}");
        gateway.get(&path).send().await.unwrap();
        gateway
            .get("/hls/logged/x")
            .header("authorization", format!("Bearer {token}"))
            .send()
            .await
            .unwrap();
        gateway
            .get("/hls/logged/x")
            .header("cookie", format!("whipgate_play={token}"))
            .send()
            .await
            .unwrap();
    }
    gateway
        .get("/api/sessions")
        .header("authorization", "Bearer hunter3")
        .send()
        .await
        .unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("path=\"/hls/logged/index.m3u8\"") && text.contains("session_id=\"logged\""),
        "{text}"
    );
    assert!(
        text.contains("status=401") && text.contains("status=200"),
        "{text}"
    );
    assert!(!text.contains("hunter"), "{text}");
}
