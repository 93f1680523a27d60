//! From RTP packets as they arrive to packets in sequence with presentation times on one time for all tracks.
//!
//! Owns order, loss, the mapping of RTP time by sender reports (RFC 3550 section 6.4.1) or arrival, liveness of tracks
//! and the demand for keyframes. Pure: no clock, no I/O, no tasks; every time is passed in, output depends on input
//! only. It must not know where packets come from (`transport`) nor what becomes of them (`pipeline`).
//!
//! # Rules
//! * A gap in the sequence is waited for up to [`Settings::loss_wait`], then reported as [`Event::Lost`].
//! * At the start packets are held until every track has a sender report, at most [`Settings::sender_report_wait`],
//!   and then handed on at once. A publication with a single track holds nothing. A track that comes later waits for
//!   its own sender report as long, and holds nobody else.
//! * The first sender report of a track that was mapped by arrival is believed unless it moves the track by more than
//!   10 s: up to 200 ms are made up gradually (5 % of the media time, so 100 ms take 2 s), more at once. Of two tracks
//!   sound is what moves: a jump costs video the wait for a keyframe.
//! * Later reports that differ by up to 20 ms are followed in part, by at most 1 ms each (300 ppm of intervals over
//!   3.3 s), plus
//!   a rate correction that lets steady drift leave no error. Larger differences count when the next report confirms
//!   them; if they are the same on all tracks, the sender's wall clock was set and nothing moves. Differences over 10 s
//!   need three in a row and never move a track: they only tell that its NTP clock is another one.
//! * Sound that is set back is skipped until its time has come ([`TrackStats::discarded`]), which leaves no gap and no
//!   [`Event::Discontinuity`]; sound set forward, and video in either direction, is a discontinuity.
//! * A track without reports follows its own least transit time (packets that met no queue), so drift does not add up.
//! * RTP timestamps that step by more than 3 s against arrival, or another SSRC, are a discontinuity and continue where
//!   the track's arrivals say (or its sender report, if it came first).

mod align;
pub mod keyframes;
mod line;
mod mapping;
mod offset;
mod reorder;
mod stats;
mod transit;
mod unwrap;

use std::time::Duration;

use crate::media::{MediaKind, Monotonic, RtpPacket, SenderReport, TrackIndex};
use align::{Report, Reports};
use mapping::{Mapping, Place};
pub use offset::AvOffset;
use reorder::{Held, Next, Reorder};
use stats::Jitter;
pub use stats::{MappingSource, TrackStats};

/// What a track is, as far as its timeline is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackClock {
    /// Video or audio: decides which track moves when two must be aligned.
    pub kind: MediaKind,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
}

/// How long things are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a missing packet is waited for, counted from when a later one arrived. The default of 150 ms has room
    /// for two rounds of NACK and retransmission.
    pub loss_wait: Duration,
    /// How long the first packets of a track are held for its first sender report. The default of 400 ms covers OBS,
    /// `FFmpeg` and GStreamer, which send one with the first packets or within 0.3 s, and browsers, which send one when
    /// asked for it (`transport` does). aiortc's come after 0.5 to 1.3 s, and no wait that long is worth it: on arrival
    /// alone the tracks are off by the difference of their delays, some 3 ms, and that is made up when they come.
    pub sender_report_wait: Duration,
    /// A track without a packet for so long is reported as [`Event::Idle`].
    pub idle: Duration,
    /// From so many packets (and gaps) held per track on nothing is waited for any more.
    pub max_held_packets: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            loss_wait: Duration::from_millis(150),
            sender_report_wait: Duration::from_millis(400),
            idle: Duration::from_secs(1),
            max_held_packets: 2_048,
        }
    }
}

/// What comes out, per track in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next packet in sequence; its payload is never empty.
    Packet {
        /// Its track.
        track: TrackIndex,
        /// The packet.
        packet: RtpPacket,
        /// Presentation time in nanoseconds from the stream's zero, which is the earliest first packet known at the start.
        /// A track that joins later may have been captured before: not less than minus [`EARLIEST`]. Follows RTP
        /// timestamps, so not in order where the codec reorders pictures.
        pts: i64,
        /// When it arrived.
        arrival: Monotonic,
        /// Packets before it are missing.
        after_loss: bool,
    },
    /// Packets were not recovered in time; for video the caller asks for a keyframe.
    Lost {
        /// Their track.
        track: TrackIndex,
        /// How many; 0 if unknown because the sequence started anew.
        packets: u32,
    },
    /// The mapping of the track jumped: its next packet starts a new piece of the timeline.
    Discontinuity {
        /// The track.
        track: TrackIndex,
    },
    /// No packet for [`Settings::idle`]; comes once until packets resume. The caller ends the part in hand.
    Idle {
        /// The track.
        track: TrackIndex,
    },
}

