//! Containers between `create` and `start`.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::{Hooks, Process, ProcessBuilder};

use super::starting::{Until, hear, tell};
use super::{Begun, describe};
use crate::child::report::Message;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::hooks::HookState;
use crate::init::Init;
use crate::listener::SeccompListener;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::sys::file::FdPath;
use crate::sys::{Errno, file, socket};

/// A container whose command waits to be executed. Dropping it kills the process that waits, and removes its cgroups.
pub struct Created {
    begun: Begun,
    command: String,
    hooks: Option<Hooks>,
    state: HookState,
    /// It has a process to run.
    complete: bool,
}

impl std::fmt::Debug for Created {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Created")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

impl Created {
    pub(super) fn new(begun: Begun, plan: &Plan, hooks: Option<Hooks>, state: HookState) -> Self {
        Self {
            begun,
            command: plan.command().to_owned(),
            hooks,
            state,
            complete: !plan.process.candidates.is_empty(),
        }
    }

    /// The process ID of its first process, as the launcher sees it.
    pub fn pid(&self) -> i32 {
        self.begun
            .starting
            .child
            .as_ref()
            .map_or(0, |child| child.pid)
    }

    /// Its first process, to be found again by its ID and the time of its start.
    pub fn init(&self) -> Result<Init> {
        Init::of(self.begun.starting.target()?)
    }

    /// Readable when its first process has ended.
    pub fn pidfd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.begun.starting.target()?.pidfd.as_fd())
    }

    /// Gives the master of its terminal away.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.begun.take_terminal()
    }

    /// When each step ended, in order of time.
    pub fn stages(&self) -> &[Stage] {
        &self.begun.starting.stages
    }

    /// Runs the hooks of the start and has the command executed.
    pub fn start(mut self) -> Result<Container> {
        if !self.complete {
            return Err(no_process());
        }
        let starting = &mut self.begun.starting;
        if let Some(hooks) = &self.hooks {
            let init = Init::of(starting.target()?)?;
            self.state
                .run_at_start(hooks, &init, starting.cgroup.as_ref())?;
        }
        tell(&self.begun.socket, None)?;
        let command = &self.command;
        starting.listen(
            &self.begun.socket,
            Until::Executed,
            &mut None,
            command,
            &|failure| describe::late_failure(command, failure),
        )?;
        if let Some(hooks) = &self.hooks {
            self.state.run_after_start(hooks, starting.target()?.pid)?;
        }
        self.begun.finish()
    }

    /// Lets go of it without ending it: it waits at its gate (see [`super::Launch::gate`]), and is to be started and
    /// removed by somebody else.
    pub fn leave(mut self) {
        let starting = &mut self.begun.starting;
        // The owners of what is to stay; descriptors close, and nothing is ended.
        drop(starting.child.take());
        drop(starting.cgroup.take());
    }
}

/// What cannot be started.
pub(crate) fn no_process() -> Error {
    Error::invalid("process", "is needed to start a container")
}

/// Stands for the process of a specification that has none.
pub(super) fn placeholder() -> Result<Process> {
    let mut process = ProcessBuilder::default()
        .args(vec!["none".to_owned()])
        .env(Vec::new())
        .cwd("/")
        .build()
        .map_err(|error| Error::invalid("process", error.to_string()))?;
    process.set_rlimits(None);
    process.set_capabilities(None);
    process.set_no_new_privileges(None);
    Ok(process)
}

/// Calls `with` with a path to a name in a directory that fits a socket's address, however long its own path is.
fn with_short_path<T>(
    path: &Path,
    with: impl FnOnce(&CString) -> std::result::Result<T, Errno>,
) -> std::result::Result<T, Errno> {
    let invalid = Errno(libc::EINVAL);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(invalid);
    };
    let parent = CString::new(parent.as_os_str().as_bytes()).map_err(|_| invalid)?;
    let directory = file::openat(libc::AT_FDCWD, &parent, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    // SAFETY: the call above made the descriptor.
    let directory = unsafe { OwnedFd::from_raw_fd(directory) };
    let mut short = FdPath::new(directory.as_raw_fd())
        .as_c_str()
        .to_bytes()
        .to_vec();
    short.push(b'/');
    short.extend_from_slice(name.as_bytes());
    with(&CString::new(short).map_err(|_| invalid)?)
}

/// Makes the socket of a gate.
pub(super) fn listen(path: &Path) -> Result<OwnedFd> {
    let listener = with_short_path(path, |path| socket::listen(path))
        .map_err(|errno| Error::setup(format!("make the socket {}", path.display()), errno))?;
    // SAFETY: the call above made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Has a container of [`super::create`] that waits at this gate execute its command, which `command` names in errors.
/// Returns when it has. Its hooks are the caller's to run.
///
/// `listener` is who answers its calls where its filter hands any over, with the ID of its first process.
pub fn open_gate(
    path: &Path,
    command: &str,
    listener: Option<(&SeccompListener, i32)>,
) -> Result<()> {
    let connection = with_short_path(path, |path| socket::connect(path)).map_err(|errno| {
        let doing = format!("reach the container at {}", path.display());
        Error::setup(doing, errno)
    })?;
    // SAFETY: the call above made the descriptor, and nobody else knows it.
    let connection = unsafe { OwnedFd::from_raw_fd(connection) };
    tell(&connection, None)?;
    let mut passed = false;
    loop {
        match hear(&connection)? {
            // Closed by `execve`.
            None if passed => return Ok(()),
            None => {
                return Err(Error::setup(
                    "start the container: its process has ended",
                    Errno(libc::ESRCH),
                ));
            }
            Some((Message::Failed(failure), _)) => {
                return Err(describe::late_failure(command, failure));
            }
            Some((Message::Listener, Some(descriptor))) => {
                if let Some((listener, pid)) = listener {
                    listener.send(pid, &descriptor)?;
                }
            }
            Some((message, _)) => passed |= message == Message::Passed,
        }
    }
}
