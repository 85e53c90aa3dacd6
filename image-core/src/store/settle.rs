//! Content that nobody has waited for to reach the disk.
//!
//! Taking an image in does not wait for the disk, which would take longer than all the rest. Instead `unsettled.json`, which is on the
//! disk before the index names the image, says what may be in memory only and in which boot of the machine that is. During that
//! boot every reader sees memory, which is whole. A later boot finds the record and trusts nothing in it: blobs are digested again,
//! layers unpacked again from their blobs, and an image that has lost anything goes, before the store is used at all. So after a
//! loss of power there is still either the whole image or none.
//!
//! Any writing operation takes the record away once its content has had time to reach the disk by itself.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::index::{Index, IndexEntry};
use super::publish::write_record;
use super::{Store, Workspace, parse, place, replace};
use crate::archive::Compression;
use crate::ingest::Ingest;
use crate::limits::Budget;
use crate::load::known_layers;
use crate::{Digest, Error, Result};

/// The kernel writes what is older than 30 s, and looks every 5 s (vm.dirty_expire_centisecs, vm.dirty_writeback_centisecs): by then
/// there is little left to wait for.
const SETTLED_BY_ITSELF: Duration = Duration::from_secs(60);

/// `unsettled.json`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Unsettled {
    boot: String,
    /// Hexadecimal digits, as in the names of files.
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
}

/// Which boot of the machine this is.
fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

impl Store {
    fn unsettled(&self) -> PathBuf {
        self.root.join("unsettled.json")
    }

