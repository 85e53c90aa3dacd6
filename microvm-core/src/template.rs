//! Templates: machines that have booted to where their agent waits, saved, so that later ones go on from there.
//!
//! A template is a directory with two files, `state` and `memory`, which appears whole or not at all. Machines made from it map its
//! memory copy-on-write: they share whatever none of them has written. Only its owner can read or write it, and nothing that
//! others could have written is taken: that, and not a digest, is what vouches for the memory, since reading all of it would
//! take longer than restoring a machine.
//!
//! A machine that becomes a template ([`Start::Draft`](crate::Start)) has no disks, shares or networks, but a number of
//! vacant places for devices. The machines made from it fill those, and their agent has the kernel look there again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::kvm::saved::{MAX_BYTES, Saved, fit};
use crate::{Error, Result, VmConfig};

const STATE: &str = "state";
const MEMORY: &str = "memory";

/// A template that was read and found whole. Whether it fits a machine shows when that is launched.
#[derive(Debug, Clone)]
pub struct Template {
    pub(crate) path: PathBuf,
    pub(crate) saved: Arc<Saved>,
    pub(crate) memory: Arc<File>,
    stored_bytes: u64,
}

impl Template {
    /// Opens the template in this directory; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Template`] when it cannot be used: damaged, cut, of another version, or open to others.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let refused = |why: String| Error::Template {
            path: path.to_owned(),
            why,
        };
        let open = |name: &str| {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path.join(name))
                .map_err(|error| refused(format!("its {name} file cannot be opened: {error}")))?;
            let about = file
                .metadata()
                .map_err(|error| refused(format!("its {name} file cannot be read: {error}")))?;
            // SAFETY: geteuid has no arguments and cannot fail.
            let ours = about.uid() == unsafe { libc::geteuid() };
            if !about.is_file() || !ours || about.mode() & 0o077 != 0 {
                return Err(refused(format!(
                    "its {name} file is not this user's alone (mode 0600)"
                )));
            }
            Ok((file, about))
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(format!("it cannot be read: {error}"))),
            Ok(_) => {}
        }
        let (state, about) = open(STATE)?;
        if about.len() > MAX_BYTES {
            return Err(refused("its state file is too long".to_owned()));
        }
        let mut bytes = Vec::with_capacity(about.len() as usize);
        state
            .take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| refused(format!("its state file cannot be read: {error}")))?;
        let saved = Saved::decode(&bytes).map_err(refused)?;
        let (memory, about) = open(MEMORY)?;
        if about.len() != saved.memory_bytes() {
            return Err(refused(format!(
                "its memory file has {} bytes in place of {}",
                about.len(),
                saved.memory_bytes()
            )));
        }
        Ok(Some(Self {
            path: path.to_owned(),
            saved: Arc::new(saved),
            memory: Arc::new(memory),
            stored_bytes: about.blocks() * 512 + bytes.len() as u64,
        }))
    }

    /// The memory of machines made from it, MiB.
    pub fn memory_mib(&self) -> u32 {
        self.saved.fit.memory_mib
    }

    /// Their virtual CPUs.
    pub fn vcpus(&self) -> u8 {
        self.saved.fit.vcpus
    }

    /// When it was saved, seconds since 1970.
    pub fn saved_at(&self) -> u64 {
        self.saved.saved_at
    }

    /// The space that it takes, bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }
}

/// A template in the making. Dropped before it is published, nothing of it is left; killed, its remains are out of sight, and go
/// when the next is begun.
#[derive(Debug)]
pub struct Draft {
    /// Held as long as it is in the making.
    _lock: File,
    hidden: PathBuf,
    path: PathBuf,
    state: File,
    memory: File,
}

/// The files of a template in the making, for the monitor.
#[derive(Debug)]
pub struct DraftFiles {
    pub(crate) state: File,
    pub(crate) memory: File,
}

impl DraftFiles {
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let copy = |file: &File| file.try_clone().map_err(Error::system("copy a descriptor"));
        Ok(Self {
            state: copy(&self.state)?,
            memory: copy(&self.memory)?,
        })
    }
}

impl Draft {
    /// Begins a template in this directory, whose parent exists; `None` if another process is at it.
    ///
    /// # Errors
    /// When its files cannot be made.
    pub fn begin(path: &Path) -> Result<Option<Self>> {
        let beside = |word: &str| {
            let mut name = std::ffi::OsString::from(".");
            name.push(path.file_name().unwrap_or_default());
            name.push(word);
            path.with_file_name(name)
        };
        let (lock_path, hidden) = (beside(".lock"), beside(".part"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File {
                path,
                what: "cannot make a template of a virtual machine",
                source,
            }
        };
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        // SAFETY: flock takes two integers.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(failed(&lock_path)(error)),
            };
        }
        match fs::remove_dir_all(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&hidden)(error));
            }
            _ => {}
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&hidden)
            .map_err(failed(&hidden))?;
        let create = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(hidden.join(name))
                .map_err(failed(&hidden))
        };
        let files = create(STATE).and_then(|state| Ok((state, create(MEMORY)?)));
        let (state, memory) = match files {
            Ok(files) => files,
            Err(error) => {
                let _ = fs::remove_dir_all(&hidden);
                return Err(error);
            }
        };
        Ok(Some(Self {
            _lock: lock,
            hidden,
            path: path.to_owned(),
            state,
            memory,
        }))
    }

    /// The files for the monitor.
    ///
    /// # Errors
    /// When their descriptors cannot be copied.
    pub fn files(&self) -> Result<DraftFiles> {
        let copy = |file: &File| file.try_clone().map_err(Error::system("copy a descriptor"));
        Ok(DraftFiles {
            state: copy(&self.state)?,
            memory: copy(&self.memory)?,
        })
    }

    /// Puts it in its place, once its machine has ended with [`End::Saved`](crate::End::Saved). What was there is replaced.
    ///
    /// # Errors
    /// When it cannot be brought to the disk and into its place; then it is gone.
    pub fn publish(self) -> Result<Template> {
        let path = self.path.clone();
        let failed = |source| Error::File {
            path: path.clone(),
            what: "cannot keep a template of a virtual machine",
            source,
        };
        // Its name must not outlive a power cut that its contents do not.
        self.memory
            .sync_data()
            .and_then(|()| self.state.sync_data())
            .map_err(failed)?;
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::rename(&self.hidden, &path).map_err(failed)?;
        match Template::open(&path)? {
            Some(template) => Ok(template),
            None => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is there no more when it was published.
        let _ = fs::remove_dir_all(&self.hidden);
    }
}

/// What the template of a machine's kind is called: the name tells the size, and machines of another kernel or agent have
/// another.
///
/// # Errors
/// When the kernel or the initial RAM disk is not there.
pub fn name(config: &VmConfig) -> Result<String> {
    fit::name(config)
}

/// Removes the template in this directory, and says whether there was one. Machines that were made from it go on.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<bool> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::File {
            path: path.to_owned(),
            what: "cannot remove the template",
            source,
        }),
    }
}

#[cfg(test)]
mod tests;
