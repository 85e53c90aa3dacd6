//! Filling an empty volume from the image, once.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use image_core::ImageDirectory;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::VolumeError;
use super::hold::Held;
use crate::error::{Error, Result};

/// There while a copy is under way: who finds it and gets the lock goes on where that was cut off.
const MARKER: &str = "copying";

/// Copies what the image has at `target` into a volume that is empty, or whose copy was cut off. One process does it; others that need
/// the volume wait for it. `durable`: the files are on the disk before this returns.
pub(crate) fn up(
    held: &Held,
    content: BorrowedFd<'_>,
    layers: &[PathBuf],
    target: &str,
    durable: bool,
) -> Result<()> {
    // `content` is good for naming only.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let content = rustix::fs::openat(content, ".", flags, Mode::empty())
        .map_err(|e| Error::io("open the volume for", target, e.into()))?;
    let copy = Copy {
        directory: held.directory(),
        content,
        target,
        durable,
    };
    if !copy.is_due()? {
        return Ok(());
    }
    let image = match ImageDirectory::open(layers, target) {
        Ok(None) => return Ok(()),
        Ok(Some(image)) => image,
        Err(image_core::Error::NotADirectory { .. }) => {
            let target = target.to_owned();
            return Err(VolumeError::OverFile { target }.into());
        }
        Err(error) => return Err(error.into()),
    };
    let lock = copy.lock()?;
    let done = copy.fill(&image);
    // A child that was forked meanwhile has the same open file.
    let _ = lock.unlock();
    done
}

struct Copy<'c> {
    /// The volume's directory, with volume.json and the marker.
    directory: &'c File,
    content: OwnedFd,
    target: &'c str,
    durable: bool,
}

impl Copy<'_> {
    fn failed(&self, action: &'static str) -> impl Fn(Errno) -> Error {
        let target = Path::new(self.target).to_owned();
        move |error| Error::io(action, &target, error.into())
    }

    /// Nobody in an instance can reach volume.json, and so keep this lock.
    fn lock(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let record = rustix::fs::openat(self.directory, "volume.json", flags, Mode::empty())
            .map_err(self.failed("open volume.json for"))?;
        let lock = File::from(record);
        lock.lock()
            .map_err(|e| Error::io("lock the volume for", self.target, e))?;
        Ok(lock)
    }

    fn is_due(&self) -> Result<bool> {
        let empty = is_empty(&self.content).map_err(self.failed("list the volume for"))?;
        Ok(empty || self.is_marked())
    }

    fn is_marked(&self) -> bool {
        rustix::fs::statat(self.directory, MARKER, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    fn fill(&self, image: &ImageDirectory) -> Result<()> {
        // Another process may have filled it while this one waited.
        if !self.is_due()? {
            return Ok(());
        }
        let resume = self.is_marked();
        if !resume && image.is_empty()? {
            // Owner, mode and times only: nothing that could be cut off halfway.
            image.copy_into(self.content.as_fd(), false)?;
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory, MARKER, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.failed("mark the copy for"))?;
        if self.durable {
            rustix::fs::fsync(self.directory).map_err(self.failed("write the volume for"))?;
        }
        image.copy_into(self.content.as_fd(), resume)?;
        if self.durable {
            // All of it before the mark goes: after a loss of power nobody would copy it again.
            rustix::fs::syncfs(&self.content).map_err(self.failed("write the volume for"))?;
        }
        rustix::fs::unlinkat(self.directory, MARKER, AtFlags::empty())
            .map_err(self.failed("finish the copy for"))
    }
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            return Ok(false);
        }
    }
    Ok(true)
}
