//! Memory and swap (admin-guide/cgroup-v1/memory.rst).

use oci_spec::runtime::LinuxMemory;

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result, Stats};
use crate::sys::Errno;

const LIMIT: &str = "memory.limit_in_bytes";
const LIMIT_WITH_SWAP: &str = "memory.memsw.limit_in_bytes";

pub(in crate::cgroup) fn apply(directory: &Directory, memory: &LinuxMemory) -> Result<()> {
    if memory.kernel().is_some_and(|limit| limit > 0) {
        return Err(Error::Unsupported {
            field: "linux.resources.memory.kernel".to_owned(),
            reason: "kernels have dropped this limit; kernel memory counts towards memory.limit",
        });
    }
    let text = |value: i64| value.to_string();
    match (memory.limit(), memory.swap()) {
        // The limit with swap may never be below the limit without: which one goes first depends on the direction.
        (Some(limit), Some(swap)) => {
            if swap >= 0 && (limit < 0 || swap < limit) {
                return Err(Error::Invalid {
                    field: "linux.resources.memory.swap".to_owned(),
                    reason: format!(
                        "{swap} is memory and swap together and cannot be below memory.limit, {limit}"
                    ),
                });
            }
            match directory.try_write(LIMIT, &text(limit)) {
                Ok(()) => write_swap(directory, swap)?,
                Err(Errno(libc::EINVAL)) => {
                    write_swap(directory, swap)?;
                    directory.write(LIMIT, &text(limit))?;
                }
                Err(_) => directory.write(LIMIT, &text(limit))?,
            }
        }
        (Some(limit), None) => directory.write(LIMIT, &text(limit))?,
        (None, Some(swap)) => write_swap(directory, swap)?,
        (None, None) => {}
    }
    if let Some(reservation) = memory.reservation() {
        directory.write("memory.soft_limit_in_bytes", &text(reservation))?;
    }
    if let Some(limit) = memory.kernel_tcp() {
        directory.write("memory.kmem.tcp.limit_in_bytes", &text(limit))?;
    }
    if let Some(swappiness) = memory.swappiness() {
        directory.write("memory.swappiness", &swappiness.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        directory.write("memory.oom_control", "1")?;
    }
    Ok(())
}

fn write_swap(directory: &Directory, swap: i64) -> Result<()> {
    match directory.try_write(LIMIT_WITH_SWAP, &swap.to_string()) {
        Err(Errno(libc::ENOENT)) => Err(Error::Unsupported {
            field: "linux.resources.memory.swap".to_owned(),
            reason: "this kernel does not account swap: boot with swapaccount=1",
        }),
        Err(_) => directory.write(LIMIT_WITH_SWAP, &swap.to_string()),
        Ok(()) => Ok(()),
    }
}

/// Since Linux 4.13; before, nothing counts.
pub(in crate::cgroup) fn oom_kills(directory: &Directory) -> Result<u64> {
    Ok(directory
        .keyed("memory.oom_control", "oom_kill")?
        .unwrap_or(0))
}

pub(in crate::cgroup) fn read(directory: &Directory, stats: &mut Stats) -> Result<()> {
    stats.memory = directory.number("memory.usage_in_bytes")?;
    stats.memory_peak = directory.number("memory.max_usage_in_bytes")?;
    stats.kernel_memory = directory.number("memory.kmem.usage_in_bytes")?;
    stats.inactive_file = directory.keyed("memory.stat", "total_inactive_file")?;
    // "No limit" reads as the largest multiple of a page below 2^63.
    stats.memory_limit = directory.number(LIMIT)?.map(|limit| {
        if limit >= i64::MAX as u64 - 0xffff {
            u64::MAX
        } else {
            limit
        }
    });
    Ok(())
}
