//! What comes out of a running pipeline: its two ends, its bus, and the state they share with whoever pushes.
//!
//! Everything here runs on the thread that pushes, from within GStreamer: nothing may unwind, and errors are kept until
//! the push returns.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use gst::prelude::*;
use gstreamer as gst;

use super::{Output, description::error_text, made};
use crate::media::InitSegment;

/// Called with everything that comes out.
pub(super) type OutputFn = Box<dyn FnMut(Output) + Send>;

/// What the pads and the bus reach.
pub(super) struct Shared {
    pub(super) output: Mutex<OutputFn>,
    /// A chain that replaces another one begins with an initialization segment, too: it is news only if it differs.
    pub(super) last_init: Mutex<Option<InitSegment>>,
    pub(super) failure: Mutex<Option<String>>,
    pub(super) failed: AtomicBool,
    /// Something has come out of the chain in place.
    pub(super) flowing: AtomicBool,
    /// The last thing an element said about the stream itself. Depayloaders complain about single packets and go on;
    /// a parser that has seen nothing complains about the end of the stream. It counts only when buffers are refused.
    pub(super) complaint: Mutex<Option<String>>,
    pub(super) drained: Mutex<bool>,
    pub(super) wake: Condvar,
}

impl Shared {
    pub(super) fn new(output: OutputFn) -> Self {
        Self {
            output: Mutex::new(output),
            last_init: Mutex::new(None),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            flowing: AtomicBool::new(false),
            complaint: Mutex::new(None),
            drained: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    pub(super) fn fail(&self, message: String) {
        lock(&self.failure).get_or_insert(message);
        self.failed.store(true, Ordering::Release);
    }

    /// Hands something to the owner. A panic there must not unwind into GStreamer.
    pub(super) fn emit(&self, output: Output) -> bool {
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

pub(super) fn input_pad(shared: &Arc<Shared>) -> gst::Pad {
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

pub(super) fn output_pad(shared: &Arc<Shared>) -> Result<gst::Pad, gst::glib::BoolError> {
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

pub(super) fn watch_bus(pipeline: &gst::Pipeline, shared: &Arc<Shared>) {
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

/// What is behind these locks stays valid when a thread panics while holding one.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
