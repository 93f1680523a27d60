//! What the mux must know of AAC: the sample entry that follows from an `AudioSpecificConfig` (ISO/IEC 14496-3 section
//! 1.6.2.1), and how long a frame lasts.

use mp4_atom::{
    Audio, FixedPoint, Mp4a,
    esds::{DecoderConfig, DecoderSpecific, EsDescriptor, Esds, SLConfig},
    u24,
};

use super::format::TrackFormat;

/// Sampling rates in Hz by `samplingFrequencyIndex` (ISO/IEC 14496-3 table 1.18).
const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

/// What an `AudioSpecificConfig` says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aac {
    pub format: TrackFormat,
    /// Samples per second.
    pub rate: u32,
    /// Samples in a frame.
    pub frame: u32,
}

/// Reads an `AudioSpecificConfig`; `None` if it is cut off or of a kind without a plain frame (SBR, explicit rates).
pub(super) fn read(config: &[u8]) -> Option<Aac> {
    let &[first, second, ..] = config else {
        return None;
    };
    let object_type = first >> 3;
    let rate_index = (first & 0b111) << 1 | second >> 7;
    let channels = second >> 3 & 0b1111;
    let rate = *RATES.get(usize::from(rate_index))?;
    // 1 to 4 are the object types whose specific part begins with frameLengthFlag; 7 channels is a 7.1 layout.
    if !(1..=4).contains(&object_type) || !(1..=6).contains(&channels) {
        return None;
    }
    let frame = if second & 0b100 == 0 { 1024 } else { 960 };
    Some(Aac {
        rate,
        frame,
        format: TrackFormat {
            codecs: format!("mp4a.40.{object_type}"),
            resolution: None,
            channels,
            pixel_aspect_ratio: (1, 1),
            entry: Mp4a {
                audio: Audio {
                    data_reference_index: 1,
                    channel_count: channels.into(),
                    sample_size: 16,
                    // 16.16 fixed point has no room for rates from 64 kHz on, which then say 0.
                    sample_rate: FixedPoint::new(u16::try_from(rate).unwrap_or(0), 0),
                },
                esds: Esds {
                    es_desc: EsDescriptor {
                        es_id: 1,
                        depends_on_es_id: None,
                        url: None,
                        ocr_es_id: None,
                        stream_priority: 0,
                        dec_config: DecoderConfig {
                            // Audio ISO/IEC 14496-3, as an audio stream.
                            object_type_indication: 0x40,
                            stream_type: 0x05,
                            up_stream: 0,
                            buffer_size_db: u24::default(),
                            max_bitrate: 0,
                            avg_bitrate: 0,
                            dec_specific: Some(DecoderSpecific {
                                profile: object_type,
                                freq_index: rate_index,
                                chan_conf: channels,
                                raw: config.to_vec(),
                            }),
                        },
                        sl_config: SLConfig::default(),
                    },
                },
                btrt: None,
                taic: None,
            }
            .into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_complexity_stereo_at_48_khz() {
        let aac = read(&[0x11, 0x90]).unwrap();
        assert_eq!(aac.format.codecs, "mp4a.40.2");
        assert_eq!(
            (aac.rate, aac.frame, aac.format.channels),
            (48_000, 1024, 2)
        );
    }

    #[test]
    fn mono_at_44_khz_with_short_frames() {
        let aac = read(&[0x12, 0x0c]).unwrap();
        assert_eq!((aac.rate, aac.frame, aac.format.channels), (44_100, 960, 1));
    }

    #[test]
    fn what_has_no_plain_frame_is_refused() {
        // Cut off; SBR (object type 5); explicit rate (index 15); channels in a program config element.
        for config in [
            &[][..],
            &[0x11],
            &[0x2b, 0x90],
            &[0x17, 0x90],
            &[0x11, 0x80],
        ] {
            assert_eq!(read(config), None, "{config:x?}");
        }
    }
}
