//! One running process as the agent carries it on: its windows, its stdin, its end.

use alloc::collections::VecDeque;

use guest_protocol::{
    Channel as Number, Exited, MAX_DATA, Status, Stream, ToHost, WINDOW, WindowSize,
};

use crate::channel::Channel;
use crate::failure::Failure;
use crate::launch::Launched;
use crate::oom;
use crate::stdio::Stdio;
use crate::sys::file::{self, Poll};
use crate::sys::process::{self, Ended};
use crate::sys::{Errno, Fd, time};

/// What an exit status is when a shell's last command was killed by SIGKILL: 128 + 9.
const KILLED_BELOW: i32 = 137;

/// An entry to poll with that the kernel passes over.
const UNUSED: Poll = Poll {
    fd: -1,
    events: 0,
    revents: 0,
};

/// The output streams, in the order of [`Running::watch`].
pub(crate) const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// How many descriptors a process is watched by.
pub(crate) const WATCHED: usize = 4;
/// Places among them.
pub(crate) const PROCESS: usize = 0;
pub(crate) const INPUT: usize = 1;
pub(crate) const OUTPUTS: [usize; 2] = [2, 3];

/// How a process ended, without the time of the message that says so.
pub(crate) struct End {
    pid: u32,
    ended: Ended,
    ended_ns: u64,
}

impl End {
    /// The end of work without a main process.
    pub(crate) fn of_maintenance() -> Self {
        Self {
            pid: 0,
            ended: Ended {
                status: 0,
                peak_memory: 0,
            },
            ended_ns: time::now(),
        }
    }

    /// The message, to be sent now.
    pub(crate) fn now(&self) -> Exited {
        let (signal, code) = (self.ended.status & 0x7f, self.ended.status >> 8 & 0xff);
        let status = match signal {
            0 => Status::Code(code as u8),
            signal => Status::Signal(signal as u8),
        };
        // The log is long to read, so it is asked for only when something was killed: the process itself, or one below it.
        let oom_killed = match signal {
            libc::SIGKILL => oom::has_killed(Some(self.pid)),
            0 if code == KILLED_BELOW => oom::has_killed(None),
            _ => false,
        };
        Exited {
            status,
            oom_killed,
            peak_memory_bytes: self.ended.peak_memory,
            ended_ns: self.ended_ns,
            now_ns: time::now(),
        }
    }
}

pub(crate) struct Running {
    /// The channel that it is carried on.
    pub(crate) number: Number,
    pid: u32,
    pidfd: Fd,
    pub(crate) stdio: Stdio,
    /// How many bytes of each output stream the host still takes.
    credit: [u32; 2],
    /// Bytes for stdin that the process has not read yet, at most [`WINDOW`].
    input: VecDeque<u8>,
    /// What the process has read and the host has not been told of.
    uncredited: u32,
    /// The host has sent stdin's end.
    input_ended: bool,
    ended: Option<End>,
    /// The host has been told of the end. What is left, if anything, are streams that other processes hold open: they are
    /// read, so that nobody gets stuck or killed for writing, and what comes is dropped.
    pub(crate) reported: bool,
}

impl Running {
    pub(crate) fn new(number: Number, launched: Launched) -> Self {
        Self {
            number,
            pid: launched.pid,
            pidfd: launched.pidfd,
            stdio: launched.stdio,
            credit: [WINDOW; 2],
            input: VecDeque::new(),
            uncredited: 0,
            input_ended: false,
            ended: None,
            reported: false,
        }
    }

    /// What makes every later process one of this one's PID namespace.
    pub(crate) fn join_namespace(&self) -> Result<(), Errno> {
        process::join_namespace(&self.pidfd)
    }

    /// How it ended, once it has.
    pub(crate) fn end(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// Gives away how it ended.
    pub(crate) fn take_end(&mut self) -> Option<End> {
        self.ended.take()
    }

    /// Nothing more can come from it.
    pub(crate) fn silent(&self) -> bool {
        STREAMS
            .iter()
            .all(|stream| self.stdio.source(*stream).is_none())
    }

    /// The entries to poll with; outputs only if there is room for them on the channel.
    pub(crate) fn watch(&self, room: bool) -> [Poll; WATCHED] {
        let mut polls = [UNUSED; WATCHED];
        if self.ended.is_none() {
            polls[PROCESS] = file::watch(&self.pidfd, libc::POLLIN);
        }
        // A pipe whose reader has gone reports an error though nothing is asked of it; so it is watched only when there is
        // something to write.
        if let Some(sink) = self.stdio.sink()
            && !self.input.is_empty()
        {
            polls[INPUT] = file::watch(sink, libc::POLLOUT);
        }
        for (place, (stream, credit)) in OUTPUTS.into_iter().zip(STREAMS.iter().zip(self.credit)) {
            if let Some(source) = self.stdio.source(*stream)
                && (self.reported || (credit > 0 && room))
            {
                polls[place] = file::watch(source, libc::POLLIN);
            }
        }
        polls
    }

    /// Takes note of its end.
    pub(crate) fn reap(&mut self) -> Result<(), Errno> {
        let ended = process::wait(self.pid)?;
        self.ended = Some(End {
            pid: self.pid,
            ended,
            ended_ns: time::now(),
        });
        Ok(())
    }

    /// Sends it a signal, as docker does: the process, not its group.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), Errno> {
        if self.ended.is_some() {
            return Ok(());
        }
        match process::kill(self.pid, signal) {
            // An unknown signal is the host's mistake, and no reason to end the machine.
            Err(Errno(libc::ESRCH | libc::EINVAL)) => Ok(()),
            other => other,
        }
    }

