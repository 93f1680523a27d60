//! One track that is being sent: where its access units come from and what RTP needs to count.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use str0m::{
    media::{MediaKind, Mid, Pt},
    rtp::Ssrc,
};

use crate::{
    clip::Clip,
    codec::VideoCodec,
    encode::Encoded,
    live::Units,
    packetize::{AccessUnit, Packetizer},
    path::{Path, PathOptions},
    stamp::Stamp,
};

/// Packets kept for retransmission without RTX: about 3 s of 2.5 Mbit/s.
const HISTORY: usize = 1024;

/// Where access units come from.
#[derive(Debug)]
pub(crate) enum Feed {
    /// Each clip once, in turn, for ever.
    Clips {
        clips: Vec<Arc<Clip>>,
        clip: usize,
        unit: usize,
    },
    /// As they come out of a live encoder.
    Live { units: Units, ended: bool },
}

impl Feed {
    pub(crate) fn clips(clips: Vec<Arc<Clip>>) -> Self {
        Self::Clips {
            clips,
            clip: 0,
            unit: 0,
        }
    }

    /// How long, in ticks, units have to wait so that none is sent before the time at which it is shown.
    fn behind(&self) -> u64 {
        let Self::Clips { clips, .. } = self else {
            return 0;
        };
        let latest = clips.iter().flat_map(|clip| &clip.shown_later).max();
        latest.map_or(0, |ticks| u64::from(ticks.unsigned_abs()))
    }
}

/// A packet as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) wallclock: Instant,
    pub(crate) marker: bool,
    pub(crate) payload: Arc<[u8]>,
}

/// What a track is before anything was negotiated.
#[derive(Debug)]
pub(crate) struct TrackSource {
    pub(crate) codec: Option<VideoCodec>,
    pub(crate) feed: Feed,
    pub(crate) size: (u16, u16),
    pub(crate) path: PathOptions,
}

impl TrackSource {
    pub(crate) const fn kind(&self) -> MediaKind {
        if self.codec.is_some() {
            MediaKind::Video
        } else {
            MediaKind::Audio
        }
    }

    pub(crate) const fn clock_rate(&self) -> u32 {
        if self.codec.is_some() { 90_000 } else { 48_000 }
    }
}

/// How the track was negotiated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) mid: Mid,
    pub(crate) pt: Pt,
    pub(crate) ssrc: Ssrc,
    pub(crate) rtx: Option<Ssrc>,
    /// Repairs go over RTX; otherwise the packet itself is sent again.
    pub(crate) rtx_accepted: bool,
}

#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) net: Negotiated,
    pub(crate) codec: Option<VideoCodec>,
    pub(crate) clock_rate: u32,
    pub(crate) path: Path,
    /// The sending stream exists in str0m: from the first packet on, so that no sender report precedes it.
    pub(crate) started: bool,
    pub(crate) paused: bool,
    pub(crate) feed: Feed,
    /// Ticks of the RTP clock since media time zero at which the next clip unit is due.
    ticks: u64,
    /// How many ticks later than in its turn a clip's unit is sent, so that none is sent before it is shown.
    behind: u64,
    packetizer: Packetizer,
    sequence: u64,
    timestamp_offset: u32,
    picture: u32,
    needs_keyframe: bool,
    history: VecDeque<Sent>,
}

impl Track {
    pub(crate) fn new(source: TrackSource, net: Negotiated, start: (u16, u32), seed: u64) -> Self {
        Self {
            net,
            codec: source.codec,
            clock_rate: source.clock_rate(),
            path: Path::new(source.path, seed),
            started: false,
            paused: false,
            ticks: 0,
            behind: source.feed.behind(),
            packetizer: source.codec.map_or(Packetizer::Opus, |codec| {
                Packetizer::video(codec, source.size)
            }),
            feed: source.feed,
            sequence: u64::from(start.0),
            timestamp_offset: start.1,
            picture: 0,
            needs_keyframe: true,
            history: VecDeque::new(),
        }
    }

    pub(crate) const fn is_video(&self) -> bool {
        self.codec.is_some()
    }

    /// Media time at which the next clip unit is sent; `None` for a live feed.
    pub(crate) fn due(&self) -> Option<Duration> {
        matches!(self.feed, Feed::Clips { .. }).then(|| self.media_time(self.ticks + self.behind))
    }

    /// Media time of the next clip unit, in the order of sending.
    pub(crate) fn clip_time(&self) -> Duration {
        self.media_time(self.ticks)
    }

