//! Finding a path in an instance.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{ArchiveError, Result, path, resolve};

/// Links followed on one way, as in the kernel (MAXSYMLINKS, namei.h).
const LINKS: usize = 40;

/// What is at a path of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// Its last name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Type and permissions, as stat(2) tells them.
    pub mode: u32,
    /// When it was changed last: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Where a link leads in the end: an absolute path inside the instance, at which there may be nothing.
    pub link_target: Option<String>,
}

impl PathStat {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.kind() == FileType::Symlink
    }

    /// Whether it is a device.
    pub fn is_device(&self) -> bool {
        matches!(
            self.kind(),
            FileType::CharacterDevice | FileType::BlockDevice
        )
    }
}

/// A path's directory, opened, and its last name in there.
pub(crate) struct Located {
    /// The directory (O_PATH).
    pub(crate) parent: OwnedFd,
    /// The last name. None: the directory itself is meant.
    pub(crate) name: Option<Vec<u8>>,
    /// What an archive calls it; empty for what goes without a name of its own.
    pub(crate) base: Vec<u8>,
}

impl Located {
    /// Finds a path of an instance: links on the way stay inside its root, one at the end is not followed.
    pub(crate) fn find(root: BorrowedFd<'_>, path: &str) -> Result<Self> {
        let absolute = path::absolute(&format!("/{path}"), path);
        let (directory, name) = absolute.rsplit_once('/').unwrap_or(("", &absolute));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // A slash at the end makes the kernel follow a link there, as docker's daemon does.
        let parent = resolve(root, format!("{directory}/").as_bytes(), flags, how)
            .map_err(|e| missing(path, e))?;
        let base = match path::base(&absolute) {
            "." | "/" => "",
            base => base,
        };
        Ok(Self {
            parent,
            name: (!name.is_empty() && name != ".").then(|| name.as_bytes().to_vec()),
            base: base.as_bytes().to_vec(),
        })
    }

    /// Its status.
    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        match &self.name {
            None => rustix::fs::fstat(&self.parent),
            Some(name) => rustix::fs::statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}

/// The error for a path that cannot be reached.
pub(crate) fn missing(path: &str, error: Errno) -> ArchiveError {
    match error {
        Errno::NOENT | Errno::NOTDIR => ArchiveError::NotFound {
            path: super::error::printable(path.as_bytes()),
        },
        error => ArchiveError::io("open", path.as_bytes(), error),
    }
}

/// What is at a path of an instance; a link at its end is not followed, but told with where it leads.
///
/// # Errors
/// [`ArchiveError::NotFound`]; [`ArchiveError::Io`].
pub fn stat(root: BorrowedFd<'_>, path: &str) -> Result<PathStat> {
    let located = Located::find(root, path)?;
    let stat = located.stat().map_err(|e| missing(path, e))?;
    let link_target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Some(target(root, path).map_err(|e| missing(path, e))?),
        _ => None,
    };
    let base = path::absolute(&format!("/{path}"), path);
    Ok(PathStat {
        name: path::base(&base).to_owned(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        link_target,
    })
}

/// The path that a path leads to when all links are followed, as far as there is something. It is only ever used as a path inside
/// the same instance, where it is resolved anew.
fn target(root: BorrowedFd<'_>, path: &str) -> Result<String, Errno> {
    let mut reached: Vec<Vec<u8>> = Vec::new();
    let mut ahead = components(path.as_bytes());
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == b".." {
            reached.pop();
            continue;
        }
        reached.push(name);
        let here = reached.join(&b'/');
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let opened = match resolve(root, &here, flags, how) {
            // The rest is a matter of text.
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&opened)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP);
            }
            let link = rustix::fs::readlinkat(opened.as_fd(), "", Vec::new())?;
            let link = link.to_bytes();
            if link.starts_with(b"/") {
                reached.clear();
            } else {
                reached.pop();
            }
            ahead.extend(components(link));
        }
    }
    let path = [&b"/"[..], &reached.join(&b'/')].concat();
    Ok(String::from_utf8_lossy(&path).into_owned())
}

/// A path's components, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path
        .split(|c| *c == b'/')
        .filter(|c| !c.is_empty() && *c != b".");
    components.rev().map(<[u8]>::to_vec).collect()
}
