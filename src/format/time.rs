//! Moments as docker writes them. All are in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Go's zero time, which docker prints for what has not happened.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

struct Parts {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

fn parts(seconds: i64) -> Parts {
    let days = seconds.div_euclid(86_400);
    let rest = seconds.rem_euclid(86_400);
    // Years begin in March, so that leap days end them; 400 of them are an era of 146,097 days, and the first era with
    // 1970 in it began 719,468 days before that.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    Parts {
        year: era * 400 + year_of_era + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * march_month + 2) / 5 + 1,
        hour: rest / 3_600,
        minute: rest % 3_600 / 60,
        second: rest % 60,
    }
}

/// `2026-11-26T07:39:28.123456789Z` from nanoseconds since 1970, without the zeros at the end.
pub(crate) fn rfc3339(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let fraction = nanoseconds % 1_000_000_000;
    let Parts {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = parts(i64::try_from(seconds).unwrap_or(i64::MAX));
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction > 0 {
        let digits = format!(".{fraction:09}");
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// `2026-11-26 07:39:28 +0000 UTC` from seconds since 1970: what lists show as CREATED AT.
pub(crate) fn created_at(seconds: u64) -> String {
    let Parts {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = parts(i64::try_from(seconds).unwrap_or(i64::MAX));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC")
}

/// Seconds since 1970, now.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_docker_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_120_000_000), "2000-02-29T00:00:00.12Z");
        assert_eq!(
            rfc3339(1_795_678_768_000_000_001),
            "2026-11-26T07:39:28.000000001Z"
        );
        assert_eq!(created_at(4_107_542_400), "2100-03-01 00:00:00 +0000 UTC");
        assert_eq!(created_at(1_000_000_000), "2001-09-09 01:46:40 +0000 UTC");
    }
}
