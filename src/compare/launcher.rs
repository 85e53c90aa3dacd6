//! Starts this program again for each run, as a user would.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};
use engine::{Choice, TIMELINE_VARIABLE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use super::{Way, interrupt};
use crate::cli::CompareArguments;

/// What of a program's complaints is kept, bytes.
const COMPLAINT_MAX: u64 = 1 << 20;

/// How often it is looked whether ctrl-c has come, milliseconds, should the signal have gone to another thread.
const INTERRUPTED_EVERY_MS: u16 = 100;

/// The stages that a start has noted.
#[derive(Debug, Deserialize)]
pub(super) struct Timeline {
    pub(super) stages: Vec<Stage>,
    /// The most memory charged to the instance's cgroup, bytes.
    pub(super) peak_memory: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Stage {
    pub(super) name: String,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub(super) at_ns: u64,
}

impl Timeline {
    /// When the command was executed.
    pub(super) fn exec(&self) -> anyhow::Result<u64> {
        let stage = self.stages.iter().find(|stage| stage.name == "exec");
        Ok(stage.context("the run tells no exec stage")?.at_ns)
    }
}

/// What every run has in common.
pub(super) struct Launcher<'a> {
    root: &'a Path,
    arguments: &'a CompareArguments,
    accelerator: &'static str,
    scratch: Scratch,
}

impl<'a> Launcher<'a> {
    pub(super) fn new(
        root: &'a Path,
        arguments: &'a CompareArguments,
        choice: &Choice,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            root,
            arguments,
            accelerator: choice.accelerator,
            scratch: Scratch::new()?,
        })
    }

    /// This program with some arguments of its own.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--root").arg(self.root).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// `run` with these flags, and everything that the ways have in common.
    pub(super) fn run(&self, way: Way, flags: &[&str]) -> Command {
        let arguments = self.arguments;
        let memory = super::memory(arguments).to_string();
        let mut command = self.command(&["run", "--backend", way.backend]);
        command.args(["--cpus", super::cpus(arguments), "--memory", &memory]);
        command.args(flags);
        for entry in &arguments.env {
            command.arg("--env").arg(entry);
        }
        if way.backend == "vm" {
            command.args(["--accel", self.accelerator]);
            if let Some(kernel) = &arguments.kernel {
                command.arg("--kernel").arg(kernel);
            }
        }
        command.arg(&arguments.image).args(&arguments.command);
        // A timeline of an earlier run must not be taken for this one's.
        let _ = fs::remove_file(self.timeline_path());
        command.env(TIMELINE_VARIABLE, self.timeline_path());
        command
    }

    fn timeline_path(&self) -> PathBuf {
        self.scratch.0.join("timeline.json")
    }

    /// What the last run has noted; `None` if it never got that far.
    pub(super) fn timeline(&self) -> anyhow::Result<Option<Timeline>> {
        let Ok(json) = fs::read(self.timeline_path()) else {
            return Ok(None);
        };
        let timeline = serde_json::from_slice(&json);
        Ok(Some(
            timeline.context("the run wrote no readable timeline")?,
        ))
    }

    /// Runs it to its end, which must be a good one: what it prints.
    pub(super) fn output(&self, words: &[&str]) -> anyhow::Result<String> {
        let (status, out, complaint) = to_the_end(&mut self.command(words), COMPLAINT_MAX)?;
        if !status.success() {
            bail!("{}", sentence(&complaint));
        }
        Ok(out.trim().to_owned())
    }
}

/// Runs a command to its end: how it ended, what it printed, as far as it is kept, and what it complained of. Ctrl-c ends it and
/// is an error.
pub(super) fn to_the_end(
    command: &mut Command,
    keep: u64,
) -> anyhow::Result<(ExitStatus, String, String)> {
    interrupt::check()?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-c at the terminal reaches this program only, which ends things in order.
    command.process_group(0);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let out = std::thread::spawn(move || read(stdout, keep));
    let complaint = std::thread::spawn(move || read(stderr, COMPLAINT_MAX));
    let status = wait(&mut child)?;
    let joined = |reader: std::thread::JoinHandle<io::Result<String>>| match reader.join() {
        Ok(text) => text,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    Ok((status, joined(out)?, joined(complaint)?))
}

/// Waits for a process that leads a group of its own; ctrl-c kills the group.
fn wait(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    loop {
        let mut descriptors = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, INTERRUPTED_EVERY_MS) {
            Err(Errno::EINTR) | Ok(0) => {}
            Ok(_) => return Ok(child.wait()?),
            Err(error) => return Err(error.into()),
        }
        if interrupt::signal().is_some() {
            let _ = killpg(pid, Signal::SIGKILL);
            child.wait()?;
            interrupt::check()?;
        }
    }
}

/// Reads a stream to its end and keeps its first bytes. They may be binary: what is not text is replaced.
fn read(stream: Option<impl Read>, keep: u64) -> io::Result<String> {
    let Some(mut stream) = stream else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    stream.by_ref().take(keep).read_to_end(&mut bytes)?;
    io::copy(&mut stream, &mut io::sink())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A complaint of this program's without its name, which comes before it once already.
pub(super) fn sentence(complaint: &str) -> &str {
    complaint.trim().trim_start_matches("plimsoll: ")
}

/// An instance of a name of its own, which is removed when this goes, however that comes.
pub(super) struct Instance<'a> {
    launcher: &'a Launcher<'a>,
    pub(super) name: String,
}

impl<'a> Instance<'a> {
    pub(super) fn new(launcher: &'a Launcher<'a>, way: Way, round: u32) -> Self {
        Self {
            launcher,
            name: format!("compare-{}-{}-{round}", std::process::id(), way.arm),
        }
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        let mut command = self
            .launcher
            .command(&["rm", "--force", "--volumes", &self.name]);
        // It may never have been there, or be gone already. Its own group: a second ctrl-c does not keep it from removing.
        let _ = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .status();
    }
}

/// A directory of our own for the timelines, removed when this goes.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("plimsoll-compare-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary directory is all that can happen.
        let _ = fs::remove_dir_all(&self.0);
    }
}
