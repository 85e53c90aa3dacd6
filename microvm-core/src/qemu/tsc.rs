//! The rate of the processor's time-stamp counter.
//!
//! Under software emulation the guest sees the host's counter. Left to itself its kernel finds the rate by the emulated
//! interval timer, which fails on a busy host: the guest then has a clock of 10 ms steps, and has lost a second finding out.

use std::time::{Duration, Instant};

/// How long to measure. The readings at both ends are good to about 50 ns, so this gives about 20 parts in a million; the
/// guest's own calibration accepts 500.
const SPAN: Duration = Duration::from_millis(5);

/// Readings at each end, of which the closest counts.
const READINGS: usize = 8;

/// A measurement under way, so that other work can fill the time.
pub(super) struct Measurement {
    start: Option<Reading>,
}

#[derive(Clone, Copy)]
struct Reading {
    counter: u64,
    time: Instant,
}

impl Measurement {
    /// Takes the first reading, unless the counter's rate changes with the processor's.
    pub(super) fn start() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            start: is_steady(&cpuinfo).then(Reading::take),
        }
    }

    /// The rate in kHz, once enough time has passed.
    pub(super) fn finish(self) -> Option<u64> {
        let start = self.start?;
        let passed = start.time.elapsed();
        if passed < SPAN {
            std::thread::sleep(SPAN - passed);
        }
        let end = Reading::take();
        let ticks = u128::from(end.counter.checked_sub(start.counter)?);
        let time = end.time.duration_since(start.time).as_nanos();
        u64::try_from((ticks * 1_000_000).checked_div(time)?).ok()
    }
}

impl Reading {
    fn take() -> Self {
        let one = || {
            // SAFETY: every x86-64 processor has the instruction, and Linux lets every process use it.
            let before = unsafe { core::arch::x86_64::_rdtsc() };
            let time = Instant::now();
            // SAFETY: as above.
            let after = unsafe { core::arch::x86_64::_rdtsc() };
            let width = after.wrapping_sub(before);
            (
                width,
                Self {
                    counter: before.wrapping_add(width / 2),
                    time,
                },
            )
        };
        let mut best = one();
        for _ in 1..READINGS {
            let next = one();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }
}

/// Whether every processor's counter runs at one rate whatever the processor does.
fn is_steady(cpuinfo: &str) -> bool {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    ["constant_tsc", "nonstop_tsc"]
        .iter()
        .all(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        if !is_steady(&cpuinfo) {
            return eprintln!("skipped: this processor's time-stamp counter is not steady");
        }
        let rates = [0; 2].map(|_| Measurement::start().finish().unwrap());
        assert!(
            rates[0].abs_diff(rates[1]) * 1000 < rates[0],
            "{rates:?} kHz differ by more than one in a thousand"
        );
    }

    #[test]
    fn a_counter_that_changes_its_rate_is_not_measured() {
        assert!(!is_steady("flags\t\t: fpu tsc constant_tsc\n"));
        assert!(!is_steady(""));
        assert!(is_steady(
            "processor: 0\nflags\t\t: fpu nonstop_tsc tsc constant_tsc\n"
        ));
    }
}
