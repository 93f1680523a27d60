//! A picture of a stream as a JPEG file, decoded from a keyframe as viewers get it.
//!
//! Unlike the pipelines of tracks, one of these lives for a single picture and has threads of its own; it decodes what a
//! publisher sent, so the time it may take is limited.

use std::{
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    time::Duration,
};

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::{
    Pipelines, Text,
    description::{Description, error_text},
    error::PipelineError,
};
use crate::media::{Codec, InitSegment};

/// What every JPEG file begins with.
const START_OF_IMAGE: [u8; 2] = [0xff, 0xd8];

/// What a text was made into.
pub(super) struct Elements {
    pub(super) bin: gst::Bin,
    media: gst_app::AppSrc,
    picture: gst_app::AppSink,
}

/// Makes the elements and checks that the ends are there.
pub(super) fn elements(description: &Description) -> Result<Elements, PipelineError> {
    let bin = description.parse(false)?;
    let missing = |what: &str| description.wrong(format!("there is no `{what}`"));
    Ok(Elements {
        media: bin
            .by_name("media")
            .and_downcast()
            .ok_or_else(|| missing("appsrc name=media"))?,
        picture: bin
            .by_name("picture")
            .and_downcast()
            .ok_or_else(|| missing("appsink name=picture"))?,
        bin,
    })
}

impl Pipelines {
    /// The first picture of `part` as a JPEG file, scaled down to what the text says (640 pixels wide). `part` is a `moof`
    /// and its `mdat` of the track that `init` begins, and starts with a keyframe.
    ///
    /// Blocks the calling thread, for `limit` at most unless a decoder does not return from a call.
    ///
    /// # Errors
    /// [`PipelineError::MissingElements`] when this machine has no decoder of that codec, [`PipelineError::NoText`] for a
    /// codec without a text, [`PipelineError::Failed`] when nothing can be decoded, [`PipelineError::Stuck`] when it takes
    /// too long.
    pub fn poster(
        &self,
        init: &InitSegment,
        part: Bytes,
        limit: Duration,
    ) -> Result<Bytes, PipelineError> {
        let text = Text::Poster(codec(&init.codecs));
        if let Some((_, elements)) = self.lacking.iter().find(|(lacking, _)| *lacking == text) {
            return Err(PipelineError::MissingElements(elements.clone()));
        }
        let description = self.description(text)?;
        let failed = |message: String| PipelineError::Failed { text, message };
        let Elements {
            bin,
            media,
            picture,
        } = elements(&description)?;

        let (outcome, waiting) = sync_channel(1);
        receive(&picture, &outcome);
        let pipeline = Running::start(&bin, outcome).map_err(failed)?;
        for bytes in [init.bytes.clone(), part] {
            media
                .push_buffer(gst::Buffer::from_slice(bytes))
                .map_err(|error| failed(format!("it takes no media: {error}")))?;
        }
        media
            .end_of_stream()
            .map_err(|error| failed(format!("it takes no media: {error}")))?;
        let outcome = match waiting.recv_timeout(limit) {
            Ok(outcome) => outcome.map_err(failed),
            Err(RecvTimeoutError::Timeout) => Err(PipelineError::Stuck(text)),
            Err(RecvTimeoutError::Disconnected) => Err(failed("it went away".to_owned())),
        };
        drop(pipeline);
        outcome
    }
}

/// What the first part of an RFC 6381 codecs string says.
fn codec(codecs: &str) -> Codec {
    match codecs.split('.').next() {
        Some("hvc1" | "hev1") => Codec::H265,
        Some("av01") => Codec::Av1,
        Some("vp09") => Codec::Vp9,
        _ => Codec::H264,
    }
}

/// Of all that comes, only the first counts, and a sender does not wait.
type Outcome = SyncSender<Result<Bytes, String>>;

fn receive(picture: &gst_app::AppSink, outcome: &Outcome) {
    let (sample, end) = (outcome.clone(), outcome.clone());
    picture.set_property("sync", false);
    picture.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |picture| {
                let sample_pulled = picture.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let bytes = sample_pulled
                    .buffer_owned()
                    .and_then(|buffer| buffer.into_mapped_buffer_readable().ok())
                    .map(Bytes::from_owner)
                    .filter(|bytes| bytes.starts_with(&START_OF_IMAGE));
                let made = bytes.ok_or_else(|| "what comes out is no JPEG file".to_owned());
                drop(sample.try_send(made));
                Err(gst::FlowError::Eos)
            })
            .eos(move |_| {
                let nothing = "no picture came out of the decoder".to_owned();
                drop(end.try_send(Err(nothing)));
            })
            .build(),
    );
}

/// A pipeline that is stopped when this is dropped.
struct Running(gst::Pipeline);

impl Running {
    fn start(bin: &gst::Bin, outcome: Outcome) -> Result<Self, String> {
        let running = Self(gst::Pipeline::new());
        if let Some(bus) = running.0.bus() {
            bus.set_sync_handler(move |_, message| {
                if let gst::MessageView::Error(error) = message.view() {
                    drop(outcome.try_send(Err(error_text(error))));
                }
                gst::BusSyncReply::Drop
            });
        }
        running.0.add(bin).map_err(|error| error.to_string())?;
        match running.0.set_state(gst::State::Playing) {
            Ok(_) => Ok(running),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_state(gst::State::Null) {
            tracing::debug!("a poster pipeline does not stop: {error}");
        }
        if let Some(bus) = self.0.bus() {
            bus.unset_sync_handler();
        }
    }
}
