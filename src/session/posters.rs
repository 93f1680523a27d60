//! Posters: a picture of each session for those who do not play it yet.
//!
//! Decoded only when somebody asks, from the newest keyframe that viewers get, and not again for [`INTERVAL`] or while
//! there is no newer keyframe. Whoever asks meanwhile waits for the same decode. Decoding happens on threads of its own,
//! one per session and [`AT_ONCE`] over all, so that neither media workers nor HTTP wait for it.

use std::{
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot};

use super::Sessions;
use crate::{
    hls::{self, Chunk, Keyframe, StreamKey},
    id::SessionId,
    pipeline::{PipelineError, Pipelines},
    telemetry::Metrics,
};

/// A poster is not made again before this time.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Posters that are decoded at once, over all sessions.
const AT_ONCE: usize = 2;

/// How long decoding one picture may take; 0.1 s is common.
const DECODE_LIMIT: Duration = Duration::from_secs(3);

/// How long a request waits, its turn included.
const WAIT_LIMIT: Duration = Duration::from_secs(8);

/// A JPEG of a session's latest keyframe.
#[derive(Clone, Debug)]
pub struct Poster {
    /// The file.
    pub jpeg: Bytes,
    /// Names this picture and no other; characters of `[a-z0-9-]`.
    pub tag: String,
    /// When it was made.
    pub made_at: SystemTime,
}

/// Why there is no poster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PosterError {
    /// The session is unknown, has no keyframe yet, or has sound only.
    #[error("there is no picture: the session is not live, has just started, or has sound only")]
    NoPicture,
    /// This machine cannot decode the codec.
    #[error("posters of this codec cannot be made on this machine: {0}")]
    NoDecoder(String),
    /// The picture cannot be decoded, or not in time.
    #[error("the latest keyframe cannot be decoded: {0}")]
    Undecodable(String),
    /// Too many are asked for at once.
    #[error("too many posters are being made on this gateway")]
    Overloaded,
}

/// What became of a keyframe.
#[derive(Clone, Debug)]
struct Made {
    stream: StreamKey,
    part: u64,
    at: Instant,
    outcome: Result<Poster, PosterError>,
}

impl Made {
    /// Whether this is the answer for that keyframe, because it is the same one or it is too early for another.
    fn answers(&self, keyframe: &Keyframe, now: Instant) -> bool {
        let same = self.part == keyframe.part && self.outcome.is_ok();
        self.stream == keyframe.stream
            && (same || now.saturating_duration_since(self.at) < INTERVAL)
    }
}

/// The poster of one session.
#[derive(Debug, Default)]
pub(super) struct Slot {
    made: Mutex<Option<Made>>,
    /// Held while one is made.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Slot {
    fn known(&self, keyframe: &Keyframe) -> Option<Result<Poster, PosterError>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.as_ref()
            .filter(|made| made.answers(keyframe, Instant::now()))
            .map(|made| made.outcome.clone())
    }

    fn keep(&self, made: Made) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
    }
}

/// Makes the posters of all sessions.
pub(super) struct Posters {
    pipelines: Arc<Pipelines>,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

impl Posters {
    /// `max_waiting` requests at most wait at once.
    pub(super) fn new(
        pipelines: Arc<Pipelines>,
        metrics: Arc<Metrics>,
        max_waiting: usize,
    ) -> Self {
        Self {
            pipelines,
            metrics,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: AtomicUsize::new(0),
            max_waiting,
        }
    }

    async fn get(&self, stream: &hls::Stream, slot: &Arc<Slot>) -> Result<Poster, PosterError> {
        let keyframe = stream.latest_keyframe().ok_or(PosterError::NoPicture)?;
        if let Some(outcome) = slot.known(&keyframe) {
            return outcome;
        }
        let _waiter = Waiter::enter(self)?;
        tokio::time::timeout(WAIT_LIMIT, self.make(stream, slot))
            .await
            .unwrap_or(Err(PosterError::Overloaded))
    }

