//! The control channel's bytes, and waiting for them together with the machine's end and whatever else there is.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use guest_protocol::{Decoder, MAX_TO_HOST, ToGuest, ToHost};

use crate::{End, MicroVm};

use super::error::console_tail;
use super::{Interrupt, SessionError};

/// How much that is sent already may stay in the buffer before the rest is moved to its start, in bytes.
const SENT: usize = 64 << 10;

pub(super) struct Wire {
    pub(super) vm: MicroVm,
    console: Option<File>,
    pub(super) decoder: Decoder,
    /// Frames on their way to the guest.
    pub(super) outgoing: Vec<u8>,
    sent: usize,
    /// The channel's end of file was seen.
    closed: bool,
}

/// What a wait was ended by, beside the caller's own descriptors.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Woken {
    /// The monitor has ended, and everything it left in the channel has been received.
    pub(super) ended: bool,
    /// The time is up.
    pub(super) late: bool,
}

/// Places of the wire's own among the descriptors that are waited for.
const CONTROL: usize = 0;
const MONITOR: usize = 1;

/// An entry to wait for a descriptor with.
pub(super) fn watch(fd: &impl AsRawFd, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }
}

impl Wire {
    pub(super) fn new(vm: MicroVm, console: Option<File>) -> Self {
        Self {
            vm,
            console,
            decoder: Decoder::new(MAX_TO_HOST),
            outgoing: Vec::new(),
            sent: 0,
            closed: false,
        }
    }

