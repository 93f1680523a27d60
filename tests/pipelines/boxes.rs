//! Reads parts back with `mp4-atom` and checks them against what the pipeline says about them.

use mp4_atom::{Decode, Ftyp, Header, Moof, Moov};
use whipgate::media::{InitSegment, Part};

/// One sample as its boxes say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub decode_time: u64,
    pub presentation_time: i64,
    pub duration: u64,
    pub sync: bool,
}

pub(crate) fn read_init(init: &InitSegment) -> Moov {
    let mut bytes = &init.bytes[..];
    let ftyp = Ftyp::decode(&mut bytes).expect("ftyp");
    assert!(ftyp.compatible_brands.contains(&b"cmfc".into()));
    let moov = Moov::decode(&mut bytes).expect("moov");
    assert!(bytes.is_empty(), "nothing after moov");
    let trak = &moov.trak[0];
    assert_eq!(trak.mdia.mdhd.timescale, init.timescale);
    assert_eq!(trak.mdia.minf.stbl.stsd.codecs.len(), 1);
    assert_eq!(
        moov.mvex.as_ref().unwrap().trex[0].track_id,
        trak.tkhd.track_id
    );
    if let Some((width, height)) = init.resolution {
        assert_eq!(u32::from(trak.tkhd.width.integer()), width);
        assert_eq!(u32::from(trak.tkhd.height.integer()), height);
    }
    moov
}

/// Checks one part by itself and returns its samples.
pub(crate) fn read_part(part: &Part, track_id: u32) -> Vec<Sample> {
    const SYNC: u32 = 0x0200_0000;
    let mut bytes = &part.bytes[..];
    let moof = Moof::decode(&mut bytes).expect("moof");
    let moof_len = part.bytes.len() - bytes.len();
    assert_eq!(&part.bytes[4..8], b"moof");
    assert_eq!(&part.bytes[12..16], b"mfhd");
    assert_eq!(&part.bytes[20..24], &[0; 4], "place of the sequence number");
    let mdat = Header::decode(&mut bytes).expect("mdat");
    assert_eq!(mdat.kind, b"mdat".into());
    assert_eq!(mdat.size, Some(bytes.len()), "mdat is the last box");

    assert_eq!(moof.traf.len(), 1);
    let traf = &moof.traf[0];
    assert_eq!(traf.tfhd.track_id, track_id);
    assert!(traf.tfhd.default_base_is_moof);
    assert_eq!(traf.trun.len(), 1);
    let run = &traf.trun[0];
    assert_eq!(run.data_offset, Some(i32::try_from(moof_len + 8).unwrap()));
    let mut time = traf.tfdt.as_ref().expect("tfdt").base_media_decode_time;
    assert_eq!(time, part.decode_time);

    let mut samples = Vec::new();
    let mut size = 0;
    for entry in &run.samples {
        let duration = entry
            .duration
            .or(traf.tfhd.default_sample_duration)
            .expect("a duration");
        let flags = entry
            .flags
            .or(traf.tfhd.default_sample_flags)
            .expect("flags");
        assert!(duration > 0);
        samples.push(Sample {
            decode_time: time,
            presentation_time: i64::try_from(time).unwrap() + entry.cts.unwrap_or(0),
            duration: duration.into(),
            sync: flags == SYNC,
        });
        time += u64::from(duration);
        size += entry.size.expect("a size") as usize;
    }
    assert_eq!(size, bytes.len(), "the samples fill mdat");
    assert_eq!(samples.len(), part.samples as usize);
    assert_eq!(time - part.decode_time, part.duration);
    assert_eq!(samples[0].sync, part.independent);
    assert_eq!(
        samples.iter().map(|s| s.presentation_time).min(),
        Some(i64::try_from(part.presentation_time).unwrap())
    );
    samples
}

/// Checks the parts of one piece against each other and returns all samples.
pub(crate) fn read_parts(parts: &[Part], track_id: u32) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut end = None;
    for part in parts {
        if let Some(end) = end {
            if part.discontinuity {
                assert!(part.starts_segment);
            } else {
                assert_eq!(
                    part.decode_time, end,
                    "tfdt goes on where the part before ended"
                );
            }
        } else {
            assert!(part.starts_segment && part.discontinuity && part.independent);
        }
        samples.extend(read_part(part, track_id));
        end = Some(part.decode_time + part.duration);
    }
    samples
}

/// Lengths of the segments that the parts make, in ticks, without the last one.
pub(crate) fn segments(parts: &[Part]) -> Vec<u64> {
    let starts: Vec<_> = parts
        .iter()
        .filter(|p| p.starts_segment)
        .map(|p| p.decode_time)
        .collect();
    starts.windows(2).map(|w| w[1] - w[0]).collect()
}
