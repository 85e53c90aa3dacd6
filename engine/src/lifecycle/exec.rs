//! Another process in a running instance.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use container_core::cgroup::{self, Cgroup};
use container_core::{Exec, ExitStatus, Init, Stdio};

use super::start::Outcome;
use crate::backend::{self, Ended};
use crate::base;
use crate::client::{self, Attach, Conversation, DetachKeys, Parting};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed, Status};
use crate::process::{ACCOUNTS_MAX, Process};
use crate::signals::Signals;
use crate::spec::{BackendKind, InstanceSpec};
use crate::supervisor::protocol::{ExecRequest, Reply, Request};
use crate::supervisor::{connect, null};
use crate::terminal::{self, RawMode};
use crate::toolbox;
use crate::user::Identity;

/// What `exec` is told.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Added to the instance's environment.
    pub env: Vec<String>,
    /// Working directory; `None`: the instance's.
    pub workdir: Option<String>,
    /// Who it runs as; `None`: as the instance.
    pub user: Option<String>,
    /// Standard input is passed on.
    pub interactive: bool,
    /// It gets a terminal.
    pub terminal: bool,
    /// Nobody waits for it.
    pub detach: bool,
    /// Everything that root of the host may do.
    pub privileged: bool,
}

/// Runs another process in a running instance.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::Refused`] for one that does not run, and whatever keeps the command from running, with
/// docker's exit codes.
pub fn exec(
    home: &Home,
    wanted: &str,
    asked: &ExecSpec,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let found = instance::look(home, wanted)?;
    match found.state.status {
        Status::Running => {}
        Status::Paused => {
            return Err(Error::Refused(format!(
                "container {wanted} is paused, unpause the container before exec"
            )));
        }
        Status::Restarting => {
            return Err(Error::Refused(format!(
                "container {} is restarting, wait until the container is running",
                found.record.id
            )));
        }
        Status::Created | Status::Exited => {
            return Err(Error::Refused(format!(
                "container {} is not running",
                found.record.id
            )));
        }
    }
    if found.record.spec.backend.is_machine() {
        in_vm(home, &found, asked, notice)
    } else {
        in_container(home, &found, asked)
    }
}

/// Reads a file of accounts by its path.
type Accounts<'a> = &'a dyn Fn(&str) -> Result<String>;

/// The process, with the instance's own settings where nothing else is asked for.
fn process(
    home: &Home,
    found: &Listed,
    asked: &ExecSpec,
    accounts: Option<Accounts<'_>>,
) -> Result<Process> {
    let spec = InstanceSpec {
        env: [found.record.spec.env.clone(), asked.env.clone()].concat(),
        workdir: asked
            .workdir
            .clone()
            .or_else(|| found.record.spec.workdir.clone()),
        user: asked
            .user
            .clone()
            .or_else(|| found.record.spec.user.clone()),
        terminal: asked.terminal,
        ..found.record.spec.clone()
    };
    let store = home.images()?;
    let image = if base::is_base(&spec.image) {
        base::ensure(&store)?
    } else {
        store.resolve(&found.record.image_id)?
    };
    let (args, hostname) = (asked.command.clone(), found.record.hostname());
    match accounts {
        Some(accounts) => Process::with_accounts(&spec, &image, args, hostname, accounts),
        None => Process::new(&spec, &store, &image, args, hostname),
    }
}

fn in_container(home: &Home, found: &Listed, asked: &ExecSpec) -> Result<Outcome> {
    let gone = || Error::Refused(format!("container {} is not running", found.record.id));
    let init = Init::open(found.state.pid, found.state.pid_started)?.ok_or_else(gone)?;
    // Users may have been added since the image was made. The container is hostile: nothing is followed out of its root.
    let root = File::open(format!("/proc/{}/root", init.pid()))
        .map_err(|e| Error::io("open", format!("/proc/{}/root", init.pid()), e))?;
    let accounts = |path: &str| read_below(root.as_fd(), path);
    let process = process(home, found, asked, Some(&accounts))?;
    let (process, seccomp) = backend::beside(&found.record, &process, asked.privileged)?;
    let cgroup = Cgroup::open(&cgroup::path_of_id(&found.record.id)?)?;
    let signals = asked.terminal.then(Signals::block).transpose()?;
    let stdio = if asked.terminal {
        let size = client::own_size();
        Stdio::Terminal {
            rows: size.rows,
            columns: size.columns,
        }
    } else if asked.detach {
        Stdio::Descriptors([null()?, null()?, null()?])
    } else {
        Stdio::Inherit {
            stdin: asked.interactive,
        }
    };
    let mut running = container_core::exec(Exec {
        init: &init,
        process: &process,
        seccomp: seccomp.as_ref(),
        cgroup: cgroup.as_ref(),
        stdio,
        // It goes on when this command is killed.
        tied: false,
        preserve_fds: 0,
    })?;
    if asked.detach {
        return Ok(outcome(found, 0));
    }
    if let (Some(master), Some(signals)) = (running.take_terminal(), &signals) {
        let raw = asked.interactive.then(RawMode::of_stdin).flatten();
        let joined = terminal::join(&master, running.pidfd(), signals, asked.interactive, |n| {
            drop(running.signal(n));
        });
        drop(raw);
        joined?;
    }
    Ok(outcome(
        found,
        match running.wait()? {
            ExitStatus::Exited(code) => Ended::Code(code),
            ExitStatus::Signaled(number) => Ended::Signal(number),
        }
        .shell_code(),
    ))
}

