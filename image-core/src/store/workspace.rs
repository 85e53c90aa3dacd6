//! Unfinished work: one directory below `tmp/` for each operation, locked while its process lives.
//!
//! Nothing in `tmp/` is part of the store. A killed process leaves its directory behind, but not its lock: the kernel takes that
//! away with the process, and [`sweep`] removes whatever is not locked.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// A directory for one operation's unfinished files. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    /// The directory itself, locked.
    lock: File,
    counter: AtomicU64,
}

impl Workspace {
    /// Makes one below `tmp`.
    pub(crate) fn create(tmp: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = tmp.join(format!("{}-{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                // An earlier process with this ID left it.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io("create", &path)(e)),
            }
            if let Some(lock) = lock_new(&path)? {
                return Ok(Self {
                    path,
                    lock,
                    counter: AtomicU64::new(0),
                });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A name in the workspace that nothing has yet.
    pub(crate) fn unique(&self, stem: &str) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{stem}-{number}"))
    }

    /// A new directory in the workspace.
    pub(crate) fn directory(&self, stem: &str) -> Result<PathBuf> {
        let path = self.unique(stem);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(Error::io("create", &path))?;
        Ok(path)
    }

    /// Takes a file or directory out of the store; it goes with the workspace.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let aside = self.unique("discarded");
        match std::fs::rename(path, &aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(Error::io("remove", path)),
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        if clear(self.lock.as_fd()).is_ok() {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Opens and locks a directory just made. None if a sweep was faster: it may take any directory that is not locked yet.
fn lock_new(path: &Path) -> Result<Option<File>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io("open", path))?,
    };
    file.lock().map_err(Error::io("lock", path))?;
    let ours = file.metadata().map_err(Error::io("examine", path))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(Some(file)),
        _ => Ok(None),
    }
}

/// Removes what dead processes left below `tmp`. Costs one directory listing when there is nothing.
pub(crate) fn sweep(tmp: &Path) -> Result<()> {
    let listing = std::fs::read_dir(tmp).map_err(Error::io("list", tmp))?;
    for entry in listing {
        let path = entry.map_err(Error::io("list", tmp))?.path();
        let Ok(directory) = File::open(&path) else {
            // Another sweep was faster, or it is not a directory: nothing makes such, but it may go.
            let _ = std::fs::remove_file(&path);
            continue;
        };
        match directory.try_lock() {
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
            Ok(()) => {}
        }
        if clear(directory.as_fd()).is_ok() {
            let _ = std::fs::remove_dir(&path);
        } else {
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Empties a directory of whatever an archive put there, however deep: every directory below moves up to this one before its
/// turn comes, so that neither the stack nor the table of open files grows with the depth.
pub(crate) fn clear(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut moved = 0u64;
    loop {
        let names = list(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if remove(top, &name)? {
                continue;
            }
            let directory = open(top, &name)?;
            for inner in list(directory.as_fd())? {
                if remove(directory.as_fd(), &inner)? {
                    continue;
                }
                loop {
                    let up = format!("moved-{moved}");
                    moved += 1;
                    match rustix::fs::renameat_with(
                        &directory,
                        inner.as_slice(),
                        top,
                        up.as_str(),
                        rustix::fs::RenameFlags::NOREPLACE,
                    ) {
                        Err(Errno::EXIST) => {}
                        Ok(()) | Err(Errno::NOENT) => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            match rustix::fs::unlinkat(top, name.as_slice(), AtFlags::REMOVEDIR) {
                // Listings may miss names while a directory changes: the next turn finds them.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Empties an open directory of all that is in it, however deep, whoever filled it.
///
/// # Errors
/// When something in it cannot be removed.
pub fn clear_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(clear(directory)?)
}

/// Removes a directory and all that is in it, however deep, whoever filled it; a link in its place is refused. What another process
/// removes at the same time is no failure.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    // Another process that empties the same directory takes names away between our listing and our next step.
    const TRIES: usize = 100;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        let top = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(Error::io("open", path))?,
        };
        match clear(top.as_fd()) {
            Err(Errno::NOENT) => continue,
            cleared => cleared.map_err(Error::io("empty", path))?,
        }
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) => {}
            Err(error) => return Err(Error::io("remove", path)(error)),
        }
    }
    Err(Error::io("remove", path)(Errno::NOTEMPTY))
}

/// Removes a file or an empty directory. False if it is a directory with something in it.
fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn list(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Makes `directory` and those above it; only root may enter it.
pub(crate) fn make_private(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(directory, closed).map_err(Error::io("set the mode of", directory))
}

/// The names in `directory`.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(directory, flags, Mode::empty()).map_err(Error::io("open", directory))?;
    let listed = list(opened.as_fd()).map_err(Error::io("list", directory))?;
    Ok(listed
        .iter()
        .map(|name| OsStr::from_bytes(name).to_string_lossy().into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_goes_when_it_is_dropped_and_is_not_swept_before() {
        let tmp = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(tmp.path()).unwrap();
        let inside = workspace.directory("tree").unwrap();
        std::fs::write(inside.join("file"), "x").unwrap();
        sweep(tmp.path()).unwrap();
        assert!(inside.join("file").exists());
        drop(workspace);
        assert!(names(tmp.path()).unwrap().is_empty());
    }

    #[test]
    fn what_nobody_holds_is_swept() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("1-0/deep/er")).unwrap();
        std::fs::write(tmp.path().join("1-0/deep/file"), "x").unwrap();
        std::fs::write(tmp.path().join("stray"), "x").unwrap();
        sweep(tmp.path()).unwrap();
        assert!(names(tmp.path()).unwrap().is_empty());
    }

    #[test]
    fn a_tree_deeper_than_a_path_can_name_is_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(tmp.path()).unwrap();
        let mut at = rustix::fs::open(
            workspace.path(),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "moved-1", Mode::RWXU).unwrap();
            at = open(at.as_fd(), b"moved-1").unwrap();
        }
        drop(at);
        drop(workspace);
        assert!(names(tmp.path()).unwrap().is_empty());
    }
}