/// So long before the stream's zero a track may begin that joins after it was set: its packets took longer.
pub const EARLIEST: Duration = Duration::from_secs(1);

/// The timeline of one publication.
#[derive(Debug)]
pub struct Timeline {
    settings: Settings,
    tracks: Vec<Track>,
    /// The first NTP time seen, which is zero on the NTP axis.
    ntp_base: Option<u64>,
    /// The stream's zero on the NTP axis, in ns, once a track is mapped by sender reports.
    epoch: Option<i64>,
    started: bool,
    ended: bool,
}

#[derive(Debug)]
struct Track {
    clock: TrackClock,
    reorder: Reorder,
    reports: Reports,
    mapping: Option<Mapping>,
    jitter: Jitter,
    stats: TrackStats,
    first_media: Option<Monotonic>,
    last_media: Option<Monotonic>,
    idle: bool,
    after_loss: bool,
    /// A packet whose discontinuity was handed on first, and its presentation time.
    behind_discontinuity: Option<(Held, i64)>,
    /// Least transit of the first window, held on to when there is nothing better.
    usual_transit: Option<i64>,
    /// Consecutive windows of arrivals that are seconds off.
    windows_out_of_line: u8,
}

impl Timeline {
    /// A timeline for these tracks, all of which are expected to send; none of them is waited for beyond
    /// [`Settings::sender_report_wait`].
    pub fn new(settings: Settings, tracks: &[TrackClock]) -> Self {
        let tracks = tracks
            .iter()
            .map(|clock| Track {
                clock: *clock,
                reorder: Reorder::new(
                    clock.clock_rate,
                    settings.loss_wait,
                    settings.max_held_packets,
                ),
                reports: Reports::default(),
                mapping: None,
                jitter: Jitter::default(),
                stats: TrackStats::default(),
                first_media: None,
                last_media: None,
                idle: false,
                after_loss: false,
                behind_discontinuity: None,
                usual_transit: None,
                windows_out_of_line: 0,
            })
            .collect();
        Self {
            settings,
            tracks,
            ntp_base: None,
            epoch: None,
            started: false,
            ended: false,
        }
    }

    /// Takes a packet that arrived at `now`. An unknown track is ignored.
    ///
    /// `now` does not go back from push to push; a poll in between may have been some milliseconds ahead of it, as
    /// happens when arrivals wait in a queue.
    pub fn push_rtp(&mut self, now: Monotonic, track: TrackIndex, packet: RtpPacket) {
        let Some(track) = self.tracks.get_mut(track) else {
            return;
        };
        let timestamp = packet.timestamp;
        if track.reorder.push(now, packet, &mut track.stats) {
            track.jitter.record(now, timestamp, track.clock.clock_rate);
            track.first_media.get_or_insert(now);
            track.last_media = Some(now);
            track.idle = false;
        }
    }

    /// Takes a sender report that arrived at `now`; it may come before the first packet. Bogus ones are ignored.
    pub fn push_sender_report(&mut self, now: Monotonic, track: TrackIndex, report: SenderReport) {
        let index = track;
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        if is_bogus(&report) {
            track.stats.ignored_reports += 1;
            return;
        }
        let base = *self.ntp_base.get_or_insert(report.ntp);
        let report = Report {
            ssrc: report.ssrc,
            time: unwrap::ntp(base, report.ntp),
            rtp_timestamp: report.rtp_timestamp,
            arrival: now,
        };
        let outdated = track.reports.latest.is_some_and(|latest| {
            latest.ssrc == report.ssrc
                && (0..10 * unwrap::SECOND).contains(&(latest.time - report.time))
        });
        if outdated {
            track.stats.ignored_reports += 1;
            return;
        }
        track.reports.latest = Some(report);
        self.follow_report(index);
    }

    /// The next event due at `now`. Call until `None` after each push, and at [`Self::deadline`].
    pub fn poll(&mut self, now: Monotonic) -> Option<Event> {
        self.release(now);
        (0..self.tracks.len()).find_map(|index| self.poll_track(index, now))
    }

    /// Presentation time of what would arrive right now if it took no longer than the fastest packets do; `None` while
    /// nothing has come of the track.
    pub fn presentation_time(&self, track: TrackIndex, now: Monotonic) -> Option<i64> {
        let mapping = self.tracks.get(track)?.mapping.as_ref()?;
        Some(unwrap::duration_nanos(now) - mapping.transit())
    }

