//! What can go wrong with copying, in docker's words where it has some.

use std::io;

/// Why files could not be copied or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The instance has nothing at the path.
    #[error("could not find the file {path}")]
    NotFound {
        /// The path inside the instance.
        path: String,
    },
    /// The same, as the command tells it.
    #[error("could not find the file {path} in container {container}")]
    NotFoundIn {
        /// The path inside the instance.
        path: String,
        /// The instance as typed.
        container: String,
    },
    /// An archive is to be unpacked into something else than a directory.
    #[error("extraction point is not a directory: {path}")]
    NotADirectory {
        /// The path inside the instance.
        path: String,
    },
    /// A file of the archive is where a directory is, or the other way round.
    #[error("cannot overwrite {there} {path} with {new}")]
    Overwrite {
        /// What is there: "directory" or "non-directory".
        there: &'static str,
        /// Where, escaped.
        path: String,
        /// What would replace it: "non-directory" or "directory".
        new: &'static str,
    },
    /// An entry of an archive that must not be unpacked.
    #[error("refused archive entry {name}: {reason}")]
    Refused {
        /// The entry's name, escaped.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The archive cannot be read, or the image's layers cannot.
    #[error(transparent)]
    Archive(#[from] image_core::Error),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Which file, escaped.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A directory to an existing file.
    #[error("cannot copy directory")]
    CannotCopyDirectory,
    /// A file to a name that ends in a slash and is not there.
    #[error("no such directory")]
    NoSuchDirectory,
    /// A path on the host that cannot be used.
    #[error("{0}")]
    Host(String),
    /// Neither or both of the arguments name an instance.
    #[error("{0}")]
    Arguments(&'static str),
    /// Whatever keeps a VM's agent from answering.
    #[error(transparent)]
    Remote(Box<dyn std::error::Error + Send + Sync>),
}

impl ArchiveError {
    pub(crate) fn io(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: printable(path),
            source: source.into(),
        }
    }

    pub(crate) fn refused(name: &[u8], reason: &'static str) -> Self {
        Self::Refused {
            name: printable(name),
            reason,
        }
    }
}

/// A name out of an instance as it may be shown on a terminal: escaped, and not longer than a line or two.
pub(crate) fn printable(name: &[u8]) -> String {
    const SHOWN: usize = 160;
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
