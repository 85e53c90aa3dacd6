//! A running virtual machine, as the process that started it sees it.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::{Result, Stage};

/// How a virtual machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum End {
    /// The guest asked to be reset or powered off. A guest that ends its work does this, and so does a kernel that
    /// panics: what the agent said before tells them apart.
    GuestReset,
    /// The monitor was asked to end (SIGTERM).
    Stopped,
    /// The machine is a template now, as [`MicroVm::save`] asked.
    Saved,
    /// The guest took a fault while handling a fault while handling a fault.
    TripleFault {
        /// Which virtual CPU.
        vcpu: u8,
        /// Where it was, if that could be read.
        rip: u64,
    },
    /// KVM met a guest instruction that it cannot emulate, or failed in itself.
    EmulationFailure {
        /// Which virtual CPU.
        vcpu: u8,
        /// KVM's suberror: 1 is an instruction that cannot be emulated.
        suberror: u32,
        /// The guest's instruction pointer.
        rip: u64,
        /// The bytes at the instruction pointer, as far as they could be read.
        bytes: Vec<u8>,
    },
    /// KVM could not enter the guest.
    EntryFailed {
        /// Which virtual CPU.
        vcpu: u8,
        /// The hardware's reason.
        reason: u64,
    },
    /// A KVM call failed, or KVM gave control back for a reason that the monitor does not know.
    KvmError {
        /// Which virtual CPU.
        vcpu: u8,
        /// What failed.
        what: String,
    },
    /// The monitor itself failed: a device's file could not be read, a panic.
    MonitorFailed(String),
    /// The monitor's process was killed by this signal before it could say anything.
    Killed(i32),
    /// The monitor's process ended with this code and without saying why.
    Exited(i32),
}

impl End {
    /// Whether the machine ended because its guest wanted to, or because it was told to.
    pub fn is_orderly(&self) -> bool {
        matches!(self, Self::GuestReset | Self::Stopped | Self::Saved)
    }

    /// What the process's own status says, when nothing else is known.
    pub fn from_status(status: ExitStatus) -> Self {
        match (status.signal(), status.code()) {
            (Some(signal), _) => Self::Killed(signal),
            (None, code) => Self::Exited(code.unwrap_or_default()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestReset => write!(f, "the guest powered off"),
            Self::Stopped => write!(f, "the virtual machine was stopped"),
            Self::Saved => write!(f, "the virtual machine was saved as a template"),
            Self::TripleFault { vcpu, rip } => {
                write!(f, "triple fault of the guest on vCPU {vcpu} at {rip:#x}")
            }
            Self::EmulationFailure {
                vcpu,
                suberror,
                rip,
                bytes,
            } => {
                write!(
                    f,
                    "KVM cannot go on with the guest on vCPU {vcpu}: suberror {suberror} at {rip:#x}, bytes"
                )?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
            }
            Self::EntryFailed { vcpu, reason } => {
                write!(
                    f,
                    "KVM cannot enter the guest on vCPU {vcpu}: hardware reason {reason:#x}"
                )
            }
            Self::KvmError { vcpu, what } => write!(f, "KVM failed on vCPU {vcpu}: {what}"),
            Self::MonitorFailed(what) => write!(f, "the virtual machine monitor failed: {what}"),
            Self::Killed(libc::SIGSYS) => write!(
                f,
                "the virtual machine monitor was killed: it made a system call that it may not, as if the guest had taken it over"
            ),
            Self::Killed(libc::SIGKILL) => write!(
                f,
                "the virtual machine monitor was killed by signal 9, by somebody or because the host or its cgroup ran out of memory"
            ),
            Self::Killed(libc::SIGBUS) => write!(
                f,
                "the virtual machine monitor was killed by signal 7: a file of the machine's was cut while it ran, or the host is out of memory"
            ),
            Self::Killed(signal) => write!(
                f,
                "the virtual machine monitor was killed by signal {signal}"
            ),
            Self::Exited(code) => write!(
                f,
                "the virtual machine monitor ended with code {code} and gave no reason"
            ),
        }
    }
}

/// What has the monitor save its machine.
pub(crate) const SAVE_SIGNAL: i32 = libc::SIGUSR1;

/// How the reason for a machine's end is learned once its process has ended.
pub trait Ending: Send {
    /// Turns the process's status, and whatever the monitor left, into the reason.
    fn end(&mut self, status: ExitStatus) -> End;
}

/// A running virtual machine. Dropping it kills it and waits for it.
pub struct MicroVm {
    process: Process,
    control: UnixStream,
    stages: Vec<Stage>,
    ending: Box<dyn Ending>,
    end: Option<End>,
    resumed: Option<Vec<String>>,
}

impl MicroVm {
    /// Puts together what a [`Hypervisor`](crate::Hypervisor) has started.
    pub fn new(
        process: Process,
        control: UnixStream,
        stages: Vec<Stage>,
        ending: Box<dyn Ending>,
    ) -> Self {
        Self {
            process,
            control,
            stages,
            ending,
            end: None,
            resumed: None,
        }
    }

    /// Says that it goes on from a template, and what the guest's kernel calls the places of the devices that it has now.
    pub(crate) fn resumed(mut self, devices: Vec<String>) -> Self {
        self.resumed = Some(devices);
        self
    }

    /// For a machine that goes on from a template, whose agent has said Hello long ago: the devices that the agent has to have
    /// the kernel look for.
    pub fn late_devices(&self) -> Option<&[String]> {
        self.resumed.as_deref()
    }

    /// The monitor's process id on the host.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// A descriptor that becomes readable when the monitor has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd()
    }

    /// The control channel: bytes as the agent in the guest writes and reads them at the port `plimsoll.control`. Its
    /// end of file means that the guest's side, or the monitor, is gone.
    pub fn control(&self) -> &UnixStream {
        &self.control
    }

    /// The stages of the start that the monitor itself goes through, in their order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Asks the monitor to end in good order, as if the machine lost its power: what the guest has written to its disks is
    /// in the host's files, and the reason will be [`End::Stopped`].
    ///
    /// # Errors
    /// When the signal cannot be sent; a monitor that has ended already is no error.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(libc::SIGTERM)
    }

    /// Has a machine that was started as [`Start::Draft`](crate::Start::Draft) saved, now that its agent waits: it ends with
    /// [`End::Saved`].
    ///
    /// # Errors
    /// When the signal cannot be sent; a monitor that has ended already is no error.
    pub fn save(&self) -> Result<()> {
        self.process.signal(SAVE_SIGNAL)
    }

    /// Ends the monitor at once, as a power cut would.
    ///
    /// # Errors
    /// When the signal cannot be sent; a monitor that has ended already is no error.
    pub fn kill(&self) -> Result<()> {
        self.process.signal(libc::SIGKILL)
    }

    /// Waits until the machine has ended, and says how. Later calls say the same again.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn wait(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.wait_for(None)? {
                return Ok(end);
            }
        }
    }

    /// Waits at most this long (for ever, if `None`); `None` comes back when the machine still runs then.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn wait_for(&mut self, limit: Option<Duration>) -> Result<Option<End>> {
        if self.end.is_none()
            && let Some(status) = self.process.wait_for(limit)?
        {
            self.end = Some(self.ending.end(status));
        }
        Ok(self.end.clone())
    }
}
