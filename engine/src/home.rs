//! Where Plimsoll keeps what it keeps: one directory, `/var/lib/plimsoll` unless told otherwise.
//!
//! ```text
//! images/               the image store (image-core)
//! instances/<id>/       one instance: instance.json, upper/ and work/ or disk.ext4, console.log
//! active/<id>           exists, and is locked, while a process owns the running instance
//! names/<name>          symbolic link to the identifier that has the name, in its short form (names::link_of)
//! trash/<id>            an instance in the course of being removed
//! vm/                   initramfs and blank disk, made once
//! vm/kernels/           what was made of kernels that users named (microvm_core::stock)
//! volumes/<name>/       one volume (volume)
//! networks/<name>/      one network (network)
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use image_core::Store;
use nix::unistd::geteuid;

use crate::error::{Error, Result};

/// The directory used when neither `--root` nor `PLIMSOLL_ROOT` names one.
pub const DEFAULT_ROOT: &str = "/var/lib/plimsoll";

/// Where `make kernel` (guest/kernel/build.sh) leaves the guest kernel it built last.
pub const DEFAULT_KERNEL: &str = "/var/cache/plimsoll/kernels/current/vmlinux";

const FOLDERS: [&str; 8] = [
    "images",
    "instances",
    "names",
    "trash",
    "vm",
    "volumes",
    "networks",
    "active",
];

/// Plimsoll's state directory, present and ours alone.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Opens the state directory, and makes it on first use.
    ///
    /// # Errors
    /// [`Error::NotRoot`] for anyone but root; [`Error::Io`] when the directory cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        let uid = geteuid().as_raw();
        if uid != 0 {
            return Err(Error::NotRoot { uid });
        }
        let home = Self {
            root: std::path::absolute(root).map_err(|e| Error::io("resolve", root, e))?,
        };
        // `active` is made last: where it is there, all of them are.
        if !home.active().exists() {
            home.create()?;
        }
        Ok(home)
    }

    fn create(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::create_dir_all(&self.root).map_err(|e| Error::io("create", &self.root, e))?;
        for folder in FOLDERS {
            let path = self.root.join(folder);
            // Containers of users other than root must reach their layers through overlay, which uses the
            // mounter's credentials: nobody else needs to look in here.
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", &path, e)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the image store.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn images(&self) -> Result<Store> {
        Ok(Store::open(&self.root.join("images"))?)
    }

    /// An instance's own directory.
    pub fn directory(&self, id: &str) -> PathBuf {
        self.instance(id)
    }

    /// The current log file of an instance.
    pub fn log(&self, id: &str) -> PathBuf {
        crate::logs::path(&self.instance(id), id)
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    pub(crate) fn instance(&self, id: &str) -> PathBuf {
        self.root.join("instances").join(id)
    }

    pub(crate) fn active(&self) -> PathBuf {
        self.root.join("active")
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    pub(crate) fn name(&self, name: &str) -> PathBuf {
        self.root.join("names").join(name)
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn vm(&self) -> PathBuf {
        self.root.join("vm")
    }

    /// Where templates of VMs are kept.
    pub(crate) fn templates(&self) -> PathBuf {
        self.vm().join("templates")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(crate) fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }
}

/// Makes `bytes` all that a file holds, in place.
///
/// What was longer is cut after the writing: ext4 sends a file that was emptied first to the disk as soon as it is closed
/// (auto_da_alloc), on the way of whoever writes it.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.write_all(bytes)?;
        let length = bytes.len() as u64;
        match file.metadata()?.len() > length {
            true => file.set_len(length),
            false => Ok(()),
        }
    };
    write().map_err(|e| Error::io("write", path, e))
}

/// Writes `bytes` to `path` so that a reader sees the old file or the new one, never a part.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    overwrite(&temporary, bytes)?;
    fs::rename(&temporary, path).map_err(|e| Error::io("replace", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_made_on_first_use_and_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("a/b");
        let home = Home::open(&root).unwrap();
        for folder in FOLDERS {
            let mode = fs::metadata(home.root().join(folder))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o700, "{folder}");
        }
        Home::open(&root).unwrap();
    }

    #[test]
    fn an_overwritten_file_holds_what_was_written_and_nothing_of_before() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("hosts");
        for text in ["long before", "short", "", "made anew"] {
            overwrite(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn replacing_a_file_leaves_no_temporary_one() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("instance.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }
}
