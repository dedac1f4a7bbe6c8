//! The time at the head of a record, as text.
//!
//! Always UTC and always nine digits, so that every stamp has the same length, records sort as text, and no time zone
//! file is read. The conversion from days to a date is Howard Hinnant's `civil_from_days`, which needs no table;
//! it saves a date library, the only other thing of which we would use nothing.

use std::time::{SystemTime, UNIX_EPOCH};

const SHAPE: [u8; Timestamp::LEN] = *b"0000-00-00T00:00:00.000000000Z";
const SECONDS_PER_DAY: u64 = 86_400;

/// A moment as RFC 3339 text: `2026-11-22T16:50:26.000000001Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp([u8; Timestamp::LEN]);

impl Timestamp {
    /// Length of the text in bytes.
    pub const LEN: usize = 30;

    /// Formats `time`; a time before 1970 becomes 1970 (a machine with no clock yet still logs).
    pub fn new(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) =
            (since_epoch.as_secs() / SECONDS_PER_DAY, since_epoch.as_secs() % SECONDS_PER_DAY);
        let (year, month, day) = civil_from_days(days);
        let mut text = SHAPE;
        put(&mut text[0..4], year);
        put(&mut text[5..7], month);
        put(&mut text[8..10], day);
        put(&mut text[11..13], second / 3600);
        put(&mut text[14..16], second / 60 % 60);
        put(&mut text[17..19], second % 60);
        put(&mut text[20..29], u64::from(since_epoch.subsec_nanos()));
        Self(text)
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Writes the last decimal digits of `value`, as many as `digits` is long.
fn put(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since 1970-01-01 to (year, month, day). Years begin in March, so that the leap day comes last.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn check(seconds: u64, nanos: u32, expected: &str) {
        let stamp = Timestamp::new(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(std::str::from_utf8(stamp.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn times_are_utc_with_nine_digits() {
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_399, 999_999_999, "2000-02-28T23:59:59.999999999Z");
        check(951_782_400, 5, "2000-02-29T00:00:00.000000005Z");
        check(1_709_251_199, 100_000_000, "2024-02-29T23:59:59.100000000Z");
        check(1_709_251_200, 0, "2024-03-01T00:00:00.000000000Z");
        check(1_735_689_599, 0, "2024-12-31T23:59:59.000000000Z");
        check(4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn a_time_before_the_epoch_is_the_epoch() {
        let stamp = Timestamp::new(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(stamp, Timestamp::new(UNIX_EPOCH));
    }
}
