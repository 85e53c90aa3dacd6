//! The monitor's process: watched through a pidfd, killed and reaped with its owner.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::{Error, Result};

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
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            // SAFETY: the pid is that of our own child, which has not been reaped; a null status is not written to.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            return Err(Error::system("watch the monitor's process")(error));
        }
        // SAFETY: the kernel has just made this descriptor (close-on-exec, as every pidfd), and nobody else has it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
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
        use std::os::fd::AsFd;
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
