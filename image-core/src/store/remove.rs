//! Taking names and images away, and the content that nothing refers to any more.

use std::collections::HashSet;

use super::index::{Index, IndexEntry};
use super::workspace::names;
use super::{Store, Workspace, replace};
use crate::{Digest, Error, Reference, Result};

/// What a removal did, in the order in which `docker rmi` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// This name is gone.
    Untagged(String),
    /// This image is gone.
    Deleted(Digest),
}

impl Store {
    /// Removes a name, and the image with its last one; or an image by its ID. Layers that other images have stay.
    ///
    /// Whether an instance still uses the image is for the caller to know.
    ///
    /// # Errors
    /// [`Error::SeveralNames`] for the ID of an image with several names, unless `force`d; or what [`Store::resolve`] answers.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        let workspace = self.workspace()?;
        let lock = self.lock()?;
        let mut index = self.index()?;
        let id = index.find(name)?.id;
        let reference = name.parse::<Reference>().ok();
        let is_meant = |entry: &IndexEntry| {
            reference
                .as_ref()
                .is_some_and(|reference| entry.is_named(reference))
        };

        let (gone, kept): (Vec<IndexEntry>, Vec<IndexEntry>) = if index.entries.iter().any(is_meant)
        {
            index.entries.into_iter().partition(is_meant)
        } else {
            let names = index.names_of(id);
            if names.len() > 1 && !force {
                return Err(Error::SeveralNames { id, names });
            }
            index.entries.into_iter().partition(|entry| entry.id == id)
        };
        index.entries = kept;
        // A manifest that lost its name to another image may still be there for the same ID.
        let mut removed: Vec<Removed> = gone
            .iter()
            .filter_map(|entry| entry.name.as_ref())
            .map(|name| Removed::Untagged(name.to_string()))
            .collect();
        if index.names_of(id).is_empty() {
            index.entries.retain(|entry| entry.id != id);
            removed.push(Removed::Deleted(id));
        }
        replace(&workspace, &self.root.join("index.json"), &index.to_json()?)?;
        self.collect(&index, &workspace)?;
        // Deleting what has been moved aside may take a while: others need not wait for it.
        drop(lock);
        drop(workspace);
        Ok(removed)
    }

    /// Moves what the index does not lead to into the workspace, to go with it. The lock must be held: then nothing that another
    /// process is about to name is here, because it moves things into place under the same lock.
    pub(super) fn collect(&self, index: &Index, workspace: &Workspace) -> Result<()> {
        let mut blobs: HashSet<String> = HashSet::new();
        let mut layers: HashSet<String> = HashSet::new();
        for entry in &index.entries {
            blobs.extend([entry.manifest.hex(), entry.id.hex()]);
            // What a damaged image needs is not known: then nothing is removed, rather than too much.
            let Ok((manifest, image)) = self
                .manifest(entry)
                .and_then(|m| Ok((m, self.image(index, entry)?)))
            else {
                return Ok(());
            };
            blobs.extend(
                manifest
                    .layers()
                    .iter()
                    .map(|layer| layer.digest().digest().to_owned()),
            );
            layers.extend(image.layers.iter().map(Digest::hex));
        }
        for record in self.cache_records()? {
            if let Some(layer) = record.step.layer {
                blobs.insert(layer.digest.hex());
                layers.insert(layer.diff_id.hex());
            }
        }
        let leased = self.leased()?;
        blobs.extend(leased.iter().cloned());
        layers.extend(leased);
        let garbage = [
            ("blobs/sha256", &blobs),
            ("layers", &layers),
            ("erofs", &layers),
        ];
        for (directory, wanted) in garbage {
            let directory = self.root.join(directory);
            for name in names(&directory)? {
                let content = name.strip_suffix(".erofs").unwrap_or(&name);
                if !wanted.contains(content) {
                    workspace.discard(&directory.join(&name))?;
                }
            }
        }
        Ok(())
    }
}
