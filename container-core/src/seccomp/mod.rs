//! Seccomp: which system calls the container's processes may make.
//!
//! A profile of the OCI specification becomes one filter: a search tree over the numbers of calls, at whose leaves the
//! action stands, with checks of arguments before it where a rule has them.

mod bpf;
mod compile;
mod docker;
mod rules;
mod syscalls;
#[cfg(test)]
mod tests;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

pub use self::docker::docker_default;
use crate::error::{Error, Result};

/// The actions that a profile can name.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The comparisons of arguments that a profile can name.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The architectures whose calls a filter here can tell apart.
pub const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];

/// The flags of seccomp(2) that a profile can name.
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// A filter in the kernel's form.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
    notifies: bool,
}

impl Filter {
    /// The instructions (at most 4096).
    pub fn program(&self) -> &[libc::sock_filter] {
        &self.program
    }

    /// Some calls are answered by whoever holds the descriptor that loading the filter gives.
    pub fn notifies(&self) -> bool {
        self.notifies
    }

    /// The flags of seccomp(2) to load it with.
    pub fn flags(&self) -> u64 {
        self.flags
    }
}

/// Compiles a profile for x86-64 and, where the profile lists them, i386 and x32.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let notifies = profile
        .syscalls()
        .iter()
        .flatten()
        .any(|call| call.action() == LinuxSeccompAction::ScmpActNotify);
    if notifies && profile.listener_path().is_none() {
        return Err(Error::invalid(
            "linux.seccomp.listenerPath",
            "is needed: SCMP_ACT_NOTIFY has somebody else answer calls",
        ));
    }
    let flags = flags(profile, notifies)?;
    Ok(Filter {
        program: compile::program(&rules::Rules::new(profile, kernel_has_x32())?)?,
        flags: match notifies {
            true => flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            false => flags,
        },
        notifies,
    })
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> Result<libc::c_ulong> {
    let Some(flags) = profile.flags() else {
        // runc's choice when a profile says nothing: the filter alone does not turn on the mitigation of speculative
        // store bypass, which costs every process of the container.
        return Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    };
    flags.iter().try_fold(0, |all, flag| {
        Ok(all
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                // The process has one thread: there is nothing to bring into step, and the kernel takes no listener
                // together with this flag.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync if notifies => 0,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                    libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => {
                    libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    return Err(Error::unsupported(
                        "linux.seccomp.flags",
                        "there is no listener whose answer could be waited for",
                    ));
                }
            })
    })
}

/// Whether the running kernel has the x32 calls: most are built without them, or have them turned off.
fn kernel_has_x32() -> bool {
    let getpid = libc::SYS_getpid | libc::c_long::from(syscalls::X32_BIT);
    // SAFETY: getpid(2) takes nothing and cannot fail; its x32 twin either is it or does not exist.
    unsafe { libc::syscall(getpid) > 0 }
}
