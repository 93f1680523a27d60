//! What wrong texts and broken streams do, and to whom.

use std::{fs, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use bytes::Bytes;
use gstreamer::{self as gst, glib, prelude::*, subclass::prelude::*};
use proptest::prelude::*;
use whipgate::{
    media::{Codec, MediaKind, RtpPacket},
    pipeline::{PipelineError, Pipelines, Text},
};

use crate::{
    Running, SETTINGS,
    boxes::read_parts,
    media::{self, Video},
};

/// Loads a directory with one text in it.
fn load(codec: Codec, text: &str) -> Result<Pipelines, PipelineError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{codec}.launch")), text).unwrap();
    Pipelines::load(Some(dir.path()))
}

#[test]
fn a_directory_overrides_the_texts_that_are_in_it() {
    let pipelines = load(
        Codec::Opus,
        "# mine\nrtpopusdepay ! identity silent=true ! queue name=q ! whipgatemux name=mux\n",
    )
    .unwrap();
    let origin = |text| {
        let found = pipelines.origins().find(|(t, _)| *t == text);
        found.expect("every text has an origin").1.to_owned()
    };
    assert_eq!(origin(Text::Main(Codec::H264)), "built-in h264.launch");
    let mine = origin(Text::Main(Codec::Opus));
    assert!(mine.ends_with("/opus.launch"), "{mine}");
    // The queue makes it asynchronous, and still everything comes out.
    let media = media::opus(40);
    let mut running = Running::start(&pipelines, &media, &SETTINGS);
    running.push(&media).unwrap();
    let collected = running.finish();
    assert_eq!(
        read_parts(collected.single().1, 1).len(),
        media.packets.len()
    );
}

#[test]
fn all_missing_elements_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("h264.launch"),
        "rtph264depay ! nosuchparse ! nosuchtimestamper ! whipgatemux name=mux",
    )
    .unwrap();
    fs::write(
        dir.path().join("vp9.launch"),
        "rtpvp9depay ! anothermissing ! whipgatemux name=mux",
    )
    .unwrap();
    let error = Pipelines::load(Some(dir.path())).unwrap_err();
    let PipelineError::MissingElements(missing) = &error else {
        panic!("{error}");
    };
    let names: Vec<_> = missing.iter().map(|m| m.element.as_str()).collect();
    assert_eq!(
        names,
        ["anothermissing", "nosuchparse", "nosuchtimestamper"]
    );
    assert!(error.to_string().contains("nosuchparse"), "{error}");
}

#[test]
fn wrong_texts_are_told_with_file_and_cause() {
    for (text, cause) in [
        ("rtpopusdepay colour=red ! whipgatemux name=mux", "colour"),
        (
            "rtpopusdepay ! whipgatemux name=mux timescale=much",
            "timescale",
        ),
        ("rtpopusdepay ! ! whipgatemux name=mux", "syntax"),
        ("rtpopusdepay ! fakesink name=mux", "whipgatemux name=mux"),
        ("rtpopusdepay ! whipgatemux", "whipgatemux name=mux"),
        ("audiotestsrc ! opusenc ! whipgatemux name=mux", "sink pad"),
        ("rtpopusdepay ! whipgatemux name=mux ! fakesink", "src pad"),
        ("rtpopusdepay ! h264parse ! whipgatemux name=mux", "link"),
        ("", "empty"),
    ] {
        match load(Codec::Opus, text) {
            Ok(_) => panic!("{text:?} was taken"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("opus.launch"), "{text:?}: {message}");
                assert!(
                    message.to_lowercase().contains(cause),
                    "{text:?}: {message}"
                );
            }
        }
    }
}

#[test]
fn directories_that_cannot_be_what_was_meant_are_refused() {
    let error = Pipelines::load(Some("/nonexistent".as_ref())).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("h246.launch"), "identity").unwrap();
    let error = Pipelines::load(Some(dir.path())).unwrap_err();
    assert!(
        matches!(error, PipelineError::UnknownFile { .. }),
        "{error}"
    );
}

