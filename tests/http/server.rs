//! The listener: ports, slow and greedy clients, TLS, metrics, its end.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpResponse, web};
use reqwest::Method;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use whipgate::http::{AppState, Readiness, Server};

use crate::support::{Gateway, PARTS_PER_SEGMENT, Sessions, config, header, problem, until};

fn bind(overrides: &[&str]) -> Result<Server, String> {
    let config = config(overrides);
    let state = AppState::new(
        &config,
        Arc::new(Sessions::default()),
        None,
        whipgate::telemetry::Metrics::new(),
        Arc::new(Readiness::default()),
    );
    Server::bind(&config, state, |_| {}).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_listener_that_cannot_be_says_why_and_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let message = bind(&[&format!("http.listen={address}")]).unwrap_err();
    assert!(
        message.contains(&format!(
            "cannot listen on {address}: another program uses this port"
        )),
        "{message}"
    );
    assert!(message.contains("http.listen"), "{message}");
    let message = bind(&["http.listen=192.0.2.1:0", "auth.publish=t"]).unwrap_err();
    assert!(message.contains("no such address"), "{message}");

    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http");
    let key = format!("http.tls_key={here}/key.pem");
    for (certificate, reason) in [
        ("missing.pem", "http.tls_certificate = "),
        ("key.pem", "no certificate"),
    ] {
        let message =
            bind(&[&format!("http.tls_certificate={here}/{certificate}"), &key]).unwrap_err();
        assert!(message.contains(reason), "{message}");
    }
    let certificate = format!("http.tls_certificate={here}/certificate.pem");
    let message = bind(&[
        &certificate,
        &format!("http.tls_key={here}/certificate.pem"),
    ])
    .unwrap_err();
    assert!(message.contains("http.tls_key = "), "{message}");
}

#[tokio::test]
async fn https_is_spoken_with_the_configured_certificate() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http");
    let (certificate, key) = (format!("{here}/certificate.pem"), format!("{here}/key.pem"));
    let gateway = Gateway::start(&[
        &format!("http.tls_certificate={certificate}"),
        &format!("http.tls_key={key}"),
        "auth.play=t",
    ]);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 1);
    let address = gateway.address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = rustls::ClientConnection::new(Arc::new(tls), name).unwrap();
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut stream = rustls::Stream::new(&mut session, &mut socket);
        stream
            .write_all(b"GET /hls/studio/index.m3u8?token=t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}"),
        }
        String::from_utf8(answer).unwrap()
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("SameSite=Strict; Secure\r\n"), "{answer}");
}

/// Sends bytes and reads until the server closes; gives what came and how long it took.
async fn talk(address: SocketAddr, bytes: &[u8]) -> (String, Duration) {
    let started = Instant::now();
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    match read.expect("the server must close the connection") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    (
        String::from_utf8_lossy(&answer).into_owned(),
        started.elapsed(),
    )
}

#[tokio::test]
async fn r13_slow_heads_are_cut_and_disturb_nobody() {
    let gateway = Gateway::start(&["limits.header_timeout=700ms"]);
    let slow: Vec<_> = (0..150)
        .map(|_| {
            let address = gateway.address;
            tokio::spawn(async move { talk(address, b"GET /healthz HTTP/1.1\r\nHost: ").await })
        })
        .collect();
    let started = Instant::now();
    gateway.text("/healthz").await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    for client in slow {
        let (answer, elapsed) = client.await.unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    }
}

/// A client that asks for more than sockets buffer and takes nothing of it.
async fn greedy(address: SocketAddr, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    // The answer has begun.
    socket.readable().await.unwrap();
    socket
}

#[tokio::test]
async fn viewers_that_take_nothing_hold_nobody_up_and_are_cut_off() {
    const FILE: &str = "2026-11-22T06-37-00Z.mp4";
    let path = format!("/recordings/studio/{FILE}");
    let large = vec![7; 48 << 20];

    let gateway = Gateway::start(&[]);
    gateway.recording("studio", FILE, &large);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 1);
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(greedy(gateway.address, &path).await);
    }
    let started = Instant::now();
    gateway.text("/hls/studio/video/index.m3u8").await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );

    // One connection for each worker: there is no place for anybody else until these are gone.
    let gateway = Gateway::start(&["limits.connections=1", "limits.write_timeout=1s"]);
    gateway.recording("studio", FILE, &large);
    let workers = std::thread::available_parallelism().unwrap().get();
    let mut stuck = Vec::new();
    for _ in 0..workers {
        stuck.push(greedy(gateway.address, &path).await);
    }
    let started = Instant::now();
    gateway.text("/healthz").await;
    let waited = started.elapsed();
    assert!(
        (Duration::from_millis(500)..Duration::from_secs(8)).contains(&waited),
        "{waited:?}"
    );
}

