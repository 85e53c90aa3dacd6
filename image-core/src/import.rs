//! An image out of a root file system archive.

use std::collections::HashMap;
use std::io::Read;
use std::time::SystemTime;

use oci_spec::image::{
    Arch, Config, Descriptor, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder,
    ImageManifest, ImageManifestBuilder, MediaType, Os, RootFsBuilder,
};
use serde_json::Value;

use crate::archive::Compression;
use crate::derive::whole_seconds;
use crate::ingest::Ingest;
use crate::limits::Budget;
use crate::store::{Image, IndexEntry, NewImage, Publication, Store};
use crate::{Change, Digest, Error, Reference, Result, apply, timestamp};

/// What an imported image is called and says of itself.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions<'o> {
    /// Its name; without one it is found by its ID.
    pub name: Option<&'o Reference>,
    /// Changes to an empty configuration, in order.
    pub changes: &'o [Change],
    /// When it was made: this time, or what `SOURCE_DATE_EPOCH` says, or now.
    pub created: Option<SystemTime>,
    /// What its history says; `imported from a tar archive` if nothing is given.
    pub message: Option<&'o str>,
}

impl Store {
    /// Makes a one-layer image for linux/amd64 out of a root file system's tar archive: plain, or in gzip or zstd. The archive
    /// is stored as it is, and read once, in bounded memory. A `&[u8]` is an archive too.
    ///
    /// The same archive and changes give the same ID whenever `created` is the same.
    ///
    /// # Errors
    /// An archive that is damaged, cut short, hostile or too large; a change that makes no sense; a full disk. Then the store is as
    /// it was before.
    pub fn import(
        &self,
        tar: impl Read,
        name: Option<&Reference>,
        changes: &[Change],
    ) -> Result<Image> {
        self.import_with(
            tar,
            &ImportOptions {
                name,
                changes,
                ..ImportOptions::default()
            },
        )
    }

    /// [`Store::import`] with everything that can be chosen.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_with(&self, mut tar: impl Read, options: &ImportOptions<'_>) -> Result<Image> {
        if let Some(name) = options.name
            && name.digest().is_some()
        {
            return Err(Error::InvalidReference {
                text: name.to_string(),
                reason: "a digest follows from the content; it cannot be given to an image",
            });
        }
        let config = apply(None, options.changes)?;
        let created = match options.created {
            Some(time) => time,
            None => source_date()?.unwrap_or_else(SystemTime::now),
        };

        let workspace = self.workspace()?;
        let budget = Budget::of(self.root())?;
        let ingest = Ingest {
            workspace: &workspace,
            limits: self.limits(),
            budget: &budget,
        };
        let layer = ingest.layer(&mut tar, "the archive", true)?;

        let message = options.message.unwrap_or("imported from a tar archive");
        let config = to_json(&configuration(config, layer.diff_id, created, message)?)?;
        let id = Digest::of(&config);
        let descriptor = descriptor(layer_type(layer.compression), layer.size, layer.digest)?;
        let manifest = to_json(&manifest(id, config.len(), vec![descriptor])?)?;

        let mut blobs = HashMap::from([(layer.digest, layer.blob)]);
        let mut add = |content: &[u8]| -> Result<Digest> {
            let digest = Digest::of(content);
            let path = workspace.unique("document");
            std::fs::write(&path, content).map_err(Error::io("write", &path))?;
            blobs.insert(digest, path);
            Ok(digest)
        };
        add(&config)?;
        let entry = IndexEntry {
            manifest: add(&manifest)?,
            manifest_bytes: manifest.len() as u64,
            media_type: MediaType::ImageManifest.to_string(),
            id,
            name: None,
        };
        let image = NewImage {
            entry: entry.clone(),
            names: options.name.into_iter().cloned().collect(),
            blobs: vec![layer.digest, id],
            layers: vec![layer.diff_id],
        };
        let layers = HashMap::from([(layer.diff_id, (layer.tree, layer.unpacked))]);
        self.publish(
            &workspace,
            Publication {
                blobs,
                layers,
                images: vec![image],
                waits: false,
            },
        )?;
        self.image(&self.index()?, &entry)
    }
}

/// The time that reproducible builds agree on (<https://reproducible-builds.org/specs/source-date-epoch/>): what `SOURCE_DATE_EPOCH`
/// says.
///
/// # Errors
/// [`Error::InvalidSourceDate`].
pub fn source_date() -> Result<Option<SystemTime>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let time = text
        .parse()
        .ok()
        .and_then(|seconds| timestamp::at(seconds, 0));
    time.map(Some)
        .ok_or_else(|| Error::InvalidSourceDate(text.into_owned()))
}

fn configuration(
    config: Config,
    diff_id: Digest,
    created: SystemTime,
    message: &str,
) -> Result<ImageConfiguration> {
    // Image configurations in the field count whole seconds or nanoseconds; an ID should not depend on the latter.
    let created = timestamp::format(whole_seconds(created));
    let built = || {
        let rootfs = RootFsBuilder::default()
            .diff_ids(vec![diff_id.to_string()])
            .build()?;
        let history = HistoryBuilder::default()
            .created(created.clone())
            .comment(message)
            .build()?;
        ImageConfigurationBuilder::default()
            .created(created.clone())
            .architecture(Arch::Amd64)
            .os(Os::Linux)
            .config(config)
            .rootfs(rootfs)
            .history(vec![history])
            .build()
    };
    built().map_err(|e: oci_spec::OciSpecError| invalid("the new configuration", e))
}

/// The manifest of an image made here.
pub(crate) fn manifest(
    config: Digest,
    config_bytes: usize,
    layers: Vec<Descriptor>,
) -> Result<ImageManifest> {
    ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(
            MediaType::ImageConfig,
            config_bytes as u64,
            config,
        )?)
        .layers(layers)
        .build()
        .map_err(|e| invalid("the new manifest", e))
}

pub(crate) fn descriptor(media_type: MediaType, size: u64, digest: Digest) -> Result<Descriptor> {
    let digest: oci_spec::image::Digest = digest
        .to_string()
        .parse()
        .map_err(|e| invalid("a digest", e))?;
    Ok(Descriptor::new(media_type, size, digest))
}

pub(crate) fn layer_type(compression: Compression) -> MediaType {
    match compression {
        Compression::None => MediaType::ImageLayer,
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    }
}

fn invalid(what: &str, error: oci_spec::OciSpecError) -> Error {
    Error::InvalidDocument {
        what: what.to_owned(),
        reason: error.to_string(),
    }
}

/// JSON whose bytes depend on the values only: hash maps (labels) are written in the order of their keys.
pub(crate) fn to_json(document: &impl serde::Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(document).map_err(|e| Error::InvalidDocument {
        what: "a new document".to_owned(),
        reason: e.to_string(),
    })?;
    let mut json = String::new();
    write_sorted(&value, &mut json);
    Ok(json.into_bytes())
}

fn write_sorted(value: &Value, json: &mut String) {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            json.push('{');
            for (index, (key, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                json.push_str(&Value::from(key.as_str()).to_string());
                json.push(':');
                write_sorted(member, json);
            }
            json.push('}');
        }
        Value::Array(items) => {
            json.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                write_sorted(item, json);
            }
            json.push(']');
        }
        plain => json.push_str(&plain.to_string()),
    }
}
