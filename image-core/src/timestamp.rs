//! RFC 3339 times, as image configurations hold them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// `time` in UTC, to the second, with nanoseconds only where there are any.
pub(crate) fn format(time: SystemTime) -> String {
    let (seconds, nanoseconds) = since_epoch(time);
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let in_day = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    let fraction = match nanoseconds {
        0 => String::new(),
        some => format!(".{some:09}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The time that an RFC 3339 text says; none when it is not one, or out of a clock's range.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |value: i64, digit| {
            digit
                .is_ascii_digit()
                .then(|| value * 10 + i64::from(digit - b'0'))
        })
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, c)| bytes.get(*at) != Some(c))
        || !matches!(bytes.get(10), Some(b'T' | b't' | b' '))
    {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut rest = &bytes[19..];
    let mut nanoseconds = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for place in 0..9 {
            let digit = fraction[..digits].get(place).map_or(0, |c| c - b'0');
            nanoseconds = nanoseconds * 10 + u32::from(digit);
        }
        rest = &fraction[digits..];
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let two = |tens: &u8, ones: &u8| {
                (tens.is_ascii_digit() && ones.is_ascii_digit())
                    .then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
            };
            let seconds = two(h1, h2)? * 3600 + two(m1, m2)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    at(seconds, nanoseconds)
}

/// The time at `seconds` and `nanoseconds` after 1970; none when the clock cannot hold it.
pub(crate) fn at(seconds: i64, nanoseconds: u32) -> Option<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    base?.checked_add(Duration::new(0, nanoseconds))
}

fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (
            i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            after.subsec_nanos(),
        ),
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                some => (seconds - 1, 1_000_000_000 - some),
            }
        }
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar. Years begin in March here, so that the leap day is
/// a year's last, and 400 years (146 097 days) make one era.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date that is `days` after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_are_written_as_known() {
        // `date -u -d @N +%FT%TZ`
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_799, "2024-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(format(at(seconds, 0).unwrap()), text);
            assert_eq!(parse(text), at(seconds, 0));
        }
    }

    #[test]
    fn dockers_nanoseconds_and_offsets_are_read() {
        assert_eq!(parse("1970-01-01T01:00:00.5+01:00"), at(0, 500_000_000));
        assert_eq!(
            parse("2022-05-06T07:08:09.123456789Z"),
            at(1_651_820_889, 123_456_789)
        );
        assert_eq!(parse("1969-12-31T23:00:00-01:00"), at(0, 0));
    }

    #[test]
    fn what_is_not_a_time_is_none() {
        for bad in [
            "",
            "now",
            "2022-13-01T00:00:00Z",
            "2022-01-01",
            "2022-01-01T00:00:00",
            "2022-01-01T00:00:00.Z",
            "2022-01-01T00:00:00+1:00",
            "2022-01-01T00:00:00é",
            "é022-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_time_survives_being_written_and_read(seconds in -60_000_000_000i64..250_000_000_000, nanoseconds in 0u32..1_000_000_000) {
            let time = at(seconds, nanoseconds).unwrap();
            prop_assert_eq!(parse(&format(time)), Some(time));
        }
    }
}
