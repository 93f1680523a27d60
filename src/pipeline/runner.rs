//! One running pipeline: packets in at a bare pad, boxes out at another, errors back to whoever pushes.
//!
//! Between the two pads is what the text made. There is no thread and no main loop here: GStreamer's bus is read by a
//! handler that runs wherever the message comes from.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gst::prelude::*;
use gstreamer as gst;

use super::{
    Output, START_OFFSET, Settings,
    description::{Description, Elements, error_text},
    error::PipelineError,
    made, mux, payload, rtp,
};
use crate::media::{InitSegment, RtpPacket, TrackInfo};

/// How long draining may take. The built-in texts drain within the call; one with a queue in it needs a moment.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A keyframe is asked for when nothing has come out after this much media, in nanoseconds...
const ASK_AFTER_NS: i64 = 300_000_000;
/// ... and again after this much more.
const ASK_AGAIN_NS: i64 = 1_000_000_000;

/// How often in a row a stream may break its elements before anything comes out.
const MAX_RECOVERIES: u32 = 20;

/// Called with everything that comes out.
pub(super) type OutputFn = Box<dyn FnMut(Output) + Send>;

/// A running pipeline for one track. Dropping it stops it at once; [`Pipeline::finish`] lets everything out first.
pub struct Pipeline {
    description: Arc<Description>,
    caps: gst::Caps,
    settings: Settings,
    /// Where a segment of sound starts, with the offset, if that is given from outside.
    segment_origin: Option<Duration>,
    shared: Arc<Shared>,
    chain: Chain,
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

/// What the pads and the bus reach.
struct Shared {
    output: Mutex<OutputFn>,
    /// A chain that replaces another one begins with an initialization segment, too: it is news only if it differs.
    last_init: Mutex<Option<InitSegment>>,
    failure: Mutex<Option<String>>,
    failed: AtomicBool,
    /// Something has come out of the chain in place.
    flowing: AtomicBool,
    /// The last thing an element said about the stream itself. Depayloaders complain about single packets and go on;
    /// a parser that has seen nothing complains about the end of the stream. It counts only when buffers are refused.
    complaint: Mutex<Option<String>>,
    drained: Mutex<bool>,
    wake: Condvar,
}

impl Pipeline {
    pub(super) fn start(
        description: Arc<Description>,
        track: &TrackInfo,
        settings: Settings,
        segment_origin: Option<Duration>,
        output: OutputFn,
    ) -> Result<Self, PipelineError> {
        let shared = Arc::new(Shared {
            output: Mutex::new(output),
            last_init: Mutex::new(None),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            flowing: AtomicBool::new(false),
            complaint: Mutex::new(None),
            drained: Mutex::new(false),
            wake: Condvar::new(),
        });
        let caps = rtp::caps(track);
        let chain = Chain::start(&description, &caps, &settings, segment_origin, &shared)?;
        Ok(Self {
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
    /// what comes out is [`START_OFFSET`] later. `after_loss` says that packets before this one are lost.
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
        let offset = i64::try_from(nanoseconds(START_OFFSET)).unwrap_or(0);
        let Some(time) = pts
            .checked_add(offset)
            .and_then(|time| u64::try_from(time).ok())
        else {
            tracing::debug!(pts, "dropping a packet from before the stream's zero");
            return Ok(());
        };
        if !payload::is_sound(self.description.made_of().codec(), &packet.payload) {
            tracing::debug!(packet.sequence_number, "dropping a malformed packet");
            return Ok(());
        }
        let buffer = rtp::buffer(packet, gst::ClockTime::from_nseconds(time), after_loss);
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
        self.check()?;
        self.chain.mux.emit_by_name::<()>(mux::END_PART, &[]);
        self.check()
    }

    /// Closes the part in hand, because what follows does not continue it. The next part starts with a keyframe, a new
    /// segment and `discontinuity`; a new initialization segment precedes it only if the encoding has changed, too.
    ///
    /// # Errors
    /// The pipeline has failed, or does not drain, or cannot be built anew.
    pub fn discontinuity(&mut self) -> Result<(), PipelineError> {
        self.segment_origin = None;
        self.drain()?;
        self.restart()
    }

    /// Replaces the chain: new elements instead of flushed ones. Timestampers of GStreamer 1.22 lose their segment when
    /// flushed, and nothing of the old packets can linger anywhere.
    fn restart(&mut self) -> Result<(), PipelineError> {
        self.shared.flowing.store(false, Ordering::Release);
        self.ask_at = None;
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
    pub fn finish(self) -> Result<(), PipelineError> {
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

impl Shared {
    fn fail(&self, message: String) {
        lock(&self.failure).get_or_insert(message);
        self.failed.store(true, Ordering::Release);
    }

    /// Hands something to the owner. A panic there must not unwind into GStreamer.
    fn emit(&self, output: Output) -> bool {
        let mut function = lock(&self.output);
        let done = catch_unwind(AssertUnwindSafe(|| function(output))).is_ok();
        if !done {
            self.fail("the receiver of its output panicked".to_owned());
        }
        done
    }

    /// Takes a buffer of the mux.
    fn take(
        &self,
        pad: &gst::Pad,
        buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let output = if buffer.flags().contains(gst::BufferFlags::HEADER) {
            made::init_segment(pad, buffer)
        } else {
            made::part(buffer)
        };
        self.flowing.store(true, Ordering::Release);
        if let Some(Output::Init(init)) = &output {
            let mut last = lock(&self.last_init);
            if last.as_ref() == Some(init) {
                return Ok(gst::FlowSuccess::Ok);
            }
            *last = Some(init.clone());
        }
        let Some(output) = output else {
            self.fail("what comes out of its end was not made by the mux".to_owned());
            return Err(gst::FlowError::Error);
        };
        if self.emit(output) {
            Ok(gst::FlowSuccess::Ok)
        } else {
            Err(gst::FlowError::Error)
        }
    }
}

fn input_pad(shared: &Arc<Shared>) -> gst::Pad {
    let shared = Arc::clone(shared);
    gst::Pad::builder(gst::PadDirection::Src)
        .name("packets")
        .event_function(move |_, _, event| {
            if gstreamer_video::ForceKeyUnitEvent::is(&event) {
                shared.emit(Output::KeyframeWanted);
            }
            true
        })
        .build()
}

fn output_pad(shared: &Arc<Shared>) -> Result<gst::Pad, gst::glib::BoolError> {
    let taker = Arc::clone(shared);
    let shared = Arc::clone(shared);
    // Without a template a pad takes no other caps after its first.
    let template = gst::PadTemplate::new(
        "boxes",
        gst::PadDirection::Sink,
        gst::PadPresence::Always,
        &gst::Caps::new_any(),
    )?;
    Ok(gst::Pad::builder_from_template(&template)
        .chain_function(move |pad, _, buffer| taker.take(pad, buffer))
        .event_function(move |_, _, event| {
            if event.type_() == gst::EventType::Eos {
                *lock(&shared.drained) = true;
                shared.wake.notify_all();
            }
            true
        })
        .build())
}

fn watch_bus(pipeline: &gst::Pipeline, shared: &Arc<Shared>) {
    let Some(bus) = pipeline.bus() else { return };
    let shared = Arc::clone(shared);
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => {
                let text = error_text(error);
                if error.error().kind::<gst::StreamError>().is_some() {
                    tracing::debug!("{text}");
                    *lock(&shared.complaint) = Some(text);
                } else {
                    shared.fail(text);
                }
            }
            gst::MessageView::Warning(warning) => {
                tracing::debug!("pipeline warning: {}", warning.error());
            }
            _ => {}
        }
        gst::BusSyncReply::Drop
    });
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// What is behind these locks stays valid when a thread panics while holding one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
