//! What can go wrong in the harness itself. (What goes wrong in an arm is recorded in the results.)

use std::io;
use std::path::{Path, PathBuf};

/// A failure that keeps the harness from measuring.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of ours cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An environment variable or argument has a value that means nothing.
    #[error("{name}={value} is not understood: {expected}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// The command under test is not there.
    #[error("no plimsoll command at {}: build it with `cargo build --release`, or set PLIMSOLL_BIN", path.display())]
    NoCommand {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A program that the harness needs failed.
    #[error("{program} failed: {message}")]
    Program {
        /// What was run.
        program: String,
        /// The end of what it said.
        message: String,
    },
    /// The image store.
    #[error(transparent)]
    Image(#[from] engine::ImageError),
    /// The result file or the report.
    #[error("{0}")]
    Report(String),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }
}

/// What fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
