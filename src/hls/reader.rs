//! The readers' side of a stream: playlists and media, and waiting for those that are to come (RFC 8216bis sections
//! 6.2.5 and 6.2.6).
//!
//! Every wait has an end, counts against [`Settings::max_waiters`](super::Settings::max_waiters) while it lasts, and
//! leaves nothing behind when its future is dropped.

use std::{
    cmp::Ordering,
    fs::File,
    io,
    path::Path,
    sync::{Arc, atomic},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    BlockingReload, Chunk, Document, HlsError, Item, Name, RenditionId, Resource, Stream,
    archive::Place,
    rendition::Rendition,
    stream::{Shared, State},
    succession::rendition_name,
};
use crate::media::{FileRange, MediaKind};

/// What a look at the state came to.
enum Step<T> {
    Done(Result<T, HlsError>),
    /// Look again when this is told, or at that time at the latest.
    Wait(watch::Receiver<()>, Option<Instant>),
}

/// Media that was asked for, and where it is.
enum Found {
    Kept(MediaKind, Vec<Chunk>),
    Archived(MediaKind, Vec<Place>),
}

impl Found {
    /// The media under its name, with the files open.
    async fn open(self, name: &str) -> Result<Resource, HlsError> {
        let (kind, places) = match self {
            Self::Kept(kind, chunks) => return Ok(Resource::new(name, kind, chunks)),
            Self::Archived(kind, places) => (kind, places),
        };
        let opened = tokio::task::spawn_blocking(move || open_places(places)).await;
        match opened.map_err(io::Error::other).flatten() {
            Ok(chunks) => Ok(Resource::new(name, kind, chunks)),
            Err(error) => {
                tracing::warn!(name, %error, "a segment cannot be read from its recording");
                Err(HlsError::NotFound)
            }
        }
    }
}

