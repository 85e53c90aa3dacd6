//! Ctrl-c: what was started ends, and what was measured is kept.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signal that has come; 0: none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: libc::c_int) {
    SIGNAL.store(signal, Ordering::Relaxed);
}

/// From here on, signals that ask this program to end are only noted.
pub(super) fn watch() {
    let action = SigAction::new(
        SigHandler::Handler(on_signal),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores a number, which is safe in a handler.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// The signal that asked for the end, if one has.
pub(super) fn signal() -> Option<i32> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// An error if one has.
pub(super) fn check() -> anyhow::Result<()> {
    match signal() {
        None => Ok(()),
        Some(_) => anyhow::bail!("interrupted"),
    }
}
