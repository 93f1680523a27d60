//! From RTP packets with presentation times to initialization segments and parts, by GStreamer.
//!
//! Owns GStreamer: no other module names it. It must not know sessions, playlists, files or clocks: what comes out
//! depends on what was pushed in and on nothing else, and it comes out synchronously, on the thread that pushed.
//!
//! One [`Pipeline`] per track runs a gst-launch text of one codec: depayloader, parser, timestamper and our own mux
//! element; for some codecs a decoder and an encoder in between. The texts are in `pipelines/`; its README tells what a text may contain and how the mux behaves.

mod cut;
mod description;
mod ends;
mod error;
mod made;
mod mux;
mod order;
mod payload;
mod pictures;
mod poster;
mod rtp;
mod runner;

use std::{
    fmt,
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gstreamer as gst;

use crate::media::{Codec, InitSegment, MediaKind, Part, TrackInfo};
use description::Description;
pub use error::{MissingElement, PipelineError};
pub use runner::Pipeline;

/// Every decode and presentation time that comes out is this much later than the time that went in.
///
/// Pictures that are decoded before they are shown (B-frames) have decode times before the first presentation time, and
/// a track may begin before the stream's zero; boxes know no negative times. The same offset for every track of every
/// stream keeps them all in place against each other.
pub const START_OFFSET: Duration = Duration::from_secs(1);

/// Earliest presentation time of a part in nanoseconds, as it was pushed in: without [`START_OFFSET`].
pub fn presentation_nanos(part: &Part, timescale: u32) -> i64 {
    let nanos = u128::from(part.presentation_time) * 1_000_000_000 / u128::from(timescale.max(1));
    let offset = i64::try_from(START_OFFSET.as_nanos()).unwrap_or_default();
    i64::try_from(nanos).unwrap_or(i64::MAX) - offset
}

/// How one track is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Longest part.
    pub part_duration: Duration,
    /// Wanted length of a segment; TARGETDURATION is this, rounded up to whole seconds.
    pub segment_duration: Duration,
    /// `track_ID` in every box, not 0. By convention 1 is video and 2 is audio, so that the parts of both can be put
    /// into one file unchanged.
    pub track_id: u32,
}

/// What a pipeline text is for; also its file name without `.launch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Text {
    /// `<codec>`: media of the codec, passed through or turned into [`Codec::transcoded_to`].
    Main(Codec),
    /// `<codec>-aac`: AAC made from sound of the codec.
    Aac(Codec),
    /// `<codec>-poster`: a JPEG made from a keyframe of the codec.
    Poster(Codec),
}

impl Text {
    /// Every text there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let sound = Codec::ALL
            .into_iter()
            .filter(|codec| codec.kind() == MediaKind::Audio);
        Codec::ALL
            .into_iter()
            .map(Self::Main)
            .chain(sound.map(Self::Aac))
            .chain(Self::posters())
    }

    /// The texts that make posters, one for each codec in which viewers get pictures.
    pub fn posters() -> impl Iterator<Item = Self> {
        Codec::ALL
            .into_iter()
            .filter(|codec| codec.kind() == MediaKind::Video && codec.transcoded_to().is_none())
            .map(Self::Poster)
    }

    /// The codec it takes.
    pub const fn codec(self) -> Codec {
        match self {
            Self::Main(codec) | Self::Aac(codec) | Self::Poster(codec) => codec,
        }
    }
}

/// A name of no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no pipeline text {0:?}: expected a codec, an audio codec with -aac, or a video codec with -poster"
)]
pub struct UnknownText(String);

impl FromStr for Text {
    type Err = UnknownText;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::all()
            .find(|text| text.to_string() == name)
            .ok_or_else(|| UnknownText(name.to_owned()))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main(codec) => write!(f, "{codec}"),
            Self::Aac(codec) => write!(f, "{codec}-aac"),
            Self::Poster(codec) => write!(f, "{codec}-poster"),
        }
    }
}

/// What a pipeline puts out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Precedes the first part, and again the first part after every change of the encoding.
    Init(InitSegment),
    /// The next part.
    Part(Part),
    /// Nothing can go out, or something broken would, until a keyframe comes. Repeated once a second of media time.
    KeyframeWanted,
}