    /// Waits for the next message and hands it to `take`; for as long as there are no processes.
    pub(super) fn first<T>(
        &mut self,
        limit: Duration,
        what: &'static str,
        interrupt: &mut Option<&mut dyn Interrupt>,
        take: impl FnOnce(ToHost<'_>) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        let until = Instant::now() + limit;
        let mut polls = Vec::new();
        while !self.decoder.ready()? {
            let woken = self.wait_or_abandon(&mut polls, until, interrupt)?;
            if self.decoder.ready()? {
                break;
            }
            if woken.ended {
                return Err(self.ended());
            }
            if self.closed {
                return Err(self.closed());
            }
            if woken.late {
                return Err(self.late(what, limit));
            }
        }
        match self.decoder.next()? {
            Some(frame) => take(ToHost::parse(&frame)?),
            None => Err(self.closed()),
        }
    }

    /// Waits this long, or until the machine has ended: true then.
    pub(super) fn outlast(
        &mut self,
        limit: Duration,
        interrupt: &mut Option<&mut dyn Interrupt>,
    ) -> Result<bool, SessionError> {
        let until = Instant::now() + limit;
        let mut polls = Vec::new();
        loop {
            let woken = self.wait_or_abandon(&mut polls, until, interrupt)?;
            if woken.ended || woken.late {
                return Ok(woken.ended);
            }
        }
    }

    /// Waits for whatever happens next, or for the word to give the machine up.
    fn wait_or_abandon(
        &mut self,
        polls: &mut Vec<libc::pollfd>,
        until: Instant,
        interrupt: &mut Option<&mut dyn Interrupt>,
    ) -> Result<Woken, SessionError> {
        self.begin(polls, true)?;
        if let Some(interrupt) = interrupt {
            polls.push(watch(&interrupt.descriptor(), libc::POLLIN));
        }
        let own = polls.len();
        let woken = self.wait(polls, Some(until))?;
        if let Some(interrupt) = interrupt
            && polls[own - 1].revents != 0
            && interrupt.stops()
        {
            return Err(SessionError::Abandoned);
        }
        Ok(woken)
    }

    /// The error for a guest that has not done something in time.
    pub(super) fn late(&self, what: &'static str, limit: Duration) -> SessionError {
        SessionError::TooLate {
            what,
            limit,
            console: console_tail(self.console.as_ref()),
        }
    }

    /// Sends a message, now as far as the channel takes it.
    pub(super) fn send(&mut self, message: &ToGuest<'_>) -> Result<(), SessionError> {
        message.encode(&mut self.outgoing);
        self.flush()
    }

    /// How much waits to be sent, in bytes.
    pub(super) fn unsent(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Nothing more will come.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Begins a list of descriptors to wait for with the wire's own, after sending what can be. The caller adds its own. With
    /// a machine that is done with, `live` is false, and whatever it still says or does wakes nobody.
    pub(super) fn begin(
        &mut self,
        polls: &mut Vec<libc::pollfd>,
        live: bool,
    ) -> Result<(), SessionError> {
        self.flush()?;
        polls.clear();
        let mut control = watch(self.vm.control(), libc::POLLIN);
        let mut monitor = watch(&self.vm.pidfd(), libc::POLLIN);
        if self.closed || !live {
            control.fd = -1;
        }
        if !live {
            monitor.fd = -1;
        }
        if self.unsent() > 0 {
            control.events |= libc::POLLOUT;
        }
        polls.extend([control, monitor]);
        Ok(())
    }

    /// Waits until one of the descriptors is ready or the time is up, and sends and receives what can be.
    pub(super) fn wait(
        &mut self,
        polls: &mut [libc::pollfd],
        until: Option<Instant>,
    ) -> Result<Woken, SessionError> {
        let mut woken = Woken::default();
        if !poll(polls, until)? {
            woken.late = true;
            return Ok(woken);
        }
        let ready = |place: usize| polls.get(place).is_some_and(|poll| poll.revents != 0);
        if ready(CONTROL) {
            self.flush()?;
            self.receive()?;
        }
        if ready(MONITOR) {
            // The channel may hold what the guest said last.
            while !self.closed && self.receive()? {}
            woken.ended = true;
        }
        Ok(woken)
    }

    /// Sends what the channel takes now.
    pub(super) fn flush(&mut self) -> Result<(), SessionError> {
        while self.sent < self.outgoing.len() && !self.closed {
            let rest = &self.outgoing[self.sent..];
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let socket = self.vm.control().as_raw_fd();
            // SAFETY: the kernel reads no more than the slice.
            let count = unsafe { libc::send(socket, rest.as_ptr().cast(), rest.len(), flags) };
            match usize::try_from(count) {
                Ok(count) => self.sent += count,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.sent > SENT {
                            self.outgoing.drain(..self.sent);
                            self.sent = 0;
                        }
                        return Ok(());
                    }
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    // Nobody listens any more. What was said before that may still be there to read, and explains it.
                    _ => break,
                },
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Receives once, without waiting; whether something came.
    fn receive(&mut self) -> Result<bool, SessionError> {
        // A channel that floods is left alone until what came is dealt with.
        if self.decoder.held() > MAX_TO_HOST + 4 {
            return Ok(false);
        }
        let socket = self.vm.control().as_raw_fd();
        let space = self.decoder.space();
        // SAFETY: the kernel writes no more than the slice holds.
        let count = unsafe {
            libc::recv(
                socket,
                space.as_mut_ptr().cast(),
                space.len(),
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(count) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                self.decoder.received(count);
                return Ok(true);
            }
            Err(_) => match io::Error::last_os_error() {
                error
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                error if error.kind() == io::ErrorKind::ConnectionReset => self.closed = true,
                error => return Err(SessionError::system("read the control channel")(error)),
            },
        }
        Ok(false)
    }

    /// Waits for the machine's end, and makes one if the time is up first.
    pub(super) fn end(&mut self, patience: Duration) -> crate::Result<End> {
        if let Some(end) = self.vm.wait_for(Some(patience))? {
            return Ok(end);
        }
        self.vm.kill()?;
        self.vm.wait()
    }

    /// The error for a machine that has ended.
    pub(super) fn ended(&mut self) -> SessionError {
        match self.vm.wait() {
            Ok(end) => SessionError::ended(end, self.console.as_ref()),
            Err(error) => SessionError::system("wait for the monitor")(io::Error::other(error)),
        }
    }

    /// The error for a channel that has ended. The monitor itself may be about to: then that is the better reason.
    pub(super) fn closed(&mut self) -> SessionError {
        /// How much longer than its channel a monitor lives that is ending.
        const GRACE: Duration = Duration::from_secs(1);
        match self.vm.wait_for(Some(GRACE)) {
            Ok(Some(_)) => self.ended(),
            _ => SessionError::Closed {
                console: console_tail(self.console.as_ref()),
            },
        }
    }
}

/// Waits; false when the time was up first.
fn poll(polls: &mut [libc::pollfd], until: Option<Instant>) -> Result<bool, SessionError> {
    loop {
        let left = until.map_or(-1, |until| {
            let left = until
                .saturating_duration_since(Instant::now())
                .as_micros()
                .div_ceil(1000);
            i32::try_from(left).unwrap_or(i32::MAX)
        });
        // SAFETY: the slice holds as many pollfds as its length says.
        match unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, left) } {
            0 if until.is_some_and(|until| Instant::now() >= until) => return Ok(false),
            0 => {}
            ready if ready > 0 => return Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(SessionError::system("wait for the guest")(error)),
            },
        }
    }
}
