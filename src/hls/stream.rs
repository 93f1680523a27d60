//! The handle of a stream and its producers' side: short, synchronous calls from a media worker thread. What readers do
//! is in `reader`.

mod dvr;

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use super::{
    Progress, RenditionId, Settings, Status, StreamKey,
    alignment::Alignment,
    document::Document,
    outline::describe,
    rendition::{Rendition, ticks},
    status::{self, RenditionStatus},
};
use crate::media::{AudioFormat, FileRange, InitSegment, MediaKind, Part};

/// The low-latency HLS of a session, over all the publications that continue each other. A handle: cloning is cheap and
/// every clone means the same stream.
#[derive(Clone, Debug)]
pub struct Stream(pub(super) Arc<Shared>);

/// Names a part towards the stream it was pushed into, to say later where it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartKey(u64);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) key: StreamKey,
    /// How many streams there were before in this session.
    pub(super) generation: u32,
    pub(super) waiters: AtomicUsize,
    /// Told when renditions come, start, or end.
    pub(super) structure_changed: watch::Sender<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) renditions: Vec<Rendition>,
    pub(super) ended: bool,
    /// When the first rendition had media.
    pub(super) first_media: Option<Instant>,
    alignment: Alignment,
    /// When it ended.
    ended_at: Option<Instant>,
    /// The recordings that parts were offloaded to, by the file they were said to be in.
    files: Vec<(Weak<File>, Arc<Path>)>,
    /// The stream before this one, while players may still be at its end.
    pub(super) predecessor: Option<Stream>,
    /// Counts changes of anything that a media playlist shows.
    version: u64,
    /// Counts changes of anything that the multivariant playlist shows.
    outline: u64,
    multivariant: Option<(u64, Arc<Document>)>,
}

impl Stream {
    /// A stream without renditions, under a key of its own.
    pub fn new(settings: Settings) -> Self {
        Self::with_key(settings, StreamKey::now())
    }

    /// A stream whose names carry this key: no other stream under the same URL may ever have had it.
    pub fn with_key(settings: Settings, key: StreamKey) -> Self {
        Self::start(settings, key, 0, State::default())
    }

    fn start(settings: Settings, key: StreamKey, generation: u32, state: State) -> Self {
        Self(Arc::new(Shared {
            settings,
            key,
            generation,
            waiters: AtomicUsize::new(0),
            structure_changed: watch::Sender::new(()),
            state: Mutex::new(state),
        }))
    }

    /// A stream that goes on where another left off, in this process or an earlier one: the same URLs, media sequence
    /// numbers from there on, the first segment after a discontinuity. Only the names of media are its own.
    pub fn resume(settings: Settings, from: &Progress) -> Self {
        let renditions = from
            .renditions
            .iter()
            .map(|rendition| Rendition::resume(*rendition, from, &settings));
        let state = State {
            renditions: renditions.collect(),
            alignment: Alignment::after(from.discontinuity),
            ..State::default()
        };
        Self::start(settings, StreamKey::now(), from.generation, state)
    }

    /// A new stream in place of `ended`, with playlists under URLs of their own. Players that are still at the other
    /// one's get its tail and its end from this handle, for as long as they can be expected to.
    pub fn after(settings: Settings, ended: &Self) -> Self {
        // One before the one before is nobody's any more.
        ended.0.lock().predecessor = None;
        let state = State {
            predecessor: Some(ended.clone()),
            ..State::default()
        };
        let generation = ended.0.generation.wrapping_add(1);
        Self::start(settings, StreamKey::now(), generation, state)
    }

