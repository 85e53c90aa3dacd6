//! An overlay's upper directory as a layer archive.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::writer::Attributes;
use super::{LayerWriter, Times, names_reversed, open_directory};
use crate::union::join;
use crate::unpack::{OPAQUE, is_directory, is_whiteout};
use crate::{Error, Limits, Result};

/// Writes what the upper directory `upper` adds, changes and deletes as a layer's archive. `skip` is asked for each path, without a
/// slash before it, whether it is none of the instance's: then it and what is below are left out.
///
/// # Errors
/// When something cannot be read or written, or lies deeper than [`Limits`] let an archive be unpacked again.
pub fn pack_upper(
    upper: BorrowedFd<'_>,
    times: Times,
    skip: &dyn Fn(&[u8]) -> bool,
    output: &mut dyn Write,
) -> Result<()> {
    let limits = Limits::default();
    let mut writer = LayerWriter::new(output, times);
    // Paths ahead, not descriptors: a container may have made thousands of directories inside one another.
    let mut ahead: Vec<Vec<u8>> = Vec::new();
    descend(upper, b"", &mut ahead)?;
    while let Some(path) = ahead.pop() {
        if skip(&path) {
            continue;
        }
        limits.components(&path)?;
        let (parent, name) = match path.iter().rposition(|c| *c == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        let failed = |e: Errno| Error::pack(&path, e);
        let directory = match open_directory(&upper, parent) {
            // The instance has removed or replaced it meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            opened => opened.map_err(failed)?,
        };
        let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => found.map_err(failed)?,
        };
        if is_whiteout(&stat) {
            writer.whiteout(&path)?;
            continue;
        }
        // In an archive this name would delete something.
        if name.starts_with(b".wh.") {
            return Err(Error::refused(
                &path,
                "a layer's archive cannot hold a name that begins with .wh.",
            ));
        }
        let attributes = Attributes::of(&stat);
        let written = writer.file(&path, directory.as_fd(), name, &stat, &attributes)?;
        if written && is_directory(&stat) {
            let inner = match open_directory(&upper, &path) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                opened => opened.map_err(failed)?,
            };
            let mut value = [0u8; 1];
            if rustix::fs::fgetxattr(&inner, OPAQUE, &mut value).is_ok() && value == *b"y" {
                writer.opaque(&path)?;
            }
            descend(upper, &path, &mut ahead)?;
        }
    }
    writer.finish()
}

fn descend(root: BorrowedFd<'_>, path: &[u8], ahead: &mut Vec<Vec<u8>>) -> Result<()> {
    let failed = |e: Errno| Error::pack(path, e);
    let directory = match open_directory(&root, path) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let names = names_reversed(&directory).map_err(failed)?;
    ahead.extend(names.into_iter().map(|name| join(path, &name)));
    Ok(())
}
