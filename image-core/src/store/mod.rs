//! The store: an OCI image layout, with its layers unpacked beside it.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/<digest>   the OCI image layout
//! layers/<diff id>/fs                             a layer unpacked, as a lower directory for overlayfs
//! layers/<diff id>/layer.json                     what it holds
//! erofs/<diff id>.erofs                           the same for a virtual machine, made when first wanted
//! cache/<key>                                     what a step of a build came to; cache.lock is shared by those who build
//! users.lock                                      shared by those who make instances, alone for those who remove images
//! lock                                            held while index.json is being replaced
//! unsettled.json                                  what may not have reached the disk yet, and in which boot
//! incoming/<digest>                               blobs that a pull has begun, locked while it goes on
//! tmp/<process>-<n>/                              unfinished work
//! ```
//!
//! Readers take no lock: `index.json` is replaced by a rename, and everything it leads to is there, whole, before that. Writers
//! work below `tmp/`, and only move what they have finished into place while they hold the lock.

mod cache;
mod compose;
mod index;
mod lease;
mod list;
mod publish;
mod remove;
mod save;
mod settle;
mod tag;
mod usage;
mod workspace;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::{ImageConfiguration, ImageManifest};

pub use self::cache::{CacheRecord, CacheUse, CachedStep};
pub use self::compose::StoredLayer;
use self::index::Index;
pub(crate) use self::index::IndexEntry;
pub use self::lease::Lease;
pub use self::list::ImageSummary;
pub(crate) use self::publish::{NewImage, Publication, place};
pub use self::remove::Removed;
pub use self::save::SaveFormat;
pub use self::usage::{HistoryLine, Usage};
pub(crate) use self::workspace::{Workspace, make_private};
pub use self::workspace::{clear_directory, remove_tree};
use crate::unpack::OPAQUE;
use crate::{Digest, Error, Limits, Result};

/// An image store in one directory.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
}

/// An image that is in a store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its configuration: docker's image ID.
    pub id: Digest,
    /// The digest of its manifest: what a registry and `name@sha256:…` call it.
    pub manifest: Digest,
    /// Command, environment and so on.
    pub config: ImageConfiguration,
    /// Its layers' digests before compression, lowest first.
    pub layers: Vec<Digest>,
    /// Its names, each with a tag.
    pub names: Vec<String>,
}

