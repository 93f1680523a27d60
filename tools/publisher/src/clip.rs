//! A short clip, encoded once and repeated for ever: cheap enough to publish a hundred times at once.
//!
//! Its content is the test picture and the test sound, so that flash and beep stay exact over any number of rounds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Result, anyhow, ensure};

use crate::{
    encode::{Encoded, Encoder, OPUS_LOOKAHEAD, OPUS_SAMPLES, VideoFormat},
    packetize::AccessUnit,
    picture::Painter,
    tone,
};

/// What a video clip holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClipSpec {
    /// Size, rate, codec.
    pub format: VideoFormat,
    /// Length in whole seconds.
    pub seconds: u32,
    /// A panel of noise, so that the encoder needs all of its bitrate.
    pub noise: bool,
    /// How RTP time stamps go where the encoder reorders pictures.
    pub times: Times,
}

impl Default for ClipSpec {
    /// Four seconds of [`VideoFormat::default`], with noise.
    fn default() -> Self {
        Self {
            format: VideoFormat::default(),
            seconds: 4,
            noise: true,
            times: Times::Presentation,
        }
    }
}

/// What RTP time stamps say of pictures that are not sent in the order in which they are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Times {
    /// When they are shown, as RFC 6184 section 5.1 has it.
    #[default]
    Presentation,
    /// When they are decoded: they rise from picture to picture, as some encoders' do.
    Decode,
}

/// What an audio clip holds: two seconds of the test sound as Opus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AudioClipSpec {
    /// Bits per second, constant.
    pub bits_per_second: u32,
    /// One channel instead of two.
    pub mono: bool,
    /// Silence is not sent, but for one packet each 400 ms (discontinuous transmission, RFC 6716 section 2.1.9).
    pub dtx: bool,
}

impl Default for AudioClipSpec {
    /// 128 kbit/s.
    fn default() -> Self {
        Self {
            bits_per_second: 128_000,
            mono: false,
            dtx: false,
        }
    }
}

/// Access units at equal distances; the one after the last is the first again.
#[derive(Clone, Debug)]
pub struct Clip {
    /// The units, the first one a keyframe; one without pieces is not sent.
    pub units: Vec<AccessUnit>,
    /// How many ticks later than it is sent each unit is shown, beyond what is the same for all; empty if that is 0.
    pub shown_later: Vec<i32>,
    /// Ticks of the RTP clock from one unit to the next.
    pub ticks: u32,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Width and height in pixels; zero for audio.
    pub size: (u16, u16),
}

const AUDIO_SECONDS: u64 = 2;

type Slot = Arc<OnceLock<Result<Arc<Clip>, String>>>;

impl Clip {
    /// The video clip of this specification, encoded at the first call in this process. Blocks while it encodes.
    pub fn video(spec: &ClipSpec) -> Result<Arc<Self>> {
        static MADE: OnceLock<Mutex<HashMap<ClipSpec, Slot>>> = OnceLock::new();
        once(&MADE, spec, encode_video)
    }

    /// The audio clip of this specification, encoded at the first call in this process. Blocks while it encodes.
    pub fn audio(spec: &AudioClipSpec) -> Result<Arc<Self>> {
        static MADE: OnceLock<Mutex<HashMap<AudioClipSpec, Slot>>> = OnceLock::new();
        once(&MADE, spec, encode_audio)
    }

    /// Sum of all pieces in bytes.
    pub fn bytes(&self) -> usize {
        self.units
            .iter()
            .flat_map(|unit| &unit.pieces)
            .map(bytes::Bytes::len)
            .sum()
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.units.len() as f64 * f64::from(self.ticks) / f64::from(self.clock_rate)
    }
}

