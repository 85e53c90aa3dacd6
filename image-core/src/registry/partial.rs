//! Blobs on their way in, in `incoming/<digest>`: what has come already outlives the process, and the next attempt goes on from there.
//!
//! A file is locked by who is filling it, until the image is published. So of two that want the same blob the second waits, and then
//! finds it in the store. Locks are taken in the order of the digests, so that nobody waits in a circle.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Digest, Error, Result};

/// What nobody has come back for by then is removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob that is not all here yet, held by us alone.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Partial {
    /// Opens and locks the file of a blob, waiting for whoever fills it.
    pub(super) fn open(
        directory: &Path,
        digest: Digest,
        waiting: &mut dyn FnMut(),
    ) -> Result<Self> {
        let path = directory.join(digest.hex());
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc_nofollow())
                .open(&path)
                .map_err(Error::io("open", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    file.lock().map_err(Error::io("lock", &path))?;
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
            // Who held it may have published or removed it.
            if is_at(&file, &path) {
                return Ok(Self { path, file });
            }
        }
    }

    /// How much is here.
    pub(super) fn length(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(Error::io("examine", &self.path))?.len())
    }

    /// Forgets what is here.
    pub(super) fn restart(&self) -> Result<()> {
        self.file
            .set_len(0)
            .map_err(Error::io("truncate", &self.path))
    }

    /// Takes the file away if it is still where it was made.
    pub(super) fn remove_if_left(&self) {
        if is_at(&self.file, &self.path) {
            self.remove();
        }
    }

    /// Takes the file away; the lock stays ours until this is dropped.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes `incoming`, and removes what has lain there for a week.
pub(super) fn prepare(root: &Path) -> Result<PathBuf> {
    let directory = root.join("incoming");
    if !directory.exists() {
        crate::store::make_private(&directory)?;
    }
    clear_older(&directory, KEPT)?;
    Ok(directory)
}

/// Removes what has not grown for `age`, except what is being filled. Gives the bytes.
pub(super) fn clear_older(directory: &Path, age: Duration) -> Result<u64> {
    let listing = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        listing => listing.map_err(Error::io("list", directory))?,
    };
    let mut freed = 0;
    for entry in listing {
        let path = entry.map_err(Error::io("list", directory))?.path();
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let Ok(metadata) = file.metadata() else {
            continue;
        };
        let is_old = metadata
            .modified()
            .ok()
            .and_then(|changed| changed.elapsed().ok())
            .is_some_and(|since| since >= age);
        if is_old
            && file.try_lock().is_ok()
            && is_at(&file, &path)
            && std::fs::remove_file(&path).is_ok()
        {
            freed += metadata.len();
        }
    }
    Ok(freed)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn libc_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_has_come_stays_and_who_comes_second_waits() {
        let directory = tempfile::tempdir().unwrap();
        let incoming = prepare(directory.path()).unwrap();
        let digest = Digest::of(b"x");
        let mut first = Partial::open(&incoming, digest, &mut || panic!("waits")).unwrap();
        first.file.write_all(b"abc").unwrap();
        std::thread::scope(|scope| {
            let (told, waits) = std::sync::mpsc::channel();
            let second = scope.spawn(|| {
                let opened = Partial::open(&incoming, digest, &mut move || told.send(()).unwrap());
                opened.unwrap().length().unwrap()
            });
            waits.recv().unwrap();
            drop(first);
            assert_eq!(second.join().unwrap(), 3);
        });
    }

    #[test]
    fn who_waited_for_a_file_that_is_gone_begins_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let incoming = prepare(directory.path()).unwrap();
        let digest = Digest::of(b"x");
        let mut first = Partial::open(&incoming, digest, &mut || ()).unwrap();
        first.file.write_all(b"abc").unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                Partial::open(&incoming, digest, &mut || ())
                    .unwrap()
                    .length()
                    .unwrap()
            });
            std::thread::sleep(Duration::from_millis(50));
            first.remove();
            drop(first);
            assert_eq!(second.join().unwrap(), 0);
        });
    }

    #[test]
    fn what_is_old_goes_and_what_is_held_stays() {
        let directory = tempfile::tempdir().unwrap();
        let incoming = prepare(directory.path()).unwrap();
        let mut held = Partial::open(&incoming, Digest::of(b"held"), &mut || ()).unwrap();
        held.file.write_all(b"abc").unwrap();
        let left = incoming.join(Digest::of(b"left").hex());
        std::fs::write(&left, "four").unwrap();
        assert_eq!(clear_older(&incoming, KEPT).unwrap(), 0);
        assert_eq!(clear_older(&incoming, Duration::ZERO).unwrap(), 4);
        assert!(held.path.exists() && !left.exists());
    }
}
