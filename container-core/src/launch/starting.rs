//! What all starts have in common: streams, the conversation with the process, and taking back.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::Stdio;
use crate::cgroup::Cgroup;
use crate::child::ChildStdio;
use crate::child::report::{Failure, MESSAGE_SIZE, Message};
use crate::error::{Error, Result};
use crate::listener::SeccompListener;
use crate::stage::Stage;
use crate::sys::clone::{self, Child};
use crate::sys::process::{self, Ended};
use crate::sys::{self, Errno, credentials, socket};

/// The two ends of the conversation, the launcher's first.
pub(crate) fn sockets() -> Result<(OwnedFd, OwnedFd)> {
    let [ours, theirs] =
        socket::pair().map_err(|errno| Error::setup("make a socket pair", errno))?;
    // SAFETY: the call above made both descriptors, and nobody else knows them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) })
}

/// The container's standard streams on the launcher's side, kept until the process has its copies.
pub(crate) enum Streams {
    Null(fs::File),
    Inherited,
    Given([OwnedFd; 3]),
    Terminal { rows: u16, columns: u16 },
}

impl Streams {
    pub(crate) fn new(stdio: Stdio) -> Result<Self> {
        Ok(match stdio {
            Stdio::Inherit { stdin: true } => Self::Inherited,
            Stdio::Inherit { stdin: false } => Self::Null(
                fs::File::open("/dev/null")
                    .map_err(|error| Error::setup("open /dev/null", error))?,
            ),
            Stdio::Descriptors(three) => Self::Given(three),
            Stdio::Terminal { rows, columns } => Self::Terminal { rows, columns },
        })
    }

    pub(crate) fn child(&self) -> ChildStdio {
        match self {
            Self::Null(null) => ChildStdio::Descriptors([null.as_raw_fd(), 1, 2]),
            Self::Inherited => ChildStdio::Descriptors([0, 1, 2]),
            Self::Given(three) => {
                ChildStdio::Descriptors([0, 1, 2].map(|stream: usize| three[stream].as_raw_fd()))
            }
            Self::Terminal { rows, columns } => ChildStdio::Terminal {
                rows: *rows,
                columns: *columns,
            },
        }
    }
}

/// The process's next message with the descriptor that came with it; `None` when its side is closed.
pub(crate) fn hear(socket: &OwnedFd) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let mut bytes = [0; MESSAGE_SIZE];
    let (length, descriptor) = loop {
        match socket::receive(socket.as_raw_fd(), &mut bytes) {
            Ok(received) => break received,
            // The process ended without reading what was sent to it. This is told once, before what it said itself.
            Err(Errno(libc::ECONNRESET)) => {}
            Err(errno) => return Err(Error::setup("hear from the container's process", errno)),
        }
    };
    // SAFETY: the kernel has just made it for this process.
    let descriptor = descriptor.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) });
    if length == 0 {
        return Ok(None);
    }
    match Message::decode(bytes.get(..length).unwrap_or_default()) {
        Some(message) => Ok(Some((message, descriptor))),
        None => Err(Error::setup(
            "understand the container's process",
            Errno(libc::EBADMSG),
        )),
    }
}

/// A start under way: a failure takes back what has been made.
pub(crate) struct Starting {
    pub(crate) child: Option<Child>,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) stages: Vec<Stage>,
    /// It has said that `execve` is next.
    ready: bool,
    /// Who answers calls that the process's filter hands over.
    pub(crate) listener: Option<SeccompListener>,
}

/// How far a process is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// To the point where hooks are run, before it enters its root.
    Mounted,
    /// To the gate.
    Ready,
    /// To the execution of its command, through the gate if there is one.
    Executed,
}

impl Starting {
    /// A start that has made nothing but perhaps a cgroup.
    pub(crate) fn new(cgroup: Option<Cgroup>) -> Self {
        Self {
            child: None,
            cgroup,
            stages: Vec::with_capacity(5),
            ready: false,
            listener: None,
        }
    }

    pub(crate) fn reached(&mut self, name: &'static str) {
        self.stages.push(Stage {
            name,
            at: sys::monotonic(),
        });
    }

    /// The process, for those who enter its namespaces.
    pub(crate) fn target(&self) -> Result<&Child> {
        self.child
            .as_ref()
            .ok_or_else(|| Error::setup("find the container's process", Errno(libc::ESRCH)))
    }

