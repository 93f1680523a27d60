//! The boxes of an initialization segment and of a part (ISO/IEC 14496-12, with CMAF's limits, ISO/IEC 23000-19).
//!
//! Owns their layout. It must not know GStreamer, cut rules or codecs beyond the sample entry it is given.

use mp4_atom::{
    Atom, Dinf, Dref, Encode, FixedPoint, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Mfhd, Minf, Moof, Moov,
    Mvex, Mvhd, Smhd, Stbl, Stco, Stsd, Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, Url,
    Vmhd,
};

use super::{
    format::TrackFormat,
    fragment::{Fragment, Sample},
};

/// `sample_depends_on` = 2: no other sample is needed (ISO/IEC 14496-12 section 8.6.4.3).
const SYNC: u32 = 0x0200_0000;
/// `sample_depends_on` = 1, `sample_is_non_sync_sample`.
const NON_SYNC: u32 = 0x0101_0000;

/// `ftyp` + `moov` of one track.
pub(crate) fn init_segment(
    format: &TrackFormat,
    track_id: u32,
    timescale: u32,
) -> mp4_atom::Result<Vec<u8>> {
    let video = format.resolution.is_some();
    let mut compatible_brands = vec![b"iso6".into(), b"cmfc".into(), b"mp41".into()];
    if let mp4_atom::Codec::Av01(_) = format.entry {
        compatible_brands.push(FourCC::new(b"av01"));
    }
    let ftyp = Ftyp {
        major_brand: b"iso6".into(),
        minor_version: 0,
        compatible_brands,
    };
    let (width, height) = format.display_size();
    let moov = Moov {
        mvhd: Mvhd {
            timescale: 1000,
            rate: FixedPoint::new(1, 0),
            volume: FixedPoint::new(1, 0),
            next_track_id: track_id.saturating_add(1),
            ..Mvhd::default()
        },
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex {
                track_id,
                default_sample_description_index: 1,
                ..Trex::default()
            }],
        }),
        trak: vec![Trak {
            tkhd: Tkhd {
                track_id,
                enabled: true,
                in_movie: true,
                volume: FixedPoint::new(u8::from(!video), 0),
                width: FixedPoint::new(width, 0),
                height: FixedPoint::new(height, 0),
                ..Tkhd::default()
            },
            mdia: Mdia {
                mdhd: Mdhd {
                    timescale,
                    language: "und".to_owned(),
                    ..Mdhd::default()
                },
                hdlr: if video {
                    Hdlr {
                        handler: b"vide".into(),
                        name: "VideoHandler".to_owned(),
                    }
                } else {
                    Hdlr {
                        handler: b"soun".into(),
                        name: "SoundHandler".to_owned(),
                    }
                },
                minf: Minf {
                    vmhd: video.then(Vmhd::default),
                    smhd: (!video).then(Smhd::default),
                    dinf: Dinf {
                        dref: Dref {
                            entries: vec![Url::default().into()],
                        },
                    },
                    stbl: Stbl {
                        stsd: Stsd {
                            codecs: vec![format.entry.clone()],
                        },
                        stco: Some(Stco::default()),
                        ..Stbl::default()
                    },
                    ..Minf::default()
                },
            },
            ..Trak::default()
        }],
        ..Moov::default()
    };
    let mut bytes = Vec::with_capacity(1024);
    ftyp.encode(&mut bytes)?;
    moov.encode(&mut bytes)?;
    Ok(bytes)
}

/// `moof` + `mdat` of one fragment. `moof` is the first box and `mfhd` its first child, so `sequence_number` sits at
/// bytes 20..24; it is written as 0 for the consumer to fill in.
pub(crate) fn part<P>(
    fragment: &Fragment<P>,
    track_id: u32,
    mut append: impl FnMut(&P, &mut Vec<u8>),
) -> mp4_atom::Result<Vec<u8>> {
    let payload: usize = fragment.samples.iter().map(|s| s.size as usize).sum();
    let mut moof = moof(fragment, track_id);
    let mut bytes = Vec::with_capacity(payload + 160 + 16 * fragment.samples.len());
    moof.encode(&mut bytes)?;
    // Offsets count from the start of `moof` (default-base-is-moof); the payload follows the header of `mdat`.
    let data_offset = i32::try_from(bytes.len() + 8).ok();
    for run in moof.traf.iter_mut().flat_map(|traf| &mut traf.trun) {
        run.data_offset = data_offset;
    }
    bytes.clear();
    moof.encode(&mut bytes)?;
    let size =
        u32::try_from(payload + 8).map_err(|_| mp4_atom::Error::TooLarge(mp4_atom::Mdat::KIND))?;
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(b"mdat");
    for sample in &fragment.samples {
        append(&sample.data, &mut bytes);
    }
    Ok(bytes)
}

fn moof<P>(fragment: &Fragment<P>, track_id: u32) -> Moof {
    let samples = &fragment.samples;
    let flags = |sample: &Sample<P>| if sample.sync { SYNC } else { NON_SYNC };
    // What all samples share, or all but the first one, is said once.
    let duration = samples
        .first()
        .map(|s| s.duration)
        .filter(|&d| samples.iter().all(|s| s.duration == d));
    let later = samples.get(1).or(samples.first()).map(flags);
    let uniform_later = later.filter(|&f| samples.iter().skip(1).all(|s| flags(s) == f));
    let offsets = samples.iter().any(|s| s.composition_offset != 0);
    let entries: Vec<_> = samples
        .iter()
        .enumerate()
        .map(|(index, sample)| TrunEntry {
            duration: duration.is_none().then_some(sample.duration),
            size: Some(sample.size),
            flags: match uniform_later {
                Some(default) if index > 0 || flags(sample) == default => None,
                _ => Some(flags(sample)),
            },
            cts: offsets.then_some(sample.composition_offset.into()),
        })
        .collect();
    Moof {
        mfhd: Mfhd { sequence_number: 0 },
        traf: vec![Traf {
            tfhd: Tfhd {
                track_id,
                default_sample_duration: duration,
                default_sample_flags: uniform_later,
                default_base_is_moof: true,
                ..Tfhd::default()
            },
            tfdt: Some(Tfdt {
                base_media_decode_time: fragment.decode_time,
            }),
            trun: vec![Trun {
                data_offset: Some(0),
                samples: entries.into(),
            }],
            ..Traf::default()
        }],
    }
}

#[cfg(test)]
mod tests;