/// Damages packets in every way a network or a bad publisher might.
fn damage(packets: &mut [(RtpPacket, i64)], seed: u64) {
    let mut state = seed | 1;
    let mut random = |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for (packet, _) in packets {
        let mut payload = packet.payload.to_vec();
        match random(12) {
            0 => payload.truncate(random(payload.len() + 1)),
            1 => payload.clear(),
            2 | 3 => {
                for _ in 0..8 {
                    let at = random(payload.len());
                    payload[at] = random(256) as u8;
                }
            }
            4 => payload.fill_with(|| random(256) as u8),
            5 => packet.marker = !packet.marker,
            _ => {}
        }
        packet.payload = Bytes::from(payload);
    }
}

#[test]
fn garbage_disturbs_nobody() {
    let pipelines = Pipelines::load(None).unwrap();
    let good = media::opus(100);
    for codec in Codec::ALL {
        let media = match codec.kind() {
            MediaKind::Audio => media::tone(codec, 100),
            MediaKind::Video => Video {
                keyframes: 10,
                ..Video::new(codec, 60)
            }
            .make(),
        };
        for seed in 0..10 {
            let mut bad = media.clone();
            damage(&mut bad.packets, seed);
            let mut neighbour = Running::start(&pipelines, &good, &SETTINGS);
            let mut running = Running::start(&pipelines, &bad, &SETTINGS);
            let mut failure = None;
            for ((packet, pts), (good, good_pts)) in
                bad.packets.iter().zip(good.packets.iter().cycle())
            {
                if failure.is_none() {
                    failure = running.pipeline.push(packet, *pts, false).err();
                }
                if *good_pts <= *pts {
                    neighbour.pipeline.push(good, *good_pts, false).unwrap();
                }
            }
            assert!(failure.is_none(), "{codec}, seed {seed}: {failure:?}");
            // Whatever came out is well formed.
            for (_, parts) in &running.finish().pieces {
                read_parts(parts, 1);
            }
            neighbour.finish();
        }
    }
}

#[test]
fn a_panicking_receiver_ends_its_own_pipeline_only() {
    let pipelines = Pipelines::load(None).unwrap();
    let media = media::opus(40);
    let mut bad = pipelines
        .start(&media.track, &SETTINGS, |_| panic!("told to"))
        .unwrap();
    let mut good = Running::start(&pipelines, &media, &SETTINGS);
    let mut errors = 0;
    for (packet, pts) in &media.packets {
        errors += usize::from(bad.push(packet, *pts, false).is_err());
        good.pipeline.push(packet, *pts, false).unwrap();
    }
    assert!(errors > 0);
    let error = bad.finish().unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    assert_eq!(
        read_parts(good.finish().single().1, 1).len(),
        media.packets.len()
    );
}

