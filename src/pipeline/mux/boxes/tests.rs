#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

use mp4_atom::{Any, Decode, DecodeMaybe};

use super::*;
use crate::pipeline::mux::opus;

fn fragment(samples: &[(u32, i32, bool)]) -> Fragment<Vec<u8>> {
    let samples: Vec<_> = samples
        .iter()
        .enumerate()
        .map(|(index, &(duration, composition_offset, sync))| Sample {
            duration,
            composition_offset,
            sync,
            size: index as u32 + 1,
            data: vec![index as u8; index + 1],
        })
        .collect();
    Fragment {
        decode_time: 1 << 33,
        presentation_time: 0,
        duration: 0,
        samples,
        starts_segment: true,
        discontinuity: false,
    }
}

fn written(samples: &[(u32, i32, bool)]) -> (Moof, Vec<u8>) {
    let bytes = part(&fragment(samples), 2, |data, bytes| {
        bytes.extend_from_slice(data);
    })
    .unwrap();
    let mut rest = &bytes[..];
    (Moof::decode(&mut rest).unwrap(), bytes)
}

#[test]
fn the_sequence_number_is_where_it_is_promised() {
    let (_, mut bytes) = written(&[(960, 0, true)]);
    bytes[20..24].copy_from_slice(&77_u32.to_be_bytes());
    let moof = Moof::decode(&mut &bytes[..]).unwrap();
    assert_eq!(moof.mfhd.sequence_number, 77);
}

#[test]
fn what_samples_share_is_said_once() {
    let (moof, bytes) = written(&[(960, 0, true), (960, 0, true), (960, 0, true)]);
    let traf = &moof.traf[0];
    assert_eq!(traf.tfhd.default_sample_duration, Some(960));
    assert_eq!(traf.tfhd.default_sample_flags, Some(SYNC));
    let entries: Vec<_> = traf.trun[0].samples.iter().collect();
    assert!(
        entries
            .iter()
            .all(|e| e.duration.is_none() && e.flags.is_none() && e.cts.is_none())
    );
    let offset = traf.trun[0].data_offset.unwrap() as usize;
    assert_eq!(bytes[offset - 4..offset], *b"mdat");
    assert_eq!(bytes[offset..], [0, 1, 1, 2, 2, 2]);
    assert_eq!(traf.tfdt.as_ref().unwrap().base_media_decode_time, 1 << 33);
}

#[test]
fn flags_of_every_pattern_come_back() {
    for pattern in [
        &[true][..],
        &[false],
        &[true, false, false],
        &[false, false],
        &[false, true, false],
        &[true, false, true],
    ] {
        let samples: Vec<_> = pattern.iter().map(|&sync| (3000, 0, sync)).collect();
        let (moof, _) = written(&samples);
        let traf = &moof.traf[0];
        let read: Vec<_> = traf.trun[0]
            .samples
            .iter()
            .map(|e| e.flags.or(traf.tfhd.default_sample_flags).unwrap() == SYNC)
            .collect();
        assert_eq!(read, pattern);
    }
}

#[test]
fn composition_offsets_are_signed() {
    let (moof, _) = written(&[(3000, 6000, true), (3001, -10, false)]);
    let entries: Vec<_> = moof.traf[0].trun[0].samples.iter().collect();
    assert_eq!(entries[0].cts, Some(6000));
    assert_eq!(entries[1].cts, Some(-10));
    assert_eq!(entries[1].duration, Some(3001));
}

#[test]
fn an_initialization_segment_is_ftyp_and_moov() {
    let bytes = init_segment(&opus::format(), 2, 48_000).unwrap();
    let mut rest = &bytes[..];
    let mut kinds = Vec::new();
    while let Some(atom) = Any::decode_maybe(&mut rest).unwrap() {
        if let Any::Moov(moov) = &atom {
            let trak = &moov.trak[0];
            assert_eq!(trak.tkhd.track_id, 2);
            assert_eq!(moov.mvhd.next_track_id, 3);
            assert_eq!(trak.mdia.hdlr.handler, b"soun".into());
            assert!(trak.mdia.minf.smhd.is_some() && trak.mdia.minf.vmhd.is_none());
        }
        kinds.push(atom.kind().to_string());
    }
    assert_eq!(kinds, ["ftyp", "moov"]);
}
