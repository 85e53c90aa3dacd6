//! A VM that runs, or boots: a thread waits for the boot and then carries the guest's streams, so that the supervisor goes on
//! serving whoever connects.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use guest_protocol::{GuestConfig, Process, WindowSize};
use microvm_core::session::{
    self, Exec, Guest, Handle, Interrupt, Main, Options, SessionError, StdioFds,
};
use microvm_core::template::Template;
use microvm_core::{Accelerator, MicroVm, VmConfig};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::template::{self, Launched, Next};
use super::{BOOT_PATIENCE, Group, UMASK, failure};
use crate::backend::{Beside, Confirmed, Context, Ended, Exit, Remains, Running, Streams};
use crate::error::{Error, Result};
use crate::supervisor::protocol::ExecRequest;
use crate::supervisor::set_nonblocking;
use crate::terminal::Size;

/// The stack of a thread that only waits, bytes.
const STACK: usize = 64 << 10;

/// The stack of the thread that waits for a boot, bytes: it writes a configuration as JSON.
const BOOT_STACK: usize = 256 << 10;

/// What a machine is begun with.
pub(super) struct Boot {
    pub(super) launched: Launched,
    pub(super) console: File,
    pub(super) config: GuestConfig,
    pub(super) group: Group,
    pub(super) interactive: bool,
    pub(super) accelerator: String,
}

/// A VM.
pub(super) struct Machine {
    pid: i32,
    accelerator: String,
    streams: Streams,
    boot: Option<JoinHandle<Result<Booted, SessionError>>>,
    /// What goes on when the machine has become a template.
    next: Option<Afterwards>,
    /// Readable when the boot is over, well or not.
    ready: Arc<EventFd>,
    /// Written to give the boot up.
    stop: Arc<EventFd>,
    guest: Option<(Handle, Main)>,
    /// Signals for a command that does not run yet, and the one that gave the boot up.
    early: Mutex<Early>,
    group: Option<Group>,
}

/// What came of waiting for a boot.
enum Booted {
    /// The command runs.
    Runs(Handle, Main),
    /// The machine has become a template. Nothing: which could not be kept, and why.
    Saved(Result<Template, microvm_core::Error>),
}

/// What a machine that goes on after its template's needs.
struct Afterwards {
    machine: VmConfig,
    accelerator: Accelerator,
    console: File,
    config: GuestConfig,
    stdio: StdioFds,
}

#[derive(Default)]
struct Early {
    signals: Vec<u8>,
    given_up: Option<i32>,
}

fn event() -> Result<Arc<EventFd>> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(Arc::new)
        .map_err(|e| Error::System {
            action: "make an event descriptor",
            source: e.into(),
        })
}

fn thread<T: Send + 'static>(
    name: &str,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(stack)
        .spawn(work)
        .map_err(|source| Error::System {
            action: "start a thread",
            source,
        })
}

/// Ends the wait for a boot.
struct Stop(Arc<EventFd>);

impl Interrupt for Stop {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn stops(&mut self) -> bool {
        true
    }
}

impl Machine {
    /// Lets a thread wait for the boot.
    pub(super) fn boot(boot: Boot) -> Result<Self> {
        let Boot {
            launched: Launched { vm, next },
            console,
            config,
            group,
            interactive,
            accelerator,
        } = boot;
        let pid = vm.pid();
        let (stdio, streams) = pipes(interactive && config.process.stdin)?;
        let (ready, stop) = (event()?, event()?);
        let (boot, next) = match next {
            None => {
                let start = move |guest: Guest<'_>| {
                    let (handle, main) = guest.start(config, stdio)?;
                    Ok(Booted::Runs(handle, main))
                };
                (wait(vm, console, (&ready, &stop), start)?, None)
            }
            Some(next) => {
                let Next {
                    draft,
                    config: machine,
                    accelerator,
                } = next;
                let afterwards = Afterwards {
                    machine,
                    accelerator,
                    console: console
                        .try_clone()
                        .map_err(|e| Error::io("open", "console.log", e))?,
                    config,
                    stdio,
                };
                let save = move |guest: Guest<'_>| {
                    guest.save()?;
                    Ok(Booted::Saved(draft.publish()))
                };
                let boot = wait(vm, console, (&ready, &stop), save)?;
                (boot, Some(afterwards))
            }
        };
        Ok(Self {
            pid,
            accelerator,
            streams,
            boot: Some(boot),
            next,
            ready,
            stop,
            guest: None,
            early: Mutex::default(),
            group: Some(group),
        })
    }
}