#[tokio::test]
async fn r14_heads_that_are_too_long_are_refused() {
    let gateway = Gateway::start(&[]);
    let long = "x".repeat(17_000);
    problem(
        gateway
            .get("/healthz")
            .header("x-long", &long)
            .send()
            .await
            .unwrap(),
        431,
    )
    .await;
    problem(
        gateway
            .get(&format!("/healthz?{long}"))
            .send()
            .await
            .unwrap(),
        431,
    )
    .await;
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "x".repeat(200_000));
    let (answer, _) = talk(gateway.address, endless.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    gateway.text("/healthz").await;
}

#[tokio::test]
async fn r14_whip_requests_are_limited_by_client() {
    let gateway = Gateway::start_with(
        &[
            "http.trusted_proxies=127.0.0.1",
            "limits.posts_per_second=2",
            "limits.patches_per_second=2",
        ],
        |cfg| {
            cfg.route(
                "/whip/{session_id}",
                web::to(|| async { HttpResponse::Created().finish() }),
            );
        },
    );
    let send = |method: Method, client: &'static str| {
        gateway
            .request(method, "/whip/studio")
            .header("x-forwarded-for", client)
            .send()
    };
    for _ in 0..4 {
        assert_eq!(
            send(Method::POST, "203.0.113.1").await.unwrap().status(),
            201
        );
    }
    let refused = send(Method::POST, "203.0.113.1").await.unwrap();
    assert_eq!(header(&refused, "retry-after"), "1");
    problem(refused, 429).await;
    for (method, client) in [
        (Method::PATCH, "203.0.113.1"),
        (Method::OPTIONS, "203.0.113.1"),
        (Method::POST, "203.0.113.2"),
    ] {
        assert_eq!(send(method, client).await.unwrap().status(), 201);
    }
    // Whoever sits at the machine itself is not counted.
    for _ in 0..10 {
        assert_eq!(
            gateway
                .request(Method::POST, "/whip/studio")
                .send()
                .await
                .unwrap()
                .status(),
            201
        );
    }
}

#[tokio::test]
async fn head_answers_carry_no_body_on_the_wire() {
    let gateway = Gateway::start(&[]);
    gateway.recording("studio", "2026-11-22T06-37-00Z.mp4", &[7; 5000]);
    let request = b"HEAD /recordings/studio/2026-11-22T06-37-00Z.mp4 HTTP/1.1\r\nHost: a\r\n\r\n\
        HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (answer, _) = talk(gateway.address, request).await;
    let answers: Vec<_> = answer.split("\r\n\r\n").collect();
    assert_eq!(answers.len(), 3, "{answer}");
    assert!(answers[0].contains("content-length: 5000"), "{answer}");
    assert!(answers[1].starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(answers[2], "");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_session() {
    let gateway = Gateway::start(&[]);
    gateway.session("studio").push(PARTS_PER_SEGMENT + 1);
    gateway.text("/hls/studio/index.m3u8").await;
    gateway.get("/hls/nobody/index.m3u8").send().await.unwrap();
    gateway.get("/wp-admin.php").send().await.unwrap();
    let response = gateway.get("/metrics").send().await.unwrap();
    assert!(header(&response, "content-type").starts_with("application/openmetrics-text"));
    let text = response.text().await.unwrap();
    let route = "whipgate_http_requests_total{route=\"/hls/{session_id}/{tail}\",method=\"GET\"";
    for line in [
        format!("{route},status=\"2xx\"}} 1"),
        format!("{route},status=\"4xx\"}} 1"),
        "whipgate_http_requests_total{route=\"other\",method=\"GET\",status=\"4xx\"} 1".to_owned(),
        "whipgate_sessions{state=\"live\"} 1".to_owned(),
        "whipgate_hls_waiters 0".to_owned(),
        "whipgate_av_offset_max_seconds 0.0015".to_owned(),
        "whipgate_av_offset_uncertain_sessions 1".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(
        !text.contains("studio") && !text.contains("nobody") && !text.contains("wp-admin"),
        "{text}"
    );
}

#[tokio::test]
async fn r21_a_gateway_that_goes_down_says_so_and_ends() {
    let gateway = Gateway::start(&[]);
    let mut video = gateway.session("studio");
    video.push(PARTS_PER_SEGMENT + 2);
    assert_eq!(gateway.get("/readyz").send().await.unwrap().status(), 200);
    gateway.readiness.drain();
    assert!(gateway.readiness.is_draining());
    problem(gateway.get("/readyz").send().await.unwrap(), 503).await;
    gateway.text("/healthz").await;
    // A viewer in the middle of a request still gets the end of the playlist.
    let waiting = tokio::spawn(
        gateway
            .get("/hls/studio/video/index.m3u8?_HLS_msn=2")
            .send(),
    );
    until("it waits", async || gateway.metrics.hls_waiters.get() == 1).await;
    let started = Instant::now();
    let handle = gateway.handle.clone();
    let stopping = tokio::spawn(async move { handle.stop().await });
    video.stream.end();
    let playlist = waiting.await.unwrap().unwrap().text().await.unwrap();
    assert!(playlist.contains("#EXT-X-ENDLIST"), "{playlist}");
    stopping.await.unwrap();
    gateway.running.await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    assert!(TcpStream::connect(gateway.address).await.is_err());
}
