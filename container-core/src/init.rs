//! A container's first process, found again by whoever knows its ID and when it was started.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::sys::clone::{self, Child};
use crate::sys::{self, Errno};

/// A container's first process. It cannot be taken for another that got its ID later.
#[derive(Debug)]
pub struct Init {
    pid: libc::pid_t,
    start_time: u64,
    pidfd: OwnedFd,
}

/// What /proc/PID/stat tells.
struct Stat {
    state: u8,
    start_time: u64,
}

/// Reads it; `None` when there is no such process.
fn stat(pid: libc::pid_t) -> Result<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    let text = match fs::read_to_string(&path).map_err(Errno::from) {
        Ok(text) => text,
        Err(Errno(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(errno) => return Err(Error::setup(format!("read {path}"), errno)),
    };
    Ok(parse(&text))
}

fn parse(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything; what follows the last one does not (proc_pid_stat(5)).
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    // Fields 3 (the state) and 22.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

impl Init {
    /// The process with this ID that was started at this time (field 22 of /proc/PID/stat: ticks since the machine
    /// started); `None` when it has ended.
    pub fn open(pid: i32, start_time: u64) -> Result<Option<Self>> {
        match Self::find(pid)? {
            Some(found) if found.start_time == start_time => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    /// The process with this ID now; `None` when there is none, or it has ended and is not reaped yet.
    pub fn find(pid: i32) -> Result<Option<Self>> {
        let pidfd = match clone::pidfd_open(pid) {
            // SAFETY: the call has just made the descriptor.
            Ok(pidfd) => unsafe { OwnedFd::from_raw_fd(pidfd) },
            Err(Errno(libc::ESRCH | libc::EINVAL)) => return Ok(None),
            Err(errno) => return Err(Error::setup(format!("open process {pid}"), errno)),
        };
        let Some(stat) = stat(pid)? else {
            return Ok(None);
        };
        let this = Self {
            pid,
            start_time: stat.start_time,
            pidfd,
        };
        // Alive after its file was read: so it was its file.
        if matches!(stat.state, b'Z' | b'X') || this.has_ended()? {
            return Ok(None);
        }
        Ok(Some(this))
    }

    pub(crate) fn of(child: &Child) -> Result<Self> {
        let stat = stat(child.pid)?
            .ok_or_else(|| Error::setup("find the container's process", Errno(libc::ESRCH)))?;
        Ok(Self {
            pid: child.pid,
            start_time: stat.start_time,
            pidfd: child
                .pidfd
                .try_clone()
                .map_err(|error| Error::setup("copy a pidfd", error))?,
        })
    }

    /// Its process ID.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it was started, in ticks since the machine started.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> Result<bool> {
        clone::has_ended(self.pidfd.as_raw_fd())
            .map_err(|errno| Error::setup(format!("look at process {}", self.pid), errno))
    }

    /// Sends it a signal; `false` when it has ended.
    pub fn signal(&self, signal: i32) -> Result<bool> {
        match clone::pidfd_send_signal(self.pidfd.as_raw_fd(), signal) {
            Ok(()) => Ok(true),
            Err(Errno(libc::ESRCH)) => Ok(false),
            Err(errno) => Err(Error::setup(
                format!("send signal {signal} to process {}", self.pid),
                errno,
            )),
        }
    }

    /// The namespaces in which it is and this process is not, as `CLONE_NEW*`.
    pub(crate) fn other_namespaces(&self) -> Result<libc::c_int> {
        /// Names below /proc/PID/ns; the user namespace first.
        const KINDS: [(&str, libc::c_int); 8] = [
            ("user", libc::CLONE_NEWUSER),
            ("mnt", libc::CLONE_NEWNS),
            ("pid", libc::CLONE_NEWPID),
            ("net", libc::CLONE_NEWNET),
            ("ipc", libc::CLONE_NEWIPC),
            ("uts", libc::CLONE_NEWUTS),
            ("cgroup", libc::CLONE_NEWCGROUP),
            ("time", CLONE_NEWTIME),
        ];
        let mut flags = 0;
        for (name, flag) in KINDS {
            let identity = |path: String| match sys::file::identity(&path) {
                Ok(identity) => Ok(Some(identity)),
                // This kernel has no such namespaces.
                Err(Errno(libc::ENOENT)) => Ok(None),
                Err(errno) => Err(Error::setup(format!("look at {path}"), errno)),
            };
            let own = identity(format!("/proc/thread-self/ns/{name}"))?;
            if own.is_some() && identity(format!("/proc/{}/ns/{name}", self.pid))? != own {
                flags |= flag;
            }
        }
        if self.has_ended()? {
            return Err(Error::setup(
                "enter the container: its process has ended",
                Errno(libc::ESRCH),
            ));
        }
        Ok(flags)
    }
}

/// `CLONE_NEWTIME` (uapi/linux/sched.h).
pub(crate) const CLONE_NEWTIME: libc::c_int = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_id_and_the_time_of_its_start() {
        let own = std::process::id() as i32;
        let found = Init::find(own).unwrap().unwrap();
        assert!(Init::open(own, found.start_time()).unwrap().is_some());
        assert!(Init::open(own, found.start_time() + 1).unwrap().is_none());
        assert_eq!(found.other_namespaces().unwrap(), 0);
    }

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = parse("7 (a) b) (c) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9").unwrap();
        assert_eq!((stat.state, stat.start_time), (b'S', 4711));
        assert!(parse("7 (a").is_none());
    }
}
