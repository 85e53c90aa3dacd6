//! Unpacks an archive.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmodat,
    chownat, fchmod, fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat,
    openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::input::Input;
use crate::tar::{BLOCK, Entry, kind, padding};

/// The most that pax's records or a long name may have, in bytes: far more than any path or attribute that Linux takes.
const MOST_ABOUT: u64 = 1 << 20;

/// How long a directory's time is as archived: until something is made in it.
struct Dated {
    path: Vec<u8>,
    times: Timestamps,
}

struct Unpacker<'a> {
    input: Input<'a>,
    /// Below it everything is made: no name and no link leads out of it.
    root: OwnedFd,
    owner: Option<(Uid, Gid)>,
    /// Directories whose times are set at the end.
    dated: Vec<Dated>,
}

/// Unpacks the archive that `from` gives below a directory that exists. What is there is replaced, but no directory by something
/// else and nothing else by a directory. With an owner, everything is made its.
pub(crate) fn unpack(
    from: BorrowedFd<'_>,
    directory: &[u8],
    owner: Option<(Uid, Gid)>,
) -> Result<(), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty())
        .map_err(|error| Failure::at_named("open", directory, error))?;
    let mut unpacker = Unpacker {
        input: Input::new(from),
        root,
        owner,
        dated: Vec::new(),
    };
    unpacker.entries()?;
    unpacker.date()?;
    // Whoever sends it need not learn that what follows the end was not read.
    unpacker.input.drop_rest()
}

