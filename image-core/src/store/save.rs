//! Images into archives that other tools load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::{Image, IndexEntry, Store, StoredLayer};
use crate::archive::{CHUNK, Compression, Decoder};
use crate::import::to_json;
use crate::{Digest, Error, Reference, Result};

/// What an archive of images looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveFormat {
    /// As docker has written it since version 25: an OCI layout with docker's manifest.json beside it. Every digest stays, and
    /// docker, podman and skopeo read it.
    #[default]
    Both,
    /// An OCI layout alone.
    Oci,
    /// docker's older format: layers without compression, by names of their own. For tools that know no zstd.
    Docker,
}

/// An image to be saved, and the names it gets in the archive.
struct Saved {
    entry: IndexEntry,
    image: Image,
    names: Vec<Reference>,
    layers: Vec<StoredLayer>,
}

impl Store {
    /// Writes images into one archive: each with the name it was asked for by, or with all names of a repository that was asked for
    /// without a tag, or with none if by its ID. The same images always give the same bytes.
    ///
    /// # Errors
    /// What [`Store::resolve`] answers, or when the archive cannot be written.
    pub fn save(
        &self,
        wanted: &[String],
        format: SaveFormat,
        output: &mut dyn Write,
    ) -> Result<()> {
        let lease = self.lease()?;
        let images = self.to_save(wanted)?;
        for saved in &images {
            lease.hold(&saved.image)?;
        }
        let mut archive = Archive { output };
        match format {
            SaveFormat::Both => {
                archive.layout(self, &images)?;
                archive.document("manifest.json", &docker_list(&images, false))?;
            }
            SaveFormat::Oci => archive.layout(self, &images)?,
            SaveFormat::Docker => archive.docker(self, &images)?,
        }
        archive.finish()
    }

    fn to_save(&self, wanted: &[String]) -> Result<Vec<Saved>> {
        let index = self.index()?;
        let mut images: BTreeMap<Digest, Saved> = BTreeMap::new();
        for text in wanted {
            let reference = text.parse::<Reference>().ok();
            let names_all = |name: &Reference| {
                // `debian` means all its tags, `debian:latest` one.
                !has_tag(text)
                    && reference
                        .as_ref()
                        .is_some_and(|r| r.repository() == name.repository())
            };
            let named: Vec<&IndexEntry> = index
                .entries
                .iter()
                .filter(|entry| {
                    entry.name.as_ref().is_some_and(names_all)
                        || reference.as_ref().is_some_and(|r| entry.is_named(r))
                })
                .collect();
            let (entries, by_name) = if named.is_empty() {
                (vec![index.find(text)?], false)
            } else {
                (named, true)
            };
            for entry in entries {
                let names = entry.name.iter().filter(|_| by_name).cloned();
                if let Some(known) = images.get_mut(&entry.manifest) {
                    known.names.extend(names);
                    continue;
                }
                let image = self.image(&index, entry)?;
                let layers = self.image_layers(&image)?;
                let saved = Saved {
                    entry: entry.clone(),
                    image,
                    names: names.collect(),
                    layers,
                };
                images.insert(entry.manifest, saved);
            }
        }
        let mut images: Vec<Saved> = images.into_values().collect();
        for saved in &mut images {
            saved.names.sort();
            saved.names.dedup();
        }
        Ok(images)
    }
}

/// Whether a name says more than a repository.
fn has_tag(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    last.contains(':') || text.contains('@')
}

/// manifest.json, with layers where they are in either format.
fn docker_list(images: &[Saved], inflated: bool) -> Value {
    let described = images.iter().map(|saved| {
        let names: Vec<String> = saved.names.iter().map(Reference::to_string).collect();
        let (config, layers): (String, Vec<String>) = if inflated {
            let layers = saved
                .layers
                .iter()
                .map(|layer| inflated_name(layer.diff_id));
            (format!("{}.json", saved.image.id.hex()), layers.collect())
        } else {
            let layers = saved.layers.iter().map(|layer| blob_name(layer.digest));
            (blob_name(saved.image.id), layers.collect())
        };
        json!({"Config": config, "RepoTags": names, "Layers": layers})
    });
    Value::Array(described.collect())
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn inflated_name(diff_id: Digest) -> String {
    format!("{}.tar", diff_id.hex())
}

/// The full name that containerd and docker look for.
fn full_name(name: &Reference) -> String {
    let text = name.to_string();
    match name.repository().split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => text,
        Some(_) => format!("docker.io/{text}"),
        None => format!("docker.io/library/{text}"),
    }
}

