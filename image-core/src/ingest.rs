//! One layer archive, read once: stored as a blob, digested twice, inflated and unpacked at the same time.
//!
//! Three threads carry 256 KiB chunks: the caller's reads, digests and stores; a second inflates and digests what comes out
//! (compressed archives only); a third unpacks. Where several layers are in one archive, the first of these writes files, which the
//! others follow ([`Ingest::spool`], [`Ingest::tree`]).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use crate::archive::{CHUNK, ChunkSender, Compression, Decoder, TarReader, fill, is_tar, pipe};
use crate::digest::Hasher;
use crate::limits::Budget;
use crate::load::Growing;
use crate::store::Workspace;
use crate::unpack::{Unpacked, unpack};
use crate::{Digest, Error, Limits, Result};

/// A layer that has been read whole, still in the workspace.
#[derive(Debug)]
pub(crate) struct Ingested {
    /// The archive as it was given.
    pub(crate) blob: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) compression: Compression,
    /// The digest of the inflated archive.
    pub(crate) diff_id: Digest,
    /// The directory it was unpacked into.
    pub(crate) tree: PathBuf,
    pub(crate) unpacked: Unpacked,
}

/// A layer that has been unpacked from a blob.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The digest of the inflated archive; none if it was not compressed, and the blob's is the same.
    pub(crate) inflated: Option<Digest>,
    pub(crate) tree: PathBuf,
    pub(crate) unpacked: Unpacked,
}

/// The file that a layer's archive is kept in while it comes.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// How many of the archive's first bytes are in it already.
    pub(crate) have: u64,
}

/// What is shared by everything one `import` or `load` reads.
pub(crate) struct Ingest<'i> {
    pub(crate) workspace: &'i Workspace,
    pub(crate) limits: &'i Limits,
    pub(crate) budget: &'i Budget,
}

/// The compression of what begins with these bytes, if it could be a layer: a tar, or anything compressed.
pub(crate) fn looks_like_a_layer(start: &[u8]) -> Option<Compression> {
    match Compression::detect(start) {
        Ok(Compression::None) if !is_tar(start) => None,
        Ok(compression) => Some(compression),
        Err(_) => None,
    }
}

