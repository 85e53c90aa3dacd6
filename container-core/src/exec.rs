//! Another process in a running container.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use oci_spec::runtime::{LinuxSeccomp, Process};

use crate::cgroup::Cgroup;
use crate::child::{self, Gate, join};
use crate::container::ExitStatus;
use crate::error::{Error, Result};
use crate::init::Init;
use crate::launch::starting::{
    Hidden, Starting, Streams, Until, own_program, sockets, this_process,
};
use crate::launch::{self, Stdio};
use crate::listener::SeccompListener;
use crate::plan::Plan;
use crate::seccomp::Filter;
use crate::stage::Stage;
use crate::sys::clone::{self, Child};
use crate::sys::process::{self, Ended};
use crate::sys::{self, Errno};

/// What to run in a running container.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container's first process, whose namespaces are joined.
    pub init: &'a Init,
    /// What to run, and as whom. `terminal` is not read here: [`Exec::stdio`] says it.
    pub process: &'a Process,
    /// The filter of its system calls.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The container's cgroup, which the process enters before anything of the container can be seen by it.
    pub cgroup: Option<&'a Cgroup>,
    /// The standard streams. A terminal is one of the container's own devpts.
    pub stdio: Stdio,
    /// The process dies with the thread that calls [`exec`].
    pub tied: bool,
    /// How many of the caller's descriptors, from 3 on, the command gets as they are.
    pub preserve_fds: u32,
}

/// A process that was started in a running container. Dropping this does nothing to it.
///
/// It must be waited for before the container is: the kernel ends a PID namespace only when everything that was ever in it
/// has been reaped (`zap_pid_ns_processes`), and this is a child of the caller. The end of the container kills it.
#[derive(Debug)]
pub struct ExecProcess {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    stages: Vec<Stage>,
    status: Option<ExitStatus>,
}

/// Runs another process in a running container. When this returns, the command has been executed.
pub fn exec(exec: Exec<'_>) -> Result<ExecProcess> {
    exec_with_listener(exec, None)
}

/// The same, with somebody who answers the calls that its filter hands over.
pub fn exec_with_listener(
    exec: Exec<'_>,
    listener: Option<&SeccompListener>,
) -> Result<ExecProcess> {
    let plan = Plan::joining(exec.process, exec.seccomp)?;
    if listener.is_none() && plan.process.filter.as_ref().is_some_and(Filter::notifies) {
        return Err(Error::invalid(
            "linux.seccomp.listenerPath",
            "is needed: SCMP_ACT_NOTIFY has somebody else answer calls",
        ));
    }
    if exec.cgroup.map(Cgroup::frozen).transpose()? == Some(true) {
        return Err(Error::setup(
            "run anything in a paused container: resume it first",
            Errno(libc::EBUSY),
        ));
    }
    run(
        &plan,
        exec.init,
        exec.cgroup,
        exec.stdio,
        exec.tied,
        exec.preserve_fds,
        listener,
    )
}

/// The same with a plan.
pub(crate) fn run(
    plan: &Plan,
    init: &Init,
    cgroup: Option<&Cgroup>,
    stdio: Stdio,
    tied: bool,
    preserve_fds: u32,
    listener: Option<&SeccompListener>,
) -> Result<ExecProcess> {
    let namespaces = init.other_namespaces()?;
    let mut starting = Starting::new(None);
    starting.listener = listener.map(|listener| listener.in_container(init.pid()));
    let (ours, theirs) = sockets()?;
    let launcher = this_process()?;
    let streams = Streams::new(stdio)?;
    // In a mount namespace shared with us the container's root is that of its process alone.
    let root = match namespaces & libc::CLONE_NEWNS {
        0 => Some(root_of(init)?),
        _ => None,
    };
    let entrances = cgroup.map(Cgroup::entrances).unwrap_or_default();
    let score = plan
        .process
        .oom_score_adj
        .map(|score| score.to_string().into_bytes());
    let [before, after] = &plan.process.affinity;
    let view = Default::default();
    let context = child::Context {
        plan,
        mounted: None,
        cgroups: &view,
        entrances: &entrances,
        socket: theirs.as_raw_fd(),
        other_side: ours.as_raw_fd(),
        launcher: launcher.as_raw_fd(),
        own_program: own_program()?,
        stdio: streams.child(),
        tied,
        gate: Gate::Open,
        preserve: launch::preserved(preserve_fds)?,
        init: false,
        hooks: false,
        keyring: None,
    };
    let entry = join::Entry {
        pidfd: init.pidfd().as_raw_fd(),
        namespaces: namespaces & !libc::CLONE_NEWPID,
        root: root.as_ref().map(AsRawFd::as_raw_fd),
        affinity: [before.as_ref(), after.as_ref()],
        oom_score_adj: score.as_deref(),
    };
    let unified = cgroup.and_then(Cgroup::unified_directory);
    let child = match clone(&context, &entry, namespaces, init, &launcher, unified) {
        // The container has handed controllers down, so that its own cgroup takes no processes: where its first process
        // went, another one can go.
        Err(Errno(libc::EBUSY)) => {
            let moved = Cgroup::unified_of(init.pid())?;
            clone(
                &context,
                &entry,
                namespaces,
                init,
                &launcher,
                moved.as_ref().map(AsFd::as_fd),
            )
        }
        other => other,
    };
    starting.child = Some(child.map_err(describe)?);
    starting.reached("clone");
    drop((theirs, streams, root));
    let mut terminal = None;
    starting.listen(
        &ours,
        Until::Executed,
        &mut terminal,
        plan.command(),
        &|failure| launch::describe_failure(plan, failure),
    )?;
    starting.reached("exec");
    starting.finish(|child, stages, _| ExecProcess {
        pid: child.pid,
        pidfd: child.pidfd,
        terminal,
        stages,
        status: None,
    })
}

