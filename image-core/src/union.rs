//! An image's layers as its overlay would show them, without mounting anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::unpack::{OPAQUE, is_directory, is_whiteout};
use crate::{Error, Image, Result, Store};

/// Links followed on one way, as in the kernel (MAXSYMLINKS, namei.h).
const LINKS: usize = 40;

/// A directory of the merged tree: where it is in the layers, without any link on the way, and which layers have it. Paths are
/// kept, not descriptors: with 127 layers a few levels would fill the table of open files.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    pub(crate) path: Vec<u8>,
    /// Topmost first; never empty for a directory that was found.
    pub(crate) layers: Vec<usize>,
}

/// Where a path leads: a name in one layer's part of a merged directory.
pub(crate) struct Target {
    directory: OwnedFd,
    name: Vec<u8>,
    stat: Stat,
}

impl Target {
    pub(crate) fn stat(&self) -> &Stat {
        &self.stat
    }
}

/// What a merged directory has under a name.
pub(crate) enum Listed {
    Directory(Merged),
    /// Anything else, in this layer's part of the directory.
    File {
        layer: usize,
        stat: Stat,
    },
}

/// What is known of a name while the layers of a directory are gone through, topmost first.
enum Seen {
    Hidden,
    File { layer: usize, stat: Stat },
    Directory { layers: Vec<usize>, merges: bool },
}

/// What a name in a merged directory is.
pub(crate) enum Found {
    Directory(Merged),
    File(Target),
}

impl Store {
    /// Reads a file of an image through its layers: whiteouts hide, links are followed inside the image and never out of
    /// it. None if there is no such file.
    ///
    /// # Errors
    /// When it is no regular file, has more than `max_bytes`, or links lead in a circle.
    pub fn read_file(&self, image: &Image, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>> {
        let fail = |reason: String| Error::ImageFile {
            path: path.to_owned(),
            reason,
        };
        let union = Union::open_layers(&self.layer_dirs(image)?)?;
        let because = |error: Errno| fail(std::io::Error::from(error).to_string());
        let target = match union.find(path.as_bytes()).map_err(because)? {
            None => return Ok(None),
            Some(Found::Directory(_)) => return Err(fail("it is a directory".to_owned())),
            Some(Found::File(target)) => target,
        };
        if FileType::from_raw_mode(target.stat.st_mode) != FileType::RegularFile {
            return Err(fail("it is not a regular file".to_owned()));
        }
        if u64::try_from(target.stat.st_size).unwrap_or(u64::MAX) > max_bytes {
            return Err(fail(format!("it has more than {max_bytes} bytes")));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&target.directory, target.name, flags, Mode::empty());
        let mut bytes = Vec::new();
        let read = File::from(file.map_err(because)?)
            .take(max_bytes)
            .read_to_end(&mut bytes);
        read.map_err(|e| fail(e.to_string()))?;
        Ok(Some(bytes))
    }
}

/// An image's layers, topmost first.
pub(crate) struct Union {
    roots: Vec<OwnedFd>,
}

impl Union {
    /// Opens the layers' directories, topmost first.
    pub(crate) fn open_layers(layers: &[PathBuf]) -> Result<Self> {
        let mut roots = Vec::with_capacity(layers.len());
        for tree in layers {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(tree, flags, Mode::empty());
            roots.push(root.map_err(Error::io("open", tree))?);
        }
        Ok(Self { roots })
    }

    /// The root directory.
    pub(crate) fn root(&self) -> Merged {
        Merged {
            path: Vec::new(),
            layers: (0..self.roots.len()).collect(),
        }
    }

