//! The directory a layer is unpacked into, and the only way to reach anything below it.
//!
//! Parents are opened by openat2 with RESOLVE_IN_ROOT: an absolute link or `..` in one leads to the layer's root, as it would after
//! a chroot, never out of it. The last name of a path is only ever used with calls that do not follow links. Nobody
//! else writes here (the directory belongs to this process until it is renamed into place), so what has been opened stays
//! what it was until an entry of the same archive replaces it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::whiteout::{OPAQUE, OPAQUE_FOR_ALL, is_directory, is_whiteout};
use crate::error::printable;
use crate::{Error, Result};

/// Directories kept open: archives list files directory by directory, so few are needed.
const OPEN_DIRECTORIES: usize = 64;

/// The mode of directories that an archive uses without listing them; docker's and GNU tar's choice too.
const IMPLIED_MODE: u32 = 0o755;

/// A root directory being filled.
pub(crate) struct Root {
    root: Rc<OwnedFd>,
    /// Where directories go that an entry replaces; emptied later, by whoever owns the workspace.
    trash: OwnedFd,
    trashed: u64,
    open: HashMap<Vec<u8>, Rc<OwnedFd>>,
    has_opaque: bool,
}

/// What stood in a new file's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// A directory, which stays, because the new file is one too.
    KeptDirectory,
    /// Something that has been removed.
    Removed,
}

impl Root {
    pub(crate) fn open(root: &Path, trash: &Path) -> Result<Self> {
        let open = |path: &Path| {
            rustix::fs::openat(
                CWD,
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(Error::io("open", path))
        };
        Ok(Self {
            root: Rc::new(open(root)?),
            trash: open(trash)?,
            trashed: 0,
            open: HashMap::new(),
            has_opaque: false,
        })
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory at `components` below the root, following links inside the root only.
    pub(crate) fn find(&mut self, components: &[&[u8]]) -> Result<Rc<OwnedFd>, Errno> {
        if components.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let path = components.join(&b'/');
        if let Some(known) = self.open.get(&path) {
            return Ok(Rc::clone(known));
        }
        let opened = Rc::new(open_below(self.root.as_fd(), &path)?);
        self.remember(path, &opened);
        Ok(opened)
    }

    /// The same, making what is missing. The paths of directories made are added to `made`.
    pub(crate) fn find_or_make(
        &mut self,
        components: &[&[u8]],
        entry: &[u8],
        made: &mut Vec<Vec<u8>>,
    ) -> Result<Rc<OwnedFd>> {
        match self.find(components) {
            Ok(found) => return Ok(found),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::LOOP) => {
                return Err(Error::refused(
                    entry,
                    "its path goes through a loop of links",
                ));
            }
            Err(error) => return Err(Error::unpack(entry, error)),
        }
        let mut directory = Rc::clone(&self.root);
        for depth in 1..=components.len() {
            let (path, name) = (&components[..depth], components[depth - 1]);
            directory = match self.find(path) {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let new = self.make_implied(directory.as_fd(), name, entry)?;
                    made.push(path.join(&b'/'));
                    let new = Rc::new(new);
                    self.remember(path.join(&b'/'), &new);
                    new
                }
                Err(Errno::LOOP) => {
                    return Err(Error::refused(
                        entry,
                        "its path goes through a loop of links",
                    ));
                }
                Err(error) => return Err(Error::unpack(entry, error)),
            };
        }
        Ok(directory)
    }

    /// Clears the place `name` in `directory` for something new, after a call has answered EEXIST.
    pub(crate) fn clear(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        new_is_directory: bool,
    ) -> Result<Obstacle, Errno> {
        let old = status(directory, name)?;
        if is_directory(&old) {
            if new_is_directory {
                return Ok(Obstacle::KeptDirectory);
            }
            // Whatever was opened below it would go on leading there.
            self.open.clear();
            let aside = self.trashed.to_string();
            self.trashed += 1;
            rustix::fs::renameat(directory, name, &self.trash, aside.as_str())?;
        } else {
            // A path through a link that goes must not stay known.
            self.open.clear();
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
        }
        Ok(Obstacle::Removed)
    }

    /// Marks a directory as hiding everything in lower layers.
    pub(crate) fn make_opaque(&mut self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        self.has_opaque = true;
        match rustix::fs::fsetxattr(directory, OPAQUE_FOR_ALL, b"y", XattrFlags::empty()) {
            // A file system without attributes for users is none that layers can be served from.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
        rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
    }

    /// Whether any directory was ever made opaque.
    pub(crate) fn has_opaque(&self) -> bool {
        self.has_opaque
    }

    /// Whether a directory, or one above it up to the root, is opaque.
    pub(crate) fn is_hidden_below(&self, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
        let identity = |directory: BorrowedFd<'_>| {
            rustix::fs::fstat(directory).map(|stat| (stat.st_dev, stat.st_ino))
        };
        let root = identity(self.directory())?;
        let mut above = open_directory(directory, b".")?;
        loop {
            let mut value = [0u8; 1];
            match rustix::fs::fgetxattr(&above, OPAQUE, &mut value) {
                Ok(_) => return Ok(true),
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
            if identity(above.as_fd())? == root {
                return Ok(false);
            }
            above = open_directory(above.as_fd(), b"..")?;
        }
    }

    /// A directory that an entry's path needs. A whiteout in its place means that the lower layers' directory was deleted first: then
    /// the new one hides it.
    fn make_implied(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &[u8],
    ) -> Result<OwnedFd> {
        let failed = |error: Errno| Error::unpack(entry, error);
        let mut opaque = false;
        if let Err(error) = rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            if error != Errno::EXIST {
                return Err(failed(error));
            }
            if !is_whiteout(&status(parent, name).map_err(failed)?) {
                return Err(Error::refused(
                    entry,
                    format!("{} in its path is not a directory", printable(name)),
                ));
            }
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(failed)?;
            rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed)?;
            opaque = true;
        }
        let new = open_directory(parent, name).map_err(failed)?;
        let mut set = || -> io::Result<()> {
            // A set-group-ID parent hands its group and bit down.
            rustix::fs::fchown(
                &new,
                Some(rustix::fs::Uid::ROOT),
                Some(rustix::fs::Gid::ROOT),
            )?;
            rustix::fs::fchmod(&new, Mode::from_raw_mode(IMPLIED_MODE))?;
            if opaque {
                self.make_opaque(new.as_fd())?;
            }
            Ok(())
        };
        set().map_err(|error| Error::unpack(entry, error))?;
        Ok(new)
    }

    fn remember(&mut self, path: Vec<u8>, directory: &Rc<OwnedFd>) {
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.clear();
        }
        self.open.insert(path, Rc::clone(directory));
    }
}

/// What is at `name`, a link itself and not its target.
pub(crate) fn status(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Opens a directory just made or met, to set its attributes.
pub(crate) fn open_directory(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    crate::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}
