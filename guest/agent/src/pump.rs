//! Carries stdio, signals and window sizes of all processes, and makes further ones, until the work has ended and its output
//! is with the host.

use alloc::format;
use alloc::vec::Vec;

use guest_protocol::{Channel as Number, Exec, MAIN, MAX_PROCESSES, Started, ToGuest, ToHost};

use crate::channel::{Channel, Taken};
use crate::failure::{Context, Failure};
use crate::launch::{self, Launched, Role};
use crate::programs::{Programs, raised};
use crate::rootfs::Root;
use crate::running::{INPUT, OUTPUTS, PROCESS, Running, STREAMS, WATCHED};
use crate::sys::file::{self, Poll};
use crate::sys::process;

pub(crate) use crate::running::End;

pub(crate) struct Pump<'a> {
    channel: &'a mut Channel,
    root: &'a Root,
    /// In the order in which they were made: the main process, where there is one, is the first and never taken out.
    running: Vec<Running>,
    programs: Programs,
    /// There is a main process, and the work ends with it. Without one it ends with Shutdown.
    main: bool,
    /// Further processes are made in the main process's PID namespace.
    joined: bool,
    /// Shutdown has come.
    closing: bool,
    polls: Vec<Poll>,
    /// Whose output is looked at first, so that one that floods leaves the others their turn.
    turn: usize,
}

impl<'a> Pump<'a> {
    pub(crate) fn new(channel: &'a mut Channel, root: &'a Root, main: Option<Launched>) -> Self {
        Self {
            channel,
            root,
            main: main.is_some(),
            running: main
                .into_iter()
                .map(|process| Running::new(MAIN, process))
                .collect(),
            programs: Programs::default(),
            joined: false,
            closing: false,
            polls: Vec::new(),
            turn: 0,
        }
    }

    /// Carries everything until the work has ended and all that was written has been sent.
    pub(crate) fn run(mut self) -> Result<End, Failure> {
        loop {
            self.report()?;
            if let Some(end) = self.end() {
                return Ok(end);
            }
            self.step()?;
        }
    }

    /// How the work ended, once it has. The main process was PID 1 of its namespace, so nothing that could write is left when
    /// it has ended, and both its streams come to their ends. Its exit is the last.
    fn end(&mut self) -> Option<End> {
        let further = usize::from(self.main);
        if !self.running.iter().skip(further).all(|one| one.reported) {
            return None;
        }
        if !self.main {
            return self.closing.then(End::of_maintenance);
        }
        let main = self.running.first_mut()?;
        if main.silent() { main.take_end() } else { None }
    }

    /// Tells the host of the further processes that have ended. Once the main process has, what the host does not take of
    /// their output is lost: nobody who is slow to read it may keep the machine from its end.
    fn report(&mut self) -> Result<(), Failure> {
        let further = usize::from(self.main);
        let over = self.main
            && self
                .running
                .first()
                .is_some_and(|main| main.end().is_some());
        for process in self.running.iter_mut().skip(further) {
            if process.reported || process.end().is_none() {
                continue;
            }
            let drained = process.drain(self.channel)?;
            let given_up = over && self.channel.clear();
            if !drained && !given_up {
                continue;
            }
            if let Some(end) = process.end() {
                let exited = ToHost::Exited(process.number, end.now());
                self.channel.send(&exited)?;
            }
            process.set_reported();
        }
        self.running
            .retain(|one| one.number == MAIN || !(one.reported && one.silent()));
        Ok(())
    }

    /// Waits for whatever can go on, and does it.
    fn step(&mut self) -> Result<(), Failure> {
        let room = self.channel.clear();
        self.polls.clear();
        self.polls.push(self.channel.watch());
        for process in &self.running {
            self.polls.extend(process.watch(room));
        }
        file::poll(&mut self.polls).or_fail(|| "wait for the processes")?;
        let count = self.running.len();
        let first = self.turn;
        self.turn = self.turn.wrapping_add(1);
        // What was polled for is dealt with before the host's messages, which may change who runs.
        for offset in 0..count {
            let index = first.wrapping_add(offset) % count;
            self.carry(index)?;
        }
        if self.polls.first().is_some_and(|poll| poll.revents != 0) {
            self.channel.flush()?;
            self.hear()?;
        }
        Ok(())
    }

    /// Does what poll has said can be done for a process.
    fn carry(&mut self, index: usize) -> Result<(), Failure> {
        let at = 1 + index * WATCHED;
        let (Some(process), Some(polls)) = (
            self.running.get_mut(index),
            self.polls.get(at..at + WATCHED),
        ) else {
            return Ok(());
        };
        let ready = |place: usize| polls.get(place).is_some_and(|poll| poll.revents != 0);
        for (place, stream) in OUTPUTS.into_iter().zip(STREAMS) {
            if ready(place) && process.reported {
                process.discard(stream);
            } else if ready(place) {
                process.forward(stream, self.channel)?;
            }
        }
        if ready(INPUT) {
            process.feed(self.channel)?;
        }
        if ready(PROCESS) {
            process.reap().or_fail(|| "wait for a process")?;
        }
        Ok(())
    }

