//! The monitor's process: watched through a pidfd, killed and reaped with its owner.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::{Error, Membership, Result};

/// Start the child in the cgroup of the given descriptor (since Linux 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

unsafe extern "C" {
    /// Nonzero while the process has one thread, as far as glibc knows (since glibc 2.32).
    static __libc_single_threaded: std::ffi::c_char;
}

/// Which of two processes this is.
pub(crate) enum Fork {
    /// The one that was there, and the process id of its child.
    Parent(i32),
    /// The new one, and whether it is in its cgroup.
    Child(io::Result<()>),
}

/// Forks the monitor's process, which is in its cgroup before it does anything else.
///
/// # Safety
/// As for `fork(2)` in a process with several threads.
pub(crate) unsafe fn fork_into(cgroup: &Membership) -> io::Result<Fork> {
    // SAFETY: a byte that glibc writes when threads are made and this thread only reads; were it stale, that would be for
    // a thread that has ended.
    let alone = unsafe { (&raw const __libc_single_threaded).read_volatile() } != 0;
    // Without other threads there is no lock for glibc's own fork to see to, and the kernel puts the child in its place.
    // With them the child must go there by itself, which takes the RCU grace period.
    let (unified, itself) = match &cgroup.unified {
        Some(directory) if alone => (Some(directory.as_fd()), None),
        directory => (None, directory.as_ref().map(AsFd::as_fd)),
    };
    let pid = match unified {
        // SAFETY: the caller's promise.
        Some(directory) => unsafe { clone_into(directory) },
        // SAFETY: the caller's promise.
        None => unsafe { libc::fork() }.into(),
    };
    match pid {
        0 => Ok(Fork::Child(enter(itself, &cgroup.tasks))),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        // Process ids fit.
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Forks as [`fork_into`] does, the first process of a process-ID namespace of its own. `itself` is a pidfd of this process.
///
/// # Safety
/// As for `fork(2)` in a process with several threads.
pub(crate) unsafe fn fork_apart(cgroup: &Membership, itself: BorrowedFd<'_>) -> io::Result<Fork> {
    // SAFETY: unshare takes a number. It changes where the next child of this thread is made, and nothing else.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    let forked = unsafe { fork_into(cgroup) };
    if !matches!(forked, Ok(Fork::Child(_))) {
        // SAFETY: setns takes two numbers.
        let back = unsafe { libc::setns(itself.as_raw_fd(), libc::CLONE_NEWPID) };
        if back != 0 {
            let error = io::Error::last_os_error();
            if let Ok(Fork::Parent(pid)) = forked {
                drop(Process::adopt(pid));
            }
            return Err(error);
        }
    }
    forked
}

/// What `fork` does, into a cgroup of the unified hierarchy; for a process with one thread.
///
/// # Safety
/// As for `fork(2)`.
unsafe fn clone_into(directory: BorrowedFd<'_>) -> i64 {
    let mut arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: directory.as_raw_fd() as u64,
    };
    // Where glibc keeps the thread's own id: the child's copy gets the child's, as by glibc's fork. A kernel that does not
    // tell leaves the parent's there, which nothing here asks glibc for.
    let mut tid: *mut i32 = std::ptr::null_mut();
    // SAFETY: PR_GET_TID_ADDRESS writes one pointer, to `tid`.
    if unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid) } == 0 && !tid.is_null() {
        arguments.flags |= (libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID) as u64;
        arguments.child_tid = tid as u64;
    }
    // SAFETY: the structure is as long as we say; without CLONE_VM the child has its own stack and memory.
    unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of_val(&arguments),
        )
    }
}

/// Takes this process, which has one thread, into cgroups. Allocates nothing.
fn enter(unified: Option<BorrowedFd<'_>>, tasks: &[std::fs::File]) -> io::Result<()> {
    if let Some(directory) = unified {
        // SAFETY: the path is a literal that ends in a zero.
        let procs = unsafe {
            libc::openat(
                directory.as_raw_fd(),
                c"cgroup.procs".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            )
        };
        if procs < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        write_zero(&unsafe { std::fs::File::from_raw_fd(procs) })?;
    }
    tasks.iter().try_for_each(write_zero)
}

fn write_zero(mut file: &std::fs::File) -> io::Result<()> {
    // 0 stands for whoever writes it.
    io::Write::write_all(&mut file, b"0")
}

/// A descriptor of a process that is there for sure: this one, or a child that was not waited for.
pub(crate) fn pidfd_of(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor (close-on-exec, as every pidfd), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A child process. Dropping it kills it and waits for it.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    status: Option<ExitStatus>,
}

impl Process {
    /// Takes charge of a child of this process that nobody else waits for.
    ///
    /// # Errors
    /// When no pidfd can be had for it; the child is then ended.
    pub fn adopt(pid: i32) -> Result<Self> {
        let pidfd = match pidfd_of(pid) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // SAFETY: the pid is that of our own child, which has not been reaped; a null status is not written to.
                unsafe {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, std::ptr::null_mut(), 0);
                }
                return Err(Error::system("watch the monitor's process")(error));
            }
        };
        Ok(Self {
            pid,
            pidfd,
            status: None,
        })
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor that becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal; a process that has ended already is no error.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let fd = self.pidfd.as_raw_fd();
        // SAFETY: pidfd_send_signal with a null siginfo reads no memory of ours.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd,
                signal,
                std::ptr::null::<u8>(),
                0,
            )
        };
        match sent {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                error => Err(Error::system("signal the monitor's process")(error)),
            },
        }
    }

    /// Waits until the process has ended, at most this long (for ever, if `None`). `None`: it still runs.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait_for(&mut self, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        if !readable(self.pidfd(), limit)? {
            return Ok(None);
        }
        let mut status = 0;
        loop {
            // SAFETY: `status` is valid to write to; the pid is our own child and has not been reaped yet.
            if unsafe { libc::waitpid(self.pid, &mut status, 0) } == self.pid {
                self.status = Some(ExitStatus::from_raw(status));
                return Ok(self.status);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(Error::system("wait for the monitor's process")(error));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.signal(libc::SIGKILL);
            let _ = self.wait_for(None);
        }
    }
}

/// Waits until a descriptor is readable or hung up; false when the limit came first.
pub(crate) fn readable(fd: BorrowedFd<'_>, limit: Option<Duration>) -> Result<bool> {
    let until = limit.map(|limit| Instant::now() + limit);
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        let left = until.map_or(-1, |until| {
            // Rounded up, so that the last wait does not become a busy loop of zeros.
            let left = until
                .saturating_duration_since(Instant::now())
                .as_micros()
                .div_ceil(1000);
            i32::try_from(left).unwrap_or(i32::MAX)
        });
        // SAFETY: `poll` is one valid pollfd, and the count says one.
        match unsafe { libc::poll(&mut poll, 1, left) } {
            0 => {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Ok(false);
                }
            }
            ready if ready > 0 => return Ok(true),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(Error::system("wait for the monitor")(error));
                }
            }
        }
    }
}
