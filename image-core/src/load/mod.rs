//! Images out of archives that other tools have saved.

mod docker;
mod oci;
mod parallel;
mod scan;

use std::collections::HashSet;
use std::io::{BufReader, Read};

use oci_spec::image::{Arch, ImageConfiguration, Os};

pub(crate) use self::oci::{
    DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, check_layers, digest_of, is_layer_type,
    unsupported,
};
pub(crate) use self::parallel::Growing;
use self::scan::Archive;
pub(crate) use self::scan::known_layers;
use crate::archive::{CHUNK, Compression, Decoder};
use crate::ingest::Ingest;
use crate::limits::Budget;
use crate::store::{Image, Publication, Store};
use crate::{Error, Result};

/// What errors call the archive.
const NAME: &str = "the archive";

impl Store {
    /// Stores all images of an archive: an OCI image layout in a tar, or what `docker save` and `podman save` write; the whole may be
    /// in gzip or zstd. Read once, in bounded memory. Of an image for several platforms, the one for linux/amd64 is taken.
    ///
    /// # Errors
    /// An archive that is damaged, cut short or hostile, holds something else than images, or images for other platforms
    /// only; a digest that does not fit; a full disk. Then the store is as it was before.
    pub fn load(&self, archive: impl Read) -> Result<Vec<Image>> {
        let workspace = self.workspace()?;
        let budget = Budget::of(self.root())?;
        let ingest = Ingest {
            workspace: &workspace,
            limits: self.limits(),
            budget: &budget,
        };

        let mut source = BufReader::with_capacity(CHUNK, archive);
        let mut start = Vec::new();
        // As many bytes as the longest magic number has.
        source
            .by_ref()
            .take(6)
            .read_to_end(&mut start)
            .map_err(|e| Error::reading(NAME, e))?;
        let compression = Compression::detect(&start).map_err(|other| Error::Malformed {
            archive: NAME.to_owned(),
            reason: format!("it is compressed with {other}, but only gzip and zstd are supported"),
        })?;
        let source = BufReader::with_capacity(CHUNK, start.as_slice().chain(source));
        let decoder = Decoder::new(compression, source).map_err(|e| Error::reading(NAME, e))?;
        let decoder = BufReader::with_capacity(CHUNK, decoder);

        let (mut content, outcomes) = parallel::unpacking(&ingest, |queue| {
            Archive::scan(decoder, self, &ingest, queue)
        })?;
        content.settle(outcomes);
        let mut publication = Publication::default();
        if content.has("index.json") {
            oci::collect(&mut content, &ingest, &mut publication)?;
        } else if content.has("manifest.json") {
            docker::collect(&mut content, &ingest, &mut publication)?;
        } else {
            return Err(Error::Malformed {
                archive: NAME.to_owned(),
                reason: "it has neither an index.json (OCI image layout) nor a manifest.json (docker save); a root file \
                         system's archive is imported, not loaded"
                    .to_owned(),
            });
        }
        if publication.images.is_empty() {
            return Err(Error::Missing {
                what: "an image".to_owned(),
                reason: "the archive lists none".to_owned(),
            });
        }
        let entries: Vec<_> = publication
            .images
            .iter()
            .map(|image| image.entry.clone())
            .collect();
        self.publish(&workspace, publication)?;
        let index = self.index()?;
        let mut seen = HashSet::new();
        let first = entries.iter().filter(|entry| seen.insert(entry.manifest));
        first.map(|entry| self.image(&index, entry)).collect()
    }
}

/// Refuses an image for another kind of machine.
pub(crate) fn check_platform(config: &ImageConfiguration, image: &str) -> Result<()> {
    if (config.os(), config.architecture()) == (&Os::Linux, &Arch::Amd64) {
        return Ok(());
    }
    Err(Error::ForeignPlatform {
        image: image.to_owned(),
        found: format!("{}/{}", config.os(), config.architecture()),
    })
}
