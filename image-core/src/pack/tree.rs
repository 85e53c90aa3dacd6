//! Parts of a directory tree as an archive: what a build copies, and what `export` writes.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::writer::Attributes;
use super::{LayerWriter, Times, names_reversed, open_directory};
use crate::union::join;
use crate::unpack::is_directory;
use crate::{Error, Limits, Result};

/// What becomes of one file of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is in the archive.
    Yes,
    /// It is left out; what is below a directory is asked for all the same.
    No,
    /// It is left out with all that is below.
    NothingBelow,
}

/// Decides about a path.
pub type Keeps<'k> = dyn Fn(&[u8]) -> Keep + 'k;

/// Which files of a tree, and as what.
#[derive(Default)]
pub struct Selection<'s> {
    /// Asked for each path below the tree's root, without a slash before it.
    pub keeps: Option<&'s Keeps<'s>>,
    /// Owner and group in place of the files' own.
    pub owner: Option<(u32, u32)>,
    /// Permissions in place of the files' own; links have none.
    pub mode: Option<u32>,
    /// Whether file systems mounted in the tree are left out: only where they are mounted is in the archive.
    pub one_file_system: bool,
}

/// Writes trees into one archive.
pub struct TreePacker<'w> {
    writer: LayerWriter<'w>,
    limits: Limits,
}

impl<'w> TreePacker<'w> {
    /// An archive whose files have these times.
    pub fn new(output: &'w mut dyn Write, times: Times) -> Self {
        Self {
            writer: LayerWriter::new(output, times),
            limits: Limits::default(),
        }
    }

    /// Adds what `path` (below `root`, resolved already: no link is followed) leads to, under the name `name`; of a directory
    /// all that is in it. With an empty `name`, a directory's content is added and not the directory itself.
    ///
    /// # Errors
    /// When something cannot be read or written, or lies deeper than an archive can be unpacked again.
    pub fn add(
        &mut self,
        root: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        selection: &Selection<'_>,
    ) -> Result<()> {
        let mount = selection
            .one_file_system
            .then(|| mount_of(root, b""))
            .flatten();
        // Each with the name it gets.
        let mut ahead: Vec<(Vec<u8>, Vec<u8>)> = vec![(path.to_vec(), name.to_vec())];
        while let Some((path, name)) = ahead.pop() {
            self.limits.components(&name)?;
            let failed = |e: Errno| Error::pack(&path, e);
            let (parent, last) = match path.iter().rposition(|c| *c == b'/') {
                Some(slash) => (&path[..slash], &path[slash + 1..]),
                None => (&b""[..], &path[..]),
            };
            let last: &[u8] = if last.is_empty() { b"." } else { last };
            let directory = match open_directory(&root, parent) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                opened => opened.map_err(failed)?,
            };
            let stat = match rustix::fs::statat(&directory, last, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                found => found.map_err(failed)?,
            };
            let is_directory = is_directory(&stat);
            if mount.is_some() && mount_of(directory.as_fd(), last) != mount {
                let mode = if is_directory { 0o755 } else { 0o644 };
                let attributes = Attributes {
                    mode,
                    ..Attributes::default()
                };
                self.writer.empty(&name, is_directory, &attributes)?;
                continue;
            }
            let kept = selection.keeps.map_or(Keep::Yes, |keeps| keeps(&path));
            if kept == Keep::NothingBelow {
                continue;
            }
            if kept == Keep::Yes && !name.is_empty() {
                let attributes = selection.attributes(&stat);
                let written =
                    self.writer
                        .file(&name, directory.as_fd(), last, &stat, &attributes)?;
                if !written {
                    continue;
                }
            }
            if is_directory {
                let inner = match open_directory(&root, &path) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    opened => opened.map_err(failed)?,
                };
                for child in names_reversed(&inner).map_err(failed)? {
                    ahead.push((join(&path, &child), join(&name, &child)));
                }
            }
        }
        Ok(())
    }

    /// Writes the end of the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<()> {
        self.writer.finish()
    }
}

impl Selection<'_> {
    fn attributes(&self, stat: &Stat) -> Attributes {
        let mut attributes = Attributes::of(stat);
        if let Some((uid, gid)) = self.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        if let Some(mode) = self.mode {
            attributes.mode = mode;
        }
        attributes
    }
}

/// Which mount a name is on; none where the kernel (before 5.8) does not say.
fn mount_of(directory: BorrowedFd<'_>, name: &[u8]) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(directory, name, flags, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}
