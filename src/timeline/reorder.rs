//! The reorder buffer of one track: packets in as they arrive, out in sequence, each once.
//!
//! Owns sequence numbers, the wait for missing packets, duplicates and restarts of the sequence. Knows nothing of
//! presentation times; timestamps are only looked at to tell a restarted sender from a late packet.

use std::collections::VecDeque;

use super::{
    stats::TrackStats,
    unwrap::{SECOND, nanos, sequence},
};
use crate::media::{Monotonic, RtpPacket};
use std::time::Duration;

/// A jump forward by more than this is taken for a restart (after a second packet confirms it) instead of a gap to wait
/// for: no sender keeps so many packets for retransmission that arrive within the loss wait.
const MAX_GAP: i64 = 1_000;
/// A packet further behind than this is no late retransmission. OBS keeps 4,000 packets for retransmission.
const MAX_BEHIND: i64 = 8_192;
/// A gap filled sooner than this was reordering in the network: NACKs are sent every 20 ms at the earliest.
const RETRANSMISSION_FLOOR: Duration = Duration::from_millis(15);
/// The first packet to arrive may have overtaken so many.
const MAX_OVERTAKEN: usize = 64;
/// So many packets of a possible new run are kept until two in direct succession confirm it.
const MAX_CANDIDATES: usize = 64;
/// How long a new run waits for packets that its first ones overtook: they belong to a keyframe.
const RESTART_WAIT: Duration = Duration::from_millis(20);
/// How many given-up sequence numbers back are remembered to tell a late packet from a duplicate.
const HISTORY: u16 = 1_024;

/// A packet and when it arrived.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) packet: RtpPacket,
    pub(super) arrival: Monotonic,
}

#[derive(Debug)]
enum Slot {
    /// Not here yet; given up at that time.
    Missing { give_up: Monotonic },
    /// A packet with payload.
    Media(Held),
    /// A packet without payload: keeps its place in the sequence, is not handed on.
    Padding,
    /// The sequence starts anew behind this; so many packets are known to be missing in between. Until `settled`,
    /// packets that were overtaken by the first ones still find their place.
    Restart { missing: u32, settled: Monotonic },
}

/// What comes next in sequence.
#[derive(Debug)]
pub(super) enum Next {
    /// A packet with payload.
    Media(Held),
    /// So many consecutive packets were given up; 0 when a restart hides how many.
    Lost(u32),
}

/// Puts the packets of one track into sequence.
#[derive(Debug)]
pub(super) struct Reorder {
    clock_rate: u32,
    loss_wait: Duration,
    capacity: usize,
    slots: VecDeque<Slot>,
    /// How many slots at the back belong to the present run of the sequence, that is, behind the last restart.
    run: usize,
    /// Extended sequence number that the next slot at the back will have.
    end: i64,
    ssrc: Option<u32>,
    newest_timestamp: u32,
    /// Nothing of the present run was handed on yet, so packets before its first one still find their place.
    untouched: bool,
    /// Packets that may belong to a new run; two in direct succession confirm it.
    candidates: Vec<Held>,
    given_up: [u64; HISTORY as usize / 64],
}

impl Reorder {
    /// `capacity` is the number of slots (packets and gaps) from which on nothing is waited for any more.
    pub(super) fn new(clock_rate: u32, loss_wait: Duration, capacity: usize) -> Self {
        Self {
            clock_rate,
            loss_wait,
            capacity: capacity.max(1),
            slots: VecDeque::new(),
            run: 0,
            end: 0,
            ssrc: None,
            newest_timestamp: 0,
            untouched: true,
            candidates: Vec::new(),
            given_up: [0; HISTORY as usize / 64],
        }
    }

    /// Takes a packet; true if it is new and carries payload.
    pub(super) fn push(
        &mut self,
        now: Monotonic,
        packet: RtpPacket,
        stats: &mut TrackStats,
    ) -> bool {
        let held = Held {
            packet,
            arrival: now,
        };
        if self.ssrc.is_none() {
            self.begin(&held.packet);
            return self.append(held, stats);
        }
        let number = sequence(self.end - 1, held.packet.sequence_number);
        let ahead = number - self.end;
        if self.ssrc != Some(held.packet.ssrc)
            || ahead > MAX_GAP
            || (ahead < 0 && self.is_restart(&held.packet, -ahead))
        {
            return self.consider_restart(now, held, stats);
        }
        stats.strays += self.candidates.len() as u64;
        self.candidates.clear();
        if ahead >= 0 {
            return self.append_after_gap(now, ahead, held, stats);
        }
        self.fill(-ahead, held, stats)
    }