    /// Where the playlists are, for [`Stream::resume`].
    pub fn progress(&self) -> Progress {
        let state = self.0.lock();
        Progress {
            generation: self.0.generation,
            key: self.0.key.to_string(),
            target_duration: self.0.settings.target_duration(),
            discontinuity: state.alignment.current(),
            // What is made on demand joins the others anew.
            renditions: state
                .renditions
                .iter()
                .filter(|rendition| !rendition.is_on_demand())
                .map(Rendition::progress)
                .collect(),
        }
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Announces the tracks of the publication that begins. The multivariant playlist lists exactly these, and waits for
    /// all of them to have media, at most [`Settings::join_wait`] longer than for the first.
    pub fn expect(&self, kinds: &[MediaKind]) {
        let mut state = self.0.lock();
        for rendition in &mut state.renditions {
            rendition.expected = kinds.contains(&rendition.kind);
        }
        for kind in kinds {
            state.rendition_mut((*kind).into(), &self.0);
        }
        if kinds.contains(&MediaKind::Audio) {
            for format in &self.0.settings.audio {
                state.rendition_mut((*format).into(), &self.0);
            }
        }
        state.outline += 1;
        drop(state);
        self.0.structure_changed.send_replace(());
    }

    /// Gives the init segment of the parts to come. Another one than before makes the next part a discontinuity; the
    /// same again changes nothing.
    pub fn push_init(&self, rendition: impl Into<RenditionId>, init: InitSegment) {
        let mut state = self.0.lock();
        if state
            .rendition_mut(rendition.into(), &self.0)
            .push_init(init)
        {
            state.outline += 1;
        }
    }

    /// Publishes the next part of a track: it is listed, and whoever waits for it is answered.
    ///
    /// `program_date_time` is the wall-clock time of the part's earliest sample, by one clock for all tracks. A part
    /// without an init segment before it, or after [`Self::end`], is dropped: `None`.
    pub fn push_part(
        &self,
        rendition: impl Into<RenditionId>,
        part: Part,
        program_date_time: SystemTime,
    ) -> Option<PartKey> {
        let id = rendition.into();
        let now = Instant::now();
        let mut guard = self.0.lock();
        let state = &mut *guard;
        if state.ended {
            return None;
        }
        let index = state.index_of(id, &self.0);
        state.join(index, &part, program_date_time);
        let rendition = &mut state.renditions[index];
        let started = !rendition.has_media();
        let target = rendition.part_target();
        let pushed = rendition.push_part(part, program_date_time, &mut state.alignment, now);
        let Some(pushed) = pushed else {
            tracing::debug!(
                rendition = id.as_str(),
                "dropping a part that has no init segment"
            );
            return None;
        };
        if rendition.part_target() > target {
            tracing::warn!(
                rendition = id.as_str(),
                part_target = ?rendition.part_target(),
                "parts are longer than the part duration that is set; PART-TARGET follows them"
            );
        }
        let changed = Arc::clone(&rendition.changed);
        state.version += 1;
        if pushed.boundary {
            let files = &state.files;
            rendition.archive_old(now, |range| dvr::path_of(files, range));
            state.let_go_of_predecessor(now);
            state.outline += 1;
        }
        if started {
            state.first_media.get_or_insert(now);
        }
        drop(guard);
        changed.send_replace(());
        if started {
            self.0.structure_changed.send_replace(());
        }
        Some(PartKey(pushed.number))
    }

    /// Completes the segment in progress now, because nothing is coming for a while; the next part starts a new one.
    pub fn complete_segment(&self, rendition: impl Into<RenditionId>) {
        let id = rendition.into();
        let now = Instant::now();
        let mut state = self.0.lock();
        if state.ended {
            return;
        }
        let changed = state
            .renditions
            .iter_mut()
            .find(|r| r.id == id)
            .and_then(|r| r.complete_segment(now).then(|| Arc::clone(&r.changed)));
        if let Some(changed) = changed {
            state.version += 1;
            state.outline += 1;
            drop(state);
            changed.send_replace(());
        }
    }

    /// Says that a part lies on disk as well, byte for byte (`mfhd.sequence_number` apart, which players do not look at):
    /// it leaves memory as soon as it is no longer young (listed
    /// one by one: three target durations), and is read from the file from then on.
    ///
    /// `false` if that part is no longer kept, or the length is another.
    pub fn offload(&self, kind: MediaKind, part: PartKey, range: FileRange) -> bool {
        let mut state = self.0.lock();
        let rendition = state.renditions.iter_mut().find(|r| r.id == kind.into());
        rendition.is_some_and(|rendition| rendition.offload(part.0, range))
    }

    /// Whether a rendition that is made on demand is to be made now: somebody asked for its playlist or media within the
    /// last 10 s (four target durations, if they are longer).
    pub fn is_wanted(&self, rendition: RenditionId) -> bool {
        let now = Instant::now();
        let state = self.0.lock();
        let found = state.renditions.iter().find(|r| r.id == rendition);
        let asked_for = found.and_then(|r| r.asked_for);
        asked_for.is_some_and(|at| now < at + self.0.settings.demand_lasts())
    }

    /// Takes the media of a rendition that is made on demand away, because nobody wants it. The next part joins anew at
    /// the live edge.
    pub fn leave(&self, rendition: RenditionId) {
        let mut state = self.0.lock();
        if state.ended {
            return;
        }
        if let Some(rendition) = state.renditions.iter_mut().find(|r| r.id == rendition) {
            rendition.leave();
            state.version += 1;
            state.outline += 1;
        }
    }

    /// Ends the stream: the playlists get `EXT-X-ENDLIST`, everybody who waits is answered, and further parts are
    /// dropped. What is listed stays available for as long as the handle is kept.
    pub fn end(&self) {
        let now = Instant::now();
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        state.ended_at = Some(now);
        state.version += 1;
        state.outline += 1;
        let mut changed = Vec::new();
        for rendition in &mut state.renditions {
            rendition.complete_segment(now);
            rendition.release();
            changed.push(Arc::clone(&rendition.changed));
        }
        drop(state);
        for changed in changed {
            changed.send_replace(());
        }
        self.0.structure_changed.send_replace(());
    }

    /// The stream at this moment, for operators.
    pub fn status(&self) -> Status {
        let state = self.0.lock();
        let renditions: Vec<_> = state.renditions.iter().map(rendition_status).collect();
        Status {
            state: match (state.ended, state.first_media) {
                (true, _) => status::State::Ended,
                (false, Some(_)) => status::State::Live,
                (false, None) => status::State::Starting,
            },
            target_duration_seconds: self.0.settings.target_duration(),
            waiters: self.0.waiters.load(Ordering::Relaxed),
            memory_bytes: renditions.iter().map(|r| r.memory_bytes).sum(),
            renditions,
        }
    }
}

impl Shared {
    /// Held for microseconds only. A panic under it leaves at worst one part out, which is better than a dead stream.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn index_of(&mut self, id: RenditionId, shared: &Shared) -> usize {
        let found = self.renditions.iter().position(|r| r.id == id);
        found.unwrap_or_else(|| {
            let rendition = Rendition::new(id, shared.generation, &shared.settings);
            self.renditions.push(rendition);
            self.renditions.len() - 1
        })
    }

