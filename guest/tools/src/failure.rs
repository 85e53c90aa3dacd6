//! Why a command came to nothing, in a sentence.

use alloc::format;
use alloc::string::String;

use guest_freestanding::errno;
use rustix::io::Errno;

/// The exit code when something went wrong.
pub const FAILED: i32 = 1;
/// The exit code when the path that was named is not there.
pub const NOT_FOUND: i32 = 2;

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) code: i32,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: FAILED,
        }
    }

    /// "cannot WHAT PATH: WHY".
    pub(crate) fn at(what: &str, path: &[u8], error: Errno) -> Self {
        let why = errno::describe(error.raw_os_error());
        let path = String::from_utf8_lossy(path);
        Self::new(format!("cannot {what} {path}: {why}"))
    }

    /// As [`Failure::at`] of the path that the command was given.
    pub(crate) fn at_named(what: &str, path: &[u8], error: Errno) -> Self {
        let mut failure = Self::at(what, path, error);
        if matches!(error, Errno::NOENT | Errno::NOTDIR) {
            failure.code = NOT_FOUND;
        }
        failure
    }
}
