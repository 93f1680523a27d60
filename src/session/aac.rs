//! The AAC of one audio track, made from the same packets as its Opus while viewers ask for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    media::{Codec, InitSegment, Part, RtpPacket, TrackIndex, TrackInfo},
    pipeline::{self, Output, Pipeline, PipelineError, Pipelines},
};

/// AAC that failed this often within one publication stays off.
const MAX_FAILURES: u32 = 5;

/// An Opus packet of 20 ms without sound (RFC 6716 section 3.1: one CELT frame, fullband, mono).
const SILENCE: &[u8] = &[0xf8, 0xff, 0xfe];
const SILENCE_NANOS: i64 = 20_000_000;

/// What comes of it, in order.
#[derive(Debug)]
pub(super) enum Made {
    /// The next parts need this init segment.
    Init(InitSegment),
    /// A part, and its earliest presentation time in ns from the stream's zero.
    Part(Part, i64),
    /// Nothing of what was made continues any more.
    Left,
}

/// Makes AAC of one track, or does not.
#[derive(Debug)]
pub(super) struct Aac {
    /// The track it is made of.
    pub(super) track: TrackIndex,
    info: TrackInfo,
    pipeline: Option<Pipeline>,
    collector: Arc<Mutex<Vec<Output>>>,
    timescale: u32,
    wanted: bool,
    failures: u32,
    /// The newest packet, without its payload, and its presentation time in ns.
    newest: Option<(RtpPacket, i64)>,
    /// Where the track's own segments start (with the offset), once one has: those of AAC follow it.
    segment_origin: Option<Duration>,
}

impl Aac {
    pub(super) fn new(track: TrackIndex, info: TrackInfo) -> Self {
        Self {
            track,
            timescale: info.clock_rate,
            info,
            pipeline: None,
            collector: Arc::default(),
            wanted: false,
            failures: 0,
            newest: None,
            segment_origin: None,
        }
    }

