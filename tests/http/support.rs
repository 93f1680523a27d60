//! A server on a free port over sessions made by hand.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, Response};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use whipgate::{
    config::{Config, Sources},
    hls::{self, PartKey, Stream},
    http::{AppState, Readiness, Server, ServerHandle, SessionsView},
    id::SessionId,
    media::{Codec, InitSegment, MediaKind, Part},
    recording::{self, Store},
    session::{Poster, PosterError, Recording, State, Status, Track},
    telemetry::Metrics,
    transport::BoxFuture,
};

/// Sessions that a test fills.
#[derive(Default)]
pub struct Sessions(
    Mutex<HashMap<SessionId, Stream>>,
    pub Mutex<Option<Result<Poster, PosterError>>>,
);

impl SessionsView for Sessions {
    fn list(&self) -> Vec<Status> {
        self.0.lock().unwrap().keys().map(status).collect()
    }

    fn get(&self, id: &SessionId) -> Option<Status> {
        self.0.lock().unwrap().get(id).map(|_| status(id))
    }

    fn stream(&self, id: &SessionId) -> Option<Stream> {
        self.0.lock().unwrap().get(id).cloned()
    }

    fn poster<'a>(&'a self, _: &'a SessionId) -> BoxFuture<'a, Result<Poster, PosterError>> {
        let outcome = self.1.lock().unwrap().clone();
        Box::pin(async move { outcome.unwrap_or(Err(PosterError::NoPicture)) })
    }

    fn kick<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, bool> {
        Box::pin(async { self.0.lock().unwrap().remove(id).is_some() })
    }
}

fn status(id: &SessionId) -> Status {
    Status {
        id: id.clone(),
        state: State::Live,
        since: None,
        publication: None,
        connection: None,
        tracks: vec![Track {
            kind: MediaKind::Video,
            codec: Codec::H264,
            transcoded_from: None,
            resolution: Some("1280x720".to_owned()),
            bits_per_second: 1,
            packets: 2,
            packets_lost: 3,
            packets_recovered: 4,
            jitter_ms: 0.5,
            synchronized: true,
            keyframe_interval_seconds: None,
        }],
        av_offset_ms: Some(-1.5),
        av_offset_uncertainty_ms: Some(25.0),
        hls: None,
        recording: Recording {
            state: "off",
            file: None,
            bytes: 0,
            error: None,
        },
        findings: Vec::new(),
        dropped_events: 0,
    }
}

/// A running server.
pub struct Gateway {
    pub address: SocketAddr,
    pub sessions: Arc<Sessions>,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub handle: ServerHandle,
    pub data: TempDir,
    pub client: Client,
    pub running: tokio::task::JoinHandle<()>,
}

/// Settings with a free loopback port; overrides come later and win.
pub fn config(overrides: &[&str]) -> Config {
    let all = ["http.listen=127.0.0.1:0"].iter().chain(overrides);
    let overrides = all.map(|text| (*text).to_owned()).collect();
    Config::load(&Sources {
        overrides,
        ..Sources::default()
    })
    .unwrap()
}

impl Gateway {
    pub fn start(overrides: &[&str]) -> Self {
        Self::start_with(overrides, |_| {})
    }

    pub fn start_with(
        overrides: &[&str],
        routes: impl Fn(&mut actix_web::web::ServiceConfig) + Clone + Send + 'static,
    ) -> Self {
        let config = config(overrides);
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path(), recording::Options::default()).unwrap();
        let (sessions, metrics) = (Arc::new(Sessions::default()), Metrics::new());
        let readiness = Arc::new(Readiness::default());
        readiness.ready();
        let state = AppState::new(
            &config,
            sessions.clone(),
            Some(Arc::new(store)),
            metrics.clone(),
            readiness.clone(),
        );
        let server = Server::bind(&config, state, routes).unwrap();
        let (address, handle) = (server.addresses()[0], server.handle());
        let running = tokio::spawn(async move { server.run().await.unwrap() });
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let port = address.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            address,
            sessions,
            metrics,
            readiness,
            handle,
            data,
            client,
            running,
        }
    }

    /// A live session with video.
    pub fn session(&self, id: &str) -> Video {
        let stream = Stream::new(hls::Settings::default());
        self.sessions
            .0
            .lock()
            .unwrap()
            .insert(id.parse().unwrap(), stream.clone());
        Video::new(stream)
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("http://{}{path}", self.address))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn head(&self, path: &str) -> RequestBuilder {
        self.request(Method::HEAD, path)
    }

    pub async fn text(&self, path: &str) -> String {
        let response = self.get(path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    }

    /// The answer to a path that no client library would send as it is, with its head.
    pub async fn raw(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Asserts that a path leads nowhere and that any page may read so.
    pub async fn nothing_at(&self, path: &str) {
        let answer = self.raw(path).await;
        for text in [
            "HTTP/1.1 404 Not Found\r\n",
            "content-type: application/problem+json\r\n",
            "access-control-allow-origin: *\r\n",
        ] {
            assert!(answer.contains(text), "{path}: {answer}");
        }
    }

    /// Puts a file into the recordings of a session.
    pub fn recording(&self, session: &str, file: &str, bytes: &[u8]) {
        let folder = self.data.path().join(session);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), bytes).unwrap();
    }
}

/// A header as text, empty if there is none.
pub fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Asserts a problem document and gives its detail.
pub async fn problem(response: Response, status: u16) -> String {
    assert_eq!(
        header(&response, "content-type"),
        "application/problem+json"
    );
    assert_eq!(response.status(), status);
    let problem: serde_json::Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().unwrap().is_empty());
    problem["detail"].as_str().unwrap().to_owned()
}

/// Waits until something holds, bounded.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: not within 10 s"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The video of a session: parts of 200 ms, segments of 2 s, bytes that tell each part.
pub struct Video {
    pub stream: Stream,
    parts: u64,
}

pub const PARTS_PER_SEGMENT: u64 = 10;

impl Video {
    fn new(stream: Stream) -> Self {
        stream.expect(&[MediaKind::Video]);
        let init = InitSegment {
            bytes: Bytes::from_static(b"the init segment"),
            codecs: "avc1.64001f".to_owned(),
            timescale: 90_000,
            resolution: Some((1280, 720)),
            channels: 0,
        };
        stream.push_init(MediaKind::Video, init);
        Self { stream, parts: 0 }
    }

    pub fn part_bytes(number: u64) -> Bytes {
        format!("<part {number:05}>").repeat(100).into()
    }

    pub fn push(&mut self, count: u64) -> Vec<PartKey> {
        (0..count)
            .map(|_| {
                let number = self.parts;
                self.parts += 1;
                let starts = number.is_multiple_of(PARTS_PER_SEGMENT);
                let part = Part {
                    bytes: Self::part_bytes(number),
                    decode_time: number * 18_000,
                    presentation_time: number * 18_000,
                    duration: 18_000,
                    samples: 6,
                    independent: starts,
                    starts_segment: starts,
                    discontinuity: number == 0,
                };
                let at = SystemTime::UNIX_EPOCH
                    + Duration::from_millis(1_800_000_000_000 + number * 200);
                self.stream.push_part(MediaKind::Video, part, at).unwrap()
            })
            .collect()
    }
}

/// The URIs of a playlist: `URI="..."` attributes and plain lines.
pub fn uris(playlist: &str) -> Vec<&str> {
    playlist
        .lines()
        .filter_map(|line| match line.split_once("URI=\"") {
            Some((_, rest)) => rest.split('"').next(),
            None => (!line.starts_with('#') && !line.is_empty()).then_some(line),
        })
        .collect()
}
