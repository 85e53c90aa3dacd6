//! Taking a mount namespace down without waiting for it.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::{self, clone, file, process};

/// Has a process of its own take a namespace down.
///
/// The last reference to a mount namespace pays for its end. The process made here holds nothing but that reference,
/// and drops it by ending. It has let go of every other descriptor when this returns, so that a reader of this
/// process's output does not wait for it. Where no process can be made, the caller pays.
pub(crate) fn leave(namespace: OwnedFd) {
    let mut ends = [-1; 2];
    // SAFETY: the array holds the two descriptors the call writes.
    if sys::check_int(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }).is_err() {
        return;
    }
    // SAFETY: the call above made both descriptors, and nobody else knows them.
    let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    // A signal to the launcher's group must not reach the copy before it is rid of the launcher's terminal.
    let mask = process::block_signals();
    // SAFETY: the child calls functions of `sys` only, which neither allocate nor lock.
    let child = unsafe {
        clone::clone3(0, None, 0, || {
            linger(namespace.as_raw_fd(), write.as_raw_fd())
        })
    };
    process::restore_signals(&mask);
    drop(write);
    if child.is_ok() {
        // One byte when the child has let go, or the end of the pipe when it has died.
        let _ = file::read(read.as_raw_fd(), &mut [0]);
    }
}

/// The life of that process.
fn linger(namespace: sys::Fd, told: sys::Fd) -> Infallible {
    // Both out of the way of the places they go to.
    let moved = file::dup_above(namespace, 2)
        .and_then(|namespace| Ok((namespace, file::dup_above(told, 2)?)));
    if let Ok((namespace, told)) = moved {
        let _ = file::dup2(namespace, 0);
        let _ = file::dup2(told, 1);
        let _ = file::close_range(2, i32::MAX);
        let _ = process::new_session();
        let _ = file::write(1, &[1]);
    }
    process::exit(0)
}
