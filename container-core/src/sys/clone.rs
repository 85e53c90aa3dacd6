//! Making the container's process and its namespaces.

use std::convert::Infallible;
use std::os::fd::{FromRawFd, OwnedFd};

use super::{Errno, Fd, Result, check, check_int};

/// Reset every signal disposition in the child (since Linux 5.5).
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// Start the child in the cgroup (version 2) of the given descriptor (since Linux 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2), as of Linux 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A process that has been made, as its maker knows it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: libc::pid_t,
    /// Close-on-exec.
    pub(crate) pidfd: OwnedFd,
}

/// Copies the process into new namespaces, and into a cgroup when one is given, and has the copy call `run`.
///
/// The child starts with default signal dispositions and a copy of the caller's memory, in which only the calling
/// thread exists. `exit_signal` tells the caller of its end; a child with 0 is not seen by wait(2) without `__WALL`.
///
/// # Safety
/// `run` must restrict itself to what is safe after a fork of a program with threads: no allocation, no locks.
pub(crate) unsafe fn clone3(
    namespaces: u64,
    cgroup: Option<Fd>,
    exit_signal: libc::c_int,
    run: impl FnOnce() -> Infallible,
) -> Result<Child> {
    let mut pidfd: Fd = -1;
    let mut args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: exit_signal as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    // SAFETY: the structure is as long as we say; without CLONE_VM the child has a stack of its own. What the child
    // does is the caller's promise, and it does not return into the frames above.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        #[expect(
            unreachable_code,
            reason = "the match has no arms because `run` does not return"
        )]
        match run() {}
    }
    // SAFETY: the kernel has made the descriptor for this process.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid: pid as libc::pid_t,
        pidfd,
    })
}

/// Copies the calling process, which must have one thread only: 0 in the copy.
pub(crate) fn fork() -> Result<libc::pid_t> {
    // SAFETY: no memory is passed; the raw call is used because the C library's runs handlers and takes locks. Both
    // processes go on in memory of their own.
    check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })
        .map(|pid| pid as libc::pid_t)
}

/// Moves the calling thread out of the namespaces named by the flags into new ones.
pub(crate) fn unshare(flags: libc::c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::unshare(flags) }).map(drop)
}

/// Joins the namespace behind a descriptor, which must be of the kind `flag` names.
pub(crate) fn setns(namespace: Fd, flag: libc::c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::setns(namespace, flag) }).map(drop)
}

/// A pidfd for a process, close-on-exec.
pub(crate) fn pidfd_open(pid: libc::pid_t) -> Result<Fd> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(|fd| fd as Fd)
}

/// Sends a signal to the process of a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: Fd, signal: libc::c_int) -> Result<()> {
    // SAFETY: a null siginfo asks for what kill(2) would send.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd,
            signal,
            std::ptr::null::<u8>(),
            0,
        )
    })
    .map(drop)
}

/// Whether the process of a pidfd has ended.
pub(crate) fn has_ended(pidfd: Fd) -> Result<bool> {
    match wait_for_end(pidfd, 0) {
        Err(Errno(libc::EINTR)) => Ok(false),
        other => other,
    }
}

/// Whether the process of a pidfd ends within these milliseconds; -1 for ever.
pub(crate) fn wait_for_end(pidfd: Fd, milliseconds: libc::c_int) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd: pidfd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure, ours, and a count of one.
    check_int(unsafe { libc::poll(&mut poll, 1, milliseconds) }).map(|ready| ready > 0)
}
