//! The thread that carries a running machine: everything between the guest and the caller's descriptors goes through it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use guest_protocol::{
    Channel, Exited, MAIN, MAX_DATA, MAX_PROCESSES, MAX_PROGRAMS, ToGuest, ToHost,
};

use crate::{End, monotonic_now};

use super::SessionError;
use super::handle::{Command, ExecRequest, Shared, StdioFds, Teller};
use super::process::{Phase, Process, exit};
use super::wire::{Wire, watch};

/// How long the guest has to power off once it has said that its work is done. Nothing is lost when it has not by then.
const POWER_OFF: Duration = Duration::from_secs(3);

/// How long the readers of the other processes' output may take when the main process has ended.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct Carrier {
    wire: Wire,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    /// The main process's, in a machine without one: otherwise it is with that process.
    work: Option<Teller>,
    processes: BTreeMap<Channel, Process>,
    /// The number of the next process.
    next: Channel,
    /// The programs that the guest has, or is about to get, by their numbers.
    programs: Vec<&'static [u8]>,
    /// What is sent as soon as the channel has room for it, in this order.
    waiting: VecDeque<Waiting>,
    /// The main process's end, and by when all output must be written.
    over: Option<(Exited, u64, Instant)>,
    polls: Vec<libc::pollfd>,
    /// What the entries of `polls` after the first are for.
    places: Vec<(Channel, Place)>,
}

