//! One instance from its specification to its end.

use crate::backend::{self, Context, Job};
use crate::base;
use crate::error::Result;
use crate::home::Home;
use crate::instance::{ExitRecord, Instance, now, sweep};
use crate::process::{self, Process};
use crate::signals::Signals;
use crate::spec::InstanceSpec;
use crate::terminal::RawMode;
use crate::timeline::Timeline;

/// How a run came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code for the shell: the command's own, or 128 + n after signal n.
    pub code: u8,
    /// What the user should be told besides, in one sentence: that the memory limit killed it, for example.
    pub reason: Option<String>,
}

/// How a process in an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Status {
    /// As a shell tells it.
    pub(crate) fn shell_code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128 + number,
        };
        // An exit code is eight bits wide, and signals end at 64.
        (code & 0xff) as u8
    }
}

/// What a backend reports of an instance's end.
#[derive(Debug, Clone)]
pub(crate) struct Exit {
    pub(crate) status: Status,
    pub(crate) oom_killed: bool,
    /// The most memory charged to its cgroup, bytes.
    pub(crate) peak_memory: Option<u64>,
}

/// Runs an instance in the foreground, with this process's standard streams, until its command ends.
///
/// `notice` is told, in one line each, what was decided for the user (which accelerator, and why). Must be called on a
/// process's only thread: what it starts dies with that thread.
///
/// # Errors
/// Whatever keeps the command from running; [`crate::Error::exit_code`] gives docker's exit code for it. Nothing of
/// the instance is left then.
pub fn run(home: &Home, spec: &InstanceSpec, notice: &mut dyn FnMut(&str)) -> Result<Outcome> {
    spec.check()?;
    let mut timeline = Timeline::default();
    let signals = Signals::block()?;
    let store = home.images()?;
    let image = if base::is_base(&spec.image) {
        base::ensure(&store)?
    } else {
        store.resolve(&spec.image)?
    };
    let command = process::command(spec, &image)?;
    let instance = Instance::create(home, spec, &image.id.to_string(), &command)?;
    let hostname = spec
        .hostname
        .clone()
        .unwrap_or_else(|| instance.record.short_id().to_owned());
    let result = Process::new(spec, &store, &image, command, &hostname).and_then(|process| {
        timeline.mark("image");
        let job = Job {
            instance: &instance,
            spec,
            store: &store,
            image: &image,
            process: &process,
            hostname: &hostname,
        };
        let mut raw = None;
        let mut started = || {
            // Raw mode only for a command that runs: every error before is printed on an ordinary terminal.
            if spec.terminal && spec.interactive {
                raw = RawMode::of_stdin();
            }
            // While the command runs there is time to settle what killed processes left. Whatever goes wrong with
            // others' remains is theirs, and `doctor --repair` tells it.
            let _ = sweep(home);
        };
        let mut context = Context {
            signals: &signals,
            timeline: &mut timeline,
            notice,
            started: &mut started,
        };
        let exit = backend::of(spec.backend).run(&job, &mut context);
        drop(raw);
        exit
    });
    let exit = match result {
        Ok(exit) => exit,
        Err(error) => {
            // The first failure is the one to tell.
            let _ = instance.discard();
            return Err(error);
        }
    };
    timeline.set_peak_memory(exit.peak_memory);
    let code = exit.status.shell_code();
    instance.finish(ExitRecord {
        code: code.into(),
        oom_killed: exit.oom_killed,
        error: None,
        at: now(),
    })?;
    timeline.write()?;
    let reason = exit.oom_killed.then(|| {
        let limit = spec.limits.memory.map_or_else(String::new, |bytes| format!(" of {} MiB", bytes >> 20));
        format!("the command was killed because its memory limit{limit} was reached: give it more with --memory")
    });
    Ok(Outcome { code, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_what_a_shell_shows() {
        assert_eq!(Status::Code(0).shell_code(), 0);
        assert_eq!(Status::Code(255).shell_code(), 255);
        assert_eq!(Status::Signal(9).shell_code(), 137);
        assert_eq!(Status::Signal(15).shell_code(), 143);
    }
}
