//! What the rest of the program holds of a running machine: everything here is a message to the thread that carries it, or
//! waits for what that thread tells.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use guest_protocol::{Channel, MAIN, Process, Status, Stream, WindowSize};

use crate::{End, Stage};

use super::SessionError;

/// Where a process's stdio comes from and goes to. The descriptors themselves are left as they are: not even made
/// non-blocking.
pub struct StdioFds {
    /// Where stdin is read from; `None` sends nothing, not even its end.
    pub stdin: Option<OwnedFd>,
    /// Where stdout is written to, and with a terminal everything.
    pub stdout: OwnedFd,
    /// Where stderr is written to.
    pub stderr: OwnedFd,
}

/// A further process in the guest.
pub struct ExecRequest {
    /// What to run: the image's program by that name, unless one is sent along. The working directory must exist.
    pub process: Process,
    /// A static program to be sent along and run in place of one of the image's; the first argument is then only its name.
    /// Each is sent once, however often it is run; there may be [`MAX_PROGRAMS`](guest_protocol::MAX_PROGRAMS).
    pub program: Option<&'static [u8]>,
    /// Gives the process the upper directory of the writable disk as descriptor [`UPPER_FD`](guest_protocol::UPPER_FD).
    pub upper: bool,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Exit {
    /// Its status.
    pub status: Status,
    /// The guest's kernel ran out of memory, and that ended the process.
    pub oom_killed: bool,
    /// The largest resident set of the process or of one it waited for, in bytes, as the guest says.
    pub peak_memory_bytes: u64,
    /// When it ended, in nanoseconds of the host's CLOCK_MONOTONIC.
    pub ended_at: u64,
    /// Output that could not be written and why, when that was anything but a reader that has gone.
    pub lost: Vec<(Stream, Arc<io::Error>)>,
}

impl Exit {
    /// The exit code that a shell shows: the process's own, or 128 and the signal that killed it.
    pub fn code(&self) -> u8 {
        match self.status {
            Status::Code(code) => code,
            Status::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// What the thread is asked for.
pub(super) enum Command {
    Exec {
        request: Box<ExecRequest>,
        stdio: StdioFds,
        teller: Teller,
    },
    Signal(Channel, u8),
    Resize(Channel, WindowSize),
    Shutdown,
}

/// A counter of the kernel's that is readable once it has been raised.
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(super) fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // It fails only when it has been rung 2^64 times already, which is as good.
        // SAFETY: the kernel reads eight bytes.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it quiet again.
    pub(super) fn hush(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the kernel writes eight bytes.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is known of a process.
#[derive(Default)]
struct Known {
    /// The number that it has once it runs.
    started: Option<Channel>,
    /// Whoever asked for it has waited long enough.
    unwanted: bool,
    outcome: Option<Result<Exit, SessionError>>,
}

/// Where the thread writes what becomes of a process, and others read it.
pub(super) struct Fate {
    known: Mutex<Known>,
    changed: Condvar,
    ended: Bell,
}

impl Fate {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            known: Mutex::default(),
            changed: Condvar::new(),
            ended: Bell::new()?,
        }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the start at most this long; whoever starts later is not wanted any more.
    fn wait_started(&self, limit: Duration) -> Result<Channel, SessionError> {
        let (mut known, _) = self
            .changed
            .wait_timeout_while(self.known(), limit, |known| {
                known.started.is_none() && known.outcome.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        match (known.started, &known.outcome) {
            (Some(channel), _) => Ok(channel),
            (None, Some(Err(error))) => Err(error.clone()),
            (None, Some(Ok(_))) => Err(SessionError::Over),
            (None, None) => {
                known.unwanted = true;
                Err(SessionError::TooLate {
                    what: "start the process",
                    limit,
                    console: String::new(),
                })
            }
        }
    }

    fn wait_ended(&self) -> Result<Exit, SessionError> {
        let mut known = self.known();
        loop {
            if let Some(outcome) = &known.outcome {
                return outcome.clone();
            }
            known = self
                .changed
                .wait(known)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread's end of a [`Fate`]. Dropped untold, it tells that the machine is over: so nobody waits in vain.
pub(super) struct Teller(Arc<Fate>);

impl Teller {
    pub(super) fn new(fate: &Arc<Fate>) -> Self {
        Self(Arc::clone(fate))
    }

    /// Tells that the process runs; false when nobody wants it any more.
    pub(super) fn started(&self, channel: Channel) -> bool {
        let mut known = self.0.known();
        known.started = Some(channel);
        self.0.changed.notify_all();
        !known.unwanted
    }

    pub(super) fn ended(self, outcome: Result<Exit, SessionError>) {
        self.tell(outcome);
    }

    fn tell(&self, outcome: Result<Exit, SessionError>) {
        let mut known = self.0.known();
        if known.outcome.is_none() {
            known.outcome = Some(outcome);
            // Before anybody can see the outcome, so that whoever has seen it finds the descriptor readable.
            self.0.ended.ring();
            drop(known);
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell(Err(SessionError::Over));
    }
}

/// What all handles of a machine share.
pub(super) struct Shared {
    pub(super) wake: Bell,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) stages: Vec<Stage>,
    /// How long the guest has to start a process.
    pub(super) limit: Duration,
}

/// A running machine. Clones are the same machine, and may be used from any thread. Holding one keeps nothing alive: see
/// [`Main`].
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Sender<Command>,
}

impl Handle {
    /// Runs a further process in the guest, and waits until it runs: no longer than [`Options`](super::Options) gave the
    /// start.
    ///
    /// # Errors
    /// [`SessionError::Failed`] when the agent could not start it, with the kind that docker's exit codes tell apart;
    /// [`SessionError::TooMany`]; [`SessionError::Over`] when the machine ends or has ended.
    pub fn exec(&self, request: ExecRequest, stdio: StdioFds) -> Result<Exec, SessionError> {
        let fate = Fate::new().map_err(SessionError::system("make an event descriptor"))?;
        self.ask(Command::Exec {
            request: Box::new(request),
            stdio,
            teller: Teller::new(&fate),
        });
        let channel = fate.wait_started(self.shared.limit)?;
        Ok(Exec {
            channel,
            fate,
            handle: self.clone(),
        })
    }

    /// Sends a process ([`Main::ID`] is the main one) a signal, by Linux's number. One that has ended gets none.
    pub fn signal(&self, id: u32, signal: u8) {
        self.ask(Command::Signal(id, signal));
    }

    /// Tells a process's terminal its new size.
    pub fn resize(&self, id: u32, rows: u16, columns: u16) {
        self.ask(Command::Resize(id, WindowSize { rows, columns }));
    }

    /// Kills every process in the guest; the main one's exit is reported as any other. In a machine without one, ends the
    /// work.
    pub fn shutdown(&self) {
        self.ask(Command::Shutdown);
    }

    /// Kills the monitor at once, as a power cut would: for a guest that does not answer.
    pub fn kill(&self) {
        let pidfd = self.shared.pidfd.as_raw_fd();
        // A monitor that has ended is what was wanted.
        // SAFETY: pidfd_send_signal takes numbers here, and no signal information.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd,
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
    }

    /// The monitor's process ID on the host.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// The stages of the start in their order, the monitor's and then the guest's, as times of the host's CLOCK_MONOTONIC.
    pub fn stages(&self) -> &[Stage] {
        &self.shared.stages
    }

    /// A machine that has ended passes over what it is asked for; an Exec's `Teller` says so when it is dropped.
    fn ask(&self, command: Command) {
        let _ = self.commands.send(command);
        self.shared.wake.ring();
    }
}

/// The main process, and the machine's owner: dropping it kills the machine and waits for that.
pub struct Main {
    pub(super) fate: Arc<Fate>,
    pub(super) handle: Handle,
    pub(super) thread: Option<JoinHandle<crate::Result<End>>>,
}

impl Main {
    /// The main process's number.
    pub const ID: u32 = MAIN;

    /// A descriptor that becomes, and stays, readable when the process has ended and all its output is written; also when
    /// the machine fails.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.fate.ended.as_fd()
    }

    /// Waits for that. The process's writes are on the disk then; the machine is about to power off.
    ///
    /// # Errors
    /// When the machine ended before the process, or the agent broke the protocol: the machine has been killed then.
    pub fn wait(&self) -> Result<Exit, SessionError> {
        self.fate.wait_ended()
    }

    /// Sends the process a signal, by Linux's number.
    pub fn signal(&self, signal: u8) {
        self.handle.signal(Self::ID, signal);
    }

    /// Tells the process's terminal its new size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.handle.resize(Self::ID, rows, columns);
    }

    /// Waits until the machine has ended too: the monitor's process is gone then.
    ///
    /// # Errors
    /// When the monitor cannot be waited for.
    pub fn finish(mut self) -> Result<End, SessionError> {
        let ended = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended.map_err(io::Error::other),
            _ => Err(io::Error::other("the thread that carries it has failed")),
        };
        ended.map_err(SessionError::system("wait for the monitor"))
    }
}

impl Drop for Main {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.kill();
            let _ = thread.join();
        }
    }
}

/// A further process. Dropping this leaves it running.
pub struct Exec {
    channel: Channel,
    fate: Arc<Fate>,
    handle: Handle,
}

impl Exec {
    /// The process's number.
    pub fn id(&self) -> u32 {
        self.channel
    }

    /// A descriptor that becomes, and stays, readable when the process has ended and all its output is written; also when
    /// the machine ends.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.fate.ended.as_fd()
    }

    /// Waits for that. What the process has left running keeps nobody waiting, though it may hold the output open. The
    /// main process's end is one of SIGKILL for every other process.
    ///
    /// # Errors
    /// When the machine ended before the process, or the agent broke the protocol.
    pub fn wait(&self) -> Result<Exit, SessionError> {
        self.fate.wait_ended()
    }

    /// Sends the process a signal, by Linux's number.
    pub fn signal(&self, signal: u8) {
        self.handle.signal(self.channel, signal);
    }

    /// Tells the process's terminal its new size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.handle.resize(self.channel, rows, columns);
    }
}
