//! The gst-launch texts: where they come from, what they must contain, and the elements they make.
//!
//! Values never become part of a text: they are set as properties on the element named `mux`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use gst::prelude::*;
use gstreamer as gst;

use super::{
    Text,
    error::{MissingElement, PipelineError},
    mux, poster,
};
use crate::media::Codec;

/// One text.
#[derive(Clone, Debug)]
pub(super) struct Description {
    made_of: Text,
    origin: String,
    text: String,
}

/// What a text was made into.
#[derive(Debug)]
pub(super) struct Elements {
    pub bin: gst::Bin,
    pub mux: gst::Element,
    /// Takes RTP packets.
    pub sink: gst::Pad,
    /// Puts out what the mux makes.
    pub src: gst::Pad,
}

/// These texts: the file in `dir` where there is one, else the built-in text.
pub(super) fn load(dir: Option<&Path>, texts: &[Text]) -> Result<Vec<Description>, PipelineError> {
    if let Some(dir) = dir {
        refuse_unknown_files(dir)?;
    }
    texts
        .iter()
        .map(|text| match dir {
            Some(dir) => Description::read(*text, &dir.join(format!("{text}.launch"))),
            None => Ok(Description::built_in(*text)),
        })
        .collect()
}

/// A misspelt file name would otherwise be passed over in silence.
fn refuse_unknown_files(dir: &Path) -> Result<(), PipelineError> {
    let unreadable = |source| PipelineError::Read {
        path: dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path: PathBuf = entry.map_err(unreadable)?.path();
        let launch = path.extension().is_some_and(|e| e == "launch");
        let known = Text::all().any(|text| {
            path.file_stem()
                .is_some_and(|stem| *stem == *text.to_string())
        });
        if launch && !known {
            return Err(PipelineError::UnknownFile { path });
        }
    }
    Ok(())
}

impl Description {
    fn built_in(made_of: Text) -> Self {
        let text = match made_of {
            Text::Main(Codec::H264) => include_str!("../../pipelines/h264.launch"),
            Text::Main(Codec::H265) => include_str!("../../pipelines/h265.launch"),
            Text::Main(Codec::Av1) => include_str!("../../pipelines/av1.launch"),
            Text::Main(Codec::Vp9) => include_str!("../../pipelines/vp9.launch"),
            Text::Main(Codec::Vp8) => include_str!("../../pipelines/vp8.launch"),
            Text::Main(Codec::Opus) => include_str!("../../pipelines/opus.launch"),
            Text::Main(Codec::G722) => include_str!("../../pipelines/g722.launch"),
            Text::Main(Codec::Pcmu) => include_str!("../../pipelines/pcmu.launch"),
            Text::Main(Codec::Pcma) => include_str!("../../pipelines/pcma.launch"),
            Text::Aac(Codec::G722) => include_str!("../../pipelines/g722-aac.launch"),
            Text::Aac(Codec::Pcmu) => include_str!("../../pipelines/pcmu-aac.launch"),
            Text::Aac(Codec::Pcma) => include_str!("../../pipelines/pcma-aac.launch"),
            // There is no sound in the others, so nobody asks for theirs.
            Text::Aac(_) => include_str!("../../pipelines/opus-aac.launch"),
            Text::Poster(Codec::H265) => include_str!("../../pipelines/h265-poster.launch"),
            Text::Poster(Codec::Av1) => include_str!("../../pipelines/av1-poster.launch"),
            Text::Poster(Codec::Vp9) => include_str!("../../pipelines/vp9-poster.launch"),
            // What is transcoded becomes H.264, and there are no pictures in the others.
            Text::Poster(_) => include_str!("../../pipelines/h264-poster.launch"),
        };
        Self {
            made_of,
            origin: format!("built-in {made_of}.launch"),
            text: without_comments(text),
        }
    }

