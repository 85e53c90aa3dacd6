//! The container's process as PID 1: it reaps, and passes signals on to the command.

use super::Setup;
use super::report::{At, Outcome, Step};
use crate::sys::process::{self, Ended};
use crate::sys::{Errno, Fd, clone, file, tty};

/// What ps(1) shows in place of the launcher's name.
const NAME: &std::ffi::CStr = c"plimsoll-init";

impl Setup<'_> {
    /// Splits in two: this process stays and never returns, the copy goes on to execute the command.
    ///
    /// The one that stays has the rights and the filter of the command. It is not dumpable, for its memory is a copy of the
    /// launcher's, and keeps nothing open but the standard streams, as an init of its own file would.
    pub(super) fn stay_as_init(&self) -> Outcome<()> {
        let command = clone::fork().at(Step::Init)?;
        if command == 0 {
            // A group of its own, in the foreground where there is a terminal: what is typed there is for the command.
            process::new_group().at(Step::Init)?;
            // Refused where standard input is no terminal.
            let _ = tty::take_foreground(0);
            process::unblock_signals();
            return Ok(());
        }
        let _ = file::close_range(3, Fd::MAX);
        process::set_name(NAME);
        serve(command)
    }
}

/// Lives until the command has ended, and ends as it did.
fn serve(command: libc::pid_t) -> ! {
    loop {
        match process::take_signal() {
            Ok(libc::SIGCHLD) => {
                // One signal may stand for several that have ended.
                while let Ok(Some((pid, ended))) = process::reap() {
                    if pid == command {
                        process::exit(match ended {
                            Ended::Exited(code) => code,
                            Ended::Signaled(signal) => 128 + signal,
                        });
                    }
                }
            }
            Ok(signal) => {
                // It may have ended already, which SIGCHLD tells.
                let _ = process::kill(command, signal);
            }
            Err(Errno(libc::EINTR)) => {}
            // Forbidden by the container's filter: what is left is to wait.
            Err(_) => process::exit(125),
        }
    }
}
