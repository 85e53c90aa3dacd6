//! What all users of the host's network agree on: one lock for each network namespace, and what was there before us.
//!
//! Several state directories may be in use on one host, and all share the kernel's one set of rules. So the lock is not in any
//! of them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where it is kept: what is in here goes with the boot.
const FOLDER: &str = "/run/plimsoll";

/// This thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// The right to make and remove bridges, leases and what else is shared, in this thread's network namespace. Released when
/// dropped, and by the kernel when its holder dies.
#[derive(Debug)]
pub(super) struct Guard {
    namespace: u64,
    _file: File,
}

impl Guard {
    /// Waits for it.
    pub(super) fn take() -> Result<Self> {
        let namespace = fs::metadata(OWN)
            .map_err(|e| Error::io("look at", OWN, e))?
            .ino();
        let path = Path::new(FOLDER).join(format!("network-{namespace}.lock"));
        let open = || {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
        };
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match fs::DirBuilder::new().mode(0o700).create(FOLDER) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(Error::io("create", FOLDER, e));
                    }
                    _ => open(),
                }
            }
            other => other,
        }
        .map_err(|e| Error::io("create", &path, e))?;
        file.lock().map_err(|e| Error::io("lock", &path, e))?;
        Ok(Self {
            namespace,
            _file: file,
        })
    }

    fn forwarding_path(&self) -> PathBuf {
        Path::new(FOLDER).join(format!("forwarding-{}", self.namespace))
    }

    /// Turns forwarding on, and writes down that it was off; called by the first user.
    pub(super) fn turn_forwarding_on(&self) -> Result<()> {
        let path = self.forwarding_path();
        if network_core::forwarding::get().map_err(super::NetworkError::from)? {
            // A file that is there says that it was us who turned it on.
            return Ok(());
        }
        fs::write(&path, "0\n").map_err(|e| Error::io("write", &path, e))?;
        network_core::forwarding::set(true).map_err(super::NetworkError::from)?;
        Ok(())
    }

    /// Turns forwarding off if it was we who turned it on; called after the last user.
    pub(super) fn restore_forwarding(&self) -> Result<()> {
        let path = self.forwarding_path();
        if path.exists() {
            network_core::forwarding::set(false).map_err(super::NetworkError::from)?;
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }
}
