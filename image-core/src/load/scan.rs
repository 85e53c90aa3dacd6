//! Reading an archive of images once: its files by name and by digest, its layers unpacked while they are read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::parallel::{Outcomes, Queue};
use super::{Growing, NAME};
use crate::archive::{Compression, Kind, TarReader};
use crate::error::printable;
use crate::ingest::{Ingest, looks_like_a_layer};
use crate::store::{Publication, Store, parse};
use crate::unpack::Unpacked;
use crate::{Digest, Error, Result};

/// Links followed for one name: more are a loop.
const LINKS: usize = 16;

/// A file of the archive, now in the workspace.
pub(super) struct Content {
    blob: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
    layer: Option<Layer>,
    /// The number of what unpacks it, while the archive is being read.
    pending: Option<(usize, Compression)>,
}

/// What was unpacked from it. A tree is missing when the store has the layer already.
pub(super) struct Layer {
    pub(super) compression: Compression,
    pub(super) diff_id: Digest,
    tree: Option<(PathBuf, Unpacked)>,
}

/// All files of an archive.
#[derive(Default)]
pub(super) struct Archive {
    contents: Vec<Content>,
    names: HashMap<String, usize>,
    digests: HashMap<Digest, usize>,
    /// Old `docker save` archives link equal layers to one another.
    links: HashMap<String, String>,
}

impl Archive {
    /// Reads the archive to its end. Its layers are given to the queue; [`Archive::settle`] takes what has become of them.
    pub(super) fn scan(
        source: impl BufRead,
        store: &Store,
        ingest: &Ingest<'_>,
        queue: &mut Queue,
    ) -> Result<Self> {
        let known = known_layers(store)?;
        let mut archive = Self::default();
        let mut tar = TarReader::new(source, NAME, ingest.limits);
        while let Some(entry) = tar.next_entry()? {
            if queue.has_failed() {
                break;
            }
            let components = ingest.limits.components(&entry.path)?;
            // A name that is not text is none of those that an archive of images has.
            let Ok(name) = String::from_utf8(components.join(&b'/')) else {
                continue;
            };
            match entry.kind {
                Kind::Symlink => {
                    let parents = &components[..components.len().saturating_sub(1)];
                    if let Some(target) = beside(parents, &entry.link) {
                        archive.links.insert(name, target);
                    }
                }
                Kind::Hardlink => {
                    if let Some(target) = beside(&[], &entry.link) {
                        archive.links.insert(name, target);
                    }
                }
                Kind::Regular => {
                    if entry.extents.is_some() {
                        return Err(Error::refused(
                            &entry.path,
                            "a sparse file has no place in an archive of images",
                        ));
                    }
                    let stated = name
                        .strip_prefix("blobs/sha256/")
                        .and_then(Digest::from_hex);
                    if let Some(content) =
                        stated.and_then(|digest| pin(digest, &known, store, ingest))
                    {
                        archive.add(name, content);
                        continue;
                    }
                    // Once is enough: what has the name of a digest is the same.
                    if let Some(known) = stated.and_then(|digest| archive.digests.get(&digest)) {
                        archive.names.insert(name, *known);
                        continue;
                    }
                    let content = read(&mut tar, &name, ingest, queue)?;
                    if let Some(expected) = stated
                        && expected != content.digest
                    {
                        return Err(Error::DigestMismatch {
                            what: printable(name.as_bytes()),
                            expected,
                            actual: content.digest,
                        });
                    }
                    archive.add(name, content);
                }
                _ => {}
            }
        }
        Ok(archive)
    }

    fn add(&mut self, name: String, content: Content) {
        let digest = content.digest;
        let index = *self.digests.entry(digest).or_insert_with(|| {
            self.contents.push(content);
            self.contents.len() - 1
        });
        self.names.insert(name, index);
    }

