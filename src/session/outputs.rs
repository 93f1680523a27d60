//! What one session's parts become: HLS for viewers and a recording on disk, from the same bytes.
//!
//! Owns the numbering of parts over both tracks, the wait for the second track of a recording, and when a recording
//! file ends and another begins. Runs on the media worker; neither the HLS store nor the recorder makes it wait.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};

use crate::{
    hls::{self, PartKey, RenditionId},
    id::SessionId,
    media::{InitSegment, MediaKind, Part},
    recording::{self, Recorder, RecorderState, RecordingError, Written},
};

/// How long a recording waits for a negotiated track that has not shown up (requirement R20).
const TRACK_WAIT: Duration = Duration::from_secs(2);

/// Parts held while the recording waits for its second track; more than [`TRACK_WAIT`] can bring.
const MAX_HELD: usize = 256;

/// Where `mfhd.sequence_number` stands in a part: after the headers of `moof` (8) and `mfhd` (8) and its flags (4).
const SEQUENCE_NUMBER: std::ops::Range<usize> = 20..24;

/// Parts that are on their way to the disk, by sequence number, so that HLS can be told once they are there.
type InFlight = Arc<Mutex<HashMap<u32, PartKey>>>;

/// What waits for the recording to begin.
enum Held {
    /// A later init segment of a track whose first one is known.
    Init(MediaKind, InitSegment),
    /// A part, and its name in HLS.
    Part(MediaKind, Part, Option<PartKey>),
}

impl Held {
    fn is_part_of(&self, track: MediaKind) -> bool {
        matches!(self, Self::Part(kind, ..) if *kind == track)
    }
}

/// The outputs of one session.
pub(super) struct Outputs {
    session: SessionId,
    stream: hls::Stream,
    recordings: Option<Arc<recording::Store>>,
    recorder: Option<Recorder>,
    /// There is AAC in the stream.
    has_aac: bool,
    in_flight: InFlight,
    /// Number of the last part; rises over both tracks and all publications, as recordings need (8.8.5 of ISO/IEC
    /// 14496-12).
    sequence: u32,
    /// Tracks of the publication in place.
    expected: Vec<MediaKind>,
    /// The newest init segment of each track.
    inits: BTreeMap<MediaKind, InitSegment>,
    /// Those that the next recording begins with: the ones that the held parts need.
    head: BTreeMap<MediaKind, InitSegment>,
    held: Vec<Held>,
    /// When the first init segment of this publication came.
    waiting_since: Option<Instant>,
    /// Start of the publication, which names the recording.
    started: SystemTime,
    /// Why nothing is recorded although it is wanted.
    failure: Option<Arc<RecordingError>>,
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// What is known of a session's recording, for operators.
#[derive(Clone, Debug)]
pub(super) enum RecordingStatus {
    /// Recording is off.
    Off,
    /// No part has come yet.
    Waiting,
    /// Being written: file name and bytes so far.
    Writing(String, u64),
    /// Stopped by an error.
    Failed(Arc<RecordingError>),
}

impl Outputs {
    /// Outputs into `stream`, and into a recording of each publication if there is a store.
    pub(super) fn new(
        session: SessionId,
        stream: hls::Stream,
        recordings: Option<Arc<recording::Store>>,
    ) -> Self {
        Self {
            session,
            stream,
            recordings,
            recorder: None,
            has_aac: false,
            in_flight: InFlight::default(),
            sequence: 0,
            expected: Vec::new(),
            inits: BTreeMap::new(),
            head: BTreeMap::new(),
            held: Vec::new(),
            waiting_since: None,
            started: SystemTime::UNIX_EPOCH,
            failure: None,
        }
    }

    /// A publication with these tracks begins.
    pub(super) fn begin(&mut self, expected: Vec<MediaKind>, started: SystemTime) {
        self.end_recording(Instant::now());
        self.stream.expect(&expected);
        self.expected = expected;
        self.started = started;
        self.inits.clear();
        self.head.clear();
        self.failure = None;
    }

    /// The publication is over: its recording is completed, the HLS stays open for a successor.
    pub(super) fn end_recording(&mut self, now: Instant) {
        if !self.held.is_empty() {
            self.start_recording(now);
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.finish();
        }
        self.waiting_since = None;
    }

    /// The session is over.
    pub(super) fn end_stream(&mut self, now: Instant) {
        self.end_recording(now);
        self.stream.end();
    }

    /// Nothing comes on this track for a while: viewers get what there is as a whole segment.
    pub(super) fn pause(&self, kind: MediaKind) {
        self.stream.complete_segment(kind);
        if kind == MediaKind::Audio && self.has_aac {
            self.stream.complete_segment(RenditionId::Aac);
        }
    }

    /// Whether somebody plays the AAC. If nobody does, what there is of it is let go of.
    pub(super) fn wants_aac(&mut self) -> bool {
        let wanted = self.stream.is_wanted(RenditionId::Aac);
        if !wanted && self.has_aac {
            self.leave_aac();
        }
        wanted
    }

    /// The AAC that comes, if any does, has nothing to do with what there is.
    pub(super) fn leave_aac(&mut self) {
        self.has_aac = false;
        self.stream.leave(RenditionId::Aac);
    }

    /// The AAC parts to come need this init segment.
    pub(super) fn aac_init(&mut self, init: InitSegment) {
        self.has_aac = true;
        self.stream.push_init(RenditionId::Aac, init);
    }

