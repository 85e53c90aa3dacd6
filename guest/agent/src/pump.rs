//! Carries stdio, signals and window sizes until the process has ended and its output is with the host.

use alloc::collections::VecDeque;

use guest_protocol::{Exited, MAX_DATA, Status, Stream, ToGuest, ToHost, WINDOW};

use crate::channel::{Channel, Taken};
use crate::failure::{Context, Failure};
use crate::launch::Running;
use crate::oom;
use crate::stdio::Stdio;
use crate::sys::file::{self, Poll};
use crate::sys::process::{self, Ended};
use crate::sys::{Errno, time};

/// What an exit status is when a shell's last command was killed by SIGKILL: 128 + 9.
const KILLED_BELOW: i32 = 137;

/// How the process ended, without the time of the message that says so.
pub(crate) struct End {
    ended: Ended,
    ended_ns: u64,
}

impl End {
    /// The message, to be sent now.
    pub(crate) fn now(&self) -> Exited {
        let (signal, code) = (self.ended.status & 0x7f, self.ended.status >> 8 & 0xff);
        let status = match signal {
            0 => Status::Code(code as u8),
            signal => Status::Signal(signal as u8),
        };
        // The log is long to read, so it is asked for only when something was killed.
        let suspected = signal == libc::SIGKILL || (signal == 0 && code == KILLED_BELOW);
        Exited {
            status,
            oom_killed: suspected && oom::has_killed(),
            peak_memory_bytes: self.ended.peak_memory,
            ended_ns: self.ended_ns,
            now_ns: time::now(),
        }
    }
}

/// One direction of the state of a stream that the host grants room for.
struct Output {
    stream: Stream,
    /// How many bytes the host still takes.
    credit: u32,
}

struct Pump<'a> {
    channel: &'a mut Channel,
    process: Running,
    stdio: Stdio,
    outputs: [Output; 2],
    /// Bytes for stdin that the process has not read yet, at most [`WINDOW`].
    input: VecDeque<u8>,
    /// What the process has read and the host has not been told of.
    uncredited: u32,
    /// The host has sent stdin's end.
    input_ended: bool,
    ended: Option<Ended>,
}

/// Carries everything until the process has ended and all it wrote has been sent.
pub(crate) fn run(channel: &mut Channel, process: Running, stdio: Stdio) -> Result<End, Failure> {
    let output = |stream| Output {
        stream,
        credit: WINDOW,
    };
    let mut pump = Pump {
        channel,
        process,
        stdio,
        outputs: [output(Stream::Stdout), output(Stream::Stderr)],
        input: VecDeque::new(),
        uncredited: 0,
        input_ended: false,
        ended: None,
    };
    let mut ended_ns = 0;
    loop {
        if let Some(ended) = pump.ended {
            if ended_ns == 0 {
                ended_ns = time::now();
            }
            if pump.drained() {
                return Ok(End { ended, ended_ns });
            }
        }
        pump.step()?;
    }
}

