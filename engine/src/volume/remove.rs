//! Removing volumes that nobody uses.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use super::hold::{self, Alone};
use super::{Use, Volume, VolumeError, check_name, list, users, uses};
use crate::error::Result;
use crate::home::Home;
use crate::mount::{MountKind, MountSpec};

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The volumes that are gone.
    pub names: Vec<String>,
    /// Bytes that their files had.
    pub bytes: u64,
}

/// Volumes looked at together: each costs an open file.
const CHUNK: usize = 128;

/// Removes a volume.
///
/// # Errors
/// [`VolumeError::NotFound`]; [`VolumeError::InUse`] while an instance has it, running or not; [`crate::Error::Io`].
pub fn remove(home: &Home, name: &str) -> Result<()> {
    let missing = || VolumeError::NotFound(name.to_owned());
    check_name(name).map_err(|_| missing())?;
    let in_use = |by| VolumeError::InUse {
        name: name.to_owned(),
        by,
    };
    let held = match hold::alone(home, name)? {
        Alone::Held(held) => held,
        Alone::Missing => return Err(missing().into()),
        Alone::Busy => return Err(in_use(vec!["an instance that is being made".into()]).into()),
    };
    // Only now: whoever takes the volume from here on finds it held.
    let by = users(&uses(home)?, name);
    if !by.is_empty() {
        return Err(in_use(by).into());
    }
    hold::discard(home, name, held, true)
}

/// Removes all volumes that no instance has and `wanted` picks.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::DamagedState`]; those removed before stay removed.
pub fn prune(home: &Home, wanted: &dyn Fn(&Volume) -> bool) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    let candidates: Vec<Volume> = list(home)?.into_iter().filter(|v| wanted(v)).collect();
    for chunk in candidates.chunks(CHUNK) {
        let mut held = Vec::new();
        for volume in chunk {
            if let Alone::Held(lock) = hold::alone(home, &volume.name)? {
                held.push((volume, lock));
            }
        }
        let uses = uses(home)?;
        for (volume, lock) in held {
            if users(&uses, &volume.name).is_empty() {
                let bytes = bytes_in(&volume.mountpoint);
                hold::discard(home, &volume.name, lock, false)?;
                pruned.bytes += bytes;
                pruned.names.push(volume.name.clone());
            }
        }
    }
    Ok(pruned)
}

/// Removes the anonymous volumes among an instance's mounts, for `rm -v` and `--rm`; those that another instance has too (by
/// `--volumes-from`) stay for that one. `instance` is the identifier of the one that goes, whose own record does not count.
///
/// Can be repeated after a kill in between, before the record is removed.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::DamagedState`].
pub fn remove_anonymous(home: &Home, instance: &str, mounts: &[MountSpec]) -> Result<()> {
    let anonymous = mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume(volume) if volume.anonymous => volume.name.as_deref(),
        _ => None,
    });
    let mut held = Vec::new();
    for name in anonymous {
        if let Alone::Held(lock) = hold::alone(home, name)? {
            held.push((name, lock));
        }
    }
    // Nearly all of them have never been anybody else's: then no record need be read, however many there are.
    let mut others: Vec<Use> = Vec::new();
    if held.iter().any(|(_, lock)| lock.is_shared_out()) {
        others = uses(home)?;
        others.retain(|one| one.instance != instance);
    }
    for (name, lock) in held {
        if users(&others, name).is_empty() {
            hold::discard(home, name, lock, false)?;
        }
    }
    Ok(())
}

/// The sizes of all files of a volume, hard links once: what docker counts. What cannot be read counts nothing.
pub fn size(volume: &Volume) -> u64 {
    bytes_in(&volume.mountpoint)
}

/// Instances may be at work below `top`: no link of theirs is followed.
fn bytes_in(top: &Path) -> u64 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let Ok(top) = rustix::fs::open(top, flags, Mode::empty()) else {
        return 0;
    };
    let mut bytes = 0_u64;
    let mut linked = HashSet::new();
    let mut ahead: Vec<Vec<u8>> = vec![b".".to_vec()];
    while let Some(path) = ahead.pop() {
        let opened = image_core::openat2(&top, path.as_slice(), flags, Mode::empty(), how);
        let Ok(directory) = opened else { continue };
        let Ok(entries) = Dir::read_from(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                ahead.push([&path[..], b"/", name].concat());
            } else if stat.st_nlink == 1 || linked.insert((stat.st_dev, stat.st_ino)) {
                bytes = bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
        }
    }
    bytes
}

/// Finishes what killed processes left undone.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn sweep(home: &Home) -> Result<()> {
    hold::sweep(home)
}
