//! Sample tables of one track, grown fragment by fragment in the compact form that `stbl` has on disk. Pure; must not
//! touch files.
//!
//! Presentation times are kept exactly. Decode times are those of `tfdt`; a gap between fragments stretches the sample
//! before it, and should a fragment ever start before its predecessor's last sample, decoding is moved up to that one
//! and the composition offset takes the difference.

use bytes::Bytes;
use mp4_atom::{
    Co64, Ctts, CttsEntry, Edts, Elst, ElstEntry, Stbl, Stco, Stsc, StscEntry, Stss, Stsz,
    StszSamples, Stts, SttsEntry, Trak, Trex,
};

use super::boxes::{Reason, TrakParts};

/// One sample as a fragment describes it, in units of the track's timescale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub decode_time: u64,
    pub composition_offset: i64,
    pub duration: u32,
    pub size: u32,
    pub sync: bool,
}

/// The tables of one track.
#[derive(Debug)]
pub(super) struct Tables {
    /// The track as the head of the file describes it.
    pub trak: Trak,
    /// Defaults for its fragments.
    pub trex: Trex,
    entries: Vec<Bytes>,
    /// Index of the sample entry that holds for the next part, from 1.
    entry: u32,
    sizes: Vec<u32>,
    deltas: Vec<SttsEntry>,
    offsets: Vec<CttsEntry>,
    sync: Vec<u32>,
    chunks: Vec<u64>,
    runs: Vec<StscEntry>,
    times: Option<Times>,
}

/// Times of the samples seen so far.
#[derive(Clone, Copy, Debug)]
struct Times {
    first_decode: u64,
    last_decode: u64,
    last_duration: u32,
    earliest: i64,
    latest_end: i64,
}

/// When a track is presented, in units of its timescale on the common clock of all tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// First presentation time.
    pub start: i64,
    /// End of the last sample in presentation order.
    pub end: i64,
}

impl Tables {
    pub(super) fn new(trak: Trak, trex: Trex, entries: Vec<Bytes>) -> Self {
        Self {
            trak,
            trex,
            entries,
            entry: 1,
            sizes: Vec::new(),
            deltas: Vec::new(),
            offsets: Vec::new(),
            sync: Vec::new(),
            chunks: Vec::new(),
            runs: Vec::new(),
            times: None,
        }
    }

    /// `track_ID`.
    pub(super) fn id(&self) -> u32 {
        self.trak.tkhd.track_id
    }

    /// The sample entry that holds for the next part.
    pub(super) fn entry(&self) -> Option<&Bytes> {
        self.entries.get((self.entry as usize).checked_sub(1)?)
    }

    /// Units per second.
    pub(super) fn timescale(&self) -> u32 {
        self.trak.mdia.mdhd.timescale
    }

    /// Number of samples.
    pub(super) fn samples(&self) -> usize {
        self.sizes.len()
    }

    /// Where the track lies on the common clock; `None` without samples.
    pub(super) fn span(&self) -> Option<Span> {
        self.times.map(|times| Span {
            start: times.earliest,
            end: times.latest_end,
        })
    }

    /// The parts that follow need this sample entry.
    pub(super) fn set_entry(&mut self, entry: Bytes) -> Result<(), Reason> {
        let known = self.entries.iter().position(|known| *known == entry);
        let index = known.unwrap_or(self.entries.len());
        if known.is_none() {
            self.entries.push(entry);
        }
        self.entry = u32::try_from(index + 1)?;
        Ok(())
    }

    /// Adds samples that lie one after the other at `offset` of the file.
    pub(super) fn add_chunk(&mut self, offset: u64, samples: &[Sample]) -> Result<(), Reason> {
        if samples.is_empty() {
            return Ok(());
        }
        for sample in samples {
            self.add(sample)?;
        }
        self.chunks.push(offset);
        let run = StscEntry {
            first_chunk: u32::try_from(self.chunks.len())?,
            samples_per_chunk: u32::try_from(samples.len())?,
            sample_description_index: self.entry,
        };
        let same = self.runs.last().is_some_and(|last| {
            last.samples_per_chunk == run.samples_per_chunk
                && last.sample_description_index == run.sample_description_index
        });
        if !same {
            self.runs.push(run);
        }
        Ok(())
    }

