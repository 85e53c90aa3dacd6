//! `pull`: documents first, then the layers that are missing, and everything visible at once.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use ureq::http::{Method, StatusCode};

use super::download::Download;
use super::endpoint::Repository;
use super::http::{read_small, unexpected};
use super::partial::{self, Partial};
use super::progress::{Event, Progress, Report};
use super::session::{Ask, Payload, Session};
use super::{AT_ONCE, Client, Platform, RegistryError};
use crate::ingest::{Ingest, Kept};
use crate::limits::Budget;
use crate::load::{
    DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, check_layers, check_platform, digest_of,
    is_layer_type, known_layers, unsupported,
};
use crate::store::{Image, IndexEntry, NewImage, Publication, Store, diff_ids, parse};
use crate::unpack::Unpacked;
use crate::{Digest, Error, Reference, Result};

/// All manifests that we understand, and the one that we know enough of to refuse it by name.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Indexes inside indexes: deeper is a loop or a joke.
const DEEPEST: usize = 4;

/// What a pull has done.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// What the name means on the registry: the digest of an index or of the manifest.
    pub digest: Digest,
    /// Whether the name meant something else here before, or nothing.
    pub newer: bool,
}

/// A manifest or index as it came.
struct Document {
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
}

/// The parts of a manifest that say what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

/// One layer of the image that is missing here.
struct Wanted {
    index: usize,
    digest: Digest,
    size: u64,
    diff_id: Digest,
    partial: Partial,
}

struct Pull<'p> {
    store: &'p Store,
    session: Session<'p>,
    repository: Repository,
    /// As errors call the image.
    shown: String,
    platform: &'p Platform,
    progress: &'p dyn Progress,
}

impl Store {
    /// Fetches an image for `platform`, or only its documents if its layers are here.
    ///
    /// # Errors
    /// A registry that cannot be reached, refuses, or does not keep to what it states; an image for other machines or of kinds
    /// that are not supported; a full disk. Then no image is other than before, and what has come of its layers is kept for the next attempt.
    pub fn pull(
        &self,
        client: &Client,
        name: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let repository = Repository::of(name);
        let scope = format!("repository:{}:pull", repository.path);
        let session = Session::open(
            &client.http,
            &repository.server,
            Some(scope),
            &client.config,
            None,
        )?;
        let pull = Pull {
            store: self,
            session,
            repository,
            shown: name.to_string(),
            platform,
            progress,
        };
        pull.run(name)
    }

    /// Removes what has come of layers whose pull has ended before its time. Gives the bytes that this frees.
    ///
    /// # Errors
    /// When the store's directory cannot be listed.
    pub fn clear_incoming(&self) -> Result<u64> {
        partial::clear_older(&self.root().join("incoming"), std::time::Duration::ZERO)
    }
}