    fn rendition_mut(&mut self, id: RenditionId, shared: &Shared) -> &mut Rendition {
        let index = self.index_of(id, shared);
        &mut self.renditions[index]
    }

    /// Lets a rendition that is made on demand begin at the numbers of the one that is always there.
    fn join(&mut self, index: usize, part: &Part, program_date_time: SystemTime) {
        if self.renditions[index].has_media() || !self.renditions[index].is_on_demand() {
            return;
        }
        let Some(init) = self.renditions[index].init() else {
            return;
        };
        let middle = program_date_time + ticks(part.duration / 2, init.timescale);
        let is_steady = |r: &&mut Rendition| r.kind == MediaKind::Audio && !r.is_on_demand();
        let (joining, others) = {
            let (before, from) = self.renditions.split_at_mut(index);
            let Some((joining, after)) = from.split_first_mut() else {
                return;
            };
            (joining, before.iter_mut().chain(after))
        };
        if let Some(other) = { others }.find(is_steady) {
            joining.join(other, middle);
        }
    }

    /// Forgets the stream before once nobody can be behind so far any more.
    fn let_go_of_predecessor(&mut self, now: Instant) {
        self.predecessor.take_if(|before| {
            let reach = before.reach();
            let ended_at = before.0.lock().ended_at;
            ended_at.is_none_or(|at| now.saturating_duration_since(at) > reach)
        });
    }

