//! Making finished content visible.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{IndexEntry, Store, Workspace, replace};
use crate::unpack::Unpacked;
use crate::{Digest, Error, Reference, Result};

/// `layers/<diff id>/layer.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Bytes of its files, hard links once.
    pub(crate) bytes: u64,
    /// Entries of its archive.
    pub(crate) entries: u64,
}

/// An image whose content is in the workspace or in the store.
#[derive(Debug)]
pub(crate) struct NewImage {
    /// Its entry for the index, whose name does not matter.
    pub(crate) entry: IndexEntry,
    pub(crate) names: Vec<Reference>,
    /// What it needs to be whole: the digests of its configuration and layer blobs…
    pub(crate) blobs: Vec<Digest>,
    /// … and its diff IDs.
    pub(crate) layers: Vec<Digest>,
}

/// All that one operation adds to the store.
#[derive(Debug, Default)]
pub(crate) struct Publication {
    /// Files of the workspace.
    pub(crate) blobs: HashMap<Digest, PathBuf>,
    /// Directories of the workspace, each with its tree in `fs`.
    pub(crate) layers: HashMap<Digest, (PathBuf, Unpacked)>,
    pub(crate) images: Vec<NewImage>,
    /// Whether to wait for the disk.
    pub(crate) waits: bool,
}

impl Store {
    /// Moves content into place and then names it in the index, all or nothing, also after a loss of power: before that either
    /// everything reaches the disk by one `syncfs`, or, where the content's digests are known, a record that it may not have reached it
    /// (`settle`). Neither would leave empty files under names that promise their content.
    pub(crate) fn publish(&self, workspace: &Workspace, publication: Publication) -> Result<()> {
        let Publication {
            blobs,
            mut layers,
            images,
            waits,
        } = publication;
        layers.retain(|diff_id, _| !self.layer(*diff_id).exists());
        for (directory, unpacked) in layers.values() {
            write_record(directory, *unpacked)?;
        }
        if !waits {
            // Noted below, under the lock.
        } else if layers.is_empty() {
            for path in blobs.values() {
                File::open(path)
                    .and_then(|file| file.sync_all())
                    .map_err(Error::io("write", path))?;
            }
        } else {
            self.flush(workspace)?;
        }

        let _lock = self.lock()?;
        if !waits
            && !self.note_unsettled(workspace, blobs.keys().copied(), layers.keys().copied())?
        {
            self.flush(workspace)?;
        }
        for (diff_id, (directory, _)) in &layers {
            place(directory, &self.layer(*diff_id))?;
        }
        for (digest, path) in &blobs {
            place(path, &self.blob(*digest))?;
        }
        let mut index = self.index()?;
        for image in &images {
            self.check_whole(image)?;
            index.add(&image.entry, &image.names);
        }
        replace(workspace, &self.root.join("index.json"), &index.to_json()?)?;
        self.collect(&index, workspace)
    }

    /// What was in the store when the operation began may have been removed since.
    fn check_whole(&self, image: &NewImage) -> Result<()> {
        let blobs = image
            .blobs
            .iter()
            .chain([&image.entry.manifest])
            .map(|digest| self.blob(*digest));
        let layers = image.layers.iter().map(|diff_id| self.layer(*diff_id));
        for path in blobs.chain(layers) {
            if !path.exists() {
                return Err(Error::Missing {
                    what: path.display().to_string(),
                    reason: "it was removed while the image was being stored; try again".to_owned(),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn layer_record(&self, diff_id: Digest) -> Result<LayerRecord> {
        let path = self.layer(diff_id).join("layer.json");
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        super::parse(&bytes, &path.display().to_string())
    }
}

/// Writes a layer's record beside its tree.
pub(super) fn write_record(directory: &Path, unpacked: Unpacked) -> Result<()> {
    let record = LayerRecord {
        bytes: unpacked.bytes,
        entries: unpacked.entries,
    };
    let path = directory.join("layer.json");
    let json =
        serde_json::to_vec(&record).map_err(|e| Error::io("write", &path)(io::Error::from(e)))?;
    std::fs::write(&path, json).map_err(Error::io("write", &path))
}

/// Moves something to its place by content. If that is taken, the same content is there already.
pub(crate) fn place(from: &Path, to: &Path) -> Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::io("create", to)(e)),
    }
}