impl Pull<'_> {
    fn run(&self, name: &Reference) -> Result<Pulled> {
        let wanted = match name.digest() {
            Some(digest) => digest.to_string(),
            None => name.tag().unwrap_or("latest").to_owned(),
        };
        let top = self.document(&wanted, name.digest(), None)?;
        let digest = top.digest;
        self.progress.found(digest);
        // A name with a digest keeps that, not its tag, as for docker.
        let name = match name.digest() {
            Some(digest) => format!("{}@{digest}", name.repository()).parse()?,
            None => name.clone(),
        };
        let document = self.manifest(top, 0)?;
        let index = self.store.index()?;
        let before = index
            .entries
            .iter()
            .find(|entry| entry.name.as_ref() == Some(&name));
        let newer = before.is_none_or(|entry| entry.manifest != document.digest);
        // An image that has been damaged here is fetched again.
        if !newer
            && let Some(entry) = before
            && let Ok(image) = self.store.image(&index, entry)
            && self.store.visible_layers(&image).is_ok()
        {
            return Ok(Pulled {
                image,
                digest,
                newer,
            });
        }
        let entry = self.fetch(document, name)?;
        let image = self.store.image(&self.store.index()?, &entry)?;
        Ok(Pulled {
            image,
            digest,
            newer,
        })
    }

    /// Follows indexes to the manifest of one image.
    fn manifest(&self, document: Document, depth: usize) -> Result<Document> {
        let what = format!("manifest {}", document.digest);
        match document.media_type.as_str() {
            DOCKER_MANIFEST | OCI_MANIFEST => return Ok(document),
            DOCKER_LIST | OCI_INDEX => {}
            SCHEMA_1 | SCHEMA_1_SIGNED => {
                return Err(RegistryError::Schema1(self.shown.clone()).into());
            }
            other => {
                return Err(unsupported(
                    &what,
                    &MediaType::Other(other.escape_debug().take(160).collect()),
                    "image manifests and indexes of OCI and docker",
                ));
            }
        }
        if depth == DEEPEST {
            return Err(Error::InvalidDocument {
                what,
                reason: "indexes are nested too deeply".to_owned(),
            });
        }
        let index: ImageIndex = parse(&document.bytes, &what)?;
        let chosen = self.platform.select(&index, &self.shown)?;
        let digest = digest_of(chosen)?;
        let next = self.document(&digest.to_string(), Some(digest), Some(chosen.size()))?;
        self.manifest(next, depth + 1)
    }

    /// Fetches a manifest or index by tag or digest.
    fn document(
        &self,
        wanted: &str,
        expected: Option<Digest>,
        size: Option<u64>,
    ) -> Result<Document> {
        let what = format!("manifest {wanted}");
        let host = self.session.server.host();
        let ask = Ask {
            method: Method::GET,
            url: self
                .session
                .url(&format!("/v2/{}/manifests/{wanted}", self.repository.path))?,
            headers: &[("accept", ACCEPTED)],
            what: &what,
        };
        let limit = self.store.limits().document_bytes;
        let (bytes, told, content_type) = self.session.persist(|| {
            let answer = self.session.answer(&ask, Payload::None)?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    return Err(RegistryError::ManifestUnknown(self.shown.clone()));
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(RegistryError::Denied {
                        action: "pull",
                        repository: self.repository.familiar.clone(),
                        detail: super::http::detail(answer),
                    });
                }
                _ => return Err(unexpected(answer, host, &what)),
            }
            let header = |name: &str| {
                let value = answer.headers().get(name)?.to_str().ok()?;
                Some(value.to_owned())
            };
            let (told, content_type) = (header("docker-content-digest"), header("content-type"));
            Ok((read_small(answer, limit, host, &what)?, told, content_type))
        })?;
        let digest = Digest::of(&bytes);
        let told = told.and_then(|told| told.parse::<Digest>().ok());
        if let Some(expected) = expected.or(told)
            && expected != digest
        {
            return Err(RegistryError::wrong_digest(host, &what, expected, digest).into());
        }
        if let Some(size) = size
            && size != bytes.len() as u64
        {
            return Err(self.wrong_size(&what, size, bytes.len() as u64));
        }
        let shape: Shape = parse(&bytes, &what)?;
        if shape.schema_version == 1 {
            return Err(RegistryError::Schema1(self.shown.clone()).into());
        }
        // CVE-2021-41190: what is an index to one program and an image to another is refused.
        if shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some()) {
            return Err(Error::InvalidDocument {
                what,
                reason: "it is an index and an image at the same time".to_owned(),
            });
        }
        let content_type = content_type.map(|text| {
            let plain = text.split(';').next().unwrap_or_default().trim();
            plain.to_ascii_lowercase()
        });
        let media_type = match (shape.media_type, content_type) {
            (Some(own), _) => own,
            (None, Some(told)) if told.starts_with("application/vnd.") => told,
            _ if shape.manifests.is_some() => OCI_INDEX.to_owned(),
            _ => OCI_MANIFEST.to_owned(),
        };
        Ok(Document {
            bytes,
            digest,
            media_type,
        })
    }

    fn wrong_size(&self, what: &str, stated: u64, actual: u64) -> Error {
        RegistryError::Lie {
            host: self.session.server.host().to_owned(),
            what: what.to_owned(),
            reason: format!("it has {actual} bytes where {stated} were stated"),
        }
        .into()
    }

    /// The configuration, out of the store if it is there.
    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = digest_of(descriptor)?;
        let what = format!("configuration {digest}");
        match descriptor.media_type() {
            MediaType::ImageConfig => {}
            MediaType::Other(other) if other == DOCKER_CONFIG => {}
            other => {
                return Err(unsupported(
                    &format!("the {what}"),
                    other,
                    "image configurations of OCI and docker",
                ));
            }
        }
        let limit = self.store.limits().document_bytes;
        let host = self.session.server.host();
        if descriptor.size() > limit {
            return Err(Error::LimitPassed {
                what: "bytes in a document of an image",
                limit,
            });
        }
        if let Ok(bytes) = self.store.document(digest, descriptor.size()) {
            return Ok(bytes);
        }
        let ask = Ask {
            method: Method::GET,
            url: self
                .session
                .url(&format!("/v2/{}/blobs/{digest}", self.repository.path))?,
            headers: &[],
            what: &what,
        };
        let bytes = self.session.persist(|| {
            let answer = self.session.answer(&ask, Payload::None)?;
            if answer.status() != StatusCode::OK {
                return Err(unexpected(answer, host, &what));
            }
            read_small(answer, limit, host, &what)
        })?;
        let actual = Digest::of(&bytes);
        if bytes.len() as u64 != descriptor.size() {
            return Err(self.wrong_size(&what, descriptor.size(), bytes.len() as u64));
        }
        if actual != digest {
            return Err(RegistryError::wrong_digest(host, &what, digest, actual).into());
        }
        Ok(bytes)
    }

    /// Fetches what is missing of an image, and publishes it.
    fn fetch(&self, document: Document, name: Reference) -> Result<IndexEntry> {
        let what = format!("manifest {}", document.digest);
        let manifest: ImageManifest = parse(&document.bytes, &what)?;
        let config_bytes = self.config(manifest.config())?;
        let id = digest_of(manifest.config())?;
        let config: ImageConfiguration = parse(&config_bytes, &format!("the configuration {id}"))?;
        check_platform(&config, &self.shown)?;
        let layers = diff_ids(&config, &format!("the configuration {id}"))?;

        let workspace = self.store.workspace()?;
        let budget = Budget::of(self.store.root())?;
        let ingest = Ingest {
            workspace: &workspace,
            limits: self.store.limits(),
            budget: &budget,
        };
        check_layers(manifest.layers().len(), &layers, &self.shown, &ingest)?;
        let mut blobs = vec![id];
        for descriptor in manifest.layers() {
            let digest = digest_of(descriptor)?;
            if !is_layer_type(descriptor.media_type()) {
                return Err(unsupported(
                    &format!("layer {digest}"),
                    descriptor.media_type(),
                    "tar layers, plain or in gzip or zstd",
                ));
            }
            blobs.push(digest);
        }

        let mut publication = Publication::default();
        let wanted = self.missing(&manifest, &layers, &ingest, &mut publication)?;
        let held = self.layers(wanted, &ingest, &mut publication)?;

        for (digest, content) in [(id, &config_bytes), (document.digest, &document.bytes)] {
            let path = workspace.unique("document");
            std::fs::write(&path, content).map_err(Error::io("write", &path))?;
            publication.blobs.insert(digest, path);
        }
        let entry = IndexEntry {
            manifest: document.digest,
            manifest_bytes: document.bytes.len() as u64,
            media_type: document.media_type,
            id,
            name: None,
        };
        publication.images.push(NewImage {
            entry: entry.clone(),
            names: vec![name],
            blobs,
            layers,
        });
        self.store.publish(&workspace, publication)?;
        // What could not be moved to its place was there already.
        held.iter().for_each(Partial::remove_if_left);
        Ok(entry)
    }

    /// The layers that are not here. Those that are here are held by links in the workspace, should their image be removed now.
    fn missing(
        &self,
        manifest: &ImageManifest,
        layers: &[Digest],
        ingest: &Ingest<'_>,
        publication: &mut Publication,
    ) -> Result<Vec<Wanted>> {
        let directory = partial::prepare(self.store.root())?;
        let known = known_layers(self.store)?;
        let mut wanted: BTreeMap<Digest, (usize, u64, Digest)> = BTreeMap::new();
        for (index, (descriptor, diff_id)) in manifest.layers().iter().zip(layers).enumerate() {
            let digest = digest_of(descriptor)?;
            let short = digest.short();
            let report = Report {
                to: self.progress,
                index,
                id: &short,
            };
            if publication.blobs.contains_key(&digest)
                || self.pin(digest, *diff_id, &known, ingest, publication)
            {
                report.say(Event::Exists);
                continue;
            }
            report.say(Event::Queued);
            let earlier = wanted.insert(digest, (index, descriptor.size(), *diff_id));
            if earlier.is_some_and(|(_, size, id)| (size, id) != (descriptor.size(), *diff_id)) {
                return Err(Error::InvalidDocument {
                    what: self.shown.clone(),
                    reason: format!("it says two things of layer {digest}"),
                });
            }
        }
        let mut locked = Vec::with_capacity(wanted.len());
        let mut waited = false;
        for (digest, (index, size, diff_id)) in wanted {
            let short = digest.short();
            let report = Report {
                to: self.progress,
                index,
                id: &short,
            };
            let partial = Partial::open(&directory, digest, &mut || {
                waited = true;
                report.say(Event::Waiting);
            })?;
            locked.push(Wanted {
                index,
                digest,
                size,
                diff_id,
                partial,
            });
        }
        if waited {
            // Whoever was waited for has probably published some of them.
            let known = known_layers(self.store)?;
            locked.retain(|layer| {
                let there = self.pin(layer.digest, layer.diff_id, &known, ingest, publication);
                if there {
                    layer.partial.remove();
                    let short = layer.digest.short();
                    Report {
                        to: self.progress,
                        index: layer.index,
                        id: &short,
                    }
                    .say(Event::Exists);
                }
                !there
            });
        }
        locked.sort_by_key(|layer| layer.index);
        Ok(locked)
    }

    /// Holds a layer that an image here has, if it is the same in every respect.
    fn pin(
        &self,
        digest: Digest,
        diff_id: Digest,
        known: &HashMap<Digest, Digest>,
        ingest: &Ingest<'_>,
        publication: &mut Publication,
    ) -> bool {
        if known.get(&digest) != Some(&diff_id) {
            return false;
        }
        let path = ingest.workspace.unique("blob");
        let linked = std::fs::hard_link(self.store.blob(digest), &path).is_ok();
        if !linked || !self.store.layer(diff_id).exists() {
            return false;
        }
        publication.blobs.insert(digest, path);
        true
    }

    /// Fetches and unpacks layers, several at once. Gives their files, whose locks are to be held until all is published.
    fn layers(
        &self,
        wanted: Vec<Wanted>,
        ingest: &Ingest<'_>,
        publication: &mut Publication,
    ) -> Result<Vec<Partial>> {
        type Done = (Wanted, Result<(PathBuf, Unpacked)>);
        let workers = AT_ONCE.min(wanted.len());
        let queue = Mutex::new(wanted.into_iter());
        let done: Mutex<Vec<Done>> = Mutex::default();
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        if self.session.cancelled.load(Ordering::Relaxed) {
                            return;
                        }
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(layer) = next else {
                            return;
                        };
                        let fetched = self.layer(&layer, ingest);
                        if fetched.is_err() {
                            self.session.cancelled.store(true, Ordering::Relaxed);
                        }
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.push((layer, fetched));
                    }
                });
            }
        });
        let mut held = Vec::new();
        let mut failed = None;
        for (layer, fetched) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match fetched {
                Ok(unpacked) => {
                    publication
                        .blobs
                        .insert(layer.digest, layer.partial.path.clone());
                    publication.layers.entry(layer.diff_id).or_insert(unpacked);
                }
                // The first is the reason for the others.
                Err(Error::Registry(RegistryError::Cancelled)) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
            held.push(layer.partial);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(held),
        }
    }

    /// Fetches and unpacks one layer.
    fn layer(&self, layer: &Wanted, ingest: &Ingest<'_>) -> Result<(PathBuf, Unpacked)> {
        let short = layer.digest.short();
        let report = Report {
            to: self.progress,
            index: layer.index,
            id: &short,
        };
        let mut have = layer.partial.length()?;
        if have > layer.size {
            layer.partial.restart()?;
            have = 0;
        }
        let outcome = match self.attempt(layer, have, ingest, report) {
            // What an earlier attempt has left may be what is wrong, after a loss of power say.
            Err(error) if have > 0 && !keeps(&error) => {
                layer.partial.restart()?;
                self.attempt(layer, 0, ingest, report)
            }
            outcome => outcome,
        };
        if let Err(error) = &outcome
            && !keeps(error)
        {
            layer.partial.remove();
        }
        let unpacked = outcome?;
        report.say(Event::Pulled);
        Ok(unpacked)
    }

    fn attempt(
        &self,
        layer: &Wanted,
        have: u64,
        ingest: &Ingest<'_>,
        report: Report<'_>,
    ) -> Result<(PathBuf, Unpacked)> {
        let name = format!("layer {}", layer.digest);
        let copy = || {
            let copied = layer.partial.file.try_clone();
            copied.map_err(Error::io("open", &layer.partial.path))
        };
        let mut download = Download::new(
            &self.session,
            &self.repository.path,
            (layer.digest, layer.size),
            (copy()?, have),
            report,
        );
        let kept = Kept {
            path: layer.partial.path.clone(),
            file: copy()?,
            have,
        };
        let ingested = ingest.layer_kept(&mut download, &name, false, kept)?;
        let host = self.session.server.host();
        if ingested.digest != layer.digest {
            return Err(
                RegistryError::wrong_digest(host, &name, layer.digest, ingested.digest).into(),
            );
        }
        if ingested.diff_id != layer.diff_id {
            return Err(Error::DigestMismatch {
                what: format!("{name}, inflated,"),
                expected: layer.diff_id,
                actual: ingested.diff_id,
            });
        }
        Ok((ingested.tree, ingested.unpacked))
    }
}

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Whether what has come before this error is good, so that the next attempt can go on from it.
fn keeps(error: &Error) -> bool {
    match error {
        Error::NoSpace { .. } | Error::Io { .. } | Error::LimitPassed { .. } => true,
        Error::Registry(
            RegistryError::Cancelled
            | RegistryError::Denied { .. }
            | RegistryError::BadCredentials { .. },
        ) => true,
        Error::Registry(error) => error.is_passing(),
        _ => false,
    }
}
