//! The rows of the WHIP requirements that need no media, over real HTTP against a connector without a network.
//! Each test is named after its row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{App, HttpServer, dev::ServerHandle, web};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use whipgate::{
    media,
    transport::{self, EndReason, PublishError, PublishOptions, PublishTransport},
    whip::{
        AuthorizeRequest, Authorizer, Denied, IceServer, Limits, PublishTransportProvider,
        WhipEndpoint,
    },
};

#[path = "../src/transport/fake.rs"]
mod fake;

use fake::{ANSWER, Events, FakeConnector};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
const CREDENTIALS: &str = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n";
const TRICKLE: &str = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n\
    m=audio 9 RTP/AVP 0\r\na=mid:0\r\n\
    a=candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host\r\n";
/// No answer to anything here takes this long.
const DEADLINE: Duration = Duration::from_secs(10);

/// Sessions that were registered beforehand; `broken` and `full` are there to fail.
#[derive(Default)]
struct Sessions {
    transports: HashMap<&'static str, Arc<PublishTransport>>,
    asked: AtomicUsize,
}

impl PublishTransportProvider for Sessions {
    async fn get_publish_transport(
        &self,
        session_id: &str,
    ) -> Result<Arc<PublishTransport>, PublishError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match session_id {
            "broken" => Err(PublishError::internal("the secret cause")),
            "full" => Err(PublishError::Overloaded {
                retry_after: Duration::from_millis(2300),
            }),
            "stopping" => Err(PublishError::Unavailable("shutting down".to_owned())),
            "banned" => Err(PublishError::Forbidden("banned".to_owned())),
            id => self
                .transports
                .get(id)
                .cloned()
                .ok_or(PublishError::UnknownSession),
        }
    }
}

/// `good` may publish into `live`, `other` may not; all other tokens are not valid.
struct Tokens;

impl Authorizer for Tokens {
    fn authorize<'a>(
        &'a self,
        request: AuthorizeRequest<'a>,
    ) -> transport::BoxFuture<'a, Result<(), Denied>> {
        assert!(request.peer.is_some());
        Box::pin(async move {
            match request.token {
                Some("good") if request.session_id.as_str() != "forbidden" => Ok(()),
                Some("good") => Err(Denied::Forbidden("not your session".to_owned())),
                _ => Err(Denied::Unauthorized),
            }
        })
    }
}

/// A gateway on a port of its own.
struct Server {
    address: SocketAddr,
    client: Client,
    connector: Arc<FakeConnector>,
    sessions: Arc<Sessions>,
    handle: ServerHandle,
}

impl Server {
    fn start() -> Self {
        Self::with(|endpoint| endpoint)
    }

    fn with(
        change: impl FnOnce(WhipEndpoint<Arc<Sessions>>) -> WhipEndpoint<Arc<Sessions>>,
    ) -> Self {
        let connector = Arc::new(FakeConnector::default());
        let options = PublishOptions {
            silence: Duration::from_millis(300),
            hold: Duration::from_millis(400),
            ..PublishOptions::default()
        };
        let transport = PublishTransport::new(
            Arc::clone(&connector) as _,
            Arc::new(Events::default()),
            options,
        );
        let sessions = Arc::new(Sessions {
            transports: HashMap::from([("live", transport)]),
            ..Sessions::default()
        });
        let endpoint = change(WhipEndpoint::new(Arc::clone(&sessions)));
        let server = HttpServer::new(move || {
            let scoped = endpoint.clone();
            App::new()
                .configure(|cfg| endpoint.configure(cfg))
                .service(web::scope("/in/side").configure(move |cfg| scoped.configure(cfg)))
        })
        .workers(1)
        // A client that has gone is not answered, so its offer is not held any longer.
        .h1_allow_half_closed(false)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self {
            address,
            client: Client::builder()
                .timeout(DEADLINE)
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            connector,
            sessions,
            handle,
        }
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client
            .request(method, format!("http://{}{path}", self.address))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.request("POST", path)
            .header("content-type", SDP)
            .body(OFFER)
    }

    fn patch(&self, path: &str, body: &'static str) -> RequestBuilder {
        self.request("PATCH", path)
            .header("content-type", FRAGMENT)
            .body(body)
    }

    /// A publisher in `live`: its session URL and its entity tag, quotes included.
    async fn publish(&self) -> (String, String) {
        let response = self.post("/whip/live").send().await.unwrap();
        assert_eq!(response.status(), 201);
        (header(&response, "location"), header(&response, "etag"))
    }

    /// Sends `text` as it is; the answer up to the end of the connection.
    async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("the server closes the connection")
        .unwrap();
    String::from_utf8(answer).unwrap()
}

