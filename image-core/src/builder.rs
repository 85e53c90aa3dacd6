//! A tar archive out of what is in memory, for images that a program brings along.

use tar::{EntryType, Header};

use crate::{Error, Result};

/// Builds a root file system archive for [`Store::import`](crate::Store::import). Everything is owned by root; equal calls give equal
/// bytes.
///
/// ```
/// # fn main() -> image_core::Result<()> {
/// let mut tar = image_core::TarBuilder::new(0);
/// tar.directory("bin", 0o755)?
///     .file("bin/hello", 0o755, b"#!/bin/sh\necho hello\n")?
///     .symlink("bin/greet", "hello")?;
/// let archive: Vec<u8> = tar.finish()?;
/// # assert!(archive.len() > 2048);
/// # Ok(()) }
/// ```
pub struct TarBuilder {
    builder: tar::Builder<Vec<u8>>,
    mtime: u64,
}

impl TarBuilder {
    /// An empty archive whose files all have the time `mtime`, in seconds since 1970.
    #[must_use]
    pub fn new(mtime: u64) -> Self {
        Self {
            builder: tar::Builder::new(Vec::new()),
            mtime,
        }
    }

    /// Adds a directory. `mode` is its permission bits.
    ///
    /// # Errors
    /// As all of these: when the path cannot be in an archive (absolute, or with `..`).
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        let mut header = self.header(EntryType::Directory, mode, 0);
        let added = self
            .builder
            .append_data(&mut header, path, std::io::empty());
        self.done(path, added)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// See [`TarBuilder::directory`].
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<&mut Self> {
        let mut header = self.header(EntryType::Regular, mode, content.len() as u64);
        let added = self.builder.append_data(&mut header, path, content);
        self.done(path, added)
    }

    /// Adds a symbolic link. The target is kept as it is.
    ///
    /// # Errors
    /// See [`TarBuilder::directory`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = self.header(EntryType::Symlink, 0o777, 0);
        let added = self.builder.append_link(&mut header, path, target);
        self.done(path, added)
    }

    /// Adds another name for a file added before.
    ///
    /// # Errors
    /// See [`TarBuilder::directory`].
    pub fn hardlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = self.header(EntryType::Link, 0o644, 0);
        let added = self.builder.append_link(&mut header, path, target);
        self.done(path, added)
    }

    /// The archive.
    ///
    /// # Errors
    /// None in practice: memory takes all writes.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.builder
            .into_inner()
            .map_err(|e| Error::unpack(b"the end of the archive", e))
    }

    fn header(&self, kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.mtime);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn done(&mut self, path: &str, added: std::io::Result<()>) -> Result<&mut Self> {
        match added {
            Ok(()) => Ok(self),
            Err(e) => Err(Error::refused(path.as_bytes(), e.to_string())),
        }
    }
}
