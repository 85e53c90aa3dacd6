//! Filling a new volume with what the image has at its place.
//!
//! The source is an image's layers, written by whoever made the image; the target may be mounted in a running instance, whose
//! programs can replace any file of it at any moment. So both sides are reached only by descriptors and by openat2 without
//! links: whatever is swapped in, nothing outside the layers is read and nothing outside the target is written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom as Seeking, Stat, Timespec,
    Timestamps, Uid,
};
use rustix::io::Errno;

use crate::union::{Found, Listed, Merged, Union, join};
use crate::unpack::is_directory;
use crate::{Error, Result, xattr};

/// The mode bits that chmod sets.
const MODE_BITS: u32 = 0o7777;

/// A directory of an image, as its overlay would show it.
pub struct ImageDirectory {
    path: String,
    union: Union,
    merged: Merged,
}

impl ImageDirectory {
    /// Finds the directory at `path` in the layers (topmost first, [`crate::Store::layer_dirs`]), following links inside the image.
    /// None if there is nothing.
    ///
    /// # Errors
    /// [`Error::NotADirectory`] when something else is there; [`Error::ImageFile`] when links lead in a circle.
    pub fn open(layers: &[PathBuf], path: &str) -> Result<Option<Self>> {
        let fail = |reason: String| Error::ImageFile {
            path: path.to_owned(),
            reason,
        };
        let union = Union::open_layers(layers)?;
        let found = union
            .find(path.as_bytes())
            .map_err(|e| fail(io::Error::from(e).to_string()))?;
        match found {
            None => Ok(None),
            Some(Found::File(_)) => Err(Error::NotADirectory {
                path: path.to_owned(),
            }),
            Some(Found::Directory(merged)) => Ok(Some(Self {
                path: path.to_owned(),
                union,
                merged,
            })),
        }
    }

    /// Whether it shows no file at all.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        let listed = self.union.list(&self.merged);
        Ok(listed.map_err(|e| self.failed(e.into()))?.is_empty())
    }

    /// Copies everything in it into the directory `target`: content with its holes, owners, modes, times, hard links, extended
    /// attributes; the directory itself passes on its own owner, mode and times. Gives the number of files and directories made.
    ///
    /// What has a name already stays as it is, since somebody uses the target; only with `resume`, after a copy that was cut
    /// off, files (not directories) are replaced.
    ///
    /// # Errors
    /// [`Error::CopyUp`]; part of the files may be there then.
    pub fn copy_into(&self, target: BorrowedFd<'_>, resume: bool) -> Result<u64> {
        let mut copy = Copy {
            union: &self.union,
            target,
            resume,
            linked: HashMap::new(),
            made: 0,
        };
        copy.all(&self.merged).map_err(|e| self.failed(e))?;
        Ok(copy.made)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::CopyUp {
            path: self.path.clone(),
            source,
        }
    }
}

struct Copy<'c> {
    union: &'c Union,
    target: BorrowedFd<'c>,
    resume: bool,
    /// Where the first name of a file with several has gone, by device and inode.
    linked: HashMap<(u64, u64), (Vec<u8>, Vec<u8>)>,
    made: u64,
}

