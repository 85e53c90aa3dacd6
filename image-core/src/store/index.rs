//! `index.json`: which images there are, and their names.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, MediaType};

use crate::{Digest, Error, Reference, Result};

/// The ID (the configuration's digest) of a manifest in our index. With it a name or an ID is found without opening any manifest.
const ANNOTATION_ID: &str = "plimsoll.image.id";

/// One manifest under one name, or under none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) manifest: Digest,
    pub(crate) manifest_bytes: u64,
    pub(crate) media_type: String,
    pub(crate) id: Digest,
    pub(crate) name: Option<Reference>,
}

/// All of `index.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) entries: Vec<IndexEntry>,
}

impl Index {
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidDocument {
            what: path.display().to_string(),
            reason,
        };
        let index: ImageIndex =
            serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
        let entries = index.manifests().iter().map(|descriptor| {
            let annotation = |key: &str| {
                descriptor
                    .annotations()
                    .as_ref()
                    .and_then(|all| all.get(key))
            };
            let id = annotation(ANNOTATION_ID)
                .ok_or_else(|| invalid(format!("an image has no annotation {ANNOTATION_ID}")))?;
            Ok(IndexEntry {
                manifest: descriptor.digest().to_string().parse()?,
                manifest_bytes: descriptor.size(),
                media_type: descriptor.media_type().to_string(),
                id: id.parse()?,
                name: annotation(ANNOTATION_REF_NAME)
                    .map(|name| name.parse())
                    .transpose()?,
            })
        });
        Ok(Self {
            entries: entries.collect::<Result<_>>()?,
        })
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        let invalid = |reason: String| Error::InvalidDocument {
            what: "index.json".to_owned(),
            reason,
        };
        let mut manifests = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let digest: oci_spec::image::Digest = entry
                .manifest
                .to_string()
                .parse()
                .map_err(|e: oci_spec::OciSpecError| invalid(e.to_string()))?;
            let mut descriptor = Descriptor::new(
                entry.media_type.as_str().into(),
                entry.manifest_bytes,
                digest,
            );
            let mut annotations = HashMap::from([(ANNOTATION_ID.to_owned(), entry.id.to_string())]);
            if let Some(name) = &entry.name {
                annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.to_string());
            }
            descriptor.set_annotations(Some(annotations));
            manifests.push(descriptor);
        }
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(manifests)
            .build()
            .map_err(|e| invalid(e.to_string()))?;
        serde_json::to_vec_pretty(&index).map_err(|e| invalid(e.to_string()))
    }

    /// Adds an image under `names`. A name that another image has moves to this one; the other one keeps its place without a name,
    /// as `docker images` shows it.
    pub(crate) fn add(&mut self, image: &IndexEntry, names: &[Reference]) {
        for name in names {
            let holds = |entry: &IndexEntry| entry.name.as_ref() == Some(name);
            if let Some(at) = self.entries.iter().position(holds) {
                self.untag(at);
            }
            let named = IndexEntry {
                name: Some(name.clone()),
                ..image.clone()
            };
            self.entries.push(named);
        }
        let is_same = |entry: &IndexEntry| entry.manifest == image.manifest;
        if names.is_empty() {
            if !self.entries.iter().any(is_same) {
                self.entries.push(IndexEntry {
                    name: None,
                    ..image.clone()
                });
            }
        } else {
            // It has a name now.
            self.entries
                .retain(|entry| !(is_same(entry) && entry.name.is_none()));
        }
    }

    /// Takes the name off the entry at `at`. The entry goes when its manifest has another name.
    fn untag(&mut self, at: usize) {
        let manifest = self.entries[at].manifest;
        let others = self
            .entries
            .iter()
            .filter(|entry| entry.manifest == manifest)
            .count();
        if others > 1 {
            self.entries.remove(at);
        } else {
            self.entries[at].name = None;
        }
    }

    /// The names of an image.
    pub(crate) fn names_of(&self, id: Digest) -> Vec<String> {
        let of_image = self.entries.iter().filter(|entry| entry.id == id);
        of_image
            .filter_map(|entry| entry.name.as_ref().map(Reference::to_string))
            .collect()
    }

    /// The entry that `text` means: a name, `name@digest`, an ID, or a unique beginning of one, in docker's order.
    pub(crate) fn find(&self, text: &str) -> Result<&IndexEntry> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(digest) = Digest::from_hex(hex)
            && let Some(found) = self
                .entries
                .iter()
                .find(|e| e.id == digest || e.manifest == digest)
        {
            return Ok(found);
        }
        let is_hex = !hex.is_empty()
            && hex.len() <= 64
            && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let has_prefix = hex.len() != text.len();
        let reference = if has_prefix {
            None
        } else {
            Some(text.parse::<Reference>())
        };
        if let Some(Ok(reference)) = &reference
            && let Some(found) = self.entries.iter().find(|entry| entry.is_named(reference))
        {
            return Ok(found);
        }
        if is_hex {
            let mut ids: Vec<Digest> = self
                .entries
                .iter()
                .map(|e| e.id)
                .filter(|id| id.hex().starts_with(hex))
                .collect();
            ids.sort_unstable();
            ids.dedup();
            match ids[..] {
                [] => {}
                [id] => {
                    return self
                        .entries
                        .iter()
                        .find(|e| e.id == id)
                        .ok_or_else(|| Error::ImageNotFound(text.to_owned()));
                }
                _ => {
                    return Err(Error::AmbiguousId {
                        prefix: text.to_owned(),
                        count: ids.len(),
                    });
                }
            }
        }
        match reference {
            Some(Err(invalid)) if !is_hex => Err(invalid),
            Some(Ok(reference)) => Err(Error::ImageNotFound(reference.to_string())),
            _ => Err(Error::ImageNotFound(text.to_owned())),
        }
    }
}

