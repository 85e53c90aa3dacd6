//! What `images` shows.

use std::collections::HashMap;
use std::time::SystemTime;

use super::Store;
use crate::{Digest, Reference, Result, timestamp};

/// One line of `docker images`: an image under one of its names, or without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// The name without its tag; none for an image without a name.
    pub repository: Option<String>,
    /// The tag; none for an image without a name.
    pub tag: Option<String>,
    /// The image's ID.
    pub id: Digest,
    /// The manifest's digest.
    pub manifest: Digest,
    /// When it was made, if it says so.
    pub created: Option<SystemTime>,
    /// Bytes of the files in its layers, hard links once: docker's SIZE. Layers that images share are counted for each.
    pub bytes: u64,
}

impl Store {
    /// All images, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        let index = self.index()?;
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        let mut summaries = Vec::with_capacity(index.entries.len());
        for entry in &index.entries {
            let image = self.image(&index, entry)?;
            let mut bytes = 0u64;
            for diff_id in image.layers {
                let size = match sizes.get(&diff_id) {
                    Some(size) => *size,
                    None => {
                        let size = self.layer_record(diff_id)?.bytes;
                        sizes.insert(diff_id, size);
                        size
                    }
                };
                bytes = bytes.saturating_add(size);
            }
            summaries.push(ImageSummary {
                repository: entry.name.as_ref().map(|name| name.repository().to_owned()),
                tag: entry
                    .name
                    .as_ref()
                    .and_then(Reference::tag)
                    .map(str::to_owned),
                id: entry.id,
                manifest: entry.manifest,
                created: image.config.created().as_deref().and_then(timestamp::parse),
                bytes,
            });
        }
        summaries.sort_by(|a, b| {
            (&b.created, &a.repository, &a.tag).cmp(&(&a.created, &b.repository, &b.tag))
        });
        Ok(summaries)
    }
}
