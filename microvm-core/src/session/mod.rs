//! A conversation with the agent in a running machine: the host's half of `guest-protocol`.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use std::time::Duration;
//! use microvm_core::session::{Guest, Options, StdioFds};
//! # fn example(vm: microvm_core::MicroVm, config: guest_protocol::GuestConfig) -> Result<(), Box<dyn std::error::Error>> {
//! let guest = Guest::connect(vm, Options::new(Duration::from_secs(60)))?;
//! let stdio = StdioFds {
//!     stdin: None,
//!     stdout: std::io::stdout().as_fd().try_clone_to_owned()?,
//!     stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
//! };
//! let (handle, main) = guest.start(config, stdio)?;
//! // From now on a thread of its own carries everything; `handle.exec` runs further processes.
//! println!("{}", main.wait()?.code());
//! main.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Guest`] waits for the boot in the caller's thread. Once the process runs, the thread `plimsoll-guest` owns the machine and
//! carries all stdio; [`Handle`], [`Main`] and [`Exec`] are what the rest of the program holds. (The thread that launched the
//! machine must stay alive nevertheless: see [`Hypervisor::launch`](crate::Hypervisor::launch).)
//!
//! **Invariants.** The guest is hostile: nothing it sends makes the host allocate beyond the protocol's windows, block, or
//! panic, and its text is escaped before it is shown. One thread does everything, and waits only in poll.

mod carrier;
mod error;
mod handle;
mod output;
mod process;
#[cfg(test)]
mod tests;
mod wire;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_protocol::{GuestConfig, Hello, MAIN, Prepared, Started, ToGuest, ToHost, VERSION};

use crate::{End, MicroVm, Stage, monotonic_now};

pub use error::SessionError;
pub use guest_protocol::{FailureKind, Status};
pub use handle::{Exec, ExecRequest, Exit, Handle, Main, StdioFds};

use carrier::Carrier;
use handle::{Bell, Fate, Shared, Teller};
use wire::Wire;

/// How many random bytes the guest's generator is given: twice what its state holds.
const ENTROPY_BYTES: usize = 64;

/// How long a guest is left alone after its agent's Hello before it becomes a template. The emulated kernel of kvm_pvm puts off
/// some tens of milliseconds of work.
const SETTLES: Duration = Duration::from_millis(300);

/// The size of the thread's stack, in bytes: it recurses nowhere, and formats no more than an error's sentence.
const STACK: usize = 128 << 10;

/// Something that may end the wait for a boot: a signal, a request to stop.
pub trait Interrupt {
    /// A descriptor that becomes readable when there is something to look at.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Called when it is readable; must take what makes it so. True gives the start up at once.
    fn stops(&mut self) -> bool;
}

/// How a machine is waited for.
pub struct Options<'a> {
    /// How long the guest has to boot until its agent says Hello, then to build its root file system, and later to start a
    /// process.
    pub limit: Duration,
    /// The file that the machine's console goes to: its last lines explain a guest that fails.
    pub console: Option<File>,
    /// What may give the start up, until the process runs.
    pub interrupt: Option<&'a mut dyn Interrupt>,
}

impl Options<'_> {
    /// Nothing but a time limit.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            console: None,
            interrupt: None,
        }
    }
}

/// A machine whose agent waits to be told what to do. Dropping it kills the machine.
pub struct Guest<'a> {
    wire: Wire,
    limit: Duration,
    interrupt: Option<&'a mut dyn Interrupt>,
    stages: Vec<Stage>,
    late_devices: Vec<String>,
}

impl Guest<'_> {
    /// The stage of a start that ends when the guest's kernel has executed the agent.
    pub const KERNEL: &'static str = "kernel";
    /// The stage that ends when the agent has said Hello.
    pub const INIT: &'static str = "init";
    /// The stage that ends when the root file system stands and the process is about to be made.
    pub const AGENT: &'static str = "agent";
    /// The stage that ends when the process's program has been executed.
    pub const EXEC: &'static str = "exec";
}

impl<'a> Guest<'a> {
    /// Waits for the agent's Hello.
    ///
    /// # Errors
    /// When the machine ends first, the time is up, the start is given up, or what answers is no agent of this version. The
    /// machine has been killed then.
    pub fn connect(vm: MicroVm, options: Options<'a>) -> Result<Self, SessionError> {
        let Options {
            limit,
            console,
            mut interrupt,
        } = options;
        let mut stages = vm.stages().to_vec();
        let late_devices = vm.late_devices().map(<[String]>::to_vec);
        let mut wire = Wire::new(vm, console);
        if let Some(late_devices) = late_devices {
            // It goes on from a template, which was made of one whose agent had said Hello.
            return Ok(Self {
                wire,
                limit,
                interrupt,
                stages,
                late_devices,
            });
        }
        let hello = wire.first(limit, "boot", &mut interrupt, |message| match message {
            ToHost::Hello(hello) => Ok(hello),
            other => Err(SessionError::unexpected(&other, "before Hello")),
        })?;
        let received = monotonic_now();
        let Hello {
            version,
            entered_ns,
            now_ns,
        } = hello;
        if version != VERSION {
            return Err(SessionError::Version {
                theirs: version,
                ours: VERSION,
            });
        }
        stages.push(Stage {
            name: Guest::KERNEL,
            at: host_time(received, now_ns, entered_ns),
        });
        stages.push(Stage {
            name: Guest::INIT,
            at: received,
        });
        Ok(Self {
            wire,
            limit,
            interrupt,
            stages,
            late_devices: Vec::new(),
        })
    }