impl Unpacker<'_> {
    fn entries(&mut self) -> Result<(), Failure> {
        let mut records = Vec::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let mut block = [0; BLOCK];
            if !self.input.fill(&mut block)? || block == [0; BLOCK] {
                return Ok(());
            }
            let mut entry = Entry::decode(&block)
                .ok_or_else(|| Failure::new("stdin is no tar archive, or a damaged one"))?;
            match entry.kind {
                kind::PAX => {
                    records = self.about(&entry)?;
                    continue;
                }
                kind::GNU_NAME => {
                    long_name = Some(self.about(&entry)?);
                    continue;
                }
                kind::GNU_LINK => {
                    long_link = Some(self.about(&entry)?);
                    continue;
                }
                kind::PAX_GLOBAL => {
                    self.about(&entry)?;
                    continue;
                }
                _ => {}
            }
            if let Some(name) = long_name.take() {
                entry.name = name;
            }
            if let Some(link) = long_link.take() {
                entry.link = link;
            }
            entry
                .extend(&core::mem::take(&mut records))
                .ok_or_else(|| Failure::new("stdin is a damaged tar archive"))?;
            self.entry(&entry)?;
        }
    }

    /// Reads what an entry holds that is about the next one.
    fn about(&mut self, entry: &Entry) -> Result<Vec<u8>, Failure> {
        if entry.size > MOST_ABOUT {
            return Err(Failure::new("a header in the archive is too large"));
        }
        let mut held = alloc::vec![0; entry.size as usize];
        self.input.fill_all(&mut held)?;
        self.input.skip(padding(entry.size) as u64)?;
        // GNU's names end in a zero byte.
        if entry.kind != kind::PAX && held.last() == Some(&0) {
            held.pop();
        }
        Ok(held)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Failure> {
        let path = clean(&entry.name)?;
        let is_file = matches!(entry.kind, kind::FILE | kind::OLD_FILE | kind::CONTIGUOUS);
        let is_directory = entry.kind == kind::DIRECTORY
            || (entry.kind == kind::OLD_FILE && entry.name.ends_with(b"/"));
        let Some(base) = path
            .rsplit(|byte| *byte == b'/')
            .next()
            .filter(|b| !b.is_empty())
        else {
            // The directory itself, which is as it is.
            return self.input.skip_entry(entry.size);
        };
        let parent_path = path.get(..path.len() - base.len()).unwrap_or_default();
        let fail = |what: &str, error| Failure::at(what, &path, error);
        let parent = self
            .parent(parent_path)
            .map_err(|error| fail("make", error))?;
        let parent = parent.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        let there = match statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => Some(FileType::from_raw_mode(about.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(fail("stat", error)),
        };
        match there {
            Some(FileType::Directory) if is_directory => {}
            Some(FileType::Directory) => {
                let name = String::from_utf8_lossy(&path);
                return Err(Failure::new(format!(
                    "cannot overwrite directory {name:?} with non-directory"
                )));
            }
            Some(_) if is_directory => {
                let name = String::from_utf8_lossy(&path);
                return Err(Failure::new(format!(
                    "cannot overwrite non-directory {name:?} with directory"
                )));
            }
            Some(_) => {
                unlinkat(parent, base, AtFlags::empty()).map_err(|error| fail("replace", error))?
            }
            None => {}
        }
        if is_directory {
            self.directory(entry, parent, base, there.is_some())
                .map_err(|error| fail("make", error))?;
            self.dated.push(Dated {
                path: path.clone(),
                times: times(entry),
            });
            return self.input.skip_entry(entry.size);
        }
        if is_file {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(parent, base, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|error| fail("make", error))?;
            self.input.copy(&file, entry.size, &path)?;
            self.input.skip(padding(entry.size) as u64)?;
            return self
                .finish_file(&file, entry)
                .map_err(|error| fail("set up", error));
        }
        self.special(entry, parent, base)
            .map_err(|error| fail("make", error))?;
        self.input.skip_entry(entry.size)
    }

    /// Opens the directory that holds an entry, and makes what of it is missing; `None` is the root.
    fn parent(&self, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        let mut parent = None;
        if path.is_empty() {
            return Ok(parent);
        }
        match self.open_below(path) {
            Err(Errno::NOENT) => {}
            opened => return opened.map(Some),
        }
        for end in (1..=path.len()).filter(|end| path.get(*end - 1) == Some(&b'/')) {
            let part = path.get(..end).unwrap_or_default();
            parent = match self.open_below(part) {
                Err(Errno::NOENT) => {
                    let name = part
                        .split(|byte| *byte == b'/')
                        .rev()
                        .nth(1)
                        .unwrap_or_default();
                    let above = parent.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
                    mkdirat(above, name, Mode::from_raw_mode(0o755))?;
                    Some(self.open_below(part)?)
                }
                opened => Some(opened?),
            };
        }
        Ok(parent)
    }

    fn open_below(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH,
        )
    }

    fn directory(
        &self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        base: &[u8],
        there: bool,
    ) -> Result<(), Errno> {
        if !there {
            mkdirat(parent, base, Mode::RWXU)?;
        }
        let (uid, gid) = self.owner_of(entry);
        chownat(parent, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        // It is a directory, so there is no link to be followed.
        chmodat(
            parent,
            base,
            Mode::from_raw_mode(entry.mode),
            AtFlags::empty(),
        )
    }

    fn finish_file(&self, file: &OwnedFd, entry: &Entry) -> Result<(), Errno> {
        let (uid, gid) = self.owner_of(entry);
        fchown(file, uid, gid)?;
        // After the owner, whose change takes the bits for set-user-ID and the capabilities away.
        fchmod(file, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in &entry.attributes {
            match fsetxattr(
                file,
                name.as_slice(),
                value,
                rustix::fs::XattrFlags::empty(),
            ) {
                // This file system has none, or not these.
                Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                other => other?,
            }
        }
        futimens(file, &times(entry))
    }

    fn special(&self, entry: &Entry, parent: BorrowedFd<'_>, base: &[u8]) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(entry.mode);
        let device = makedev(entry.device.0, entry.device.1);
        match entry.kind {
            kind::HARD_LINK => return self.hard_link(entry, parent, base),
            kind::SYMLINK => symlinkat(entry.link.as_slice(), parent, base)?,
            kind::CHARACTER => mknodat(parent, base, FileType::CharacterDevice, mode, device)?,
            kind::BLOCK => mknodat(parent, base, FileType::BlockDevice, mode, device)?,
            kind::FIFO => mknodat(parent, base, FileType::Fifo, mode, 0)?,
            _ => return Err(Errno::OPNOTSUPP),
        }
        let (uid, gid) = self.owner_of(entry);
        chownat(parent, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if entry.kind != kind::SYMLINK {
            chmodat(parent, base, mode, AtFlags::empty())?;
        }
        utimensat(parent, base, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn hard_link(&self, entry: &Entry, parent: BorrowedFd<'_>, base: &[u8]) -> Result<(), Errno> {
        let target = clean(&entry.link).map_err(|_| Errno::INVAL)?;
        let name = target
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        let above = target.get(..target.len() - name.len()).unwrap_or_default();
        let opened;
        let directory = if above.is_empty() {
            self.root.as_fd()
        } else {
            opened = self.open_below(above)?;
            opened.as_fd()
        };
        linkat(directory, name, parent, base, AtFlags::empty())
    }

    fn owner_of(&self, entry: &Entry) -> (Option<Uid>, Option<Gid>) {
        let archived = || {
            let (uid, gid) = (u32::try_from(entry.uid), u32::try_from(entry.gid));
            crate::owner(uid.ok()?, gid.ok()?)
        };
        match self.owner.or_else(archived) {
            Some((uid, gid)) => (Some(uid), Some(gid)),
            None => (None, None),
        }
    }

    /// Sets the directories' times, which making something in them has changed: what is in one before itself.
    fn date(&self) -> Result<(), Failure> {
        for dated in self.dated.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat2(
                &self.root,
                dated.path.as_slice(),
                flags,
                Mode::empty(),
                ResolveFlags::BENEATH,
            )
            .and_then(|directory| futimens(&directory, &dated.times))
            .map_err(|error| Failure::at("set the time of", &dated.path, error))?;
        }
        Ok(())
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime,
        tv_nsec: entry.mtime_ns.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// A path in the archive as one below the directory: without leading and double slashes and dots.
fn clean(name: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut path = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => {
                let name = String::from_utf8_lossy(name);
                return Err(Failure::new(format!(
                    "the archive holds a name with .. in it: {name:?}"
                )));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
