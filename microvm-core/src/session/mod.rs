//! A conversation with the agent in a running machine: the host's half of `guest-protocol`.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use std::time::Duration;
//! use microvm_core::session::{Options, Session, Stdio};
//! # fn example(mut vm: microvm_core::MicroVm, config: guest_protocol::GuestConfig) -> Result<(), microvm_core::session::SessionError> {
//! let mut session = Session::connect(&mut vm, Options::new(Duration::from_secs(60)))?;
//! session.start(config)?;
//! let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
//! let exit = session.run(&Stdio { stdin: Some(stdin.as_fd()), stdout: stdout.as_fd(), stderr: stderr.as_fd() })?;
//! println!("{}", exit.code());
//! # Ok(())
//! # }
//! ```
//!
//! **Invariants.** The guest is hostile: nothing it sends makes the host allocate beyond the protocol's windows, block, or
//! panic, and its text is escaped before it is shown. One thread does everything, and waits only in poll.

mod error;
mod output;
mod pump;
#[cfg(test)]
mod tests;
mod wire;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest_protocol::{GuestConfig, Hello, Started, ToGuest, ToHost, VERSION, WindowSize};

use crate::{MicroVm, Stage, monotonic_now};

pub use error::SessionError;
pub use guest_protocol::{FailureKind, Status};
pub use pump::{Exit, Stdio};

use wire::Wire;

/// How many random bytes the guest's generator is given: twice what its state holds.
const ENTROPY_BYTES: usize = 64;

/// Something the caller watches while a session waits: signals, a terminal's size.
pub trait Events {
    /// A descriptor that becomes readable when there is something to do.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Called when it is readable; must take what makes it so.
    fn ready(&mut self, requests: &mut Requests<'_>);
}

/// How a session is held.
pub struct Options<'a> {
    /// How long the guest has to boot until its agent says Hello, and then to build its root file system.
    pub limit: Duration,
    /// The file that the machine's console goes to: its last lines explain a guest that fails.
    pub console: Option<&'a File>,
    /// What else to watch.
    pub events: Option<&'a mut dyn Events>,
}

impl Options<'_> {
    /// Nothing but a time limit.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            console: None,
            events: None,
        }
    }
}

/// What [`Events`] can ask for. What is asked before the process runs is done as soon as it does.
pub struct Requests<'a> {
    outgoing: &'a mut Vec<u8>,
    started: bool,
    abandoned: &'a mut bool,
}

impl Requests<'_> {
    /// Whether the process runs.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Sends the process a signal, by Linux's number.
    pub fn signal(&mut self, signal: u8) {
        ToGuest::Signal(signal).encode(self.outgoing);
    }

    /// Tells the terminal its new size.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        ToGuest::Resize(WindowSize { rows, columns }).encode(self.outgoing);
    }

    /// Kills the process; its exit is reported as any other.
    pub fn shutdown(&mut self) {
        ToGuest::Shutdown.encode(self.outgoing);
    }

    /// Ends the session at once with [`SessionError::Abandoned`]; the machine is left as it is.
    pub fn abandon(&mut self) {
        *self.abandoned = true;
    }
}

/// A conversation with the agent.
pub struct Session<'a> {
    wire: Wire<'a>,
    limit: Duration,
    stages: Vec<Stage>,
}

impl Session<'_> {
    /// The stage of a start that ends when the guest's kernel has executed the agent.
    pub const KERNEL: &'static str = "kernel";
    /// The stage that ends when the agent has said Hello.
    pub const INIT: &'static str = "init";
    /// The stage that ends when the root file system stands and the process is about to be made.
    pub const AGENT: &'static str = "agent";
    /// The stage that ends when the process's program has been executed.
    pub const EXEC: &'static str = "exec";
}

impl<'a> Session<'a> {
    /// Waits for the agent's Hello.
    ///
    /// # Errors
    /// When the machine ends first, the time is up, or what answers is no agent of this version.
    pub fn connect(vm: &'a mut MicroVm, options: Options<'a>) -> Result<Self, SessionError> {
        let limit = options.limit;
        let mut wire = Wire::new(vm, options);
        let until = Instant::now() + limit;
        let hello = wire.first(until, "boot", |message| match message {
            ToHost::Hello(hello) => Ok(hello),
            other => Err(SessionError::unexpected(&other, "before Hello")),
        })?;
        let received = monotonic_now();
        if hello.version != VERSION {
            return Err(SessionError::Version {
                theirs: hello.version,
                ours: VERSION,
            });
        }
        let Hello {
            entered_ns, now_ns, ..
        } = hello;
        let stages = vec![
            Stage {
                name: Session::KERNEL,
                at: host_time(received, now_ns, entered_ns),
            },
            Stage {
                name: Session::INIT,
                at: received,
            },
        ];
        Ok(Self {
            wire,
            limit,
            stages,
        })
    }

    /// Tells the agent what to run, and waits until it runs. The clock and the entropy are filled in here, since they are of
    /// this moment.
    ///
    /// # Errors
    /// [`SessionError::Failed`] when the agent could not start the process, with the kind that docker's exit codes tell
    /// apart; else as for [`Session::connect`].
    pub fn start(&mut self, mut config: GuestConfig) -> Result<(), SessionError> {
        config.entropy = random_bytes().map_err(SessionError::system("get random bytes"))?;
        config.realtime_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0));
        self.wire.send_first(&ToGuest::Start(Box::new(config)))?;
        let until = Instant::now() + self.limit;
        let started = self
            .wire
            .first(until, "start the process", |message| match message {
                ToHost::Started(started) => Ok(started),
                ToHost::Failed(failed) => Err(SessionError::failed(failed)),
                other => Err(SessionError::unexpected(&other, "before Started")),
            })?;
        let received = monotonic_now();
        let Started {
            prepared_ns,
            now_ns,
            ..
        } = started;
        self.stages.push(Stage {
            name: Session::AGENT,
            at: host_time(received, now_ns, prepared_ns),
        });
        self.stages.push(Stage {
            name: Session::EXEC,
            at: received,
        });
        self.wire.started();
        Ok(())
    }

    /// Carries stdio until the process has ended and all its output is written. With a terminal everything it writes comes
    /// to `stdout`.
    ///
    /// # Errors
    /// When the machine ends before the process has, or the agent breaks the protocol.
    pub fn run(mut self, stdio: &Stdio<'_>) -> Result<Exit, SessionError> {
        pump::run(&mut self.wire, stdio)
    }

    /// The stages of the start that the guest has gone through so far, as times of the host's CLOCK_MONOTONIC.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
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
