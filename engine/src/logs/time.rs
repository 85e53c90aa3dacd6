//! Times as logs have them: RFC 3339 in UTC with nine digits.

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A moment, in nanoseconds since 1970, as `2026-01-02T03:04:05.678901234Z`.
pub fn format(nanoseconds: u64) -> String {
    let mut text = String::with_capacity(30);
    text.push_str(&seconds(nanoseconds / SECOND));
    text.push_str(&format!(".{:09}Z", nanoseconds % SECOND));
    text
}

/// A second since 1970 as `2026-01-02T03:04:05`.
pub(super) fn seconds(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// The date of a day since 1970, by counting eras of 400 years from a March (Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days from 1970 to a date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Reads what `--since` and `--until` take: RFC 3339 (also shortened, in UTC), seconds since 1970 with or without a
/// fraction, or a duration such as `1h30m` before `now`. Nanoseconds since 1970.
pub fn parse(text: &str, now: u64) -> Option<u64> {
    let text = text.trim();
    if let Some(moment) = rfc3339(text) {
        return Some(moment);
    }
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
        && !text.is_empty()
    {
        return unix(text);
    }
    duration(text).map(|length| now.saturating_sub(length))
}

fn unix(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: u64 = whole.parse().ok()?;
    seconds
        .checked_mul(SECOND)?
        .checked_add(fraction_nanoseconds(fraction)?)
}

fn fraction_nanoseconds(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    if digits.len() > 18 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nine: String = digits
        .chars()
        .chain(std::iter::repeat('0'))
        .take(9)
        .collect();
    nine.parse().ok()
}

/// Go's durations: numbers with units, one after another.
fn duration(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = rest.get(..end)?;
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number * length;
        rest = rest.get(end..)?;
    }
    (total < 9.2e18).then_some(total as u64)
}

fn rfc3339(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let part = text.get(from..to)?;
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| part.parse().ok())?
    };
    let is = |at: usize, byte: u8| text.as_bytes().get(at) == Some(&byte);
    if !is(4, b'-') || !is(7, b'-') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let midnight = days(year, month, day) * 86_400;
    let rest = text.get(10..)?;
    if rest.is_empty() {
        return midnight.checked_mul(SECOND);
    }
    if !is(10, b'T') || !is(13, b':') {
        return None;
    }
    let (hour, minute) = (number(11, 13)?, number(14, 16)?);
    let mut second = 0;
    let mut at = 16;
    if is(16, b':') {
        second = number(17, 19)?;
        at = 19;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut nanoseconds = 0;
    let mut rest = text.get(at..)?;
    if let Some(after) = rest.strip_prefix('.') {
        let end = after
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after.len());
        nanoseconds = fraction_nanoseconds(after.get(..end)?)?;
        rest = after.get(end..)?;
    }
    let offset = match rest.as_bytes() {
        [] | [b'Z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digit = |byte: &u8| i64::from(byte.wrapping_sub(b'0'));
            let minutes = (digit(h1) * 10 + digit(h2)) * 60 + digit(m1) * 10 + digit(m2);
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let seconds = i64::try_from(midnight + hour * 3600 + minute * 60 + second).ok()? - offset * 60;
    u64::try_from(seconds)
        .ok()?
        .checked_mul(SECOND)?
        .checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_nine_digits_and_read_back() {
        for (moment, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_827_696_000_000_001, "2000-02-29T12:34:56.000000001Z"),
            (1_798_761_599_999_999_999, "2026-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(format(moment), text);
            assert_eq!(parse(text, 0), Some(moment));
        }
    }

    #[test]
    fn moments_are_taken_in_all_of_dockers_forms() {
        let now = 1_000_000 * SECOND;
        for (text, moment) in [
            ("12", 12 * SECOND),
            ("12.5", 12 * SECOND + SECOND / 2),
            ("1h30m", now - 5400 * SECOND),
            ("1.5s", now - 1_500_000_000),
            ("1970-01-02", 86_400 * SECOND),
            ("1970-01-02T01:00", 90_000 * SECOND),
            ("1970-01-02T01:00:00+01:00", 86_400 * SECOND),
            ("1970-01-01T23:00:00-01:00", 86_400 * SECOND),
        ] {
            assert_eq!(parse(text, now), Some(moment), "{text}");
        }
        for text in [
            "",
            "x",
            "5x",
            "1970-13-01",
            "1970-01-01T25:00",
            "1h-",
            "2026-01-01X",
            "é",
        ] {
            assert_eq!(parse(text, now), None, "{text}");
        }
    }
}
