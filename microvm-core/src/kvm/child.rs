//! The monitor's own process: a fork of its starter, cut off from it before anything of the guest's is touched.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use super::jail::Jail;
use super::monitor::{Monitor, Parts};
use super::report::Report;
use crate::machine::SAVE_SIGNAL;
use crate::{Error, Result};

/// The process's name, as `ps -o comm` shows it; at most 15 bytes.
const NAME: &[u8] = b"plimsoll-vmm\0";

/// What the child needs besides the machine's parts.
pub(super) struct Channels {
    /// Where reports go.
    pub(super) reports: File,
    /// What becomes standard input, output and error.
    pub(super) null: File,
    /// The starter's process id, and a descriptor of its process.
    pub(super) parent: i32,
    pub(super) starter: OwnedFd,
}

/// Is the monitor, from fork to end. Never returns into the starter's code, and runs nothing that the starter has
/// registered for its exit.
/// `entered`: whether it is in its cgroup.
pub(super) fn be_monitor(mut parts: Parts, channels: Channels, entered: io::Result<()>) -> ! {
    let _guard = NoReturn;
    let ended = isolate(&parts, &channels)
        .and_then(|()| entered.map_err(Error::Cgroup))
        .and_then(|()| Jail::enter(&mut parts, &channels))
        .and_then(|mut jail| Monitor::build(parts, &mut jail)?.run(&jail, &channels.reports));
    let code = match ended {
        Ok(end) => {
            let orderly = end.is_orderly();
            Report::End(end).send(&channels.reports);
            i32::from(!orderly)
        }
        Err(error) => {
            Report::Refused(error.to_string()).send(&channels.reports);
            1
        }
    };
    // SAFETY: _exit ends the process without destructors or exit handlers, which belong to the starter.
    unsafe { libc::_exit(code) }
}

/// Cuts the process off from its starter: signals, terminal, descriptors.
fn isolate(parts: &Parts, channels: &Channels) -> Result<()> {
    // SAFETY: prctl takes integers (and the name's bytes, which end in a zero and are static); setsid has no arguments.
    unsafe {
        // A key pressed at the starter's terminal is the starter's business.
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
    }
    reset_signals();
    // Modes of files in what the guest shares are as the guest has made them.
    // SAFETY: umask takes a number.
    unsafe { libc::umask(0) };
    if !parts.shares.is_empty() {
        raise_descriptor_limit();
    }

    let mut kept = parts.descriptors();
    kept.extend([channels.reports.as_raw_fd(), channels.starter.as_raw_fd()]);
    // The message of a panic goes the way of the reports.
    let standard = [&channels.null, &channels.null, &channels.reports];
    for (standard, file) in (0..).zip(standard) {
        // SAFETY: dup2 takes two integers; Rust's runtime sees to it that 0, 1 and 2 are open from the start, so that
        // nothing that is kept can be among them.
        unsafe { libc::dup2(file.as_raw_fd(), standard) };
        kept.push(standard);
    }
    close_all_but(kept).map_err(Error::system(
        "close the descriptors of the process that starts the machine",
    ))?;
    Ok(())
}

/// Takes as many descriptors as may be had: each file that a guest knows of is one.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit, and then reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Ends the process should a panic unwind to where the starter's code begins.
struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        // SAFETY: as in `be_monitor`.
        unsafe { libc::_exit(101) }
    }
}

/// Every signal has its default effect, but for SIGPIPE and SIGXFSZ, which are ignored, and SIGTERM and the one that
/// asks for the machine to be saved, which wait to be read.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // A write beyond the limit of a file's size is an error for whoever asked for it.
        let action = if [libc::SIGPIPE, libc::SIGXFSZ].contains(&signal) {
            libc::SIG_IGN
        } else {
            libc::SIG_DFL
        };
        // SAFETY: both are actions without code of ours; signals whose action cannot be set say so, and stay.
        unsafe { libc::signal(signal, action) };
    }
    // SAFETY: the set is initialized by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, SAVE_SIGNAL);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Closes every descriptor of this process that is not among these.
fn close_all_but(mut kept: Vec<RawFd>) -> io::Result<()> {
    kept.sort_unstable();
    kept.dedup();
    let mut from = 0;
    for fd in kept.into_iter().map(|fd| fd as u32).chain([u32::MAX]) {
        if from < fd {
            // SAFETY: what is closed belongs to values of the starter's, which this process never touches again: it
            // ends by _exit, without destructors.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
            if closed != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        from = fd.saturating_add(1);
    }
    Ok(())
}
