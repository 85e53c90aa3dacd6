//! Where and when a process runs, and where its memory comes from.

use oci_spec::runtime::{
    LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Process, Scheduler,
};

use crate::error::{Error, Result};
use crate::sys::process::{
    MOST_NODES, MOST_PROCESSORS, MemoryPolicy, Processors, SchedulerAttributes,
};

/// What set_mempolicy(2) takes; numbers of uapi/linux/mempolicy.h.
pub(super) fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
    });
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(list) => processors(list)
            .filter(|nodes| nodes.iter().all(|node| *node < MOST_NODES))
            .ok_or_else(|| {
                Error::invalid(
                    "linux.memoryPolicy.nodes",
                    format!("{list:?} is not a list of memory nodes such as 0-1,3"),
                )
            })?,
    };
    Ok(MemoryPolicy::new(mode | flags, nodes))
}

/// The two sets of processors of `execCPUAffinity`.
pub(super) fn affinity(process: &Process) -> Result<[Option<Processors>; 2]> {
    let Some(affinity) = process.exec_cpu_affinity() else {
        return Ok([None, None]);
    };
    let set = |name: &str, list: &Option<String>| match list.as_deref() {
        None | Some("") => Ok(None),
        Some(list) => processors(list)
            .map(|numbers| Some(Processors::new(numbers)))
            .ok_or_else(|| {
                Error::invalid(
                    format!("process.execCPUAffinity.{name}"),
                    format!("{list:?} is not a list of processors such as 0-3,7"),
                )
            }),
    };
    Ok([
        set("initial", affinity.initial())?,
        set("final", affinity.cpu_affinity_final())?,
    ])
}

/// The numbers of a list such as `0-3,7`.
fn processors(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST_PROCESSORS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

pub(super) fn scheduler(scheduler: &Scheduler) -> SchedulerAttributes {
    // Numbers of uapi/linux/sched.h.
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler
            .priority()
            .unwrap_or(0)
            .try_into()
            .unwrap_or(u32::MAX),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_is_read_as_the_kernel_writes_it() {
        assert_eq!(processors("0-2,7").unwrap(), [0, 1, 2, 7]);
        for wrong in ["", "a", "3-1", "1,,2", "0-8192"] {
            assert!(processors(wrong).is_none(), "{wrong:?}");
        }
    }
}
