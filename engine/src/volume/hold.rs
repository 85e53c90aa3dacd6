//! Holding a volume so that nobody removes it, and making one so that it appears whole.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Record, directory};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::names;

/// A volume's directory, locked.
#[derive(Debug)]
pub(crate) struct Held {
    file: File,
}

impl Held {
    /// The directory.
    pub(crate) fn directory(&self) -> &File {
        &self.file
    }

    /// Notes that an anonymous volume is not only its first instance's any more. The note stays.
    pub(crate) fn share_out(&self) -> io::Result<()> {
        if self.is_shared_out() {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.file, SHARED, flags, Mode::RUSR | Mode::WUSR)?;
        self.file.sync_all()
    }

    /// Whether an anonymous volume may have other users than its first instance.
    pub(crate) fn is_shared_out(&self) -> bool {
        rustix::fs::statat(&self.file, SHARED, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

/// There from when a second instance takes an anonymous volume.
const SHARED: &str = "shared";

impl Drop for Held {
    fn drop(&mut self) {
        // Closing is not enough where a child that was forked meanwhile has the same open file.
        let _ = self.file.unlock();
    }
}

/// Holds a volume with others who need it; nobody removes it while this lives. None if there is none.
pub(crate) fn shared(home: &Home, name: &str) -> Result<Option<Held>> {
    let path = directory(home, name);
    loop {
        let Some(file) = open_directory(&path)? else {
            return Ok(None);
        };
        // Waits for a removal that is under way, which takes a look at the records.
        file.lock_shared()
            .map_err(|e| Error::io("lock", &path, e))?;
        if is_still(&path, &file) {
            return Ok(Some(Held { file }));
        }
    }
}

/// What an attempt to hold a volume alone comes to.
#[derive(Debug)]
pub(crate) enum Alone {
    /// It is ours.
    Held(Held),
    /// Somebody is about to use it.
    Busy,
    /// There is none.
    Missing,
}

/// Holds a volume alone, to remove it.
pub(crate) fn alone(home: &Home, name: &str) -> Result<Alone> {
    let path = directory(home, name);
    loop {
        let Some(file) = open_directory(&path)? else {
            return Ok(Alone::Missing);
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Alone::Busy),
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        if is_still(&path, &file) {
            return Ok(Alone::Held(Held { file }));
        }
    }
}

/// Makes a volume. If another process was faster, its volume stays. `durable`: it is on the disk before this returns.
pub(crate) fn make(home: &Home, name: &str, record: &Record, durable: bool) -> Result<()> {
    sweep(home)?;
    let (path, _held) = workspace(home)?;
    let made = fill(&path, record, durable).and_then(|()| {
        let target = directory(home, name);
        match rustix::fs::renameat_with(CWD, &path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) if durable => sync(&home.volumes()),
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let _ = image_core::remove_tree(&path);
                Ok(())
            }
            Err(error) => Err(Error::io("create", &target, error.into())),
        }
    });
    if made.is_err() {
        // The first failure is the one to tell; what stays is swept.
        let _ = image_core::remove_tree(&path);
    }
    made
}

fn fill(path: &Path, record: &Record, durable: bool) -> Result<()> {
    let data = path.join("_data");
    DirBuilder::new()
        .mode(0o755)
        .create(&data)
        .map_err(|e| Error::io("create", &data, e))?;
    // The process's umask has taken bits away.
    fs::set_permissions(&data, Permissions::from_mode(0o755))
        .map_err(|e| Error::io("set the mode of", &data, e))?;
    let file = path.join("volume.json");
    let written = serde_json::to_vec(record)
        .map_err(io::Error::from)
        .and_then(|json| {
            let mut new = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)?;
            new.write_all(&json)?;
            if durable { new.sync_all() } else { Ok(()) }
        });
    written.map_err(|e| Error::io("write", &file, e))?;
    if durable { sync(path) } else { Ok(()) }
}

/// Moves a volume that is held alone to where it can be deleted, and deletes it. After the move it does not exist any more, whatever
/// happens then; with `durable`, not after a loss of power either.
pub(crate) fn discard(home: &Home, name: &str, held: Held, durable: bool) -> Result<()> {
    sweep(home)?;
    let (path, _workspace) = workspace(home)?;
    let from = directory(home, name);
    let target = path.join("volume");
    fs::rename(&from, &target).map_err(|e| Error::io("rename", &from, e))?;
    // Whoever waits for this volume may make a new one now.
    drop(held);
    if durable {
        sync(&home.volumes())?;
    }
    // The volume is gone for the user: what cannot be deleted now is swept.
    let _ = image_core::remove_tree(&path);
    Ok(())
}

/// Deletes what killed processes left in `.tmp`. Costs one directory listing when there is nothing.
pub(crate) fn sweep(home: &Home) -> Result<()> {
    let folder = home.volumes().join(".tmp");
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io("read", &folder, e))?,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if let Ok(Some(file)) = open_directory(&path)
            && file.try_lock().is_ok()
        {
            // What stays is for the next sweep.
            let _ = image_core::remove_tree(&path);
        }
    }
    Ok(())
}

/// A new directory in `.tmp`, locked.
fn workspace(home: &Home) -> Result<(PathBuf, File)> {
    let folder = home.volumes().join(".tmp");
    loop {
        let path = folder.join(&names::new_id()?[..16]);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // A state directory from before there were volumes.
                DirBuilder::new()
                    .mode(0o700)
                    .recursive(true)
                    .create(&folder)
                    .map_err(|e| Error::io("create", &folder, e))?;
                continue;
            }
            Err(e) => return Err(Error::io("create", &path, e)),
        }
        // A sweep may be faster, and take it for a dead process's.
        let Some(file) = open_directory(&path)? else {
            continue;
        };
        file.lock().map_err(|e| Error::io("lock", &path, e))?;
        if is_still(&path, &file) {
            return Ok((path, file));
        }
    }
}

/// Opens a directory itself, not what a link in its place leads to.
fn open_directory(path: &Path) -> Result<Option<File>> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("open", path, e)),
    }
}

/// Whether the open directory is what the path leads to now.
fn is_still(path: &Path, file: &File) -> bool {
    let Ok(ours) = file.metadata() else {
        return false;
    };
    fs::symlink_metadata(path)
        .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

/// Puts a directory's names on the disk.
fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| Error::io("write", path, e))
}
