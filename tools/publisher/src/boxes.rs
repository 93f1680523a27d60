//! What the boxes of fragmented MP4 say, read by the `mp4-atom` crate and put as plain, serializable values, for tests
//! that judge what the gateway serves. Judges nothing itself.

use anyhow::{Context, Result, ensure};
use mp4_atom::{Any, Atom, Codec, Decode, Header, Mdat, Moof, Moov, Stbl, Traf, Trex};
use serde::Serialize;

/// `sample_is_non_sync_sample` (ISO/IEC 14496-12 section 8.8.3.1).
const NON_SYNC: u32 = 1 << 16;

/// A top-level box.
#[derive(Debug, PartialEq, Serialize)]
pub struct TopLevel {
    /// Its four characters.
    pub kind: String,
    /// Where it begins, in bytes from the beginning of the file.
    pub offset: usize,
    /// Its length in bytes, header included.
    pub bytes: usize,
    /// What a `moov` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracks: Option<Vec<Track>>,
    /// What a `moof` says, one per `traf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragments: Option<Vec<Fragment>>,
}

/// A track of a `moov`.
#[derive(Debug, PartialEq, Serialize)]
pub struct Track {
    /// Track id.
    pub id: u32,
    /// Handler: `vide` or `soun`.
    pub handler: String,
    /// Ticks per second.
    pub timescale: u32,
    /// Samples in the `moov` itself; none in an init segment.
    pub samples: u32,
    /// There is a `trex` for the track, so that fragments may follow.
    pub extended: bool,
    /// Codec in the words of RFC 6381, from the sample entry.
    pub codec: String,
    /// Width and height in pixels, by the sample entry.
    pub size: Option<(u16, u16)>,
    /// Channels, by the sample entry.
    pub channels: Option<u16>,
}

/// A `traf`.
#[derive(Debug, PartialEq, Serialize)]
pub struct Fragment {
    /// Track id.
    pub track: u32,
    /// `default-base-is-moof`.
    pub default_base_is_moof: bool,
    /// `base_data_offset` is there, which byte ranges do not survive.
    pub base_data_offset: bool,
    /// Base media decode time in ticks, if there is a `tfdt`.
    pub decode_time: Option<u64>,
    /// Sum of the samples' durations in ticks.
    pub duration: u64,
    /// Sum of the samples' sizes in bytes.
    pub size: u64,
    /// Number of samples.
    pub samples: usize,
    /// Earliest presentation time in ticks.
    pub presentation_time: i64,
    /// The first sample is a sync sample.
    pub starts_with_sync: bool,
    /// Number of sync samples.
    pub syncs: usize,
}

/// Reads all top-level boxes.
///
/// # Errors
/// When the bytes are not whole boxes, or a `moof` names a track that no `moov` before it extends.
pub fn read(bytes: &[u8]) -> Result<Vec<TopLevel>> {
    let mut all = Vec::new();
    let mut defaults: Vec<Trex> = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let mut rest = &bytes[offset..];
        let header = Header::decode(&mut rest).with_context(|| format!("no box at {offset}"))?;
        let body = header.size.unwrap_or(rest.len());
        let length = bytes.len() - offset - rest.len() + body;
        ensure!(body <= rest.len(), "the box at {offset} is cut short");
        let mut top = TopLevel {
            kind: header.kind.to_string(),
            offset,
            bytes: length,
            tracks: None,
            fragments: None,
        };
        let mut whole = &bytes[offset..offset + length];
        // What mdat holds is not looked at.
        if header.kind != Mdat::KIND {
            match Any::decode(&mut whole)
                .with_context(|| format!("the {} at {offset}", header.kind))?
            {
                Any::Moov(moov) => {
                    top.tracks = Some(moov.trak.iter().map(|trak| track(trak, &moov)).collect());
                    defaults = moov.mvex.map(|mvex| mvex.trex).unwrap_or_default();
                }
                Any::Moof(moof) => top.fragments = Some(fragments(&moof, &defaults)?),
                _ => {}
            }
        }
        all.push(top);
        offset += length;
    }
    Ok(all)
}

fn track(trak: &mp4_atom::Trak, moov: &Moov) -> Track {
    let stbl = &trak.mdia.minf.stbl;
    let entry = stbl.stsd.codecs.first();
    let id = trak.tkhd.track_id;
    Track {
        id,
        handler: trak.mdia.hdlr.handler.to_string(),
        timescale: trak.mdia.mdhd.timescale,
        samples: samples(stbl),
        extended: moov
            .mvex
            .as_ref()
            .is_some_and(|mvex| mvex.trex.iter().any(|trex| trex.track_id == id)),
        codec: entry.map(codec).unwrap_or_default(),
        size: entry.and_then(size),
        channels: entry.and_then(channels),
    }
}

fn samples(stbl: &Stbl) -> u32 {
    stbl.stts
        .entries
        .iter()
        .map(|entry| entry.sample_count)
        .sum()
}

/// RFC 6381 name of what an entry describes; the entry's debug output for those that no test asks for.
fn codec(entry: &Codec) -> String {
    match entry {
        Codec::Avc1(avc1) => format!(
            "avc1.{:02x}{:02x}{:02x}",
            avc1.avcc.avc_profile_indication,
            avc1.avcc.profile_compatibility,
            avc1.avcc.avc_level_indication
        ),
        Codec::Vp09(vp09) => format!(
            "vp09.{:02}.{:02}.{:02}",
            vp09.vpcc.profile, vp09.vpcc.level, vp09.vpcc.bit_depth
        ),
        Codec::Opus(_) => "opus".to_owned(),
        Codec::Mp4a(mp4a) => format!(
            "mp4a.{:02x}.{}",
            mp4a.esds.es_desc.dec_config.object_type_indication,
            mp4a.esds
                .es_desc
                .dec_config
                .dec_specific
                .as_ref()
                .map_or(0, |specific| specific.profile)
        ),
        other => format!("{other:?}"),
    }
}

