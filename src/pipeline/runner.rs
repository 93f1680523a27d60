//! One running pipeline: packets in at a bare pad, boxes out at another, errors back to whoever pushes.
//!
//! Between the two pads is what the text made. There is no thread and no main loop here: what comes out, and what elements
//! say on the way (`ends`), is there when a push returns.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use gst::prelude::*;
use gstreamer as gst;

use super::{
    Output, START_OFFSET, Settings,
    description::{Description, Elements},
    ends::{OutputFn, Shared, input_pad, lock, output_pad, watch_bus},
    error::PipelineError,
    mux, payload,
    pictures::Pictures,
    rtp,
};
use crate::media::{MediaKind, RtpPacket, TrackInfo};

/// How long draining may take. The built-in texts drain within the call; one with a queue in it needs a moment.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A keyframe is asked for when nothing has come out after this much media, in nanoseconds...
const ASK_AFTER_NS: i64 = 300_000_000;
/// ... and again after this much more.
const ASK_AGAIN_NS: i64 = 1_000_000_000;

/// How often in a row a stream may break its elements before anything comes out.
const MAX_RECOVERIES: u32 = 20;

/// A running pipeline for one track. Dropping it stops it at once; [`Pipeline::finish`] lets everything out first.
pub struct Pipeline {
    description: Arc<Description>,
    caps: gst::Caps,
    settings: Settings,
    /// Where a segment of sound starts, with the offset, if that is given from outside.
    segment_origin: Option<Duration>,
    shared: Arc<Shared>,
    chain: Chain,
    /// Only for video.
    pictures: Option<Pictures>,
    /// Presentation time at which a keyframe is asked for if nothing has come out by then.
    ask_at: Option<i64>,
    /// How often in a row the chain has been replaced without anything coming out.
    recoveries: u32,
}

/// What a text was made into, between our two pads.
struct Chain {
    pipeline: gst::Pipeline,
    mux: gst::Element,
    input: gst::Pad,
    /// Links do not keep a pad alive.
    end: gst::Pad,
}

impl Pipeline {
    pub(super) fn start(
        description: Arc<Description>,
        track: &TrackInfo,
        settings: Settings,
        segment_origin: Option<Duration>,
        output: OutputFn,
    ) -> Result<Self, PipelineError> {
        let shared = Arc::new(Shared::new(output));
        let caps = rtp::caps(track);
        let chain = Chain::start(&description, &caps, &settings, segment_origin, &shared)?;
        Ok(Self {
            pictures: pictures(&description),
            description,
            caps,
            settings,
            segment_origin,
            shared,
            chain,
            ask_at: None,
            recoveries: 0,
        })
    }

    /// Takes the next packet in sequence order. `pts` is its presentation time in nanoseconds from the stream's zero;
    /// what comes out is [`START_OFFSET`] later. `after_loss` says that packets before this one are lost: of video,
    /// nothing comes out from then on until the next keyframe, since it could not be shown right.
    ///
    /// # Errors
    /// The pipeline has failed, now or earlier. It has to be dropped.
    pub fn push(
        &mut self,
        packet: &RtpPacket,
        pts: i64,
        after_loss: bool,
    ) -> Result<(), PipelineError> {
        self.check()?;
        let Some(pictures) = &mut self.pictures else {
            if !payload::is_sound(self.description.made_of().codec(), &packet.payload) {
                tracing::debug!(packet.sequence_number, "dropping a malformed packet");
                return Ok(());
            }
            return self.feed(packet, pts, after_loss);
        };
        let taken = pictures.push(packet.clone(), pts, after_loss);
        for (index, (packet, pts)) in taken.packets.iter().enumerate() {
            self.feed(packet, *pts, taken.after_gap && index == 0)?;
        }
        if taken.packets.is_empty() {
            self.ask_if_nothing_comes(pts);
        }
        if taken.broken {
            tracing::debug!(
                packet.timestamp,
                "a picture is not whole: waiting for a keyframe"
            );
            self.shared.emit(Output::KeyframeWanted);
        }
        self.check()
    }

    /// Gives the elements what was held of pictures.
    fn feed_held(&mut self) -> Result<(), PipelineError> {
        let held = self.pictures.as_mut().map(Pictures::finish);
        for (packet, pts) in held.unwrap_or_default() {
            self.feed(&packet, pts, false)?;
        }
        self.check()
    }