    async fn make(&self, stream: &hls::Stream, slot: &Arc<Slot>) -> Result<Poster, PosterError> {
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        let keyframe = stream.latest_keyframe().ok_or(PosterError::NoPicture)?;
        if let Some(outcome) = slot.known(&keyframe) {
            return outcome;
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| PosterError::Overloaded)?;
        let (done, outcome) = oneshot::channel();
        let task = Task {
            pipelines: Arc::clone(&self.pipelines),
            metrics: Arc::clone(&self.metrics),
            slot: Arc::clone(slot),
            keyframe,
            turn,
        };
        // Not a task of the runtime: a decoder that never returns must not keep the gateway from ending.
        thread::Builder::new()
            .name("poster".to_owned())
            .spawn(move || {
                let outcome = task.run();
                drop(place);
                // Nobody may be there any more; the picture is kept all the same.
                drop(done.send(outcome));
            })
            .map_err(|error| PosterError::Undecodable(error.to_string()))?;
        outcome
            .await
            .unwrap_or_else(|_| Err(PosterError::Undecodable("the decoder panicked".to_owned())))
    }
}

/// One picture to be made. It goes on when the request that began it is given up, and the next one waits for it.
struct Task {
    pipelines: Arc<Pipelines>,
    metrics: Arc<Metrics>,
    slot: Arc<Slot>,
    keyframe: Keyframe,
    turn: OwnedMutexGuard<()>,
}

impl Task {
    fn run(self) -> Result<Poster, PosterError> {
        let Keyframe {
            stream,
            part,
            init,
            media,
        } = self.keyframe;
        self.metrics.posters.inc();
        let jpeg = read(media)
            .map_err(|error| PosterError::Undecodable(error.to_string()))
            .and_then(|media| {
                self.pipelines
                    .poster(&init, media, DECODE_LIMIT)
                    .map_err(|error| match error {
                        PipelineError::MissingElements(_) => {
                            PosterError::NoDecoder(error.to_string())
                        }
                        error => PosterError::Undecodable(error.to_string()),
                    })
            });
        if let Err(error) = &jpeg {
            self.metrics.poster_failures.inc();
            tracing::debug!(%error, "no poster");
        }
        let outcome = jpeg.map(|jpeg| Poster {
            jpeg,
            tag: format!("{stream}-poster-{part}"),
            made_at: SystemTime::now(),
        });
        self.slot.keep(Made {
            stream,
            part,
            at: Instant::now(),
            outcome: outcome.clone(),
        });
        drop(self.turn);
        outcome
    }
}

fn read(media: Chunk) -> io::Result<Bytes> {
    match media {
        Chunk::Memory(bytes) => Ok(bytes),
        Chunk::File(range) => {
            let len = usize::try_from(range.len).map_err(io::Error::other)?;
            let mut buffer = vec![0; len];
            range.file.read_exact_at(&mut buffer, range.offset)?;
            Ok(buffer.into())
        }
    }
}

/// A place among those who wait, given back when dropped.
struct Waiter<'a>(&'a Posters);

