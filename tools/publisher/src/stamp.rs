//! The stamp that makes a picture measurable without decoding it: which publication sent it, its number and when.
//!
//! Carried as an SEI message `user_data_unregistered` (H.264 D.1.7, H.265 D.2.7) in front of the picture. Every byte
//! of it is non-zero, so that no emulation prevention is ever inserted and the stamp can be found by searching the raw
//! bytes of an RTP stream, an MP4 part or a whole recording. This module owns the byte layout and nothing else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memchr::memmem;

/// Identifies our SEI message.
pub const UUID: [u8; 16] = [
    0x77, 0x68, 0x69, 0x70, 0x67, 0xa7, 0x4e, 0x1d, 0x9c, 0x53, 0xb1, 0x6f, 0x2d, 0xe8, 0x41, 0xc9,
];

const PUBLICATION_DIGITS: usize = 5;
const PICTURE_DIGITS: usize = 5;
const TIME_DIGITS: usize = 8;
const PAYLOAD_LEN: usize = UUID.len() + PUBLICATION_DIGITS + PICTURE_DIGITS + TIME_DIGITS;

/// What a stamped picture says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Chosen by the publisher, so that pictures of another session in the wrong place are noticed.
    pub publication: u32,
    /// Number of the picture in its publication, counted from 0 without gaps.
    pub picture: u32,
    /// When its first packet was handed to the network: microseconds since the Unix epoch.
    pub sent_micros: u64,
}

impl Stamp {
    /// A stamp with the current wall clock.
    pub fn now(publication: u32, picture: u32) -> Self {
        Self {
            publication,
            picture,
            sent_micros: micros(SystemTime::now()),
        }
    }

    /// Time since the picture was sent; zero if the clock went back.
    pub fn age(&self, now: SystemTime) -> Duration {
        Duration::from_micros(micros(now).saturating_sub(self.sent_micros))
    }

    /// The SEI NAL unit for H.264, without start code.
    pub fn h264_sei(&self) -> Vec<u8> {
        self.sei(&[0x06])
    }

    /// The prefix SEI NAL unit for H.265, without start code.
    pub fn h265_sei(&self) -> Vec<u8> {
        self.sei(&[39 << 1, 0x01])
    }

    fn sei(&self, header: &[u8]) -> Vec<u8> {
        let mut nal = Vec::with_capacity(header.len() + 3 + PAYLOAD_LEN);
        nal.extend_from_slice(header);
        nal.push(5);
        nal.push(PAYLOAD_LEN as u8);
        nal.extend_from_slice(&UUID);
        put(&mut nal, u64::from(self.publication), PUBLICATION_DIGITS);
        put(&mut nal, u64::from(self.picture), PICTURE_DIGITS);
        put(&mut nal, self.sent_micros, TIME_DIGITS);
        nal.push(0x80);
        nal
    }
}

/// All stamps in `bytes`, in their order there. A stamp cut off at the end is left out.
pub fn find_all(bytes: &[u8]) -> impl Iterator<Item = Stamp> + '_ {
    memmem::find_iter(bytes, &UUID).filter_map(move |at| {
        let digits = bytes.get(at + UUID.len()..at + PAYLOAD_LEN)?;
        let (publication, rest) = digits.split_at(PUBLICATION_DIGITS);
        let (picture, time) = rest.split_at(PICTURE_DIGITS);
        Some(Stamp {
            publication: u32::try_from(get(publication)?).ok()?,
            picture: u32::try_from(get(picture)?).ok()?,
            sent_micros: get(time)?,
        })
    })
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros() as u64
}

/// Base 128, most significant digit first, each with the top bit set.
fn put(out: &mut Vec<u8>, value: u64, digits: usize) {
    for digit in (0..digits).rev() {
        out.push(0x80 | ((value >> (7 * digit)) & 0x7f) as u8);
    }
}

fn get(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        (digit & 0x80 != 0).then(|| (value << 7) | u64::from(digit & 0x7f))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_being_embedded_and_found() {
        let stamps = [
            Stamp {
                publication: 0,
                picture: 0,
                sent_micros: 0,
            },
            Stamp {
                publication: u32::MAX,
                picture: u32::MAX,
                sent_micros: (1 << 56) - 1,
            },
            Stamp::now(7, 123_456),
        ];
        let mut bytes = vec![0, 0, 0, 1];
        for stamp in &stamps {
            bytes.extend(stamp.h264_sei());
            bytes.extend([0, 0, 1, 0x65, 0x88]);
            bytes.extend(stamp.h265_sei());
        }
        let found: Vec<_> = find_all(&bytes).collect();
        assert_eq!(
            found,
            [
                stamps[0], stamps[0], stamps[1], stamps[1], stamps[2], stamps[2]
            ]
        );
    }

    #[test]
    fn needs_no_emulation_prevention() {
        for stamp in [
            Stamp {
                publication: 0,
                picture: 0,
                sent_micros: 0,
            },
            Stamp::now(1, 1),
        ] {
            assert!(!stamp.h264_sei().contains(&0));
            assert!(!stamp.h265_sei().contains(&0));
        }
    }

    #[test]
    fn a_truncated_or_foreign_one_is_not_reported() {
        let sei = Stamp::now(1, 2).h264_sei();
        assert_eq!(find_all(&sei[..sei.len() - 2]).count(), 0);
        let mut damaged = sei;
        damaged[20] = 0x01;
        assert_eq!(find_all(&damaged).count(), 0);
    }
}