fn once<S: std::hash::Hash + Eq + Copy>(
    made: &OnceLock<Mutex<HashMap<S, Slot>>>,
    spec: &S,
    encode: impl FnOnce(S) -> Result<Clip>,
) -> Result<Arc<Clip>> {
    let slot = {
        let mut made = made
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(made.entry(*spec).or_default())
    };
    let clip = slot.get_or_init(|| {
        encode(*spec)
            .map(Arc::new)
            .map_err(|error| format!("{error:#}"))
    });
    clip.clone().map_err(|error| anyhow!(error))
}

fn encode_video(spec: ClipSpec) -> Result<Clip> {
    let VideoFormat {
        width, height, fps, ..
    } = spec.format;
    ensure!(
        width % 2 == 0 && height % 2 == 0,
        "picture size {width}x{height} is odd"
    );
    ensure!(
        90_000 % fps == 0,
        "{fps} pictures a second do not divide the RTP clock"
    );
    let frames = u64::from(fps * spec.seconds);
    let painter = Painter::new(width, height, fps, spec.noise);
    let encoder = Encoder::video(&spec.format)?;
    let duration = 1_000_000_000 / u64::from(fps);
    let encoded = run(&encoder, || {
        for frame in 0..frames {
            let mut picture = vec![0; painter.len()];
            painter.paint(frame, None, &mut picture);
            encoder.push(frame * 1_000_000_000 / u64::from(fps), duration, picture)?;
        }
        Ok(())
    })?;
    ensure!(
        encoded.len() as u64 == frames,
        "{} access units from {frames} pictures",
        encoded.len()
    );
    let ticks = 90_000 / fps;
    let shown_later = if spec.format.b_frames > 0 && spec.times == Times::Presentation {
        encoded
            .iter()
            .enumerate()
            .map(|(index, encoded)| {
                let shown = (encoded.pts * 90_000 + 500_000_000) / 1_000_000_000;
                shown as i32 - (index as u32 * ticks) as i32
            })
            .collect()
    } else {
        Vec::new()
    };
    let units: Vec<AccessUnit> = encoded.into_iter().map(|encoded| encoded.unit).collect();
    ensure!(
        units.first().is_some_and(|unit| unit.keyframe),
        "the clip does not begin with a keyframe"
    );
    Ok(Clip {
        units,
        shown_later,
        ticks,
        clock_rate: 90_000,
        size: (width as u16, height as u16),
    })
}

/// Encodes three rounds and keeps the middle one, so that the encoder's state at its end is the one at its beginning.
fn encode_audio(spec: AudioClipSpec) -> Result<Clip> {
    let encoder = Encoder::opus(spec.bits_per_second, spec.mono)?;
    let packets = AUDIO_SECONDS * tone::RATE / OPUS_SAMPLES;
    let encoded = run(&encoder, || {
        // One packet more, or the encoder's last one is cut.
        for packet in 0..=packets * 3 {
            let start = packet * OPUS_SAMPLES;
            let mut pcm = tone::pcm(start + OPUS_LOOKAHEAD, OPUS_SAMPLES as usize);
            if spec.mono {
                pcm = pcm.chunks(4).flat_map(|both| [both[0], both[1]]).collect();
            }
            encoder.push(packet * 20_000_000, 20_000_000, pcm)?;
        }
        Ok(())
    })?;
    let round = packets * 20_000_000;
    let mut units: Vec<AccessUnit> = encoded
        .into_iter()
        .filter(|encoded| (round..2 * round).contains(&encoded.pts))
        .map(|encoded| encoded.unit)
        .collect();
    ensure!(
        units.len() as u64 == packets,
        "{} Opus packets instead of {packets}",
        units.len()
    );
    if spec.dtx {
        // The beep and what follows it for 100 ms, as voice detection has it; then one packet of every twenty.
        let heard = (2 * crate::picture::FLASH.as_millis() / 20) as usize;
        for (index, unit) in units.iter_mut().enumerate() {
            let into_second = index % 50;
            if into_second >= heard && (into_second - heard) % 20 != 19 && into_second != 49 {
                unit.pieces.clear();
            }
        }
    }
    Ok(Clip {
        units,
        shown_later: Vec::new(),
        ticks: OPUS_SAMPLES as u32,
        clock_rate: tone::RATE as u32,
        size: (0, 0),
    })
}