    /// `PART-HOLD-BACK`, the same in every rendition: three times the longest part target (RFC 8216bis sections 4.4.3.8
    /// and 6.2.4).
    fn part_hold_back(&self) -> Duration {
        let longest = self.renditions.iter().map(Rendition::part_target).max();
        3 * longest.unwrap_or_default()
    }

    /// The media playlist in its present state, rendered if nobody has asked for this state yet.
    pub(super) fn media_playlist(
        &mut self,
        index: usize,
        key: &StreamKey,
        skip: bool,
    ) -> Arc<Document> {
        let rendition = &mut self.renditions[index];
        let cached = if skip {
            &rendition.delta
        } else {
            &rendition.full
        };
        if let Some((version, document)) = cached
            && *version == self.version
        {
            return Arc::clone(document);
        }
        rendition.pack(key.as_str());
        let rendition = &self.renditions[index];
        let others = self.renditions.iter().enumerate();
        let reports = others
            .filter(|(other, r)| *other != index && r.expected && !self.ended)
            .filter_map(|(_, r)| r.report())
            .collect();
        let playlist = rendition.playlist(
            key.as_str(),
            self.part_hold_back(),
            reports,
            skip,
            self.ended,
        );
        let document = if playlist.skipped == 0 && skip {
            // Nothing to leave out yet.
            self.media_playlist(index, key, false)
        } else {
            let delta = if skip { "-delta" } else { "" };
            let tag = format!("{key}-{}-{}{delta}", rendition.name, self.version);
            playlist.document(tag)
        };
        let rendition = &mut self.renditions[index];
        let cached = if skip {
            &mut rendition.delta
        } else {
            &mut rendition.full
        };
        *cached = Some((self.version, Arc::clone(&document)));
        document
    }

    /// The multivariant playlist over the expected renditions that have media, rendered if nobody has asked for this
    /// state yet; `None` if there is nothing to list.
    pub(super) fn multivariant(
        &mut self,
        key: &StreamKey,
        audio: &[AudioFormat],
    ) -> Option<Arc<Document>> {
        if let Some((outline, document)) = &self.multivariant
            && *outline == self.outline
        {
            return Some(Arc::clone(document));
        }
        let playlist = describe(&self.renditions, audio, self.ended);
        if playlist.variants.is_empty() {
            return None;
        }
        let tag = format!("{key}-index-{}", self.outline);
        let document = Document::new(playlist.to_string(), tag);
        self.multivariant = Some((self.outline, Arc::clone(&document)));
        Some(document)
    }
}

fn rendition_status(rendition: &Rendition) -> RenditionStatus {
    let init = rendition.init();
    let (media_sequence, segments, parts) = rendition.counts();
    let (archived_segments, gaps, archive_bytes) = rendition.archive_counts();
    RenditionStatus {
        name: rendition.name.to_string(),
        kind: rendition.kind,
        codecs: init.map(|init| init.codecs.clone()),
        resolution: init.and_then(|init| init.resolution),
        channels: init.map_or(0, |init| init.channels),
        average_bandwidth: rendition.bitrate.average(),
        samples_per_second: rendition.bitrate.samples_per_second(),
        media_sequence,
        segments,
        parts,
        parts_total: rendition.next_part(),
        part_target_seconds: rendition.part_target().as_secs_f64(),
        discontinuities: rendition.discontinuity(),
        independent_segments: rendition.all_independent(),
        memory_bytes: rendition.memory(),
        archived_segments,
        gaps,
        archive_bytes,
        last_part_age_seconds: rendition.last_part.map(|at| at.elapsed().as_secs_f64()),
    }
}
