//! A timer that is a descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Readable once in each period, while it runs.
#[derive(Debug)]
pub(super) struct Timer {
    file: File,
    period: Duration,
    running: bool,
}

impl Timer {
    pub(super) fn new(period: Duration) -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: timerfd_create takes numbers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self {
            file,
            period,
            running: false,
        })
    }

    /// Starts or stops it; what it is already, it stays.
    pub(super) fn run(&mut self, running: bool) {
        if self.running == running {
            return;
        }
        self.running = running;
        let period = libc::timespec {
            tv_sec: if running { self.period.as_secs() as i64 } else { 0 },
            tv_nsec: if running { self.period.subsec_nanos().into() } else { 0 },
        };
        let setting = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the kernel reads one itimerspec and writes nothing to a null pointer. With valid times it cannot fail.
        unsafe {
            libc::timerfd_settime(self.file.as_raw_fd(), 0, &setting, std::ptr::null_mut());
        }
    }

    /// Takes note of the periods that have passed.
    pub(super) fn passed(&mut self) {
        // Nothing to read is no news.
        let _ = self.file.read(&mut [0; 8]);
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
