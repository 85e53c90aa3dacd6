//! The two ways to run an instance, behind one trait: whoever knows one finds their way in the other.

mod container;
mod disk;
mod vm;

pub use vm::{Choice, choose_accelerator};

use image_core::{Image, Store};

use crate::error::Result;
use crate::instance::Instance;
use crate::process::Process;
use crate::run::Exit;
use crate::signals::Signals;
use crate::spec::{BackendKind, InstanceSpec};
use crate::timeline::Timeline;

/// The instance to run.
pub(crate) struct Job<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) spec: &'a InstanceSpec,
    pub(crate) store: &'a Store,
    pub(crate) image: &'a Image,
    pub(crate) process: &'a Process,
    pub(crate) hostname: &'a str,
}

/// What surrounds a run.
pub(crate) struct Context<'a> {
    /// Signals for the command.
    pub(crate) signals: &'a Signals,
    /// Takes the stages of the start.
    pub(crate) timeline: &'a mut Timeline,
    /// Told what was decided for the user.
    pub(crate) notice: &'a mut dyn FnMut(&str),
    /// Called when the command runs.
    pub(crate) started: &'a mut dyn FnMut(),
}

/// A way to isolate an instance.
pub(crate) trait Backend {
    /// Starts the instance's command and carries its streams and signals until it has ended. Nothing of it runs any
    /// more, and nothing is left in the kernel, when this returns.
    fn run(&self, job: &Job<'_>, context: &mut Context<'_>) -> Result<Exit>;
}

/// The backend of that kind.
pub(crate) fn of(kind: BackendKind) -> &'static dyn Backend {
    match kind {
        BackendKind::Container => &container::Container { isolated: true },
        BackendKind::Native => &container::Container { isolated: false },
        BackendKind::Vm => &vm::Vm,
    }
}
