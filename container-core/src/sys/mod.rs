//! The system calls this crate needs, behind faces that are safe to call.
//!
//! **Invariant:** nothing in this module allocates, takes a lock or panics. The container's process runs on
//! these functions between `clone3` and `execve`, as a copy of a process that may have had other threads: a lock
//! that one of them held would stay locked for ever in the copy. Descriptors are plain numbers here, because the
//! child never gives one back: whatever it opened ends with `execve` (everything is close-on-exec) or with its death.

pub(crate) mod clone;
pub(crate) mod credentials;
pub(crate) mod file;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod socket;
pub(crate) mod tty;

use std::ffi::CStr;
use std::fmt;

/// A descriptor in code that cannot own it (see the module's invariant).
pub(crate) type Fd = libc::c_int;

/// The descriptor of an owned handle, for calls that only look at it.
pub(crate) fn raw(fd: &impl std::os::fd::AsRawFd) -> Fd {
    fd.as_raw_fd()
}

/// A kernel error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// What the last failed call of this thread left behind.
    pub(crate) fn last() -> Self {
        // SAFETY: the location is this thread's own and always valid.
        Self(unsafe { *libc::__errno_location() })
    }

    /// Writes the kernel's name for the error, as strerror(3) has it, without its capital.
    fn describe(self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 128];
        // SAFETY: the buffer is writable for the length passed; the XSI variant (libc's binding) terminates it.
        let failed = unsafe { libc::strerror_r(self.0, text.as_mut_ptr().cast(), text.len()) };
        let text = CStr::from_bytes_until_nul(&text)
            .ok()
            .and_then(|text| text.to_str().ok());
        match text {
            Some(text) if failed == 0 && text.len() > 1 => {
                let (first, rest) = text.split_at(1);
                // "RPC struct is bad", "Is a directory": an acronym keeps its capitals.
                if rest.starts_with(char::is_uppercase) {
                    out.write_str(text)
                } else {
                    write!(out, "{}{rest}", first.to_ascii_lowercase())
                }
            }
            _ => write!(out, "error {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(out)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.0, self)
    }
}

impl std::error::Error for Errno {}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// The result of a system call.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// Turns the C library's −1 into the error it stands for.
pub(crate) fn check(returned: libc::c_long) -> Result<libc::c_long> {
    if returned < 0 {
        Err(Errno::last())
    } else {
        Ok(returned)
    }
}

/// The same for calls whose result is an `int`.
pub(crate) fn check_int(returned: libc::c_int) -> Result<libc::c_int> {
    if returned < 0 {
        Err(Errno::last())
    } else {
        Ok(returned)
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is ours to write; the clock exists on every kernel.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_the_rest_of_a_sentence() {
        assert_eq!(Errno(libc::ENOENT).to_string(), "no such file or directory");
        assert_eq!(Errno(libc::EISDIR).to_string(), "is a directory");
        assert_eq!(Errno(libc::EPERM).to_string(), "operation not permitted");
    }

    #[test]
    fn the_clock_does_not_run_backwards() {
        let first = monotonic();
        assert!(first > 0 && monotonic() >= first);
    }
}
