//! A container that runs, and what is left of it when it has ended.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::init::Init;
use crate::stage::Stage;
use crate::sys::Errno;
use crate::sys::clone;
use crate::sys::process::{self, Ended};
use crate::teardown;

/// How the container's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// With this code, 0 to 255.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl ExitStatus {
    /// The exit code as a shell reports it: 128 and the signal's number for one that was killed.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// How the container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exit {
    /// Its first process.
    pub status: ExitStatus,
    /// The kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
}

/// Who takes the container's mount namespace down.
///
/// The kernel waits for grace periods and, for an overlay, writes the whole file system of the upper layer back: 0.5
/// to 3 ms here, more on a busy disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// The calling thread, which returns when everything is gone.
    Wait,
    /// A worker of the kernel, by way of io_uring; where that is turned off, a process of its own, which ends by itself
    /// right afterwards and is reaped by whoever reaps this process's orphans. Everything else is gone when the call
    /// returns.
    Leave,
}

/// A container whose command has been executed.
///
/// Dropping it kills what still runs, and removes its cgroups.
#[derive(Debug)]
pub struct Container {
    id: String,
    pid: libc::pid_t,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    mounts: Option<OwnedFd>,
    stages: Vec<Stage>,
    cgroup: Option<Cgroup>,
    exit: Option<Exit>,
}

impl Container {
    pub(crate) fn new(
        id: &str,
        pid: libc::pid_t,
        pidfd: OwnedFd,
        terminal: Option<OwnedFd>,
        mounts: Option<OwnedFd>,
        stages: Vec<Stage>,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            pid,
            pidfd,
            terminal,
            mounts,
            stages,
            cgroup,
            exit: None,
        }
    }

    /// The ID it was started with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The process ID of its first process, as the launcher sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable when the first process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master of its terminal.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Gives the terminal's master away.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// When each step of the start ended, in order of time.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Its cgroup, for statistics, limits and pauses.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Sends a signal to its first process. One that has ended takes it without a word.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match clone::pidfd_send_signal(self.pidfd.as_raw_fd(), signal) {
            Ok(()) | Err(Errno(libc::ESRCH)) => Ok(()),
            Err(errno) => Err(Error::setup(
                format!("send signal {signal} to container {}", self.id),
                errno,
            )),
        }
    }

    /// Waits for its first process, with which all of its PID namespace ends. Can be called again.
    pub fn wait(&mut self) -> Result<Exit> {
        self.finish(true)?.ok_or_else(|| {
            Error::setup(
                format!("wait for container {}", self.id),
                Errno(libc::ECHILD),
            )
        })
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        self.finish(false)
    }

    fn finish(&mut self, block: bool) -> Result<Option<Exit>> {
        if self.exit.is_some() {
            return Ok(self.exit);
        }
        let ended = process::wait(self.pidfd.as_raw_fd(), block)
            .map_err(|errno| Error::setup(format!("wait for container {}", self.id), errno))?;
        let Some(ended) = ended else { return Ok(None) };
        let status = match ended {
            Ended::Exited(code) => ExitStatus::Exited(code),
            Ended::Signaled(signal) => ExitStatus::Signaled(signal),
        };
        let oom_killed = match &self.cgroup {
            Some(cgroup) => cgroup.oom_kills()? > 0,
            None => false,
        };
        self.exit = Some(Exit { status, oom_killed });
        Ok(self.exit)
    }

    /// Its first process, to be found again by its ID and the time of its start, and for [`crate::exec`].
    pub fn init(&self) -> Result<Option<Init>> {
        Init::find(self.pid)
    }

    /// Lets go of it without ending anything: it runs on, and its cgroups are to be removed by somebody else
    /// ([`crate::remove_cgroups`]). One that is tied to this thread still ends with it.
    pub fn leave(mut self) {
        // `drop` looks at these: an end that is known, and no cgroup, leave it nothing to do.
        self.exit.get_or_insert(Exit {
            status: ExitStatus::Exited(0),
            oom_killed: false,
        });
        drop(self.cgroup.take());
    }

    /// Lets go of everything the container had in the kernel: kills what still runs, removes its cgroups, takes its
    /// namespaces down.
    pub fn release(mut self, teardown: Teardown) -> Result<()> {
        self.kill_and_wait()?;
        // It starts while the cgroups are removed.
        let lingering = match (self.mounts.take(), teardown) {
            (Some(mounts), Teardown::Leave) => teardown::leave(mounts),
            _ => None,
        };
        let removed = self.remove_cgroup();
        drop(lingering);
        removed
    }

    fn kill_and_wait(&mut self) -> Result<()> {
        if self.exit.is_none() {
            self.signal(libc::SIGKILL)?;
            self.wait()?;
        }
        Ok(())
    }

    fn remove_cgroup(&mut self) -> Result<()> {
        match self.cgroup.take() {
            Some(cgroup) => Ok(cgroup.remove()?),
            None => Ok(()),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Errors have nowhere to go here; `release` is for those who want them.
        let _ = self.kill_and_wait();
        let _ = self.remove_cgroup();
    }
}
