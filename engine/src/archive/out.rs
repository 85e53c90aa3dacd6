//! Files of an instance as a tar archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use image_core::xattr;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::locate::{Located, missing};
use super::writer::TarWriter;
use super::{ArchiveError, Result, resolve};

/// Writes what is at a path of an instance as a tar archive whose entries all begin with the path's last name; with `.` where the path
/// ends in `/.` or is the root. A link at the path's end is archived as a link. Sockets, and what vanishes meanwhile, are left out.
///
/// # Errors
/// [`ArchiveError::NotFound`]; [`ArchiveError::Io`], also with what `output` answers.
pub fn tar_out(root: BorrowedFd<'_>, path: &str, output: &mut dyn Write) -> Result<()> {
    let located = Located::find(root, path)?;
    let name = located.base.clone();
    write(&located, &name, path, output)
}

/// Writes what was located, under the name `name`; without a name, what is in the directory.
pub(crate) fn write(
    located: &Located,
    name: &[u8],
    path: &str,
    output: &mut dyn Write,
) -> Result<()> {
    let stat = located.stat().map_err(|e| missing(path, e))?;
    let mut walk = Walk {
        tar: TarWriter::new(output),
        linked: HashMap::new(),
    };
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_directory {
        let inner = located.name.as_deref().unwrap_or(b".");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let top =
            resolve(located.parent.as_fd(), inner, flags, how).map_err(|e| missing(path, e))?;
        walk.tree(&top, name)?;
    } else if let Some(inner) = &located.name {
        walk.file(located.parent.as_fd(), inner, name, &stat)?;
    }
    walk.tar
        .finish()
        .map_err(|e| ArchiveError::io("write the archive of", path.as_bytes(), e))
}

struct Walk<'w> {
    tar: TarWriter<'w>,
    /// What a file with several names is called in the archive, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl Walk<'_> {
    /// Archives a directory and all below it, each directory's names in order. Of directories that wait for their turn only the path is
    /// kept: neither memory for descriptors nor the stack grows with the depth.
    fn tree(&mut self, top: &OwnedFd, name: &[u8]) -> Result<()> {
        let mut ahead: Vec<Vec<u8>> = vec![Vec::new()];
        while let Some(inside) = ahead.pop() {
            let shown = match (name, inside.as_slice()) {
                (b"", b"") => b"./".to_vec(),
                (b"", inside) => [inside, b"/"].concat(),
                (name, b"") => [name, b"/"].concat(),
                (name, inside) => [name, b"/", inside, b"/"].concat(),
            };
            let failed = |e: Errno| ArchiveError::io("read", &shown, e);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let directory = match resolve(top.as_fd(), &inside, flags, how) {
                // It has vanished, or become something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                opened => opened.map_err(failed)?,
            };
            let stat = rustix::fs::fstat(&directory).map_err(failed)?;
            let header = header(&stat, EntryType::Directory, 0);
            self.header(header, &shown, b"", &xattr::of(directory.as_fd()))?;
            let mut below = Vec::new();
            for entry in names(&directory).map_err(failed)? {
                let stat = match rustix::fs::statat(&directory, &entry, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    stat => stat.map_err(failed)?,
                };
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    below.push(match inside.as_slice() {
                        b"" => entry,
                        inside => [inside, b"/", &entry].concat(),
                    });
                } else {
                    let path = match shown.as_slice() {
                        b"./" => entry.clone(),
                        shown => [shown, &entry].concat(),
                    };
                    self.file(directory.as_fd(), &entry, &path, &stat)?;
                }
            }
            ahead.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Archives anything but a directory.
    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.linked.get(&identity)
        {
            let (header, first) = (header(stat, EntryType::Link, 0), first.clone());
            return self.header(header, path, &first, &[]);
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.regular(directory, name, path),
            FileType::Symlink => {
                let link = match rustix::fs::readlinkat(directory, name, Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    link => link.map_err(|e| ArchiveError::io("read", path, e))?,
                };
                let header = header(stat, EntryType::Symlink, 0);
                return self.header(header, path, link.to_bytes(), &[]);
            }
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            // A socket means nothing without who listens on it; docker leaves it out too.
            _ => return Ok(()),
        };
        let mut header = header(stat, kind, 0);
        if kind != EntryType::Fifo {
            let numbers = header
                .set_device_major(rustix::fs::major(stat.st_rdev))
                .and_then(|()| header.set_device_minor(rustix::fs::minor(stat.st_rdev)));
            numbers.map_err(|e| ArchiveError::io("archive", path, e))?;
        }
        self.header(header, path, b"", &[])
    }

    fn regular(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        // Without waiting: a pipe may have taken the file's place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let failed = |e: io::Error| ArchiveError::io("read", path, e);
        let opened = match resolve(directory, name, flags, how) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            opened => opened.map_err(|e| failed(e.into()))?,
        };
        let stat = rustix::fs::fstat(&opened).map_err(|e| failed(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let header = header(&stat, EntryType::Regular, size);
        self.header(header, path, b"", &xattr::of(opened.as_fd()))?;
        self.tar
            .content(&mut File::from(opened), size)
            .map_err(failed)?;
        if stat.st_nlink > 1 {
            self.linked
                .insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        Ok(())
    }

    fn header(
        &mut self,
        header: Header,
        path: &[u8],
        link: &[u8],
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<()> {
        self.tar
            .header(header, path, link, xattrs)
            .map_err(|e| ArchiveError::io("archive", path, e))
    }
}

/// A header with a file's status. Times are whole seconds, as docker's are.
fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

/// A directory's names, in order.
fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}