#[test]
fn a_panicking_element_ends_its_own_pipeline_only() {
    whipgate::pipeline::init().unwrap();
    gst::Element::register(
        None,
        "panicafter",
        gst::Rank::NONE,
        PanicAfter::static_type(),
    )
    .unwrap();
    let pipelines = load(
        Codec::Opus,
        "rtpopusdepay ! panicafter ! whipgatemux name=mux",
    )
    .unwrap();
    let others = Pipelines::load(None).unwrap();
    let media = media::opus(40);
    let mut bad = Running::start(&pipelines, &media, &SETTINGS);
    let mut good = Running::start(&others, &media, &SETTINGS);
    let error = bad.push(&media).unwrap_err();
    assert!(matches!(error, PipelineError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("anic"), "{error}");
    // It stays failed, and says why each time.
    let again = bad.push(&media).unwrap_err();
    assert_eq!(error.to_string(), again.to_string());
    good.push(&media).unwrap();
    assert_eq!(
        read_parts(good.finish().single().1, 1).len(),
        media.packets.len()
    );
}

#[test]
fn pipelines_leave_no_threads_behind() {
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let pipelines = Pipelines::load(None).unwrap();
    let media = Video::new(Codec::H264, 20).make();
    let before = threads();
    for round in 0..50 {
        let mut running = Running::start(&pipelines, &media, &SETTINGS);
        running.push(&media).unwrap();
        if round % 2 == 0 {
            running.finish();
        }
    }
    // Other tests run meanwhile and have threads of their own.
    assert!(threads() < before + 40, "{before} -> {}", threads());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_payload_is_survived(
        codec in proptest::sample::select(Codec::ALL.to_vec()),
        payloads in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..60), any::<bool>(), 0_u16..3), 1..40),
    ) {
        let pipelines = Pipelines::load(None).unwrap();
        let media = media::opus(1);
        let mut track = media.track;
        track.codec = codec;
        track.clock_rate = codec.clock_rate();
        let mut pipeline = pipelines.start(&track, &SETTINGS, |_| {}).unwrap();
        let mut sequence_number = 65_530_u16;
        for (index, (payload, marker, step)) in payloads.into_iter().enumerate() {
            sequence_number = sequence_number.wrapping_add(step);
            let packet = RtpPacket {
                payload_type: track.payload_type,
                marker,
                sequence_number,
                timestamp: index as u32 * 3000,
                ssrc: 1,
                payload: payload.into(),
            };
            pipeline.push(&packet, index as i64 * 33_000_000, step > 1).unwrap();
        }
        pipeline.finish().unwrap();
    }
}

glib::wrapper! {
    pub(crate) struct PanicAfter(ObjectSubclass<imp::PanicAfter>) @extends gst::Element, gst::Object;
}

/// An element that panics at its twentieth buffer.
mod imp {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct PanicAfter {
        sink: gst::Pad,
        src: gst::Pad,
        buffers: AtomicUsize,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for PanicAfter {
        const NAME: &'static str = "PanicAfter";
        type Type = super::PanicAfter;
        type ParentType = gst::Element;

        fn with_class(class: &Self::Class) -> Self {
            let template = |name| class.pad_template(name).unwrap();
            Self {
                sink: gst::Pad::builder_from_template(&template("sink"))
                    .chain_function(|_, parent, buffer| {
                        Self::catch_panic_pad_function(
                            parent,
                            || Err(gst::FlowError::Error),
                            |this| {
                                let seen = this.buffers.fetch_add(1, Ordering::Relaxed);
                                assert!(seen < 20, "told to");
                                this.src.push(buffer)
                            },
                        )
                    })
                    .event_function(|_, parent, event| {
                        Self::catch_panic_pad_function(
                            parent,
                            || false,
                            |this| this.src.push_event(event),
                        )
                    })
                    .build(),
                src: gst::Pad::from_template(&template("src")),
                buffers: AtomicUsize::new(0),
            }
        }
    }

    impl ObjectImpl for PanicAfter {
        fn constructed(&self) {
            self.parent_constructed();
            self.obj().add_pad(&self.sink).unwrap();
            self.obj().add_pad(&self.src).unwrap();
        }
    }

    impl GstObjectImpl for PanicAfter {}

    impl ElementImpl for PanicAfter {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: std::sync::LazyLock<gst::subclass::ElementMetadata> =
                std::sync::LazyLock::new(|| {
                    gst::subclass::ElementMetadata::new("Panics", "Generic", "Panics", "tests")
                });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: std::sync::LazyLock<Vec<gst::PadTemplate>> =
                std::sync::LazyLock::new(|| {
                    [
                        ("sink", gst::PadDirection::Sink),
                        ("src", gst::PadDirection::Src),
                    ]
                    .map(|(name, direction)| {
                        gst::PadTemplate::new(
                            name,
                            direction,
                            gst::PadPresence::Always,
                            &gst::Caps::new_any(),
                        )
                        .unwrap()
                    })
                    .to_vec()
                });
            &TEMPLATES
        }
    }
}
