//! `cp` and `diff`: files of an instance as archives, and what differs from its image.
//!
//! An instance's root is a directory descriptor: `/proc/PID/root` of a running container, or a mounted overlay of a stopped one. What is
//! in it is hostile, and may change while we look: so every path is resolved by openat2 inside that root, links included, what
//! was opened is used by its descriptor, and no path string of an instance is ever used on the host.
//!
//! [`stat`], [`tar_out`] and [`tar_in`] are docker's three calls on a container's files; [`from_remote`] and [`to_remote`] are the command
//! `cp` over them ([`Remote`]), with docker's rules for what ends in `/` and `/.` and for what is not there. A VM answers
//! the three calls through its agent. An archive that comes from an instance is as hostile as its files: whatever it says, it is
//! unpacked below its destination only, and only under the name that was asked for.

mod changes;
mod channel;
mod copy;
mod error;
mod into;
mod locate;
mod out;
mod path;
mod plan;
mod writer;

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use changes::{Change, ChangeKind, UpperEntry, changes, changes_of, upper_entries};
pub use copy::{Copied, CopyOptions, from_remote, split_argument, to_remote};
pub use error::ArchiveError;
pub use into::{Owner, TarInOptions, tar_in};
pub use locate::{PathStat, stat};
pub use out::tar_out;

/// The result of everything fallible in this module.
pub type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// An instance's files, as `cp` needs them.
pub trait Remote {
    /// What is at a path, a link at its end not followed.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`].
    fn stat(&self, path: &str) -> Result<PathStat>;

    /// Writes what is at a path as a tar archive, whose entries all begin with the path's last name; with `.` where it ends in `/.` or
    /// is the root.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`]; what `output` answers.
    fn get(&self, path: &str, output: &mut dyn Write) -> Result<()>;

    /// Unpacks a tar archive into a directory that is there. `keep_owners`: `cp -a`.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`]; what is wrong with the archive or in the way of its files.
    fn put(&self, directory: &str, input: &mut dyn Read, keep_owners: bool) -> Result<()>;
}

/// A root directory that this process has open.
#[derive(Debug)]
pub struct RootDirectory {
    /// The directory.
    pub root: OwnedFd,
    /// The user and group that `cp -a` gives files to: those that the instance's command runs as, where it has a user set.
    pub user: Option<(u32, u32)>,
}

impl Remote for RootDirectory {
    fn stat(&self, path: &str) -> Result<PathStat> {
        stat(self.root.as_fd(), path)
    }

    fn get(&self, path: &str, output: &mut dyn Write) -> Result<()> {
        tar_out(self.root.as_fd(), path, output)
    }

    fn put(&self, directory: &str, input: &mut dyn Read, keep_owners: bool) -> Result<()> {
        let owner = match self.user.filter(|_| keep_owners) {
            Some((uid, gid)) => Owner::All { uid, gid },
            None => Owner::Archive,
        };
        let options = TarInOptions {
            owner,
            ..TarInOptions::default()
        };
        tar_in(self.root.as_fd(), directory, input, &options)
    }
}

fn resolve(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: rustix::fs::OFlags,
    how: rustix::fs::ResolveFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | rustix::fs::OFlags::CLOEXEC;
    image_core::openat2(directory, path, flags, rustix::fs::Mode::empty(), how)
}

#[cfg(test)]
mod tests;