impl Machine {
    /// Goes on with the machine that the template was made for, in the thread that has to outlive it.
    fn go_on(
        &mut self,
        template: Result<Template, microvm_core::Error>,
        context: &mut Context<'_>,
    ) -> Result<()> {
        let Some(Afterwards {
            mut machine,
            accelerator,
            console,
            config,
            stdio,
        }) = self.next.take()
        else {
            return Err(failure(SessionError::Over));
        };
        // The counter was written by the thread that has ended.
        let _ = self.ready.read();
        context.timeline.mark("template");
        let from =
            template.and_then(|template| template::from(template, accelerator, &mut machine));
        let vm = match from {
            Ok(vm) => vm,
            Err(error) => {
                (context.notice)(&format!("{error}: booting once more, without a template"));
                microvm_core::launch(accelerator, &machine)?
            }
        };
        self.pid = vm.pid();
        let start = move |guest: Guest<'_>| {
            let (handle, main) = guest.start(config, stdio)?;
            Ok(Booted::Runs(handle, main))
        };
        self.boot = Some(wait(vm, console, (&self.ready, &self.stop), start)?);
        Ok(())
    }
}

/// Has a thread wait until the guest's agent is there, and do this with it.
fn wait(
    vm: MicroVm,
    console: File,
    (ready, stop): (&Arc<EventFd>, &Arc<EventFd>),
    then: impl FnOnce(Guest<'_>) -> Result<Booted, SessionError> + Send + 'static,
) -> Result<JoinHandle<Result<Booted, SessionError>>> {
    let (tell, watch) = (Arc::clone(ready), Arc::clone(stop));
    thread("plimsoll-boot", BOOT_STACK, move || {
        let mut stop = Stop(watch);
        let options = Options {
            limit: BOOT_PATIENCE,
            console: Some(console),
            interrupt: Some(&mut stop),
        };
        let outcome = Guest::connect(vm, options).and_then(then);
        // A counter at its most is readable all the same.
        let _ = tell.write(1);
        outcome
    })
}

/// The guest's streams and the supervisor's ends of them.
fn pipes(interactive: bool) -> Result<(StdioFds, Streams)> {
    let pipe = || {
        io::pipe().map_err(|source| Error::System {
            action: "make a pipe",
            source,
        })
    };
    let (stdin, input) = if interactive {
        let (reader, writer) = pipe()?;
        set_nonblocking(writer.as_fd())?;
        (Some(OwnedFd::from(reader)), Some(OwnedFd::from(writer)))
    } else {
        (None, None)
    };
    let (output, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    set_nonblocking(output.as_fd())?;
    set_nonblocking(errors.as_fd())?;
    let stdio = StdioFds {
        stdin,
        stdout: stdout.into(),
        stderr: stderr.into(),
    };
    let streams = Streams {
        input,
        output: Some(output.into()),
        errors: Some(errors.into()),
    };
    Ok((stdio, streams))
}

fn ended(status: session::Status) -> Ended {
    match status {
        session::Status::Code(code) => Ended::Code(code.into()),
        session::Status::Signal(number) => Ended::Signal(number.into()),
    }
}

impl Running for Machine {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn accelerator(&self) -> Option<String> {
        Some(self.accelerator.clone())
    }

    fn take_streams(&mut self) -> Streams {
        std::mem::take(&mut self.streams)
    }

    fn pending(&self) -> Option<BorrowedFd<'_>> {
        self.boot.is_some().then(|| self.ready.as_fd())
    }

    fn confirm(&mut self, context: &mut Context<'_>) -> Result<Confirmed> {
        let outcome = match self.boot.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => Err(SessionError::Over),
        };
        if let Ok(Booted::Saved(template)) = outcome {
            self.go_on(template, context)?;
            return Ok(Confirmed::GoesOn);
        }
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(Booted::Saved(_)) => Ok(Confirmed::GoesOn),
            Ok(Booted::Runs(handle, main)) => {
                for stage in handle.stages() {
                    context.timeline.add(stage.name, stage.at);
                }
                for number in early.signals.drain(..) {
                    main.signal(number);
                }
                drop(early);
                self.guest = Some((handle, main));
                Ok(Confirmed::Runs)
            }
            Err(SessionError::Abandoned) if early.given_up.is_some() => Ok(Confirmed::GivenUp),
            Err(error) => Err(failure(error)),
        }
    }

    fn ended(&self) -> BorrowedFd<'_> {
        match &self.guest {
            Some((_, main)) => main.ended(),
            None => self.ready.as_fd(),
        }
    }

    fn signal(&self, number: i32) -> Result<()> {
        let small = u8::try_from(number).unwrap_or(0);
        if let Some((handle, main)) = &self.guest {
            if number == libc::SIGKILL {
                // A guest that does not answer is ended all the same, a moment later.
                handle.shutdown();
            } else {
                main.signal(small);
            }
            return Ok(());
        }
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        match number {
            // A boot is not worth waiting for when the user wants to stop.
            libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT | libc::SIGKILL => {
                early.given_up = Some(number);
                let _ = self.stop.write(1);
            }
            _ => early.signals.push(small),
        }
        Ok(())
    }

    fn end_at_once(&self) {
        if let Some((handle, _)) = &self.guest {
            handle.kill();
        }
    }

    fn resize(&self, size: Size) {
        if let Some((_, main)) = &self.guest {
            main.resize(size.rows, size.columns);
        }
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        match &self.group {
            Some(group) if frozen => Ok(group.cgroup.freeze()?),
            Some(group) => Ok(group.cgroup.thaw()?),
            None => Ok(()),
        }
    }

    fn exec(&mut self, request: &ExecRequest, streams: Vec<OwnedFd>) -> Result<Box<dyn Beside>> {
        let Some((handle, _)) = &self.guest else {
            return Err(Error::Refused(
                "its machine has not booted yet: try again when it runs".into(),
            ));
        };
        Ok(Box::new(GuestProcess::start(
            handle.clone(),
            request,
            streams,
        )?))
    }

    fn finish(mut self: Box<Self>, _passing: bool) -> Result<(Exit, Remains)> {
        let outcome = match self.guest.take() {
            Some((_, main)) => main.wait().map(|exit| {
                // The agent has flushed the disk and powers off: how the machine ends now comes too late to matter.
                let _ = main.finish();
                (ended(exit.status), exit.oom_killed)
            }),
            None => {
                let early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
                Ok((
                    Ended::Signal(early.given_up.unwrap_or(libc::SIGTERM)),
                    false,
                ))
            }
        };
        let peak_memory = match self.group.take() {
            Some(group) => group.release()?,
            None => None,
        };
        let (ended, oom_killed) = outcome.map_err(failure)?;
        let exit = Exit {
            ended,
            oom_killed,
            peak_memory,
        };
        Ok((exit, Remains::default()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(boot) = self.boot.take() {
            let _ = self.stop.write(1);
            // What it holds goes with it, the machine first of all.
            drop(boot.join());
        }
        // The machine before its cgroup.
        self.guest = None;
    }
}

/// A process beside the first one; a thread waits for the guest's word, which a hostile guest may never give.
struct GuestProcess {
    shared: Arc<Shared>,
    over: Arc<EventFd>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    exec: Option<Arc<Exec>>,
    /// What was asked for before it ran.
    signals: Vec<u8>,
    size: Option<Size>,
    outcome: Option<Result<Ended, SessionError>>,
}

impl Shared {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuestProcess {
    fn start(handle: Handle, request: &ExecRequest, streams: Vec<OwnedFd>) -> Result<Self> {
        let mut streams = streams.into_iter();
        let missing = || Error::Refused("the command came without its streams".into());
        let stdin = if request.stdin {
            Some(streams.next().ok_or_else(missing)?)
        } else {
            None
        };
        let stdout = streams.next().ok_or_else(missing)?;
        let stderr = match streams.next() {
            Some(stderr) => stderr,
            None => stdout.try_clone().map_err(|source| Error::System {
                action: "copy a descriptor",
                source,
            })?,
        };
        let stdio = StdioFds {
            stdin,
            stdout,
            stderr,
        };
        let request = session::ExecRequest {
            process: Process {
                args: request.args.clone(),
                env: request.env.clone(),
                cwd: request.cwd.clone(),
                uid: request.uid,
                gid: request.gid,
                additional_gids: request.groups.clone(),
                umask: UMASK,
                terminal: request
                    .terminal
                    .map(|(rows, columns)| WindowSize { rows, columns }),
                stdin: request.stdin,
                rlimits: Vec::new(),
                no_new_privileges: false,
                capabilities: None,
            },
            program: request.tool.then_some(guest_artifacts::TOOLS),
            upper: request.tool,
        };
        let shared = Arc::new(Shared::default());
        let over = event()?;
        let (theirs, tell) = (Arc::clone(&shared), Arc::clone(&over));
        thread("plimsoll-exec", STACK, move || {
            let outcome = handle.exec(request, stdio).and_then(|exec| {
                let exec = Arc::new(exec);
                {
                    let mut known = theirs.known();
                    for number in known.signals.drain(..) {
                        exec.signal(number);
                    }
                    if let Some(size) = known.size.take() {
                        exec.resize(size.rows, size.columns);
                    }
                    known.exec = Some(Arc::clone(&exec));
                }
                exec.wait().map(|exit| ended(exit.status))
            });
            theirs.known().outcome = Some(outcome);
            let _ = tell.write(1);
        })?;
        Ok(Self { shared, over })
    }
}

impl Beside for GuestProcess {
    fn ended(&self) -> BorrowedFd<'_> {
        self.over.as_fd()
    }

    fn outcome(&mut self) -> Result<Ended> {
        match self.shared.known().outcome.take() {
            Some(outcome) => outcome.map_err(failure),
            None => Ok(Ended::Signal(libc::SIGKILL)),
        }
    }

    fn signal(&self, number: i32) {
        let number = u8::try_from(number).unwrap_or(0);
        let mut known = self.shared.known();
        match &known.exec {
            Some(exec) => exec.signal(number),
            None => known.signals.push(number),
        }
    }

    fn resize(&self, size: Size) {
        let mut known = self.shared.known();
        match &known.exec {
            Some(exec) => exec.resize(size.rows, size.columns),
            None => known.size = Some(size),
        }
    }
}