impl<'a> Waiter<'a> {
    fn enter(posters: &'a Posters) -> Result<Self, PosterError> {
        let limit = posters.max_waiting;
        posters
            .waiting
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < limit).then_some(waiting + 1)
            })
            .map(|_| Self(posters))
            .map_err(|_| PosterError::Overloaded)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sessions {
    /// A picture of a session that is live or ended a short while ago.
    ///
    /// # Errors
    /// [`PosterError`].
    pub async fn poster(&self, id: &SessionId) -> Result<Poster, PosterError> {
        let session = self.0.map().get(id).cloned();
        let session = session.ok_or(PosterError::NoPicture)?;
        let stream = session.board.lock().stream.clone();
        let stream = stream.ok_or(PosterError::NoPicture)?;
        self.0.posters.get(&stream, &session.poster).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media::{InitSegment, MediaKind, Part},
        pipeline::Text,
    };

    fn part(stream: &hls::Stream, at: u64, independent: bool) {
        let part = Part {
            bytes: Bytes::from_static(b"part"),
            decode_time: at,
            presentation_time: at,
            duration: 200,
            samples: 6,
            independent,
            starts_segment: independent,
            discontinuity: false,
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        assert!(stream.push_part(MediaKind::Video, part, time).is_some());
    }

    fn stream() -> hls::Stream {
        let stream = hls::Stream::new(hls::Settings::default());
        stream.expect(&[MediaKind::Video]);
        stream.push_init(
            MediaKind::Video,
            InitSegment {
                bytes: Bytes::from_static(b"init"),
                codecs: "avc1.64001f".to_owned(),
                timescale: 1000,
                resolution: Some((1280, 720)),
                channels: 0,
            },
        );
        stream
    }

    /// Makes the same picture of whatever it is given, or fails.
    fn posters(text: &str, max_waiting: usize) -> (Posters, Arc<Metrics>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("h264-poster.launch"), text).unwrap();
        let texts: Vec<_> = Text::posters().collect();
        let pipelines = Pipelines::load_only(Some(dir.path()), &texts).unwrap();
        let metrics = Metrics::new();
        let posters = Posters::new(Arc::new(pipelines), Arc::clone(&metrics), max_waiting);
        (posters, metrics)
    }

    const PICTURE: &str =
        "appsrc name=media ! fakesink videotestsrc num-buffers=1 ! jpegenc ! appsink name=picture";
    const NONE: &str = "appsrc name=media ! appsink name=picture";

    #[tokio::test]
    async fn all_who_ask_meanwhile_share_one_decode() {
        let (posters, metrics) = posters(PICTURE, 50);
        let (stream, slot) = (stream(), Arc::new(Slot::default()));
        let nothing = posters.get(&stream, &slot).await.unwrap_err();
        assert_eq!(nothing, PosterError::NoPicture);
        part(&stream, 0, true);
        let all = futures_util::future::join_all((0..50).map(|_| posters.get(&stream, &slot)));
        for poster in all.await {
            let poster = poster.unwrap();
            assert!(poster.jpeg.starts_with(b"\xff\xd8"));
            assert!(poster.tag.ends_with("-poster-0"), "{}", poster.tag);
        }
        // A newer keyframe is not looked at so soon.
        part(&stream, 200, true);
        assert!(posters.get(&stream, &slot).await.is_ok());
        assert_eq!(
            (metrics.posters.get(), metrics.poster_failures.get()),
            (1, 0)
        );
        assert_eq!(posters.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_does_not_begin_it_twice() {
        let (posters, metrics) = posters(PICTURE, 50);
        let (stream, slot) = (stream(), Arc::new(Slot::default()));
        part(&stream, 0, true);
        // Polled once: far enough to start it.
        let first = Box::pin(posters.get(&stream, &slot));
        assert!(futures_util::FutureExt::now_or_never(first).is_none());
        assert!(posters.get(&stream, &slot).await.is_ok());
        assert_eq!(metrics.posters.get(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_is_not_tried_again_at_once() {
        let (posters, metrics) = posters(NONE, 50);
        let (stream, slot) = (stream(), Arc::new(Slot::default()));
        part(&stream, 0, true);
        for _ in 0..3 {
            let error = posters.get(&stream, &slot).await.unwrap_err();
            assert!(matches!(error, PosterError::Undecodable(_)), "{error}");
        }
        assert_eq!(
            (metrics.posters.get(), metrics.poster_failures.get()),
            (1, 1)
        );
    }

    #[tokio::test]
    async fn too_many_who_wait_are_refused() {
        let (posters, _) = posters(PICTURE, 0);
        let (stream, slot) = (stream(), Arc::new(Slot::default()));
        part(&stream, 0, true);
        let error = posters.get(&stream, &slot).await.unwrap_err();
        assert_eq!(error, PosterError::Overloaded);
    }

    #[test]
    fn a_poster_stands_for_a_while_and_as_long_as_there_is_no_newer_keyframe() {
        let stream = stream();
        part(&stream, 0, true);
        part(&stream, 200, false);
        let first = stream.latest_keyframe().unwrap();
        assert_eq!(first.part, 0);
        part(&stream, 400, true);
        let second = stream.latest_keyframe().unwrap();
        assert_eq!(second.part, 2);
        let poster = Poster {
            jpeg: Bytes::new(),
            tag: String::new(),
            made_at: SystemTime::now(),
        };
        let now = Instant::now();
        let made = |outcome| Made {
            stream: first.stream.clone(),
            part: 0,
            at: now,
            outcome,
        };
        let (picture, failure) = (made(Ok(poster)), made(Err(PosterError::Overloaded)));
        let early = now + INTERVAL.mul_f64(0.9);
        let late = now + INTERVAL;
        assert!(picture.answers(&first, late) && picture.answers(&second, early));
        assert!(!picture.answers(&second, late));
        assert!(failure.answers(&first, early) && !failure.answers(&first, late));
        let mut other = first.clone();
        other.stream = StreamKey::parse("other").unwrap();
        assert!(
            !picture.answers(&other, now),
            "another stream of the session"
        );
        stream.end();
        assert_eq!(stream.latest_keyframe().unwrap().part, 2);
    }
}
