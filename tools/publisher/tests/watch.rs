//! The measuring client against a scripted low-latency HLS server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::string_slice,
    reason = "a test ends where its script does not hold"
)]

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::Url;
use tokio::{net::TcpListener, sync::watch};
use whipgate_publisher::{
    http::{Request, respond},
    stamp::Stamp,
    watch::{Seen, Watcher},
};

const PARTS_PER_SEGMENT: u64 = 5;
const PART: Duration = Duration::from_millis(100);

/// Parts made so far; the body of part n has the pictures 3n, 3n + 1, 3n + 2, but picture 31 is missing and in part 4 there is
/// one of another publication.
struct Server {
    made: watch::Sender<Vec<Vec<u8>>>,
    total: usize,
}

impl Server {
    async fn start(total: usize, head_start: Duration) -> (Arc<Self>, Url) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}/hls/", listener.local_addr().unwrap())).unwrap();
        let server = Arc::new(Self {
            made: watch::Sender::new(Vec::new()),
            total,
        });
        let maker = Arc::clone(&server);
        tokio::spawn(async move {
            tokio::time::sleep(head_start).await;
            for part in 0..total as u32 {
                tokio::time::sleep(PART).await;
                let mut body = vec![0; 100];
                for picture in (part * 3..part * 3 + 3).filter(|picture| *picture != 31) {
                    body.extend(Stamp::now(9, picture).h264_sei());
                }
                if part == 4 {
                    body.extend(Stamp::now(8, 0).h264_sei());
                }
                maker.made.send_modify(|made| made.push(body));
            }
        });
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&serving);
                tokio::spawn(async move {
                    let request = Request::read(&mut stream).await.unwrap();
                    let (status, body) = server.answer(&request.path).await;
                    respond(stream, status, &[], &body).await.unwrap();
                });
            }
        });
        (server, base)
    }

    async fn answer(&self, path: &str) -> (u16, Vec<u8>) {
        let made = |at: &str| {
            at.parse()
                .ok()
                .and_then(|index: usize| self.made.borrow().get(index).cloned())
        };
        match path.strip_prefix("/hls/show/") {
            // Nothing is there before the first part, as in a gateway that has just answered the offer.
            _ if self.made.borrow().is_empty() && !path.contains("_HLS") => (404, Vec::new()),
            Some("index.m3u8") => (
                200,
                b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nvideo.m3u8\n".to_vec(),
            ),
            Some("init.mp4") => (200, b"init".to_vec()),
            Some(part) if part.starts_with("part") => match made(&part[4..]) {
                Some(body) => (200, body),
                None => (404, Vec::new()),
            },
            Some(segment) if segment.starts_with("segment") => {
                let first: usize =
                    segment[7..].parse::<usize>().unwrap() * PARTS_PER_SEGMENT as usize;
                (
                    200,
                    self.made.borrow()[first..first + PARTS_PER_SEGMENT as usize].concat(),
                )
            }
            Some(playlist) if playlist.starts_with("video.m3u8") => {
                if let Some(query) = playlist.split_once('?') {
                    let value = |name: &str| -> u64 {
                        query
                            .1
                            .split('&')
                            .find_map(|pair| pair.strip_prefix(name))
                            .unwrap()
                            .parse()
                            .unwrap()
                    };
                    let wanted = value("_HLS_msn=") * PARTS_PER_SEGMENT + value("_HLS_part=");
                    let mut made = self.made.subscribe();
                    made.wait_for(|made| made.len() as u64 > wanted || made.len() == self.total)
                        .await
                        .unwrap();
                }
                (200, self.playlist().into_bytes())
            }
            _ => (404, Vec::new()),
        }
    }

    fn playlist(&self) -> String {
        let made = self.made.borrow().len();
        let mut text =
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n\
                        #EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-MAP:URI=\"init.mp4\"\n"
                .to_owned();
        for part in 0..made {
            writeln!(text, "#EXT-X-PART:DURATION=0.1,URI=\"part{part}\"").unwrap();
            if (part as u64 + 1).is_multiple_of(PARTS_PER_SEGMENT) {
                writeln!(
                    text,
                    "#EXTINF:0.5,\nsegment{}",
                    part as u64 / PARTS_PER_SEGMENT
                )
                .unwrap();
            }
        }
        if made == self.total {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn measures_first_media_ages_and_gaps() {
    let begin = Instant::now();
    let (_server, base) = Server::start(18, Duration::from_millis(300)).await;
    let http = Watcher::http_client().unwrap();
    let mut watcher = Watcher::new(&http, &base, "show", 9).unwrap();
    let first = watcher
        .first_media(begin + Duration::from_secs(10))
        .await
        .unwrap();
    let waited = first.asked - begin;
    assert!(
        waited >= Duration::from_millis(400),
        "the first part is there after 400 ms: {waited:?}"
    );

    assert!(first.plain > begin);

    let mut seen = Seen::default();
    watcher
        .follow(begin + Duration::from_secs(20), &mut seen)
        .await
        .unwrap();
    assert!(seen.ended);
    assert_eq!(seen.errors, 0);
    assert!(seen.parts >= 15, "{}", seen.parts);
    assert_eq!(seen.ages_ms.len() as u64, seen.parts);
    assert!(
        seen.ages_ms.iter().all(|age| *age < 2000.0),
        "a part is fetched as it is made: {:?}",
        seen.ages_ms
    );
    assert_eq!(seen.pictures.last(), Some(&53));
    assert_eq!((seen.gaps(), seen.foreign), (1, 1));

    let mut window = Seen::default();
    watcher.window(&mut window).await.unwrap();
    assert_eq!(
        window.pictures.len(),
        53,
        "all but picture 31, segments and trailing parts"
    );
    assert_eq!((window.gaps(), window.foreign, window.errors), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_comes_is_an_error_in_time() {
    let (_server, base) = Server::start(1, Duration::from_hours(1)).await;
    let mut watcher = Watcher::new(&Watcher::http_client().unwrap(), &base, "show", 9).unwrap();
    let begin = Instant::now();
    let error = watcher
        .first_media(begin + Duration::from_millis(200))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no playable media"), "{error:#}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}
