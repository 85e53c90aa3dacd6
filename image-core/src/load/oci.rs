//! OCI image layouts: index.json, and from there by digests.

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};

use super::check_platform;
use super::scan::Archive;
use crate::ingest::Ingest;
use crate::store::{IndexEntry, NewImage, Publication, diff_ids};
use crate::{Digest, Error, Reference, Result};

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer types, those that registries do not hand on included: an archive holds their bytes.
const DOCKER_LAYERS: [&str; 5] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// The full name that containerd, docker and buildx put beside `org.opencontainers.image.ref.name`, which may be a bare tag there.
const ANNOTATION_CONTAINERD: &str = "io.containerd.image.name";

/// Indexes inside indexes: deeper is a loop or a joke.
const DEEPEST: usize = 4;

/// Collects the images that the archive's index lists.
pub(super) fn collect(
    archive: &mut Archive,
    ingest: &Ingest<'_>,
    publication: &mut Publication,
) -> Result<()> {
    let index: ImageIndex = archive.parsed(
        archive.named("index.json")?,
        "the archive's index.json",
        ingest,
    )?;
    let manifests = select(index.manifests(), "the archive")?;
    for descriptor in manifests {
        let name = name_of(descriptor);
        let manifest = manifest_of(descriptor, archive, ingest, 0)?;
        add_image(&manifest, name, archive, ingest, publication)?;
    }
    Ok(())
}

/// Of descriptors for several platforms, those that may be for ours. Descriptors that do not say are kept: their configuration
/// will. Signatures and attestations have the platform unknown/unknown.
fn select<'d>(descriptors: &'d [Descriptor], whose: &str) -> Result<Vec<&'d Descriptor>> {
    let is_ours = |descriptor: &&Descriptor| match descriptor.platform() {
        Some(platform) => (platform.os(), platform.architecture()) == (&Os::Linux, &Arch::Amd64),
        None => true,
    };
    let ours: Vec<&Descriptor> = descriptors.iter().filter(is_ours).collect();
    if ours.is_empty() && !descriptors.is_empty() {
        let mut found: Vec<String> = descriptors
            .iter()
            .filter_map(|d| d.platform().as_ref())
            .map(|platform| format!("{}/{}", platform.os(), platform.architecture()))
            .collect();
        found.dedup();
        return Err(Error::ForeignPlatform {
            image: whose.to_owned(),
            found: found.join(", "),
        });
    }
    Ok(ours)
}

/// Follows a descriptor to the manifest of one image.
fn manifest_of(
    descriptor: &Descriptor,
    archive: &Archive,
    ingest: &Ingest<'_>,
    depth: usize,
) -> Result<Descriptor> {
    let digest = digest_of(descriptor)?;
    match descriptor.media_type() {
        MediaType::ImageManifest => return Ok(descriptor.clone()),
        MediaType::Other(other) if other == DOCKER_MANIFEST => return Ok(descriptor.clone()),
        MediaType::ImageIndex => {}
        MediaType::Other(other) if other == DOCKER_LIST => {}
        other => {
            return Err(unsupported(
                &format!("manifest {digest}"),
                other,
                "image manifests and indexes of OCI and docker",
            ));
        }
    }
    let what = format!("the index {digest}");
    if depth == DEEPEST {
        return Err(Error::InvalidDocument {
            what,
            reason: "indexes are nested too deeply".to_owned(),
        });
    }
    let index: ImageIndex = archive.parsed(archive.with_digest(digest, "index")?, &what, ingest)?;
    let ours = select(index.manifests(), &what)?;
    // A plain amd64 before one for newer processors (variants v2, v3).
    let is_plain = |d: &&&Descriptor| d.platform().as_ref().is_none_or(|p| p.variant().is_none());
    let chosen = ours.iter().find(is_plain).or(ours.first());
    let chosen = chosen.ok_or_else(|| Error::InvalidDocument {
        what,
        reason: "it lists no image".to_owned(),
    })?;
    manifest_of(chosen, archive, ingest, depth + 1)
}

