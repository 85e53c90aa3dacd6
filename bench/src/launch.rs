//! Starting an instance and watching it: the spawn, the first byte, the end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;
use crate::processes;

/// Why an instance gave no sample.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The launcher could not be started at all.
    #[error("cannot start {program}: {source}")]
    Spawn {
        program: String,
        source: std::io::Error,
    },
    /// Time ran out.
    #[error("{what} took longer than {}", clock::words(*.limit))]
    TimedOut { what: String, limit: Duration },
    /// It answered, but its time for the metric is used up.
    #[error("getting ready took all of its time, {}", clock::words(*.limit))]
    OverBudget { limit: Duration },
    /// The launcher ended, or its pipe did, when it should not have.
    #[error("it ended ({status}){}", said(.stderr))]
    Ended { status: String, stderr: String },
    /// The workload answered something that is no answer, or a wrong one.
    #[error("{0}")]
    Answer(String),
    /// The harness was asked to end.
    #[error("interrupted")]
    Interrupted,
}

fn said(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!(": {}", text.lines().next_back().unwrap_or_default()),
    }
}

/// How long a companion may take to end once its input has.
const COMPANIONS_GRACE: Duration = Duration::from_secs(10);

/// What to start, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(String, String)>,
    /// `cgroup.procs` (v2) or `tasks` (v1) files that the launcher writes itself into.
    pub(crate) cgroups: Vec<Arc<File>>,
    /// The mount namespace to start in.
    pub(crate) mounts: Option<Arc<OwnedFd>>,
    /// The network namespace to start in.
    pub(crate) network: Option<Arc<OwnedFd>>,
    /// What is started before it, says `ready`, and ends after it when its input does: the server of a client.
    pub(crate) companions: Vec<Launch>,
    /// The command that removes what an instance may leave when it is killed.
    pub(crate) cleanup: Option<Vec<OsString>>,
    /// The command that removes what an instance leaves however it ends.
    pub(crate) remove: Option<Vec<OsString>>,
}

