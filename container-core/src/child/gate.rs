//! Waiting for the word to execute the command.

use super::report::{At, Message, Outcome, Refusal, Step};
use super::{Gate, HERE, Setup};
use crate::sys::{self, Errno, Fd, file, process, socket};

impl Setup<'_> {
    /// Waits until the command shall be executed. From here on, what goes wrong is told to whoever said so.
    pub(super) fn wait_at_gate(&mut self) -> Outcome<()> {
        match self.gate {
            Gate::Open => return Ok(()),
            Gate::Launcher => {
                let signals = process::deadly_signals().at(Step::Launcher)?;
                wait_for(self.socket, signals).at(Step::Launcher)?;
                self.wait().at(Step::Launcher)?;
            }
            Gate::Listener(listener) => {
                self.socket = wait_for_caller(listener).at(Step::Launcher)?;
                file::close(listener);
                self.gate = Gate::Open;
            }
        }
        // From here on, the end of the conversation means that the command is executed.
        Message::Passed.send(self.socket, None).at(Step::Launcher)
    }

    /// Whether there is a command to execute, so that the caller hears of one that is missing before it comes to that.
    pub(super) fn check_command(&self) -> Outcome<()> {
        if self.plan.process.candidates.is_empty() {
            // There is no process to be run yet.
            return Ok(());
        }
        let mut found = Errno(libc::ENOENT);
        for candidate in &self.plan.process.candidates {
            match file::fstatat(HERE, candidate, 0) {
                Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                    found = Errno(libc::EISDIR);
                }
                Ok(stat) if stat.st_mode & 0o111 == 0 => found = Errno(libc::EACCES),
                Ok(_) => return Ok(()),
                Err(Errno(libc::ENOENT)) => {}
                Err(errno) if found == Errno(libc::ENOENT) => found = errno,
                Err(_) => {}
            }
        }
        self.refuse(Refusal::Kernel, found)
    }
}

/// Waits until a descriptor can be read. A signal that would end the command ends the process: as PID 1 of a namespace it
/// would not be ended by the kernel.
fn wait_for(fd: Fd, signals: Fd) -> sys::Result<()> {
    loop {
        let (ready, signalled) = socket::wait_for_either(fd, signals)?;
        if signalled {
            process::exit(128 + process::waiting_signal(signals)?);
        }
        if ready {
            return Ok(());
        }
    }
}

/// The connection of the caller who says the word. One that hangs up without it is none.
fn wait_for_caller(listener: Fd) -> sys::Result<Fd> {
    let signals = process::deadly_signals()?;
    loop {
        wait_for(listener, signals)?;
        let connection = socket::accept(listener)?;
        wait_for(connection, signals)?;
        let mut word = [0_u8; 1];
        if matches!(socket::receive(connection, &mut word), Ok((1.., _))) {
            file::close(signals);
            return Ok(connection);
        }
        file::close(connection);
    }
}
