//! `COPY` and `ADD`: files of the context, of a stage or of an image into a layer.
//!
//! Both sides are directory descriptors, and every path is resolved below them, links included: neither a link in the context nor one in
//! the image leads anywhere else.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use image_core::{
    Digest, Keep, Lease, Selection, Store, StoredLayer, Times, TreePacker, open_archive, pack_upper,
};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::ignore::{Ignore, name_matches};
use crate::archive::{Owner, TarInOptions, tar_in};
use crate::error::{Error, Result};

/// Paths that one pattern may match.
const MATCHES: usize = 100_000;

/// Where files come from.
pub(super) struct Source {
    pub(super) root: OwnedFd,
    /// What is none of a context.
    pub(super) ignore: Ignore,
    /// Whether files belong to root in the image unless told otherwise, as those of a context do.
    pub(super) is_context: bool,
}

/// What is to be copied, with everything put in.
pub(super) struct Transfer<'t> {
    pub(super) keyword: &'static str,
    pub(super) source: &'t Source,
    pub(super) patterns: &'t [String],
    /// An absolute path, with a slash at its end where it was typed.
    pub(super) destination: &'t str,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
    /// `ADD`: archives are unpacked.
    pub(super) unpacks: bool,
}

/// One thing to copy: its path below the source's root, links resolved, and its name.
#[derive(Debug)]
struct Item {
    path: Vec<u8>,
    name: Vec<u8>,
    is_directory: bool,
    is_archive: bool,
}

/// What was found, and a digest of its content: what the cache is asked for.
pub(super) struct Found {
    items: Vec<Item>,
    pub(super) content: Digest,
}

impl Found {
    /// docker's word for what is copied, in an image's history.
    pub(super) fn shown(&self) -> String {
        let kind = match self.items.as_slice() {
            [item] if item.is_directory => "dir",
            [_] => "file",
            _ => "multi",
        };
        format!("{kind}:{}", self.content.hex())
    }
}

fn how() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

