//! Taking a mount namespace down without waiting for it.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::{self, clone, file, process, ring};

/// A process that takes a namespace down. Dropping this waits until it has let go of this process's descriptors.
pub(crate) struct Lingering {
    told: OwnedFd,
}

/// Has somebody else take a namespace down, whose last reference pays for its end: a worker of the kernel, or, where
/// io_uring is turned off, a process of its own.
pub(crate) fn leave(namespace: OwnedFd) -> Option<Lingering> {
    let kept = namespace.try_clone().ok()?;
    match ring::drop_later(namespace) {
        Ok(()) => {
            // Not the last reference: it costs nothing.
            drop(kept);
            None
        }
        Err(_) => leave_to_process(kept),
    }
}

/// The same by a process. It holds nothing but the reference, and drops it by ending. It lets go of every other
/// descriptor first, so that a reader of this process's output does not wait for it. `None`: no process could be made,
/// and the caller has paid.
fn leave_to_process(namespace: OwnedFd) -> Option<Lingering> {
    let mut ends = [-1; 2];
    // SAFETY: the array holds the two descriptors the call writes.
    sys::check_int(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }).ok()?;
    // SAFETY: the call above made both descriptors, and nobody else knows them.
    let [told, tells] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    // A signal to the launcher's group must not reach the copy before it has left the group.
    let mask = process::block_signals();
    // SAFETY: the child calls functions of `sys` only, which neither allocate nor lock.
    let child = unsafe {
        clone::clone3(0, None, 0, || {
            linger(namespace.as_raw_fd(), tells.as_raw_fd())
        })
    };
    process::restore_signals(&mask);
    child.ok().map(|_| Lingering { told })
}

impl Drop for Lingering {
    fn drop(&mut self) {
        // One byte when the process has let go, or the end of the pipe when it has died.
        let _ = file::read(self.told.as_raw_fd(), &mut [0]);
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;

    /// Whether the other end of a pipe, whose writing end was left to somebody, is closed soon.
    fn is_dropped_soon(leave: impl FnOnce(OwnedFd) -> Option<Lingering>) -> bool {
        let (mut read, write) = std::io::pipe().unwrap();
        let lingering = leave(write.into());
        drop(lingering);
        let started = Instant::now();
        // A pipe that nobody can write to any more reads as ended.
        let reader = std::thread::spawn(move || read.read(&mut [0]).unwrap());
        while !reader.is_finished() {
            if started.elapsed() > Duration::from_secs(10) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        reader.join().unwrap() == 0
    }

    #[test]
    fn a_descriptor_left_to_the_kernel_is_dropped() {
        assert!(is_dropped_soon(|fd| match ring::drop_later(fd) {
            Ok(()) => None,
            Err(errno) => {
                eprintln!("skipped: io_uring_setup says {errno}");
                None
            }
        }));
    }

    #[test]
    fn a_descriptor_left_to_a_process_is_dropped() {
        assert!(is_dropped_soon(leave_to_process));
    }

    #[test]
    fn a_descriptor_left_to_whoever_can_is_dropped() {
        assert!(is_dropped_soon(leave));
    }
}
