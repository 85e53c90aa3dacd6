//! Hooks: programs of the specification's that are run at points of a container's life (config.md, "POSIX-platform Hooks").
//!
//! Those of the runtime's namespaces are run as any program. Those of the container's are run as its own processes are
//! that join it later; before the root is entered, that is the host's file system as the container's mount namespace
//! has it. Each is told the container's state on its standard input.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Pipe};
use std::time::{Duration, Instant};

use oci_spec::runtime::{ContainerState, Hook, Hooks, ProcessBuilder, Spec, State, StateBuilder};

use crate::cgroup::Cgroup;
use crate::container::ExitStatus;
use crate::error::{Error, Result};
use crate::exec;
use crate::init::Init;
use crate::launch::{Launch, Rootfs, Stdio};
use crate::plan::{Plan, c_string};
use crate::sys::clone;
use crate::sys::{self, Errno};

/// What of a hook's output is told when it fails, in bytes.
const TOLD: usize = 2048;

/// What hooks are told of a container.
#[derive(Clone, Debug)]
pub struct HookState {
    version: String,
    id: String,
    bundle: PathBuf,
    annotations: std::collections::HashMap<String, String>,
}

/// Whether there are hooks for the time before the root is entered.
pub(crate) fn any_before_start(hooks: &Hooks) -> bool {
    [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
    ]
    .into_iter()
    .flatten()
    .any(|list| !list.is_empty())
}

impl HookState {
    /// Of a container with this ID, whose bundle is in a directory.
    pub fn new(id: &str, spec: &Spec, bundle: &Path) -> Self {
        Self {
            version: spec.version().clone(),
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        }
    }

    pub(crate) fn of(launch: &Launch<'_>) -> Self {
        let bundle = match (launch.bundle, &launch.rootfs) {
            (Some(bundle), _) => bundle,
            (None, Rootfs::Bundle(bundle)) => bundle,
            _ => Path::new(""),
        };
        Self::new(launch.id, launch.spec, bundle)
    }

    /// Runs `prestart`, `createRuntime` and `createContainer`.
    pub(crate) fn run_before_start(
        &self,
        hooks: &Hooks,
        init: &Init,
        cgroup: Option<&Cgroup>,
    ) -> Result<()> {
        let state = self.json(ContainerState::Creating, Some(init.pid()))?;
        run_all("prestart", hooks.prestart(), |hook| outside(hook, &state))?;
        run_all("createRuntime", hooks.create_runtime(), |hook| {
            outside(hook, &state)
        })?;
        run_all("createContainer", hooks.create_container(), |hook| {
            inside(hook, &state, init, cgroup)
        })
    }

    /// Runs `startContainer`, before the command is executed.
    pub fn run_at_start(&self, hooks: &Hooks, init: &Init, cgroup: Option<&Cgroup>) -> Result<()> {
        let state = self.json(ContainerState::Created, Some(init.pid()))?;
        run_all("startContainer", hooks.start_container(), |hook| {
            inside(hook, &state, init, cgroup)
        })
    }

    /// Runs `poststart`, when the command has been executed.
    pub fn run_after_start(&self, hooks: &Hooks, pid: i32) -> Result<()> {
        let state = self.json(ContainerState::Running, Some(pid))?;
        run_all("poststart", hooks.poststart(), |hook| outside(hook, &state))
    }

    /// Runs `poststop`, when the container has been removed. One that fails does not keep the others from running: the
    /// errors are for a warning.
    pub fn run_after_end(&self, hooks: &Hooks) -> Vec<Error> {
        let state = match self.json(ContainerState::Stopped, None) {
            Ok(state) => state,
            Err(error) => return vec![error],
        };
        hooks
            .poststop()
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, hook)| {
                run_one("poststop", index, hook, |hook| outside(hook, &state)).err()
            })
            .collect()
    }

    pub(crate) fn version(&self) -> String {
        self.version.clone()
    }

    /// The state as the specification has it.
    pub(crate) fn state(&self, status: ContainerState, pid: Option<i32>) -> Result<State> {
        let mut state = StateBuilder::default()
            .version(self.version.clone())
            .id(self.id.clone())
            .status(status)
            .bundle(self.bundle.clone())
            .annotations(self.annotations.clone());
        if let Some(pid) = pid {
            state = state.pid(pid);
        }
        state
            .build()
            .map_err(|error| Error::invalid("hooks", error.to_string()))
    }

    fn json(&self, status: ContainerState, pid: Option<i32>) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.state(status, pid)?)
            .map_err(|error| Error::invalid("hooks", error.to_string()))
    }
}

/// Why a hook counts as failed, with what it said.
struct Failed {
    reason: String,
    output: String,
}

fn run_all(
    kind: &str,
    hooks: &Option<Vec<Hook>>,
    mut run: impl FnMut(&Hook) -> std::result::Result<(), Failed>,
) -> Result<()> {
    hooks
        .iter()
        .flatten()
        .enumerate()
        .try_for_each(|(index, hook)| run_one(kind, index, hook, &mut run))
}

fn run_one(
    kind: &str,
    index: usize,
    hook: &Hook,
    run: impl FnOnce(&Hook) -> std::result::Result<(), Failed>,
) -> Result<()> {
    let field = format!("hooks.{kind}[{index}]");
    if !hook.path().is_absolute() {
        return Err(Error::invalid(
            format!("{field}.path"),
            format!("{} must be an absolute path", hook.path().display()),
        ));
    }
    if hook.timeout().is_some_and(|seconds| seconds <= 0) {
        return Err(Error::invalid(
            format!("{field}.timeout"),
            "must be more than zero seconds",
        ));
    }
    run(hook).map_err(|failed| Error::Hook {
        hook: field,
        path: hook.path().clone(),
        reason: failed.reason,
        output: if failed.output.is_empty() {
            String::new()
        } else {
            format!(": {}", failed.output)
        },
    })
}

