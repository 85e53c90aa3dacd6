//! Carries stdio between the caller's descriptors and the guest.

use std::os::fd::BorrowedFd;

use guest_protocol::{Exited, HEADER, MAX_DATA, Status, Stream, ToGuest, ToHost, WINDOW, header};

use crate::monotonic_now;

use super::output::{Input, Output};
use super::wire::{EXTRAS, Wire};
use super::{SessionError, host_time};

/// The caller's descriptors. They are left as they are: not even made non-blocking.
pub struct Stdio<'a> {
    /// Where stdin is read from; `None` sends nothing, not even its end.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Where stdout is written to.
    pub stdout: BorrowedFd<'a>,
    /// Where stderr is written to.
    pub stderr: BorrowedFd<'a>,
}

/// How the process ended.
#[derive(Debug)]
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
    pub lost: Vec<(Stream, std::io::Error)>,
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

struct Pump<'w, 'v, 'a> {
    wire: &'w mut Wire<'v>,
    /// Until it has ended, or the process reads no more.
    input: Option<Input<'a>>,
    /// How many bytes of stdin the guest still takes.
    credit: u32,
    outputs: [Output<'a>; 2],
    /// The guest has been told that nobody reads these.
    told: [bool; 2],
    exited: Option<(Exited, u64)>,
}

pub(super) fn run(wire: &mut Wire<'_>, stdio: &Stdio<'_>) -> Result<Exit, SessionError> {
    let mut pump = Pump {
        wire,
        input: stdio.stdin.map(Input::new),
        credit: WINDOW,
        outputs: [
            Output::new(Stream::Stdout, stdio.stdout),
            Output::new(Stream::Stderr, stdio.stderr),
        ],
        told: [false; 2],
        exited: None,
    };
    loop {
        pump.hear()?;
        if let Some((exited, received)) = pump.exited
            && pump.outputs.iter().all(Output::is_clear)
        {
            return Ok(pump.exit(exited, received));
        }
        pump.step()?;
    }
}

impl Pump<'_, '_, '_> {
    /// Waits until something can go on, and carries it.
    fn step(&mut self) -> Result<(), SessionError> {
        /// Places among the wire's further descriptors.
        const INPUT: usize = 0;
        const OUTPUTS: [usize; 2] = [1, 2];
        let unused = libc::pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        };
        let mut extras = [unused; EXTRAS];
        // First, since whether more input is wanted depends on what is still unsent.
        self.wire.flush()?;
        if let Some(input) = &self.input
            && self.exited.is_none()
            && self.credit > 0
            && self.wire.unsent() < MAX_DATA
        {
            extras[INPUT] = input.watch();
        }
        for (place, output) in OUTPUTS.into_iter().zip(&self.outputs) {
            extras[place] = output.watch();
        }
        let woken = self.wire.wait(extras, None)?;
        if woken.extras[INPUT] {
            self.read_input();
        }
        for (place, index) in OUTPUTS.into_iter().zip(0..) {
            if woken.extras[place] {
                self.outputs[index].drain();
                self.settle(index);
            }
        }
        if self.exited.is_none() && !self.wire.decoder.ready()? {
            if woken.ended {
                return Err(self.wire.ended());
            }
            if self.wire.is_closed() {
                return Err(self.wire.closed());
            }
        }
        Ok(())
    }

    /// Reads stdin into place behind a frame's header.
    fn read_input(&mut self) {
        let Some(input) = &self.input else {
            return;
        };
        let outgoing = &mut self.wire.outgoing;
        let start = outgoing.len();
        let most = MAX_DATA.min(self.credit as usize);
        outgoing.resize(start + HEADER + most, 0);
        let count = input.read(&mut outgoing[start + HEADER..]);
        match count {
            Some(count) if count > 0 => {
                outgoing.truncate(start + HEADER + count);
                outgoing[start..start + HEADER]
                    .copy_from_slice(&header(ToGuest::STDIN_KIND, count));
                self.credit -= count as u32;
            }
            ended => {
                outgoing.truncate(start);
                if ended.is_some() {
                    ToGuest::StdinEof.encode(outgoing);
                    self.input = None;
                }
            }
        }
    }

    /// Takes every whole message that has come.
    fn hear(&mut self) -> Result<(), SessionError> {
        while self.exited.is_none()
            && let Some(frame) = self.wire.decoder.next()?
        {
            match ToHost::parse(&frame)? {
                ToHost::Output(stream, bytes) => {
                    let index = usize::from(stream == Stream::Stderr);
                    if !self.outputs[index].take(bytes) {
                        return Err(SessionError::Flood);
                    }
                    self.settle(index);
                }
                ToHost::StdinCredit(bytes) => {
                    // The guest may grant what it likes; it is the one who pays for it.
                    self.credit = self.credit.saturating_add(bytes).min(WINDOW);
                }
                ToHost::StdinClosed => self.input = None,
                ToHost::Exited(exited) => self.exited = Some((exited, monotonic_now())),
                ToHost::Failed(failed) => return Err(SessionError::failed(failed)),
                other => return Err(SessionError::unexpected(&other, "while the process ran")),
            }
        }
        Ok(())
    }

    /// Tells the guest what has become of its output.
    fn settle(&mut self, index: usize) {
        let output = &mut self.outputs[index];
        if output.lost.is_some() {
            if !self.told[index] {
                self.told[index] = true;
                ToGuest::OutputClosed(output.stream).encode(&mut self.wire.outgoing);
            }
        } else if output.owed >= WINDOW / 2 {
            // Half a window at a time, so that a little output costs no message at all.
            ToGuest::OutputCredit(output.stream, output.owed).encode(&mut self.wire.outgoing);
            output.owed = 0;
        }
    }

    fn exit(self, exited: Exited, received: u64) -> Exit {
        let lost = self
            .outputs
            .into_iter()
            .filter_map(|output| Some((output.stream, output.lost?)));
        Exit {
            status: exited.status,
            oom_killed: exited.oom_killed,
            peak_memory_bytes: exited.peak_memory_bytes,
            ended_at: host_time(received, exited.now_ns, exited.ended_ns),
            lost: lost
                .filter(|(_, error)| error.raw_os_error() != Some(libc::EPIPE))
                .collect(),
        }
    }
}