impl Store {
    /// Opens the store at `root`, making what is missing. Looks at two files if it is there. The first time after the machine has
    /// been started again, images whose content may not have reached the disk before are mended or removed.
    ///
    /// # Errors
    /// When the directories cannot be made, or that content cannot be mended.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self {
            root: root.to_owned(),
            limits: Limits::default(),
        };
        if !store.root.join("oci-layout").exists() {
            store.create()?;
        }
        store.mend()?;
        Ok(store)
    }

    /// The same store with other limits for what archives may unpack.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The image that `name` means: `name[:tag]`, `name@sha256:…`, an ID or a unique beginning of one.
    ///
    /// Its manifest and configuration are checked against their digests; its layers were when they were stored.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::AmbiguousId`], [`Error::InvalidReference`], or a damaged store.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let index = self.index()?;
        let entry = index.find(name)?;
        self.image(&index, entry)
    }

    /// The directories of an image's layers, **topmost first** as overlayfs wants its lower directories.
    ///
    /// A layer that an image has twice is listed once, where it is topmost: that changes nothing of what is seen, and overlayfs takes
    /// no directory twice. Nothing is listed below a layer that deletes everything below it.
    ///
    /// # Errors
    /// [`Error::Missing`] when a layer is not there any more.
    pub fn layer_dirs(&self, image: &Image) -> Result<Vec<PathBuf>> {
        let visible = self.visible_layers(image)?;
        Ok(visible
            .iter()
            .map(|diff_id| self.layer_tree(*diff_id))
            .collect())
    }

    /// Removes what killed processes left behind. Every writing operation does this too.
    ///
    /// # Errors
    /// When the store's directories cannot be listed.
    pub fn sweep(&self) -> Result<()> {
        workspace::sweep(&self.root.join("tmp"))
    }

    /// The layers that can be seen through, topmost first.
    pub(crate) fn visible_layers(&self, image: &Image) -> Result<Vec<Digest>> {
        let mut visible: Vec<Digest> = Vec::with_capacity(image.layers.len());
        for diff_id in image.layers.iter().rev() {
            if visible.contains(diff_id) {
                continue;
            }
            visible.push(*diff_id);
            // One call says both whether the layer is there and whether its root hides the layers below; overlayfs itself
            // does not look for the attribute on the roots of layers.
            let tree = self.layer_tree(*diff_id);
            let mut value = [0u8; 1];
            match rustix::fs::lgetxattr(&tree, OPAQUE, &mut value) {
                Ok(_) => break,
                Err(rustix::io::Errno::NODATA) => {}
                Err(rustix::io::Errno::NOENT) => {
                    return Err(Error::Missing {
                        what: format!("layer {diff_id} in {}", self.root.display()),
                        reason: format!(
                            "image {} needs it; import or load the image again",
                            image.id.short()
                        ),
                    });
                }
                Err(e) => return Err(Error::io("examine", &tree)(e)),
            }
        }
        Ok(visible)
    }

    pub(crate) fn workspace(&self) -> Result<Workspace> {
        self.sweep()?;
        let workspace = Workspace::create(&self.root.join("tmp"))?;
        self.settle(&workspace)?;
        Ok(workspace)
    }

    pub(crate) fn layer_tree(&self, diff_id: Digest) -> PathBuf {
        self.layer(diff_id).join("fs")
    }

    pub(crate) fn layer(&self, diff_id: Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn erofs(&self, diff_id: Digest) -> PathBuf {
        self.root
            .join("erofs")
            .join(format!("{}.erofs", diff_id.hex()))
    }

    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Excludes other writers until the file is dropped, or the process ends.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }

    pub(crate) fn index(&self) -> Result<Index> {
        let path = self.root.join("index.json");
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        Index::parse(&bytes, &path)
    }

    pub(crate) fn image(&self, index: &Index, entry: &IndexEntry) -> Result<Image> {
        let manifest = self.manifest(entry)?;
        let config = self.config(entry.id, manifest.config().size())?;
        let layers = diff_ids(&config, &format!("the configuration {}", entry.id))?;
        Ok(Image {
            id: entry.id,
            manifest: entry.manifest,
            config,
            layers,
            names: index.names_of(entry.id),
        })
    }

    pub(crate) fn manifest(&self, entry: &IndexEntry) -> Result<ImageManifest> {
        let bytes = self.document(entry.manifest, entry.manifest_bytes)?;
        parse(&bytes, &format!("the manifest {}", entry.manifest))
    }

    pub(crate) fn config(&self, id: Digest, size: u64) -> Result<ImageConfiguration> {
        let bytes = self.document(id, size)?;
        parse(&bytes, &format!("the configuration {id}"))
    }

    /// A small blob, checked against its digest.
    pub(crate) fn document(&self, digest: Digest, size: u64) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let mut bytes = Vec::with_capacity(
            usize::try_from(size.min(self.limits.document_bytes)).unwrap_or(0) + 1,
        );
        let limit = self.limits.document_bytes;
        let read = file.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(Error::LimitPassed {
                what: "bytes in a document of an image",
                limit,
            });
        }
        let actual = Digest::of(&bytes);
        if actual != digest {
            return Err(Error::DigestMismatch {
                what: path.display().to_string(),
                expected: digest,
                actual,
            });
        }
        Ok(bytes)
    }

    fn create(&self) -> Result<()> {
        std::fs::create_dir_all(self.root.join("blobs/sha256"))
            .map_err(Error::io("create", &self.root))?;
        // Layers hold set-user-ID programs and devices of images: nothing for other users of the host.
        for private in ["layers", "erofs", "tmp"] {
            workspace::make_private(&self.root.join(private))?;
        }
        let workspace = Workspace::create(&self.root.join("tmp"))?;
        let _lock = self.lock()?;
        let index = self.root.join("index.json");
        if !index.exists() {
            replace(&workspace, &index, &Index::default().to_json()?)?;
        }
        // The last step: whoever sees this file finds all the rest.
        replace(
            &workspace,
            &self.root.join("oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )
    }
}

/// Replaces a file by new content, on the disk before it is seen.
pub(crate) fn replace(workspace: &Workspace, path: &Path, content: &[u8]) -> Result<()> {
    let new = workspace.unique("new");
    let written = File::create_new(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(Error::io("write", &new))?;
    std::fs::rename(&new, path).map_err(Error::io("replace", path))
}

/// Parses an image's JSON document.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::InvalidDocument {
        what: what.to_owned(),
        reason: e.to_string(),
    })
}

/// The diff IDs in a configuration.
pub(crate) fn diff_ids(config: &ImageConfiguration, what: &str) -> Result<Vec<Digest>> {
    let parsed = config.rootfs().diff_ids().iter().map(|id| id.parse());
    parsed
        .collect::<Result<_>>()
        .map_err(|e| Error::InvalidDocument {
            what: what.to_owned(),
            reason: e.to_string(),
        })
}