    /// The clip unit that is due, with the ticks at which it is shown; moves on to the next.
    pub(crate) fn next_clip_unit(&mut self) -> Option<(AccessUnit, u64)> {
        let Feed::Clips { clips, clip, unit } = &mut self.feed else {
            return None;
        };
        let current = clips.get(*clip)?;
        let access_unit = current.units.get(*unit)?.clone();
        let later = current.shown_later.get(*unit).copied().unwrap_or(0);
        let ticks = self.ticks.saturating_add_signed(i64::from(later));
        self.ticks += u64::from(current.ticks);
        if *unit == 0
            && let Packetizer::Vp9 { size, .. } = &mut self.packetizer
        {
            *size = current.size;
        }
        *unit += 1;
        if *unit == current.units.len() {
            *unit = 0;
            *clip = (*clip + 1) % clips.len();
        }
        Some((access_unit, ticks))
    }

    /// The next unit of a live feed.
    pub(crate) fn poll_live(&mut self, context: &mut Context<'_>) -> Poll<Encoded> {
        let Feed::Live { units, ended } = &mut self.feed else {
            return Poll::Pending;
        };
        if *ended {
            return Poll::Pending;
        }
        match units.poll_recv(context) {
            Poll::Ready(Some(encoded)) => Poll::Ready(encoded),
            Poll::Ready(None) => {
                *ended = true;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    pub(crate) fn media_time(&self, ticks: u64) -> Duration {
        let rate = u64::from(self.clock_rate);
        Duration::from_secs(ticks / rate)
            + Duration::from_nanos(ticks % rate * 1_000_000_000 / rate)
    }

    /// Ticks of the RTP clock at `nanos` since media time zero, to the nearest.
    pub(crate) fn ticks_at(&self, nanos: u64) -> u64 {
        ((u128::from(nanos) * u128::from(self.clock_rate) + 500_000_000) / 1_000_000_000) as u64
    }

    /// The packets of `unit`; empty while the track waits for its first keyframe. Pictures get a stamp if `publication` says
    /// whose they are and the codec has a place for it.
    pub(crate) fn packets(
        &mut self,
        mut unit: AccessUnit,
        ticks: u64,
        wallclock: Instant,
        publication: Option<u32>,
    ) -> Vec<Sent> {
        if self.needs_keyframe && !unit.keyframe {
            return Vec::new();
        }
        self.needs_keyframe = false;
        if unit.pieces.is_empty() {
            return Vec::new();
        }
        if let Some(publication) = publication {
            let stamp = Stamp::now(publication, self.picture);
            insert_stamp(self.codec, &mut unit.pieces, &stamp);
        }
        self.picture = self.picture.wrapping_add(1);
        let now = Instant::now();
        let timestamp = self.timestamp_offset.wrapping_add(ticks as u32);
        let payloads = self.packetizer.packetize(&unit);
        let count = payloads.len();
        let mut packets = Vec::with_capacity(count);
        for (index, mut payload) in payloads.into_iter().enumerate() {
            self.path.spoil(now, &mut payload);
            let packet = Sent {
                sequence: self.sequence,
                timestamp,
                wallclock,
                marker: self.is_video() && index + 1 == count,
                payload: payload.into(),
            };
            self.sequence += 1;
            if self.is_video() && !self.net.rtx_accepted {
                self.remember(packet.clone());
            }
            packets.push(packet);
        }
        packets
    }

    /// What follows comes from another source: its own SSRC, sequence numbers and time stamps.
    pub(crate) fn change_source(&mut self, ssrc: Ssrc) {
        self.net.ssrc = ssrc;
        self.started = false;
        self.sequence = u64::from(rand::random::<u16>() >> 1);
        self.timestamp_offset = rand::random();
        self.history.clear();
    }

    /// What follows has time stamps that are `ticks` further on.
    pub(crate) fn jump(&mut self, ticks: i32) {
        self.timestamp_offset = self.timestamp_offset.wrapping_add_signed(ticks);
    }

    /// A packet that was asked for again.
    pub(crate) fn sent(&self, sequence: u16) -> Option<&Sent> {
        self.history
            .iter()
            .rev()
            .find(|packet| packet.sequence as u16 == sequence)
    }

    fn remember(&mut self, packet: Sent) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(packet);
    }
}

/// Puts the stamp in front of the first slice, after parameter sets.
fn insert_stamp(codec: Option<VideoCodec>, pieces: &mut Vec<Bytes>, stamp: &Stamp) {
    let (nal, is_slice): (_, fn(u8) -> bool) = match codec {
        Some(VideoCodec::H264) => (stamp.h264_sei(), |header| matches!(header & 0x1f, 1..=5)),
        Some(VideoCodec::H265) => (stamp.h265_sei(), |header| (header >> 1) & 0x3f < 32),
        _ => return,
    };
    let at = pieces
        .iter()
        .position(|piece| piece.first().is_some_and(|header| is_slice(*header)));
    pieces.insert(at.unwrap_or(pieces.len()), nal.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp;

    fn track(codec: VideoCodec, clips: Vec<Arc<Clip>>) -> Track {
        let source = TrackSource {
            codec: Some(codec),
            feed: Feed::clips(clips),
            size: (64, 64),
            path: PathOptions::default(),
        };
        let net = Negotiated {
            mid: "0".into(),
            pt: Pt::new_with_value(96),
            ssrc: 1.into(),
            rtx: None,
            rtx_accepted: false,
        };
        Track::new(source, net, (65_535, u32::MAX - 2_999), 0)
    }

    fn clip(first: u8, units: usize) -> Arc<Clip> {
        let unit = |index: usize| AccessUnit {
            pieces: vec![
                Bytes::from_static(&[0x67, 1, 2]),
                Bytes::from(vec![
                    if index == 0 { 0x65 } else { 0x41 },
                    first,
                    index as u8,
                ]),
            ],
            keyframe: index == 0,
        };
        Arc::new(Clip {
            units: (0..units).map(unit).collect(),
            shown_later: Vec::new(),
            ticks: 3000,
            clock_rate: 90_000,
            size: (64, 64),
        })
    }

    #[test]
    fn clips_follow_each_other_with_continuing_time() {
        let mut track = track(VideoCodec::H264, vec![clip(1, 2), clip(2, 1)]);
        let seen: Vec<_> = (0..5)
            .map(|_| {
                let (unit, ticks) = track.next_clip_unit().unwrap();
                (unit.pieces[1][1], unit.pieces[1][2], ticks)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (1, 0, 0),
                (1, 1, 3000),
                (2, 0, 6000),
                (1, 0, 9000),
                (1, 1, 12_000)
            ]
        );
        assert_eq!(
            track.due(),
            Some(Duration::from_nanos(15_000 * 1_000_000_000 / 90_000))
        );
    }

    #[test]
    fn sequence_numbers_and_timestamps_wrap_and_stamps_count() {
        let mut track = track(VideoCodec::H264, vec![clip(1, 3)]);
        let now = Instant::now();
        let packets: Vec<Sent> = (0..3)
            .flat_map(|_| {
                let (unit, ticks) = track.next_clip_unit().unwrap();
                track.packets(unit, ticks, now, Some(42))
            })
            .collect();
        assert_eq!(
            packets
                .iter()
                .map(|packet| packet.sequence as u16)
                .collect::<Vec<_>>(),
            [65_535, 0, 1]
        );
        assert_eq!(
            packets
                .iter()
                .map(|packet| packet.timestamp)
                .collect::<Vec<_>>(),
            [u32::MAX - 2_999, 0, 3000]
        );
        assert!(packets.iter().all(|packet| packet.marker));
        let stamps: Vec<_> = packets
            .iter()
            .flat_map(|packet| stamp::find_all(&packet.payload).collect::<Vec<_>>())
            .collect();
        assert_eq!(
            stamps
                .iter()
                .map(|stamp| (stamp.publication, stamp.picture))
                .collect::<Vec<_>>(),
            [(42, 0), (42, 1), (42, 2)]
        );
        assert_eq!(track.sent(0).unwrap().timestamp, 0);
    }

    #[test]
    fn waits_for_the_first_keyframe() {
        let mut track = track(VideoCodec::H264, vec![clip(1, 2)]);
        let inter = track
            .next_clip_unit()
            .and_then(|_| track.next_clip_unit())
            .unwrap();
        assert!(
            track
                .packets(inter.0, inter.1, Instant::now(), None)
                .is_empty()
        );
    }

    #[test]
    fn live_times_are_rounded_to_the_tick() {
        let track = track(VideoCodec::H264, vec![clip(1, 1)]);
        assert_eq!(track.ticks_at(33_333_333), 3000);
        assert_eq!(track.ticks_at(3_600_033_333_333), 324_003_000);
    }
}
