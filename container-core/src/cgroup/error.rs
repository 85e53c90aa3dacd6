//! What can go wrong with control groups.

use std::path::PathBuf;

use crate::sys::Errno;

/// Why a control group could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of a cgroup could not be read or written, or a directory not be made or removed.
    #[error("{doing} {path}: {errno}")]
    File {
        /// What was tried, such as `write "100" to`.
        doing: String,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel answered.
        errno: Errno,
    },
    /// A file of a cgroup does not hold what it should.
    #[error("{path}: {text:?} is not what the kernel documents for this file")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it held.
        text: String,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
    /// A limit was asked for whose controller this host has not.
    #[error(
        "{field}: this host has no {controller} controller (see /proc/cgroups and cgroup.controllers)"
    )]
    NoController {
        /// The member of the specification.
        field: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// A limit that this version of cgroups does not know.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The member of the specification.
        field: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A limit that cannot be meant.
    #[error("{field}: {reason}")]
    Invalid {
        /// The member of the specification.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The cgroup exists and processes are in it.
    #[error("the cgroup {path} is in use: another container has the same id")]
    InUse {
        /// The cgroup.
        path: PathBuf,
    },
    /// Version 2 lets a cgroup hold processes or hand out controllers, not both.
    #[error(
        "{path} holds processes, so that its controllers cannot be handed to cgroups below it: move them to a cgroup of their own, or run in a delegated cgroup"
    )]
    InternalProcesses {
        /// The cgroup.
        path: PathBuf,
    },
    /// Processes would not die in time.
    #[error("the cgroup {path} could not be removed: processes in it do not end")]
    Undying {
        /// The cgroup.
        path: PathBuf,
    },
    /// The device program was refused.
    #[error("{doing} the device program: {errno}")]
    DeviceProgram {
        /// `load` or `attach`.
        doing: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;
