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

/// The number of a signal by its name (`TERM`, `SIGTERM`, `RTMIN+3`) or by its number.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, rest: &str| -> Option<i32> {
        let offset: i32 = if rest.is_empty() {
            0
        } else {
            rest.parse().ok()?
        };
        let number = base + offset;
        (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .contains(&number)
            .then_some(number)
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(libc::SIGRTMIN(), rest);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(libc::SIGRTMAX(), rest);
    }
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        other => other,
    };
    format!("SIG{name}")
        .parse::<Signal>()
        .ok()
        .map(|signal| signal as i32)
}

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
        set.thread_block().map_err(failed("block signals"))?;
        Self::open(&set)
    }

    fn open(set: &SigSet) -> Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor =
            SignalFd::with_flags(set, flags).map_err(failed("open a signal descriptor"))?;
        Ok(Self { descriptor })
    }

    /// Blocks these signals and no others in this thread, and opens the descriptor.
    pub(crate) fn only(signals: &[Signal]) -> Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_set_mask().map_err(failed("block signals"))?;
        Self::open(&set)
    }

    /// The descriptor, to poll.
    pub(crate) fn number(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.descriptor.as_fd())
    }

    /// The next signal's number, if one has come.
    pub(crate) fn next(&self) -> Option<i32> {
        let info = self.descriptor.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok()
    }
}

fn failed(action: &'static str) -> impl Fn(nix::Error) -> Error {
    move |e| Error::System {
        action,
        source: e.into(),
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
    fn signals_are_known_by_name_and_number() {
        for (text, expected) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
            ("RTMAX-1", libc::SIGRTMAX() - 1),
            ("CLD", libc::SIGCHLD),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "0", "65", "-1", "NOPE", "SIG", "RTMIN+99"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

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