/// Opens the files of these places, each once for places that follow each other in it.
fn open_places(places: Vec<Place>) -> io::Result<Vec<Chunk>> {
    let mut open: Option<(Arc<Path>, Arc<File>)> = None;
    let mut chunks = Vec::with_capacity(places.len());
    for Place { path, offset, len } in places {
        let file = match open.take().filter(|(known, _)| *known == path) {
            Some((_, file)) => file,
            None => Arc::new(File::open(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?),
        };
        chunks.push(Chunk::File(FileRange {
            file: Arc::clone(&file),
            offset,
            len,
        }));
        open = Some((path, file));
    }
    Ok(chunks)
}

/// What happens when the time is over.
#[derive(Clone, Copy)]
enum Patience {
    /// The stream is starting: say so.
    Start,
    /// The same, and its first segment has to be completed.
    Segment,
    /// Three target durations (section 6.2.5.2).
    Media,
}

impl Stream {
    /// The multivariant playlist. Waits for a stream that is starting, [`Settings::start_wait`](super::Settings) at
    /// most.
    ///
    /// # Errors
    /// [`HlsError::NotReady`] while no rendition has media, [`HlsError::NotFound`] if the stream ended like that,
    /// [`HlsError::Overloaded`].
    pub async fn multivariant(&self) -> Result<Arc<Document>, HlsError> {
        let shared = &*self.0;
        self.wait_for(Patience::Start, |state, now| {
            if state.ended {
                return Step::Done(
                    state
                        .multivariant(&shared.key, &shared.settings.audio)
                        .ok_or(HlsError::NotFound),
                );
            }
            let missing = state
                .renditions
                .iter()
                .any(|r| r.expected && !r.has_media() && !r.is_on_demand());
            let last_chance = state.first_media.map(|at| at + shared.settings.join_wait);
            if missing && last_chance.is_none_or(|at| now < at) {
                return Step::Wait(shared.structure_changed.subscribe(), last_chance);
            }
            match state.multivariant(&shared.key, &shared.settings.audio) {
                Some(document) => Step::Done(Ok(document)),
                None => Step::Wait(shared.structure_changed.subscribe(), None),
            }
        })
        .await
    }

    /// The media playlist of a rendition, as it is or when it has what `reload` asks for.
    ///
    /// Without a segment number in `reload` this is the playlist as it is, but never one without a complete segment:
    /// players that know no parts take that for an error, and hls.js gives the stream up over it. So the first of
    /// such requests wait for the first segment; one that asks for part 0 of segment 0 need not.
    ///
    /// # Errors
    /// [`HlsError::NotFound`] for an unknown rendition, [`HlsError::BadRequest`] for media too far ahead,
    /// [`HlsError::Timeout`] if it does not come, [`HlsError::NotReady`] while the stream is starting,
    /// [`HlsError::Overloaded`].
    pub async fn media_playlist(
        &self,
        rendition: &str,
        reload: BlockingReload,
    ) -> Result<Arc<Document>, HlsError> {
        let stream = self.holder(rendition);
        let shared = &*stream.0;
        let patience = match reload.msn {
            Some(_) if !shared.lock().awaits_segment(rendition) => Patience::Media,
            _ => Patience::Segment,
        };
        stream
            .wait_for(patience, |state, now| {
                let index = match find(state, rendition, shared) {
                    Ok(index) => index,
                    Err(step) => return step,
                };
                let found = &mut state.renditions[index];
                found.asked_for = Some(now);
                let found = &*found;
                let ready = match reload.msn {
                    _ if state.ended => found.can_end().then_some(()).ok_or(HlsError::NotFound),
                    // What its numbers will be is known once it is there.
                    Some(_) if found.is_on_demand() && !found.has_media() => {
                        return Step::Wait(found.changed.subscribe(), None);
                    }
                    Some(msn) => match is_there(found, msn, reload.part) {
                        // Whoever asks for the segment in progress knows what to do with nothing else.
                        Ok(true) if !found.awaits_segment() || msn == found.next_msn() => Ok(()),
                        Ok(_) => return Step::Wait(found.changed.subscribe(), None),
                        Err(error) => Err(error),
                    },
                    None if found.has_segment() => Ok(()),
                    None => return Step::Wait(found.changed.subscribe(), None),
                };
                let skip = reload.skip && !state.ended;
                Step::Done(ready.map(|()| state.media_playlist(index, &shared.key, skip)))
            })
            .await
    }

    /// An init segment, segment or part by its name in the playlist of a rendition. A part that is hinted is waited for.
    ///
    /// # Errors
    /// [`HlsError::NotFound`] at once for whatever is neither listed (or was until a while ago) nor hinted, and for a
    /// hinted part that never comes because the stream ends; [`HlsError::Timeout`] if it does not come in time;
    /// [`HlsError::Overloaded`].
    pub async fn resource(&self, rendition: &str, name: &str) -> Result<Resource, HlsError> {
        let stream = self.holder(rendition);
        let shared = &*stream.0;
        let item = Name::parse(name)
            .filter(|name| name.key == shared.key.as_str())
            .ok_or(HlsError::NotFound)?
            .item;
        stream
            .wait_for(Patience::Media, |state, now| {
                let found = state.renditions.iter_mut().find(|r| &*r.name == rendition);
                let Some(found) = found else {
                    return Step::Done(Err(HlsError::NotFound));
                };
                found.asked_for = Some(now);
                let found = &*found;
                let in_memory = |chunk| Found::Kept(found.kind, vec![chunk]);
                let there = match item {
                    Item::Init(number) => found.init_chunk(number).map(in_memory),
                    Item::Segment(msn) => found
                        .segment_chunks(msn, now)
                        .map(|chunks| Found::Kept(found.kind, chunks))
                        .or_else(|| Some(Found::Archived(found.kind, found.places(msn)?))),
                    Item::Part(number)
                        if number == found.next_part() && found.has_media() && !state.ended =>
                    {
                        return Step::Wait(found.changed.subscribe(), None);
                    }
                    Item::Part(number) => found.part_chunk(number, now).map(in_memory),
                };
                Step::Done(there.ok_or(HlsError::NotFound))
            })
            .await?
            .open(name)
            .await
    }

    /// The stream whose rendition has this name: this one, or the one before it.
    fn holder(&self, rendition: &str) -> Self {
        let before = self.0.lock().predecessor.clone();
        before
            .filter(|before| before.0.has(rendition))
            .unwrap_or_else(|| self.clone())
    }

    /// Looks, and looks again after each change, until there is an answer or the time is over.
    async fn wait_for<T>(
        &self,
        patience: Patience,
        mut look: impl FnMut(&mut State, Instant) -> Step<T>,
    ) -> Result<T, HlsError> {
        let shared = &*self.0;
        let mut waiter = None;
        let mut deadline = None;
        loop {
            let now = Instant::now();
            // Subscribed while the state is locked, so that no change after it is missed.
            let (mut changed, recheck) = match look(&mut shared.lock(), now) {
                Step::Done(result) => return result,
                Step::Wait(changed, recheck) => (changed, recheck),
            };
            let deadline = *deadline.get_or_insert_with(|| now + patience.limit(shared));
            if now >= deadline {
                return Err(patience.error());
            }
            if waiter.is_none() {
                waiter = Some(Waiter::enter(shared)?);
            }
            let until = recheck.map_or(deadline, |at| at.min(deadline));
            // Over or told, the next look decides.
            drop(timeout_at(until, changed.changed()).await);
        }
    }
}

impl Shared {
    /// Whether a rendition of this stream may have this name.
    fn has(&self, rendition: &str) -> bool {
        let listed = self.settings.audio.iter().map(|format| (*format).into());
        [RenditionId::Video, RenditionId::Audio]
            .into_iter()
            .chain(listed)
            .any(|id| rendition_name(id, self.generation) == rendition)
    }
}

impl State {
    fn awaits_segment(&self, rendition: &str) -> bool {
        self.renditions
            .iter()
            .any(|r| &*r.name == rendition && r.awaits_segment())
    }
}

impl Patience {
    fn limit(self, shared: &Shared) -> Duration {
        match self {
            Self::Start => shared.settings.start_wait,
            Self::Segment => {
                shared.settings.start_wait + Duration::from_secs(shared.settings.target_duration())
            }
            Self::Media => Duration::from_secs(3 * shared.settings.target_duration()),
        }
    }

    fn error(self) -> HlsError {
        match self {
            Self::Start | Self::Segment => HlsError::NotReady {
                retry_after: Duration::from_secs(1),
            },
            Self::Media => HlsError::Timeout,
        }
    }
}

/// The rendition of that name; none of that name is an error, unless the stream does not know its tracks yet.
fn find<T>(state: &State, name: &str, shared: &Shared) -> Result<usize, Step<T>> {
    let found = state.renditions.iter().position(|r| &*r.name == name);
    found.ok_or_else(|| {
        if state.renditions.is_empty() && !state.ended && shared.has(name) {
            Step::Wait(shared.structure_changed.subscribe(), None)
        } else {
            Step::Done(Err(HlsError::NotFound))
        }
    })
}

/// Whether the playlist has what a blocking reload asks for (section 6.2.5.2).
fn is_there(rendition: &Rendition, msn: u64, part: Option<u64>) -> Result<bool, HlsError> {
    let next = rendition.next_msn();
    // The last segment is the one before `next`, and two more may be asked for.
    if msn > next + 1 {
        return Err(HlsError::BadRequest(format!(
            "_HLS_msn={msn} is more than two segments ahead"
        )));
    }
    let Some(part) = part else {
        return Ok(msn < next);
    };
    let ahead = match msn.cmp(&next) {
        Ordering::Less => 0,
        Ordering::Equal => part.saturating_sub(rendition.open_parts()),
        Ordering::Greater => part,
    };
    if ahead >= advance_part_limit(rendition.part_target()) {
        return Err(HlsError::BadRequest(format!(
            "_HLS_part={part} is too far ahead"
        )));
    }
    // A part past the end of its segment is the first of the next one, so any later part answers for it.
    Ok(rendition.edge().is_some_and(|edge| edge >= (msn, part)))
}

/// How many parts ahead a client may ask for.
fn advance_part_limit(part_target: Duration) -> u64 {
    if part_target < Duration::from_secs(1) {
        let limit = 3_000_000_000 / part_target.as_nanos().max(1);
        u64::try_from(limit).unwrap_or(u64::MAX)
    } else {
        3
    }
}

/// A place among those who wait, given back when dropped.
struct Waiter<'a>(&'a Shared);

impl<'a> Waiter<'a> {
    fn enter(shared: &'a Shared) -> Result<Self, HlsError> {
        let limit = shared.settings.max_waiters;
        shared
            .waiters
            .try_update(
                atomic::Ordering::Relaxed,
                atomic::Ordering::Relaxed,
                |waiting| (waiting < limit).then_some(waiting + 1),
            )
            .map(|_| Self(shared))
            .map_err(|_| HlsError::Overloaded {
                retry_after: Duration::from_secs(1),
            })
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, atomic::Ordering::Relaxed);
    }
}