impl IndexEntry {
    /// Whether `reference` means this entry. With a digest, the tag no longer matters, as for docker.
    pub(crate) fn is_named(&self, reference: &Reference) -> bool {
        let Some(name) = &self.name else {
            return false;
        };
        match reference.digest() {
            // An image that was pulled by the digest of an index keeps that in its name.
            Some(digest) => {
                name.repository() == reference.repository()
                    && (self.manifest == digest || name.digest() == Some(digest))
            }
            None => name == reference,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seed: &str) -> IndexEntry {
        IndexEntry {
            manifest: Digest::of(seed.as_bytes()),
            manifest_bytes: 1,
            media_type: MediaType::ImageManifest.to_string(),
            id: Digest::of(format!("{seed} id").as_bytes()),
            name: None,
        }
    }

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn an_index_survives_being_written_and_read() {
        let mut index = Index::default();
        index.add(&entry("a"), &[name("x:1"), name("y:2")]);
        index.add(&entry("b"), &[]);
        let read = Index::parse(&index.to_json().unwrap(), Path::new("index.json")).unwrap();
        assert_eq!(read, index);
    }

    #[test]
    fn a_name_moves_and_the_image_that_had_it_stays_without() {
        let mut index = Index::default();
        index.add(&entry("a"), &[name("x")]);
        index.add(&entry("b"), &[name("x")]);
        assert_eq!(index.find("x").unwrap().manifest, entry("b").manifest);
        assert_eq!(index.entries.len(), 2);
        index.add(&entry("a"), &[name("x")]);
        assert_eq!(index.find("x").unwrap().manifest, entry("a").manifest);
        assert_eq!(
            index.entries.len(),
            2,
            "the nameless entry of a is gone again, b's has come"
        );
        index.add(&entry("a"), &[]);
        assert_eq!(index.entries.len(), 2);
    }

    #[test]
    fn images_are_found_by_name_digest_id_and_unique_beginning() {
        let mut index = Index::default();
        index.add(&entry("a"), &[name("x:1")]);
        index.add(&entry("b"), &[]);
        let (a, b) = (entry("a"), entry("b"));
        let found = |text: &str| index.find(text).unwrap().manifest;
        assert_eq!(found("x:1"), a.manifest);
        assert_eq!(found(&format!("x@{}", a.manifest)), a.manifest);
        assert_eq!(found(&format!("x:9@{}", a.manifest)), a.manifest);
        assert_eq!(found(&b.id.to_string()), b.manifest);
        assert_eq!(found(&b.id.hex()), b.manifest);
        assert_eq!(found(&b.id.short()), b.manifest);
        assert_eq!(found(&b.id.to_string()[..20]), b.manifest);
        assert_eq!(found(&a.manifest.to_string()), a.manifest);
        assert!(matches!(index.find("x"), Err(Error::ImageNotFound(shown)) if shown == "x:latest"));
        assert!(matches!(
            index.find(&format!("y@{}", a.manifest)),
            Err(Error::ImageNotFound(_))
        ));
        assert!(matches!(
            index.find("X"),
            Err(Error::InvalidReference { .. })
        ));
        assert!(matches!(
            index.find("sha256:"),
            Err(Error::ImageNotFound(_))
        ));
    }

    #[test]
    fn a_beginning_that_several_ids_have_is_refused() {
        let mut index = Index::default();
        // Seventeen images and sixteen digits: two IDs share their first one.
        (0..17).for_each(|n| index.add(&entry(&n.to_string()), &[]));
        let ambiguous = "0123456789abcdef"
            .chars()
            .filter(|c| matches!(index.find(&c.to_string()), Err(Error::AmbiguousId { .. })));
        assert!(ambiguous.count() > 0);
    }
}