    fn add(&mut self, sample: &Sample) -> Result<(), Reason> {
        let presentation = i64::try_from(sample.decode_time)?
            .checked_add(sample.composition_offset)
            .ok_or("a time is out of range")?;
        let end = presentation.saturating_add(i64::from(sample.duration));
        let decode = match self.times {
            None => sample.decode_time,
            Some(times) => {
                let decode = sample.decode_time.max(times.last_decode);
                let delta = u32::try_from(decode - times.last_decode)
                    .map_err(|_| "a gap is longer than an index can express")?;
                push_delta(&mut self.deltas, delta);
                decode
            }
        };
        let offset = presentation - i64::try_from(decode)?;
        match self.offsets.last_mut() {
            Some(last) if last.sample_offset == offset => last.sample_count += 1,
            _ => self.offsets.push(CttsEntry {
                sample_count: 1,
                sample_offset: offset,
            }),
        }
        self.sizes.push(sample.size);
        if sample.sync {
            self.sync.push(u32::try_from(self.sizes.len())?);
        }
        let before = self.times;
        self.times = Some(Times {
            first_decode: before.map_or(decode, |times| times.first_decode),
            last_decode: decode,
            last_duration: sample.duration,
            earliest: before.map_or(presentation, |times| times.earliest.min(presentation)),
            latest_end: before.map_or(end, |times| times.latest_end.max(end)),
        });
        Ok(())
    }

    /// The finished track of a movie with the given timescale whose time 0 is `zero` movie units on the common clock;
    /// also the time in movie units at which the track ends. `None` if the track has no samples.
    pub(super) fn finish(
        mut self,
        movie_timescale: u32,
        zero: i64,
    ) -> Result<Option<(TrakParts, u64)>, Reason> {
        let Some(times) = self.times else {
            return Ok(None);
        };
        push_delta(&mut self.deltas, times.last_duration);
        let media_duration =
            times.last_decode - times.first_decode + u64::from(times.last_duration);

        // Media time 0 is the first decode time. An edit list cannot start before it, so should a presentation time
        // lie earlier, all of them are moved up and the edit list takes them back.
        let first_decode = i64::try_from(times.first_decode)?;
        let lift = (first_decode - times.earliest).max(0);
        for entry in &mut self.offsets {
            entry.sample_offset += lift;
        }
        let media_time = u64::try_from(times.earliest - first_decode + lift)?;

        let timescale = self.timescale();
        let start = to_movie(times.earliest, timescale, movie_timescale);
        let length = to_movie(times.latest_end, timescale, movie_timescale) - start;
        let delay = u64::try_from(start - zero)?;
        let length = u64::try_from(length)?;
        let mut edits = Vec::new();
        if delay > 0 {
            edits.push(ElstEntry {
                segment_duration: delay,
                media_time: None,
                media_rate: 1.into(),
            });
        }
        edits.push(ElstEntry {
            segment_duration: length,
            media_time: Some(media_time),
            media_rate: 1.into(),
        });

        let mut trak = self.trak;
        trak.edts = Some(Edts {
            elst: Some(Elst { entries: edits }),
        });
        trak.tkhd.duration = delay + length;
        trak.mdia.mdhd.duration = media_duration;
        let all_sync = self.sync.len() == self.sizes.len();
        let no_offsets = self.offsets.iter().all(|entry| entry.sample_offset == 0);
        let (stco, co64) = match self
            .chunks
            .iter()
            .map(|&offset| u32::try_from(offset))
            .collect()
        {
            Ok(entries) => (Some(Stco { entries }), None),
            Err(_) => (
                None,
                Some(Co64 {
                    entries: self.chunks,
                }),
            ),
        };
        trak.mdia.minf.stbl = Stbl {
            stts: Stts {
                entries: self.deltas,
            },
            ctts: (!no_offsets).then_some(Ctts {
                entries: self.offsets,
            }),
            stss: (!all_sync).then_some(Stss { entries: self.sync }),
            stsc: Stsc { entries: self.runs },
            stsz: Stsz {
                samples: StszSamples::Different { sizes: self.sizes },
            },
            stco,
            co64,
            ..Stbl::default()
        };
        let parts = TrakParts {
            trak,
            entries: self.entries,
        };
        Ok(Some((parts, delay + length)))
    }
}

fn push_delta(deltas: &mut Vec<SttsEntry>, delta: u32) {
    match deltas.last_mut() {
        Some(last) if last.sample_delta == delta => last.sample_count += 1,
        _ => deltas.push(SttsEntry {
            sample_count: 1,
            sample_delta: delta,
        }),
    }
}

