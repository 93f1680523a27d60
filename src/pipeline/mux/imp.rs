//! The element: pads, properties, events. Decides nothing about media itself.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gst::{glib, prelude::*, subclass::prelude::*};
use gstreamer as gst;

use super::{
    END_PART, FILL_SILENCE,
    format::{self, Input, TrackFormat},
    fragment::{AccessUnit, Fragment, Fragmenter, Taken, ticks},
    output,
    settings::Settings,
    silence::Silence,
};

/// While no keyframe comes, one is asked for this often (of media time).
const ASK_AGAIN_NS: i64 = 1_000_000_000;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        super::FACTORY,
        gst::DebugColorFlags::empty(),
        Some("whipgate CMAF mux"),
    )
});

#[derive(Debug, Default)]
struct State {
    segment: gst::FormattedSegment<gst::ClockTime>,
    input: Option<Input>,
    track: Option<Track>,
    /// Media time of the last request for a keyframe; `None` while none is missing.
    asked_at: Option<i64>,
    silence: Silence,
}

/// What exists from the first keyframe on.
#[derive(Debug)]
struct Track {
    format: TrackFormat,
    fragmenter: Fragmenter<gst::Buffer>,
    timescale: u32,
}

/// What leaves the element once its state is unlocked again.
enum Outgoing {
    Init(gst::Caps, gst::Buffer),
    Part(gst::Buffer),
    AskForKeyframe,
}

#[derive(Debug, glib::Properties)]
#[properties(wrapper_type = super::Mux)]
pub(crate) struct Mux {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    #[property(name = "part-duration", get, set, type = u64, member = part_duration, minimum = 1_000_000,
        default = 200_000_000, nick = "Part duration", blurb = "Longest part, in nanoseconds")]
    #[property(name = "segment-duration", get, set, type = u64, member = segment_duration, minimum = 1_000_000,
        default = 2_000_000_000, nick = "Segment duration", blurb = "Wanted length of a segment, in nanoseconds")]
    #[property(name = "start-offset", get, set, type = u64, member = start_offset,
        nick = "Start offset", blurb = "Added to every running time, so that decode times before the first presentation time are not negative, in nanoseconds")]
    #[property(name = "encoder-delay", get, set, type = u64, member = encoder_delay,
        nick = "Encoder delay", blurb = "How much the encoder in front puts before the sound it is given (priming); taken off every running time, in nanoseconds")]
    #[property(name = "segment-origin", get, set, type = u64, member = segment_origin, default = u64::MAX,
        nick = "Segment origin", blurb = "Where a segment of sound starts; the others start multiples of segment-duration before and after, in nanoseconds with the offset (18446744073709551615 = at the first sound)")]
    #[property(name = "timescale", get, set, type = u32, member = timescale,
        nick = "Timescale", blurb = "Ticks per second of the track (0 = 90000 for video, 48000 for audio)")]
    #[property(name = "track-id", get, set, type = u32, member = track_id, minimum = 1, default = 1,
        nick = "Track id", blurb = "track_ID in every box")]
    settings: Mutex<Settings>,
    state: Mutex<State>,
}

#[glib::object_subclass]
impl ObjectSubclass for Mux {
    const NAME: &'static str = "WhipgateMux";
    type Type = super::Mux;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let pad = |name: &str, direction| match class.pad_template(name) {
            Some(template) => gst::Pad::builder_from_template(&template),
            None => gst::Pad::builder(direction).name(name),
        };
        Self {
            sinkpad: pad("sink", gst::PadDirection::Sink)
                .chain_function(|_, parent, buffer| {
                    Self::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |mux| mux.chain(buffer),
                    )
                })
                .event_function(|pad, parent, event| {
                    Self::catch_panic_pad_function(
                        parent,
                        || false,
                        |mux| mux.sink_event(pad, event),
                    )
                })
                .build(),
            srcpad: pad("src", gst::PadDirection::Src).build(),
            settings: Mutex::default(),
            state: Mutex::default(),
        }
    }
}

#[glib::derived_properties]
impl ObjectImpl for Mux {
    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.sinkpad, &self.srcpad] {
            if let Err(error) = self.obj().add_pad(pad) {
                gst::error!(CAT, imp = self, "cannot add a pad: {error}");
            }
        }
    }

    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(|| {
            vec![
                glib::subclass::Signal::builder(END_PART)
                    .action()
                    .class_handler(|args| {
                        if let Some(mux) = args.first().and_then(|v| v.get::<super::Mux>().ok()) {
                            mux.imp().end_part();
                        }
                        None
                    })
                    .build(),
                glib::subclass::Signal::builder(FILL_SILENCE)
                    .param_types([u64::static_type()])
                    .action()
                    .class_handler(|args| {
                        let mux = args.first().and_then(|v| v.get::<super::Mux>().ok());
                        let until = args.get(1).and_then(|v| v.get::<u64>().ok());
                        if let Some((mux, until)) = mux.zip(until) {
                            mux.imp().fill_silence(until);
                        }
                        None
                    })
                    .build(),
            ]
        });
        &SIGNALS
    }
}

