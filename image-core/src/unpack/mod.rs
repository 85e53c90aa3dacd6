//! Unpacking a layer archive into a directory that overlayfs can use as a lower layer.
//!
//! Decisions, where archives can say what a directory cannot hold or a host should not:
//! - A `..` in an entry's name is refused; a leading `/` means the layer's root.
//! - Device nodes are made as the archive says, block devices too: a container's device cgroup and a VM's kernel decide about
//!   their use, and the store's directories are closed to other users of the host. A character device 0/0 is
//!   refused, because overlayfs takes it for a deleted file.
//! - A whiteout deletes in lower layers only (OCI image specification): files of the same layer stay. A directory that takes
//!   the place of a whiteout or of another kind of file becomes opaque, in whichever order the archive lists them.
//! - Directories without an entry of their own are `root:root 0755`, with the time 0: equal archives give equal trees.

mod attributes;
mod root;
mod whiteout;

use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use self::attributes::{Attributes, times};
use self::root::{Obstacle, Root, open_directory, status};
use self::whiteout::Name;
pub(crate) use self::whiteout::{OPAQUE, is_directory, is_whiteout};
use crate::archive::{Entry, Extent, Kind, TarReader, Timestamp};
use crate::error::{is_disk_full, printable};
use crate::limits::Budget;
use crate::{Error, Limits, Result};

/// What a layer turned out to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes of its files, holes included, hard links once: what `docker images` counts.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Unpacks all of `archive` into the existing empty directory `target`. `trash` is a directory on the same file system for
/// what entries replace.
///
/// The caller drains the archive afterwards if it wants the digest of all its bytes.
pub(crate) fn unpack<R: BufRead>(
    archive: &mut TarReader<'_, R>,
    target: &Path,
    trash: &Path,
    limits: &Limits,
    budget: &Budget,
) -> Result<Unpacked> {
    let mut unpacker = Unpacker {
        root: Root::open(target, trash)?,
        limits,
        budget,
        unpacked: Unpacked::default(),
        directories: vec![Directory {
            path: Vec::new(),
            mtime: Timestamp::default(),
            default_acl: None,
        }],
        whiteouts: Vec::new(),
    };
    // The root has no entry in many archives.
    let root_mode = Mode::from_raw_mode(0o755);
    rustix::fs::fchmod(unpacker.root.directory(), root_mode)
        .map_err(Error::io("set the mode of", target))?;
    while let Some(entry) = archive.next_entry()? {
        unpacker.entry(&entry, archive)?;
    }
    unpacker.finish()
}

struct Unpacker<'u> {
    root: Root,
    limits: &'u Limits,
    budget: &'u Budget,
    unpacked: Unpacked,
    directories: Vec<Directory>,
    /// The paths of the files that were deleted.
    whiteouts: Vec<Vec<u8>>,
}

/// What is set on a directory at the end, because unpacking into it would change it.
struct Directory {
    path: Vec<u8>,
    mtime: Timestamp,
    default_acl: Option<Vec<u8>>,
}