fn header(response: &Response, name: &str) -> String {
    response
        .headers()
        .get(name)
        .unwrap_or_else(|| panic!("{name} in {response:?}"))
        .to_str()
        .unwrap()
        .to_owned()
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

/// The detail of a problem document, after a look at the rest of it.
async fn problem(request: RequestBuilder, expected: u16) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), expected);
    assert_eq!(
        header(&response, "content-type"),
        "application/problem+json"
    );
    let problem: serde_json::Value = response.json().await.unwrap();
    assert_eq!(problem["status"], expected);
    assert_eq!(problem["type"], "about:blank");
    assert!(!problem["title"].as_str().unwrap().is_empty());
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn w1_an_offer_gets_an_answer_and_a_session_url() {
    let server = Server::start();
    let response = server.post("/whip/live").send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(header(&response, "content-type"), SDP);
    assert_eq!(header(&response, "accept-patch"), FRAGMENT);
    assert!(response.headers().get("link").is_none());
    let location = header(&response, "location");
    let resource = location.strip_prefix("/whip/live/").unwrap();
    assert_eq!(resource.len(), 32);
    assert!(resource.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(response.text().await.unwrap(), ANSWER);
    assert_eq!(server.connector.offers(), [OFFER]);
}

#[tokio::test]
async fn w1_the_session_url_follows_the_scope_and_drops_the_query() {
    let server = Server::start();
    let response = server
        .post("/in/side/whip/l%69ve?token=x")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 201);
    let location = header(&response, "location");
    assert!(location.starts_with("/in/side/whip/live/"), "{location}");
    assert!(!location.contains('?'));
    assert_eq!(status(server.request("DELETE", &location)).await, 200);
}

#[tokio::test]
async fn w2_the_content_type_must_be_sdp_whatever_its_case_and_parameters() {
    let server = Server::start();
    for good in [
        "application/sdp",
        "APPLICATION/SDP",
        "application/sdp; charset=utf-8",
        "Application/Sdp;x=\"y\"",
    ] {
        let request = server
            .request("POST", "/whip/live")
            .header("content-type", good);
        assert_eq!(status(request.body(OFFER)).await, 201, "{good}");
    }
    for bad in [
        "text/plain",
        "application/sdpx",
        "application/json; application/sdp",
        "",
        FRAGMENT,
    ] {
        let request = server
            .request("POST", "/whip/live")
            .header("content-type", bad)
            .body(OFFER);
        let response = request.try_clone().unwrap().send().await.unwrap();
        assert_eq!(response.status(), 415, "{bad}");
        assert_eq!(header(&response, "accept-post"), SDP);
        let detail = problem(request, 415).await;
        assert!(
            detail.contains(bad) && detail.contains("POST takes application/sdp"),
            "{detail}"
        );
    }
    let none = server.request("POST", "/whip/live").body(OFFER);
    assert!(problem(none, 415).await.contains("no Content-Type"));
}

#[tokio::test]
async fn w2_a_body_that_is_no_sdp_is_refused() {
    let server = Server::start();
    for body in [
        &b""[..],
        b"hello",
        b"{\"sdp\":\"v=0\"}",
        b"v=0\xff\xfe",
        b"\0",
    ] {
        let request = server
            .request("POST", "/whip/live")
            .header("content-type", SDP);
        problem(request.body(body), 400).await;
    }
    assert!(server.connector.offers().is_empty());
    assert_eq!(server.sessions.asked.load(Ordering::SeqCst), 0);
}

/// W4, W6, W7 and W9 are judged by the connector; here their way to the client.
#[tokio::test]
async fn w4_w6_what_the_connector_refuses_arrives_with_its_reason() {
    let server = Server::start();
    server
        .connector
        .refuse(PublishError::InvalidOffer("it is recvonly".to_owned()));
    let detail = problem(server.post("/whip/live"), 400).await;
    assert_eq!(detail, "invalid offer: it is recvonly");
    server
        .connector
        .refuse(PublishError::UnsupportedMedia("VP8 \"only\"".to_owned()));
    let detail = problem(server.post("/whip/live"), 422).await;
    assert!(detail.contains("VP8 \"only\""));
    server
        .connector
        .refuse(PublishError::internal("the secret cause"));
    let detail = problem(server.post("/whip/live"), 500).await;
    assert!(!detail.contains("secret"));
}

#[tokio::test]
async fn w13_each_session_has_a_strong_etag_of_its_own() {
    let server = Server::start();
    let (_, first) = server.publish().await;
    let (_, second) = server.publish().await;
    for etag in [&first, &second] {
        assert!(etag.len() > 10 && etag.starts_with('"') && etag.ends_with('"'));
    }
    assert_ne!(first, second);
}

