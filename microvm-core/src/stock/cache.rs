//! What was made of kernels and is kept: by the digest of the kernel's file, whole or not at all.
//!
//! ```text
//! lock                     held by who makes something
//! by-file/<identity>.json  what is known of a kernel's file, as long as that is not written to
//! <digest>/vmlinux         a compressed kernel, unpacked
//! <digest>/plan-*.json     which modules it takes for a machine
//! <digest>/initramfs-*     an initial RAM disk with them
//! .part-*                  what is being made; under the lock, what a killed process has left
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// The directory.
#[derive(Debug)]
pub(super) struct Cache<'a>(pub(super) &'a Path);

/// A process that makes something; ends with this.
pub(super) struct Making<'a> {
    cache: &'a Cache<'a>,
    _lock: File,
}

/// What tells a file from any other and from itself before it was written to.
pub(super) fn identity(about: &fs::Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        about.dev(),
        about.ino(),
        about.len(),
        about.mtime(),
        about.mtime_nsec(),
        about.ctime(),
        about.ctime_nsec()
    )
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, what, source }
}

impl<'a> Cache<'a> {
    pub(super) fn path(&self, parts: &[&str]) -> PathBuf {
        parts
            .iter()
            .fold(self.0.to_owned(), |path, part| path.join(part))
    }

    /// Something kept as JSON. What is missing or not whole is made again.
    pub(super) fn get<T: DeserializeOwned>(&self, parts: &[&str]) -> Option<T> {
        let bytes = fs::read(self.path(parts)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Waits until nobody else makes anything, and clears away what a killed process has left.
    pub(super) fn make(&'a self) -> Result<Making<'a>> {
        fs::create_dir_all(self.0).map_err(failed(self.0, "cannot make the directory"))?;
        let path = self.0.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed(&path, "cannot open the lock"))?;
        lock.lock().map_err(failed(&path, "cannot lock"))?;
        for entry in fs::read_dir(self.0).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".part-") {
                // What cannot be removed is in nobody's way.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Making {
            cache: self,
            _lock: lock,
        })
    }
}

impl Making<'_> {
    /// Keeps these bytes, which are there whole or not at all, after a crash too.
    pub(super) fn keep(&self, parts: &[&str], bytes: &[u8]) -> Result<PathBuf> {
        self.keep_checked(parts, bytes, |_| Ok(()))
    }

    /// The same, for what is looked at as a file before it is taken.
    pub(super) fn keep_checked(
        &self,
        parts: &[&str],
        bytes: &[u8],
        check: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.cache.path(parts);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed(folder, "cannot make the directory"))?;
        }
        let part = self.cache.0.join(format!(".part-{}", std::process::id()));
        let write = || {
            let mut file = File::create(&part)?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        let made = write()
            .map_err(failed(&part, "cannot write"))
            .and_then(|()| check(&part))
            .and_then(|()| fs::rename(&part, &path).map_err(failed(&path, "cannot write")));
        if made.is_err() {
            let _ = fs::remove_file(&part);
        }
        made.map(|()| path)
    }

    /// Keeps something as JSON.
    pub(super) fn keep_json(&self, parts: &[&str], value: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::system("write what is known of a kernel")(io::Error::from(error))
        })?;
        self.keep(parts, &bytes).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_whole_and_what_was_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache(folder.path());
        fs::write(folder.path().join(".part-1"), "half").unwrap();
        let making = cache.make().unwrap();
        making.keep_json(&["a", "b.json"], &vec![1, 2]).unwrap();
        let refused = making.keep_checked(&["a", "c"], b"x", |_| Err(Error::NoQemu));
        assert!(refused.is_err());
        assert_eq!(cache.get::<Vec<u8>>(&["a", "b.json"]), Some(vec![1, 2]));
        assert_eq!(cache.get::<Vec<u8>>(&["a", "c"]), None);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_file_that_is_written_to_is_another() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let now = || identity(&fs::metadata(file.path()).unwrap());
        let before = now();
        assert_eq!(before, now());
        fs::write(file.path(), "x").unwrap();
        assert_ne!(before, now());
    }
}