/// Reads a file of the container's, as far as it is one: an account file that is missing is an empty one.
fn read_below(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    use image_core::openat2;
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let mut bytes = Vec::new();
    if let Ok(descriptor) = opened {
        let file = File::from(descriptor);
        if file.metadata().is_ok_and(|about| about.is_file()) {
            file.take(ACCOUNTS_MAX)
                .read_to_end(&mut bytes)
                .map_err(|e| Error::io("read", path, e))?;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn outcome(found: &Listed, code: u8) -> Outcome {
    Outcome {
        id: found.record.id.clone(),
        code,
        reason: None,
    }
}

fn in_vm(
    home: &Home,
    found: &Listed,
    asked: &ExecSpec,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let mut process = process(home, found, asked, None)?;
    if found.record.spec.backend == BackendKind::Toolbox {
        through_engine(&mut process, asked);
    }
    let size = client::own_size();
    let request = ExecRequest {
        args: process.args,
        env: process.env,
        cwd: process.cwd,
        uid: process.identity.uid,
        gid: process.identity.gid,
        groups: process.identity.groups,
        terminal: asked.terminal.then_some((size.rows, size.columns)),
        stdin: asked.interactive && !asked.detach,
        tool: false,
        privileged: asked.privileged,
        detached: asked.detach,
    };
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let nothing: Option<OwnedFd> = asked.detach.then(null).transpose()?;
    let streams: Vec<BorrowedFd<'_>> = match &nothing {
        Some(null) => vec![null.as_fd(), null.as_fd()],
        None if asked.interactive => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        None => vec![stdout.as_fd(), stderr.as_fd()],
    };
    let raw = (asked.terminal && asked.interactive && stdin.is_terminal())
        .then(RawMode::of_stdin)
        .flatten();
    let result = converse(home, found, request, &streams, asked.detach, notice);
    drop(raw);
    match result? {
        Parting::Ended { code, .. } => Ok(outcome(found, code)),
        Parting::Failed { code, message } => Err(Error::Told { code, message }),
        Parting::Interrupted(number) => Ok(outcome(found, 128 + (number & 0x7f) as u8)),
        Parting::Detached => Ok(outcome(found, 0)),
        Parting::Lost => {
            instance::settle(home, &found.record.id)?;
            Ok(outcome(found, 137))
        }
    }
}

/// In a toolbox, whoever executes something in the container is the engine in the machine.
fn through_engine(process: &mut Process, asked: &ExecSpec) {
    let mut words: Vec<String> = ["/bin/plimsoll", "--root", toolbox::ROOT, "exec"]
        .map(str::to_owned)
        .into();
    words.extend(["--workdir".to_owned(), process.cwd.clone()]);
    let identity = &process.identity;
    words.extend([
        "--user".to_owned(),
        format!("{}:{}", identity.uid, identity.gid),
    ]);
    for variable in &asked.env {
        words.extend(["--env".to_owned(), variable.clone()]);
    }
    for (flag, given) in [
        ("--interactive", asked.interactive),
        ("--tty", asked.terminal),
        ("--privileged", asked.privileged),
    ] {
        if given {
            words.push(flag.to_owned());
        }
    }
    words.push(toolbox::INNER.to_owned());
    words.append(&mut process.args);
    process.args = words;
    process.cwd = "/".to_owned();
    process.identity = Identity::root();
}

fn converse(
    home: &Home,
    found: &Listed,
    request: ExecRequest,
    streams: &[BorrowedFd<'_>],
    detach: bool,
    notice: &mut dyn FnMut(&str),
) -> Result<Parting> {
    let link = connect(home, &found.record.id)?
        .ok_or_else(|| Error::Refused(format!("container {} is not running", found.record.id)))?;
    let terminal = request.terminal.is_some();
    link.send(&Request::Exec(Box::new(request)), streams)
        .map_err(|source| Error::System {
            action: "speak to the instance's supervisor",
            source,
        })?;
    if detach {
        return Ok(match client::answer(&link) {
            Some(Reply::Started) => Parting::Detached,
            Some(Reply::Failed { code, message }) => Parting::Failed { code, message },
            _ => Parting::Lost,
        });
    }
    let signals = Signals::block()?;
    Conversation {
        link,
        attach: &Attach {
            detach_keys: DetachKeys::default(),
            ..Attach::default()
        },
        terminal,
        running: true,
        signals: &signals,
        notice,
        started: &mut || {},
    }
    .hold()
}

/// Runs one of our own helpers in a running VM, with these streams; its exit code.
///
/// # Errors
/// [`Error::Refused`] when the VM does not run, and what the guest says.
pub(crate) fn tool(
    home: &Home,
    found: &Listed,
    args: &[&str],
    stdin: Option<BorrowedFd<'_>>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> Result<u8> {
    let request = ExecRequest {
        args: std::iter::once("plimsoll-tools")
            .chain(args.iter().copied())
            .map(str::to_owned)
            .collect(),
        cwd: "/".into(),
        stdin: stdin.is_some(),
        tool: true,
        ..ExecRequest::default()
    };
    let streams: Vec<_> = stdin.into_iter().chain([stdout, stderr]).collect();
    let mut notice = |_: &str| {};
    match converse(home, found, request, &streams, false, &mut notice)? {
        Parting::Ended { code, .. } => Ok(code),
        Parting::Failed { code, message } => Err(Error::Told { code, message }),
        Parting::Interrupted(number) => Ok(128 + (number & 0x7f) as u8),
        Parting::Detached | Parting::Lost => Err(Error::Refused(format!(
            "container {} is not running any more",
            found.record.id
        ))),
    }
}