impl Transfer<'_> {
    fn failed(&self, reason: impl std::fmt::Display) -> Error {
        Error::Unsupported(format!("{} failed: {reason}", self.keyword))
    }

    /// Looks up what is to be copied.
    pub(super) fn find(&self) -> Result<Found> {
        let mut items = Vec::new();
        for pattern in self.patterns {
            if self.unpacks && is_remote(pattern) {
                return Err(Error::Unsupported(format!(
                    "ADD of {pattern} is not supported: fetch it first and ADD the file, or use RUN with curl"
                )));
            }
            let before = items.len();
            for path in self.expand(pattern)? {
                items.extend(self.item(&path)?);
            }
            if items.len() == before {
                return Err(self.failed(format!(
                    "file not found in {}: {pattern}",
                    if self.source.is_context {
                        "build context or excluded by .dockerignore"
                    } else {
                        "what --from names"
                    }
                )));
            }
        }
        if items.len() > 1 && !self.destination.ends_with('/') {
            return Err(self.failed(format!(
                "when using {} with more than one source file, the destination must be a directory and end with a /",
                self.keyword
            )));
        }
        let mut hasher = Hashing(image_core::Hasher::new());
        self.pack(&items, Times::All(0), &mut hasher, &|item| {
            item.name.clone()
        })?;
        for item in items.iter().filter(|item| item.is_archive) {
            // An archive that is unpacked is another thing than the same file copied.
            hasher.0.update(&item.name);
            hasher.0.update(b" unpacked");
        }
        Ok(Found {
            items,
            content: hasher.0.finish(),
        })
    }

    /// The paths that a pattern matches, in order. Without wildcards it is a path itself.
    fn expand(&self, pattern: &str) -> Result<Vec<Vec<u8>>> {
        let parts: Vec<&[u8]> = pattern
            .as_bytes()
            .split(|c| *c == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        let mut paths: Vec<Vec<u8>> = vec![Vec::new()];
        for part in parts {
            if !part.iter().any(|c| b"*?[\\".contains(c)) {
                for path in &mut paths {
                    *path = join(path, part);
                }
                continue;
            }
            let mut next = Vec::new();
            for path in paths {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let Ok(directory) = self.open(&path, flags) else {
                    continue;
                };
                let entries = Dir::read_from(&directory).map_err(|e| self.io(&path, e))?;
                for entry in entries {
                    let entry = entry.map_err(|e| self.io(&path, e))?;
                    let name = entry.file_name().to_bytes();
                    if name == b"." || name == b".." {
                        continue;
                    }
                    if name_matches(part, name).map_err(|e| self.failed(e))? {
                        next.push(join(&path, name));
                    }
                }
                if next.len() > MATCHES {
                    return Err(self.failed(format!("{pattern} matches more than {MATCHES} files")));
                }
            }
            paths = next;
        }
        paths.sort_unstable();
        Ok(paths)
    }

    /// What is at a path; none if it is not there or ignored.
    fn item(&self, path: &[u8]) -> Result<Option<Item>> {
        let opened = match self.open(path, OFlags::PATH | OFlags::CLOEXEC) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            opened => opened.map_err(|e| self.io(path, e))?,
        };
        let stat = rustix::fs::fstat(&opened).map_err(|e| self.io(path, e))?;
        let resolved = self.resolved(&opened, path)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if self.source.ignore.ignores(path)
            && !(is_directory && self.source.ignore.has_exceptions())
        {
            return Ok(None);
        }
        let name = path.rsplit(|c| *c == b'/').next().unwrap_or(path).to_vec();
        let is_archive = self.unpacks
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && self.archive(&resolved)?.is_some();
        Ok(Some(Item {
            path: resolved,
            name,
            is_directory,
            is_archive,
        }))
    }

    /// Where what was opened really is below the root: the way to it may have led through links.
    fn resolved(&self, opened: &OwnedFd, path: &[u8]) -> Result<Vec<u8>> {
        let place = |fd: i32| -> Result<Vec<u8>> {
            let link = format!("/proc/self/fd/{fd}");
            let target = std::fs::read_link(&link).map_err(|e| Error::io("read", &link, e))?;
            Ok(target.as_os_str().as_bytes().to_vec())
        };
        let root = place(self.source.root.as_raw_fd())?;
        let inner = place(opened.as_raw_fd())?;
        let root: &[u8] = if root == b"/" { b"" } else { &root };
        match inner.strip_prefix(root) {
            Some(b"") => Ok(Vec::new()),
            Some([b'/', rest @ ..]) => Ok(rest.to_vec()),
            _ => Err(self.io(path, Errno::XDEV)),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        image_core::openat2(&self.source.root, path, flags, Mode::empty(), how())
    }

    fn archive(&self, path: &[u8]) -> Result<Option<image_core::Archive>> {
        let file = self
            .open(path, OFlags::RDONLY | OFlags::CLOEXEC)
            .map_err(|e| self.io(path, e))?;
        let name = String::from_utf8_lossy(path).into_owned();
        Ok(open_archive(File::from(file), &name)?)
    }

    fn io(&self, path: &[u8], error: Errno) -> Error {
        let path = String::from_utf8_lossy(path);
        self.failed(format!("cannot use {:?}: {}", path, io::Error::from(error)))
    }

    /// Writes the items as an archive, each under the name that `named` gives; an empty one stands for a directory's content.
    fn pack(
        &self,
        items: &[Item],
        times: Times,
        output: &mut dyn Write,
        named: &dyn Fn(&Item) -> Vec<u8>,
    ) -> Result<()> {
        let ignore = &self.source.ignore;
        let keeps = |path: &[u8]| match ignore.ignores(path) {
            false => Keep::Yes,
            true if ignore.has_exceptions() => Keep::No,
            true => Keep::NothingBelow,
        };
        let selection = Selection {
            keeps: Some(&keeps),
            owner: self
                .owner
                .or_else(|| self.source.is_context.then_some((0, 0))),
            mode: self.mode,
            ..Selection::default()
        };
        let mut packer = TreePacker::new(output, times);
        for item in items {
            packer.add(
                self.source.root.as_fd(),
                &item.path,
                &named(item),
                &selection,
            )?;
        }
        Ok(packer.finish()?)
    }

    /// Copies what was found over these layers, topmost first, into a new one.
    pub(super) fn store(
        &self,
        found: &Found,
        store: &Store,
        lease: &Lease,
        layers: &[PathBuf],
        times: Times,
    ) -> Result<StoredLayer> {
        let over = Over::new(lease, layers)?;
        let target = self.destination;
        let is_directory = target.ends_with('/')
            || over.is_directory(target)
            || found
                .items
                .iter()
                .any(|item| item.is_directory || item.is_archive);
        let (directory, name) = if is_directory {
            (target, None)
        } else {
            let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
            (parent, Some(name.as_bytes().to_vec()))
        };
        over.make_directory(directory, self.owner)?;
        let plain: Vec<&Item> = found.items.iter().filter(|item| !item.is_archive).collect();
        for item in plain {
            let named = |item: &Item| match &name {
                _ if item.is_directory => Vec::new(),
                Some(name) => name.clone(),
                None => item.name.clone(),
            };
            // In a pipe between two threads: nothing is ever whole in memory.
            let (mut reader, writer) = io::pipe().map_err(|source| Error::System {
                action: "make a pipe",
                source,
            })?;
            std::thread::scope(|scope| {
                let item = std::slice::from_ref(item);
                let packing = scope.spawn(move || {
                    let mut writer = writer;
                    self.pack(item, Times::Kept, &mut writer, &named)
                });
                let options = TarInOptions {
                    owner: Owner::Archive,
                    ..TarInOptions::default()
                };
                let unpacked = tar_in(over.root.as_fd(), directory, &mut reader, &options);
                // Whoever writes is not killed by a pipe without a reader.
                let _ = io::copy(&mut reader, &mut io::sink());
                let packed = packing
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                packed.and(unpacked.map_err(Error::from))
            })?;
        }
        for item in found.items.iter().filter(|item| item.is_archive) {
            let Some(mut archive) = self.archive(&item.path)? else {
                return Err(self.failed("an archive has changed meanwhile"));
            };
            let owner = match self.owner {
                Some((uid, gid)) => Owner::All { uid, gid },
                None => Owner::Archive,
            };
            let options = TarInOptions {
                owner,
                overwrite_dir_non_dir: true,
            };
            tar_in(over.root.as_fd(), directory, &mut archive, &options)?;
        }
        over.store(store, lease, times)
    }
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "ftp://", "git://", "git@", "ssh://"]
        .iter()
        .any(|scheme| source.starts_with(scheme))
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

