//! One process in the guest, as the host carries it: its stdio, its windows, its end.

use std::sync::Arc;

use guest_protocol::{Channel, Exited, HEADER, MAX_DATA, Status, Stream, ToGuest, WINDOW, header};

use super::handle::{Exit, StdioFds, Teller};
use super::output::{Input, Output};
use super::{SessionError, host_time};

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The agent has been asked for it.
    Starting,
    /// It runs.
    Running,
    /// It has ended, as the agent said at this time of the host's CLOCK_MONOTONIC; its output may wait to be written.
    Ended(Exited, u64),
}

pub(super) struct Process {
    channel: Channel,
    pub(super) phase: Phase,
    teller: Teller,
    /// Until it has ended, or the process reads no more.
    pub(super) input: Option<Input>,
    /// How many bytes of stdin the guest still takes.
    credit: u32,
    pub(super) outputs: [Output; 2],
    /// The guest has been told that nobody reads these.
    told: [bool; 2],
}

impl Process {
    pub(super) fn new(channel: Channel, phase: Phase, stdio: StdioFds, teller: Teller) -> Self {
        Self {
            channel,
            phase,
            teller,
            input: stdio.stdin.map(Input::new),
            credit: WINDOW,
            outputs: [
                Output::new(Stream::Stdout, stdio.stdout),
                Output::new(Stream::Stderr, stdio.stderr),
            ],
            told: [false; 2],
        }
    }

    /// Takes note that it runs; when nobody wants it any more it is killed.
    pub(super) fn started(&mut self, outgoing: &mut Vec<u8>) {
        self.phase = Phase::Running;
        if !self.teller.started(self.channel) {
            ToGuest::Signal(self.channel, libc::SIGKILL as u8).encode(outgoing);
        }
    }

    /// Takes note of its end.
    pub(super) fn exited(&mut self, exited: Exited, received: u64) {
        self.phase = Phase::Ended(exited, received);
        self.input = None;
    }

    /// Takes note that the main process has ended and this one with it, unsaid.
    pub(super) fn ended_with_main(&mut self, main: Exited, received: u64) {
        if !matches!(self.phase, Phase::Ended(..)) {
            let killed = Exited {
                status: Status::Signal(libc::SIGKILL as u8),
                oom_killed: false,
                peak_memory_bytes: 0,
                ..main
            };
            self.exited(killed, received);
        }
    }

    /// Whether there is nothing left to do for it.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Ended(..)) && self.outputs.iter().all(Output::is_clear)
    }

    /// Tells whoever waits for it.
    pub(super) fn tell(self) {
        let Phase::Ended(exited, received) = self.phase else {
            return self.teller.ended(Err(SessionError::Over));
        };
        let lost = self
            .outputs
            .into_iter()
            .filter_map(|output| Some((output.stream, output.lost?)));
        self.teller.ended(Ok(exit(
            exited,
            received,
            lost.filter(|(_, error)| error.raw_os_error() != Some(libc::EPIPE))
                .map(|(stream, error)| (stream, Arc::new(error)))
                .collect(),
        )));
    }

    /// Tells whoever waits for it that it came to nothing.
    pub(super) fn fail(self, error: SessionError) {
        self.teller.ended(Err(error));
    }

    /// Whether more stdin can go to the guest.
    pub(super) fn wants_input(&self) -> bool {
        self.phase == Phase::Running && self.credit > 0
    }

    /// The guest takes so many bytes of stdin more. It may grant what it likes, as it is the one who pays for it.
    pub(super) fn grant(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes).min(WINDOW);
    }

    /// Reads stdin into place behind a frame's header.
    pub(super) fn read_input(&mut self, outgoing: &mut Vec<u8>) {
        let Some(input) = &self.input else {
            return;
        };
        let start = outgoing.len();
        let most = MAX_DATA.min(self.credit as usize);
        outgoing.resize(start + HEADER + most, 0);
        let count = input.read(&mut outgoing[start + HEADER..]);
        match count {
            Some(count) if count > 0 => {
                outgoing.truncate(start + HEADER + count);
                let header = header(ToGuest::STDIN_KIND, self.channel, count);
                outgoing[start..start + HEADER].copy_from_slice(&header);
                self.credit = self.credit.saturating_sub(count as u32);
            }
            ended => {
                outgoing.truncate(start);
                if ended.is_some() {
                    ToGuest::StdinEof(self.channel).encode(outgoing);
                    self.input = None;
                }
            }
        }
    }

    /// Takes bytes that the process has written; false when they are more than the guest was granted.
    pub(super) fn take(&mut self, stream: Stream, bytes: &[u8], outgoing: &mut Vec<u8>) -> bool {
        let index = usize::from(stream == Stream::Stderr);
        let taken = self.outputs[index].take(bytes);
        self.settle(index, outgoing);
        taken
    }

    /// Writes what waits for this stream, now that something can be.
    pub(super) fn drain(&mut self, index: usize, outgoing: &mut Vec<u8>) {
        if let Some(output) = self.outputs.get_mut(index) {
            output.drain();
            self.settle(index, outgoing);
        }
    }

    /// Tells the guest what has become of its output.
    fn settle(&mut self, index: usize, outgoing: &mut Vec<u8>) {
        if self.phase != Phase::Running {
            return;
        }
        let output = &mut self.outputs[index];
        if output.lost.is_some() {
            if !self.told[index] {
                self.told[index] = true;
                ToGuest::OutputClosed(self.channel, output.stream).encode(outgoing);
            }
        } else if output.owed >= WINDOW / 2 {
            // Half a window at a time, so that a little output costs no message at all.
            ToGuest::OutputCredit(self.channel, output.stream, output.owed).encode(outgoing);
            output.owed = 0;
        }
    }
}

/// What the agent has said of an end, for the host.
pub(super) fn exit(
    exited: Exited,
    received: u64,
    lost: Vec<(Stream, Arc<std::io::Error>)>,
) -> Exit {
    Exit {
        status: exited.status,
        oom_killed: exited.oom_killed,
        peak_memory_bytes: exited.peak_memory_bytes,
        ended_at: host_time(received, exited.now_ns, exited.ended_ns),
        lost,
    }
}
