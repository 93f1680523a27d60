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

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;

use super::{
    Output, START_OFFSET, Settings,
    description::{Description, Elements, error_text},
    error::PipelineError,
    mux::{self, PartMeta},
    rtp,
};
use crate::media::{Codec, InitSegment, Part, RtpPacket, TrackInfo};

/// How long draining may take. The built-in texts drain within the call; one with a queue in it needs a moment.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Called with everything that comes out.
pub(super) type OutputFn = Box<dyn FnMut(Output) + Send>;

/// A running pipeline for one track. Dropping it stops it at once; [`Pipeline::finish`] lets everything out first.
pub struct Pipeline {
    codec: Codec,
    pipeline: gst::Pipeline,
    mux: gst::Element,
    input: gst::Pad,
    shared: Arc<Shared>,
}

/// What the pads and the bus reach.
struct Shared {
    output: Mutex<OutputFn>,
    failure: Mutex<Option<String>>,
    failed: AtomicBool,
    /// While this is set, elements may complain: a parser that has seen nothing yet reports the end of the stream as an
    /// error.
    draining: AtomicBool,
    drained: Mutex<bool>,
    wake: Condvar,
}

impl Pipeline {
    pub(super) fn start(
        description: &Description,
        track: &TrackInfo,
        settings: &Settings,
        output: OutputFn,
    ) -> Result<Self, PipelineError> {
        let Elements {
            bin,
            mux,
            sink,
            src,
        } = description.build()?;
        mux.set_property("part-duration", nanoseconds(settings.part_duration));
        mux.set_property("segment-duration", nanoseconds(settings.segment_duration));
        mux.set_property("track-id", settings.track_id.max(1));
        // Buffers cannot carry negative times, so the offset is already in what is pushed.
        mux.set_property("start-offset", 0_u64);

        let shared = Arc::new(Shared {
            output: Mutex::new(output),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drained: Mutex::new(false),
            wake: Condvar::new(),
        });
        let pipeline = gst::Pipeline::new();
        watch_bus(&pipeline, &shared);
        let wrong = |what: &str| description.wrong(what.to_owned());
        pipeline
            .add(&bin)
            .map_err(|_| wrong("the bin cannot be added to a pipeline"))?;
        let input = input_pad(&shared);
        let end = output_pad(&shared);
        input
            .link(&sink)
            .and_then(|_| src.link(&end))
            .map_err(|error| wrong(&format!("its ends cannot be linked: {error}")))?;
        let this = Self {
            codec: track.codec,
            pipeline,
            mux,
            input,
            shared,
        };
        let started = end
            .set_active(true)
            .and_then(|()| this.input.set_active(true))
            .is_ok()
            && this.pipeline.set_state(gst::State::Playing).is_ok();
        if !started {
            return Err(this.failed("it cannot be started"));
        }
        this.input
            .push_event(gst::event::StreamStart::new(track.codec.as_str()));
        this.input
            .push_event(gst::event::Caps::new(&rtp::caps(track)));
        this.push_segment();
        this.check()?;
        Ok(this)
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
        let buffer = rtp::buffer(packet, gst::ClockTime::from_nseconds(time), after_loss);
        match self.input.push(buffer) {
            Ok(_) => self.check(),
            Err(flow) => Err(self.failed(&format!("it takes no more packets ({flow})"))),
        }
    }

    /// Closes the part in hand, because nothing has come for a while. The timeline goes on where it ended if the pause
    /// turns out to be short.
    ///
    /// # Errors
    /// The pipeline has failed.
    pub fn end_part(&mut self) -> Result<(), PipelineError> {
        self.check()?;
        self.mux.emit_by_name::<()>(mux::END_PART, &[]);
        self.check()
    }