    fn read(made_of: Text, path: &Path) -> Result<Self, PipelineError> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self {
                made_of,
                origin: path.display().to_string(),
                text: without_comments(&text),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::built_in(made_of)),
            Err(source) => Err(PipelineError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    pub(super) fn made_of(&self) -> Text {
        self.made_of
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Makes the elements and checks that they are what a pipeline must have.
    pub(super) fn build(&self) -> Result<Elements, PipelineError> {
        let bin = self.parse(true)?;
        let pad = |name: &str, what: &str| {
            bin.static_pad(name).ok_or_else(|| {
                self.wrong(format!(
                    "there must be exactly one chain of elements, with an unlinked {name} pad at its {what}"
                ))
            })
        };
        let mux = bin
            .by_name("mux")
            .filter(|e| e.factory().is_some_and(|f| f.name() == mux::FACTORY))
            .ok_or_else(|| self.wrong(format!("there is no `{} name=mux`", mux::FACTORY)))?;
        Ok(Elements {
            mux,
            sink: pad("sink", "start")?,
            src: pad("src", "end")?,
            bin,
        })
    }

    /// The elements of the text; `ends`: its unlinked pads become those of the bin.
    pub(super) fn parse(&self, ends: bool) -> Result<gst::Bin, PipelineError> {
        let mut context = gst::ParseContext::new();
        let element = gst::parse::bin_from_description_full(
            &self.text,
            ends,
            Some(&mut context),
            gst::ParseFlags::FATAL_ERRORS,
        );
        // Elements that could not be made for another reason are listed, too.
        let mut missing = context.missing_elements();
        missing.retain(|name| gst::ElementFactory::find(name).is_none());
        if !missing.is_empty() {
            return Err(PipelineError::MissingElements(
                missing.iter().map(|name| missing_element(name)).collect(),
            ));
        }
        element
            .map_err(|error| self.wrong(error.to_string()))?
            .downcast::<gst::Bin>()
            .map_err(|_| self.wrong("the text does not make a bin".to_owned()))
    }

    /// Builds the elements and brings them to READY: they find their libraries and devices.
    pub(super) fn check(&self) -> Result<(), PipelineError> {
        let bin = match self.made_of {
            Text::Main(_) | Text::Aac(_) => self.build()?.bin,
            Text::Poster(_) => poster::elements(self)?.bin,
        };
        let bus = gst::Bus::new();
        bin.set_bus(Some(&bus));
        let ready = bin.set_state(gst::State::Ready);
        let message = bus.pop_filtered(&[gst::MessageType::Error]);
        if let Err(error) = bin.set_state(gst::State::Null) {
            tracing::warn!("{}: {error}", self.origin);
        }
        bin.set_bus(None::<&gst::Bus>);
        match ready {
            Ok(_) => Ok(()),
            Err(_) => Err(self.wrong(match message.as_ref().map(|m| m.view()) {
                Some(gst::MessageView::Error(error)) => error_text(error),
                _ => "the elements cannot be made ready".to_owned(),
            })),
        }
    }

    pub(super) fn wrong(&self, problem: String) -> PipelineError {
        PipelineError::Text {
            origin: self.origin.clone(),
            problem,
        }
    }
}

/// What an error message says, with the element that said it.
pub(super) fn error_text(error: &gst::message::Error) -> String {
    let source = error
        .src()
        .map(|s| s.name().to_string())
        .unwrap_or_default();
    match error.debug() {
        Some(debug) => format!("{source}: {} ({debug})", error.error()),
        None => format!("{source}: {}", error.error()),
    }
}

/// gst-launch texts know no comments: lines that start with `#` are ours.
fn without_comments(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n")
}

fn missing_element(name: &str) -> MissingElement {
    let debian_package = match name {
        "rtph264depay" | "rtph265depay" | "rtpvp9depay" | "rtpvp8depay" | "rtpopusdepay"
        | "rtppcmudepay" | "rtppcmadepay" | "rtpg722depay" | "mulawdec" | "alawdec" | "vp8dec"
        | "vp9dec" | "capssetter" | "qtdemux" | "jpegenc" => Some("gstreamer1.0-plugins-good"),
        "h264parse" | "h265parse" | "av1parse" | "vp9parse" | "h264timestamper"
        | "h265timestamper" | "opusparse" | "av1dec" => Some("gstreamer1.0-plugins-bad"),
        "x264enc" => Some("gstreamer1.0-plugins-ugly"),
        "avenc_aac" | "avdec_g722" | "avdec_h264" | "avdec_h265" => Some("gstreamer1.0-libav"),
        "queue" | "capsfilter" | "identity" | "tee" | "filesink" | "fakesink" => {
            Some("libgstreamer1.0-0")
        }
        "opusdec" | "opusenc" | "audioconvert" | "audioresample" | "audiorate" | "videoconvert"
        | "videoscale" | "videorate" | "appsrc" | "appsink" => Some("gstreamer1.0-plugins-base"),
        _ => None,
    };
    MissingElement {
        element: name.to_owned(),
        debian_package,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_lines_go_and_the_rest_stays() {
        assert_eq!(
            without_comments("# one\n  # two\na ! b name=\"#3\"\n! c"),
            "a ! b name=\"#3\"\n! c"
        );
    }

    #[test]
    fn every_built_in_text_is_right() {
        crate::pipeline::init().unwrap();
        for text in Text::all() {
            Description::built_in(text).check().unwrap();
        }
    }
}
