//! How figures are written.

use crate::analysis::Estimate;
use crate::results::Unit;
use crate::stats::Interval;

/// A value in its unit, three significant digits.
pub fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => duration(value),
        Unit::NanosecondsPerOperation => format!("{}/op", duration(value)),
        Unit::OperationsPerSecond => decimal(value, "ops/s"),
        Unit::FlopsPerSecond => decimal(value, "FLOP/s"),
        Unit::BytesPerSecond => format!("{}/s", bytes(value)),
        Unit::Bytes => bytes(value),
        Unit::Count => digits(value),
    }
}

/// Nanoseconds as ns, µs, ms, s or min.
pub fn duration(ns: f64) -> String {
    let size = ns.abs();
    let (divisor, unit) = match size {
        _ if size < 999.5 => (1.0, "ns"),
        _ if size < 999.5e3 => (1e3, "µs"),
        _ if size < 999.5e6 => (1e6, "ms"),
        _ if size < 599.5e9 => (1e9, "s"),
        _ => (60e9, "min"),
    };
    format!("{} {unit}", digits(ns / divisor))
}

/// Bytes in binary multiples.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes;
    let mut unit = 0;
    while scaled.abs() >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits(scaled), UNITS[unit])
}

fn decimal(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut scaled = value;
    let mut prefix = 0;
    while scaled.abs() >= 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1e3;
        prefix += 1;
    }
    format!("{} {}{unit}", digits(scaled), PREFIXES[prefix])
}

/// Three significant digits, without an exponent, up to a million.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(0.0005..9_999_500.0).contains(&size) {
        return format!("{value:.2e}");
    }
    // Bounds half a unit below the power of ten, so that 9.996 is written 10.0 and not 10.00.
    let places = match size {
        _ if size < 0.00995 => 4,
        _ if size < 0.0995 => 4,
        _ if size < 0.9995 => 3,
        _ if size < 9.995 => 2,
        _ if size < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.places$}")
}

/// A ratio: three decimals near 1, where a few thousandths matter, and three digits elsewhere.
pub fn ratio(value: f64) -> String {
    if (0.9..1.2).contains(&value) {
        format!("{value:.3}×")
    } else {
        format!("{}×", digits(value))
    }
}

/// The ends of an interval of ratios.
pub fn ratio_interval(interval: Interval) -> String {
    let bare = |v| ratio(v).trim_end_matches('×').to_owned();
    format!("{} to {}", bare(interval.low), ratio(interval.high))
}

/// A ratio with its interval.
pub fn ratio_with_interval(estimate: &Estimate) -> String {
    match estimate.interval() {
        Some(interval) => format!("{}, {}", ratio(estimate.value), ratio_interval(interval)),
        None => format!("{}, a single round", ratio(estimate.value)),
    }
}

/// The ends of an interval of values; the unit is written once where both ends have the same.
pub fn value_interval(interval: Interval, unit: Unit) -> String {
    let (low, high) = (value(interval.low, unit), value(interval.high, unit));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, low_unit)), Some((_, high_unit))) if low_unit == high_unit => {
            format!("{number} to {high}")
        }
        _ => format!("{low} to {high}"),
    }
}

/// A moment as `2025-11-24 02:48 UTC`.
pub fn moment(unix_ms: u64) -> String {
    let minutes = unix_ms / 60_000;
    let (days, of_day) = (minutes / 1440, minutes % 1440);
    // Days to a civil date after Hinnant ("chrono-Compatible Low-Level Date Algorithms"): eras of 400 years
    // that begin on 1 March. u64 milliseconds end in the year 584,556,019, well within range.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        of_day / 60,
        of_day % 60
    )
}

/// Words joined by commas and a last "and".
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, digits, duration, list, moment, ratio, value, value_interval};
    use crate::results::Unit;
    use crate::stats::Interval;

    #[test]
    fn an_interval_names_a_shared_unit_once() {
        let text = |low, high| value_interval(Interval { low, high }, Unit::Nanoseconds);
        assert_eq!(text(5.1e6, 6.2e6), "5.10 to 6.20 ms");
        assert_eq!(text(900e3, 1.1e6), "900 µs to 1.10 ms");
    }

    #[test]
    fn durations_take_the_unit_that_fits() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (87.25, "87.2 ns"),
            (999.4, "999 ns"),
            (999.6, "1.00 µs"),
            (5_120_000.0, "5.12 ms"),
            (99_960_000.0, "100 ms"),
            (19.4e9, "19.4 s"),
            (840e9, "14.0 min"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn bytes_and_rates_take_the_unit_that_fits() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1023.0), "0.999 KiB");
        assert_eq!(bytes(1024.0), "1.00 KiB");
        assert_eq!(bytes(5.0 * 1024.0 * 1024.0), "5.00 MiB");
        assert_eq!(value(1.5e9, Unit::OperationsPerSecond), "1.50 Gops/s");
        assert_eq!(value(2048.0, Unit::BytesPerSecond), "2.00 KiB/s");
        assert_eq!(value(120.0, Unit::NanosecondsPerOperation), "120 ns/op");
    }

    #[test]
    fn ratios_show_thousandths_near_one() {
        assert_eq!(ratio(1.0034), "1.003×");
        assert_eq!(ratio(0.97), "0.970×");
        assert_eq!(ratio(14.26), "14.3×");
        assert_eq!(ratio(1234.0), "1234×");
    }

    #[test]
    fn digits_survive_the_extremes() {
        assert_eq!(digits(0.0), "0");
        assert_eq!(digits(1e-9), "1.00e-9");
        assert_eq!(digits(3e12), "3.00e12");
        assert_eq!(digits(9.996), "10.0");
    }

    #[test]
    fn moments_are_civil_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
        // date -u -d @951782399 → 2000-02-28 23:59:59; one second later is the leap day.
        assert_eq!(moment(951_782_399_000), "2000-02-28 23:59 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(moment(1_763_952_480_000), "2025-11-24 02:48 UTC");
        assert!(!moment(u64::MAX).is_empty());
    }

    #[test]
    fn lists_end_with_and() {
        let items: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(list(&items), "a, b and c");
        assert_eq!(list(&items[..1]), "a");
    }
}