/// Feeds an encoder from a thread while collecting what comes out.
fn run(encoder: &Encoder, feed: impl FnOnce() -> Result<()> + Send) -> Result<Vec<Encoded>> {
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            let fed = feed();
            fed.and(encoder.finish())
        });
        let mut encoded = Vec::new();
        let pulled = loop {
            match encoder.pull() {
                Ok(Some(unit)) => encoded.push(unit),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let fed = feeder
            .join()
            .map_err(|_| anyhow!("the thread that feeds the encoder panicked"))?;
        pulled.and(fed).map(|()| encoded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::VideoCodec, encode::decode::decode, picture::flash_rect};

    /// Mean brightness of the flash panel in an I420 picture.
    fn panel(picture: &[u8], width: usize, height: usize) -> f64 {
        let rect = flash_rect(width, height);
        let lines = (rect.y..rect.y + rect.height)
            .flat_map(|y| &picture[y * width + rect.x..][..rect.width]);
        lines.map(|value| f64::from(*value)).sum::<f64>() / (rect.width * rect.height) as f64
    }

    #[test]
    fn flash_and_beep_are_where_they_belong_after_decoding_several_rounds() {
        let format = VideoFormat {
            width: 320,
            height: 180,
            kbps: 500,
            ..VideoFormat::default()
        };
        let video = Clip::video(&ClipSpec {
            format,
            seconds: 2,
            ..ClipSpec::default()
        })
        .unwrap();
        let twice: Vec<AccessUnit> = video.units.iter().chain(&video.units).cloned().collect();
        let pictures = decode(&twice, Some(VideoCodec::H264));
        assert_eq!(pictures.len(), 120);
        for (frame, picture) in pictures.iter().enumerate() {
            let white = panel(picture, 320, 180) > 140.0;
            assert_eq!(white, frame % 30 < 3, "frame {frame}");
        }

        let audio = Clip::audio(&AudioClipSpec::default()).unwrap();
        let thrice: Vec<AccessUnit> = audio
            .units
            .iter()
            .chain(&audio.units)
            .chain(&audio.units)
            .cloned()
            .collect();
        let pcm: Vec<u8> = decode(&thrice, None).concat();
        let left: Vec<i32> = pcm
            .chunks(4)
            .map(|sample| i32::from(i16::from_le_bytes([sample[0], sample[1]])))
            .collect();
        assert_eq!(left.len(), 6 * 48_000);
        // The decoder knows no state before the first packet, so the very first beep is left out.
        for second in 1..6 {
            let start = second * 48_000;
            let onset = (start - 2400..start + 2400)
                .find(|at| left[*at].abs() > 8_000)
                .unwrap();
            let off = onset as i64 - start as i64;
            assert!(
                off.abs() <= 24,
                "the beep of second {second} is {off} samples off"
            );
            assert!(
                left[start + 9600..start + 40_000]
                    .iter()
                    .all(|sample| sample.abs() < 200),
                "silence after it"
            );
        }
    }

    #[test]
    fn the_bitrate_is_about_what_was_asked_for() {
        let clip = Clip::video(&ClipSpec::default()).unwrap();
        let kbps = clip.bytes() as f64 * 8.0 / 1000.0 / clip.seconds();
        assert!((2000.0..3000.0).contains(&kbps), "{kbps:.0} kbit/s");
        let keyframes: Vec<usize> = (0..clip.units.len())
            .filter(|index| clip.units[*index].keyframe)
            .collect();
        assert_eq!(keyframes, [0, 60]);
        let audio = Clip::audio(&AudioClipSpec::default()).unwrap();
        assert_eq!(audio.bytes(), 100 * 320, "constant bitrate");
    }
}