    fn read_unsettled(&self) -> Result<Option<Unsettled>> {
        let path = self.unsettled();
        match std::fs::read(&path) {
            Ok(bytes) => parse(&bytes, &path.display().to_string()).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Notes content that is about to be moved into place. False if that cannot be, and the disk must be waited for. The lock must be
    /// held.
    pub(super) fn note_unsettled(
        &self,
        workspace: &Workspace,
        blobs: impl Iterator<Item = Digest>,
        layers: impl Iterator<Item = Digest>,
    ) -> Result<bool> {
        let Some(boot) = boot() else {
            return Ok(false);
        };
        let mut record = self.read_unsettled()?.unwrap_or_default();
        record.boot = boot;
        record.blobs.extend(blobs.map(|digest| digest.hex()));
        record.layers.extend(layers.map(|digest| digest.hex()));
        let json = serde_json::to_vec(&record)
            .map_err(|e| Error::io("write", &self.unsettled())(io::Error::from(e)))?;
        replace(workspace, &self.unsettled(), &json)?;
        Ok(true)
    }

    /// Takes the record away when its content has had time to reach the disk.
    pub(super) fn settle(&self, workspace: &Workspace) -> Result<()> {
        let path = self.unsettled();
        let Ok(noted) = std::fs::metadata(&path).and_then(|about| about.modified()) else {
            return Ok(());
        };
        let age = SystemTime::now().duration_since(noted).unwrap_or_default();
        if age < SETTLED_BY_ITSELF {
            return Ok(());
        }
        let before = self.read_unsettled()?;
        self.flush(workspace)?;
        let _lock = self.lock()?;
        // What has been noted meanwhile waits for the next time.
        if self.read_unsettled()? == before && before.is_some() {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Waits until all of the store is on the disk. A flush per file would cost thousands of journal commits.
    pub(super) fn flush(&self, workspace: &Workspace) -> Result<()> {
        let directory =
            File::open(workspace.path()).map_err(Error::io("open", workspace.path()))?;
        rustix::fs::syncfs(&directory).map_err(Error::io("write", &self.root))
    }

    /// Checks what an earlier boot has left unsettled, and mends or removes it. Looks for one file when there is nothing.
    pub(super) fn mend(&self) -> Result<()> {
        let is_of_earlier = || -> Result<Option<Unsettled>> {
            let record = self.read_unsettled()?;
            Ok(record.filter(|record| Some(&record.boot) != boot().as_ref()))
        };
        if is_of_earlier()?.is_none() {
            return Ok(());
        }
        let _lock = match self.lock() {
            // A store that is shared read-only (a toolbox's) is settled by whoever shares it.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                return Ok(());
            }
            lock => lock?,
        };
        // Whoever held the lock may have done it.
        let Some(record) = is_of_earlier()? else {
            return Ok(());
        };
        let workspace = Workspace::create(&self.root.join("tmp"))?;
        for blob in record.blobs.iter().filter_map(|hex| Digest::from_hex(hex)) {
            let path = self.blob(blob);
            if path.exists() && digest_of_file(&path)? != blob {
                workspace.discard(&path)?;
            }
        }
        let blobs: HashMap<Digest, Digest> = known_layers(self)?
            .into_iter()
            .map(|(blob, diff_id)| (diff_id, blob))
            .collect();
        for layer in record.layers.iter().filter_map(|hex| Digest::from_hex(hex)) {
            workspace.discard(&self.layer(layer))?;
            if let Some(blob) = blobs.get(&layer) {
                self.unpack_again(layer, *blob, &workspace)?;
            }
        }
        let mut index = self.index()?;
        let all = index.clone();
        index.entries.retain(|entry| self.is_whole(&all, entry));
        self.flush(&workspace)?;
        if index != all {
            replace(&workspace, &self.root.join("index.json"), &index.to_json()?)?;
        }
        let path = self.unsettled();
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))
    }

    /// Makes the tree of a layer anew, unless its blob is gone too.
    fn unpack_again(&self, diff_id: Digest, blob: Digest, workspace: &Workspace) -> Result<()> {
        let path = self.blob(blob);
        let start = match read_start(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            start => start.map_err(Error::io("read", &path))?,
        };
        let Ok(compression) = Compression::detect(&start) else {
            return Ok(());
        };
        let budget = Budget::of(&self.root)?;
        let ingest = Ingest {
            workspace,
            limits: &self.limits,
            budget: &budget,
        };
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let unpacked = ingest.tree(file, &format!("layer {diff_id}"), compression)?;
        if unpacked.inflated.unwrap_or(blob) != diff_id {
            return Ok(());
        }
        write_record(&unpacked.tree, unpacked.unpacked)?;
        place(&unpacked.tree, &self.layer(diff_id))
    }

    fn is_whole(&self, index: &Index, entry: &IndexEntry) -> bool {
        let (Ok(manifest), Ok(image)) = (self.manifest(entry), self.image(index, entry)) else {
            return false;
        };
        let blob = |digest: &str| self.root.join("blobs/sha256").join(digest).exists();
        manifest
            .layers()
            .iter()
            .all(|layer| blob(layer.digest().digest()))
            && image
                .layers
                .iter()
                .all(|diff_id| self.layer(*diff_id).exists())
    }
}

fn read_start(path: &std::path::Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut start = Vec::new();
    // A tar header, or any magic number.
    File::open(path)?.take(512).read_to_end(&mut start)?;
    Ok(start)
}

fn digest_of_file(path: &std::path::Path) -> Result<Digest> {
    use std::io::Read;
    let failed = |e| Error::io("read", path)(e);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = crate::digest::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "file", content).unwrap();
        builder.into_inner().unwrap()
    }

    /// A store with two images as a loss of power may have left it.
    fn store(root: &std::path::Path) -> (Store, crate::store::Image, crate::store::Image) {
        let store = Store::open(root).unwrap();
        let first = store.import(archive(b"one").as_slice(), None, &[]).unwrap();
        let second = store.import(archive(b"two").as_slice(), None, &[]).unwrap();
        (store, first, second)
    }

    fn restart(store: &Store) {
        let mut record = store.read_unsettled().unwrap().unwrap();
        record.boot = "another".to_owned();
        std::fs::write(store.unsettled(), serde_json::to_vec(&record).unwrap()).unwrap();
    }

    fn file(store: &Store, image: &crate::store::Image) -> PathBuf {
        store.layer_dirs(image).unwrap()[0].join("file")
    }

    #[test]
    fn during_one_boot_nothing_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let (store, first, _) = store(root.path());
        std::fs::write(file(&store, &first), "").unwrap();
        let again = Store::open(root.path()).unwrap();
        assert_eq!(std::fs::read(file(&again, &first)).unwrap(), b"");
        assert!(store.unsettled().exists());
    }

    #[test]
    fn a_layer_that_has_not_reached_the_disk_is_unpacked_again_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let (store, first, second) = store(root.path());
        std::fs::write(file(&store, &first), "").unwrap();
        std::fs::remove_file(file(&store, &second)).unwrap();
        restart(&store);
        let again = Store::open(root.path()).unwrap();
        assert_eq!(std::fs::read(file(&again, &first)).unwrap(), b"one");
        assert_eq!(std::fs::read(file(&again, &second)).unwrap(), b"two");
        assert_eq!(again.layer_record(first.layers[0]).unwrap().bytes, 3);
        assert!(!store.unsettled().exists());
    }

    #[test]
    fn an_image_whose_blob_has_not_reached_the_disk_goes_after_a_restart_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let (store, first, second) = store(root.path());
        let blob = store.blob(first.layers[0]);
        File::options()
            .write(true)
            .open(&blob)
            .unwrap()
            .set_len(100)
            .unwrap();
        restart(&store);
        let again = Store::open(root.path()).unwrap();
        assert!(again.resolve(&first.id.to_string()).is_err());
        assert_eq!(std::fs::read(file(&again, &second)).unwrap(), b"two");
        assert!(!blob.exists() && !store.layer(first.layers[0]).exists());
        let anew = again.import(archive(b"one").as_slice(), None, &[]).unwrap();
        assert_eq!(std::fs::read(file(&again, &anew)).unwrap(), b"one");
    }

    #[test]
    fn a_manifest_that_has_not_reached_the_disk_takes_its_image_along() {
        let root = tempfile::tempdir().unwrap();
        let (store, first, second) = store(root.path());
        std::fs::write(store.blob(first.manifest), "").unwrap();
        restart(&store);
        let again = Store::open(root.path()).unwrap();
        assert_eq!(again.index().unwrap().entries.len(), 1);
        assert!(again.resolve(&second.id.to_string()).is_ok());
    }

    #[test]
    fn what_has_had_time_to_reach_the_disk_is_settled_by_the_next_writer() {
        let root = tempfile::tempdir().unwrap();
        let (store, ..) = store(root.path());
        drop(store.workspace().unwrap());
        assert!(store.unsettled().exists());
        let record = File::options().write(true).open(store.unsettled()).unwrap();
        record
            .set_modified(SystemTime::now() - SETTLED_BY_ITSELF)
            .unwrap();
        drop(store.workspace().unwrap());
        assert!(!store.unsettled().exists());
    }
}
