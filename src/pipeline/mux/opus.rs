//! What the mux must know of Opus: how long a packet lasts (RFC 6716 section 3.1) and its sample entry.

use mp4_atom::{Audio, Dops, FixedPoint, Opus};

use super::format::TrackFormat;

/// Ticks per second in which [`packet_duration`] counts.
pub(super) const CLOCK_RATE: u32 = 48_000;

/// The sample entry of every Opus track that comes over RTP.
///
/// Two channels always: RTP says so for every stream (RFC 7587 section 7), packets may change between mono and stereo
/// at any time, and a stereo decoder plays both. `PreSkip` is 0 because RTP does not carry it and the first packet of a
/// live stream is rarely the encoder's first.
pub(super) fn format() -> TrackFormat {
    TrackFormat {
        codecs: "opus".to_owned(),
        resolution: None,
        channels: 2,
        pixel_aspect_ratio: (1, 1),
        entry: Opus {
            audio: Audio {
                data_reference_index: 1,
                channel_count: 2,
                sample_size: 16,
                sample_rate: FixedPoint::new(48_000, 0),
            },
            dops: Dops {
                output_channel_count: 2,
                pre_skip: 0,
                input_sample_rate: CLOCK_RATE,
                output_gain: 0,
                channel_mapping: None,
            },
            btrt: None,
        }
        .into(),
    }
}

/// Silence in stereo, fullband CELT (RFC 6716 section 3.1, configurations 28 to 31): packets of 2.5, 5, 10 and 20 ms, with
/// how long they last in units of 1/48000 s, the longest first. Every decoder knows them: WebRTC sends the same ones for
/// muted sound.
const SILENCE: [(&[u8], u64); 4] = [
    (&[0xfc, 0xff, 0xfe], 960),
    (&[0xf4, 0xff, 0xfe], 480),
    (&[0xec, 0xff, 0xfe], 240),
    (&[0xe4, 0xff, 0xfe], 120),
];

/// The longest packet of silence that fits into so much time, with how long it lasts; both in units of 1/48000 s.
pub(super) fn silence(time: u64) -> Option<(&'static [u8], u64)> {
    SILENCE.into_iter().find(|(_, duration)| *duration <= time)
}

/// How long a packet lasts, in units of 1/48000 s; `None` if it is no Opus packet.
pub(super) fn packet_duration(packet: &[u8]) -> Option<u64> {
    let &toc = packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config % 4)],
        config @ 12..=15 => [480, 960][usize::from(config % 2)],
        config => [120, 240, 480, 960][usize::from(config % 4)],
    };
    let frames = match toc & 0b11 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(packet.get(1)? & 0x3f),
    };
    // RFC 6716 section 3.2.5: at most 120 ms, at least one frame.
    Some(frame * frames).filter(|&d| d > 0 && d <= 5760)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_as_long_as_it_says() {
        for (packet, duration) in SILENCE {
            assert_eq!(packet_duration(packet), Some(duration));
            assert_eq!(silence(duration), Some((packet, duration)));
        }
        assert_eq!(silence(100_000).map(|(_, duration)| duration), Some(960));
        assert_eq!(silence(119), None);
    }

    #[test]
    fn durations_follow_the_table_of_contents_byte() {
        for (packet, duration) in [
            (&[0x78, 0][..], Some(960)),
            (&[0xf8], Some(960)),        // CELT fullband 20 ms, one frame
            (&[0xe0], Some(120)),        // CELT 2.5 ms
            (&[0xf9], Some(1920)),       // two frames
            (&[0x18], Some(2880)),       // SILK 60 ms
            (&[0xfb, 0x03], Some(2880)), // three frames
            (&[0xfb, 0x00], None),       // no frame at all
            (&[0x1b, 0x3f], None),       // 63 x 60 ms
            (&[0xfb], None),
            (&[], None),
        ] {
            assert_eq!(packet_duration(packet), duration, "{packet:x?}");
        }
    }
}
