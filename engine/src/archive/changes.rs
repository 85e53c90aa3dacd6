//! `diff`: what an instance's writable layer changes of its image.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use image_core::{LayerChild, LayerDirectory, LayerStat, LayerView};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{ArchiveError, Result, resolve};

/// overlayfs's mark of a directory that hides what lower layers have (kernel, Documentation/filesystems/overlayfs.rst), and the same for
/// mounts in user namespaces.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Components of a path that are looked at: as many as a path of the kernel's (4095 bytes) can have.
const DEPTH: usize = 2048;

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there anew.
    Added,
    /// It, or something in it, is different.
    Changed,
    /// It is gone.
    Deleted,
}

impl ChangeKind {
    /// docker's letter for it.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// One line of `diff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Where: an absolute path inside the instance. Print it escaped, since the instance has chosen it.
    pub path: String,
}

/// One file of a writable layer, as it lies there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperEntry {
    /// Its path below the layer's root.
    pub path: Vec<u8>,
    /// Type and permissions, as stat(2) tells them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// When it was changed last: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Whether it marks a deleted file: a character device 0/0.
    pub whiteout: bool,
    /// Whether it is a directory that hides what lower layers have.
    pub opaque: bool,
}

/// A path taken apart: the order of these is the order of docker's output.
type Components = Vec<Vec<u8>>;

/// What the layer in the directory `upper` changes of the image whose layers (topmost first) are given.
///
/// # Errors
/// When a layer or the directory cannot be read.
pub fn changes(layers: &[PathBuf], upper: BorrowedFd<'_>) -> Result<Vec<Change>> {
    changes_of(layers, &upper_entries(upper)?)
}

/// The same from a list of the layer's files in any order, as a VM's agent sends it.
///
/// # Errors
/// When a layer cannot be read; [`ArchiveError::Refused`] for paths that cannot be.
pub fn changes_of(layers: &[PathBuf], entries: &[UpperEntry]) -> Result<Vec<Change>> {
    let view = LayerView::open(layers)?;
    let mut upper: BTreeMap<Components, &UpperEntry> = BTreeMap::new();
    for entry in entries {
        let components = components(&entry.path)?;
        if !components.is_empty() {
            upper.insert(components, entry);
        }
    }
    let mut comparison = Comparison {
        view: &view,
        lower: BTreeMap::new(),
        changes: BTreeMap::new(),
    };
    for (path, entry) in &upper {
        comparison.entry(path, entry, &upper)?;
    }
    let changes = comparison.changes.into_iter();
    Ok(changes
        .map(|(path, kind)| Change {
            kind,
            path: format!("/{}", String::from_utf8_lossy(&path.join(&b'/'))),
        })
        .collect())
}

fn components(path: &[u8]) -> Result<Components> {
    let components: Components = path
        .split(|c| *c == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
        .collect();
    let refused = |reason| Err(ArchiveError::refused(path, reason));
    if components.iter().any(|c| c == b".." || c.contains(&0)) {
        return refused("a path of the writable layer cannot be this");
    }
    if components.len() > DEPTH {
        return refused("it lies deeper than a path can name");
    }
    Ok(components)
}

struct Comparison<'c> {
    view: &'c LayerView,
    /// The image's directories below those of the upper layer. None: it has none there.
    lower: BTreeMap<Components, Option<LayerDirectory>>,
    changes: BTreeMap<Components, ChangeKind>,
}