impl Unpacker<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, archive: &mut TarReader<'_, R>) -> Result<()> {
        self.unpacked.entries += 1;
        if self.unpacked.entries > self.limits.entries {
            return Err(Error::LimitPassed {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        let components = self.limits.components(&entry.path)?;
        let Some((name, parents)) = components.split_last() else {
            return self.root_entry(entry);
        };
        // AUFS kept its bookkeeping, directories included, under names that no image means.
        if parents.iter().any(|parent| parent.starts_with(b".wh.")) {
            return Ok(());
        }
        let name = Name::of(name);
        if name == Name::Bookkeeping {
            return Ok(());
        }
        if name == Name::Invalid {
            return Err(Error::refused(
                &entry.path,
                "it is a whiteout without the name of a file",
            ));
        }
        let directory = self.parent(parents, &entry.path)?;
        let directory = directory.as_fd();
        match name {
            Name::Whiteout(deleted) => {
                let path = [parents, &[deleted]].concat().join(&b'/');
                self.whiteouts.push(path);
                self.whiteout(directory, deleted)
            }
            Name::Opaque => self.root.make_opaque(directory),
            Name::File(name) => return self.file(directory, name, entry, archive),
            Name::Bookkeeping | Name::Invalid => Ok(()),
        }
        .map_err(|error| self.failed(&entry.path, error))
    }

    fn file<R: BufRead>(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<()> {
        let attributes = Attributes::of(entry, self.limits)?;
        match entry.kind {
            Kind::Regular => self.regular(directory, name, entry, &attributes, archive),
            Kind::Directory => self.directory(directory, name, entry, attributes),
            Kind::Hardlink => self.hardlink(directory, name, entry),
            Kind::Symlink => {
                // PATH_MAX of limits.h, with the final NUL.
                if entry.link.is_empty() || entry.link.len() > 4095 || entry.link.contains(&0) {
                    return Err(Error::refused(
                        &entry.path,
                        "it is a link to nothing that could be a path",
                    ));
                }
                let make = || rustix::fs::symlinkat(entry.link.as_slice(), directory, name);
                self.place(directory, name, make)
                    .and_then(|()| attributes.set_at(directory, name, entry, true))
                    .map_err(|error| self.failed(&entry.path, error))
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special(directory, name, entry, &attributes)
            }
        }
    }

    fn regular<R: BufRead>(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        attributes: &Attributes<'_>,
        archive: &mut TarReader<'_, R>,
    ) -> Result<()> {
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(entry.size);
        if self.unpacked.bytes > self.limits.layer_bytes {
            return Err(Error::LimitPassed {
                what: "bytes in one layer",
                limit: self.limits.layer_bytes,
            });
        }
        let whole = [Extent {
            offset: 0,
            length: entry.size,
        }];
        let runs = entry.extents.as_deref().unwrap_or(&whole);
        let stored = runs.iter().map(|run| run.length).sum();
        self.budget.take(stored, &entry.path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR);
        let file = self
            .place(directory, name, make)
            .map_err(|error| self.failed(&entry.path, error))?;
        let file = File::from(file);
        let mut content = archive.content();
        for run in runs {
            let mut written = 0;
            while written < run.length {
                let available = content
                    .fill_buf()
                    .map_err(|e| Error::unpack(&entry.path, e))?;
                let left = usize::try_from(run.length - written).unwrap_or(usize::MAX);
                let step = available.len().min(left);
                if step == 0 {
                    return Err(Error::refused(
                        &entry.path,
                        "its content is shorter than its size",
                    ));
                }
                file.write_all_at(&available[..step], run.offset + written)
                    .map_err(|error| self.failed(&entry.path, error))?;
                content.consume(step);
                written += step as u64;
            }
        }
        let finish = || {
            if entry.extents.is_some() {
                // A hole at the end has no run.
                rustix::fs::ftruncate(&file, entry.size)?;
            }
            attributes.set(file.as_fd(), entry)?;
            rustix::fs::futimens(&file, &times(entry.mtime))
        };
        finish().map_err(|error| self.failed(&entry.path, error))
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        attributes: Attributes<'_>,
    ) -> Result<()> {
        // An empty directory takes a block on most file systems.
        self.budget.take(4096, &entry.path)?;
        let mut make = || {
            let mut opaque = false;
            if let Err(error) = rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                if error != Errno::EXIST {
                    return Err(error);
                }
                if self.root.clear(parent, name, true)? == Obstacle::Removed {
                    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                    // What it replaces hid a directory of lower layers, if there was one: it must stay hidden.
                    opaque = true;
                }
            }
            let new = open_directory(parent, name)?;
            attributes.set(new.as_fd(), entry)?;
            if opaque {
                self.root.make_opaque(new.as_fd())?;
            }
            Ok(())
        };
        make().map_err(|error| self.failed(&entry.path, error))?;
        self.directories.push(Directory {
            path: entry.path.clone(),
            mtime: entry.mtime,
            default_acl: attributes.default_acl,
        });
        Ok(())
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::refused(
                &entry.path,
                "the root can only be a directory",
            ));
        }
        let attributes = Attributes::of(entry, self.limits)?;
        attributes
            .set(self.root.directory(), entry)
            .map_err(|error| self.failed(&entry.path, error))?;
        self.directories.push(Directory {
            path: Vec::new(),
            mtime: entry.mtime,
            default_acl: attributes.default_acl,
        });
        Ok(())
    }

    fn hardlink(&mut self, directory: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
        let refused = |reason: &str| {
            Error::refused(&entry.path, format!("{reason}: {}", printable(&entry.link)))
        };
        let components = self.limits.components(&entry.link)?;
        let Some((target, parents)) = components.split_last() else {
            return Err(refused("it is a hard link to a directory"));
        };
        let missing = "it is a hard link to a file that is not in the archive before it";
        let parent = match self.root.find(parents) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(refused(missing)),
            Err(error) => return Err(self.failed(&entry.path, error)),
        };
        let target_status = match status(parent.as_fd(), target) {
            Ok(found) if is_directory(&found) => {
                return Err(refused("it is a hard link to a directory"));
            }
            // A second name for a deletion would delete what it does not name.
            Ok(found) if is_whiteout(&found) => {
                return Err(refused("it is a hard link to a deleted file"));
            }
            Ok(found) => found,
            Err(Errno::NOENT) => return Err(refused(missing)),
            Err(error) => return Err(self.failed(&entry.path, error)),
        };
        if let Ok(same) = status(directory, name)
            && (same.st_dev, same.st_ino) == (target_status.st_dev, target_status.st_ino)
        {
            return Ok(());
        }
        let make = || rustix::fs::linkat(&parent, *target, directory, name, AtFlags::empty());
        self.place(directory, name, make)
            .map_err(|error| self.failed(&entry.path, error))
    }

    fn special(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        attributes: &Attributes<'_>,
    ) -> Result<()> {
        let kind = match entry.kind {
            Kind::CharDevice if entry.device == (0, 0) => {
                return Err(Error::refused(
                    &entry.path,
                    "a character device 0/0 is how overlayfs marks a deleted file",
                ));
            }
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let make = || rustix::fs::mknodat(directory, name, kind, Mode::RUSR, device);
        self.place(directory, name, make)
            .and_then(|()| attributes.set_at(directory, name, entry, false))
            .map_err(|error| self.failed(&entry.path, error))
    }

    fn whiteout(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let make =
            rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0);
        match make {
            Err(Errno::EXIST) => {
                // This layer has the file anew. A directory must not be merged with the deleted one.
                if is_directory(&status(directory, name)?) {
                    let kept = open_directory(directory, name)?;
                    self.root.make_opaque(kept.as_fd())?;
                }
                Ok(())
            }
            Err(error) => Err(error),
            // Always the same time, so that equal archives give equal trees.
            Ok(()) => rustix::fs::utimensat(
                directory,
                name,
                &times(Timestamp::default()),
                AtFlags::SYMLINK_NOFOLLOW,
            ),
        }
    }

    /// Makes something at a name, after removing what an earlier entry put there.
    fn place<T>(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make() {
            Err(Errno::EXIST) => {
                self.root.clear(directory, name, false)?;
                make()
            }
            done => done,
        }
    }

    fn parent(&mut self, components: &[&[u8]], entry: &[u8]) -> Result<Rc<OwnedFd>> {
        let mut made = Vec::new();
        let found = self.root.find_or_make(components, entry, &mut made);
        for path in made {
            self.budget.take(4096, entry)?;
            self.directories.push(Directory {
                path,
                mtime: Timestamp::default(),
                default_acl: None,
            });
        }
        found.map_err(|error| match error {
            Error::Unpack { source, .. } => self.failed(entry, source),
            other => other,
        })
    }

    fn finish(mut self) -> Result<Unpacked> {
        self.drop_needless_whiteouts()?;
        self.set_directories()?;
        Ok(self.unpacked)
    }

    /// Removes whiteouts where an opaque directory hides everything anyway. Overlayfs merges nothing there, and lists such a
    /// directory as it is: they would show as names behind which there is nothing.
    fn drop_needless_whiteouts(&mut self) -> Result<()> {
        if !self.root.has_opaque() {
            return Ok(());
        }
        for path in std::mem::take(&mut self.whiteouts) {
            let components = self.limits.components(&path)?;
            let Some((name, parents)) = components.split_last() else {
                continue;
            };
            let mut drop = || -> Result<(), Errno> {
                let parent = match self.root.find(parents) {
                    // A later entry took its place.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                    found => found?,
                };
                match status(parent.as_fd(), name) {
                    Ok(found) if is_whiteout(&found) => {}
                    Ok(_) | Err(Errno::NOENT) => return Ok(()),
                    Err(error) => return Err(error),
                }
                if self.root.is_hidden_below(parent.as_fd())? {
                    rustix::fs::unlinkat(&parent, *name, AtFlags::empty())?;
                }
                Ok(())
            };
            drop().map_err(|error| self.failed(&path, error))?;
        }
        Ok(())
    }

    /// A later entry may have replaced a directory; then there is nothing left to set.
    fn set_directories(&mut self) -> Result<()> {
        for directory in std::mem::take(&mut self.directories) {
            let components = self.limits.components(&directory.path)?;
            let found = match components.split_last() {
                None => self.root.find(&[]),
                Some((name, parents)) => self
                    .root
                    .find(parents)
                    .and_then(|parent| Ok(Rc::new(open_directory(parent.as_fd(), name)?))),
            };
            let found = match found {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(self.failed(&directory.path, error)),
            };
            let set = || {
                if let Some(acl) = &directory.default_acl {
                    Attributes::set_default_acl(found.as_fd(), acl)?;
                }
                rustix::fs::futimens(&found, &times(directory.mtime))
            };
            set().map_err(|error| self.failed(&directory.path, error))?;
        }
        Ok(())
    }

    fn failed(&self, name: &[u8], error: impl Into<std::io::Error>) -> Error {
        let error = error.into();
        if is_disk_full(&error) {
            return self
                .budget
                .full(format!("{} could not be unpacked whole", printable(name)));
        }
        // Nothing else here is too long for the kernel: names are checked before.
        if error.kind() == std::io::ErrorKind::ArgumentListTooLong {
            return Error::refused(
                name,
                "its extended attributes are larger than the store's file system takes",
            );
        }
        Error::unpack(name, error)
    }
}