    /// Gives a packet to the elements.
    fn feed(&mut self, packet: &RtpPacket, pts: i64, after_gap: bool) -> Result<(), PipelineError> {
        let offset = i64::try_from(nanoseconds(START_OFFSET)).unwrap_or(0);
        let Some(time) = pts
            .checked_add(offset)
            .and_then(|time| u64::try_from(time).ok())
        else {
            tracing::debug!(pts, "dropping a packet from before the stream's zero");
            return Ok(());
        };
        let buffer = rtp::buffer(packet, gst::ClockTime::from_nseconds(time), after_gap);
        let flow = self.chain.input.push(buffer);
        self.check()?;
        match flow {
            Ok(_) => {
                self.ask_if_nothing_comes(pts);
                Ok(())
            }
            Err(flow) => self.recover(flow),
        }
    }

    /// Makes the next picture a keyframe where the text has an encoder; others take no notice.
    pub fn force_keyframe(&mut self) {
        let event = gstreamer_video::DownstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        self.chain.input.push_event(event);
    }

    /// Closes the part in hand, because nothing has come for a while. The timeline goes on where it ended if the pause
    /// turns out to be short.
    ///
    /// # Errors
    /// The pipeline has failed.
    pub fn end_part(&mut self) -> Result<(), PipelineError> {
        self.feed_held()?;
        self.chain.mux.emit_by_name::<()>(mux::END_PART, &[]);
        self.check()
    }

    /// Sound has stopped: puts silence from the last packet up to `until`, a presentation time in nanoseconds, so that the
    /// track goes on. Does nothing to pictures, before the first packet, and where sound has been missing for so long
    /// that it goes on at a discontinuity.
    ///
    /// # Errors
    /// The pipeline has failed.
    pub fn fill_silence(&mut self, until: i64) -> Result<(), PipelineError> {
        self.check()?;
        let offset = i64::try_from(nanoseconds(START_OFFSET)).unwrap_or(0);
        if let Some(until) = until
            .checked_add(offset)
            .and_then(|time| u64::try_from(time).ok())
        {
            self.chain
                .mux
                .emit_by_name::<()>(mux::FILL_SILENCE, &[&until]);
        }
        self.check()
    }

    /// Closes the part in hand, because what follows does not continue it. The next part starts with a keyframe, a new
    /// segment and `discontinuity`; a new initialization segment precedes it only if the encoding has changed, too.
    ///
    /// # Errors
    /// The pipeline has failed, or does not drain, or cannot be built anew.
    pub fn discontinuity(&mut self) -> Result<(), PipelineError> {
        self.segment_origin = None;
        self.feed_held()?;
        self.drain()?;
        self.restart()
    }

    /// Replaces the chain: new elements instead of flushed ones. Timestampers of GStreamer 1.22 lose their segment when
    /// flushed, and nothing of the old packets can linger anywhere.
    fn restart(&mut self) -> Result<(), PipelineError> {
        self.shared.flowing.store(false, Ordering::Release);
        self.ask_at = None;
        self.pictures = pictures(&self.description);
        self.chain = Chain::start(
            &self.description,
            &self.caps,
            &self.settings,
            self.segment_origin,
            &self.shared,
        )?;
        Ok(())
    }

    /// An element takes no more packets, and none has failed: what a bad picture did to the elements ends with them.
    /// The stream goes on with the next keyframe.
    fn recover(&mut self, flow: gst::FlowError) -> Result<(), PipelineError> {
        if self.shared.flowing.load(Ordering::Acquire) {
            self.recoveries = 0;
        }
        self.recoveries += 1;
        if self.recoveries > MAX_RECOVERIES {
            return Err(self.failed(&format!("it takes no more packets ({flow})")));
        }
        tracing::debug!(
            complaint = lock(&self.shared.complaint).as_deref(),
            "starting anew after {flow}"
        );
        self.drain()?;
        self.restart()?;
        self.shared.emit(Output::KeyframeWanted);
        self.check()
    }

    /// Lets everything out and stops.
    ///
    /// # Errors
    /// The pipeline has failed, or does not drain.
    pub fn finish(mut self) -> Result<(), PipelineError> {
        self.feed_held()?;
        self.drain()
    }