fn add_image(
    descriptor: &Descriptor,
    name: Option<Reference>,
    archive: &mut Archive,
    ingest: &Ingest<'_>,
    publication: &mut Publication,
) -> Result<()> {
    let digest = digest_of(descriptor)?;
    let what = format!("manifest {digest}");
    let place = archive.with_digest(digest, "manifest")?;
    check_size(descriptor, archive.content(place).size)?;
    let manifest: ImageManifest = archive.parsed(place, &what, ingest)?;
    if manifest.schema_version() != 2 {
        return Err(Error::InvalidDocument {
            what,
            reason: "its schemaVersion is not 2".to_owned(),
        });
    }
    let config_type = manifest.config().media_type();
    match config_type {
        MediaType::ImageConfig => {}
        MediaType::Other(other) if other == DOCKER_CONFIG => {}
        other => {
            return Err(unsupported(
                &format!("the configuration of {what}"),
                other,
                "image configurations of OCI and docker",
            ));
        }
    }
    let id = digest_of(manifest.config())?;
    let config_place = archive.with_digest(id, "configuration")?;
    check_size(manifest.config(), archive.content(config_place).size)?;
    let config: ImageConfiguration =
        archive.parsed(config_place, &format!("the configuration {id}"), ingest)?;
    let shown = name.as_ref().map_or_else(
        || format!("image {}", id.short()),
        |name| format!("image {name}"),
    );
    check_platform(&config, &shown)?;
    let layers = diff_ids(&config, &format!("the configuration {id}"))?;
    check_layers(manifest.layers().len(), &layers, &shown, ingest)?;

    let mut blobs = vec![id];
    for (descriptor, expected) in manifest.layers().iter().zip(&layers) {
        let digest = digest_of(descriptor)?;
        if !is_layer_type(descriptor.media_type()) {
            return Err(unsupported(
                &format!("layer {digest}"),
                descriptor.media_type(),
                "tar layers, plain or in gzip or zstd",
            ));
        }
        let place = archive.with_digest(digest, "layer")?;
        check_size(descriptor, archive.content(place).size)?;
        take_layer(
            place,
            &format!("layer {digest}"),
            *expected,
            archive,
            ingest,
            publication,
        )?;
        blobs.push(digest);
    }
    archive.give(place, publication);
    archive.give(config_place, publication);
    publication.images.push(NewImage {
        entry: IndexEntry {
            manifest: digest,
            manifest_bytes: descriptor.size(),
            media_type: descriptor.media_type().to_string(),
            id,
            name: None,
        },
        names: name.into_iter().collect(),
        blobs,
        layers,
    });
    Ok(())
}

/// Checks a layer against the diff ID that the configuration states, and gives it to the publication.
pub(super) fn take_layer(
    place: usize,
    name: &str,
    expected: Digest,
    archive: &mut Archive,
    ingest: &Ingest<'_>,
    publication: &mut Publication,
) -> Result<()> {
    let actual = archive.layer(place, name, ingest)?.diff_id;
    if actual != expected {
        return Err(Error::DigestMismatch {
            what: format!("{name}, inflated,"),
            expected,
            actual,
        });
    }
    archive.give(place, publication);
    Ok(())
}

pub(crate) fn check_layers(
    manifest: usize,
    config: &[Digest],
    shown: &str,
    ingest: &Ingest<'_>,
) -> Result<()> {
    if manifest != config.len() {
        return Err(Error::InvalidDocument {
            what: shown.to_owned(),
            reason: format!(
                "its manifest has {manifest} layers, but its configuration {}",
                config.len()
            ),
        });
    }
    let limit = ingest.limits.layers;
    if manifest > limit {
        return Err(Error::LimitPassed {
            what: "layers in one image",
            limit: limit as u64,
        });
    }
    if manifest == 0 {
        return Err(Error::InvalidDocument {
            what: shown.to_owned(),
            reason: "it has no layers".to_owned(),
        });
    }
    Ok(())
}

/// Whether it is a layer of files: OCI's types and docker's, those that registries do not hand on included.
pub(crate) fn is_layer_type(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        MediaType::Other(other) => DOCKER_LAYERS.contains(&other.as_str()),
        _ => false,
    }
}

fn check_size(descriptor: &Descriptor, actual: u64) -> Result<()> {
    if descriptor.size() == actual {
        return Ok(());
    }
    Err(Error::InvalidDocument {
        what: format!("the descriptor of {}", descriptor.digest()),
        reason: format!(
            "it states {} bytes, but there are {actual}",
            descriptor.size()
        ),
    })
}

pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().to_string().parse()
}

pub(crate) fn unsupported(what: &str, media_type: &MediaType, supported: &'static str) -> Error {
    Error::UnsupportedMediaType {
        what: what.to_owned(),
        media_type: media_type.to_string(),
        supported,
    }
}

/// The name that an archive gives to an image. What is not a name here (an upper-case one, say) gives none: the image can
/// be had by its ID.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotations = descriptor.annotations().as_ref()?;
    let name = annotations
        .get(ANNOTATION_CONTAINERD)
        .or_else(|| annotations.get(oci_spec::image::ANNOTATION_REF_NAME))?;
    name.parse::<Reference>()
        .ok()
        .filter(|name| name.digest().is_none())
}
