//! A command that is connected to the supervisor.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use super::protocol::{Link, Packet, Reply, Request, WINDOW};
use super::sink::{Outlet, Sink};
use super::{Polls, Starter};
use crate::backend::Beside;
use crate::logs::Stream;

pub(super) struct Client {
    link: Link,
    outlets: [Outlet; 2],
    /// Bytes for the instance's standard input.
    input: VecDeque<u8>,
    input_ended: bool,
    sends_input: bool,
    /// Passed on and not yet told.
    owed: u32,
    /// It wants to know of the end.
    waits: bool,
    /// It started the instance, and hears first whether that worked.
    starts: bool,
    /// It leaves as soon as what it was promised is written.
    leaving: bool,
    gone: bool,
    /// The process that it has asked for, beside the first one.
    process: Option<Box<dyn Beside>>,
    buffer: Vec<u8>,
}

impl Client {
    fn new(link: Link) -> Self {
        Self {
            link,
            outlets: [Outlet::Closed, Outlet::Closed],
            input: VecDeque::new(),
            input_ended: false,
            sends_input: false,
            owed: 0,
            waits: false,
            starts: false,
            leaving: false,
            gone: false,
            process: None,
            buffer: Vec::new(),
        }
    }

    /// The command that starts the instance.
    pub(super) fn starter(starter: Starter) -> Self {
        Self {
            outlets: starter
                .sinks
                .map(|sink| sink.map_or(Outlet::Closed, Outlet::Given)),
            sends_input: starter.stdin,
            waits: true,
            starts: true,
            ..Self::new(starter.link)
        }
    }

    /// A command that has connected.
    pub(super) fn visitor(link: Link) -> Self {
        Self::new(link)
    }

    /// It has the instance's output and nothing to send: that the instance runs changes nothing for it.
    pub(super) fn looks_on(&self) -> bool {
        let has_output = self
            .outlets
            .iter()
            .any(|outlet| !matches!(outlet, Outlet::Closed));
        has_output && !self.sends_input
    }

    /// The instance runs.
    pub(super) fn started(&mut self) {
        if std::mem::take(&mut self.starts) {
            self.tell(&Reply::Started);
        }
    }

    /// Joins the instance's streams.
    pub(super) fn attach(
        &mut self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        descriptors: Vec<OwnedFd>,
    ) {
        let mut descriptors = descriptors.into_iter();
        let mut outlet = |wanted: bool| {
            wanted
                .then(|| descriptors.next())
                .flatten()
                .map_or(Outlet::Closed, Outlet::Given)
        };
        self.outlets = [outlet(stdout), outlet(stderr)];
        self.sends_input = stdin;
        self.input_ended = false;
        self.waits = true;
    }

    /// It waits for the end and for nothing else.
    pub(super) fn watch_end(&mut self) {
        self.waits = true;
    }

    /// It has asked for a process of its own.
    pub(super) fn execute(&mut self, process: Box<dyn Beside>) {
        self.process = Some(process);
    }

    /// The process it has asked for.
    pub(super) fn process(&self) -> Option<&dyn Beside> {
        self.process.as_deref()
    }

    /// Tells it something, unless it does not listen.
    pub(super) fn tell(&self, reply: &Reply) {
        // One that is gone is noticed when it is read from.
        let _ = self.link.offer(reply);
    }

    /// The instance has ended, or could not be started.
    pub(super) fn farewell(&mut self, reply: &Reply, again: bool) {
        if self.process.take().is_some() {
            self.tell(&Reply::Ended {
                code: 137,
                oom_killed: false,
                error: None,
            });
        } else if self.waits {
            self.tell(reply);
        } else if again {
            // What it has come for is not read yet.
            return;
        }
        self.waits = false;
        self.gone = true;
    }

    /// What the instance has written.
    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        if self.leaving {
            return;
        }
        self.outlets[stream as usize].take(bytes);
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        self.outlets.iter().filter_map(Outlet::sink)
    }

    /// Whether the instance must wait for it.
    pub(super) fn is_full(&self) -> bool {
        self.sinks().any(Sink::is_full)
    }

    /// Whether everything it was promised is written.
    pub(super) fn is_clear(&self) -> bool {
        self.sinks().all(Sink::is_clear)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether it has sent input that is not passed on yet.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// No more input comes from it.
    pub(super) fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// It goes, and the instance stays.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// Adds what it waits for.
    pub(super) fn watch(&self, polls: &mut Polls) {
        polls.add(self.link.number(), libc::POLLIN);
        for sink in self.sinks() {
            polls.add_if(!sink.is_clear(), sink.number(), libc::POLLOUT);
        }
        if let Some(process) = &self.process {
            polls.add(process.ended().as_raw_fd(), libc::POLLIN);
        }
    }

    /// The next thing that it asks for.
    pub(super) fn hear(&mut self) -> Option<(Request, Vec<OwnedFd>)> {
        while !self.gone {
            match self.link.receive::<Request>(&mut self.buffer, false) {
                Packet::Message(request, descriptors) => return Some((request, descriptors)),
                Packet::Stdin(bytes) => {
                    // More than was granted comes from no command of ours. What was on its way when nobody read any more
                    // is thrown away.
                    if self.input.len() + bytes.len() > WINDOW {
                        self.gone = true;
                    } else if self.sends_input {
                        self.input.extend(bytes);
                    }
                }
                Packet::Nothing => break,
                Packet::Closed => self.gone = true,
            }
        }
        self.buffer = Vec::new();
        None
    }

    /// Hands its input to the instance; true when that was the last of it.
    pub(super) fn feed(&mut self, to: &OwnedFd) -> bool {
        while !self.input.is_empty() {
            match nix::unistd::write(to, self.input.as_slices().0) {
                Ok(count) => {
                    self.input.drain(..count.min(self.input.len()));
                    self.owed += count as u32;
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => break,
                Err(_) => {
                    self.drop_input();
                    break;
                }
            }
        }
        if self.owed as usize >= WINDOW / 2 {
            self.tell(&Reply::Credit(self.owed));
            self.owed = 0;
        }
        self.sends_input && self.input_ended && self.input.is_empty()
    }

    /// Nobody reads its input.
    pub(super) fn drop_input(&mut self) {
        if std::mem::take(&mut self.sends_input) {
            self.input.clear();
            self.tell(&Reply::StdinClosed);
        }
    }

    /// Writes what waits for it, and sees whether its process has ended and whether it may leave.
    pub(super) fn flush(&mut self) {
        for sink in self.outlets.iter_mut().filter_map(Outlet::sink_mut) {
            sink.drain();
        }
        if self.leaving && self.is_clear() && !self.has_input() {
            self.outlets = [Outlet::Closed, Outlet::Closed];
            self.tell(&Reply::Detached);
            self.waits = false;
            self.gone = true;
        }
        let over = self.process.as_ref().is_some_and(|process| {
            let mut polls = Polls::default();
            let place = polls.add(process.ended().as_raw_fd(), libc::POLLIN);
            polls
                .wait(Some(std::time::Duration::ZERO))
                .is_ok_and(|()| polls.is_ready(place))
        });
        if over && let Some(mut process) = self.process.take() {
            self.tell(&match process.outcome() {
                Ok(ended) => Reply::Ended {
                    code: ended.shell_code(),
                    oom_killed: false,
                    error: None,
                },
                Err(error) => Reply::Failed {
                    code: error.exit_code(),
                    message: error.to_string(),
                },
            });
            self.gone = true;
        }
    }
}
