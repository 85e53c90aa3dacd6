//! Layer archives out of directories: the same tree always gives the same bytes.
//!
//! Entries come in the order of their names, owners are numbers, times are whole seconds and bounded by the caller, and what a
//! header cannot hold stands in a PAX header (POSIX.1-2017, pax). Deleted files are written as the OCI image specification wants them
//! (layer.md, "Whiteouts").

mod tree;
mod upper;
mod writer;

pub use tree::{Keep, Keeps, Selection, TreePacker};
pub use upper::pack_upper;
pub(crate) use writer::LayerWriter;

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What becomes of the times of files, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// They stay, without their fractions.
    #[default]
    Kept,
    /// None is later than this: what was written during a build has the build's own time.
    NotAfter(i64),
    /// All are this.
    All(i64),
}

impl Times {
    fn of(self, seconds: i64) -> i64 {
        match self {
            Self::Kept => seconds,
            Self::NotAfter(limit) => seconds.min(limit),
            Self::All(time) => time,
        }
    }
}

/// Opens a directory below `root` without following any link; the empty path is the root itself.
fn open_directory(root: &impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    crate::openat2(
        root,
        if path.is_empty() { b"." } else { path },
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

/// The names in a directory, the last one first: a stack of them gives them in order.
fn names_reversed(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    names.reverse();
    Ok(names)
}
