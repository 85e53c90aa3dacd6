//! Memory and swap (admin-guide/cgroup-v2.rst, "Memory").

use oci_spec::runtime::LinuxMemory;

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result, Stats};
use crate::sys::Errno;

fn text(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

pub(in crate::cgroup) fn apply(directory: &Directory, memory: &LinuxMemory) -> Result<()> {
    let unsupported = |name: &str, reason| Error::Unsupported {
        field: format!("linux.resources.memory.{name}"),
        reason,
    };
    if memory.kernel().is_some_and(|limit| limit > 0)
        || memory.kernel_tcp().is_some_and(|limit| limit > 0)
    {
        return Err(unsupported(
            "kernel",
            "version 2 counts kernel memory towards memory.limit",
        ));
    }
    if memory.swappiness().is_some() {
        return Err(unsupported(
            "swappiness",
            "version 2 has no swappiness for a cgroup",
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported(
            "disableOOMKiller",
            "version 2 cannot turn the OOM killer off",
        ));
    }
    if let Some(swap) = memory.swap() {
        // The specification's figure is memory and swap together, version 2's is swap alone.
        let swap_alone = match (swap, memory.limit()) {
            (..0, _) => -1,
            (swap, Some(limit)) if limit >= 0 && swap >= limit => swap - limit,
            (swap, limit) => {
                return Err(Error::Invalid {
                    field: "linux.resources.memory.swap".to_owned(),
                    reason: format!(
                        "{swap} is memory and swap together and cannot be below memory.limit, {}",
                        limit.map_or_else(
                            || "which is not set".to_owned(),
                            |limit| limit.to_string()
                        )
                    ),
                });
            }
        };
        match directory.try_write("memory.swap.max", &text(swap_alone)) {
            // Without swap in the kernel there is none to limit.
            Err(Errno(libc::ENOENT)) if swap_alone <= 0 => {}
            Err(_) => directory.write("memory.swap.max", &text(swap_alone))?,
            Ok(()) => {}
        }
    }
    if let Some(limit) = memory.limit() {
        directory.write("memory.max", &text(limit))?;
    }
    if let Some(reservation) = memory.reservation() {
        directory.write("memory.low", &text(reservation))?;
    }
    Ok(())
}

pub(in crate::cgroup) fn oom_kills(directory: &Directory) -> Result<u64> {
    Ok(directory.keyed("memory.events", "oom_kill")?.unwrap_or(0))
}

pub(in crate::cgroup) fn read(directory: &Directory, stats: &mut Stats) -> Result<()> {
    stats.memory = directory.number("memory.current")?;
    // Since Linux 5.19 and 5.18.
    stats.memory_peak = directory.number("memory.peak")?;
    stats.kernel_memory = directory.keyed("memory.stat", "kernel")?;
    stats.inactive_file = directory.keyed("memory.stat", "inactive_file")?;
    stats.memory_limit = directory.number("memory.max")?;
    Ok(())
}