/// A layer in the making over others, mounted where nobody else sees it.
pub(super) struct Over {
    root: OwnedFd,
    upper: PathBuf,
}

impl Over {
    pub(super) fn new(lease: &Lease, layers: &[PathBuf]) -> Result<Self> {
        let (upper, work) = (lease.directory()?, lease.directory()?);
        // It becomes the root directory of what is seen.
        let open = Permissions::from_mode(0o755);
        std::fs::set_permissions(&upper, open)
            .map_err(|e| Error::io("set the mode of", &upper, e))?;
        let mut below = layers.to_vec();
        if below.is_empty() {
            // Overlayfs wants something below.
            below.push(lease.directory()?);
        }
        let root = container_core::mount_overlay(&below, &upper, &work, false)?;
        Ok(Self { root, upper })
    }

    /// The merged tree, to be read.
    pub(super) fn into_root(self) -> OwnedFd {
        self.root
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        image_core::openat2(&self.root, path, flags, Mode::empty(), how()).is_ok()
    }

    /// Makes a directory and those above it that are missing.
    pub(super) fn make_directory(&self, path: &str, owner: Option<(u32, u32)>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |e: Errno| {
            Error::Unsupported(format!(
                "cannot make the directory {path} in the image: {}",
                io::Error::from(e)
            ))
        };
        let mut here = String::from("/");
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent =
                image_core::openat2(&self.root, here.as_str(), flags, Mode::empty(), how())
                    .map_err(failed)?;
            if !here.ends_with('/') {
                here.push('/');
            }
            here.push_str(part);
            let there = image_core::openat2(&self.root, here.as_str(), flags, Mode::empty(), how());
            match there {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
            rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)).map_err(failed)?;
            let made = rustix::fs::openat(&parent, part, flags | OFlags::NOFOLLOW, Mode::empty())
                .map_err(failed)?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(failed)?;
            if let Some((uid, gid)) = owner {
                rustix::fs::chownat(
                    &parent,
                    part,
                    Some(Uid::from_raw(uid)),
                    Some(Gid::from_raw(gid)),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Stores what was written as a layer.
    pub(super) fn store(self, store: &Store, lease: &Lease, times: Times) -> Result<StoredLayer> {
        let Self { root, upper } = self;
        // What is mounted no more cannot change any more.
        drop(root);
        let directory = File::open(&upper).map_err(|e| Error::io("open", &upper, e))?;
        let stored = store.add_layer(lease, |output| {
            pack_upper(directory.as_fd(), times, &|_| false, output)
        })?;
        image_core::clear_directory(directory.as_fd())
            .map_err(|e| Error::io("clear", &upper, e))?;
        Ok(stored)
    }
}

/// A digest of what is written.
struct Hashing(image_core::Hasher);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