impl Ingest<'_> {
    /// Reads a layer called `name` in errors. With `needs_end`, an archive without its end marker is refused as cut
    /// short: for archives that no digest vouches for.
    pub(crate) fn layer(
        &self,
        source: &mut dyn Read,
        name: &str,
        needs_end: bool,
    ) -> Result<Ingested> {
        let path = self.workspace.unique("blob");
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let kept = Kept {
            path,
            file,
            have: 0,
        };
        self.layer_kept(source, name, needs_end, kept)
    }

    /// [`Ingest::layer`] into a file that may hold the archive's beginning already; `source` begins with that too.
    pub(crate) fn layer_kept(
        &self,
        source: &mut dyn Read,
        name: &str,
        needs_end: bool,
        mut kept: Kept,
    ) -> Result<Ingested> {
        let tree = self.workspace.directory("tree")?;
        let trash = self.workspace.directory("trash")?;

        let mut first = Vec::new();
        fill(source, &mut first).map_err(|e| Error::reading(name, e))?;
        let compression = Compression::detect(&first).map_err(|other| Error::Malformed {
            archive: name.to_owned(),
            reason: format!("it is compressed with {other}, but only gzip and zstd are supported"),
        })?;
        if compression == Compression::None && !is_tar(&first) {
            let reason = if first.is_empty() {
                "it is empty"
            } else {
                "it is neither a tar archive nor one in gzip or zstd"
            };
            return Err(Error::Malformed {
                archive: name.to_owned(),
                reason: reason.to_owned(),
            });
        }

        let target = tree.join("fs");
        let (unpacked, inflated, digest, size) = thread::scope(|scope| {
            let (raw, archive) = pipe();
            let (archive, inflating) = if compression == Compression::None {
                (archive, None)
            } else {
                let (inflated, inflated_archive) = pipe();
                let limit = self.limits.archive_bytes();
                let inflating =
                    scope.spawn(move || inflate(archive, compression, &inflated, limit));
                (inflated_archive, Some(inflating))
            };
            let (target, trash) = (&target, &trash);
            let unpacking =
                scope.spawn(move || self.unpack(archive, name, target, trash, needs_end));
            let (digest, size) = self.store(source, first, &mut kept, &raw, name);
            // Ends the pipe.
            drop(raw);
            (join(unpacking), inflating.map(join), digest, size)
        });
        // The unpacker sees every error of the threads before it, in the order of the bytes; those threads only see that
        // nobody reads any more.
        let unpacked = unpacked?;
        let diff_id = match inflated {
            Some(inflated) => inflated.ok_or_else(|| Error::Malformed {
                archive: name.to_owned(),
                reason: "it could not be inflated".to_owned(),
            })?,
            None => digest,
        };
        Ok(Ingested {
            blob: kept.path,
            digest,
            size,
            compression,
            diff_id,
            tree,
            unpacked,
        })
    }

    /// Writes a layer's archive into `blob`, where others follow it. Gives its digest and size.
    pub(crate) fn spool(
        &self,
        source: &mut dyn Read,
        name: &str,
        blob: &Path,
        growing: &Growing,
    ) -> Result<(Digest, u64)> {
        let mut copy = || {
            let mut file = File::options()
                .append(true)
                .open(blob)
                .map_err(Error::io("open", blob))?;
            let mut hasher = Hasher::new();
            let mut size = 0;
            let mut chunk = Vec::new();
            loop {
                fill(source, &mut chunk).map_err(|e| Error::reading(name, e))?;
                size += chunk.len() as u64;
                self.budget.take(chunk.len() as u64, name.as_bytes())?;
                file.write_all(&chunk).map_err(Error::io("write", blob))?;
                growing.grow(chunk.len());
                hasher.update(&chunk);
                if chunk.len() < CHUNK {
                    return Ok((hasher.finish(), size));
                }
            }
        };
        let copied = copy();
        growing.end(copied.is_ok());
        copied
    }

    /// Unpacks the archive of a layer called `name` in errors. A cut one is not noticed by its end marker: its digest vouches
    /// for it.
    pub(crate) fn tree(
        &self,
        archive: impl Read + Send,
        name: &str,
        compression: Compression,
    ) -> Result<Tree> {
        let tree = self.workspace.directory("tree")?;
        let trash = self.workspace.directory("trash")?;
        let target = tree.join("fs");
        let archive = BufReader::with_capacity(CHUNK, archive);
        if compression == Compression::None {
            let unpacked = self.unpack(archive, name, &target, &trash, false)?;
            return Ok(Tree {
                inflated: None,
                tree,
                unpacked,
            });
        }
        let (onward, inflated_archive) = pipe();
        let limit = self.limits.archive_bytes();
        let (unpacked, inflated) = thread::scope(|scope| {
            let inflating = scope.spawn(move || inflate(archive, compression, &onward, limit));
            let unpacked = self.unpack(inflated_archive, name, &target, &trash, false);
            (unpacked, join(inflating))
        });
        let unpacked = unpacked?;
        let inflated = inflated.ok_or_else(|| Error::Malformed {
            archive: name.to_owned(),
            reason: "it could not be inflated".to_owned(),
        })?;
        Ok(Tree {
            inflated: Some(inflated),
            tree,
            unpacked,
        })
    }

    /// Reads content of any other kind into a file of the workspace. Gives its digest and size.
    pub(crate) fn plain(
        &self,
        source: &mut dyn Read,
        name: &str,
    ) -> Result<(PathBuf, Digest, u64)> {
        let blob = self.workspace.unique("blob");
        let mut file = File::create_new(&blob).map_err(Error::io("create", &blob))?;
        let mut hasher = Hasher::new();
        let mut size = 0;
        let mut chunk = Vec::new();
        loop {
            fill(source, &mut chunk).map_err(|e| Error::reading(name, e))?;
            hasher.update(&chunk);
            size += chunk.len() as u64;
            self.budget.take(chunk.len() as u64, name.as_bytes())?;
            file.write_all(&chunk).map_err(Error::io("write", &blob))?;
            if chunk.len() < CHUNK {
                return Ok((blob, hasher.finish(), size));
            }
        }
    }

    /// The first stage: everything read is digested, written, and handed on.
    fn store(
        &self,
        source: &mut dyn Read,
        first: Vec<u8>,
        kept: &mut Kept,
        onward: &ChunkSender,
        name: &str,
    ) -> (Digest, u64) {
        let mut hasher = Hasher::new();
        let mut size = 0;
        let mut step = |chunk: Vec<u8>| -> Result<bool> {
            hasher.update(&chunk);
            let before = size;
            size += chunk.len() as u64;
            if size > kept.have {
                let there = usize::try_from(kept.have.saturating_sub(before)).unwrap_or(0);
                let new = &chunk[there..];
                self.budget.take(new.len() as u64, name.as_bytes())?;
                kept.file
                    .write_all_at(new, before + there as u64)
                    .map_err(Error::io("write", &kept.path))?;
            }
            Ok(onward.send(Ok(chunk)))
        };
        let pump = || -> Result<()> {
            let mut chunk = first;
            loop {
                let more = chunk.len() == CHUNK;
                // When nobody reads any more, whoever stopped knows why.
                if !step(chunk)? || !more {
                    return Ok(());
                }
                chunk = onward.buffer();
                fill(source, &mut chunk).map_err(|e| Error::reading(name, e))?;
            }
        };
        if let Err(error) = pump() {
            onward.send(Err(error.into()));
        }
        (hasher.finish(), size)
    }

    /// The last stage.
    fn unpack(
        &self,
        archive: impl BufRead,
        name: &str,
        tree: &Path,
        trash: &Path,
        needs_end: bool,
    ) -> Result<Unpacked> {
        std::fs::create_dir(tree).map_err(Error::io("create", tree))?;
        let mut archive = TarReader::new(archive, name, self.limits);
        let unpacked = unpack(&mut archive, tree, trash, self.limits, self.budget)?;
        let ended = archive.drain()?;
        if needs_end && !ended {
            return Err(Error::Truncated {
                archive: name.to_owned(),
                reason: "its end marker is missing".to_owned(),
            });
        }
        Ok(unpacked)
    }
}

/// The middle stage: inflates and digests. None when it failed, which the next stage hears of.
fn inflate(
    archive: impl BufRead,
    compression: Compression,
    onward: &ChunkSender,
    limit: u64,
) -> Option<Digest> {
    let mut hasher = Hasher::new();
    let mut size = 0u64;
    let pump = || -> io::Result<()> {
        let mut decoder = Decoder::new(compression, archive)?;
        loop {
            let mut chunk = onward.buffer();
            fill(&mut decoder, &mut chunk)?;
            let more = chunk.len() == CHUNK;
            size += chunk.len() as u64;
            if size > limit {
                return Err(Error::LimitPassed {
                    what: "bytes in a layer's inflated archive",
                    limit,
                }
                .into());
            }
            hasher.update(&chunk);
            if !onward.send(Ok(chunk)) || !more {
                return Ok(());
            }
        }
    };
    match pump() {
        Ok(()) => Some(hasher.finish()),
        Err(error) => {
            onward.send(Err(error));
            None
        }
    }
}

/// A stage's result; its panic goes on in the caller.
fn join<T>(stage: thread::ScopedJoinHandle<'_, T>) -> T {
    stage
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
