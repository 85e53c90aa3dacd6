//! How a virtual CPU's thread is brought out of the guest: a signal whose handler tells KVM not to enter again.

use std::cell::Cell;
use std::ptr;

use libc::c_int;

use crate::{Error, Result};

thread_local! {
    /// KVM's `immediate_exit` of the virtual CPU that this thread runs, or null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal: a real-time one, which nothing else here uses.
fn signal() -> c_int {
    libc::SIGRTMIN()
}

extern "C" fn handle(_: c_int) {
    // The signal may come between the last look at whether to stop and KVM_RUN; this byte makes that KVM_RUN return at
    // once, so that no kick is lost.
    let exit = IMMEDIATE_EXIT.get();
    if !exit.is_null() {
        // SAFETY: the thread that runs this set the pointer to a byte of its virtual CPU's mapping, and takes it back
        // before the mapping goes (see `Guard`). Nothing else writes the byte while the thread runs the virtual CPU.
        unsafe { exit.write_volatile(1) };
    }
}

/// Installs the handler for the process.
pub(super) fn install() -> Result<()> {
    // SAFETY: a sigaction of zeros has no flags and an empty mask; the handler is set below. Without SA_RESTART the
    // signal interrupts KVM_RUN.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    // SAFETY: `action` is initialized, and its handler does only what a handler may: it writes to a thread-local without
    // destructor, which a statically linked program has without allocation.
    match unsafe { libc::sigaction(signal(), &action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(
            Error::system("install the handler that stops virtual CPUs")(
                std::io::Error::last_os_error(),
            ),
        ),
    }
}

/// While this lives, a kick of the current thread makes the virtual CPU leave the guest.
pub(super) struct Guard(());

impl Guard {
    /// # Safety
    /// `immediate_exit` must be that byte of the `kvm_run` of a virtual CPU which only this thread runs, and must stay
    /// mapped as long as the guard lives.
    pub(super) unsafe fn new(immediate_exit: *mut u8) -> Self {
        IMMEDIATE_EXIT.set(immediate_exit);
        Self(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// Kicks a thread of this process that has not been joined yet.
pub(super) fn kick(thread: libc::pthread_t) {
    // SAFETY: the caller holds the thread's join handle, so the id is still the thread's. An ended thread is no error.
    unsafe { libc::pthread_kill(thread, signal()) };
}