    /// Gives its terminal, if it has one, another size.
    pub(crate) fn resize(&self, size: WindowSize) -> Result<(), Errno> {
        match self.stdio.sink() {
            Some(terminal) if self.stdio.terminal => file::set_window_size(terminal, size),
            _ => Ok(()),
        }
    }

    /// The host takes so many bytes more.
    pub(crate) fn grant(&mut self, stream: Stream, bytes: u32) {
        for (one, credit) in STREAMS.iter().zip(&mut self.credit) {
            if *one == stream {
                *credit = credit.saturating_add(bytes);
            }
        }
    }

    /// Sends what a stream has, as far as the host takes it, up to one frame. Whether anything was sent.
    pub(crate) fn forward(
        &mut self,
        stream: Stream,
        channel: &mut Channel,
    ) -> Result<bool, Failure> {
        for (one, credit) in STREAMS.iter().zip(&mut self.credit) {
            if *one != stream || *credit == 0 || !channel.clear() {
                continue;
            }
            let Some(source) = self.stdio.source(stream) else {
                continue;
            };
            match channel.forward(self.number, stream, source, MAX_DATA.min(*credit as usize))? {
                None => {}
                Some(0) => self.stdio.close(stream),
                Some(count) => {
                    *credit = credit.saturating_sub(count as u32);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Sends what an ended process has left in its streams, as far as the host takes it; whether that was all. Its streams
    /// need not have come to their ends: a process that it has left behind may hold them open.
    pub(crate) fn drain(&mut self, channel: &mut Channel) -> Result<bool, Failure> {
        let mut all = true;
        for stream in STREAMS {
            while self.forward(stream, channel)? {}
            let full = STREAMS
                .iter()
                .zip(self.credit)
                .any(|(one, credit)| *one == stream && credit == 0);
            all &= self.stdio.source(stream).is_none() || (channel.clear() && !full);
        }
        Ok(all)
    }

    /// Reads and drops what somebody else has written to a stream of a process that has ended.
    pub(crate) fn discard(&mut self, stream: Stream) {
        let mut dropped = [0; 4096];
        if let Some(source) = self.stdio.source(stream)
            && matches!(
                file::read(source, &mut dropped),
                Ok(0) | Err(Errno(libc::EIO))
            )
        {
            self.stdio.close(stream);
        }
    }

    /// Takes bytes for stdin; false when they are more than there is room for.
    pub(crate) fn take_input(&mut self, bytes: &[u8]) -> bool {
        if self.input.len() + bytes.len() > WINDOW as usize {
            return false;
        }
        if self.stdio.sink().is_some() && self.ended.is_none() {
            self.input.extend(bytes);
        }
        true
    }

    /// Writes what stdin holds, as far as the process takes it.
    pub(crate) fn feed(&mut self, channel: &mut Channel) -> Result<(), Failure> {
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
                    return channel.send(&ToHost::StdinClosed(self.number));
                }
                Err(errno) => return Err(Failure::system("write the process's input", errno)),
            }
        }
        // Half a window at a time, so that a short stdin costs no message at all.
        if self.uncredited >= WINDOW / 2 {
            channel.send(&ToHost::StdinCredit(self.number, self.uncredited))?;
            self.uncredited = 0;
        }
        self.close_input();
        Ok(())
    }

    /// The host has sent stdin's end.
    pub(crate) fn end_input(&mut self) {
        self.input_ended = true;
        self.close_input();
    }

    /// Passes the end of stdin on, once everything before it has been read.
    fn close_input(&mut self) {
        if self.input_ended && self.input.is_empty() {
            self.stdio.input = None;
        }
    }

    /// Takes note that the host has been told of the end.
    pub(crate) fn set_reported(&mut self) {
        self.reported = true;
        self.input.clear();
        self.stdio.input = None;
    }
}