    /// Whether packets of any track have come within [`Settings::idle`].
    pub fn is_live(&self, now: Monotonic) -> bool {
        let newest = self
            .tracks
            .iter()
            .filter_map(|track| track.last_media)
            .max();
        newest.is_some_and(|newest| now < newest + self.settings.idle)
    }

    /// When [`Self::poll`] has something to do though nothing is pushed.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.tracks
            .iter()
            .flat_map(|track| {
                let gap = track.mapping.as_ref().and(track.reorder.deadline());
                let idle = track
                    .last_media
                    .filter(|_| !track.idle && !track.has_media())
                    .map(|last| last + self.settings.idle);
                [self.hold_end(track), gap, idle]
            })
            .flatten()
            .min()
    }

    /// Nothing more will come: everything still held becomes due.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Counters of one track; all zero for an unknown one.
    pub fn stats(&self, track: TrackIndex) -> TrackStats {
        let Some(track) = self.tracks.get(track) else {
            return TrackStats::default();
        };
        TrackStats {
            jitter: track.jitter.get(),
            source: track.mapping.as_ref().map(|mapping| mapping.source),
            rate_ppm: track.mapping.as_ref().map_or(0.0, Mapping::rate_ppm),
            ..track.stats
        }
    }

    fn poll_track(&mut self, index: TrackIndex, now: Monotonic) -> Option<Event> {
        let track = &mut self.tracks[index];
        if let Some((held, pts)) = track.behind_discontinuity.take() {
            return Some(track.packet(index, held, pts));
        }
        track.mapping.as_ref()?;
        while let Some(next) = self.tracks[index].pop(now, self.ended) {
            let held = match next {
                Next::Media(held) => held,
                Next::Lost(packets) => {
                    self.tracks[index].after_loss = true;
                    return Some(Event::Lost {
                        track: index,
                        packets,
                    });
                }
            };
            let place = self.place(index, &held)?;
            let track = &mut self.tracks[index];
            if place.discard {
                track.stats.discarded += 1;
            }
            match (place.jumped, place.discard) {
                (false, false) => return Some(track.packet(index, held, place.pts)),
                (false, true) => {}
                (true, discard) => {
                    track.stats.discontinuities += 1;
                    if !discard {
                        track.behind_discontinuity = Some((held, place.pts));
                    }
                    return Some(Event::Discontinuity { track: index });
                }
            }
        }
        let track = &mut self.tracks[index];
        let silent = track
            .last_media
            .is_some_and(|last| last + self.settings.idle <= now);
        if silent && !track.idle && !track.has_media() {
            track.idle = true;
            return Some(Event::Idle { track: index });
        }
        None
    }

    /// Places the next packet of a mapped track and follows what its arrival says.
    fn place(&mut self, index: TrackIndex, held: &Held) -> Option<Place> {
        let Held { packet, arrival } = held;
        let mut source_changed = false;
        if self.tracks[index].mapping.as_ref()?.ssrc != packet.ssrc {
            let pts = self.resume_at(index, packet.ssrc, packet.timestamp, *arrival);
            self.tracks[index].mapping.as_mut()?.change_source(
                packet.ssrc,
                packet.timestamp,
                *arrival,
                pts,
            );
            source_changed = true;
        }
        let mut place = self.tracks[index]
            .mapping
            .as_mut()?
            .place(*arrival, packet.timestamp);
        place.jumped |= source_changed;
        if let Some(least) = place.window {
            self.follow_arrivals(index, least);
        }
        Some(place)
    }
}

impl Track {
    /// Has packets but no mapping yet.
    fn is_held(&self) -> bool {
        self.mapping.is_none() && self.has_media()
    }

    /// Has packets that are not handed on yet.
    fn has_media(&self) -> bool {
        self.reorder.media().next().is_some()
    }

    fn pop(&mut self, now: Monotonic, all: bool) -> Option<Next> {
        self.reorder.pop(now, all, &mut self.stats)
    }

    fn packet(&mut self, track: TrackIndex, held: Held, pts: i64) -> Event {
        Event::Packet {
            track,
            packet: held.packet,
            pts,
            arrival: held.arrival,
            after_loss: std::mem::take(&mut self.after_loss),
        }
    }
}

/// Times that no clock shows: unset, or filled with ones, as some senders start.
fn is_bogus(report: &SenderReport) -> bool {
    let seconds = report.ntp >> 32;
    report.ntp == 0 || seconds == u64::from(u32::MAX) || report.rtp_timestamp == u32::MAX
}

#[cfg(test)]
mod scenarios;
