//! What can go wrong between a specification and a running container.

use std::path::PathBuf;

use crate::cgroup;
pub use crate::sys::Errno;

/// Why a container did not start, or could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container's ID cannot name a cgroup.
    #[error(
        "container id {id:?} cannot be used: it must be 1 to 255 letters, digits, '_', '.', '-' or '+', and begin with a letter or digit"
    )]
    InvalidId {
        /// The ID as given.
        id: String,
    },
    /// The specification says something that cannot be meant.
    #[error("{field}: {reason}")]
    InvalidSpec {
        /// The member of config.json, such as `process.cwd`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The specification asks for something that this runtime does not do.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The member of config.json, such as `linux.intelRdt`.
        field: String,
        /// Why it is refused, and what would do instead where that is known.
        reason: String,
    },
    /// There is no such command in the container: exit code 127.
    #[error("exec {command}: {reason}")]
    CommandNotFound {
        /// The command as the specification gives it.
        command: String,
        /// What the search found instead.
        reason: String,
    },
    /// The command is there but cannot be run: exit code 126.
    #[error("exec {command}: {reason}")]
    NotExecutable {
        /// The command as the specification gives it.
        command: String,
        /// Why not.
        reason: String,
    },
    /// A step of the set-up failed.
    #[error("{doing}: {errno}")]
    Setup {
        /// The step, with the path or value it was about.
        doing: String,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The container's process ended before it had run the command.
    #[error("the container's process was ended by signal {signal} before it ran {command}{hint}")]
    Died {
        /// The signal.
        signal: i32,
        /// The command it should have run.
        command: String,
        /// What probably happened; may be empty.
        hint: &'static str,
    },
    /// A hook failed.
    #[error("{hook}: {path}: {reason}{output}")]
    Hook {
        /// The member of config.json, such as `hooks.prestart[0]`.
        hook: String,
        /// Its program.
        path: PathBuf,
        /// How it ended, or why it could not be run.
        reason: String,
        /// A colon and the first of what it said, or nothing.
        output: String,
    },
    /// A control group could not be made or used.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// A file that the specification names cannot be used.
    #[error("{path}: {errno}")]
    Path {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        errno: Errno,
    },
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidSpec {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn setup(doing: impl Into<String>, errno: impl Into<Errno>) -> Self {
        Self::Setup {
            doing: doing.into(),
            errno: errno.into(),
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
