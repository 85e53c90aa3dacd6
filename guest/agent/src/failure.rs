//! Why the process could not be started, in a sentence.

use alloc::format;
use alloc::string::String;
use core::fmt::Display;

use guest_protocol::{Failed, FailureKind};

use crate::sys::{self, Errno};

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What Start asked for makes no sense.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Config, message)
    }

    /// A system call failed: "cannot WHAT: WHY".
    pub(crate) fn system(what: impl Display, errno: Errno) -> Self {
        Self::new(FailureKind::System, format!("cannot {what}: {errno}"))
    }

    pub(crate) fn into_message(self) -> Failed {
        Failed {
            kind: self.kind,
            message: self.message,
        }
    }
}

/// Says what a system call was for, when it fails.
pub(crate) trait Context<T> {
    fn or_fail<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T> Context<T> for sys::Result<T> {
    fn or_fail<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|errno| Failure::system(what(), errno))
    }
}