impl Launch {
    /// `program` with `args`.
    pub(crate) fn new(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Starts it; `stdin` is whether it can be written to, otherwise it reads nothing.
    pub(crate) fn spawn(&self, stdin: bool) -> Result<Running, Trouble> {
        let failed = |source| Trouble::Spawn {
            program: self.program.display().to_string(),
            source,
        };
        let stderr =
            memfd_create(c"stderr", MFdFlags::MFD_CLOEXEC).map_err(|e| failed(e.into()))?;
        let stderr = File::from(stderr);
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(if stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().map_err(failed)?);
        let cgroups: Vec<i32> = self.cgroups.iter().map(|file| file.as_raw_fd()).collect();
        // SAFETY: between fork and exec only system calls are made, on descriptors that `self` keeps open. Every arm has
        // this hook, so that all of them pay the same for it.
        unsafe {
            command.pre_exec(move || {
                // However the harness ends, what it started ends too; and ctrl-c at the terminal reaches only the harness.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::setpgid(0, 0);
                for &group in &cgroups {
                    if libc::write(group, b"0".as_ptr().cast(), 1) != 1 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        enter(&mut command, self.mounts.as_ref(), self.network.as_ref());
        let companions = self
            .companions
            .iter()
            .map(|companion| companion.spawn(true))
            .collect::<Result<Vec<Running>, Trouble>>()?;
        let spawned = clock::now();
        let mut child = command.spawn().map_err(failed)?;
        // SAFETY: pidfd_open has no memory arguments; on success the descriptor is new and nobody else's, with CLOEXEC set.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
        let stdout = child.stdout.take();
        if pidfd < 0 || stdout.is_none() {
            let error = std::io::Error::last_os_error();
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(error));
        }
        // SAFETY: as above: a new descriptor of our own.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as i32) };
        Ok(Running {
            spawned,
            stdin: child.stdin.take(),
            stdout,
            child,
            pidfd,
            stderr,
            status: None,
            cleanup: self.cleanup.clone(),
            remove: self.remove.clone(),
            env: self.env.clone(),
            network: self.network.clone(),
            companions,
        })
    }
}

/// Has a command start in these namespaces.
pub(crate) fn enter(
    command: &mut Command,
    mounts: Option<&Arc<OwnedFd>>,
    network: Option<&Arc<OwnedFd>>,
) {
    for (namespace, kind) in [(mounts, libc::CLONE_NEWNS), (network, libc::CLONE_NEWNET)] {
        let Some(namespace) = namespace.cloned() else {
            continue;
        };
        // SAFETY: between fork and exec only a system call is made, on a descriptor that the closure keeps open.
        unsafe {
            command.pre_exec(move || match libc::setns(namespace.as_raw_fd(), kind) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
    }
}

/// A started launcher. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    /// When it was spawned: just before.
    pub(crate) spawned: u64,
    pub(crate) stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    child: Child,
    pidfd: OwnedFd,
    stderr: File,
    status: Option<ExitStatus>,
    cleanup: Option<Vec<OsString>>,
    remove: Option<Vec<OsString>>,
    env: Vec<(String, String)>,
    network: Option<Arc<OwnedFd>>,
    companions: Vec<Running>,
}

/// What [`Running::wait_readable`] saw.
enum Ready {
    Output,
    Exit,
}

impl Running {
    /// Waits for output or, with `exit`, for the end; at most until `deadline`.
    fn wait(
        &self,
        output: bool,
        exit: bool,
        what: &str,
        started: u64,
        limit: Duration,
    ) -> Result<Ready, Trouble> {
        let deadline = started + limit.as_nanos() as u64;
        loop {
            if processes::interrupted().is_some() {
                return Err(Trouble::Interrupted);
            }
            let now = clock::now();
            if now >= deadline {
                return Err(Trouble::TimedOut {
                    what: what.to_owned(),
                    limit,
                });
            }
            let stdout: Option<BorrowedFd<'_>> =
                self.stdout.as_ref().filter(|_| output).map(AsFd::as_fd);
            let mut watched = Vec::with_capacity(2);
            if let Some(stdout) = stdout {
                watched.push(PollFd::new(stdout, PollFlags::POLLIN));
            }
            if exit {
                watched.push(PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN));
            }
            // A signal ends the poll early; the slice is for one that comes just before it.
            let slice = Duration::from_nanos(deadline - now).min(Duration::from_millis(100));
            let timeout =
                PollTimeout::try_from(slice.as_millis().max(1) as i32).unwrap_or(PollTimeout::ZERO);
            if poll(&mut watched, timeout).unwrap_or(0) == 0 {
                continue;
            }
            let ready = |at: usize| watched.get(at).and_then(PollFd::any).unwrap_or(false);
            if stdout.is_some() && ready(0) {
                return Ok(Ready::Output);
            }
            if ready(usize::from(stdout.is_some())) {
                return Ok(Ready::Exit);
            }
        }
    }

    /// Reads what is there into `buffer`, waiting for it if nothing is: 0 bytes when the output has ended.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        what: &str,
        started: u64,
        limit: Duration,
    ) -> Result<usize, Trouble> {
        self.wait(true, false, what, started, limit)?;
        match self.stdout.as_mut().map(|stdout| stdout.read(buffer)) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(Trouble::Answer(format!(
                "its output cannot be read: {error}"
            ))),
            None => Ok(0),
        }
    }

    /// Waits for the launcher's end and returns its status with the time at which it was seen.
    pub(crate) fn wait_exit(
        &mut self,
        started: u64,
        limit: Duration,
    ) -> Result<(ExitStatus, u64), Trouble> {
        if self.status.is_none() {
            self.wait(false, true, "the end", started, limit)?;
        }
        let seen = clock::now();
        Ok((self.reap()?, seen))
    }

    fn reap(&mut self) -> Result<ExitStatus, Trouble> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = self
            .child
            .wait()
            .map_err(|error| Trouble::Answer(format!("its status cannot be read: {error}")))?;
        self.status = Some(status);
        Ok(status)
    }

    /// The launcher has ended, or its output has: says how, with the end of its standard error. (Some still run for a
    /// moment after their output has ended.)
    pub(crate) fn explain_end(&mut self) -> Trouble {
        let status = match self.wait_exit(clock::now(), Duration::from_secs(2)) {
            Ok((status, _)) => describe(status),
            Err(Trouble::Interrupted) => return Trouble::Interrupted,
            Err(_) => "its output ended, it runs on".to_owned(),
        };
        Trouble::Ended {
            status,
            stderr: self.stderr(),
        }
    }

    /// The last kilobytes of what it wrote to standard error.
    pub(crate) fn stderr(&mut self) -> String {
        const KEPT: u64 = 4096;
        let length = self.stderr.metadata().map(|data| data.len()).unwrap_or(0);
        let mut text = Vec::new();
        // Standard error shares our file's offset only with children that may still write: a lost line is no harm here.
        let _ = self
            .stderr
            .seek(SeekFrom::Start(length.saturating_sub(KEPT)))
            .and_then(|_| (&mut self.stderr).take(KEPT).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What was started before it.
    pub(crate) fn companions(&mut self) -> &mut [Self] {
        &mut self.companions
    }

    /// The launcher's process.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Ends it the way a user would: end of input first, then SIGTERM, then SIGKILL, with `grace` before each.
    pub(crate) fn stop(mut self, grace: Duration) -> Result<ExitStatus, Trouble> {
        self.stdin = None;
        for signal in [None, Some(Signal::SIGTERM)] {
            if let Some(signal) = signal {
                let _ = kill(Pid::from_raw(self.pid()), signal);
            }
            match self.wait_exit(clock::now(), grace) {
                Ok((status, _)) => return Ok(status),
                Err(Trouble::TimedOut { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Err(Trouble::TimedOut {
            what: "the end".to_owned(),
            limit: grace * 2,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut after = Vec::new();
        if self.status.is_none() {
            // Everything below the launcher too: a container's process would outlive a launcher that has no time left.
            let below = processes::descendants(self.pid());
            for pid in std::iter::once(self.pid()).chain(below) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = self.child.wait();
            after.extend(self.cleanup.take());
        }
        after.extend(self.remove.take());
        for command in &after {
            if let Some((program, args)) = command.split_first() {
                let mut command = Command::new(program);
                command
                    .args(args)
                    .envs(self.env.iter().map(|(key, value)| (key, value)))
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                enter(&mut command, None, self.network.as_ref());
                let _ = command.status();
            }
        }
        for companion in self.companions.drain(..) {
            // Whoever does not end is killed when dropped.
            let _ = companion.stop(COMPANIONS_GRACE);
        }
    }
}

/// `exit code 7`, `killed by signal 9`.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Launch {
        Launch::new("/bin/sh", ["-c", script])
    }

    #[test]
    fn output_and_exit_status_arrive() {
        let mut running = shell("echo hi; exit 7").spawn(false).unwrap();
        let mut buffer = [0; 16];
        let bytes = running
            .read(&mut buffer, "output", clock::now(), SOON)
            .unwrap();
        assert_eq!(&buffer[..bytes], b"hi\n");
        let (status, seen) = running.wait_exit(clock::now(), SOON).unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(seen > running.spawned);
    }

    #[test]
    fn what_takes_too_long_is_given_up_and_ended() {
        let mut running = shell("sleep 60 & wait").spawn(false).unwrap();
        let pid = running.pid();
        let result = running.read(
            &mut [0; 1],
            "output",
            clock::now(),
            Duration::from_millis(50),
        );
        assert!(matches!(result, Err(Trouble::TimedOut { .. })));
        let below = processes::descendants(pid);
        drop(running);
        for pid in below.into_iter().chain([pid]) {
            // A killed process goes when it is next scheduled.
            let deadline = clock::now() + SOON.as_nanos() as u64;
            while processes::pss(pid).is_some() {
                assert!(clock::now() < deadline, "{pid} is still alive");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    #[test]
    fn an_early_end_is_explained_with_what_it_said() {
        let mut running = shell("echo no such image >&2; exit 125")
            .spawn(false)
            .unwrap();
        assert_eq!(
            running
                .read(&mut [0; 1], "output", clock::now(), SOON)
                .unwrap(),
            0
        );
        let message = running.explain_end().to_string();
        assert_eq!(message, "it ended (exit code 125): no such image");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Launch::new("/nowhere/at-all", ["x"])
            .spawn(false)
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/at-all"));
    }

    #[test]
    fn end_of_input_is_the_first_way_to_stop() {
        let running = shell("cat >/dev/null; exit 3").spawn(true).unwrap();
        assert_eq!(running.stop(SOON).unwrap().code(), Some(3));
    }
}