struct Archive<'a> {
    output: &'a mut dyn Write,
}

impl Archive<'_> {
    fn layout(&mut self, store: &Store, images: &[Saved]) -> Result<()> {
        self.document("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        self.directory("blobs/")?;
        self.directory("blobs/sha256/")?;
        let mut blobs = BTreeSet::new();
        for saved in images {
            blobs.extend([saved.entry.manifest, saved.image.id]);
            blobs.extend(saved.layers.iter().map(|layer| layer.digest));
        }
        for digest in blobs {
            let path = store.blob(digest);
            let mut file = File::open(&path).map_err(Error::io("open", &path))?;
            let size = file.metadata().map_err(Error::io("examine", &path))?.len();
            self.file(&blob_name(digest), &mut file, size)?;
        }
        let mut manifests = Vec::new();
        for saved in images {
            let plain = json!({
                "mediaType": saved.entry.media_type,
                "digest": saved.entry.manifest.to_string(),
                "size": saved.entry.manifest_bytes,
                "platform": {"architecture": "amd64", "os": "linux"},
            });
            if saved.names.is_empty() {
                manifests.push(plain.clone());
            }
            for name in &saved.names {
                let mut named = plain.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": full_name(name),
                    // The whole name: podman and skopeo look for nothing else.
                    "org.opencontainers.image.ref.name": full_name(name),
                });
                manifests.push(named);
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        self.document("index.json", &index)
    }

    fn docker(&mut self, store: &Store, images: &[Saved]) -> Result<()> {
        let mut written = BTreeSet::new();
        for saved in images {
            let config = store.document(saved.image.id, 0)?;
            let name = format!("{}.json", saved.image.id.hex());
            if written.insert(name.clone()) {
                self.file(&name, &mut config.as_slice(), config.len() as u64)?;
            }
            for layer in &saved.layers {
                let name = inflated_name(layer.diff_id);
                if written.insert(name.clone()) {
                    // A header wants the size first; inflating twice needs no space.
                    let size = io::copy(&mut inflated(store, layer)?, &mut io::sink())
                        .map_err(|e| Error::reading(&name, e))?;
                    self.file(&name, &mut inflated(store, layer)?, size)?;
                }
            }
        }
        self.document("manifest.json", &docker_list(images, true))
    }

    fn document(&mut self, name: &str, document: &Value) -> Result<()> {
        let json = to_json(document)?;
        self.file(name, &mut json.as_slice(), json.len() as u64)
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let header = header(EntryType::Directory, name, 0o755, 0);
        self.write(header.as_bytes())
    }

    fn file(&mut self, name: &str, content: &mut dyn Read, size: u64) -> Result<()> {
        self.write(header(EntryType::Regular, name, 0o644, size).as_bytes())?;
        let mut content = content.take(size);
        let copied =
            io::copy(&mut content, self.output).map_err(|e| Error::pack(name.as_bytes(), e))?;
        if copied != size {
            return Err(Error::Truncated {
                archive: name.to_owned(),
                reason: "it has become shorter".to_owned(),
            });
        }
        let padding = size.next_multiple_of(512) - size;
        self.write(&[0; 512][..usize::try_from(padding).unwrap_or(0)])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output
            .write_all(bytes)
            .map_err(|e| Error::pack(b"the images", e))
    }

    fn finish(mut self) -> Result<()> {
        self.write(&[0; 1024])?;
        self.output
            .flush()
            .map_err(|e| Error::pack(b"the images", e))
    }
}

fn inflated(store: &Store, layer: &StoredLayer) -> Result<impl Read> {
    let path = store.blob(layer.digest);
    let mut file = File::open(&path).map_err(Error::io("open", &path))?;
    let mut start = [0; 6];
    let read = file.read(&mut start).map_err(Error::io("read", &path))?;
    let compression = Compression::detect(&start[..read]).map_err(|other| Error::Malformed {
        archive: path.display().to_string(),
        reason: format!("it is compressed with {other}"),
    })?;
    io::Seek::rewind(&mut file).map_err(Error::io("read", &path))?;
    Decoder::new(compression, BufReader::with_capacity(CHUNK, file))
        .map_err(|e| Error::reading(&path.display().to_string(), e))
}

fn header(kind: EntryType, name: &str, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    // All names here are shorter than the field's 100 bytes.
    for (to, from) in header.as_old_mut().name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}