#[tokio::test]
async fn w14_trickled_candidates_reach_the_peer() {
    let server = Server::start();
    let (url, etag) = server.publish().await;
    for path in [url.as_str(), "/whip/live"] {
        let response = server
            .patch(path, TRICKLE)
            .header("if-match", &etag)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 204);
        assert!(response.headers().get("etag").is_none());
        assert!(response.text().await.unwrap().is_empty());
    }
    let trickled = server.connector.peer().candidates();
    assert_eq!(trickled.len(), 2);
    assert_eq!(trickled[0].ice.as_ref().unwrap().ufrag, "abcd");
    assert_eq!(trickled[0].candidates[0].mid.as_deref(), Some("0"));
}

#[tokio::test]
async fn w14_the_end_of_candidates_may_come_first() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let end = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=end-of-candidates\r\n";
    for body in [end, TRICKLE, end] {
        assert_eq!(status(server.patch(&url, body)).await, 204);
    }
    assert_eq!(server.connector.peer().candidates().len(), 3);
}

#[tokio::test]
async fn w15_a_condition_that_is_not_met_is_412() {
    let server = Server::start();
    let (url, etag) = server.publish().await;
    let (new_url, new_etag) = server.publish().await;
    let weak = format!("W/{new_etag}");
    let unquoted = new_etag.trim_matches('"').to_owned();
    for wrong in [&etag, &weak, &unquoted, &"\"other\"".to_owned()] {
        for path in [new_url.as_str(), "/whip/live"] {
            let request = server.patch(path, TRICKLE).header("if-match", wrong);
            assert!(problem(request, 412).await.contains("If-Match"), "{wrong}");
        }
    }
    let list = format!("\"other\", {weak} , {new_etag}");
    let request = server.patch(&new_url, TRICKLE).header("if-match", list);
    assert_eq!(status(request).await, 204);
    let two_lines = server
        .patch(&new_url, TRICKLE)
        .header("if-match", "\"other\"")
        .header("if-match", &new_etag);
    assert_eq!(status(two_lines).await, 204);
    // The replaced session is gone, whatever the condition.
    let request = server.patch(&url, TRICKLE).header("if-match", &etag);
    problem(request, 404).await;
}

/// simple-whip-client sends no condition; the session URL says who is meant, the bare one does not.
#[tokio::test]
async fn w15_a_missing_condition_is_428_on_the_bare_url_only() {
    let server = Server::start();
    problem(server.patch("/whip/live", TRICKLE), 404).await;
    let (url, _) = server.publish().await;
    let detail = problem(server.patch("/whip/live", TRICKLE), 428).await;
    assert!(detail.contains("If-Match"));
    assert_eq!(status(server.patch(&url, TRICKLE)).await, 204);
}

#[tokio::test]
async fn w16_a_patch_of_another_type_is_415() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let request = || {
        server
            .request("PATCH", &url)
            .header("content-type", SDP)
            .body(TRICKLE)
    };
    let response = request().send().await.unwrap();
    assert_eq!(header(&response, "accept-patch"), FRAGMENT);
    problem(request(), 415).await;
}

#[tokio::test]
async fn w16_a_malformed_fragment_is_refused_with_the_line() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    for (body, reason) in [
        ("", "no ICE credentials"),
        ("hello", "line 1"),
        ("a=mid:0\r\na=candidate:1 1 udp\r\n", "line 2"),
        ("a=ice-ufrag:abcd\r\n", "belong together"),
    ] {
        let detail = problem(server.patch(&url, body), 400).await;
        assert!(detail.contains(reason), "{detail}");
    }
    assert!(server.connector.peer().candidates().is_empty());
}

#[tokio::test]
async fn w17_candidates_of_odd_kinds_are_taken_to_be_judged_by_the_peer() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let body = "m=audio 9 RTP/AVP 0\r\na=mid:0\r\n\
        a=candidate:1 1 TCP 1 192.0.2.1 9 typ host tcptype active\r\n\
        a=candidate:2 1 udp 1 0f1e2d3c.local 54321 typ host\r\n\
        a=candidate:3 2 sctp 1 fe80::1 1 typ carrier-pigeon\r\n";
    assert_eq!(status(server.patch(&url, body)).await, 204);
    assert_eq!(server.connector.peer().candidates()[0].candidates.len(), 3);
}

