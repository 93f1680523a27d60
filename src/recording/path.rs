//! Names of recordings: from a start time to a file name and back. Pure; must not touch the disk.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// The name of a recording inside its session's folder: `2026-11-22T06-37-00Z.mp4`, the UTC start with a precision of
/// one second. If that name is taken, `2026-11-22T06-37-00Z-1.mp4`, `-2` and so on.
///
/// Parsing accepts exactly what [`fmt::Display`] makes, so a parsed name is one plain path component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName {
    /// Start, UTC, whole seconds since 1970.
    start: i64,
    /// 0 for the plain name, otherwise the number after it.
    copy: u32,
}

/// A text that is not the name of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a recording")]
pub struct InvalidFileName;

impl FileName {
    /// Last second that four digits of year can name: 9999-12-31T23:59:59Z.
    const LAST_SECOND: i64 = 253_402_300_799;

    /// The name for a recording that starts at `started`, `copy` 0 being the plain one.
    ///
    /// Times before 1970 and after 9999 are moved to the nearest second that a name can express.
    pub fn new(started: SystemTime, copy: u32) -> Self {
        let seconds = started
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            start: i64::try_from(seconds)
                .unwrap_or(Self::LAST_SECOND)
                .min(Self::LAST_SECOND),
            copy,
        }
    }

    /// The start that the name says, to the second.
    pub fn start(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.start.unsigned_abs())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start =
            OffsetDateTime::from_unix_timestamp(self.start).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}-{:02}-{:02}Z",
            start.year(),
            u8::from(start.month()),
            start.day(),
            start.hour(),
            start.minute(),
            start.second(),
        )?;
        if self.copy > 0 {
            write!(f, "-{}", self.copy)?;
        }
        f.write_str(".mp4")
    }
}

impl FromStr for FileName {
    type Err = InvalidFileName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text)
            .filter(|name| name.to_string() == text)
            .ok_or(InvalidFileName)
    }
}

/// Takes a name apart; spellings that differ from ours (leading zeros, signs) are sorted out by the caller.
fn parse(text: &str) -> Option<FileName> {
    let (stamp, copy) = text.strip_suffix(".mp4")?.split_once('Z')?;
    let copy = match copy.strip_prefix('-') {
        Some(number) => number.parse().ok()?,
        None if copy.is_empty() => 0,
        None => return None,
    };
    let (date, time) = stamp.split_once('T')?;
    let mut date = date.split('-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let mut time = time.split('-');
    let (hour, minute, second) = (time.next()?, time.next()?, time.next()?);
    if date.next().is_some() || time.next().is_some() {
        return None;
    }
    let month: u8 = month.parse().ok()?;
    let start = PrimitiveDateTime::new(
        Date::from_calendar_date(
            year.parse().ok()?,
            Month::try_from(month).ok()?,
            day.parse().ok()?,
        )
        .ok()?,
        Time::from_hms(
            hour.parse().ok()?,
            minute.parse().ok()?,
            second.parse().ok()?,
        )
        .ok()?,
    )
    .assume_utc()
    .unix_timestamp();
    (0..=FileName::LAST_SECOND)
        .contains(&start)
        .then_some(FileName { start, copy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn names_are_the_utc_start() {
        assert_eq!(
            FileName::new(at(1_795_329_420), 0).to_string(),
            "2026-11-22T06-37-00Z.mp4"
        );
        assert_eq!(
            FileName::new(at(1_795_329_420), 12).to_string(),
            "2026-11-22T06-37-00Z-12.mp4"
        );
    }

    #[test]
    fn times_out_of_range_still_have_a_name() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(
            FileName::new(before, 0).to_string(),
            "1970-01-01T00-00-00Z.mp4"
        );
        assert_eq!(
            FileName::new(at(u64::from(u32::MAX) * 4096), 0).to_string(),
            "9999-12-31T23-59-59Z.mp4"
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            ".mp4",
            "2026-11-22T06-37-00Z",
            "2026-11-22T06-37-00Z.mp4.tmp",
            "2026-11-22T06-37-00Z.MP4",
            "2026-11-22T06:37:00Z.mp4",
            "2026-11-31T06-37-00Z.mp4",
            "2026-13-22T06-37-00Z.mp4",
            "2026-11-22T24-37-00Z.mp4",
            "2026-11-22T06-37-00Z-0.mp4",
            "2026-11-22T06-37-00Z-01.mp4",
            "2026-11-22T06-37-00Z-+1.mp4",
            "2026-11-22T06-37-00Z1.mp4",
            "+2026-11-22T06-37-00Z.mp4",
            "../2026-11-22T06-37-00Z.mp4",
            "2026-11-22T06-37-00Z.mp4/..",
            "2026-11-22T06-37-00-00Z.mp4",
        ] {
            assert_eq!(text.parse::<FileName>(), Err(InvalidFileName), "{text}");
        }
    }

    proptest! {
        #[test]
        fn names_are_read_back(seconds in 0_u64..300_000_000_000, copy in 0_u32..) {
            let name = FileName::new(at(seconds), copy);
            prop_assert_eq!(name.to_string().parse::<FileName>(), Ok(name));
            prop_assert_eq!(name.start(), at(seconds.min(253_402_300_799)));
        }

        #[test]
        fn names_sort_by_start(a in 0_u64..250_000_000_000, b in 0_u64..250_000_000_000) {
            let (name_a, name_b) = (FileName::new(at(a), 0), FileName::new(at(b), 0));
            prop_assert_eq!(name_a.cmp(&name_b), a.cmp(&b));
            prop_assert_eq!(name_a.to_string().cmp(&name_b.to_string()), a.cmp(&b));
        }

        #[test]
        fn whatever_parses_is_one_plain_path_component(text in "[0-9TZ./mp-]{0,30}") {
            if let Ok(name) = text.parse::<FileName>() {
                let text = name.to_string();
                prop_assert_eq!(std::path::Path::new(&text).components().count(), 1);
            }
        }
    }
}