/// Converts a time to another timescale, rounding down; exact when `to` is a multiple of `from`.
pub(super) fn to_movie(time: i64, from: u32, to: u32) -> i64 {
    let scaled = (i128::from(time) * i128::from(to)).div_euclid(i128::from(from.max(1)));
    i64::try_from(scaled).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(timescale: u32) -> Tables {
        let mut trak = Trak::default();
        trak.mdia.mdhd.timescale = timescale;
        Tables::new(trak, Trex::default(), vec![Bytes::from_static(b"first")])
    }

    fn sample(decode_time: u64, composition_offset: i64, sync: bool) -> Sample {
        Sample {
            decode_time,
            composition_offset,
            duration: 10,
            size: 5,
            sync,
        }
    }

    fn edits(parts: &TrakParts) -> Vec<(u64, Option<u64>)> {
        let elst = parts.trak.edts.as_ref().unwrap().elst.as_ref().unwrap();
        elst.entries
            .iter()
            .map(|entry| (entry.segment_duration, entry.media_time))
            .collect()
    }

    #[test]
    fn gaps_stretch_the_sample_before_and_runs_are_joined() {
        let mut tables = tables(100);
        tables
            .add_chunk(40, &[sample(100, 0, true), sample(110, 0, false)])
            .unwrap();
        tables
            .add_chunk(70, &[sample(120, 0, false), sample(130, 0, false)])
            .unwrap();
        tables.add_chunk(90, &[sample(200, 0, true)]).unwrap();
        tables.set_entry(Bytes::from_static(b"second")).unwrap();
        tables
            .add_chunk(5_000_000_000, &[sample(210, 0, true)])
            .unwrap();
        tables.set_entry(Bytes::from_static(b"first")).unwrap();
        tables
            .add_chunk(5_000_000_010, &[sample(220, 0, false)])
            .unwrap();
        let (parts, end) = tables.finish(200, 150).unwrap().unwrap();
        let stbl = &parts.trak.mdia.minf.stbl;
        let deltas: Vec<_> = stbl
            .stts
            .entries
            .iter()
            .map(|entry| (entry.sample_count, entry.sample_delta))
            .collect();
        assert_eq!(deltas, [(3, 10), (1, 70), (3, 10)]);
        let runs: Vec<_> = stbl
            .stsc
            .entries
            .iter()
            .map(|run| {
                (
                    run.first_chunk,
                    run.samples_per_chunk,
                    run.sample_description_index,
                )
            })
            .collect();
        assert_eq!(runs, [(1, 2, 1), (3, 1, 1), (4, 1, 2), (5, 1, 1)]);
        assert_eq!(stbl.stss.as_ref().unwrap().entries, [1, 5, 6]);
        assert!(stbl.ctts.is_none() && stbl.stco.is_none());
        assert_eq!(stbl.co64.as_ref().unwrap().entries[3], 5_000_000_000);
        assert_eq!(parts.entries, ["first", "second"]);
        assert_eq!(parts.trak.mdia.mdhd.duration, 130);
        assert_eq!(edits(&parts), [(50, None), (260, Some(0))]);
        assert_eq!(end, 310);
    }

    #[test]
    fn presentation_times_survive_reordering_and_steps_back() {
        // Decode times 100, 110, 120, then a fragment that starts at 95; presentation 90, 130, 120, 95.
        let mut tables = tables(100);
        tables
            .add_chunk(
                0,
                &[
                    sample(100, -10, true),
                    sample(110, 20, false),
                    sample(120, 0, false),
                ],
            )
            .unwrap();
        tables.add_chunk(50, &[sample(95, 0, true)]).unwrap();
        assert_eq!(
            tables.span(),
            Some(Span {
                start: 90,
                end: 140
            })
        );
        let (parts, end) = tables.finish(100, 90).unwrap().unwrap();
        let stbl = &parts.trak.mdia.minf.stbl;
        let deltas = stbl
            .stts
            .entries
            .iter()
            .flat_map(|e| std::iter::repeat_n(e.sample_delta, e.sample_count as usize));
        let offsets = stbl.ctts.as_ref().unwrap().entries.iter();
        let offsets =
            offsets.flat_map(|e| std::iter::repeat_n(e.sample_offset, e.sample_count as usize));
        let mut decode = 0;
        let mut times = Vec::new();
        for (delta, offset) in deltas.zip(offsets) {
            times.push(decode + offset);
            decode += i64::from(delta);
        }
        // The edit list starts at media time 0 = the first presentation, 90.
        assert_eq!(edits(&parts), [(50, Some(0))]);
        assert_eq!(times, [0, 40, 30, 5]);
        assert_eq!(end, 50);
    }

    #[test]
    fn a_gap_of_days_is_refused_rather_than_shortened() {
        let mut tables = tables(90_000);
        tables.add_chunk(0, &[sample(0, 0, true)]).unwrap();
        assert!(tables.add_chunk(9, &[sample(1 << 33, 0, true)]).is_err());
    }
}
