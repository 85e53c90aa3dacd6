//! What an instance has written: docker's json-file format, `<id>-json.log` in the instance's directory.
//!
//! One JSON object a line: `{"log":"…\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}`. A line that was cut,
//! because it is very long or not yet whole when it came, has no newline at its end; what follows of the same stream
//! continues it. Bytes that are not UTF-8 are kept as U+FFFD, as docker keeps them.

mod json;
mod reader;
mod time;
mod writer;

pub use reader::{Entry, Follow, Query, read};
pub use time::{format as format_time, parse as parse_time};
pub(crate) use writer::Writer;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A stream of an instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; with a terminal, everything.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// `--log-driver` and `--log-opt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Whether anything is kept: false for the driver `none`.
    pub kept: bool,
    /// Bytes after which a file is put aside; `None` for no bound.
    pub max_size: Option<u64>,
    /// Files kept, the current one among them.
    pub max_file: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            kept: true,
            max_size: None,
            max_file: 1,
        }
    }
}

/// This moment as logs count it, nanoseconds since 1970.
pub fn now() -> u64 {
    crate::instance::now()
}

/// The current log file of the instance in that directory.
pub fn path(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}-json.log"))
}

/// The n-th file that was put aside; the higher the older.
fn aside(current: &Path, number: u32) -> PathBuf {
    let mut path = current.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}
