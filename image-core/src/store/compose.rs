//! Images put together from layers: those that the store has, and new ones.

use std::collections::HashMap;
use std::io::{self, Write};
use std::thread;

use flate2::{Compression as Level, GzBuilder};
use oci_spec::image::{Descriptor, MediaType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Image, IndexEntry, Lease, NewImage, Publication, Store, diff_ids};
use crate::archive::{CHUNK, ChunkSender, pipe};
use crate::import::{descriptor, manifest, to_json};
use crate::ingest::Ingest;
use crate::limits::Budget;
use crate::{Digest, Error, Limits, Reference, Result};

/// New layers are gzip, which every engine reads (docker before version 23 knows no zstd), at the level behind which zlib-rs takes
/// longer for ever less: a Debian layer is 2 % smaller at level 6, in twice the time.
const LEVEL: Level = Level::new(4);

/// A layer of the store as manifests describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLayer {
    /// The digest of its archive before compression.
    #[serde(with = "as_text")]
    pub diff_id: Digest,
    /// The digest of its blob.
    #[serde(with = "as_text")]
    pub digest: Digest,
    /// Bytes of its blob.
    pub bytes: u64,
    /// The blob's media type.
    pub media_type: String,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Store {
    /// An image's layers, lowest first.
    ///
    /// # Errors
    /// When its manifest is damaged.
    pub fn image_layers(&self, image: &Image) -> Result<Vec<StoredLayer>> {
        let bytes = self.document(image.manifest, 0)?;
        let what = format!("the manifest {}", image.manifest);
        let manifest: oci_spec::image::ImageManifest = super::parse(&bytes, &what)?;
        manifest
            .layers()
            .iter()
            .zip(&image.layers)
            .map(|(layer, diff_id)| {
                Ok(StoredLayer {
                    diff_id: *diff_id,
                    digest: layer.digest().to_string().parse()?,
                    bytes: layer.size(),
                    media_type: layer.media_type().to_string(),
                })
            })
            .collect()
    }

    /// An image's configuration as it stands in the store: docker's members that OCI does not know included.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn raw_config(&self, image: &Image) -> Result<Value> {
        let bytes = self.document(image.id, 0)?;
        super::parse(&bytes, &format!("the configuration {}", image.id))
    }

    /// Stores a layer, of which `pack` writes the archive. It is kept by the lease until an image, or the cache, refers to it.
    ///
    /// # Errors
    /// Those of `pack`, a full disk, or an archive that must not be unpacked.
    pub fn add_layer(
        &self,
        lease: &Lease,
        pack: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    ) -> Result<StoredLayer> {
        let budget = Budget::of(self.root())?;
        let ingest = Ingest {
            workspace: &lease.workspace,
            limits: self.limits(),
            budget: &budget,
        };
        let (packed, layer) = thread::scope(|scope| {
            let (sender, mut archive) = pipe();
            let packing = scope.spawn(move || compress(pack, sender));
            let layer = ingest.layer(&mut archive, "the new layer", true);
            // Who packs for nobody notices it.
            drop(archive);
            let packed = packing.join();
            (
                packed.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                layer,
            )
        });
        // The first failure is the one to tell.
        let layer = match (packed, layer) {
            (Err(Error::NobodyReads) | Ok(()), layer) => layer?,
            (Err(error), _) => return Err(error),
        };
        let stored = StoredLayer {
            diff_id: layer.diff_id,
            digest: layer.digest,
            bytes: layer.size,
            media_type: MediaType::ImageLayerGzip.to_string(),
        };
        lease.hold_digests(&[stored.diff_id, stored.digest], |_| true)?;
        self.publish(
            &lease.workspace,
            Publication {
                blobs: HashMap::from([(layer.digest, layer.blob)]),
                layers: HashMap::from([(layer.diff_id, (layer.tree, layer.unpacked))]),
                images: Vec::new(),
                waits: true,
            },
        )?;
        Ok(stored)
    }

    /// Stores an image of layers that the lease keeps, under these names.
    ///
    /// # Errors
    /// A configuration that is none, or a full disk.
    pub fn add_image(
        &self,
        lease: &Lease,
        config: &Value,
        layers: &[StoredLayer],
        names: &[Reference],
    ) -> Result<Image> {
        let config = config_bytes(config)?;
        let id = Digest::of(&config);
        if layers.len() > self.limits().layers {
            return Err(Error::LimitPassed {
                what: "layers in one image",
                limit: self.limits().layers as u64,
            });
        }
        let described: Vec<Descriptor> = layers
            .iter()
            .map(|layer| {
                let media_type = MediaType::from(layer.media_type.as_str());
                descriptor(media_type, layer.bytes, layer.digest)
            })
            .collect::<Result<_>>()?;
        let manifest = to_json(&manifest(id, config.len(), described)?)?;
        let digest = Digest::of(&manifest);
        let entry = IndexEntry {
            manifest: digest,
            manifest_bytes: manifest.len() as u64,
            media_type: MediaType::ImageManifest.to_string(),
            id,
            name: None,
        };
        let mut blobs = HashMap::new();
        for (digest, content) in [(id, config), (digest, manifest)] {
            let path = lease.workspace.unique("document");
            std::fs::write(&path, content).map_err(Error::io("write", &path))?;
            blobs.insert(digest, path);
        }
        let mut needed: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        needed.push(id);
        let publication = Publication {
            blobs,
            layers: HashMap::new(),
            images: vec![NewImage {
                entry: entry.clone(),
                names: names.to_vec(),
                blobs: needed,
                layers: layers.iter().map(|layer| layer.diff_id).collect(),
            }],
            waits: true,
        };
        self.publish(&lease.workspace, publication)?;
        self.image(&self.index()?, &entry)
    }
}

