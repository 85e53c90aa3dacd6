//! Keeping content that no image refers to yet, or any more, from being collected while somebody works with it.
//!
//! A lease is a workspace with a list of digests in it. It ends with its holder, killed or not: then it is swept like every
//! workspace, and what it kept is collected by the next operation that collects.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::workspace::names;
use super::{Image, Store, Workspace};
use crate::archive::{CHUNK, TarReader};
use crate::limits::Budget;
use crate::unpack::unpack;
use crate::{Digest, Error, Result};

/// The name of the list in a workspace.
const LIST: &str = "lease";

/// Keeps content in a store until it is dropped.
#[derive(Debug)]
pub struct Lease {
    pub(crate) store: Store,
    pub(crate) workspace: Workspace,
    held: Mutex<BTreeSet<Digest>>,
}

impl Store {
    /// A lease that keeps nothing yet.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn lease(&self) -> Result<Lease> {
        Ok(Lease {
            store: self.clone(),
            workspace: self.workspace()?,
            held: Mutex::default(),
        })
    }

    /// Says that somebody makes an instance from an image: none is removed until this is dropped. Shared by all who do.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn hold_images(&self) -> Result<File> {
        let (path, file) = self.users()?;
        file.lock_shared().map_err(Error::io("lock", &path))?;
        Ok(file)
    }

    /// Waits until nobody makes an instance from an image, and keeps everybody from it: whoever removes an image looks at
    /// the instances' records after this.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn hold_images_alone(&self) -> Result<File> {
        let (path, file) = self.users()?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }

    fn users(&self) -> Result<(PathBuf, File)> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.root.join("users.lock");
        let made = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let file = match made {
            // A store that is shared read-only (a toolbox's): whoever shares it keeps its images.
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                File::open(&self.root)
            }
            other => other,
        }
        .map_err(Error::io("open", &path))?;
        Ok((path, file))
    }

    /// Everything that leases keep: digests of blobs and of layers. The lock must be held.
    pub(super) fn leased(&self) -> Result<BTreeSet<String>> {
        let tmp = self.root.join("tmp");
        let mut kept = BTreeSet::new();
        for workspace in names(&tmp)? {
            // Most workspaces have none, and any may go at this moment.
            if let Ok(list) = std::fs::read_to_string(tmp.join(workspace).join(LIST)) {
                kept.extend(list.lines().map(str::to_owned));
            }
        }
        Ok(kept)
    }
}

impl Lease {
    /// Keeps an image's manifest, configuration and layers.
    ///
    /// # Errors
    /// [`Error::Missing`] if something of it has gone already.
    pub fn hold(&self, image: &Image) -> Result<()> {
        let layers = self.store.image_layers(image)?;
        let mut digests = vec![image.id, image.manifest];
        digests.extend(
            layers
                .iter()
                .flat_map(|layer| [layer.digest, layer.diff_id]),
        );
        self.hold_digests(&digests, |digest| {
            self.store.blob(digest).exists() || self.store.layer(digest).exists()
        })
    }

    /// Unpacks a layer's archive, hostile as it may be, into a directory that goes with the lease: deleted files are in it as
    /// overlayfs keeps them.
    ///
    /// # Errors
    /// As for a layer of an image.
    pub fn unpack(&self, archive: impl Read) -> Result<PathBuf> {
        let tree = self.workspace.directory("tree")?;
        let trash = self.workspace.directory("trash")?;
        let budget = Budget::of(self.store.root())?;
        let archive = BufReader::with_capacity(CHUNK, archive);
        let limits = self.store.limits();
        let mut archive = TarReader::new(archive, "the archive", limits);
        unpack(&mut archive, &tree, &trash, limits, &budget)?;
        if !archive.drain()? {
            return Err(Error::Truncated {
                archive: "the archive".to_owned(),
                reason: "its end marker is missing".to_owned(),
            });
        }
        Ok(tree)
    }

    /// A new, empty directory that goes with the lease.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self) -> Result<PathBuf> {
        self.workspace.directory("scratch")
    }

    /// Keeps these, each of which `there` finds once nothing can be collected any more.
    pub(crate) fn hold_digests(
        &self,
        digests: &[Digest],
        there: impl Fn(Digest) -> bool,
    ) -> Result<()> {
        let _lock = self.store.lock()?;
        if let Some(missing) = digests.iter().find(|digest| !there(**digest)) {
            return Err(Error::Missing {
                what: missing.to_string(),
                reason: "it has just been removed".to_owned(),
            });
        }
        let mut held = self
            .held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        held.extend(digests);
        let list: String = held.iter().map(|digest| digest.hex() + "\n").collect();
        write(&self.workspace.path().join(LIST), &list)
    }
}

fn write(path: &Path, list: &str) -> Result<()> {
    std::fs::write(path, list).map_err(Error::io("write", path))
}