    /// Closes the part in hand, because what follows does not continue it. The next part starts with a keyframe, a new
    /// segment and `discontinuity`.
    ///
    /// # Errors
    /// The pipeline has failed, or does not drain.
    pub fn discontinuity(&mut self) -> Result<(), PipelineError> {
        self.drain()?;
        self.input.push_event(gst::event::FlushStart::new());
        self.input.push_event(gst::event::FlushStop::new(true));
        self.push_segment();
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
        self.shared.draining.store(true, Ordering::Release);
        self.input.push_event(gst::event::Eos::new());
        let (drained, _) = self
            .shared
            .wake
            .wait_timeout_while(lock(&self.shared.drained), DRAIN_TIMEOUT, |d| !*d)
            .unwrap_or_else(PoisonError::into_inner);
        self.shared.draining.store(false, Ordering::Release);
        if !*drained {
            return Err(PipelineError::Stuck(self.codec));
        }
        drop(drained);
        self.check()
    }

    fn push_segment(&self) {
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        self.input.push_event(gst::event::Segment::new(&segment));
    }

    fn check(&self) -> Result<(), PipelineError> {
        if self.shared.failed.load(Ordering::Acquire) {
            Err(self.failed("an element failed"))
        } else {
            Ok(())
        }
    }

    /// The error that was reported first, or else `message`.
    fn failed(&self, message: &str) -> PipelineError {
        let reported = lock(&self.shared.failure);
        PipelineError::Failed {
            codec: self.codec,
            message: reported.as_deref().unwrap_or(message).to_owned(),
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // GStreamer defines going down to NULL as always succeeding.
        let _ = self.pipeline.set_state(gst::State::Null);
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("codec", &self.codec)
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
            init_segment(pad, buffer)
        } else {
            part(buffer)
        };
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

fn output_pad(shared: &Arc<Shared>) -> gst::Pad {
    let taker = Arc::clone(shared);
    let shared = Arc::clone(shared);
    gst::Pad::builder(gst::PadDirection::Sink)
        .name("boxes")
        .chain_function(move |pad, _, buffer| taker.take(pad, buffer))
        .event_function(move |_, _, event| {
            if event.type_() == gst::EventType::Eos {
                *lock(&shared.drained) = true;
                shared.wake.notify_all();
            }
            true
        })
        .build()
}

fn watch_bus(pipeline: &gst::Pipeline, shared: &Arc<Shared>) {
    let Some(bus) = pipeline.bus() else { return };
    let shared = Arc::clone(shared);
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => {
                let text = error_text(error);
                if shared.draining.load(Ordering::Acquire)
                    && error.error().matches(gst::StreamError::WrongType)
                {
                    tracing::debug!("while draining: {text}");
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

fn init_segment(pad: &gst::Pad, buffer: gst::Buffer) -> Option<Output> {
    let caps = pad.current_caps()?;
    let structure = caps.structure(0)?;
    let size = |name: &str| structure.get::<u32>(name).ok();
    Some(Output::Init(InitSegment {
        bytes: bytes(buffer)?,
        codecs: structure.get("codecs").ok()?,
        timescale: structure.get("timescale").ok()?,
        resolution: size("width").zip(size("height")),
        channels: size("channels")
            .and_then(|c| u8::try_from(c).ok())
            .unwrap_or(0),
    }))
}

fn part(buffer: gst::Buffer) -> Option<Output> {
    let meta = PartMeta::of(&buffer)?;
    Some(Output::Part(Part {
        bytes: bytes(buffer)?,
        decode_time: meta.decode_time,
        presentation_time: meta.presentation_time,
        duration: meta.duration,
        samples: meta.samples,
        independent: meta.independent,
        starts_segment: meta.starts_segment,
        discontinuity: meta.discontinuity,
    }))
}

/// The buffer's memory, without a copy.
fn bytes(buffer: gst::Buffer) -> Option<Bytes> {
    Some(Bytes::from_owner(
        buffer.into_mapped_buffer_readable().ok()?,
    ))
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// What is behind these locks stays valid when a thread panics while holding one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
