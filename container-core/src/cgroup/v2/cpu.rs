//! Processor time (admin-guide/cgroup-v2.rst, "CPU").

use oci_spec::runtime::LinuxCpu;

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result, Stats};

/// The period where none is given, in microseconds (the kernel's own default).
const DEFAULT_PERIOD: u64 = 100_000;

/// Version 1's shares (2 to 262144, default 1024) as version 2's weight (1 to 10000, default 100).
///
/// A curve through the three points that matter: least to least, default to default, most to most. A straight line
/// through the ends would make the default 39 and starve containers beside everything else (the same correspondence
/// as in runc since 1.3.2 and crun since 1.23).
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

pub(in crate::cgroup) fn apply(directory: &Directory, cpu: &LinuxCpu) -> Result<()> {
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0)
        || cpu.realtime_period().is_some_and(|period| period != 0)
    {
        return Err(Error::Unsupported {
            field: "linux.resources.cpu.realtimeRuntime".to_owned(),
            reason: "version 2 has no budget for real-time tasks",
        });
    }
    if let Some(idle) = cpu.idle() {
        directory.write("cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        directory.write("cpu.weight", &weight(shares).to_string())?;
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        directory.write(
            "cpu.max",
            &format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD)),
        )?;
    }
    if let Some(burst) = cpu.burst() {
        directory.write("cpu.max.burst", &burst.to_string())?;
    }
    Ok(())
}

/// Counted in every cgroup, controller or not.
pub(in crate::cgroup) fn read_usage(directory: &Directory, stats: &mut Stats) -> Result<()> {
    stats.cpu = directory
        .keyed("cpu.stat", "usage_usec")?
        .map(|microseconds| microseconds.saturating_mul(1000));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_shares_are_the_default_weight() {
        assert_eq!(weight(1024), 100);
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
        assert!(weight(512) < 100 && weight(2048) > 100);
        assert_eq!(weight(u64::MAX), 10_000);
    }
}
