//! What the multivariant playlist says of the renditions there are: which are variants, which sound goes with them, and
//! their figures. Pure.

use std::sync::Arc;

use super::{
    RenditionId,
    multivariant::{AudioRendition, Multivariant, Variant},
    rendition::Rendition,
};
use crate::media::AudioFormat;

/// What AAC will be before any was made; players choose by it. Its pipeline is set to 128 kbit/s.
const AAC_CODECS: &str = "mp4a.40.2";
const AAC_PEAK: u64 = 140_000;
const AAC_AVERAGE: u64 = 130_000;

/// A rendition as others see it.
struct Outline {
    name: Arc<str>,
    codecs: Vec<String>,
    channels: u8,
    peak: u64,
    average: u64,
}

impl Outline {
    fn of(rendition: &Rendition) -> Self {
        let mut outline = Self {
            name: Arc::clone(&rendition.name),
            codecs: rendition.codecs(),
            channels: rendition.init().map_or(2, |init| init.channels),
            peak: rendition.bitrate.peak(),
            average: rendition.bitrate.average(),
        };
        if rendition.is_on_demand() {
            if outline.codecs.is_empty() {
                outline.codecs.push(AAC_CODECS.to_owned());
            }
            outline.peak = outline.peak.max(AAC_PEAK);
            outline.average = outline.average.max(AAC_AVERAGE);
        }
        outline
    }
}

/// The multivariant playlist over the expected renditions that have media or get some when asked for. `audio` are the
/// forms of sound to list, in order.
pub(super) fn describe(
    renditions: &[Rendition],
    audio: &[AudioFormat],
    ended: bool,
) -> Multivariant {
    let find = |id: RenditionId| {
        renditions
            .iter()
            .find(|r| r.id == id && r.expected && (r.has_media() || (r.is_on_demand() && !ended)))
    };
    // Sound is there if it is in Opus, which everything else is made beside.
    let has_sound = find(RenditionId::Audio).is_some();
    let sound: Vec<_> = audio
        .iter()
        .filter(|_| has_sound)
        .filter_map(|format| find((*format).into()))
        .map(Outline::of)
        .collect();
    let Some(video) = find(RenditionId::Video) else {
        return Multivariant {
            independent_segments: true,
            audio: Vec::new(),
            variants: sound
                .into_iter()
                .map(|sound| Variant {
                    name: Arc::clone(&sound.name),
                    bandwidth: sound.peak,
                    average_bandwidth: sound.average,
                    codecs: sound.codecs,
                    resolution: None,
                    frame_rate: None,
                    audio: None,
                })
                .collect(),
        };
    };
    let variant = |sound: Option<&Outline>| Variant {
        name: Arc::clone(&video.name),
        bandwidth: video.bitrate.peak() + sound.map_or(0, |sound| sound.peak),
        average_bandwidth: video.bitrate.average() + sound.map_or(0, |sound| sound.average),
        codecs: video
            .codecs()
            .into_iter()
            .chain(sound.into_iter().flat_map(|sound| sound.codecs.clone()))
            .collect(),
        resolution: video.init().and_then(|init| init.resolution),
        frame_rate: Some(video.bitrate.samples_per_second()),
        audio: sound.map(|sound| Arc::clone(&sound.name)),
    };
    Multivariant {
        // A promise about all media to come. Sound keeps it; pictures cannot, because a publisher that ignores
        // requests for keyframes gets its segments cut without.
        independent_segments: false,
        variants: if sound.is_empty() {
            vec![variant(None)]
        } else {
            sound.iter().map(|sound| variant(Some(sound))).collect()
        },
        audio: sound
            .iter()
            .map(|sound| AudioRendition {
                name: Arc::clone(&sound.name),
                channels: sound.channels,
            })
            .collect(),
    }
}