enum Waiting {
    Program(u32, &'static [u8]),
    Exec(Channel, Box<guest_protocol::Exec>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Input,
    Output(usize),
}

impl Carrier {
    /// Carries a machine with a main process, or one that is there for other processes only.
    pub(super) fn new(
        wire: Wire,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        teller: Teller,
        main: Option<StdioFds>,
    ) -> Self {
        let mut carrier = Self {
            wire,
            shared,
            commands,
            work: None,
            processes: BTreeMap::new(),
            next: MAIN + 1,
            programs: Vec::new(),
            waiting: VecDeque::new(),
            over: None,
            polls: Vec::new(),
            places: Vec::new(),
        };
        match main {
            Some(stdio) => {
                let process = Process::new(MAIN, Phase::Running, stdio, teller);
                carrier.processes.insert(MAIN, process);
            }
            None => carrier.work = Some(teller),
        }
        carrier
    }

    /// Carries everything until the machine has ended, and says how it did.
    pub(super) fn run(mut self) -> crate::Result<End> {
        match self.carry() {
            Ok(()) => self.wire.end(POWER_OFF),
            Err(error) => {
                // Whoever learns of the failure finds the machine gone.
                let ended = self.wire.end(Duration::ZERO);
                for (_, process) in std::mem::take(&mut self.processes) {
                    process.fail(error.clone());
                }
                if let Some(work) = self.work.take() {
                    work.ended(Err(error));
                }
                ended
            }
        }
    }

    /// Carries everything until the main process has ended and what it wrote is written.
    fn carry(&mut self) -> Result<(), SessionError> {
        loop {
            self.hear()?;
            self.tell_ended();
            if self.over.is_some() && self.processes.is_empty() {
                if let (Some(work), Some((exited, received, _))) = (self.work.take(), self.over) {
                    work.ended(Ok(exit(exited, received, Vec::new())));
                }
                return Ok(());
            }
            self.step()?;
        }
    }

    /// Tells of the processes that are done with.
    fn tell_ended(&mut self) {
        let late = self
            .over
            .is_some_and(|(_, _, until)| Instant::now() >= until);
        let is_done =
            |channel: &Channel, process: &Process| process.is_done() || (late && *channel != MAIN);
        if self
            .processes
            .iter()
            .any(|(channel, process)| is_done(channel, process))
        {
            let done = self
                .processes
                .extract_if(.., |channel, process| is_done(channel, process));
            done.for_each(|(_, process)| process.tell());
        }
    }

    /// Waits until something can go on, and carries it.
    fn step(&mut self) -> Result<(), SessionError> {
        self.send_waiting()?;
        self.wire.begin(&mut self.polls, self.over.is_none())?;
        let own = self.polls.len();
        self.polls
            .push(watch(&self.shared.wake.as_fd(), libc::POLLIN));
        self.places.clear();
        let room = self.wire.unsent() < MAX_DATA;
        for (channel, process) in &self.processes {
            if let Some(input) = &process.input
                && room
                && process.wants_input()
            {
                self.polls.push(input.watch());
                self.places.push((*channel, Place::Input));
            }
            for (index, output) in process.outputs.iter().enumerate() {
                if !output.is_clear() {
                    self.polls.push(output.watch());
                    self.places.push((*channel, Place::Output(index)));
                }
            }
        }
        let until = self
            .over
            .map(|(_, _, until)| until)
            .filter(|until| *until > Instant::now());
        let woken = self.wire.wait(&mut self.polls, until)?;
        let ready = |place: usize| {
            self.polls
                .get(own + place)
                .is_some_and(|poll| poll.revents != 0)
        };
        for (number, (channel, place)) in self.places.iter().enumerate() {
            let Some(process) = self
                .processes
                .get_mut(channel)
                .filter(|_| ready(1 + number))
            else {
                continue;
            };
            match *place {
                Place::Input => process.read_input(&mut self.wire.outgoing),
                Place::Output(index) => process.drain(index, &mut self.wire.outgoing),
            }
        }
        if ready(0) {
            self.shared.wake.hush();
            self.obey();
        }
        if self.over.is_none() && !self.wire.decoder.ready()? {
            if woken.ended {
                return Err(self.wire.ended());
            }
            if self.wire.is_closed() {
                return Err(self.wire.closed());
            }
        }
        Ok(())
    }

    /// Sends programs and what runs them, a frame at a time, so that nothing else waits long behind them.
    fn send_waiting(&mut self) -> Result<(), SessionError> {
        while self.wire.unsent() < MAX_DATA
            && let Some(first) = self.waiting.pop_front()
        {
            match first {
                Waiting::Program(number, bytes) => {
                    let (piece, rest) = bytes.split_at(bytes.len().min(MAX_DATA));
                    if !rest.is_empty() {
                        self.waiting.push_front(Waiting::Program(number, rest));
                    }
                    self.wire.send(&ToGuest::Program(number, piece))?;
                }
                Waiting::Exec(channel, exec) => self.wire.send(&ToGuest::Exec(channel, exec))?,
            }
        }
        Ok(())
    }

    /// Does what the handles have asked for.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Exec {
                    request,
                    stdio,
                    teller,
                } => self.execute(*request, stdio, teller),
                Command::Signal(channel, signal) => {
                    ToGuest::Signal(channel, signal).encode(&mut self.wire.outgoing);
                }
                Command::Resize(channel, size) => {
                    ToGuest::Resize(channel, size).encode(&mut self.wire.outgoing);
                }
                Command::Shutdown => ToGuest::Shutdown.encode(&mut self.wire.outgoing),
            }
        }
    }

    fn execute(&mut self, request: ExecRequest, stdio: StdioFds, teller: Teller) {
        if self.over.is_some() {
            return teller.ended(Err(SessionError::Over));
        }
        let program = request.program.map(|bytes| self.program(bytes));
        let (Some(next), false, Ok(program)) = (
            self.next.checked_add(1),
            self.processes.len() >= MAX_PROCESSES,
            program.transpose(),
        ) else {
            return teller.ended(Err(SessionError::TooMany));
        };
        let channel = std::mem::replace(&mut self.next, next);
        let exec = guest_protocol::Exec {
            process: request.process,
            program,
            upper: request.upper,
        };
        self.waiting
            .push_back(Waiting::Exec(channel, Box::new(exec)));
        let process = Process::new(channel, Phase::Starting, stdio, teller);
        self.processes.insert(channel, process);
    }

    /// The number of a program; one that the guest has not got is sent.
    fn program(&mut self, bytes: &'static [u8]) -> Result<u32, SessionError> {
        let known = self
            .programs
            .iter()
            .position(|one| std::ptr::eq(*one, bytes) || *one == bytes);
        let number = known.unwrap_or(self.programs.len());
        let number = u32::try_from(number).map_err(|_| SessionError::TooMany)?;
        if number >= MAX_PROGRAMS {
            return Err(SessionError::TooMany);
        }
        if known.is_none() {
            self.programs.push(bytes);
            self.waiting.push_back(Waiting::Program(number, bytes));
        }
        Ok(number)
    }

    /// Takes every whole message that has come.
    fn hear(&mut self) -> Result<(), SessionError> {
        let outgoing = &mut self.wire.outgoing;
        while self.over.is_none()
            && let Some(frame) = self.wire.decoder.next()?
        {
            let message = ToHost::parse(&frame)?;
            let channel = frame.channel;
            let process = self.processes.get_mut(&channel);
            match (message, process.map(|process| (process.phase, process))) {
                (ToHost::Output(_, stream, bytes), Some((Phase::Running, process))) => {
                    if !process.take(stream, bytes, outgoing) {
                        return Err(SessionError::Flood);
                    }
                }
                (ToHost::StdinCredit(_, bytes), Some((Phase::Running, process))) => {
                    process.grant(bytes);
                }
                (ToHost::StdinClosed(_), Some((Phase::Running, process))) => process.input = None,
                (ToHost::Started(..), Some((Phase::Starting, process))) => {
                    process.started(outgoing)
                }
                (ToHost::Failed(MAIN, failed), _) => return Err(SessionError::failed(failed)),
                (ToHost::Failed(_, failed), Some((Phase::Starting | Phase::Running, _))) => {
                    if let Some(process) = self.processes.remove(&channel) {
                        process.fail(SessionError::failed(failed));
                    }
                }
                (ToHost::Exited(MAIN, exited), Some((Phase::Running, process))) => {
                    let received = monotonic_now();
                    process.exited(exited, received);
                    self.over = Some((exited, received, Instant::now() + LINGER));
                }
                (ToHost::Exited(MAIN, exited), None) if self.work.is_some() => {
                    self.over = Some((exited, monotonic_now(), Instant::now() + LINGER));
                }
                (ToHost::Exited(_, exited), Some((Phase::Running, process))) => {
                    process.exited(exited, monotonic_now());
                }
                (message @ (ToHost::Hello(_) | ToHost::Prepared(_)), _) => {
                    return Err(SessionError::unexpected(&message, "while the machine ran"));
                }
                (message, _) => return Err(SessionError::unknown(&message, channel)),
            }
        }
        if let Some((exited, received, _)) = self.over {
            for process in self.processes.values_mut() {
                process.ended_with_main(exited, received);
            }
        }
        Ok(())
    }
}