/// Starts GStreamer and makes the elements known that are built into this program. Calling it again does nothing.
///
/// # Errors
/// GStreamer cannot be started, or refuses an element.
pub fn init() -> Result<(), PipelineError> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !*done {
        gst::init().map_err(|error| PipelineError::Init(error.to_string()))?;
        gstrsrtp::plugin_register_static()
            .and_then(|()| mux::register())
            .map_err(|error| PipelineError::Init(error.to_string()))?;
        *done = true;
    }
    Ok(())
}

/// The pipeline texts, checked.
#[derive(Clone)]
pub struct Pipelines {
    descriptions: Vec<Arc<Description>>,
    /// Texts that nothing depends on, with the elements that they lack here.
    lacking: Vec<(Text, Vec<MissingElement>)>,
}

impl Pipelines {
    /// Takes the built-in texts, each replaced by `<dir>/<codec>.launch` where that file exists, and tries each of them:
    /// every element must exist, every property must be right, and the whole must reach the READY state. Only the elements
    /// of posters may be missing: [`Self::lacking`] says so.
    ///
    /// # Errors
    /// The directory cannot be read or has `.launch` files of unknown codecs; elements are missing (all of them at once,
    /// with the Debian packages that have them); a text is wrong.
    pub fn load(dir: Option<&Path>) -> Result<Self, PipelineError> {
        Self::load_only(dir, &Text::all().collect::<Vec<_>>())
    }

    /// The same for some of the texts only, so that nothing is missed that nobody needs.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_only(dir: Option<&Path>, texts: &[Text]) -> Result<Self, PipelineError> {
        init()?;
        let descriptions: Vec<_> = description::load(dir, texts)?
            .into_iter()
            .map(Arc::new)
            .collect();
        let mut missing = Vec::new();
        let mut lacking = Vec::new();
        for description in &descriptions {
            match (description.check(), description.made_of()) {
                (Ok(()), _) => {}
                (Err(PipelineError::MissingElements(elements)), text @ Text::Poster(_)) => {
                    lacking.push((text, elements));
                }
                (Err(PipelineError::MissingElements(more)), _) => missing.extend(more),
                (Err(other), _) => return Err(other),
            }
        }
        if missing.is_empty() {
            Ok(Self {
                descriptions,
                lacking,
            })
        } else {
            missing.sort();
            missing.dedup();
            Err(PipelineError::MissingElements(missing))
        }
    }

    /// Starts the pipeline for one track. `output` is called synchronously inside the calls of [`Pipeline`], on the
    /// calling thread; it must not block. If it panics, the pipeline has failed and the panic goes no further.
    ///
    /// # Errors
    /// The pipeline cannot be built or started.
    pub fn start(
        &self,
        track: &TrackInfo,
        settings: &Settings,
        output: impl FnMut(Output) + Send + 'static,
    ) -> Result<Pipeline, PipelineError> {
        let description = self.description(Text::Main(track.codec))?;
        Pipeline::start(description, track, *settings, None, Box::new(output))
    }

    /// Starts the pipeline that makes AAC of an audio track, as [`Self::start`] does; it takes the same packets with the
    /// same times. `segment_origin` is a time at which a segment starts, [`START_OFFSET`] included: the others follow at
    /// multiples of the segment duration, so that a rendition which joins late is cut like the one beside it. Without,
    /// and after a discontinuity, they are counted from the first sound on.
    ///
    /// # Errors
    /// The pipeline cannot be built or started, or its text was not loaded.
    pub fn start_aac(
        &self,
        track: &TrackInfo,
        settings: &Settings,
        segment_origin: Option<Duration>,
        output: impl FnMut(Output) + Send + 'static,
    ) -> Result<Pipeline, PipelineError> {
        let description = self.description(Text::Aac(track.codec))?;
        Pipeline::start(
            description,
            track,
            *settings,
            segment_origin,
            Box::new(output),
        )
    }

    fn description(&self, text: Text) -> Result<Arc<Description>, PipelineError> {
        self.descriptions
            .iter()
            .find(|d| d.made_of() == text)
            .map(Arc::clone)
            .ok_or(PipelineError::NoText(text))
    }

    /// The texts of posters whose elements do not all exist here, with those that are missing.
    pub fn lacking(&self) -> &[(Text, Vec<MissingElement>)] {
        &self.lacking
    }

    /// Where each text comes from, for the log.
    pub fn origins(&self) -> impl Iterator<Item = (Text, &str)> {
        self.descriptions.iter().map(|d| (d.made_of(), d.origin()))
    }
}

impl fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.origins()).finish()
    }
}