/// A file in memory that keeps what a hook says: nobody has to read it while the hook runs.
fn scratch(name: &std::ffi::CStr) -> std::result::Result<File, Failed> {
    // SAFETY: the name is terminated.
    let fd = sys::check_int(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })
        .map_err(|errno| failed(format!("no memory for its output: {errno}")))?;
    // SAFETY: the call has just made the descriptor.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A standard input that holds the state.
fn told(state: &[u8]) -> std::result::Result<File, Failed> {
    // A pipe takes 64 KiB without a reader (pipe(7)): a state with more in its annotations goes through a file.
    let mut file = scratch(c"state")?;
    file.write_all(state)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|error| failed(format!("its state cannot be kept: {error}")))?;
    Ok(file)
}

fn failed(reason: String) -> Failed {
    Failed {
        reason,
        output: String::new(),
    }
}

fn said(mut output: File) -> String {
    let mut text = Vec::new();
    let read = output
        .seek(SeekFrom::Start(0))
        .and_then(|_| output.take(TOLD as u64).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).trim().to_owned(),
        Err(_) => String::new(),
    }
}

fn copy(file: &File) -> std::result::Result<OwnedFd, Failed> {
    file.try_clone()
        .map(OwnedFd::from)
        .map_err(|error| failed(format!("no descriptor for its streams: {error}")))
}

/// Runs a hook in the runtime's namespaces.
fn outside(hook: &Hook, state: &[u8]) -> std::result::Result<(), Failed> {
    let output = scratch(c"hook")?;
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .envs(
            hook.env()
                .iter()
                .flatten()
                .filter_map(|variable| variable.split_once('=')),
        )
        .stdin(Pipe::from(told(state)?))
        .stdout(Pipe::from(copy(&output)?))
        .stderr(Pipe::from(copy(&output)?));
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let pidfd = clone::pidfd_open(child.id() as libc::pid_t)
        // SAFETY: the call has just made the descriptor.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .map_err(|errno| failed(errno.to_string()))?;
    let in_time = wait_until(&pidfd, hook.timeout());
    if !in_time {
        // It may have ended just now.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    judge(in_time, status.success(), &status.to_string(), hook, output)
}

/// Runs a hook in the container's namespaces.
fn inside(
    hook: &Hook,
    state: &[u8],
    init: &Init,
    cgroup: Option<&Cgroup>,
) -> std::result::Result<(), Failed> {
    let output = scratch(c"hook")?;
    let told_error = |error: Error| failed(error.to_string());
    let path = hook.path().to_string_lossy().into_owned();
    let args = match hook.args().as_deref() {
        Some(args) if !args.is_empty() => args.to_vec(),
        _ => vec![path.clone()],
    };
    let mut process = ProcessBuilder::default()
        .args(args)
        .env(hook.env().clone().unwrap_or_default())
        .cwd("/")
        .build()
        .map_err(|error| failed(error.to_string()))?;
    process.set_rlimits(None);
    process.set_capabilities(None);
    process.set_no_new_privileges(None);
    let mut plan = Plan::joining(&process, None).map_err(told_error)?;
    // Its first argument may be another name than its path.
    plan.process.candidates = vec![c_string("hooks.path", path.clone()).map_err(told_error)?];
    plan.process.command = path;
    let streams = [OwnedFd::from(told(state)?), copy(&output)?, copy(&output)?];
    let mut process = exec::run(
        &plan,
        init,
        cgroup,
        Stdio::Descriptors(streams),
        true,
        0,
        None,
    )
    .map_err(told_error)?;
    let in_time = wait_until(&process.pidfd(), hook.timeout());
    if !in_time {
        process.signal(libc::SIGKILL).map_err(told_error)?;
    }
    let status = process.wait().map_err(told_error)?;
    let text = match status {
        ExitStatus::Exited(code) => format!("exit status: {code}"),
        ExitStatus::Signaled(signal) => format!("signal: {signal}"),
    };
    judge(
        in_time,
        status == ExitStatus::Exited(0),
        &text,
        hook,
        output,
    )
}

fn judge(
    in_time: bool,
    success: bool,
    status: &str,
    hook: &Hook,
    output: File,
) -> std::result::Result<(), Failed> {
    if in_time && success {
        return Ok(());
    }
    Err(Failed {
        reason: match in_time {
            true => status.to_owned(),
            false => format!(
                "it did not end within {} s",
                hook.timeout().unwrap_or_default()
            ),
        },
        output: said(output),
    })
}

/// Waits for the end of a process: `false` when it does not come within these seconds.
fn wait_until(pidfd: &impl AsRawFd, seconds: Option<i64>) -> bool {
    let limit = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let started = Instant::now();
    loop {
        let left = match limit.map(Duration::from_secs) {
            None => -1,
            Some(limit) => match limit.checked_sub(started.elapsed()) {
                // Rounded up, so that the last part of a millisecond is not waited for in a loop.
                Some(left) => left.as_millis().min(i32::MAX as u128 - 1) as i32 + 1,
                None => return false,
            },
        };
        match clone::wait_for_end(pidfd.as_raw_fd(), left) {
            Ok(true) => return true,
            Ok(false) | Err(Errno(libc::EINTR)) => {}
            // Not to be waited for so: whoever reaps it waits.
            Err(_) => return true,
        }
    }
}
