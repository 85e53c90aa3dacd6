//! A tar archive into a directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use image_core::{Limits, TarEntry, TarExtent, TarKind, TarReader, Timestamp, xattr};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::error::printable;
use super::locate::missing;
use super::{ArchiveError, Result, resolve};

/// Bytes read after an archive's end marker: tar programs fill up to a record of 10 KiB, or what they were told. What never ends must not
/// hold us.
const TAIL: u64 = 1 << 20;

/// The mode of directories that an archive uses without listing them.
const IMPLIED_MODE: u32 = 0o755;

/// Directories that may be nested: as many as a path of the kernel's (4095 bytes) can name.
const DEPTH: usize = 2048;

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owner {
    /// Whom the archive names, by number.
    #[default]
    Archive,
    /// One user and group everything.
    All {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct TarInOptions {
    /// Whether a file may replace a directory and the other way round; docker's client never asks for it.
    pub overwrite_dir_non_dir: bool,
    /// Who owns what is unpacked.
    pub owner: Owner,
}

/// What the first name of every entry must be, and what becomes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Top {
    /// None: any, since the content of a directory was asked for.
    pub(crate) expected: Option<Vec<u8>>,
    /// In its place, or before all where none is expected. None: as it is.
    pub(crate) renamed: Option<Vec<u8>>,
}

/// Unpacks an archive into a directory of an instance. Entries go through links only as far as those stay below that directory; an entry
/// replaces a file of its name, and is merged with a directory.
///
/// # Errors
/// [`ArchiveError::NotFound`] and [`ArchiveError::NotADirectory`] for the directory; [`ArchiveError::Overwrite`];
/// [`ArchiveError::Refused`] and [`ArchiveError::Archive`] for what is wrong with the archive; [`ArchiveError::Io`]. What came before
/// the error is there then.
pub fn tar_in(
    root: BorrowedFd<'_>,
    directory: &str,
    input: &mut dyn Read,
    options: &TarInOptions,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = format!("/{directory}");
    let opened = match resolve(root, path.as_bytes(), flags, how) {
        Err(Errno::NOTDIR) => {
            return Err(ArchiveError::NotADirectory {
                path: printable(directory.as_bytes()),
            });
        }
        opened => opened.map_err(|e| missing(directory, e))?,
    };
    extract(opened, input, &Top::default(), options)
}

/// Unpacks an archive below an open directory.
pub(crate) fn extract(
    target: OwnedFd,
    input: &mut dyn Read,
    top: &Top,
    options: &TarInOptions,
) -> Result<()> {
    let limits = Limits {
        // How much is copied is the user's affair; only what costs memory before it is checked is limited.
        layer_bytes: u64::MAX,
        entries: u64::MAX,
        path_depth: DEPTH,
        ..Limits::default()
    };
    let mut reader = TarReader::new(
        BufReader::with_capacity(128 << 10, input),
        "the archive",
        &limits,
    );
    let mut unpacking = Unpacking {
        target: Rc::new(target),
        top,
        options,
        limits: &limits,
        last: None,
        directories: Vec::new(),
    };
    while let Some(entry) = reader.next_entry()? {
        unpacking.entry(&entry, &mut reader)?;
    }
    unpacking.finish()?;
    reader.drain_up_to(TAIL)?;
    Ok(())
}

struct Unpacking<'u> {
    target: Rc<OwnedFd>,
    top: &'u Top,
    options: &'u TarInOptions,
    limits: &'u Limits,
    /// The directory of the entry before: archives list files directory by directory.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories whose times are set at the end, because unpacking into them changes them.
    directories: Vec<(Vec<u8>, Timestamp)>,
}

