//! What the store takes, and how an image came to be.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use super::workspace::names;
use super::{Image, Store};
use crate::{Digest, Result, timestamp};

/// One line of `docker history`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// When the step was done.
    pub created: Option<SystemTime>,
    /// The instruction or command.
    pub created_by: String,
    /// What is said of it.
    pub comment: String,
    /// Bytes of the files of its layer; 0 without one.
    pub bytes: u64,
}

/// What the images of a store take.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The bytes of files in each layer.
    pub layers: HashMap<Digest, u64>,
    /// Which layers each image has.
    pub images: BTreeMap<Digest, Vec<Digest>>,
}

impl Usage {
    /// All layers, each once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layers.values().sum()
    }

    /// All layers of images, each once: what belongs to the build cache alone is left out.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        let counted = self.users();
        let used = self
            .layers
            .iter()
            .filter(|(id, _)| counted.contains_key(*id));
        used.map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of an image's layers: those that other images have too, and those that it has alone.
    #[must_use]
    pub fn shared_and_unique(&self, image: Digest) -> (u64, u64) {
        let users = self.users();
        let mut sizes = (0, 0);
        let mut layers = self.images.get(&image).cloned().unwrap_or_default();
        layers.sort_unstable();
        layers.dedup();
        for layer in layers {
            let bytes = self.layers.get(&layer).copied().unwrap_or_default();
            if users.get(&layer).is_some_and(|users| *users > 1) {
                sizes.0 += bytes;
            } else {
                sizes.1 += bytes;
            }
        }
        sizes
    }

    /// How many images have each layer.
    fn users(&self) -> HashMap<Digest, usize> {
        let mut users = HashMap::new();
        for layers in self.images.values() {
            let mut layers = layers.clone();
            layers.sort_unstable();
            layers.dedup();
            for layer in layers {
                *users.entry(layer).or_default() += 1;
            }
        }
        users
    }
}

impl Store {
    /// What the images and their layers take.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for name in names(&self.root().join("layers"))? {
            // A layer that is being removed at this moment takes nothing any more.
            if let Some(diff_id) = Digest::from_hex(&name)
                && let Ok(record) = self.layer_record(diff_id)
            {
                usage.layers.insert(diff_id, record.bytes);
            }
        }
        let index = self.index()?;
        for entry in &index.entries {
            let image = self.image(&index, entry)?;
            usage.images.insert(image.id, image.layers);
        }
        Ok(usage)
    }

    /// How an image came to be, the newest step first.
    ///
    /// # Errors
    /// When a layer's record cannot be read.
    pub fn history(&self, image: &Image) -> Result<Vec<HistoryLine>> {
        let mut layers = image.layers.iter();
        let mut lines = Vec::new();
        for step in image.config.history().iter().flatten() {
            let has_layer = !step.empty_layer().unwrap_or(false);
            let layer = if has_layer { layers.next() } else { None };
            let bytes = match layer {
                Some(diff_id) => self.layer_record(*diff_id)?.bytes,
                None => 0,
            };
            lines.push(HistoryLine {
                created: step.created().as_deref().and_then(timestamp::parse),
                created_by: step.created_by().clone().unwrap_or_default(),
                comment: step.comment().clone().unwrap_or_default(),
                bytes,
            });
        }
        // An image may say less of itself than it has.
        for diff_id in layers {
            lines.push(HistoryLine {
                created: None,
                created_by: String::new(),
                comment: String::new(),
                bytes: self.layer_record(*diff_id)?.bytes,
            });
        }
        lines.reverse();
        Ok(lines)
    }
}
