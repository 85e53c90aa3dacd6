//! What `docker save` wrote before it wrote OCI layouts, and `podman save` still writes: manifest.json, layers by their names.

use oci_spec::image::{ImageConfiguration, MediaType};
use serde::Deserialize;

use super::check_platform;
use super::oci::{check_layers, take_layer};
use super::scan::Archive;
use crate::import::{descriptor, layer_type, manifest, to_json};
use crate::ingest::Ingest;
use crate::store::{IndexEntry, NewImage, Publication, diff_ids};
use crate::{Digest, Error, Reference, Result};

/// One image in manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Collects the images that manifest.json lists. Their manifests are made here.
pub(super) fn collect(
    archive: &mut Archive,
    ingest: &Ingest<'_>,
    publication: &mut Publication,
) -> Result<()> {
    let list: Vec<Saved> = archive.parsed(
        archive.named("manifest.json")?,
        "the archive's manifest.json",
        ingest,
    )?;
    for saved in list {
        add_image(&saved, archive, ingest, publication)?;
    }
    Ok(())
}

fn add_image(
    saved: &Saved,
    archive: &mut Archive,
    ingest: &Ingest<'_>,
    publication: &mut Publication,
) -> Result<()> {
    let names = saved
        .repo_tags
        .iter()
        .flatten()
        .map(|name| name.parse::<Reference>());
    let names = names.collect::<Result<Vec<_>>>()?;
    let config_place = archive.named(&saved.config)?;
    let id = archive.content(config_place).digest;
    // The configuration is called by its digest.
    let file = saved.config.rsplit('/').next().unwrap_or_default();
    if let Some(expected) = Digest::from_hex(file.strip_suffix(".json").unwrap_or(file))
        && expected != id
    {
        return Err(Error::DigestMismatch {
            what: format!("the configuration {}", saved.config),
            expected,
            actual: id,
        });
    }
    let config: ImageConfiguration =
        archive.parsed(config_place, &format!("the configuration {id}"), ingest)?;
    let shown = names.first().map_or_else(
        || format!("image {}", id.short()),
        |name| format!("image {name}"),
    );
    check_platform(&config, &shown)?;
    let layers = diff_ids(&config, &format!("the configuration {id}"))?;
    let files = saved.layers.as_deref().unwrap_or_default();
    check_layers(files.len(), &layers, &shown, ingest)?;

    let mut descriptors = Vec::with_capacity(files.len());
    let mut blobs = vec![id];
    for (file, expected) in files.iter().zip(&layers) {
        let place = archive.named(file)?;
        let name = format!("layer {file}");
        let compression = archive.layer(place, &name, ingest)?.compression;
        take_layer(place, &name, *expected, archive, ingest, publication)?;
        let content = archive.content(place);
        descriptors.push(descriptor(
            layer_type(compression),
            content.size,
            content.digest,
        )?);
        blobs.push(content.digest);
    }
    let config_bytes = usize::try_from(archive.content(config_place).size).unwrap_or(usize::MAX);
    let manifest = to_json(&manifest(id, config_bytes, descriptors)?)?;
    let digest = Digest::of(&manifest);
    let path = ingest.workspace.unique("document");
    std::fs::write(&path, &manifest).map_err(Error::io("write", &path))?;
    publication.blobs.insert(digest, path);
    archive.give(config_place, publication);
    publication.images.push(NewImage {
        entry: IndexEntry {
            manifest: digest,
            manifest_bytes: manifest.len() as u64,
            media_type: MediaType::ImageManifest.to_string(),
            id,
            name: None,
        },
        names,
        blobs,
        layers,
    });
    Ok(())
}
