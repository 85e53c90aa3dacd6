//! How much an archive may ask of the machine.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::printable;
use crate::{Error, Result};

/// Ceilings for what a single `import` or `load` may unpack. They are far above real images: they stop bombs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of files in one layer, holes of sparse files included. Independent of this, nothing is unpacked that
    /// the disk has no space for.
    pub layer_bytes: u64,
    /// Entries in one archive.
    pub entries: u64,
    /// Bytes in a path. Linux takes 4095 in one system call (PATH_MAX, limits.h).
    pub path_bytes: usize,
    /// Directories above a file.
    pub path_depth: usize,
    /// Bytes of one extended attribute's value. Linux takes 65 536 (XATTR_SIZE_MAX, limits.h).
    pub xattr_bytes: usize,
    /// Layers of one image. Docker's own limit (MaxLayers in moby's layer package is 125 to 127 by version).
    pub layers: usize,
    /// Bytes of one JSON document: index, manifest, configuration. Registries take 4 MiB (distribution specification).
    pub document_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 128 << 30,
            entries: 2_000_000,
            path_bytes: 4095,
            path_depth: 512,
            xattr_bytes: 65_536,
            layers: 127,
            document_bytes: 4 << 20,
        }
    }
}

impl Limits {
    /// The most bytes that a decompressed layer archive may have: its files, and a header with padding for each entry.
    pub(crate) fn archive_bytes(&self) -> u64 {
        // A header, a PAX header with its records, and padding stay below 4 KiB for an ordinary entry.
        self.layer_bytes
            .saturating_add(self.entries.saturating_mul(4096))
    }

    /// The components of an entry's path below the root; empty for the root itself.
    ///
    /// # Errors
    /// [`Error::RefusedEntry`] for a path with `..`, or one that passes a limit.
    pub fn components<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>> {
        if path.len() > self.path_bytes {
            return Err(Error::refused(
                path,
                format!(
                    "its path is longer than the limit of {} bytes",
                    self.path_bytes
                ),
            ));
        }
        let mut components = Vec::new();
        for component in path.split(|c| *c == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(Error::refused(path, "its path contains '..'")),
                // NAME_MAX of limits.h.
                long if long.len() > 255 => {
                    return Err(Error::refused(
                        path,
                        "a name in its path is longer than 255 bytes",
                    ));
                }
                nul if nul.contains(&0) => {
                    return Err(Error::refused(path, "its path contains a NUL byte"));
                }
                name => components.push(name),
            }
        }
        if components.len() > self.path_depth {
            return Err(Error::refused(
                path,
                format!(
                    "it lies deeper than the limit of {} directories",
                    self.path_depth
                ),
            ));
        }
        Ok(components)
    }
}

/// The disk space one operation may use, shared by the threads that write for it.
///
/// Without it a bomb would fill the file system to the last block before it is noticed, to the harm of everything else on it.
#[derive(Debug)]
pub(crate) struct Budget {
    root: PathBuf,
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// What is free below `root` now, except a reserve of 1 % of the file system, at most 256 MiB.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let space = rustix::fs::statvfs(root).map_err(Error::io("find the free space of", root))?;
        let size = space.f_blocks.saturating_mul(space.f_frsize);
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let reserve = (size / 100).min(256 << 20);
        Ok(Self {
            root: root.to_owned(),
            limit: free.saturating_sub(reserve),
            used: AtomicU64::new(0),
        })
    }

    /// Takes `bytes` for `name`, before they are written.
    pub(crate) fn take(&self, bytes: u64, name: &[u8]) -> Result<()> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            return Err(self.full(format!(
                "{} needs more than the {} bytes that were free",
                printable(name),
                self.limit
            )));
        }
        Ok(())
    }

    /// The error for a full disk.
    pub(crate) fn full(&self, reason: String) -> Error {
        Error::NoSpace {
            path: self.root.clone(),
            reason,
        }
    }
}
