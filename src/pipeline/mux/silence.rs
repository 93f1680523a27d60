//! Silence in the place of sound that is not there: lost, not sent (discontinuous transmission), or muted.
//!
//! Owns which gaps are filled and with how much; the packets themselves are Opus' matter. Keeps a track going on without
//! holes, so that each sample lasts as long as its packet says and no part grows over a pause.

use gstreamer as gst;

use super::{
    fragment::{AccessUnit, BRIDGE_SECONDS, Fragment, Fragmenter},
    opus,
};

/// Sound is allowed gaps up to this, in units of 1/48000 s: 5 ms. Corrections of a track's time stretch packets by less.
const LEAST_GAP: u64 = 240;

/// While nothing has come yet, only packets of 20 ms are put in; what is left is filled when sound comes.
const WHOLE_PACKET: u64 = 960;

/// The silence of one track.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Where the last one ends, in ticks.
    until: u64,
}

impl Silence {
    /// Whether silence is in the place of a packet already, for more than half of it. `time` and `nominal` in ticks.
    pub(super) fn covers(&self, time: i64, nominal: u64, timescale: u32) -> bool {
        let covered = i64::try_from(self.until).unwrap_or(0) - time;
        let nominal = i64::try_from(nominal).unwrap_or(0);
        covered * 2 > nominal && covered < i64::from(timescale) * BRIDGE_SECONDS
    }

    /// Fills the gap in front of a packet that starts at `time`, in ticks.
    pub(super) fn fill_gap(
        &mut self,
        fragmenter: &mut Fragmenter<gst::Buffer>,
        timescale: u32,
        time: i64,
        out: &mut Vec<Fragment<gst::Buffer>>,
    ) {
        self.fill(fragmenter, timescale, time, (LEAST_GAP, 0), out);
    }

    /// Goes on with silence up to `time` at the latest, in ticks; nothing has come there yet.
    pub(super) fn go_on(
        &mut self,
        fragmenter: &mut Fragmenter<gst::Buffer>,
        timescale: u32,
        time: i64,
        out: &mut Vec<Fragment<gst::Buffer>>,
    ) {
        self.fill(fragmenter, timescale, time, (0, WHOLE_PACKET), out);
    }

    /// `least`: shorter gaps stay; `shortest`: no packet is shorter; both in units of 1/48000 s. A gap so long that the
    /// timeline starts anew behind it stays, too.
    fn fill(
        &mut self,
        fragmenter: &mut Fragmenter<gst::Buffer>,
        timescale: u32,
        time: i64,
        (least, shortest): (u64, u64),
        out: &mut Vec<Fragment<gst::Buffer>>,
    ) {
        let timescale = u64::from(timescale);
        let rate = u64::from(opus::CLOCK_RATE);
        let Some((mut end, gap)) = fragmenter.end().and_then(|end| {
            let gap = u64::try_from(time).ok()?.checked_sub(end)?;
            Some((end, gap))
        }) else {
            return;
        };
        if gap * rate < least * timescale || gap > timescale * BRIDGE_SECONDS.unsigned_abs() {
            return;
        }
        let mut left = gap * rate / timescale;
        while let Some((packet, duration)) = opus::silence(left)
            && duration >= shortest
        {
            let nanos = u128::from(end) * 1_000_000_000 / u128::from(timescale);
            let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
            let nominal = duration * timescale / rate;
            let unit = AccessUnit {
                decode_time: nanos,
                presentation_time: nanos,
                nominal: Some(nominal),
                sync: true,
                size: u32::try_from(packet.len()).unwrap_or(0),
                data: gst::Buffer::from_slice(packet),
            };
            fragmenter.push(unit, out);
            left -= duration;
            end += nominal;
            self.until = end;
        }
    }
}