impl Unpacking<'_> {
    fn entry<R: BufRead>(
        &mut self,
        entry: &TarEntry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<()> {
        let components = self.components(&entry.path)?;
        let Some((name, parents)) = components.split_last() else {
            // The destination itself stays as it is.
            return match entry.kind {
                TarKind::Directory => Ok(()),
                _ => Err(ArchiveError::refused(
                    &entry.path,
                    "only a directory can have no name",
                )),
            };
        };
        let parent = self.parent(parents, &entry.path)?;
        let parent = parent.as_fd();
        let is_directory = entry.kind == TarKind::Directory;
        let kept = self.clear(parent, name, is_directory, &entry.path)?;
        let failed = |e: Errno| ArchiveError::io("unpack", &entry.path, e);
        match entry.kind {
            TarKind::Directory => {
                if !kept {
                    rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed)?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let made = open_at(parent, name, flags).map_err(failed)?;
                self.attributes(made.as_fd(), entry).map_err(failed)?;
                self.directories.push((components.join(&b'/'), entry.mtime));
                Ok(())
            }
            TarKind::Regular => self.regular(parent, name, entry, archive),
            TarKind::Symlink => {
                // PATH_MAX of limits.h, with the final NUL.
                if entry.link.is_empty() || entry.link.len() > 4095 {
                    return Err(ArchiveError::refused(
                        &entry.path,
                        "it is a link to nothing that could be a path",
                    ));
                }
                let make = || {
                    rustix::fs::symlinkat(entry.link.as_slice(), parent, name)?;
                    self.own_link(parent, name, entry)?;
                    let times = times(entry.mtime);
                    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                };
                make().map_err(failed)
            }
            TarKind::Hardlink => self.hardlink(parent, name, entry),
            TarKind::CharDevice | TarKind::BlockDevice | TarKind::Fifo => {
                self.node(parent, name, entry).map_err(failed)
            }
        }
    }

    /// An entry's path as it is unpacked: checked, and with the first name that was asked for.
    fn components(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut components: Vec<Vec<u8>> = self
            .limits
            .components(path)?
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect();
        if let Some(expected) = &self.top.expected {
            match components.first_mut() {
                None => {}
                Some(first) if first == expected => {
                    if let Some(renamed) = &self.top.renamed {
                        first.clone_from(renamed);
                    }
                }
                Some(_) => {
                    return Err(ArchiveError::refused(path, "nobody has asked for it"));
                }
            }
        } else if let Some(renamed) = &self.top.renamed {
            components.insert(0, renamed.clone());
        }
        Ok(components)
    }

    /// Opens an entry's directory, making what is missing.
    fn parent(&mut self, components: &[Vec<u8>], entry: &[u8]) -> Result<Rc<OwnedFd>> {
        if components.is_empty() {
            return Ok(Rc::clone(&self.target));
        }
        let path = components.join(&b'/');
        if let Some((known, directory)) = &self.last
            && *known == path
        {
            return Ok(Rc::clone(directory));
        }
        let directory = match self.below(&path) {
            Err(Errno::NOENT) => self.make_parents(components, entry)?,
            opened => opened.map_err(|e| self.unreachable(entry, e))?,
        };
        let directory = Rc::new(directory);
        self.last = Some((path, Rc::clone(&directory)));
        Ok(directory)
    }

    fn below(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        resolve(self.target.as_fd(), path, flags, how)
    }

    fn make_parents(&self, components: &[Vec<u8>], entry: &[u8]) -> Result<OwnedFd> {
        let mut path: Vec<u8> = Vec::new();
        let mut above: Option<OwnedFd> = None;
        for name in components {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let next = match self.below(&path) {
                Err(Errno::NOENT) => {
                    let parent = above.as_ref().map_or(self.target.as_fd(), |fd| fd.as_fd());
                    let failed = |e: Errno| ArchiveError::io("unpack", entry, e);
                    rustix::fs::mkdirat(parent, name.as_slice(), Mode::RWXU).map_err(failed)?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                    let made = open_at(parent, name, flags).map_err(failed)?;
                    let (uid, gid) = match self.options.owner {
                        Owner::Archive => (Uid::ROOT, Gid::ROOT),
                        Owner::All { uid, gid } => (Uid::from_raw(uid), Gid::from_raw(gid)),
                    };
                    rustix::fs::fchown(&made, Some(uid), Some(gid)).map_err(failed)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(IMPLIED_MODE)).map_err(failed)?;
                    made
                }
                opened => opened.map_err(|e| self.unreachable(entry, e))?,
            };
            above = Some(next);
        }
        above.ok_or_else(|| ArchiveError::refused(entry, "it has no directory"))
    }

    fn unreachable(&self, entry: &[u8], error: Errno) -> ArchiveError {
        match error {
            Errno::XDEV => ArchiveError::refused(entry, "its path leads out of the destination"),
            Errno::LOOP => ArchiveError::refused(entry, "its path goes through a loop of links"),
            Errno::NOTDIR => {
                ArchiveError::refused(entry, "a file is in the place of its directory")
            }
            error => ArchiveError::io("unpack", entry, error),
        }
    }

    /// Makes room for an entry. True if a directory is there which stays.
    fn clear(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        is_directory: bool,
        path: &[u8],
    ) -> Result<bool> {
        let failed = |e: Errno| ArchiveError::io("replace", path, e);
        let there = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            there => there.map_err(failed)?,
        };
        let there = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        if there && is_directory {
            return Ok(true);
        }
        if there != is_directory && !self.options.overwrite_dir_non_dir {
            let words = |directory| match directory {
                true => "directory",
                false => "non-directory",
            };
            if there || is_directory {
                return Err(ArchiveError::Overwrite {
                    there: words(there),
                    path: printable(path),
                    new: words(is_directory),
                });
            }
        }
        // A path that went through what goes must not stay known.
        self.last = None;
        if there {
            remove_directory(parent, name).map_err(failed)?;
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(failed)?;
        }
        Ok(false)
    }

    fn regular<R: BufRead>(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &TarEntry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<()> {
        let failed = |e: std::io::Error| ArchiveError::io("unpack", &entry.path, e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(parent, name, flags | OFlags::CLOEXEC, mode);
        let file = File::from(file.map_err(|e| failed(e.into()))?);
        let whole = [TarExtent {
            offset: 0,
            length: entry.size,
        }];
        let mut content = archive.content();
        for run in entry.extents.as_deref().unwrap_or(&whole) {
            let mut written = 0;
            while written < run.length {
                let available = content.fill_buf().map_err(failed)?;
                let left = usize::try_from(run.length - written).unwrap_or(usize::MAX);
                let part = available.get(..left).unwrap_or(available);
                if part.is_empty() {
                    return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
                }
                file.write_all_at(part, run.offset + written)
                    .map_err(failed)?;
                let length = part.len();
                content.consume(length);
                written += length as u64;
            }
        }
        // A hole at the end.
        file.set_len(entry.size).map_err(failed)?;
        let finish = || {
            self.attributes(file.as_fd(), entry)?;
            rustix::fs::futimens(&file, &times(entry.mtime))
        };
        finish().map_err(|e| failed(e.into()))
    }

    fn hardlink(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &TarEntry) -> Result<()> {
        let components = self.components(&entry.link)?;
        let Some((target, directories)) = components.split_last() else {
            return Err(ArchiveError::refused(
                &entry.path,
                "it is a hard link to a directory",
            ));
        };
        let from = match self.below(&directories.join(&b'/')) {
            Err(Errno::NOENT) => {
                return Err(ArchiveError::refused(
                    &entry.path,
                    "it is a hard link to a file that is not there",
                ));
            }
            opened => opened.map_err(|e| self.unreachable(&entry.path, e))?,
        };
        rustix::fs::linkat(&from, target.as_slice(), parent, name, AtFlags::empty())
            .map_err(|e| ArchiveError::io("unpack", &entry.path, e))
    }

    fn node(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &TarEntry) -> Result<(), Errno> {
        let kind = match entry.kind {
            TarKind::CharDevice => FileType::CharacterDevice,
            TarKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)?;
        // By the node itself: another file may have its name by now, and chmod would follow a link.
        let node = open_at(parent, name, OFlags::PATH | OFlags::NOFOLLOW)?;
        let now = rustix::fs::fstat(&node)?;
        if FileType::from_raw_mode(now.st_mode) != kind || now.st_rdev != device {
            return Err(Errno::STALE);
        }
        let (uid, gid) = self.owner(entry);
        rustix::fs::chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(entry.mode))?;
        let times = times(entry.mtime);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn owner(&self, entry: &TarEntry) -> (Uid, Gid) {
        match self.options.owner {
            Owner::Archive => (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)),
            Owner::All { uid, gid } => (Uid::from_raw(uid), Gid::from_raw(gid)),
        }
    }

    fn own_link(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &TarEntry) -> Result<(), Errno> {
        let (uid, gid) = self.owner(entry);
        rustix::fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    /// Sets all but the times. The order matters: a change of owner clears set-id bits and capabilities.
    fn attributes(&self, file: BorrowedFd<'_>, entry: &TarEntry) -> Result<(), Errno> {
        let (uid, gid) = self.owner(entry);
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        xattr::set(file, &entry.xattrs).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }

    /// Sets directories' times, the deepest first. What has been replaced meanwhile is passed over.
    fn finish(&mut self) -> Result<()> {
        for (path, mtime) in self.directories.iter().rev() {
            match self.below(path) {
                Ok(directory) => rustix::fs::futimens(&directory, &times(*mtime))
                    .map_err(|e| ArchiveError::io("unpack", path, e))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(error) => return Err(ArchiveError::io("unpack", path, error)),
            }
        }
        Ok(())
    }
}

/// Removes a directory with all that is in it.
fn remove_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let directory = open_at(parent, name, flags)?;
    image_core::clear_directory(directory.as_fd())
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn open_at(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty())
}

/// The access time is set too: the archive has none.
fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
