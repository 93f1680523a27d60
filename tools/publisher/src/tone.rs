//! The test sound: silence with a beep at the start of each second of media time, exact to the sample.

use std::f64::consts::TAU;

use crate::picture::FLASH;

/// Samples per second and channel.
pub const RATE: u64 = 48_000;
/// Channels.
pub const CHANNELS: usize = 2;
/// Pitch of the beep in Hz.
pub const PITCH: f64 = 1000.0;

/// Sample number `index` counted from the start of media time; the same on both channels.
///
/// The beep begins with a full-scale sample, so that its first sample can be found.
pub fn sample(index: u64) -> i16 {
    let into_second = index % RATE;
    if u128::from(into_second) * 1_000_000_000 >= FLASH.as_nanos() * u128::from(RATE) {
        return 0;
    }
    let phase = TAU * PITCH * into_second as f64 / RATE as f64;
    (phase.cos() * 16_000.0) as i16
}

/// `count` samples of interleaved little-endian PCM from sample `start` on.
pub fn pcm(start: u64, count: usize) -> Vec<u8> {
    (start..start + count as u64)
        .flat_map(|index| {
            let [low, high] = sample(index).to_le_bytes();
            [low, high, low, high]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Painter;

    #[test]
    fn beeps_exactly_while_the_picture_flashes() {
        let fps = 30;
        let painter = Painter::new(64, 64, fps, false);
        let per_frame = RATE / u64::from(fps);
        for frame in 0..120 {
            let samples: Vec<i16> = (frame * per_frame..(frame + 1) * per_frame)
                .map(sample)
                .collect();
            assert_eq!(
                samples.iter().any(|sample| *sample != 0),
                painter.is_flash(frame),
                "frame {frame}"
            );
            if painter.is_flash(frame) && frame % 30 == 0 {
                assert_eq!(
                    samples[0], 16_000,
                    "the first sample of the beep is the first of the flash's frame"
                );
            }
        }
        assert_eq!(sample(RATE - 1), 0);
        assert_ne!(sample(RATE), 0);
        assert_eq!(sample(RATE + 4800), 0);
    }

    #[test]
    fn pcm_is_interleaved() {
        assert_eq!(pcm(0, 1), [0x80, 0x3e, 0x80, 0x3e]);
        assert_eq!(pcm(100, 480).len(), 480 * 4);
    }
}