    /// Walks to `path`, following links.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Option<Found>, Errno> {
        let root = self.root();
        let mut here = root.clone();
        // The directories between the root and here.
        let mut above: Vec<Merged> = Vec::new();
        let mut ahead: Vec<Vec<u8>> = split(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                // Above the root is the root.
                here = above.pop().unwrap_or_else(|| root.clone());
                continue;
            }
            match self.look_up(&here, &name)? {
                None => return Ok(None),
                Some(Found::Directory(inner)) => {
                    above.push(std::mem::replace(&mut here, inner));
                }
                Some(Found::File(target))
                    if FileType::from_raw_mode(target.stat.st_mode) == FileType::Symlink =>
                {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP);
                    }
                    let link = rustix::fs::readlinkat(&target.directory, target.name, Vec::new())?;
                    let link = link.to_bytes();
                    if link.starts_with(b"/") {
                        above.clear();
                        here = root.clone();
                    }
                    ahead.extend(split(link));
                }
                // A way through a file leads nowhere.
                Some(found) => return Ok(ahead.is_empty().then_some(found)),
            }
        }
        Ok(Some(Found::Directory(here)))
    }

    /// What overlayfs would find under `name`: the topmost layer decides; directories merge until something hides the rest.
    pub(crate) fn look_up(&self, directory: &Merged, name: &[u8]) -> Result<Option<Found>, Errno> {
        let path = join(&directory.path, name);
        let mut layers = Vec::new();
        for layer in directory.layers.iter().copied() {
            let part = self.open(layer, &directory.path)?;
            let stat = match rustix::fs::statat(&part, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT | Errno::NAMETOOLONG) => continue,
                found => found?,
            };
            if is_whiteout(&stat) {
                break;
            }
            if !is_directory(&stat) {
                if layers.is_empty() {
                    return Ok(Some(Found::File(Target {
                        directory: part,
                        name: name.to_vec(),
                        stat,
                    })));
                }
                break;
            }
            layers.push(layer);
            if is_opaque(&self.open(layer, &path)?)? {
                break;
            }
        }
        Ok((!layers.is_empty()).then_some(Found::Directory(Merged { path, layers })))
    }

    /// Everything that a merged directory shows, by name.
    pub(crate) fn list(&self, directory: &Merged) -> Result<BTreeMap<Vec<u8>, Listed>, Errno> {
        let mut seen: BTreeMap<Vec<u8>, Seen> = BTreeMap::new();
        for layer in directory.layers.iter().copied() {
            let part = self.open(layer, &directory.path)?;
            for entry in Dir::read_from(&part)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let known = seen.get_mut(name);
                if matches!(
                    known,
                    Some(Seen::Hidden | Seen::File { .. } | Seen::Directory { merges: false, .. })
                ) {
                    continue;
                }
                let stat = rustix::fs::statat(&part, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if is_directory(&stat) {
                    let opaque = is_opaque(&self.open(layer, &join(&directory.path, name))?)?;
                    if let Some(Seen::Directory { layers, merges }) = known {
                        layers.push(layer);
                        *merges = !opaque;
                    } else {
                        let layers = vec![layer];
                        let merges = !opaque;
                        seen.insert(name.to_vec(), Seen::Directory { layers, merges });
                    }
                } else if let Some(Seen::Directory { merges, .. }) = known {
                    *merges = false;
                } else if is_whiteout(&stat) {
                    seen.insert(name.to_vec(), Seen::Hidden);
                } else {
                    seen.insert(name.to_vec(), Seen::File { layer, stat });
                }
            }
        }
        let listed = seen.into_iter().filter_map(|(name, seen)| {
            let listed = match seen {
                Seen::Hidden => return None,
                Seen::File { layer, stat } => Listed::File { layer, stat },
                Seen::Directory { layers, .. } => Listed::Directory(Merged {
                    path: join(&directory.path, &name),
                    layers,
                }),
            };
            Some((name, listed))
        });
        Ok(listed.collect())
    }

    /// Opens a directory of one layer. Its path was found step by step, without links; should one have appeared, it is
    /// not followed.
    pub(crate) fn open(&self, layer: usize, path: &[u8]) -> Result<OwnedFd, Errno> {
        crate::openat2(
            &self.roots[layer],
            if path.is_empty() { b"." } else { path },
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }
}

/// A name below a path; the empty path is the root.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

/// A path's components, the last one first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path
        .split(|c| *c == b'/')
        .filter(|c| !c.is_empty() && *c != b".");
    components.rev().map(<[u8]>::to_vec).collect()
}

fn is_opaque(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0u8; 1];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(error),
    }
}