#[tokio::test]
async fn w18_w20_an_ice_restart_gives_new_credentials_and_a_new_etag() {
    let server = Server::start();
    let (url, etag) = server.publish().await;
    let mut tags = vec![etag.clone()];
    for (star, path) in [("*", url.as_str()), ("\"*\"", "/whip/live")] {
        let response = server
            .patch(path, CREDENTIALS)
            .header("if-match", star)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), FRAGMENT);
        tags.push(header(&response, "etag"));
        let number = tags.len() - 1;
        assert_eq!(
            response.text().await.unwrap(),
            format!(
                "a=ice-options:trickle ice2\r\na=group:BUNDLE 0 1\r\n\
                 m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
                 a=ice-ufrag:ours{number}\r\na=ice-pwd:anotherpasswordanotherpassword\r\n\
                 a=candidate:1 1 udp 2130706431 127.0.0.1 4000 typ host\r\n\
                 a=end-of-candidates\r\n"
            )
        );
    }
    assert_eq!(server.connector.peer().restarts(), 2);
    for (index, tag) in tags.iter().enumerate() {
        let expected = if index == 2 { 204 } else { 412 };
        let request = server.patch(&url, TRICKLE).header("if-match", tag);
        assert_eq!(status(request).await, expected, "tag {index}");
    }
}

#[tokio::test]
async fn w18_a_restart_needs_credentials() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let body = "a=candidate:1 1 udp 1 192.0.2.1 1 typ host\r\n";
    let detail = problem(server.patch(&url, body).header("if-match", "*"), 400).await;
    assert!(detail.contains("a=ice-ufrag"), "{detail}");
    assert_eq!(server.connector.peer().restarts(), 0);
}

#[tokio::test]
async fn w19_a_refused_restart_leaves_the_session_as_it_was() {
    let server = Server::start();
    server.connector.no_restart.store(true, Ordering::SeqCst);
    let (url, etag) = server.publish().await;
    let restart = server.patch(&url, CREDENTIALS).header("if-match", "*");
    problem(restart, 422).await;
    let trickle = server.patch(&url, TRICKLE).header("if-match", &etag);
    assert_eq!(status(trickle).await, 204);
}

#[tokio::test]
async fn w21_delete_is_exactly_200_and_closes_the_peer() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let request = server
        .request("DELETE", &url)
        .header("if-match", "\"not the tag\"");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().await.unwrap().is_empty());
    assert!(server.connector.peer().is_closed());

    server.publish().await;
    assert_eq!(status(server.request("DELETE", "/whip/live")).await, 200);
    assert!(server.connector.peer().is_closed());
}

#[tokio::test]
async fn w22_what_is_over_or_never_was_is_404() {
    let server = Server::start();
    let (url, etag) = server.publish().await;
    let deletes = (0..8).map(|_| status(server.request("DELETE", &url)));
    let statuses = futures_util::future::join_all(deletes).await;
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(200), count(404)), (1, 7));

    let patch = |path: &str| server.patch(path, TRICKLE).header("if-match", &etag);
    problem(patch(&url), 404).await;
    problem(server.request("DELETE", "/whip/live"), 404).await;
    let detail = problem(server.post("/whip/nobody"), 404).await;
    assert_eq!(detail, "there is no session of this name");
    for path in [
        "/whip/live/",
        "/whip/live/short",
        "/whip/live/0/1",
        "/whip/live/FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
        "/whip/live/ffffffffffffffffffffffffffffffff",
        "/whip/nobody/ffffffffffffffffffffffffffffffff",
        "/whip/live/a%00b",
    ] {
        problem(server.request("DELETE", path), 404).await;
        problem(patch(path), 404).await;
    }
}

#[tokio::test]
async fn w22_a_late_delete_of_a_replaced_publisher_harms_nobody() {
    let server = Server::start();
    let (old, _) = server.publish().await;
    let (new, _) = server.publish().await;
    assert_ne!(old, new);
    problem(server.request("DELETE", &old), 404).await;
    assert_eq!(status(server.request("DELETE", &new)).await, 200);
}

#[tokio::test]
async fn w23_a_publisher_that_closed_its_connection_is_gone() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let peer = server.connector.peer();
    peer.connect();
    peer.disconnect();
    problem(server.patch(&url, TRICKLE), 404).await;
}

/// aiortc and browsers close the connection first and send the DELETE after it.
#[tokio::test]
async fn a_publisher_may_delete_its_session_after_it_closed_the_connection() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let peer = server.connector.peer();
    peer.connect();
    peer.disconnect();
    assert_eq!(status(server.request("DELETE", &url)).await, 200);
    problem(server.request("DELETE", &url), 404).await;

    let (gone, _) = server.publish().await;
    let peer = server.connector.peer();
    peer.connect();
    peer.disconnect();
    let (successor, _) = server.publish().await;
    problem(server.request("DELETE", &gone), 404).await;
    assert_eq!(status(server.request("DELETE", &successor)).await, 200);
}