impl Image {
    /// An image that is nowhere but in memory, of this configuration and of layers that a store has: what the steps of a build
    /// run in. Its manifest is its ID.
    ///
    /// # Errors
    /// A configuration that is none.
    pub fn provisional(config: &Value) -> Result<Self> {
        let bytes = config_bytes(config)?;
        let id = Digest::of(&bytes);
        let config = super::parse(&bytes, "the new configuration")?;
        let layers = diff_ids(&config, "the new configuration")?;
        Ok(Self {
            id,
            manifest: id,
            config,
            layers,
            names: Vec::new(),
        })
    }
}

/// A configuration as it is stored: its digest is the image's ID.
fn config_bytes(config: &Value) -> Result<Vec<u8>> {
    let bytes = to_json(config)?;
    // What is longer could not be loaded again; and a few lines of a Dockerfile can double a variable without end.
    let limit = Limits::default().document_bytes;
    if bytes.len() as u64 > limit {
        return Err(Error::LimitPassed {
            what: "bytes in an image's configuration",
            limit,
        });
    }
    Ok(bytes)
}

/// Runs `pack` and sends what it writes, in gzip, in chunks. The header says neither a time nor a name.
fn compress(pack: impl FnOnce(&mut dyn Write) -> Result<()>, sender: ChunkSender) -> Result<()> {
    let out = Chunks {
        buffer: sender.buffer(),
        sender,
    };
    let mut encoder = GzBuilder::new().mtime(0).write(out, LEVEL);
    pack(&mut encoder)?;
    encoder
        .finish()
        .and_then(|mut out| out.flush_chunk())
        .map_err(|e| Error::pack(b"the layer", e))
}

/// Writing into a pipe of chunks. Dropped early, the reader finds an archive that is cut short.
struct Chunks {
    sender: ChunkSender,
    buffer: Vec<u8>,
}

impl Chunks {
    fn flush_chunk(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, self.sender.buffer());
        self.buffer.clear();
        if self.sender.send(Ok(chunk)) {
            Ok(())
        } else {
            Err(Error::NobodyReads.into())
        }
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK - self.buffer.len().min(CHUNK);
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() >= CHUNK {
            self.flush_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
