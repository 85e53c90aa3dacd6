//! Signals of the command, read as events instead of taken as interruptions.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// What `--sig-proxy` passes on: everything that can be caught and is not about this process itself.
///
/// Left out, as docker leaves them out: CHLD and PIPE, URG; and those that report this process's own faults.
const PROXIED: [Signal; 13] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGPWR,
    Signal::SIGWINCH,
];

/// A descriptor that becomes readable when a signal has come.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks the proxied signals in this thread (call it before anything forks or starts threads) and opens the
    /// descriptor.
    pub(crate) fn block() -> Result<Self> {
        let set: SigSet = PROXIED.into_iter().collect();
        let system = |action| {
            move |e: nix::Error| Error::System {
                action,
                source: e.into(),
            }
        };
        set.thread_block().map_err(system("block signals"))?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(system("open a signal descriptor"))?;
        Ok(Self { descriptor })
    }

    /// The next signal's number, if one has come.
    pub(crate) fn next(&self) -> Option<i32> {
        let info = self.descriptor.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_from_the_descriptor() {
        // A thread of its own: the mask is a thread's, and the signal is sent to that thread.
        std::thread::spawn(|| {
            let signals = Signals::block().unwrap();
            assert_eq!(signals.next(), None);
            nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
            assert_eq!(signals.next(), Some(Signal::SIGUSR1 as i32));
        })
        .join()
        .unwrap();
    }
}