fn describe(errno: Errno) -> Error {
    let hint = match errno.0 {
        libc::EAGAIN => " (a limit on processes is reached)",
        libc::ESRCH => " (the container has ended)",
        libc::EPERM => " (this takes root)",
        _ => "",
    };
    Error::setup(format!("make a process in the container{hint}"), errno)
}

/// Makes the process, in the container's PID namespace and unified cgroup.
fn clone(
    context: &child::Context<'_>,
    entry: &join::Entry<'_>,
    namespaces: libc::c_int,
    init: &Init,
    launcher: &OwnedFd,
    cgroup: Option<BorrowedFd<'_>>,
) -> std::result::Result<Child, Errno> {
    let joins = namespaces & libc::CLONE_NEWPID != 0;
    // The container's processes see the copy from its first moment on.
    let _hidden = match joins {
        true => Some(Hidden::new()?),
        false => None,
    };
    if joins {
        clone::setns(init.pidfd().as_raw_fd(), libc::CLONE_NEWPID)?;
    }
    let mask = process::block_signals();
    // SAFETY: neither `join::run` nor what it calls allocates or locks (the invariant of `child`).
    let child = unsafe {
        clone::clone3(0, cgroup.map(|fd| fd.as_raw_fd()), libc::SIGCHLD, || {
            join::run(context, entry)
        })
    };
    process::restore_signals(&mask);
    if joins {
        clone::setns(launcher.as_raw_fd(), libc::CLONE_NEWPID)?;
    }
    child
}

/// The root directory of a container that has no mount namespace of its own.
fn root_of(init: &Init) -> Result<OwnedFd> {
    let path = format!("/proc/{}/root", init.pid());
    let root = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(&path)
        .map_err(|error| Error::setup(format!("open {path}"), error))?;
    if init.has_ended()? {
        return Err(describe(Errno(libc::ESRCH)));
    }
    Ok(root.into())
}

impl ExecProcess {
    /// Its process ID, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Gives the master of its terminal away.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// When each step of its start ended, in order of time.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Sends it a signal. One that has ended takes it without a word.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match clone::pidfd_send_signal(self.pidfd.as_raw_fd(), signal) {
            Ok(()) | Err(Errno(libc::ESRCH)) => Ok(()),
            Err(errno) => Err(Error::setup(
                format!("send signal {signal} to process {}", self.pid),
                errno,
            )),
        }
    }

    /// Waits for its end. Can be called again.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.finish(true)?
            .ok_or_else(|| Error::setup("wait for a process", Errno(libc::ECHILD)))
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.finish(false)
    }

    fn finish(&mut self, block: bool) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let ended = process::wait(sys::raw(&self.pidfd), block)
                .map_err(|errno| Error::setup(format!("wait for process {}", self.pid), errno))?;
            self.status = ended.map(|ended| match ended {
                Ended::Exited(code) => ExitStatus::Exited(code),
                Ended::Signaled(signal) => ExitStatus::Signaled(signal),
            });
        }
        Ok(self.status)
    }
}
