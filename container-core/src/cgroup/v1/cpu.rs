//! Processor time (scheduler/sched-bwc.rst, admin-guide/cgroup-v1/cpuacct.rst).

use oci_spec::runtime::LinuxCpu;

use crate::cgroup::directory::Directory;
use crate::cgroup::{Result, Stats};

pub(in crate::cgroup) fn apply(directory: &Directory, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        directory.write("cpu.shares", &shares.to_string())?;
    }
    // The period first: a quota is checked against it.
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        directory.write("cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        directory.write("cpu.cfs_quota_us", &quota.to_string())?;
    }
    if let Some(burst) = cpu.burst() {
        directory.write("cpu.cfs_burst_us", &burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        directory.write("cpu.idle", &idle.to_string())?;
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        directory.write("cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        directory.write("cpu.rt_runtime_us", &runtime.to_string())?;
    }
    Ok(())
}

/// From the hierarchy of cpuacct.
pub(in crate::cgroup) fn read_usage(directory: &Directory, stats: &mut Stats) -> Result<()> {
    stats.cpu = directory.number("cpuacct.usage")?;
    Ok(())
}