    /// What comes next in sequence, if it is there or given up by `now`. With `all`, nothing is waited for.
    pub(super) fn pop(
        &mut self,
        now: Monotonic,
        all: bool,
        stats: &mut TrackStats,
    ) -> Option<Next> {
        loop {
            let hurry = all || self.is_full();
            match self.slots.front()? {
                Slot::Missing { give_up } if *give_up > now && !hurry => return None,
                Slot::Missing { .. } => {
                    let mut lost = 0;
                    while let Some(Slot::Missing { .. }) = self.slots.front() {
                        self.remember(true);
                        self.drop_front();
                        lost += 1;
                    }
                    stats.lost += u64::from(lost);
                    return Some(Next::Lost(lost));
                }
                Slot::Padding => {
                    self.remember(false);
                    self.drop_front();
                }
                Slot::Restart { settled, .. } if *settled > now && !hurry => return None,
                Slot::Restart { missing, .. } => {
                    let missing = *missing;
                    stats.lost += u64::from(missing);
                    self.drop_front();
                    return Some(Next::Lost(missing));
                }
                Slot::Media(_) => {
                    self.remember(false);
                    if let Some(Slot::Media(held)) = self.drop_front() {
                        return Some(Next::Media(held));
                    }
                }
            }
        }
    }

    /// When waiting for what is missing at the front is over; `None` if nothing is.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        match self.slots.front()? {
            Slot::Missing { give_up } => Some(*give_up),
            Slot::Restart { settled, .. } => Some(*settled),
            _ => None,
        }
    }

    /// Packets with payload in sequence, without taking them.
    pub(super) fn media(&self) -> impl Iterator<Item = &Held> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Media(held) => Some(held),
            _ => None,
        })
    }

    /// So much is held that waiting is over.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= self.capacity
    }

    fn begin(&mut self, packet: &RtpPacket) {
        self.ssrc = Some(packet.ssrc);
        self.end = i64::from(packet.sequence_number);
        self.run = 0;
        self.untouched = true;
        self.newest_timestamp = packet.timestamp;
        self.given_up = [0; HISTORY as usize / 64];
    }

    fn push_back(&mut self, slot: Slot) {
        self.slots.push_back(slot);
        self.run += 1;
        self.end += 1;
    }

    fn append(&mut self, held: Held, stats: &mut TrackStats) -> bool {
        let age = held
            .packet
            .timestamp
            .wrapping_sub(self.newest_timestamp)
            .cast_signed();
        if age > 0 {
            self.newest_timestamp = held.packet.timestamp;
        }
        let media = !held.packet.payload.is_empty();
        self.push_back(occupied(held, stats));
        media
    }

    fn append_after_gap(
        &mut self,
        now: Monotonic,
        gap: i64,
        held: Held,
        stats: &mut TrackStats,
    ) -> bool {
        // Only a caller that pushes without polling gets here; memory stays bounded all the same.
        if self.slots.len() > self.capacity.saturating_mul(2) {
            stats.discarded += 1;
            return false;
        }
        for _ in 0..gap {
            self.push_back(Slot::Missing {
                give_up: now + self.loss_wait,
            });
        }
        self.append(held, stats)
    }

    /// Takes a packet `back` places before the end: fills a gap, or is late, or a duplicate.
    fn fill(&mut self, back: i64, held: Held, stats: &mut TrackStats) -> bool {
        if self.untouched {
            self.extend_front(back, held.arrival);
        }
        let index = usize::try_from(back)
            .ok()
            .filter(|back| *back <= self.run)
            .and_then(|back| self.slots.len().checked_sub(back));
        let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) else {
            if self.was_given_up(self.end - back) {
                stats.late += 1;
            } else {
                stats.duplicates += 1;
            }
            return false;
        };
        let Slot::Missing { give_up } = slot else {
            stats.duplicates += 1;
            return false;
        };
        if held.arrival + self.loss_wait >= *give_up + RETRANSMISSION_FLOOR {
            stats.recovered += 1;
        } else {
            stats.reordered += 1;
        }
        let media = !held.packet.payload.is_empty();
        *slot = occupied(held, stats);
        media
    }

    /// Makes room for a packet that was overtaken by the first one of its run.
    fn extend_front(&mut self, back: i64, now: Monotonic) {
        let Ok(back) = usize::try_from(back) else {
            return;
        };
        let front = self.slots.len() - self.run;
        if back > self.run && back - self.run <= MAX_OVERTAKEN {
            for _ in self.run..back {
                self.slots.insert(
                    front,
                    Slot::Missing {
                        give_up: now + self.loss_wait,
                    },
                );
            }
            self.run = back;
        }
    }

    /// Whether a packet `back` places behind the end belongs to a sender that started its sequence anew: too far
    /// behind for a retransmission, or with a time that lies after everything seen.
    fn is_restart(&self, packet: &RtpPacket, back: i64) -> bool {
        let newer = packet
            .timestamp
            .wrapping_sub(self.newest_timestamp)
            .cast_signed();
        back > MAX_BEHIND || nanos(i64::from(newer), self.clock_rate) > SECOND
    }

    /// A single packet out of nowhere may be a stray; two in direct succession are a new run (RFC 3550 appendix A.1).
    fn consider_restart(&mut self, now: Monotonic, held: Held, stats: &mut TrackStats) -> bool {
        let distance = |other: &Held| {
            let ahead = other
                .packet
                .sequence_number
                .wrapping_sub(held.packet.sequence_number);
            i64::from(ahead.cast_signed())
        };
        let belongs = |other: &Held| {
            other.packet.ssrc == held.packet.ssrc && distance(other).abs() <= MAX_GAP
        };
        if self.candidates.len() >= MAX_CANDIDATES || !self.candidates.iter().all(belongs) {
            stats.strays += self.candidates.len() as u64;
            self.candidates.clear();
        }
        if self.candidates.iter().any(|other| distance(other) == 0) {
            stats.duplicates += 1;
            return false;
        }
        let confirmed = self
            .candidates
            .iter()
            .any(|other| distance(other).abs() == 1);
        let (ssrc, number) = (held.packet.ssrc, held.packet.sequence_number);
        self.candidates.push(held);
        if !confirmed {
            return false;
        }
        for slot in &mut self.slots {
            if let Slot::Missing { give_up } = slot {
                *give_up = now;
            }
        }
        let order = |held: &Held| {
            held.packet
                .sequence_number
                .wrapping_sub(number)
                .cast_signed()
        };
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_unstable_by_key(order);
        let mut media = false;
        for (index, held) in candidates.drain(..).enumerate() {
            let gap = sequence(self.end - 1, held.packet.sequence_number) - self.end;
            if index > 0 {
                media |= self.append_after_gap(now, gap, held, stats);
                continue;
            }
            let known = u32::try_from(gap).ok().filter(|_| self.ssrc == Some(ssrc));
            self.slots.push_back(Slot::Restart {
                missing: known.unwrap_or(0),
                settled: now + RESTART_WAIT,
            });
            self.begin(&held.packet);
            media |= self.append(held, stats);
        }
        self.candidates = candidates;
        media
    }

    fn drop_front(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front();
        self.run = self.run.min(self.slots.len());
        slot
    }

    /// Notes for the slot at the front whether it was given up.
    fn remember(&mut self, given_up: bool) {
        if self.slots.len() > self.run {
            return;
        }
        self.untouched = false;
        let front = i64::try_from(self.slots.len()).map_or(0, |len| self.end - len);
        let (word, bit) = place(front);
        if given_up {
            self.given_up[word] |= bit;
        } else {
            self.given_up[word] &= !bit;
        }
    }

    /// Whether the packet with this extended number was given up; forgets it, so that a second copy is a duplicate.
    fn was_given_up(&mut self, number: i64) -> bool {
        let front = i64::try_from(self.run).map_or(0, |run| self.end - run);
        if front - number > i64::from(HISTORY) {
            return false;
        }
        let (word, bit) = place(number);
        let given_up = self.given_up[word] & bit != 0;
        self.given_up[word] &= !bit;
        given_up
    }
}

fn occupied(held: Held, stats: &mut TrackStats) -> Slot {
    stats.packets += 1;
    stats.bytes += held.packet.payload.len() as u64;
    if held.packet.payload.is_empty() {
        Slot::Padding
    } else {
        Slot::Media(held)
    }
}

/// Word and bit of an extended sequence number in the history.
fn place(number: i64) -> (usize, u64) {
    let index = usize::try_from(number.rem_euclid(i64::from(HISTORY))).unwrap_or(0);
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
#[path = "reorder_tests.rs"]
mod tests;