impl GstObjectImpl for Mux {}

impl ElementImpl for Mux {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Whipgate CMAF mux",
                "Codec/Muxer",
                "Cuts one track into CMAF parts and segments for low-latency HLS and recording",
                "whipgate",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            [
                ("sink", gst::PadDirection::Sink, format::accepted()),
                ("src", gst::PadDirection::Src, output::made()),
            ]
            .into_iter()
            .filter_map(|(name, direction, caps)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).ok()
            })
            .collect()
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToReady {
            *self.state() = State::default();
        }
        result
    }
}

impl Mux {
    // A panic while locked has already ended this pipeline; the state is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let outgoing = self.take(buffer)?;
        self.send(outgoing)
    }

    /// Takes one access unit. Returns what has to leave the element because of it.
    fn take(&self, buffer: gst::Buffer) -> Result<Vec<Outgoing>, gst::FlowError> {
        let mut state = self.state();
        let state = &mut *state;
        let Some(input) = &state.input else {
            gst::element_imp_error!(self, gst::CoreError::Negotiation, ["buffer before caps"]);
            return Err(gst::FlowError::NotNegotiated);
        };
        let mut outgoing = Vec::new();
        let Some((decode_time, presentation_time)) = self.times(&state.segment, &buffer) else {
            gst::warning!(CAT, imp = self, "dropping {buffer:?}: no timestamp");
            return Ok(outgoing);
        };
        let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let delta = buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let sync = input.is_sync(&map, delta);
        let prefix = input.prefix_len(&map);
        if sync
            && let Some(format) = input.format_at(&map)
            && state.track.as_ref().is_none_or(|t| t.format != format)
        {
            if let Some(track) = &mut state.track {
                let mut fragments = Vec::new();
                track.fragmenter.close(Some(decode_time), &mut fragments);
                self.write_parts(&fragments, track.timescale, &mut outgoing)?;
            }
            let track = self.new_track(format, input.is_video());
            outgoing.push(self.write_init(&track)?);
            state.track = Some(track);
        }
        if !input.is_video()
            && let Some(track) = &mut state.track
        {
            let time = ticks(decode_time, track.timescale);
            let nominal = input.nominal_duration(&map, track.timescale).unwrap_or(0);
            if state.silence.covers(time, nominal, track.timescale) {
                gst::debug!(
                    CAT,
                    imp = self,
                    "dropping {buffer:?}: silence is there already"
                );
                return Ok(outgoing);
            }
            let mut fragments = Vec::new();
            let fragmenter = &mut track.fragmenter;
            state
                .silence
                .fill_gap(fragmenter, track.timescale, time, &mut fragments);
            self.write_parts(&fragments, track.timescale, &mut outgoing)?;
        }
        let taken = match &mut state.track {
            None => Taken::No,
            Some(track) => {
                let nominal = input.nominal_duration(&map, track.timescale);
                drop(map);
                let data = if prefix > 0 {
                    buffer
                        .copy_region(gst::BufferCopyFlags::MEMORY, prefix..)
                        .map_err(|_| gst::FlowError::Error)?
                } else {
                    buffer
                };
                let unit = AccessUnit {
                    decode_time,
                    presentation_time,
                    nominal,
                    sync,
                    size: u32::try_from(data.size()).map_err(|_| gst::FlowError::Error)?,
                    data,
                };
                let mut fragments = Vec::new();
                let taken = track.fragmenter.push(unit, &mut fragments);
                self.write_parts(&fragments, track.timescale, &mut outgoing)?;
                taken
            }
        };
        let ask = match taken {
            Taken::Yes => {
                state.asked_at = None;
                false
            }
            Taken::WithoutKeyframe => true,
            Taken::No => state
                .asked_at
                .is_none_or(|at| (decode_time - at).abs() >= ASK_AGAIN_NS),
        };
        if ask {
            state.asked_at = Some(decode_time);
            outgoing.push(Outgoing::AskForKeyframe);
        }
        Ok(outgoing)
    }

    /// Decode and presentation time in nanoseconds of running time, plus the offset. Signed, because the timestampers
    /// of GStreamer move their segment by 1000 hours to make room for decode times before it.
    fn times(
        &self,
        segment: &gst::FormattedSegment<gst::ClockTime>,
        buffer: &gst::BufferRef,
    ) -> Option<(i64, i64)> {
        let offset = self.settings().offset()?;
        let running = |time: Option<gst::ClockTime>| {
            let ns = match segment.to_running_time_full(time?)? {
                gst::Signed::Positive(time) => i64::try_from(time.nseconds()).ok()?,
                gst::Signed::Negative(time) => -i64::try_from(time.nseconds()).ok()?,
            };
            ns.checked_add(offset)
        };
        let presentation = running(buffer.pts());
        let decode = running(buffer.dts()).or(presentation)?;
        Some((decode, presentation.unwrap_or(decode)))
    }

    fn new_track(&self, format: TrackFormat, video: bool) -> Track {
        let (fragmenter, timescale) = self.settings().fragmenter(video);
        Track {
            format,
            fragmenter,
            timescale,
        }
    }

    fn write_init(&self, track: &Track) -> Result<Outgoing, gst::FlowError> {
        let track_id = self.settings().track_id;
        output::init(&track.format, track_id, track.timescale)
            .map(|(caps, buffer)| Outgoing::Init(caps, buffer))
            .map_err(|error| self.write_error(&error))
    }

    fn write_parts(
        &self,
        fragments: &[Fragment<gst::Buffer>],
        timescale: u32,
        outgoing: &mut Vec<Outgoing>,
    ) -> Result<(), gst::FlowError> {
        let track_id = self.settings().track_id;
        for fragment in fragments {
            let buffer = output::part(fragment, track_id, timescale)
                .map_err(|error| self.write_error(&error))?;
            outgoing.push(Outgoing::Part(buffer));
        }
        Ok(())
    }

    fn write_error(&self, error: &output::WriteError) -> gst::FlowError {
        gst::element_imp_error!(self, gst::StreamError::Mux, ["{error}"]);
        gst::FlowError::Error
    }

    fn send(&self, outgoing: Vec<Outgoing>) -> Result<gst::FlowSuccess, gst::FlowError> {
        for outgoing in outgoing {
            match outgoing {
                Outgoing::Init(caps, buffer) => {
                    self.srcpad.push_event(gst::event::Caps::new(&caps));
                    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
                    self.srcpad.push_event(gst::event::Segment::new(&segment));
                    self.srcpad.push(buffer)?;
                }
                Outgoing::Part(buffer) => {
                    self.srcpad.push(buffer)?;
                }
                Outgoing::AskForKeyframe => {
                    let event = gstreamer_video::UpstreamForceKeyUnitEvent::builder()
                        .all_headers(true)
                        .build();
                    self.sinkpad.push_event(event);
                }
            }
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        use gst::EventView;

        match event.view() {
            EventView::Caps(caps) => match Input::from_caps(caps.caps()) {
                Ok(input) => {
                    self.state().input = Some(input);
                    true
                }
                Err(error) => {
                    gst::element_imp_error!(self, gst::StreamError::Format, ["{error}"]);
                    false
                }
            },
            EventView::Segment(segment) => {
                match segment.segment().clone().downcast::<gst::ClockTime>() {
                    Ok(segment) => {
                        self.state().segment = segment;
                        true
                    }
                    Err(segment) => {
                        gst::element_imp_error!(
                            self,
                            gst::CoreError::Event,
                            ["segment in {:?}, not in time", segment.format()]
                        );
                        false
                    }
                }
            }
            EventView::Eos(_) => {
                if let Err(flow) = self.close() {
                    gst::debug!(CAT, imp = self, "last part: {flow}");
                }
                gst::Pad::event_default(pad, Some(&*self.obj()), event)
            }
            EventView::FlushStop(_) => {
                let mut state = self.state();
                if let Some(track) = &mut state.track {
                    track.fragmenter.flush();
                }
                state.asked_at = None;
                drop(state);
                gst::Pad::event_default(pad, Some(&*self.obj()), event)
            }
            EventView::StreamStart(_)
            | EventView::FlushStart(_)
            | EventView::CustomDownstream(_)
            | EventView::CustomDownstreamOob(_) => {
                gst::Pad::event_default(pad, Some(&*self.obj()), event)
            }
            // Gaps need nothing: the access unit before one lasts until the next. Tags and the like mean the input.
            _ => true,
        }
    }

    fn close(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.with_track(|track, _, fragments| track.fragmenter.close(None, fragments))
    }

    fn end_part(&self) {
        let _lock = self.sinkpad.stream_lock();
        // The next access unit meets the same flow and returns it.
        if let Err(flow) = self.with_track(|track, _, out| track.fragmenter.pause(out)) {
            gst::debug!(CAT, imp = self, "ending a part: {flow}");
        }
    }

    /// Goes on with silence up to `until`, in nanoseconds of running time.
    fn fill_silence(&self, until: u64) {
        let _lock = self.sinkpad.stream_lock();
        let until = until.saturating_add(self.settings().start_offset);
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        let filled = self.with_track(|track, silence, fragments| {
            if track.format.resolution.is_none() {
                let time = ticks(until, track.timescale);
                silence.go_on(&mut track.fragmenter, track.timescale, time, fragments);
            }
        });
        // The next access unit meets the same flow and returns it.
        if let Err(flow) = filled {
            gst::debug!(CAT, imp = self, "filling with silence: {flow}");
        }
    }

    /// Does something to the track, if there is one yet, and sends what comes out.
    fn with_track(
        &self,
        action: impl FnOnce(&mut Track, &mut Silence, &mut Vec<Fragment<gst::Buffer>>),
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut outgoing = Vec::new();
        let mut state = self.state();
        let State { track, silence, .. } = &mut *state;
        if let Some(track) = track {
            let mut fragments = Vec::new();
            action(track, silence, &mut fragments);
            self.write_parts(&fragments, track.timescale, &mut outgoing)?;
        }
        drop(state);
        self.send(outgoing)
    }
}
