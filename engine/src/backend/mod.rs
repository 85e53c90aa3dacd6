//! The two ways to run an instance, behind one trait: whoever knows one finds their way in the other.

mod container;
mod disk;
mod toolbox;
mod vm;

pub(crate) use container::beside;
pub(crate) use vm::Maintenance;
pub use vm::{Choice, choose_accelerator};

use std::os::fd::{BorrowedFd, OwnedFd};

use container_core::Ahead;
use image_core::{Image, Store};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::Record;
use crate::network::{Connection, EtcFile};
use crate::process::Process;
use crate::spec::BackendKind;
use crate::supervisor::protocol::ExecRequest;
use crate::terminal::Size;
use crate::timeline::Timeline;

/// The instance to run.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) home: &'a Home,
    pub(crate) record: &'a Record,
    pub(crate) store: &'a Store,
    pub(crate) image: &'a Image,
    pub(crate) process: &'a Process,
    /// Its places on networks.
    pub(crate) network: &'a Connection,
    /// Files below /etc that lie over the image's; none for a native instance.
    pub(crate) files: &'a [EtcFile],
    /// The window of its terminal, if it is to have one.
    pub(crate) terminal: Option<Size>,
}

impl<'a> Job<'a> {
    fn place(&self) -> Place<'a> {
        Place {
            home: self.home,
            record: self.record,
            store: self.store,
            image: self.image,
        }
    }
}

/// Where an instance is kept, and what it is made of.
pub(crate) struct Place<'a> {
    pub(crate) home: &'a Home,
    pub(crate) record: &'a Record,
    pub(crate) store: &'a Store,
    pub(crate) image: &'a Image,
}

/// What surrounds a start.
pub(crate) struct Context<'a> {
    /// Takes the stages of the start.
    pub(crate) timeline: &'a mut Timeline,
    /// Told, in one line each, what was decided for the user.
    pub(crate) notice: &'a mut dyn FnMut(&str),
    /// What [`Backend::begin`] has begun of it.
    pub(crate) begun: Option<Ahead>,
    /// Called, with the number of its first process, once an instance does the rest of its start by itself; not by every backend.
    pub(crate) meanwhile: &'a mut (dyn FnMut(i32) + Send),
}

/// How a process in an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
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
    pub(crate) ended: Ended,
    pub(crate) oom_killed: bool,
    /// The most memory charged to its cgroup, bytes.
    pub(crate) peak_memory: Option<u64>,
}

/// The supervisor's ends of an instance's streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// What is written here, its command reads; `None` where it reads nothing.
    pub(crate) input: Option<OwnedFd>,
    /// What it writes; with a terminal, everything, and `input` is the same file.
    pub(crate) output: Option<OwnedFd>,
    /// What it writes to standard error.
    pub(crate) errors: Option<OwnedFd>,
}

/// How far a start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// The command runs.
    Runs,
    /// It has gone on in another process, and is to be waited for again.
    GoesOn,
    /// It was given up, as the user asked.
    GivenUp,
}

/// A way to isolate an instance.
pub(crate) trait Backend {
    /// Begins what can be made of an instance in the background before anything but its image is known.
    ///
    /// # Errors
    /// As for the start.
    fn begin(&self, place: &Place<'_>) -> Result<Option<Ahead>> {
        let _ = place;
        Ok(None)
    }

    /// Starts the instance's command, or a machine that will run it.
    fn start(&self, job: &Job<'_>, context: &mut Context<'_>) -> Result<Box<dyn Running>>;
}

/// An instance that runs. Dropping it ends it, and nothing of it is left in the kernel.
pub(crate) trait Running {
    /// Its first process on the host: the command, or the monitor.
    fn pid(&self) -> i32;

    /// What it runs on, for a VM.
    fn accelerator(&self) -> Option<String> {
        None
    }

    /// The supervisor's ends of its streams; called once.
    fn take_streams(&mut self) -> Streams;

    /// Readable when the command runs or cannot; `None` if it runs already.
    fn pending(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Called when [`Running::pending`] is readable: how far the start has come, or why it cannot go on.
    fn confirm(&mut self, context: &mut Context<'_>) -> Result<Confirmed> {
        let _ = context;
        Ok(Confirmed::Runs)
    }

    /// Readable when the command has ended, and all it wrote is in the streams.
    fn ended(&self) -> BorrowedFd<'_>;

    /// Sends the command a signal. One that has ended takes it without a word.
    fn signal(&self, number: i32) -> Result<()>;

    /// Ends it as a power cut would, after SIGKILL has had no effect: for a guest that does not answer.
    fn end_at_once(&self) {}

    /// Tells its terminal a new size.
    fn resize(&self, size: Size);

    /// Stops or continues everything in it.
    fn freeze(&self, frozen: bool) -> Result<()>;

    /// Another process beside the first.
    fn exec(&mut self, request: &ExecRequest, streams: Vec<OwnedFd>) -> Result<Box<dyn Beside>> {
        let _ = (request, streams);
        Err(Error::Unsupported(
            "a container's exec needs no supervisor".into(),
        ))
    }

    /// Waits for the end and lets go of everything. Of an instance that is `passing`, which goes with all it wrote, what nobody
    /// waits for remains to be let go of.
    fn finish(self: Box<Self>, passing: bool) -> Result<(Exit, Remains)>;
}

/// What an instance that has ended still has in the kernel. Nothing runs in it and nothing can be reached through it.
#[derive(Default)]
pub(crate) struct Remains(Option<container_core::Container>);

impl Remains {
    /// Of a container.
    pub(crate) fn of(container: container_core::Container) -> Self {
        Self(Some(container))
    }

    /// Lets go of it.
    ///
    /// # Errors
    /// When a cgroup cannot be removed.
    pub(crate) fn release(self) -> Result<()> {
        match self.0 {
            Some(container) => Ok(container.release(container_core::Teardown::Wait)?),
            None => Ok(()),
        }
    }
}

/// A process beside the first one.
pub(crate) trait Beside {
    /// Readable when it has ended.
    fn ended(&self) -> BorrowedFd<'_>;

    /// How it ended; once [`Beside::ended`] is readable.
    fn outcome(&mut self) -> Result<Ended>;

    /// Sends it a signal.
    fn signal(&self, number: i32);

    /// Tells its terminal a new size.
    fn resize(&self, size: Size);
}

/// The backend of that kind.
pub(crate) fn of(kind: BackendKind) -> &'static dyn Backend {
    match kind {
        BackendKind::Container => &container::Container { isolated: true },
        BackendKind::Native => &container::Container { isolated: false },
        BackendKind::Vm => &vm::Vm,
        BackendKind::Toolbox => &toolbox::Toolbox,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_what_a_shell_shows() {
        assert_eq!(Ended::Code(0).shell_code(), 0);
        assert_eq!(Ended::Code(255).shell_code(), 255);
        assert_eq!(Ended::Signal(9).shell_code(), 137);
        assert_eq!(Ended::Signal(15).shell_code(), 143);
    }
}
