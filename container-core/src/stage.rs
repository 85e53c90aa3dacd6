//! When each step of a start ended.

/// A step of a start, with the moment at which it had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// `clone`, `cgroup`, `network`, `rootfs` or `exec`.
    pub name: &'static str,
    /// Nanoseconds of `CLOCK_MONOTONIC` at the step's end.
    pub at: u64,
}