    /// Has a machine that was started for that ([`Start::Draft`](crate::Start::Draft)) become a template, and waits until its monitor
    /// has written it and ended.
    ///
    /// # Errors
    /// When the machine ends otherwise, the time is up, or the wait is given up.
    pub fn save(mut self) -> Result<(), SessionError> {
        // What the guest's kernel has put off until it is idle is to be done once, and not in every machine.
        if !self.wire.outlast(SETTLES, &mut self.interrupt)? {
            self.wire.vm.save().map_err(|error| {
                SessionError::system("save the virtual machine")(io::Error::other(error))
            })?;
            if !self.wire.outlast(self.limit, &mut self.interrupt)? {
                return Err(self.wire.late("save its state", self.limit));
            }
        }
        match self.wire.vm.wait() {
            Ok(End::Saved) => Ok(()),
            _ => Err(self.wire.ended()),
        }
    }

    /// Has the agent run the main process, and waits until it runs. The clock and the entropy are filled in here, since they
    /// are of this moment.
    ///
    /// # Errors
    /// [`SessionError::Failed`] when the agent could not start the process, with the kind that docker's exit codes tell
    /// apart; else as for [`Guest::connect`].
    pub fn start(
        mut self,
        config: GuestConfig,
        stdio: StdioFds,
    ) -> Result<(Handle, Main), SessionError> {
        self.wire.send(&ToGuest::Start(self.of_now(config)?))?;
        let take = |message: ToHost<'_>| match message {
            ToHost::Started(MAIN, started) => Ok(started),
            ToHost::Failed(MAIN, failed) => Err(SessionError::failed(failed)),
            other => Err(SessionError::unexpected(&other, "before Started")),
        };
        let started =
            self.wire
                .first(self.limit, "start the process", &mut self.interrupt, take)?;
        let received = monotonic_now();
        let Started {
            prepared_ns,
            now_ns,
            ..
        } = started;
        self.stages.push(Stage {
            name: Guest::AGENT,
            at: host_time(received, now_ns, prepared_ns),
        });
        self.stages.push(Stage {
            name: Guest::EXEC,
            at: received,
        });
        self.carry(Some(stdio))
    }

    /// Has the agent build the root file system and run no main process: for work on the disk of an instance that has stopped.
    /// The configuration's process is not looked at. The work ends with [`Handle::shutdown`], and [`Main::wait`] tells then
    /// that the disk has been settled.
    ///
    /// # Errors
    /// As for [`Guest::start`].
    pub fn maintain(mut self, config: GuestConfig) -> Result<(Handle, Main), SessionError> {
        self.wire.send(&ToGuest::Prepare(self.of_now(config)?))?;
        let take = |message: ToHost<'_>| match message {
            ToHost::Prepared(Prepared { .. }) => Ok(()),
            ToHost::Failed(MAIN, failed) => Err(SessionError::failed(failed)),
            other => Err(SessionError::unexpected(&other, "before Prepared")),
        };
        self.wire.first(
            self.limit,
            "prepare its file systems",
            &mut self.interrupt,
            take,
        )?;
        self.stages.push(Stage {
            name: Guest::AGENT,
            at: monotonic_now(),
        });
        self.carry(None)
    }

    /// The configuration with the clock and the entropy of this moment, and the machine's late devices.
    fn of_now(&self, mut config: GuestConfig) -> Result<Box<GuestConfig>, SessionError> {
        config.entropy = random_bytes().map_err(SessionError::system("get random bytes"))?;
        config.realtime_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0));
        config.late_devices.clone_from(&self.late_devices);
        Ok(Box::new(config))
    }

    /// Hands the machine over to a thread.
    fn carry(self, main: Option<StdioFds>) -> Result<(Handle, Main), SessionError> {
        let descriptors = || {
            let pidfd = self.wire.vm.pidfd().try_clone_to_owned()?;
            Ok((Bell::new()?, pidfd, Fate::new()?))
        };
        let (wake, pidfd, fate) =
            descriptors().map_err(SessionError::system("make an event descriptor"))?;
        let shared = Arc::new(Shared {
            wake,
            pid: self.wire.vm.pid(),
            pidfd,
            stages: self.stages,
            limit: self.limit,
        });
        let (sender, receiver) = mpsc::channel();
        let handle = Handle {
            shared: Arc::clone(&shared),
            commands: sender,
        };
        let carrier = Carrier::new(self.wire, shared, receiver, Teller::new(&fate), main);
        let thread = std::thread::Builder::new()
            .name("plimsoll-guest".into())
            .stack_size(STACK)
            .spawn(move || carrier.run())
            .map_err(SessionError::system("start a thread"))?;
        let main = Main {
            fate,
            handle: handle.clone(),
            thread: Some(thread),
        };
        Ok((handle, main))
    }
}

/// When a moment of the guest's clock was, by the host's: a message sent at `guest_now` came at `received`. The guest may say
/// anything; the result is never after `received`.
fn host_time(received: u64, guest_now: u64, guest_mark: u64) -> u64 {
    received.saturating_sub(guest_now.saturating_sub(guest_mark))
}

fn random_bytes() -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; ENTROPY_BYTES];
    // SAFETY: the kernel writes no more than the vector's length into it.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes come whole (getrandom(2)).
    if usize::try_from(got) == Ok(ENTROPY_BYTES) {
        Ok(bytes)
    } else {
        Err(std::io::Error::last_os_error())
    }
}