fn size(entry: &Codec) -> Option<(u16, u16)> {
    let visual = match entry {
        Codec::Avc1(entry) => &entry.visual,
        Codec::Hvc1(entry) => &entry.visual,
        Codec::Av01(entry) => &entry.visual,
        Codec::Vp09(entry) => &entry.visual,
        _ => return None,
    };
    Some((visual.width, visual.height))
}

fn channels(entry: &Codec) -> Option<u16> {
    match entry {
        Codec::Opus(entry) => Some(entry.audio.channel_count),
        Codec::Mp4a(entry) => Some(entry.audio.channel_count),
        _ => None,
    }
}

fn fragments(moof: &Moof, defaults: &[Trex]) -> Result<Vec<Fragment>> {
    moof.traf
        .iter()
        .map(|traf| {
            let id = traf.tfhd.track_id;
            let trex = defaults.iter().find(|trex| trex.track_id == id);
            trex.map(|trex| fragment(traf, trex))
                .with_context(|| format!("no moov before the moof extends track {id}"))
        })
        .collect()
}

fn fragment(traf: &Traf, trex: &Trex) -> Fragment {
    let tfhd = &traf.tfhd;
    let default_duration = tfhd
        .default_sample_duration
        .unwrap_or(trex.default_sample_duration);
    let default_size = tfhd.default_sample_size.unwrap_or(trex.default_sample_size);
    let default_flags = tfhd
        .default_sample_flags
        .unwrap_or(trex.default_sample_flags);
    let decode_time = traf.tfdt.as_ref().map(|tfdt| tfdt.base_media_decode_time);
    let mut fragment = Fragment {
        track: tfhd.track_id,
        default_base_is_moof: tfhd.default_base_is_moof,
        base_data_offset: tfhd.base_data_offset.is_some(),
        decode_time,
        duration: 0,
        size: 0,
        samples: 0,
        presentation_time: i64::MAX,
        starts_with_sync: false,
        syncs: 0,
    };
    for sample in traf.trun.iter().flat_map(|trun| trun.samples.iter()) {
        let at = (decode_time.unwrap_or(0) + fragment.duration) as i64 + sample.cts.unwrap_or(0);
        let sync = sample.flags.unwrap_or(default_flags) & NON_SYNC == 0;
        fragment.presentation_time = fragment.presentation_time.min(at);
        fragment.starts_with_sync |= sync && fragment.samples == 0;
        fragment.syncs += usize::from(sync);
        fragment.duration += u64::from(sample.duration.unwrap_or(default_duration));
        fragment.size += u64::from(sample.size.unwrap_or(default_size));
        fragment.samples += 1;
    }
    fragment
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp4_atom::{Encode, Ftyp, Mvex, Tfdt, Tfhd, Trun, TrunEntry};

    fn encoded(atoms: &[Any]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for atom in atoms {
            atom.encode(&mut bytes).unwrap();
        }
        bytes
    }

    fn moof(flags: [Option<u32>; 2]) -> Any {
        let entry = |flags, cts| TrunEntry {
            duration: None,
            size: Some(10),
            flags,
            cts: Some(cts),
        };
        Moof {
            traf: vec![Traf {
                tfhd: Tfhd {
                    track_id: 1,
                    default_base_is_moof: true,
                    ..Tfhd::default()
                },
                tfdt: Some(Tfdt {
                    base_media_decode_time: 900,
                }),
                trun: vec![Trun {
                    data_offset: Some(0),
                    samples: vec![entry(flags[0], 200), entry(flags[1], 50)].into(),
                }],
                ..Traf::default()
            }],
            ..Moof::default()
        }
        .into()
    }

    fn moov() -> Any {
        Moov {
            mvex: Some(Mvex {
                mehd: None,
                trex: vec![Trex {
                    track_id: 1,
                    default_sample_description_index: 1,
                    default_sample_duration: 100,
                    default_sample_flags: NON_SYNC,
                    ..Trex::default()
                }],
            }),
            ..Moov::default()
        }
        .into()
    }

    #[test]
    fn a_fragment_is_summed_up_with_the_defaults_of_its_track() {
        let ftyp = Ftyp {
            major_brand: b"iso6".into(),
            minor_version: 0,
            compatible_brands: Vec::new(),
        };
        let bytes = encoded(&[ftyp.into(), moov(), moof([Some(0), None])]);
        let boxes = read(&bytes).unwrap();
        let kinds: Vec<_> = boxes.iter().map(|top| top.kind.as_str()).collect();
        assert_eq!(kinds, ["ftyp", "moov", "moof"]);
        assert_eq!(boxes[2].offset + boxes[2].bytes, bytes.len());
        assert_eq!(
            boxes[2].fragments,
            Some(vec![Fragment {
                track: 1,
                default_base_is_moof: true,
                base_data_offset: false,
                decode_time: Some(900),
                duration: 200,
                size: 20,
                samples: 2,
                presentation_time: 1050,
                starts_with_sync: true,
                syncs: 1,
            }])
        );
    }

    #[test]
    fn half_boxes_and_unknown_tracks_are_errors() {
        let bytes = encoded(&[moov()]);
        assert!(read(&bytes[..bytes.len() - 1]).is_err());
        assert!(read(&encoded(&[moof([None, None])])).is_err());
    }
}