impl Pump<'_> {
    /// Everything the process wrote is on its way. It was PID 1 of its namespace, so nothing that could write is left, and
    /// both streams come to their ends.
    fn drained(&self) -> bool {
        self.outputs
            .iter()
            .all(|output| self.stdio.source(output.stream).is_none())
    }

    /// Waits for whatever can go on, and does it.
    fn step(&mut self) -> Result<(), Failure> {
        /// Places in the array to poll with; a negative descriptor is passed over by the kernel.
        const CHANNEL: usize = 0;
        const PROCESS: usize = 1;
        const INPUT: usize = 2;
        const OUTPUTS: [usize; 2] = [3, 4];
        const UNUSED: Poll = Poll {
            fd: -1,
            events: 0,
            revents: 0,
        };
        let mut polls = [UNUSED; 5];
        polls[CHANNEL] = self.channel.watch();
        if self.ended.is_none() {
            polls[PROCESS] = file::watch(&self.process.pidfd, libc::POLLIN);
        }
        // A pipe whose reader has gone reports an error though nothing is asked of it; so it is watched only when there is
        // something to write.
        if let Some(sink) = self.stdio.sink()
            && !self.input.is_empty()
        {
            polls[INPUT] = file::watch(sink, libc::POLLOUT);
        }
        for (place, output) in OUTPUTS.into_iter().zip(&self.outputs) {
            if let Some(source) = self.stdio.source(output.stream)
                && output.credit > 0
                && self.channel.clear()
            {
                polls[place] = file::watch(source, libc::POLLIN);
            }
        }
        file::poll(&mut polls).or_fail(|| "wait for the process")?;
        let ready = |place: usize| polls[place].revents != 0;
        if ready(CHANNEL) {
            self.channel.flush()?;
            self.hear()?;
        }
        for (place, index) in OUTPUTS.into_iter().zip(0..) {
            if ready(place) {
                self.forward(index)?;
            }
        }
        if ready(INPUT) {
            self.feed()?;
        }
        if ready(PROCESS) {
            self.ended = Some(process::wait(self.process.pid).or_fail(|| "wait for the process")?);
        }
        Ok(())
    }

    /// Obeys what the host has sent.
    fn hear(&mut self) -> Result<(), Failure> {
        loop {
            let taken = self.channel.take()?;
            match taken {
                Taken::Nothing => {}
                // Whatever ran the machine is gone, and the machine goes with it.
                Taken::HostGone | Taken::Message(ToGuest::Shutdown) => {
                    self.signal(libc::SIGKILL)?
                }
                Taken::Message(ToGuest::Start(_)) => {
                    return Err(Failure::config("the host sent Start twice"));
                }
                Taken::Message(ToGuest::Stdin(bytes)) => {
                    if self.input.len() + bytes.len() > WINDOW as usize {
                        return Err(Failure::config(
                            "the host sent more stdin than there is room for",
                        ));
                    }
                    if self.stdio.sink().is_some() {
                        self.input.extend(bytes);
                        self.feed()?;
                    }
                }
                Taken::Message(ToGuest::StdinEof) => {
                    self.input_ended = true;
                    self.end_input();
                }
                Taken::Message(ToGuest::Resize(size)) => {
                    if let (true, Some(terminal)) = (self.stdio.terminal, self.stdio.sink()) {
                        file::set_window_size(terminal, size).or_fail(|| "resize the terminal")?;
                    }
                }
                Taken::Message(ToGuest::Signal(signal)) => self.signal(i32::from(signal))?,
                Taken::Message(ToGuest::OutputCredit(stream, bytes)) => {
                    for output in &mut self.outputs {
                        if output.stream == stream {
                            output.credit = output.credit.saturating_add(bytes);
                        }
                    }
                }
                Taken::Message(ToGuest::OutputClosed(stream)) => {
                    // A terminal is also where input goes; only its output is of no use now, and hanging it up is what
                    // happens to a terminal that nobody looks at.
                    self.stdio.close(stream);
                }
            }
            if !self.channel.holds_message() {
                return Ok(());
            }
        }
    }

    /// Sends the process a signal, as docker does: the main process, not its group.
    fn signal(&mut self, signal: i32) -> Result<(), Failure> {
        if self.ended.is_some() {
            return Ok(());
        }
        match process::kill(self.process.pid, signal) {
            // An unknown signal is the host's mistake, and no reason to end the machine.
            Ok(()) | Err(Errno(libc::ESRCH | libc::EINVAL)) => Ok(()),
            Err(errno) => Err(Failure::system("signal the process", errno)),
        }
    }

    /// Sends what a stream has, as far as the host takes it.
    fn forward(&mut self, index: usize) -> Result<(), Failure> {
        let Some(output) = self.outputs.get_mut(index) else {
            return Ok(());
        };
        let Some(source) = self.stdio.source(output.stream) else {
            return Ok(());
        };
        if !self.channel.clear() {
            return Ok(());
        }
        let most = MAX_DATA.min(output.credit as usize);
        match self.channel.forward(output.stream, source, most)? {
            None => {}
            Some(0) => self.stdio.close(output.stream),
            Some(count) => output.credit -= count as u32,
        }
        Ok(())
    }

    /// Writes what stdin holds, as far as the process takes it.
    fn feed(&mut self) -> Result<(), Failure> {
        while let (front, _) = self.input.as_slices()
            && !front.is_empty()
        {
            let Some(sink) = self.stdio.sink() else {
                self.input.clear();
                break;
            };
            match file::write(sink, front) {
                Ok(count) => {
                    self.input.drain(..count);
                    self.uncredited += count as u32;
                }
                Err(Errno(libc::EAGAIN)) => break,
                Err(Errno(libc::EINTR)) => {}
                // The process has closed its stdin, or the terminal has hung up.
                Err(Errno(libc::EPIPE | libc::EIO)) => {
                    self.input.clear();
                    self.stdio.input = None;
                    self.channel.send(&ToHost::StdinClosed)?;
                    return Ok(());
                }
                Err(errno) => return Err(Failure::system("write the process's input", errno)),
            }
        }
        // Half a window at a time, so that a short stdin costs no message at all.
        if self.uncredited >= WINDOW / 2 {
            self.channel.send(&ToHost::StdinCredit(self.uncredited))?;
            self.uncredited = 0;
        }
        self.end_input();
        Ok(())
    }

    /// Passes the end of stdin on, once everything before it has been read.
    fn end_input(&mut self) {
        if self.input_ended && self.input.is_empty() {
            self.stdio.input = None;
        }
    }
}
