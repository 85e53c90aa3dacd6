//! A cgroup's directory and the small files in it.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::sys::{Errno, file};

/// An open directory of a cgroup file system.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

fn failed(doing: impl Into<String>, path: &Path, errno: impl Into<Errno>) -> Error {
    Error::File {
        doing: doing.into(),
        path: path.to_owned(),
        errno: errno.into(),
    }
}

impl Directory {
    /// Opens a directory; `None` when it is not there.
    pub(super) fn open(path: PathBuf) -> Result<Option<Self>> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| failed("open", &path, Errno(libc::EINVAL)))?;
        match file::openat(libc::AT_FDCWD, &name, libc::O_RDONLY | libc::O_DIRECTORY, 0) {
            Ok(fd) => {
                // SAFETY: the call has just made the descriptor.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                Ok(Some(Self { path, fd }))
            }
            Err(Errno(libc::ENOENT)) => Ok(None),
            Err(errno) => Err(failed("open", &path, errno)),
        }
    }

    /// Makes a cgroup. One of the same name in which nothing runs is a leftover, and is made anew.
    ///
    /// `prepare` is called for each ancestor that had to be made, from the top.
    pub(super) fn make(
        top: &Path,
        path: &Path,
        prepare: impl Fn(&Self) -> Result<()>,
    ) -> Result<Self> {
        let full = top.join(path);
        // Somebody else may remove our empty parent between two of these calls: three rounds are more than enough.
        for _ in 0..3 {
            match fs::create_dir(&full).map_err(Errno::from) {
                Ok(()) => {}
                Err(Errno(libc::EEXIST)) => {
                    match fs::remove_dir(&full).map_err(Errno::from) {
                        Ok(()) | Err(Errno(libc::ENOENT)) => continue,
                        Err(Errno(libc::EBUSY | libc::ENOTEMPTY)) => {
                            return Err(Error::InUse { path: full });
                        }
                        Err(errno) => return Err(failed("remove", &full, errno)),
                    };
                }
                Err(Errno(libc::ENOENT)) => {
                    Self::make_ancestors(top, path, &prepare)?;
                    continue;
                }
                Err(errno) => return Err(failed("make", &full, errno)),
            }
            if let Some(made) = Self::open(full.clone())? {
                return Ok(made);
            }
        }
        Err(failed("make", &full, Errno(libc::ENOENT)))
    }

    fn make_ancestors(
        top: &Path,
        path: &Path,
        prepare: &impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        let ancestors: Vec<_> = path
            .ancestors()
            .skip(1)
            .filter(|ancestor| !ancestor.as_os_str().is_empty())
            .collect();
        for ancestor in ancestors.into_iter().rev() {
            let full = top.join(ancestor);
            match fs::create_dir(&full).map_err(Errno::from) {
                Ok(()) | Err(Errno(libc::EEXIST)) => {}
                Err(errno) => return Err(failed("make", &full, errno)),
            }
            if let Some(directory) = Self::open(full)? {
                prepare(&directory)?;
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor for the same directory.
    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
        self.fd
            .try_clone()
            .map_err(|error| failed("open", &self.path, error))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Opens a file of the cgroup's to write to later.
    pub(super) fn open_for_writing(&self, name: &str) -> Result<fs::File> {
        self.open_file(name, libc::O_WRONLY)
            .map_err(|errno| failed("open", &self.path.join(name), errno))
    }

    fn open_file(&self, name: &str, flags: libc::c_int) -> std::result::Result<fs::File, Errno> {
        let name = CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
        let fd = file::openat(self.fd.as_raw_fd(), &name, flags, 0)?;
        // SAFETY: the call has just made the descriptor.
        Ok(unsafe { fs::File::from_raw_fd(fd) })
    }

    /// Writes a value in one piece, as the kernel wants it.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<()> {
        self.try_write(name, value)
            .map_err(|errno| failed(format!("write {value:?} to"), &self.path.join(name), errno))
    }

    /// The same, with the bare error for callers that expect one.
    pub(super) fn try_write(&self, name: &str, value: &str) -> std::result::Result<(), Errno> {
        self.open_file(name, libc::O_WRONLY)?
            .write_all(value.as_bytes())
            .map_err(Errno::from)
    }

    /// Writes several values to one file, one after another.
    pub(super) fn write_each(&self, name: &str, values: &[String]) -> Result<()> {
        let mut file = self
            .open_file(name, libc::O_WRONLY)
            .map_err(|errno| failed("open", &self.path.join(name), errno))?;
        values.iter().try_for_each(|value| {
            file.write_all(value.as_bytes()).map_err(|error| {
                failed(format!("write {value:?} to"), &self.path.join(name), error)
            })
        })
    }

    /// Reads a file; `None` when there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>> {
        let mut text = String::new();
        let read = match self.open_file(name, libc::O_RDONLY) {
            Ok(mut file) => file.read_to_string(&mut text).map_err(Errno::from),
            Err(errno) => Err(errno),
        };
        match read {
            Ok(_) => Ok(Some(text)),
            // ENODEV: the cgroup has been removed under us.
            Err(Errno(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(errno) => Err(failed("read", &self.path.join(name), errno)),
        }
    }

    /// Reads a file that holds one number; `max` reads as `u64::MAX`.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.read(name)? else {
            return Ok(None);
        };
        match text.trim() {
            "max" => Ok(Some(u64::MAX)),
            number => number.parse().map(Some).map_err(|_| Error::Unreadable {
                path: self.path.join(name),
                text,
            }),
        }
    }

    /// Reads the number that a file of `key value` lines has for a key.
    pub(super) fn keyed(&self, name: &str, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.read(name)? else {
            return Ok(None);
        };
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        match value.map(|value| value.trim().parse()) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(Error::Unreadable {
                path: self.path.join(name),
                text,
            }),
        }
    }

    /// Puts a process into the cgroup.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// The processes in the cgroup itself, not in those below it. Those of another PID namespace read as 0 and are
    /// left out.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let text = self.read("cgroup.procs")?.unwrap_or_default();
        Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid != 0)
            .collect())
    }

    /// The same with those of the cgroups below.
    pub(super) fn all_processes(&self) -> Result<Vec<u32>> {
        let mut all = self.processes()?;
        for child in self.children()? {
            // One that has gone meanwhile holds nothing.
            if let Some(child) = Self::open(self.path.join(child))? {
                all.extend(child.all_processes()?);
            }
        }
        Ok(all)
    }

    /// The names of the cgroups below.
    pub(super) fn children(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path).map_err(Errno::from) {
            Ok(entries) => entries,
            Err(Errno(libc::ENOENT)) => return Ok(Vec::new()),
            Err(errno) => return Err(failed("list", &self.path, errno)),
        };
        Ok(entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }
}