    /// Whether somebody plays it. It begins with the next packet, and ends at once.
    pub(super) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        if !wanted && self.pipeline.take().is_some() {
            self.take_outputs().clear();
            tracing::info!("nobody plays AAC any more");
        }
    }

    /// The track itself began a segment at this time, with the offset.
    pub(super) fn segment(&mut self, at: Duration) {
        self.segment_origin = Some(at);
    }

    /// The next packet of the track.
    pub(super) fn packet(
        &mut self,
        pipelines: &Pipelines,
        settings: &pipeline::Settings,
        packet: &RtpPacket,
        pts: i64,
        after_loss: bool,
    ) -> Vec<Made> {
        if self.wanted && self.pipeline.is_none() {
            self.start(pipelines, settings);
        }
        let header = RtpPacket {
            payload: Bytes::new(),
            ..packet.clone()
        };
        self.newest = Some((header, pts));
        self.drive(|pipeline| pipeline.push(packet, pts, after_loss))
    }

    /// Sound has stopped: goes on with silence up to `until`, a presentation time in ns. Other codecs than Opus have none
    /// that could be put in; their gap is filled when sound returns.
    pub(super) fn fill_silence(&mut self, until: i64) -> Vec<Made> {
        let mut made = Vec::new();
        while self.pipeline.is_some()
            && self.info.codec == Codec::Opus
            && let Some((packet, pts)) = &mut self.newest
            && *pts + 2 * SILENCE_NANOS <= until
        {
            *pts += SILENCE_NANOS;
            packet.sequence_number = packet.sequence_number.wrapping_add(1);
            packet.timestamp = packet.timestamp.wrapping_add(960);
            let (mut packet, pts) = (packet.clone(), *pts);
            packet.payload = Bytes::from_static(SILENCE);
            made.extend(self.drive(|pipeline| pipeline.push(&packet, pts, false)));
        }
        made
    }

    /// What follows does not continue what there is: the track's timestamps jumped, or nothing came for a while.
    pub(super) fn discontinuity(&mut self) -> Vec<Made> {
        self.segment_origin = None;
        self.newest = None;
        self.drive(Pipeline::discontinuity)
    }

    /// The publication is over: everything comes out.
    pub(super) fn finish(&mut self) -> Vec<Made> {
        if let Some(Err(error)) = self.pipeline.take().map(Pipeline::finish) {
            tracing::debug!(%error, "the AAC pipeline did not finish cleanly");
        }
        self.collect()
    }

    /// Not before the track's own segments are known: AAC that is cut otherwise would be of no use beside them.
    fn start(&mut self, pipelines: &Pipelines, settings: &pipeline::Settings) {
        let Some(origin) = self.segment_origin else {
            return;
        };
        if self.failures >= MAX_FAILURES {
            return;
        }
        let collector = Arc::clone(&self.collector);
        let started = pipelines.start_aac(&self.info, settings, Some(origin), move |output| {
            collector
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(output);
        });
        match started {
            Ok(pipeline) => {
                tracing::info!("somebody plays AAC: it is made from now on");
                self.pipeline = Some(pipeline);
            }
            Err(error) => {
                tracing::error!(%error, "no AAC can be made");
                self.failures = MAX_FAILURES;
            }
        }
    }

    fn drive(
        &mut self,
        action: impl FnOnce(&mut Pipeline) -> Result<(), PipelineError>,
    ) -> Vec<Made> {
        let Some(pipeline) = &mut self.pipeline else {
            return Vec::new();
        };
        let outcome = action(pipeline);
        let mut made = self.collect();
        if let Err(error) = outcome {
            tracing::warn!(%error, "the AAC pipeline failed");
            self.pipeline = None;
            self.failures += 1;
            made.push(Made::Left);
        }
        made
    }

    fn take_outputs(&self) -> Vec<Output> {
        std::mem::take(
            &mut *self
                .collector
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn collect(&mut self) -> Vec<Made> {
        let mut made = Vec::new();
        for output in self.take_outputs() {
            match output {
                Output::Init(init) => {
                    self.timescale = init.timescale;
                    made.push(Made::Init(init));
                }
                Output::Part(part) => {
                    let pts = pipeline::presentation_nanos(&part, self.timescale);
                    made.push(Made::Part(part, pts));
                }
                Output::KeyframeWanted => {}
            }
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Text;

    #[test]
    fn it_goes_on_while_sound_is_missing() {
        let pipelines = Pipelines::load_only(None, &[Text::Aac(Codec::Opus)]).unwrap();
        let settings = pipeline::Settings {
            part_duration: Duration::from_millis(200),
            segment_duration: Duration::from_secs(2),
            track_id: 2,
        };
        let info = TrackInfo {
            codec: Codec::Opus,
            payload_type: 111,
            clock_rate: 48_000,
            channels: 2,
            fmtp: String::new(),
            mid: "0".to_owned(),
        };
        let mut aac = Aac::new(0, info);
        aac.want(true);
        aac.segment(pipeline::START_OFFSET);
        let packet = |n: u16| RtpPacket {
            payload_type: 111,
            marker: false,
            sequence_number: n,
            timestamp: u32::from(n) * 960,
            ssrc: 1,
            payload: Bytes::from_static(SILENCE),
        };
        let mut made = Vec::new();
        for n in 0..50 {
            made.extend(aac.packet(
                &pipelines,
                &settings,
                &packet(n),
                i64::from(n) * SILENCE_NANOS,
                false,
            ));
        }
        for step in 1..=40 {
            made.extend(aac.fill_silence(1_000_000_000 + step * 50_000_000));
        }
        // What was filled is not there a second time when sound returns.
        for n in 150..200 {
            made.extend(aac.packet(
                &pipelines,
                &settings,
                &packet(n),
                i64::from(n) * SILENCE_NANOS,
                false,
            ));
        }
        made.extend(aac.finish());
        let mut end = None;
        let mut total = 0;
        for part in made.iter().filter_map(|made| match made {
            Made::Part(part, _) => Some(part),
            _ => None,
        }) {
            assert!(end.is_none_or(|end| end == part.decode_time), "{part:?}");
            end = Some(part.decode_time + part.duration);
            total += part.duration;
        }
        // Four seconds, and what the encoder adds: less than two frames of 1024 samples.
        assert!((192_000..194_048).contains(&total), "{total}");
    }
}
