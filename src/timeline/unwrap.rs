//! Unwrapping of RTP's short counters: 16-bit sequence numbers, 32-bit timestamps and 64-bit NTP times to `i64`.
//!
//! Knows nothing but numbers. Every function picks the value nearest to a reference, so a counter may wrap any number
//! of times as long as the reference stays within half a period.

/// Nanoseconds in a second.
pub(super) const SECOND: i64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub(super) const MILLISECOND: i64 = 1_000_000;

/// The extended sequence number nearest to `reference` whose low 16 bits are `value`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low 16 bits are what counts"
)]
pub(super) fn sequence(reference: i64, value: u16) -> i64 {
    reference + i64::from(value.wrapping_sub(reference as u16).cast_signed())
}

/// The extended timestamp nearest to `reference` whose low 32 bits are `value`, in ticks.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low 32 bits are what counts"
)]
pub(super) fn timestamp(reference: i64, value: u32) -> i64 {
    reference + i64::from(value.wrapping_sub(reference as u32).cast_signed())
}

/// Nanoseconds from `base` to `ntp`, both in the 32.32 fixed point format of RFC 3550 section 4; right across the
/// wrap of 2036.
#[expect(
    clippy::cast_possible_truncation,
    reason = "2^63 / 2^32 s is 2.1e18 ns"
)]
pub(super) fn ntp(base: u64, ntp: u64) -> i64 {
    let difference = i128::from(ntp.wrapping_sub(base).cast_signed());
    ((difference * i128::from(SECOND)) >> 32) as i64
}

/// `ticks` of a clock of `rate` Hz in nanoseconds, rounded down; exact for any number of whole seconds.
pub(super) fn nanos(ticks: i64, rate: u32) -> i64 {
    let rate = i64::from(rate.max(1));
    ticks.div_euclid(rate) * SECOND + ticks.rem_euclid(rate) * SECOND / rate
}

/// `nanos` in ticks of a clock of `rate` Hz, rounded down.
pub(super) fn ticks(nanos: i64, rate: u32) -> i64 {
    let rate = i64::from(rate.max(1));
    nanos.div_euclid(SECOND) * rate + nanos.rem_euclid(SECOND) * rate / SECOND
}

/// A duration in nanoseconds, saturating at 292 years.
pub(super) fn duration_nanos(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ntp_differences_are_right_across_the_era() {
        assert_eq!(
            ntp(0xffff_ffff_0000_0000, 0x0000_0001_8000_0000),
            2_500_000_000
        );
        assert_eq!(ntp(1 << 32, 0), -SECOND);
    }

    #[test]
    fn nanos_round_down_on_both_sides_of_zero() {
        assert_eq!(nanos(1, 90_000), 11_111);
        assert_eq!(nanos(-1, 90_000), -11_112);
        assert_eq!(
            nanos(90_000 * 3_600 * 24 * 365, 90_000),
            SECOND * 3_600 * 24 * 365
        );
    }

    proptest! {
        #[test]
        fn a_walk_of_any_steps_is_followed(start: u16, steps in prop::collection::vec(-32_000i64..32_000, 1..200)) {
            let mut truth = i64::from(start);
            let mut seen = truth;
            for step in steps {
                truth += step;
                seen = sequence(seen, u16::try_from(truth.rem_euclid(1 << 16)).unwrap());
                prop_assert_eq!(seen, truth);
            }
        }

        #[test]
        fn timestamps_likewise(start: u32, steps in prop::collection::vec(-2_000_000_000i64..2_000_000_000, 1..200)) {
            let mut truth = i64::from(start);
            let mut seen = truth;
            for step in steps {
                truth += step;
                seen = timestamp(seen, u32::try_from(truth.rem_euclid(1 << 32)).unwrap());
                prop_assert_eq!(seen, truth);
            }
        }

        #[test]
        fn ticks_and_nanos_agree_to_one_tick(value in -1_000_000_000_000i64..1_000_000_000_000, rate in 1_000u32..200_000) {
            let there_and_back = ticks(nanos(value, rate), rate);
            prop_assert!((value - there_and_back) <= 1 && there_and_back <= value);
        }
    }
}