/// Section 0.3 of the requirements, `probe`.
#[tokio::test]
async fn conflict_is_409_with_retry_after_while_media_flows() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let peer = server.connector.peer();
    peer.connect();
    let sender = tokio::spawn({
        let peer = Arc::clone(&peer);
        async move {
            for number in 0.. {
                peer.send(number);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let response = server.post("/whip/live").send().await.unwrap();
    assert_eq!(response.status(), 409);
    assert_eq!(header(&response, "retry-after"), "1");
    assert!(response.text().await.unwrap().contains("live"));
    sender.abort();
    // The one in place has fallen silent: the next offer gets its place.
    let (new, _) = server.publish().await;
    assert_ne!(new, url);
    assert!(peer.is_closed());
}

#[tokio::test]
async fn w24_options_says_what_is_taken_and_needs_no_token() {
    let server = Server::with(|endpoint| endpoint.authorize(Arc::new(Tokens)));
    let response = server
        .request("OPTIONS", "/whip/live")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(header(&response, "accept-post"), SDP);
    assert_eq!(header(&response, "accept-patch"), FRAGMENT);
    assert_eq!(
        header(&response, "allow"),
        "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
    );
    let session = server
        .request("OPTIONS", "/whip/live/0")
        .send()
        .await
        .unwrap();
    assert_eq!(session.status(), 204);
    assert_eq!(
        header(&session, "allow"),
        "GET, HEAD, PATCH, DELETE, OPTIONS"
    );
}

fn preflight(server: &Server, path: &str, method: &str, headers: &str) -> RequestBuilder {
    server
        .request("OPTIONS", path)
        .header("origin", "https://page.example")
        .header("access-control-request-method", method)
        .header("access-control-request-headers", headers)
}

#[tokio::test]
async fn w24_browsers_may_ask_before_every_request_they_send() {
    let server = Server::with(|endpoint| endpoint.authorize(Arc::new(Tokens)));
    for (path, method, headers) in [
        ("/whip/live", "POST", "authorization,content-type"),
        // Eyevinn's client asks for the ICE servers with a token.
        ("/whip/live", "OPTIONS", "authorization"),
        (
            "/whip/live/0",
            "PATCH",
            "authorization,content-type,if-match",
        ),
        ("/whip/live/0", "DELETE", "authorization"),
    ] {
        let response = preflight(&server, path, method, headers)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 204);
        assert_eq!(header(&response, "access-control-allow-origin"), "*");
        let methods = header(&response, "access-control-allow-methods");
        assert!(methods.split(", ").any(|allowed| allowed == method));
        let allowed = header(&response, "access-control-allow-headers").to_lowercase();
        for name in headers.split(',') {
            assert!(allowed.split(", ").any(|allowed| allowed == name), "{name}");
        }
        assert!(response.headers().get("access-control-max-age").is_some());
    }
}

#[tokio::test]
async fn w25_scripts_can_read_the_answer_and_the_errors() {
    let server = Server::start();
    let origin = |request: RequestBuilder| request.header("origin", "https://page.example");
    for (request, expected) in [
        (server.post("/whip/live"), 201),
        (server.post("/whip/nobody"), 404),
        (server.post("/whip/%2f"), 400),
        (server.request("PUT", "/whip/live"), 405),
        (server.request("POST", "/whip/live"), 415),
    ] {
        let response = origin(request).send().await.unwrap();
        assert_eq!(response.status(), expected);
        assert_eq!(header(&response, "access-control-allow-origin"), "*");
        let exposed = header(&response, "access-control-expose-headers");
        for name in ["Location", "ETag", "Link", "Accept-Patch"] {
            assert!(exposed.split(", ").any(|exposed| exposed == name));
        }
    }
}

#[tokio::test]
async fn w25_only_listed_origins_are_let_in() {
    let server = Server::with(|endpoint| endpoint.cors_origins(["https://page.example", "null"]));
    let from = |origin: &str| server.post("/whip/live").header("origin", origin);
    let listed = from("https://page.example").send().await.unwrap();
    assert_eq!(
        header(&listed, "access-control-allow-origin"),
        "https://page.example"
    );
    assert_eq!(header(&listed, "vary"), "Origin");
    for origin in [
        "https://other.example",
        "https://page.example.evil",
        "http://page.example",
    ] {
        let other = from(origin).send().await.unwrap();
        assert!(other.headers().get("access-control-allow-origin").is_none());
        assert_eq!(header(&other, "vary"), "Origin");
    }
    let asked = preflight(&server, "/whip/live", "POST", "authorization")
        .send()
        .await
        .unwrap();
    assert!(
        asked
            .headers()
            .get("access-control-allow-methods")
            .is_some()
    );
}

#[tokio::test]
async fn w26_ice_servers_are_told_to_publishers_and_not_to_preflights() {
    let servers = [
        IceServer::stun("stun:stun.example.net").unwrap(),
        IceServer::turn(
            "turn:turn.example.net?transport=udp",
            "user",
            &"word".into(),
        )
        .unwrap(),
    ];
    let server =
        Server::with(|endpoint| endpoint.ice_servers(&servers).authorize(Arc::new(Tokens)));
    let links = |response: &Response| {
        response
            .headers()
            .get_all("link")
            .iter()
            .map(|link| link.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let expected = [
        r#"<stun:stun.example.net>; rel="ice-server""#,
        r#"<turn:turn.example.net?transport=udp>; rel="ice-server"; username="user"; credential="word"; credential-type="password""#,
    ];
    let posted = server.post("/whip/live").bearer_auth("good");
    assert_eq!(links(&posted.send().await.unwrap()), expected);
    let real = server.request("OPTIONS", "/whip/live");
    let with_token = real.try_clone().unwrap().bearer_auth("good");
    assert_eq!(links(&with_token.send().await.unwrap()), expected);

    let without_token = real.try_clone().unwrap().send().await.unwrap();
    assert_eq!(without_token.status(), 204);
    let asked = preflight(&server, "/whip/live", "POST", "authorization").bearer_auth("good");
    for response in [
        without_token,
        real.bearer_auth("bad").send().await.unwrap(),
        asked.send().await.unwrap(),
        server.post("/whip/live").send().await.unwrap(),
    ] {
        assert!(links(&response).is_empty());
    }
}

#[tokio::test]
async fn w27_get_and_head_have_no_content_and_other_methods_are_405() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    for path in ["/whip/live", "/whip/nobody", url.as_str()] {
        for method in ["GET", "HEAD"] {
            let response = server.request(method, path).send().await.unwrap();
            assert_eq!(response.status(), 204);
            assert!(response.bytes().await.unwrap().is_empty());
        }
    }
    for (method, path, allow) in [
        (
            "PUT",
            "/whip/live",
            "GET, HEAD, POST, PATCH, DELETE, OPTIONS",
        ),
        (
            "BREW",
            "/whip/live",
            "GET, HEAD, POST, PATCH, DELETE, OPTIONS",
        ),
        ("POST", url.as_str(), "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("PUT", url.as_str(), "GET, HEAD, PATCH, DELETE, OPTIONS"),
    ] {
        let request = server.request(method, path);
        let response = request.try_clone().unwrap().send().await.unwrap();
        assert_eq!(header(&response, "allow"), allow);
        assert!(problem(request, 405).await.contains(method));
    }
    assert_eq!(status(server.request("DELETE", &url)).await, 200);
}

#[tokio::test]
async fn w29_overload_is_503() {
    let server = Server::start();
    let response = server.post("/whip/full").send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "retry-after"), "3");
    problem(server.post("/whip/full"), 503).await;
    problem(server.post("/whip/stopping"), 503).await;
    server.sessions.transports["live"]
        .close(EndReason::Shutdown)
        .await;
    problem(server.post("/whip/live"), 503).await;
}

#[tokio::test]
async fn w30_a_token_is_asked_for_as_rfc_6750_says() {
    let server = Server::with(|endpoint| endpoint.authorize(Arc::new(Tokens)));
    let post = || server.post("/whip/live");
    for (request, challenge) in [
        (post(), "Bearer"),
        (post().header("authorization", "Basic Z29vZA=="), "Bearer"),
        (post().bearer_auth("bad"), "Bearer error=\"invalid_token\""),
    ] {
        let response = request.try_clone().unwrap().send().await.unwrap();
        assert_eq!(header(&response, "www-authenticate"), challenge);
        let detail = problem(request, 401).await;
        assert!(!detail.contains("bad"));
    }
    let forbidden = server.post("/whip/forbidden").bearer_auth("good");
    assert!(problem(forbidden, 403).await.contains("not your session"));
    let twice = post()
        .header("authorization", "Bearer good")
        .header("authorization", "Bearer bad");
    problem(twice, 400).await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = post().header("authorization", format!("{scheme} good"));
        assert_eq!(status(request).await, 201);
    }
    let response = post().bearer_auth("good").send().await.unwrap();
    let url = header(&response, "location");
    for request in [server.patch(&url, TRICKLE), server.request("DELETE", &url)] {
        let with_token = request.try_clone().unwrap().bearer_auth("good");
        problem(request, 401).await;
        assert!(status(with_token).await.is_success());
    }
}

#[tokio::test]
async fn w31_without_a_token_nothing_is_parsed_or_revealed() {
    let server = Server::with(|endpoint| endpoint.authorize(Arc::new(Tokens)));
    let mut answers = Vec::new();
    for path in ["/whip/live", "/whip/nobody", "/whip/broken"] {
        for request in [
            server.post(path),
            server.request("POST", path).body("rubbish"),
            server.patch(path, "rubbish"),
            server.request("DELETE", path),
            server.request("DELETE", &format!("{path}/rubbish")),
        ] {
            answers.push(problem(request, 401).await);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "all answers are the same");
    assert_eq!(server.sessions.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn w33_a_large_body_is_413() {
    let server = Server::start();
    let (url, _) = server.publish().await;
    let body = |size: usize| format!("v=0\r\n{}", "a=x\r\n".repeat(size / 5 - 1));
    let post = |size| {
        server
            .request("POST", "/whip/live")
            .header("content-type", SDP)
            .body(body(size))
    };
    problem(post(65_540), 413).await;
    assert_eq!(status(post(65_535)).await, 201);
    let patch = server
        .request("PATCH", &url)
        .header("content-type", FRAGMENT)
        .body(body(70_000));
    let detail = problem(patch, 413).await;
    assert_eq!(detail, "the body is larger than 65536 bytes");
}

#[tokio::test]
async fn w33_an_endless_chunked_body_is_cut() {
    let server = Server::start();
    // Neither a body that is read nor one that is refused unread.
    for path in ["/whip/live", "/whip/nobody%2f"] {
        endless_body(&server, path).await;
    }
}

async fn endless_body(server: &Server, path: &'static str) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let writer = tokio::spawn(async move {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {SDP}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        writing.write_all(head.as_bytes()).await.unwrap();
        loop {
            let chunk = format!("1000\r\n{}\r\n", "v".repeat(0x1000));
            if writing.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let read = tokio::time::timeout(DEADLINE, async {
        while !String::from_utf8_lossy(&answer).contains("\r\n\r\n{") {
            match reading.read(&mut buffer).await {
                Ok(count) if count > 0 => answer.extend_from_slice(&buffer[..count]),
                end => panic!("{end:?} after {answer:?}"),
            }
        }
    });
    read.await.expect("an answer while the body goes on");
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 4"), "{answer}");
    assert!(answer.contains("connection: close"));
    drop(reading);
    // The server lingers for its `client_disconnect_timeout` (1 s), so that the client can read the answer.
    let since = Instant::now();
    tokio::time::timeout(DEADLINE, writer)
        .await
        .expect("the server stops reading")
        .unwrap();
    assert!(since.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn w33_a_body_that_does_not_come_is_408() {
    let server = Server::with(|endpoint| {
        endpoint.limits(Limits {
            body_time: Duration::from_millis(200),
            ..Limits::default()
        })
    });
    let start = Instant::now();
    let answer = server
        .raw(&format!(
            "POST /whip/live HTTP/1.1\r\nHost: x\r\nContent-Type: {SDP}\r\nContent-Length: 100\r\n\r\nv=0\r\n"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn w34_the_forms_of_http_that_clients_use() {
    let server = Server::start();
    let length = OFFER.len();
    let close = format!("Connection: close\r\nContent-Type: {SDP}\r\n");
    let address = server.address;
    for (request, expected) in [
        // Absolute form of the target.
        (
            format!(
                "POST http://{address}/whip/live HTTP/1.1\r\nHost: {address}\r\n{close}Content-Length: {length}\r\n\r\n{OFFER}"
            ),
            "HTTP/1.1 201 ",
        ),
        // A chunked body.
        (
            format!(
                "POST /whip/live HTTP/1.1\r\nHost: x\r\n{close}Transfer-Encoding: chunked\r\n\r\n3\r\nv=0\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                length - 3,
                OFFER.strip_prefix("v=0").unwrap()
            ),
            "HTTP/1.1 201 ",
        ),
        // No Host.
        (
            format!("POST /whip/live HTTP/1.1\r\n{close}Content-Length: {length}\r\n\r\n{OFFER}"),
            "HTTP/1.1 400 ",
        ),
        // Two lengths that differ, and a length beside chunks.
        (
            format!(
                "POST /whip/live HTTP/1.1\r\nHost: x\r\n{close}Content-Length: {length}\r\nContent-Length: 1\r\n\r\n{OFFER}"
            ),
            "HTTP/1.1 400 ",
        ),
        (
            format!(
                "POST /whip/live HTTP/1.1\r\nHost: x\r\n{close}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            "HTTP/1.1 400 ",
        ),
    ] {
        let answer = server.raw(&request).await;
        assert!(answer.starts_with(expected), "{request}\n{answer}");
    }
    assert_eq!(server.connector.offers(), [OFFER, OFFER]);
}

#[tokio::test]
async fn w34_expect_100_continue_is_answered_before_the_body() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /whip/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Type: {SDP}\r\nContent-Length: {}\r\n\r\n",
        OFFER.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut interim))
        .await
        .expect("100 before the body")
        .unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(OFFER.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

#[tokio::test]
async fn w35_names_that_are_none_are_refused_with_the_reason() {
    let server = Server::start();
    let long = format!("/whip/{}", "x".repeat(129));
    for (path, reason) in [
        ("/whip/", "1 to 128 characters"),
        (long.as_str(), "this one has 129"),
        ("/whip/.live", "must not start with a dot"),
        ("/whip/..%2f..%2fetc", "not '%'"),
        ("/whip/live%2fx", "not '%'"),
        ("/whip/%00", "not '\\0'"),
        ("/whip/a%0d%0aSet-Cookie:%20x", "not '\\r'"),
        ("/whip/a%20b", "not ' '"),
        ("/whip/%c3%a9", "not 'é'"),
        ("/whip/a+b", "not '+'"),
    ] {
        for request in [
            server.post(path),
            server.patch(path, TRICKLE),
            server.request("DELETE", path),
        ] {
            let detail = problem(request, 400).await;
            assert!(detail.contains(reason), "{path}: {detail}");
        }
    }
    // Clients resolve these by themselves, so they are sent raw.
    for path in [
        "/whip/..",
        "/whip/../x",
        "/whip/%2e%2e/x",
        "/whip/\u{7f}",
        "/whip/%ff%fe",
    ] {
        let answer = server
            .raw(&format!(
                "DELETE {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
    }
    assert_eq!(server.sessions.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn w35_nothing_of_a_request_gets_into_the_headers_of_its_answer() {
    let server = Server::with(|endpoint| endpoint.cors_origins(["https://page.example"]));
    let answer = server
        .raw(&format!(
            "POST /whip/l%69ve?%0d%0aX-Evil:1 HTTP/1.1\r\nHost: evil\"\r\nOrigin: https://page.example evil\r\n\
             Connection: close\r\nContent-Type: {SDP}\r\nContent-Length: {}\r\n\r\n{OFFER}",
            OFFER.len()
        ))
        .await;
    let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 201 "), "{head}");
    assert!(head.contains("\r\nlocation: /whip/live/"));
    assert!(!head.contains("evil"), "{head}");
}

#[tokio::test]
async fn w36_every_failure_is_a_problem_document() {
    let server = Server::start();
    assert_eq!(
        problem(server.post("/whip/broken"), 500).await,
        "internal error"
    );
    assert!(
        problem(server.post("/whip/banned"), 403)
            .await
            .contains("banned")
    );
}

/// R14: candidates of one publication, those of the offer and those trickled.
#[tokio::test]
async fn r14_more_than_a_hundred_candidates_are_refused() {
    let server = Server::start();
    let line = "a=candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host\r\n";
    let (url, _) = server.publish().await;
    let patch = |count: usize| {
        server
            .request("PATCH", &url)
            .header("content-type", FRAGMENT)
            .body(line.repeat(count))
    };
    assert_eq!(status(patch(100)).await, 204);
    assert!(problem(patch(1), 422).await.contains("100"));
    let offer = server
        .request("POST", "/whip/live")
        .header("content-type", SDP)
        .body(format!("{OFFER}{}", line.repeat(101)));
    problem(offer, 422).await;
}

/// A client that goes away while its offer is held takes nothing over later.
#[tokio::test]
async fn a_held_offer_of_a_client_that_hung_up_is_withdrawn() {
    let server = Server::start();
    let (_, _) = server.publish().await;
    let peer = server.connector.peer();
    peer.connect();
    peer.send(1);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!(
        "POST /whip/live HTTP/1.1\r\nHost: x\r\nContent-Type: {SDP}\r\nContent-Length: {}\r\n\r\n{OFFER}",
        OFFER.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let asked = || server.sessions.asked.load(Ordering::SeqCst);
    let deadline = Instant::now() + DEADLINE;
    while asked() < 2 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    // Past the silence after which a waiting offer would be let in.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(server.connector.peers().len(), 1);
    assert!(!peer.is_closed());
}
