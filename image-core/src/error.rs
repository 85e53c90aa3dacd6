//! What can go wrong with images, in sentences for the person at the command line.

use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image operation failed.
///
/// Names out of archives are shown escaped and shortened: they are written by whoever made the archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No image has this name, digest or ID.
    #[error("no image {0} in the store")]
    ImageNotFound(String),

    /// A short ID that more than one image has.
    #[error("{prefix} is the beginning of {count} image IDs: give more of its digits")]
    AmbiguousId {
        /// What was asked for.
        prefix: String,
        /// How many images it could mean.
        count: usize,
    },

    /// An image was to be removed by its ID, but has more than one name.
    #[error(
        "image {} has several names ({}): remove them one by one, or remove the image by force",
        .id.short(),
        .names.join(", ")
    )]
    SeveralNames {
        /// The image.
        id: Digest,
        /// Its names.
        names: Vec<String>,
    },

    /// Not an image name.
    #[error("{text:?} is not an image name: {reason}")]
    InvalidReference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// Not a digest that this store can use.
    #[error("{0:?} is not a digest of the form sha256:<64 lower-case hexadecimal digits>")]
    InvalidDigest(String),

    /// A `--change` that is not understood.
    #[error("change {text:?}: {reason}")]
    InvalidChange {
        /// The change as given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A Dockerfile that is wrong, or says what is not supported.
    #[error("Dockerfile line {line}: {}", on_a_line(reason))]
    Dockerfile {
        /// The line that the instruction begins on, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },

    /// `SOURCE_DATE_EPOCH` holds something else than seconds.
    #[error("SOURCE_DATE_EPOCH={0:?} is not a number of seconds since 1970")]
    InvalidSourceDate(String),

    /// The archive ended before it should have.
    #[error("{archive} is cut short: {}", on_a_line(reason))]
    Truncated {
        /// Which archive: the one given, or a layer in it.
        archive: String,
        /// Where it ended.
        reason: String,
    },

    /// The archive's bytes are not what its format allows.
    #[error("{archive} is damaged or of another format: {}", on_a_line(reason))]
    Malformed {
        /// Which archive.
        archive: String,
        /// What was found.
        reason: String,
    },

    /// An entry which must not be unpacked as it is.
    #[error("refused archive entry {name}: {reason}")]
    RefusedEntry {
        /// The entry's name, escaped.
        name: String,
        /// Why.
        reason: String,
    },

    /// An entry could not be written.
    #[error("cannot unpack {name}: {source}")]
    Unpack {
        /// The entry's name, escaped.
        name: String,
        /// The system's reason.
        source: io::Error,
    },

    /// A file could not be put into an archive.
    #[error("cannot archive {name}: {source}")]
    Pack {
        /// The file's name, escaped.
        name: String,
        /// The system's reason.
        source: io::Error,
    },

    /// A limit that protects the machine was passed.
    #[error("the archive passes the limit of {limit} {what}")]
    LimitPassed {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },

    /// The disk is full, or would be.
    #[error("not enough space in {}: {reason}", .path.display())]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// How that was noticed.
        reason: String,
    },

    /// Content does not have the digest it is named by.
    #[error(
        "{} has the wrong digest: expected {expected}, but its content is {actual}",
        on_a_line(what)
    )]
    DigestMismatch {
        /// Which content.
        what: String,
        /// What it should have been.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },

    /// The image is for another kind of machine.
    #[error(
        "{} is for {}, but this engine runs linux/amd64",
        on_a_line(image),
        on_a_line(found)
    )]
    ForeignPlatform {
        /// The image or archive.
        image: String,
        /// The platforms it has.
        found: String,
    },

    /// A kind of content this engine cannot use.
    #[error(
        "{what} has the media type {media_type:?}, which is not supported; supported are {supported}"
    )]
    UnsupportedMediaType {
        /// Which content.
        what: String,
        /// Its media type.
        media_type: String,
        /// What would have been.
        supported: &'static str,
    },

    /// A JSON document of an image is not what the specification says.
    #[error("{} is not valid: {}", on_a_line(what), on_a_line(reason))]
    InvalidDocument {
        /// Which document.
        what: String,
        /// What is wrong.
        reason: String,
    },

    /// Content that an image refers to is not there.
    #[error("{} is missing: {}", on_a_line(what), on_a_line(reason))]
    Missing {
        /// Which content.
        what: String,
        /// Who refers to it, or what mends it.
        reason: String,
    },

    /// A file inside an image that cannot be read whole.
    #[error(
        "cannot read {} from the image: {}",
        on_a_line(path),
        on_a_line(reason)
    )]
    ImageFile {
        /// The path inside the image.
        path: String,
        /// Why not.
        reason: String,
    },

    /// A path of an image that should lead to a directory.
    #[error("{path} of the image is not a directory")]
    NotADirectory {
        /// The path inside the image.
        path: String,
    },

    /// A directory of an image could not be copied into a volume.
    #[error("cannot copy {path} from the image into the volume: {source}")]
    CopyUp {
        /// The path inside the image.
        path: String,
        /// Why not.
        source: io::Error,
    },

    /// `mkfs.erofs` is not installed.
    #[error(
        "mkfs.erofs is not installed, and virtual machines need it: install the package erofs-utils"
    )]
    NoMkfs,

    /// `mkfs.erofs` failed.
    #[error("mkfs.erofs failed for layer {layer} ({status}): {output}")]
    Mkfs {
        /// The layer.
        layer: Digest,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },

    /// An archive is written for somebody who has stopped reading it.
    #[error("nobody reads the archive any more")]
    NobodyReads,

    /// Something between this program and a registry.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),

    /// A file or directory of the store could not be used.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was being done, and to which path.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = source.into();
            if is_disk_full(&source) {
                return Self::NoSpace {
                    path: path.to_owned(),
                    reason: source.to_string(),
                };
            }
            Self::Io {
                action,
                path: path.to_owned(),
                source,
            }
        }
    }

    /// An error met while reading an archive's bytes.
    ///
    /// An [`Error`] that travelled through a reader inside an [`io::Error`] comes out again as itself.
    pub(crate) fn reading(archive: &str, error: io::Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) => return own,
            Err(other) => other,
        };
        let archive = archive.to_owned();
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated {
                archive,
                reason: "its bytes end in the middle of something".to_owned(),
            },
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                Self::Malformed {
                    archive,
                    reason: error.to_string(),
                }
            }
            _ => Self::Io {
                action: "read",
                path: PathBuf::from(archive),
                source: error,
            },
        }
    }

    /// Refusal of an archive entry.
    pub(crate) fn refused(name: &[u8], reason: impl Into<String>) -> Self {
        Self::RefusedEntry {
            name: printable(name),
            reason: reason.into(),
        }
    }

    /// A file could not be read, or its archive not written.
    pub(crate) fn pack(name: &[u8], error: impl Into<io::Error>) -> Self {
        let error: io::Error = error.into();
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Pack {
                name: printable(name),
                source,
            },
        }
    }

    /// A system call failed for an archive entry.
    pub(crate) fn unpack(name: &[u8], error: impl Into<io::Error>) -> Self {
        let error: io::Error = error.into();
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Unpack {
                name: printable(name),
                source,
            },
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}

/// Whether the file system (or a quota on it) is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A name out of an archive as it may be shown on a terminal: escaped, and not longer than a line or two.
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
    format!("\"{shown}\"")
}

/// A sentence that repeats what a document says, as it may be shown on a terminal: without control characters, and not longer
/// than some lines.
pub(crate) fn on_a_line(sentence: &str) -> String {
    const SHOWN: usize = 1000;
    let mut shown = String::with_capacity(sentence.len().min(SHOWN));
    for character in sentence.chars().take(SHOWN) {
        match character.is_control() {
            true => shown.extend(character.escape_debug()),
            false => shown.push(character),
        }
    }
    if sentence.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_document_says_does_not_reach_the_terminal_as_it_is() {
        assert_eq!(on_a_line("a\u{7}\u{1b}[2J\n'é'"), "a\\u{7}\\u{1b}[2J\\n'é'");
        let long = on_a_line(&"x".repeat(5000));
        assert_eq!(long.chars().count(), 1001);
        assert!(long.ends_with("x…"));
    }
}