    fn drain(&self) -> Result<(), PipelineError> {
        self.check()?;
        *lock(&self.shared.drained) = false;
        self.chain.input.push_event(gst::event::Eos::new());
        let (drained, _) = self
            .shared
            .wake
            .wait_timeout_while(lock(&self.shared.drained), DRAIN_TIMEOUT, |d| !*d)
            .unwrap_or_else(PoisonError::into_inner);
        if !*drained {
            return Err(PipelineError::Stuck(self.description.made_of()));
        }
        drop(drained);
        self.check()
    }

    /// Some parsers keep everything before the first keyframe to themselves, so that the mux cannot miss it.
    fn ask_if_nothing_comes(&mut self, pts: i64) {
        if self.shared.flowing.load(Ordering::Acquire) {
            return;
        }
        match self.ask_at {
            None => self.ask_at = Some(pts.saturating_add(ASK_AFTER_NS)),
            Some(time) if pts >= time => {
                self.ask_at = Some(pts.saturating_add(ASK_AGAIN_NS));
                self.shared.emit(Output::KeyframeWanted);
            }
            Some(_) => {}
        }
    }

    fn check(&self) -> Result<(), PipelineError> {
        if self.shared.failed.load(Ordering::Acquire) {
            Err(self.failed("an element failed"))
        } else {
            Ok(())
        }
    }

    /// The error that was reported first, or else what the stream was blamed for, or else `message`.
    fn failed(&self, message: &str) -> PipelineError {
        let complaint = lock(&self.shared.complaint).take();
        self.shared
            .fail(complaint.unwrap_or_else(|| message.to_owned()));
        PipelineError::Failed {
            text: self.description.made_of(),
            message: lock(&self.shared.failure).clone().unwrap_or_default(),
        }
    }
}

impl Chain {
    fn start(
        description: &Description,
        caps: &gst::Caps,
        settings: &Settings,
        segment_origin: Option<Duration>,
        shared: &Arc<Shared>,
    ) -> Result<Self, PipelineError> {
        let Elements {
            bin,
            mux,
            sink,
            src,
        } = description.build()?;
        mux.set_property("part-duration", nanoseconds(settings.part_duration));
        mux.set_property("segment-duration", nanoseconds(settings.segment_duration));
        if let Some(origin) = segment_origin {
            mux.set_property("segment-origin", nanoseconds(origin));
        }
        mux.set_property("track-id", settings.track_id.max(1));
        // Buffers cannot carry negative times, so the offset is already in what is pushed.
        mux.set_property("start-offset", 0_u64);

        let pipeline = gst::Pipeline::new();
        watch_bus(&pipeline, shared);
        let wrong = |problem: String| description.wrong(problem);
        pipeline
            .add(&bin)
            .map_err(|error| wrong(format!("the bin cannot be used: {error}")))?;
        let this = Self {
            pipeline,
            mux,
            input: input_pad(shared),
            end: output_pad(shared).map_err(|error| wrong(error.to_string()))?,
        };
        this.input
            .link(&sink)
            .and_then(|_| src.link(&this.end))
            .map_err(|error| wrong(format!("its ends cannot be linked: {error}")))?;
        let started = this
            .end
            .set_active(true)
            .and_then(|()| this.input.set_active(true))
            .is_ok()
            && this.pipeline.set_state(gst::State::Playing).is_ok();
        if !started {
            let reported = lock(&shared.failure).take();
            let reported = reported.or_else(|| lock(&shared.complaint).take());
            return Err(wrong(
                reported.unwrap_or_else(|| "it cannot be started".to_owned()),
            ));
        }
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        for event in [
            gst::event::StreamStart::new(&description.made_of().to_string()),
            gst::event::Caps::new(caps),
            gst::event::Segment::new(&segment),
        ] {
            this.input.push_event(event);
        }
        Ok(this)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let stopped = self.pipeline.set_state(gst::State::Null).is_ok();
        if !stopped || self.end.set_active(false).is_err() {
            tracing::warn!("a pipeline did not stop in order");
        }
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("text", &self.description.made_of())
            .finish_non_exhaustive()
    }
}

/// What lets only whole pictures through, if it is pictures that come.
fn pictures(description: &Description) -> Option<Pictures> {
    let codec = description.made_of().codec();
    (codec.kind() == MediaKind::Video).then(|| Pictures::new(codec))
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