    /// Obeys what the host has sent. What is meant for a process that has ended meanwhile is passed over.
    fn hear(&mut self) -> Result<(), Failure> {
        loop {
            match self.channel.take()? {
                Taken::Nothing => {}
                // Whatever ran the machine is gone, and the machine goes with it.
                Taken::HostGone | Taken::Message(ToGuest::Shutdown) => self.shut_down()?,
                Taken::Message(ToGuest::Start(_) | ToGuest::Prepare(_)) => {
                    return Err(Failure::config("the host sent Start twice"));
                }
                Taken::Message(ToGuest::Program(number, bytes)) => {
                    self.programs.add(number, bytes)?;
                }
                Taken::Message(ToGuest::Exec(number, exec)) => self.execute(number, &exec)?,
                Taken::Message(ToGuest::Stdin(number, bytes)) => {
                    if let Some(process) = find(&mut self.running, number) {
                        if !process.take_input(bytes) {
                            return Err(Failure::config(
                                "the host sent more stdin than there is room for",
                            ));
                        }
                        process.feed(self.channel)?;
                    }
                }
                Taken::Message(ToGuest::StdinEof(number)) => {
                    if let Some(process) = find(&mut self.running, number) {
                        process.end_input();
                    }
                }
                Taken::Message(ToGuest::Resize(number, size)) => {
                    if let Some(process) = find(&mut self.running, number) {
                        process.resize(size).or_fail(|| "resize a terminal")?;
                    }
                }
                Taken::Message(ToGuest::Signal(number, signal)) => {
                    if let Some(process) = find(&mut self.running, number) {
                        process
                            .signal(i32::from(signal))
                            .or_fail(|| "signal a process")?;
                    }
                }
                Taken::Message(ToGuest::OutputCredit(number, stream, bytes)) => {
                    if let Some(process) = find(&mut self.running, number) {
                        process.grant(stream, bytes);
                    }
                }
                Taken::Message(ToGuest::OutputClosed(number, stream)) => {
                    // A terminal is also where input goes; only its output is of no use now, and hanging it up is what
                    // happens to a terminal that nobody looks at.
                    if let Some(process) = find(&mut self.running, number) {
                        process.stdio.close(stream);
                    }
                }
            }
            if !self.channel.holds_message() {
                return Ok(());
            }
        }
    }

    /// Makes a further process, or tells the host why it cannot be made.
    fn execute(&mut self, number: Number, exec: &Exec) -> Result<(), Failure> {
        match self.make(number, exec) {
            Ok((process, started)) => {
                self.running.push(process);
                self.channel.send(&ToHost::Started(number, started))
            }
            Err(failure) => self
                .channel
                .send(&ToHost::Failed(number, failure.into_message())),
        }
    }

    fn make(&mut self, number: Number, exec: &Exec) -> Result<(Running, Started), Failure> {
        if self.closing {
            return Err(Failure::config("the machine is about to end"));
        }
        if self.running.len() >= MAX_PROCESSES {
            // The streams of one that has ended are the least to lose.
            let Some(place) = self.running.iter().position(|one| one.reported) else {
                return Err(Failure::config(format!(
                    "{MAX_PROCESSES} processes run already"
                )));
            };
            self.running.remove(place);
        }
        let program = exec
            .program
            .map(|program| self.programs.get(program))
            .transpose()?;
        let upper = exec
            .upper
            .then(|| self.root.upper().and_then(raised))
            .transpose()?;
        if let (Some(main), false) = (self.running.first(), self.joined || !self.main) {
            main.join_namespace()
                .or_fail(|| "join the main process's PID namespace")?;
            self.joined = true;
        }
        let role = Role::Further {
            program,
            upper: upper.as_ref(),
        };
        let (launched, started) = launch::launch(&exec.process, role)?;
        Ok((Running::new(number, launched), started))
    }

    /// Kills every process: with the main process goes its PID namespace.
    fn shut_down(&mut self) -> Result<(), Failure> {
        self.closing = true;
        match self.running.first() {
            Some(main) if self.main => main.signal(libc::SIGKILL),
            _ => process::kill_all(),
        }
        .or_fail(|| "kill the processes")
    }
}

/// The process on this channel that the host has not been told the end of.
fn find(running: &mut [Running], number: Number) -> Option<&mut Running> {
    running
        .iter_mut()
        .find(|one| one.number == number && !one.reported)
}

#[cfg(test)]
mod tests;