    /// Takes what the queue has made of the layers.
    pub(super) fn settle(&mut self, mut outcomes: Outcomes) {
        for content in &mut self.contents {
            if let Some((number, compression)) = content.pending.take()
                && let Some(tree) = outcomes.take(number)
            {
                content.layer = Some(Layer {
                    compression,
                    diff_id: tree.inflated.unwrap_or(content.digest),
                    tree: Some((tree.tree, tree.unpacked)),
                });
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The place of a file by its name; links are followed.
    pub(super) fn named(&self, name: &str) -> Result<usize> {
        let mut wanted = beside(&[], name.as_bytes());
        for _ in 0..LINKS {
            let Some(current) = wanted else { break };
            if let Some(index) = self.names.get(&current) {
                return Ok(*index);
            }
            wanted = self.links.get(&current).cloned();
        }
        Err(Error::Missing {
            what: printable(name.as_bytes()),
            reason: "the archive refers to it, but does not hold it".to_owned(),
        })
    }

    /// The place of a file by its digest.
    pub(super) fn with_digest(&self, digest: Digest, what: &str) -> Result<usize> {
        self.digests
            .get(&digest)
            .copied()
            .ok_or_else(|| Error::Missing {
                what: format!("{what} {digest}"),
                reason: "the archive refers to it, but does not hold it".to_owned(),
            })
    }

    pub(super) fn content(&self, index: usize) -> &Content {
        &self.contents[index]
    }

    /// A JSON document of the archive.
    pub(super) fn document(
        &self,
        index: usize,
        what: &str,
        ingest: &Ingest<'_>,
    ) -> Result<Vec<u8>> {
        let content = &self.contents[index];
        let limit = ingest.limits.document_bytes;
        if content.size > limit {
            return Err(Error::LimitPassed {
                what: "bytes in a document of an image",
                limit,
            });
        }
        std::fs::read(&content.blob)
            .map_err(Error::io("read", &content.blob))
            .and_then(|bytes| {
                if bytes.is_empty() {
                    return Err(Error::InvalidDocument {
                        what: what.to_owned(),
                        reason: "it is empty".to_owned(),
                    });
                }
                Ok(bytes)
            })
    }

    /// [`Archive::document`], parsed.
    pub(super) fn parsed<T: serde::de::DeserializeOwned>(
        &self,
        index: usize,
        what: &str,
        ingest: &Ingest<'_>,
    ) -> Result<T> {
        parse(&self.document(index, what, ingest)?, what)
    }

    /// What the file at `index` is as a layer. A file that did not look like one is tried all the same, for its error.
    pub(super) fn layer(
        &mut self,
        index: usize,
        name: &str,
        ingest: &Ingest<'_>,
    ) -> Result<&Layer> {
        let content = &mut self.contents[index];
        if content.layer.is_none() {
            let mut file = File::open(&content.blob).map_err(Error::io("open", &content.blob))?;
            let ingested = ingest.layer(&mut file, name, false)?;
            content.layer = Some(Layer {
                compression: ingested.compression,
                diff_id: ingested.diff_id,
                tree: Some((ingested.tree, ingested.unpacked)),
            });
        }
        content.layer.as_ref().ok_or_else(|| Error::Missing {
            what: name.to_owned(),
            reason: "it is not a layer".to_owned(),
        })
    }

    /// Gives the file at `index`, with its tree if it is a layer, to what will be published.
    pub(super) fn give(&mut self, index: usize, publication: &mut Publication) {
        let content = &mut self.contents[index];
        publication
            .blobs
            .insert(content.digest, content.blob.clone());
        if let Some(layer) = &mut content.layer
            && let Some(tree) = layer.tree.take()
        {
            publication.layers.entry(layer.diff_id).or_insert(tree);
        }
    }
}

/// Reads one file, as a layer when it begins like one. A tar without its end marker may be one: its digest vouches for it.
fn read<R: BufRead>(
    tar: &mut TarReader<'_, R>,
    name: &str,
    ingest: &Ingest<'_>,
    queue: &mut Queue,
) -> Result<Content> {
    let shown = printable(name.as_bytes());
    let mut content = tar.content();
    let mut start = Vec::new();
    // A tar header, or any magic number.
    content
        .by_ref()
        .take(512)
        .read_to_end(&mut start)
        .map_err(|e| Error::reading(NAME, e))?;
    let mut source = start.as_slice().chain(content);
    if let Some(compression) = looks_like_a_layer(&start) {
        let blob = ingest.workspace.unique("blob");
        File::create_new(&blob).map_err(Error::io("create", &blob))?;
        let growing = Arc::new(Growing::default());
        let number = queue.give(&blob, &shown, compression, &growing);
        let (digest, size) = ingest.spool(&mut source, &shown, &blob, &growing)?;
        return Ok(Content {
            blob,
            digest,
            size,
            layer: None,
            pending: Some((number, compression)),
        });
    }
    let (blob, digest, size) = ingest.plain(&mut source, &shown)?;
    Ok(Content {
        blob,
        digest,
        size,
        layer: None,
        pending: None,
    })
}

/// Layers of the store's images: which blob has which diff ID.
pub(crate) fn known_layers(store: &Store) -> Result<HashMap<Digest, Digest>> {
    let index = store.index()?;
    let mut known = HashMap::new();
    for entry in &index.entries {
        // A damaged image makes nothing known.
        let Ok(manifest) = store.manifest(entry) else {
            continue;
        };
        let Ok(image) = store.image(&index, entry) else {
            continue;
        };
        for (layer, diff_id) in manifest.layers().iter().zip(image.layers) {
            if let Ok(digest) = layer.digest().to_string().parse::<Digest>() {
                known.insert(digest, diff_id);
            }
        }
    }
    Ok(known)
}

/// A layer that the store has already, held by a link of our own: its blob stays even if the image it belongs to is removed now.
fn pin(
    digest: Digest,
    known: &HashMap<Digest, Digest>,
    store: &Store,
    ingest: &Ingest<'_>,
) -> Option<Content> {
    let diff_id = *known.get(&digest)?;
    let path = ingest.workspace.unique("blob");
    std::fs::hard_link(store.blob(digest), &path).ok()?;
    if !store.layer(diff_id).exists() {
        return None;
    }
    let mut start = [0; 512];
    let file = File::open(&path).ok()?;
    let read = std::os::unix::fs::FileExt::read_at(&file, &mut start, 0).ok()?;
    Some(Content {
        size: file.metadata().ok()?.len(),
        blob: path,
        digest,
        layer: Some(Layer {
            compression: Compression::detect(&start[..read]).ok()?,
            diff_id,
            tree: None,
        }),
        pending: None,
    })
}

/// The name that `target` means from a directory of the archive; none when it leads out of it.
fn beside(directory: &[&[u8]], target: &[u8]) -> Option<String> {
    let mut kept: Vec<&[u8]> = if target.starts_with(b"/") {
        Vec::new()
    } else {
        directory.to_vec()
    };
    for component in target.split(|c| *c == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                kept.pop()?;
            }
            name => kept.push(name),
        }
    }
    String::from_utf8(kept.join(&b'/')).ok()
}
