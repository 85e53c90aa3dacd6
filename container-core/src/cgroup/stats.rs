//! What a cgroup uses.

use super::hierarchy::Controller;
use super::{Cgroup, Result, v1, v2};

/// What a cgroup uses and has used. A figure that this host does not keep is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of memory in use, page cache and kernel memory included.
    pub memory: Option<u64>,
    /// The most bytes that have been in use.
    pub memory_peak: Option<u64>,
    /// Bytes of kernel memory among them.
    pub kernel_memory: Option<u64>,
    /// Bytes of page cache that could be dropped at once (`docker stats` does not count them as used).
    pub inactive_file: Option<u64>,
    /// The limit in bytes; `u64::MAX` for none.
    pub memory_limit: Option<u64>,
    /// Nanoseconds of processor time used.
    pub cpu: Option<u64>,
    /// Periods in which the processes had used up their quota.
    pub throttled_periods: Option<u64>,
    /// Tasks there are.
    pub pids: Option<u64>,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats> {
    let mut stats = Stats::default();
    match cgroup.directory_of(Controller::Memory) {
        Some((directory, true)) => v1::memory::read(directory, &mut stats)?,
        Some((directory, false)) => v2::memory::read(directory, &mut stats)?,
        None => {}
    }
    match (cgroup.unified(), cgroup.directory_of(Controller::Cpuacct)) {
        // Version 2 counts processor time without a controller, on a hybrid host too.
        (Some(directory), _) => v2::cpu::read_usage(directory, &mut stats)?,
        (None, Some((directory, _))) => v1::cpu::read_usage(directory, &mut stats)?,
        (None, None) => {}
    }
    if let Some((directory, _)) = cgroup.directory_of(Controller::Cpu) {
        stats.throttled_periods = directory.keyed("cpu.stat", "nr_throttled")?;
    }
    stats.pids = match cgroup.directory_of(Controller::Pids) {
        // The file has the same name and meaning in both versions.
        Some((directory, _)) => directory.number("pids.current")?,
        None => Some(cgroup.processes()?.len() as u64),
    };
    Ok(stats)
}