    /// Publishes a part of AAC. Recordings have the Opus only.
    pub(super) fn aac_part(&self, part: Part, program_date_time: SystemTime) {
        self.stream
            .push_part(RenditionId::Aac, part, program_date_time);
    }

    /// The parts of `kind` to come need this init segment.
    pub(super) fn init(&mut self, kind: MediaKind, init: InitSegment, now: Instant) {
        tracing::info!(%kind, codecs = init.codecs, resolution = ?init.resolution, "new init segment");
        self.stream.push_init(kind, init.clone());
        let joined = self.inits.insert(kind, init.clone()).is_none();
        self.waiting_since.get_or_insert(now);
        match &self.recorder {
            Some(recorder) if recorder.has(kind) => recorder.push_init(kind, &init),
            Some(_) if joined => {
                tracing::info!(%kind, "a track joined late: the recording goes on in a new file");
                self.end_recording(now);
                self.started = SystemTime::now();
                self.waiting_since = Some(now);
                self.head.clone_from(&self.inits);
            }
            Some(_) => {}
            None if self.held.iter().any(|held| held.is_part_of(kind)) => {
                self.held.push(Held::Init(kind, init));
            }
            None => {
                self.head.insert(kind, init);
            }
        }
    }

    /// Publishes a part and records it.
    pub(super) fn part(
        &mut self,
        kind: MediaKind,
        mut part: Part,
        program_date_time: SystemTime,
        now: Instant,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        part.bytes = numbered(part.bytes, self.sequence);
        let key = self.stream.push_part(kind, part.clone(), program_date_time);
        if self.recordings.is_none() || self.failure.is_some() {
            return;
        }
        if self.recorder.is_some() {
            self.record(Held::Part(kind, part, key));
            return;
        }
        self.held.push(Held::Part(kind, part, key));
        self.poll(now);
    }

    /// Starts the recording once all tracks are there, or the wait for them is over.
    pub(super) fn poll(&mut self, now: Instant) {
        if self.recorder.is_some() || self.held.is_empty() {
            return;
        }
        let complete = self
            .expected
            .iter()
            .all(|kind| self.inits.contains_key(kind));
        let waited = self
            .waiting_since
            .is_some_and(|since| now >= since + TRACK_WAIT);
        if complete || waited || self.held.len() >= MAX_HELD {
            self.start_recording(now);
        }
    }

    fn start_recording(&mut self, now: Instant) {
        let Some(store) = &self.recordings else {
            return;
        };
        let tracks: Vec<_> = std::mem::take(&mut self.head).into_iter().collect();
        let stream = self.stream.clone();
        let in_flight = Arc::clone(&self.in_flight);
        let on_written = Arc::new(move |written: Written| {
            let key = lock(&in_flight).remove(&written.sequence_number);
            if let Some(key) = key {
                stream.offload(written.kind, key, written.range);
            }
        });
        match store.start(&self.session, self.started, &tracks, on_written) {
            Ok(recorder) => {
                tracing::info!(path = %recorder.path().display(), waited = ?self.waiting_since.map(|since| now - since), "recording started");
                self.stream.recorded_in(recorder.reader(), recorder.path());
                self.recorder = Some(recorder);
                for held in std::mem::take(&mut self.held) {
                    self.record(held);
                }
            }
            Err(error) => self.give_up(Arc::new(error)),
        }
    }

    fn record(&mut self, held: Held) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        if let RecorderState::Failed(error) = recorder.state() {
            self.give_up(error);
            return;
        }
        match held {
            Held::Init(kind, init) => recorder.push_init(kind, &init),
            Held::Part(kind, part, key) if recorder.has(kind) => {
                if let Some(key) = key {
                    lock(&self.in_flight).insert(sequence_number(&part.bytes), key);
                }
                recorder.push_part(kind, part);
            }
            Held::Part(..) => {}
        }
    }

    /// The live stream goes on without a recording.
    fn give_up(&mut self, error: Arc<RecordingError>) {
        tracing::error!(%error, "recording stopped; the live stream goes on");
        self.failure = Some(error);
        self.recorder = None;
        self.held = Vec::new();
        lock(&self.in_flight).clear();
    }

    /// Where the playlists are.
    pub(super) fn progress(&self) -> hls::Progress {
        self.stream.progress()
    }

    /// How the recording does.
    pub(super) fn recording(&self) -> RecordingStatus {
        match (&self.failure, &self.recorder) {
            (Some(error), _) => RecordingStatus::Failed(Arc::clone(error)),
            (None, Some(recorder)) => {
                RecordingStatus::Writing(recorder.file_name().to_string(), recorder.bytes())
            }
            (None, None) if self.recordings.is_some() => RecordingStatus::Waiting,
            (None, None) => RecordingStatus::Off,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part with its sequence number written in; bytes nobody else holds are changed in place.
fn numbered(bytes: Bytes, sequence: u32) -> Bytes {
    let mut bytes = bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    if let Some(number) = bytes.get_mut(SEQUENCE_NUMBER) {
        number.copy_from_slice(&sequence.to_be_bytes());
    }
    bytes.freeze()
}

fn sequence_number(bytes: &Bytes) -> u32 {
    bytes
        .get(SEQUENCE_NUMBER)
        .and_then(|number| number.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}