    /// Follows the process to a point: its terminal, or what went wrong.
    pub(crate) fn listen(
        &mut self,
        socket: &OwnedFd,
        until: Until,
        terminal: &mut Option<OwnedFd>,
        command: &str,
        describe: &dyn Fn(Failure) -> Error,
    ) -> Result<()> {
        loop {
            let heard = match hear(socket)? {
                Some(heard) => heard,
                // `execve` has closed the process's side, or its death has.
                None if self.ready && until == Until::Executed => return Ok(()),
                None => return Err(self.died(command)),
            };
            match heard {
                (Message::Terminal, descriptor) => *terminal = descriptor,
                (Message::Ready { rootfs, network }, _) => {
                    self.ready = true;
                    for (name, at) in [("rootfs", rootfs), ("network", network)] {
                        if at != 0 {
                            self.stages.push(Stage { name, at });
                        }
                    }
                    if until == Until::Ready {
                        // It waits at its gate: that it has passed is told.
                        self.ready = false;
                        return Ok(());
                    }
                }
                (Message::Mounted, _) if until == Until::Mounted => return Ok(()),
                (Message::Mounted, _) => {}
                (Message::Passed, _) => self.ready = true,
                (Message::Listener, descriptor) => {
                    if let (Some(listener), Some(descriptor)) = (&self.listener, descriptor) {
                        listener.send(self.target()?.pid, &descriptor)?;
                    }
                }
                (Message::Failed(failure), _) => return Err(describe(failure)),
            }
        }
    }

    /// Hands everything over.
    pub(crate) fn finish<T>(
        mut self,
        made: impl FnOnce(Child, Vec<Stage>, Option<Cgroup>) -> T,
    ) -> Result<T> {
        let child = self
            .child
            .take()
            .ok_or_else(|| Error::setup("find the container's process", Errno(libc::ESRCH)))?;
        let mut stages = std::mem::take(&mut self.stages);
        stages.sort_by_key(|stage| stage.at);
        Ok(made(child, stages, self.cgroup.take()))
    }

    /// The process ended without a word.
    fn died(&mut self, command: &str) -> Error {
        let ended = match &self.child {
            Some(child) => process::wait(child.pidfd.as_raw_fd(), true),
            None => Ok(None),
        };
        let oom = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.oom_kills().unwrap_or(0) > 0);
        let command = command.to_owned();
        match ended {
            Ok(Some(Ended::Signaled(signal))) => Error::Died {
                signal,
                command,
                hint: match signal {
                    libc::SIGKILL if oom => ": its memory limit is too small to start anything",
                    libc::SIGSYS => ": its seccomp profile forbids what starting needs",
                    _ => "",
                },
            },
            _ => Error::setup(format!("start {command}"), Errno(libc::ECHILD)),
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill and little to wait for.
            let _ = clone::pidfd_send_signal(child.pidfd.as_raw_fd(), libc::SIGKILL);
            let _ = process::wait(child.pidfd.as_raw_fd(), true);
        }
        if let Some(cgroup) = self.cgroup.take() {
            // What cannot be removed now is found later by its name.
            let _ = cgroup.remove();
        }
    }
}

/// Says the word that the process waits for.
pub(crate) fn tell(socket: &OwnedFd, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    match socket::send(
        socket.as_raw_fd(),
        &[1],
        descriptor.map(|fd| fd.as_raw_fd()),
    ) {
        Ok(()) => Ok(()),
        // The process has failed and gone; what it has said is still to be read.
        Err(Errno(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        Err(errno) => Err(Error::setup("speak to the container's process", errno)),
    }
}

/// A pidfd of this process. It must not be kept over a fork.
pub(crate) fn this_process() -> Result<OwnedFd> {
    let pid = std::process::id() as libc::pid_t;
    let fd = clone::pidfd_open(pid)
        .map_err(|errno| Error::setup("open a pidfd of this process", errno))?;
    // SAFETY: the call above made the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Device and inode of this program's file, which stay what they are while it runs.
pub(crate) fn own_program() -> Result<(u64, u64)> {
    static OWN: OnceLock<(u64, u64)> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(*own);
    }
    let stat = fs::metadata("/proc/self/exe")
        .map_err(|error| Error::setup("look at /proc/self/exe", error))?;
    Ok(*OWN.get_or_init(|| (stat.dev(), stat.ino())))
}

/// While it lives, nobody can look into this process's memory, nor into that of a copy of it before the copy has done
/// its first step.
pub(crate) struct Hidden {
    before: libc::c_int,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Hidden {
    pub(crate) fn new() -> sys::Result<Self> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let before = credentials::dumpable()?;
        credentials::make_undumpable()?;
        Ok(Self {
            before,
            _one_at_a_time: lock,
        })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // The process stays hidden where this fails.
        let _ = credentials::restore_dumpable(self.before);
    }
}
