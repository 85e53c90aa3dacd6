//! Whether the guest's kernel ran out of memory.

use alloc::vec;

use crate::sys::process;

/// How much of the kernel's log is looked through: its report of a kill ends with the line that says so.
const LOG_BYTES: usize = 16 << 10;

/// What the kernel says of every process it kills for want of memory, whether the machine's or a cgroup's
/// (`__oom_kill_process` in mm/oom_kill.c).
const VERDICT: &[u8] = b"ut of memory: Killed process ";

/// Whether the kernel has killed this process for want of memory, or any when none is named. Its log says so whatever it was
/// built with; the count in /proc/vmstat is an option. The log's numbers are those that the agent sees.
pub(crate) fn has_killed(pid: Option<u32>) -> bool {
    let mut log = vec![0; LOG_BYTES];
    process::kernel_log(&mut log)
        .is_ok_and(|length| mentions_kill(log.get(..length).unwrap_or_default(), pid))
}

fn mentions_kill(log: &[u8], pid: Option<u32>) -> bool {
    let mut verdict = VERDICT.to_vec();
    if let Some(pid) = pid {
        verdict.extend_from_slice(alloc::format!("{pid} (").as_bytes());
    }
    log.windows(verdict.len()).any(|window| window == verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_read_out_of_the_log() {
        let log = b"<4>[ 1.2] tail invoked oom-killer: gfp_mask=0x1\n<3>[ 1.3] Out of memory: Killed process 7 (tail) total-vm:1kB\n";
        assert!(mentions_kill(log, None));
        assert!(mentions_kill(log, Some(7)));
        assert!(!mentions_kill(log, Some(77)));
        assert!(!mentions_kill(log, Some(1)));
        let cgroup = b"<3>[ 1.3] Memory cgroup out of memory: Killed process 9 (x)";
        assert!(mentions_kill(cgroup, Some(9)));
        let usual = b"<6>[ 0.1] Memory: 240540K/261752K available\n";
        assert!(!mentions_kill(usual, None));
        assert!(!mentions_kill(b"", None));
    }
}
