//! The host's clock, and words for spans of time.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in nanoseconds: the clock that stage timelines are in as well.
pub(crate) fn now() -> u64 {
    // CLOCK_MONOTONIC cannot be missing on Linux; a 0 would show as an absurd figure, not as a plausible one.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

/// Milliseconds since 1970-01-01 UTC.
pub(crate) fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// `4 min 10 s`, `12 s`, `3.1 ms`: for people.
pub(crate) fn words(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        s if s >= 90.0 => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
        s if s >= 10.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

/// [`words`] of nanoseconds.
pub(crate) fn words_ns(nanoseconds: u64) -> String {
    words(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well_at_every_size() {
        for (ns, expected) in [
            (250_000_000_000, "4 min 10 s"),
            (12_000_000_000, "12 s"),
            (1_500_000_000, "1.5 s"),
            (3_100_000, "3.1 ms"),
            (900, "0.9 µs"),
        ] {
            assert_eq!(words_ns(ns), expected);
        }
    }
}
