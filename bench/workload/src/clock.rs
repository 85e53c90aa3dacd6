//! The instance's own clock.

use std::time::Duration;

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours. CLOCK_MONOTONIC always exists, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Adds up the time of the measured sections of one request.
#[derive(Default)]
pub(crate) struct Stopwatch {
    elapsed: u64,
    /// How much longer everything takes, in per cent: an arm slowed on purpose, to see that the harness finds it.
    slowdown: f64,
}

impl Stopwatch {
    pub(crate) fn new(slowdown: f64) -> Self {
        Self {
            elapsed: 0,
            slowdown,
        }
    }

    /// Runs `section` and counts its time.
    pub(crate) fn time<T>(&mut self, section: impl FnOnce() -> T) -> T {
        let start = now();
        let result = section();
        self.count(now() - start);
        result
    }

    /// Counts a section that took `taken` nanoseconds and has just ended.
    pub(crate) fn count(&mut self, taken: u64) {
        self.elapsed += taken;
        if self.slowdown > 0.0 {
            let start = now();
            let more = (taken as f64 * self.slowdown / 100.0) as u64;
            while now() < start + more {
                std::hint::spin_loop();
            }
            self.elapsed += now() - start;
        }
    }

    /// The time counted so far.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slowdown_of_fifty_per_cent_adds_half_the_time() {
        let mut watch = Stopwatch::new(50.0);
        let plain = watch.time(|| {
            let start = now();
            while now() < start + 4_000_000 {}
            now() - start
        });
        // A lower bound only: a busy machine can make it longer, never shorter.
        assert!(watch.elapsed().as_nanos() as f64 >= plain as f64 * 1.5);
    }
}
