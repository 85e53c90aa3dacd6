//! Processes that exist because of the harness: finding all of them, counting their memory, ending them.
//!
//! The harness makes itself the reaper of its descendants (`PR_SET_CHILD_SUBREAPER`), so a process that leaves its
//! launcher behind is still found below the harness and not lost to init.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use crate::clock;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: libc::c_int) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        // The second time is meant: the kernel kills what we started (PR_SET_PDEATHSIG).
        // SAFETY: _exit is safe in a signal handler.
        unsafe { libc::_exit(128 + signal) };
    }
    SIGNAL.store(signal, Ordering::Relaxed);
}

/// Makes ctrl-c, SIGTERM and SIGHUP set a flag that [`interrupted`] reads, and makes the harness the reaper of its descendants.
pub(crate) fn watch() {
    let action = SigAction::new(
        SigHandler::Handler(on_signal),
        SaFlags::empty(),
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler touches two atomics and may call _exit, all safe in a handler.
        let _ = unsafe { sigaction(signal, &action) };
    }
    // Refused only by kernels older than 3.4; then a stray process is init's, as it would be anyway.
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// The signal that asked the harness to end, if one has.
pub(crate) fn interrupted() -> Option<i32> {
    INTERRUPTED
        .load(Ordering::Relaxed)
        .then(|| SIGNAL.load(Ordering::Relaxed))
}

/// All descendants of a process, itself not included.
pub(crate) fn descendants(of: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    for pid in entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
    {
        if let Some((parent, _)) = parent_and_state(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut left = vec![of];
    while let Some(pid) = left.pop() {
        if let Some(below) = children.get(&pid) {
            found.extend(below);
            left.extend(below);
        }
    }
    found
}

/// From /proc/PID/stat (proc_pid_stat(5)): the fields follow the last `)`, since a name may hold anything.
fn parent_and_state(pid: i32) -> Option<(i32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// The proportional set size of a process, bytes; `None` if it has gone or has no memory of its own.
pub(crate) fn pss(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// What processes and their cgroups occupy.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Sum of their PSS, bytes.
    pub(crate) pss: u64,
    /// Kernel memory charged to their cgroups, bytes.
    pub(crate) kernel: u64,
}

/// The footprint of these processes now. Cgroups that the harness itself is in do not count: they hold more than what is
/// measured.
pub(crate) fn footprint(processes: &[i32]) -> Footprint {
    let own = memory_cgroup("self");
    let mut groups = BTreeSet::new();
    let mut pss_sum = 0;
    for &pid in processes {
        let Some(bytes) = pss(pid) else { continue };
        pss_sum += bytes;
        groups.extend(memory_cgroup(&pid.to_string()));
    }
    let kernel = groups
        .iter()
        .filter(|group| own.as_ref() != Some(*group))
        .filter_map(|group| kernel_memory(group))
        .sum();
    Footprint {
        pss: pss_sum,
        kernel,
    }
}

/// The directory of the cgroup that charges a process's memory: v1's memory hierarchy, else v2's only one.
fn memory_cgroup(pid: &str) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut unified = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if controllers.split(',').any(|name| name == "memory") {
            return Some(format!("/sys/fs/cgroup/memory{path}"));
        }
        if controllers.is_empty() {
            unified = Some(format!("/sys/fs/cgroup{path}"));
        }
    }
    unified
}

/// v1: memory.kmem.usage_in_bytes; v2: `kernel` of memory.stat (Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst).
fn kernel_memory(group: &str) -> Option<u64> {
    if let Ok(bytes) = fs::read_to_string(format!("{group}/memory.kmem.usage_in_bytes")) {
        return bytes.trim().parse().ok();
    }
    let stat = fs::read_to_string(format!("{group}/memory.stat")).ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("kernel "))
        .and_then(|bytes| bytes.parse().ok())
}

/// Kills everything below the harness and waits until it has gone.
pub(crate) fn end_all() {
    let own = std::process::id() as i32;
    let deadline = clock::now() + 5_000_000_000;
    loop {
        let left = descendants(own);
        if left.is_empty() || clock::now() > deadline {
            return;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            reap(pid);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Collects processes that were handed to the harness when their parents ended, and have ended themselves. `ours` are
/// children that somebody else waits for.
pub(crate) fn reap_orphans(ours: &[i32]) {
    let own = std::process::id() as i32;
    for pid in descendants(own) {
        if !ours.contains(&pid) && parent_and_state(pid) == Some((own, 'Z')) {
            reap(pid);
        }
    }
}

fn reap(pid: i32) {
    let _ = nix::sys::wait::waitpid(
        Pid::from_raw(pid),
        Some(nix::sys::wait::WaitPidFlag::WNOHANG),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn grandchildren_are_found_and_their_memory_is_counted() {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "sleep 60 & echo started; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 8];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let below = descendants(shell.id() as i32);
        assert_eq!(below.len(), 1);
        assert!(pss(below[0]).unwrap() > 4096);
        assert!(descendants(std::process::id() as i32).contains(&below[0]));
        kill(Pid::from_raw(below[0]), Signal::SIGKILL).unwrap();
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_memory() {
        assert_eq!(pss(i32::MAX), None);
        assert!(descendants(i32::MAX).is_empty());
    }
}