impl Copy<'_> {
    fn all(&mut self, top: &Merged) -> io::Result<()> {
        // Directories get their modes and times at the end, when nothing is written into them any more. Paths are kept, not
        // descriptors, so that depth costs memory only.
        let mut finished: Vec<(Merged, Vec<u8>)> = Vec::new();
        let mut ahead = vec![(top.clone(), Vec::new())];
        while let Some((merged, inside)) = ahead.pop() {
            let here = below(self.target, &inside)?;
            let mut parts: HashMap<usize, OwnedFd> = HashMap::new();
            for (name, listed) in self.union.list(&merged)? {
                match listed {
                    Listed::Directory(inner) => {
                        if self.directory(here.as_fd(), &name)? {
                            ahead.push((inner, join(&inside, &name)));
                        }
                    }
                    Listed::File { layer, stat } => {
                        let part = match parts.entry(layer) {
                            Entry::Occupied(known) => known.into_mut(),
                            Entry::Vacant(new) => new.insert(self.union.open(layer, &merged.path)?),
                        };
                        self.file(part.as_fd(), &name, &stat, here.as_fd(), &inside)?;
                    }
                }
            }
            finished.push((merged, inside));
        }
        for (merged, inside) in finished.iter().rev() {
            if let Some(layer) = merged.layers.first() {
                let source = self.union.open(*layer, &merged.path)?;
                let here = below(self.target, inside)?;
                self.attributes(source.as_fd(), here.as_fd())?;
            }
        }
        Ok(())
    }

    /// Makes a directory. False if something else has the name and keeps it.
    fn directory(&mut self, here: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
        match rustix::fs::mkdirat(here, name, Mode::RWXU) {
            Ok(()) => self.made += 1,
            Err(Errno::EXIST) if is_directory_at(here, name)? => {}
            Err(Errno::EXIST) if self.resume => {
                rustix::fs::unlinkat(here, name, AtFlags::empty())?;
                rustix::fs::mkdirat(here, name, Mode::RWXU)?;
                self.made += 1;
            }
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn file(
        &mut self,
        part: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        here: BorrowedFd<'_>,
        inside: &[u8],
    ) -> io::Result<()> {
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some((directory, first)) = self.linked.get(&identity)
        {
            let from = below(self.target, directory)?;
            let link = || rustix::fs::linkat(&from, first, here, name, AtFlags::empty());
            self.made += u64::from(make(here, name, self.resume, link)?.is_some());
            return Ok(());
        }
        let made = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.regular(part, name, here)?,
            FileType::Symlink => self.link(part, name, stat, here)?,
            FileType::Directory => false,
            _ => self.node(name, stat, here)?,
        };
        if made {
            self.made += 1;
            if stat.st_nlink > 1 {
                self.linked
                    .insert(identity, (inside.to_vec(), name.to_vec()));
            }
        }
        Ok(())
    }

    fn regular(&self, part: BorrowedFd<'_>, name: &[u8], here: BorrowedFd<'_>) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = File::from(rustix::fs::openat(part, name, flags, Mode::empty())?);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(here, name, flags, Mode::RUSR | Mode::WUSR);
        let Some(target) = make(here, name, self.resume, create)? else {
            return Ok(false);
        };
        let target = File::from(target);
        copy_data(&source, &target)?;
        self.attributes(source.as_fd(), target.as_fd())?;
        Ok(true)
    }

    fn link(
        &self,
        part: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        here: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        let leads_to = rustix::fs::readlinkat(part, name, Vec::new())?;
        let create = || rustix::fs::symlinkat(leads_to.as_c_str(), here, name);
        if make(here, name, self.resume, create)?.is_none() {
            return Ok(false);
        }
        let (uid, gid) = owner(stat);
        rustix::fs::chownat(here, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(here, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(true)
    }

    /// A device, FIFO or socket. Who may use it is decided where the volume is mounted.
    fn node(&self, name: &[u8], stat: &Stat, here: BorrowedFd<'_>) -> io::Result<bool> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let create =
            || rustix::fs::mknodat(here, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev);
        if make(here, name, self.resume, create)?.is_none() {
            return Ok(false);
        }
        // By the node itself: another file may have its name by now, and chmod would follow a link.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(here, name, flags, Mode::empty())?;
        let now = rustix::fs::fstat(&node)?;
        if FileType::from_raw_mode(now.st_mode) != kind || now.st_rdev != stat.st_rdev {
            return Ok(false);
        }
        let (uid, gid) = owner(stat);
        rustix::fs::chownat(&node, "", uid, gid, AtFlags::EMPTY_PATH)?;
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(stat.st_mode & MODE_BITS))?;
        rustix::fs::utimensat(here, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(true)
    }

    /// Passes on owner, mode, extended attributes and times. The order matters: a change of owner clears set-id bits and capabilities.
    fn attributes(&self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
        let stat = rustix::fs::fstat(source)?;
        let (uid, gid) = owner(&stat);
        rustix::fs::fchown(target, uid, gid)?;
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & MODE_BITS))?;
        xattr::set(target, &xattr::of(source))?;
        Ok(rustix::fs::futimens(target, &times(&stat))?)
    }
}

/// Makes something under a new name; with `replace`, in the place of whatever has it, directories excepted. None if the name is
/// somebody else's.
fn make<T>(
    here: BorrowedFd<'_>,
    name: &[u8],
    replace: bool,
    create: impl Fn() -> Result<T, Errno>,
) -> Result<Option<T>, Errno> {
    match create() {
        Ok(made) => Ok(Some(made)),
        Err(Errno::EXIST) if replace && !is_directory_at(here, name)? => {
            rustix::fs::unlinkat(here, name, AtFlags::empty())?;
            create().map(Some)
        }
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_directory_at(here: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(is_directory(&stat))
}

/// Opens a directory below the target, through directories only.
fn below(target: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    crate::openat2(
        target,
        if path.is_empty() { b"." } else { path },
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

/// The access time is set too, to the same: the image's own has no meaning.
fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.cast_signed(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Copies a file's bytes and leaves its holes holes.
fn copy_data(mut source: &File, mut target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while at < size {
        let (data, hole) = match rustix::fs::seek(source, Seeking::Data(at)) {
            Ok(data) => (data, rustix::fs::seek(source, Seeking::Hole(data))?),
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // The file system does not know of holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (at, size),
            Err(error) => return Err(error.into()),
        };
        source.seek(SeekFrom::Start(data))?;
        target.seek(SeekFrom::Start(data))?;
        let length = hole.saturating_sub(data);
        io::copy(&mut source.take(length), &mut target)?;
        // A file that shrinks meanwhile must not hold us here.
        at = hole.max(at + 1);
    }
    Ok(())
}
