//! The control channel's bytes, and waiting for them together with the machine's end and the caller's events.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use guest_protocol::{Decoder, MAX_TO_HOST, ToGuest, ToHost};

use crate::MicroVm;

use super::error::console_tail;
use super::{Events, Options, Requests, SessionError};

/// Further descriptors that a wait may be for.
pub(super) const EXTRAS: usize = 3;

pub(super) struct Wire<'a> {
    vm: &'a mut MicroVm,
    console: Option<&'a File>,
    events: Option<&'a mut dyn Events>,
    limit: Duration,
    pub(super) decoder: Decoder,
    /// Frames on their way to the guest.
    pub(super) outgoing: Vec<u8>,
    sent: usize,
    /// What was asked for before the process runs.
    early: Vec<u8>,
    running: bool,
    /// The channel's end of file was seen.
    closed: bool,
}

/// What a wait was ended by.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Woken {
    /// Which of the further descriptors are ready.
    pub(super) extras: [bool; EXTRAS],
    /// The monitor has ended, and everything it left in the channel has been received.
    pub(super) ended: bool,
    /// The time is up.
    pub(super) late: bool,
}

const UNUSED: libc::pollfd = libc::pollfd {
    fd: -1,
    events: 0,
    revents: 0,
};

impl<'a> Wire<'a> {
    pub(super) fn new(vm: &'a mut MicroVm, options: Options<'a>) -> Self {
        Self {
            vm,
            console: options.console,
            events: options.events,
            limit: options.limit,
            decoder: Decoder::new(MAX_TO_HOST),
            outgoing: Vec::new(),
            sent: 0,
            early: Vec::new(),
            running: false,
            closed: false,
        }
    }

    /// Waits for the next message and hands it to `take`, before the process runs.
    pub(super) fn first<T>(
        &mut self,
        until: Instant,
        what: &'static str,
        take: impl FnOnce(ToHost<'_>) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        while !self.decoder.ready()? {
            let woken = self.wait([UNUSED; EXTRAS], Some(until))?;
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
                let console = console_tail(self.console);
                return Err(SessionError::TooLate {
                    what,
                    limit: self.limit,
                    console,
                });
            }
        }
        match self.decoder.next()? {
            Some(frame) => take(ToHost::parse(&frame)?),
            None => Err(self.closed()),
        }
    }

    /// Sends a message before anything that was asked for early.
    pub(super) fn send_first(&mut self, message: &ToGuest<'_>) -> Result<(), SessionError> {
        message.encode(&mut self.outgoing);
        self.flush()
    }

    /// The process runs: what was asked for early is sent.
    pub(super) fn started(&mut self) {
        self.running = true;
        self.outgoing.append(&mut self.early);
    }

    /// How much waits to be sent, in bytes.
    pub(super) fn unsent(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Nothing more will come.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Sends and receives what can be now, after waiting until something can, until one of the further descriptors is
    /// ready, or until the time is up.
    pub(super) fn wait(
        &mut self,
        extras: [libc::pollfd; EXTRAS],
        until: Option<Instant>,
    ) -> Result<Woken, SessionError> {
        /// Places among the descriptors that are waited for; the further ones follow.
        const CONTROL: usize = 0;
        const PROCESS: usize = 1;
        const EVENTS: usize = 2;
        const FIRST_EXTRA: usize = 3;
        self.flush()?;
        let mut polls = [UNUSED; FIRST_EXTRA + EXTRAS];
        if !self.closed {
            polls[CONTROL].fd = self.vm.control().as_raw_fd();
            polls[CONTROL].events = libc::POLLIN;
            if self.unsent() > 0 {
                polls[CONTROL].events |= libc::POLLOUT;
            }
        }
        polls[PROCESS].fd = self.vm.pidfd().as_raw_fd();
        polls[PROCESS].events = libc::POLLIN;
        if let Some(events) = &self.events {
            polls[EVENTS].fd = events.descriptor().as_raw_fd();
            polls[EVENTS].events = libc::POLLIN;
        }
        polls[FIRST_EXTRA..].copy_from_slice(&extras);
        let mut woken = Woken::default();
        if !poll(&mut polls, until)? {
            woken.late = true;
            return Ok(woken);
        }
        if polls[CONTROL].revents != 0 {
            self.flush()?;
            self.receive()?;
        }
        if polls[PROCESS].revents != 0 {
            // The channel may hold what the guest said last.
            while !self.closed && self.receive()? {}
            woken.ended = true;
        }
        if polls[EVENTS].revents != 0 {
            self.attend()?;
        }
        for (ready, poll) in woken.extras.iter_mut().zip(&polls[FIRST_EXTRA..]) {
            *ready = poll.revents != 0;
        }
        Ok(woken)
    }

    /// Lets the caller do what its events ask for.
    fn attend(&mut self) -> Result<(), SessionError> {
        let mut abandoned = false;
        if let Some(events) = &mut self.events {
            let outgoing = if self.running {
                &mut self.outgoing
            } else {
                &mut self.early
            };
            events.ready(&mut Requests {
                outgoing,
                started: self.running,
                abandoned: &mut abandoned,
            });
        }
        if abandoned {
            Err(SessionError::Abandoned)
        } else {
            self.flush()
        }
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
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
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

    /// The error for a machine that has ended.
    pub(super) fn ended(&mut self) -> SessionError {
        match self.vm.wait() {
            Ok(end) => SessionError::Ended {
                end,
                console: console_tail(self.console),
            },
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
                console: console_tail(self.console),
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