impl Comparison<'_> {
    fn entry(
        &mut self,
        path: &Components,
        entry: &UpperEntry,
        upper: &BTreeMap<Components, &UpperEntry>,
    ) -> Result<()> {
        let Some((name, parent)) = path.split_last() else {
            return Ok(());
        };
        let below = self.directory(parent)?;
        let old = match &below {
            Some(directory) => self.view.child(directory, name)?,
            None => None,
        };
        let is_directory = FileType::from_raw_mode(entry.mode) == FileType::Directory;
        match (&old, entry.whiteout) {
            (None, true) => {}
            (None, false) if is_place_of_ours(path, entry) => {}
            (Some(_), true) => self.report(path, ChangeKind::Deleted),
            (None, false) => self.report(path, ChangeKind::Added),
            (Some(LayerChild::File(stat)), false) => {
                if is_directory || differs(entry, stat, true) {
                    self.report(path, ChangeKind::Changed);
                }
            }
            (Some(LayerChild::Directory(directory, stat)), false) => {
                // docker: neither size nor time of a directory say that somebody has changed it.
                if differs(entry, stat, false) {
                    self.report(path, ChangeKind::Changed);
                }
                if entry.opaque || !is_directory {
                    for name in self.view.names(directory)? {
                        let gone = [path.as_slice(), &[name]].concat();
                        if upper.get(&gone).is_none_or(|entry| entry.whiteout) {
                            self.report(&gone, ChangeKind::Deleted);
                        }
                    }
                }
            }
        }
        if is_directory && !entry.whiteout {
            let below = match old {
                Some(LayerChild::Directory(directory, _)) => Some(directory),
                _ => None,
            };
            self.lower.insert(path.clone(), below);
        }
        Ok(())
    }

    /// The image's directory at a path. Those above an entry come before it in the order of the list, unless a VM has left them out.
    fn directory(&mut self, path: &[Vec<u8>]) -> Result<Option<LayerDirectory>> {
        if let Some(known) = self.lower.get(path) {
            return Ok(known.clone());
        }
        let mut directory = Some(self.view.root());
        for name in path {
            directory = match directory {
                None => None,
                Some(above) => match self.view.child(&above, name)? {
                    Some(LayerChild::Directory(inner, _)) => Some(inner),
                    _ => None,
                },
            };
        }
        self.lower.insert(path.to_vec(), directory.clone());
        Ok(directory)
    }

    /// Notes a change, and that the directories above have changed with it.
    fn report(&mut self, path: &[Vec<u8>], kind: ChangeKind) {
        self.changes.insert(path.to_vec(), kind);
        let mut above = path;
        while let Some((_, parent)) = above.split_last() {
            if parent.is_empty() || self.changes.contains_key(parent) {
                break;
            }
            self.changes.insert(parent.to_vec(), ChangeKind::Changed);
            above = parent;
        }
    }
}

/// Whether it is no more than the place that a file of ours was mounted at, in an image that has none there.
fn is_place_of_ours(path: &Components, entry: &UpperEntry) -> bool {
    let is_empty = entry.size == 0 && FileType::from_raw_mode(entry.mode) == FileType::RegularFile;
    let mut path = path.iter().map(Vec::as_slice);
    is_empty
        && path.next() == Some(b"etc")
        && matches!(path.next(), Some(b"hosts" | b"hostname" | b"resolv.conf"))
        && path.next().is_none()
}

/// docker's comparison of two files (moby, pkg/archive, `statDifferent`).
fn differs(entry: &UpperEntry, old: &LayerStat, with_content: bool) -> bool {
    let owner = (entry.mode, entry.uid, entry.gid, entry.rdev);
    owner != (old.mode, old.uid, old.gid, old.rdev)
        || with_content && (entry.size, entry.mtime) != (old.size, old.mtime)
}

/// Lists a writable layer.
///
/// # Errors
/// When it cannot be read.
pub fn upper_entries(upper: BorrowedFd<'_>) -> Result<Vec<UpperEntry>> {
    let mut entries = Vec::new();
    let mut ahead: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(inside) = ahead.pop() {
        let failed = |e: Errno| ArchiveError::io("read", &inside, e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let directory = match resolve(upper, &inside, flags, how) {
            // The instance has removed or replaced it meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            opened => opened.map_err(failed)?,
        };
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat.map_err(failed)?,
            };
            let path = match inside.as_slice() {
                b"" => name.to_vec(),
                inside => [inside, b"/", name].concat(),
            };
            let mut found = described(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                found.opaque = is_opaque(&directory, name);
                ahead.push(path.clone());
            }
            found.path = path;
            entries.push(found);
        }
    }
    Ok(entries)
}

fn described(stat: &Stat) -> UpperEntry {
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    UpperEntry {
        path: Vec::new(),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        whiteout: is_device && stat.st_rdev == 0,
        opaque: false,
    }
}

fn is_opaque(parent: &OwnedFd, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let Ok(directory) = resolve(parent.as_fd(), name, flags, how) else {
        return false;
    };
    let mut value = [0_u8; 1];
    OPAQUE.iter().any(|attribute| {
        rustix::fs::fgetxattr(&directory, *attribute, &mut value[..]).is_ok() && value == *b"y"
    })
}
