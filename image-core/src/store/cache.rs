//! The build cache: which layer came of which step, by a key that says all that went into it.
//!
//! `cache/<key>` holds a record. Its layer is kept from being collected as long as the record is there.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::workspace::{make_private, names};
use super::{Lease, Store, StoredLayer, parse, replace};
use crate::{Digest, Error, Result};

/// What a step of a build came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedStep {
    /// Its layer; none for a step that only changes the configuration.
    pub layer: Option<StoredLayer>,
    /// The instruction, for people.
    pub instruction: String,
    /// When it was done, seconds since 1970: so that the same steps make the same image again.
    pub created: u64,
}

/// A record of the cache.
#[derive(Clone, Debug)]
pub struct CacheRecord {
    /// Its key.
    pub key: Digest,
    /// What it holds.
    pub step: CachedStep,
    /// When it was used last.
    pub used: Option<SystemTime>,
}

/// Says that somebody builds: no record of the cache goes meanwhile.
#[derive(Debug)]
pub struct CacheUse {
    _lock: File,
}

impl Store {
    /// Keeps the cache's records until the result is dropped.
    ///
    /// # Errors
    /// When the cache cannot be made.
    pub fn use_cache(&self) -> Result<CacheUse> {
        let lock = self.cache_lock()?;
        lock.lock_shared()
            .map_err(Error::io("lock", &self.root.join("cache.lock")))?;
        Ok(CacheUse { _lock: lock })
    }

    fn cache_lock(&self) -> Result<File> {
        make_private(&self.root.join("cache"))?;
        let path = self.root.join("cache.lock");
        File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))
    }

    /// What a step with this key came to, if that is known and its layer is there. The lease keeps the layer.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn cached(&self, lease: &Lease, key: Digest) -> Result<Option<CachedStep>> {
        let Some(step) = self.cache_record(key) else {
            return Ok(None);
        };
        if let Some(layer) = &step.layer {
            let kept = lease.hold_digests(&[layer.digest, layer.diff_id], |digest| {
                self.blob(digest).exists() || self.layer(digest).exists()
            });
            match kept {
                Err(Error::Missing { .. }) => return Ok(None),
                other => other?,
            }
        }
        // When it was used last decides what a prune takes.
        let used = File::open(self.root.join("cache").join(key.hex()));
        let _ = used.and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(step))
    }

    /// Notes what a step came to.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn remember(&self, lease: &Lease, key: Digest, step: &CachedStep) -> Result<()> {
        let json = serde_json::to_vec(step).map_err(|e| Error::InvalidDocument {
            what: "a record of the build cache".to_owned(),
            reason: e.to_string(),
        })?;
        let _lock = self.lock()?;
        replace(
            &lease.workspace,
            &self.root.join("cache").join(key.hex()),
            &json,
        )
    }

    fn cache_record(&self, key: Digest) -> Option<CachedStep> {
        let bytes = std::fs::read(self.root.join("cache").join(key.hex())).ok()?;
        // A damaged record is none: the step is done again.
        parse(&bytes, "a record of the build cache").ok()
    }

    /// All records of the cache.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn cache_records(&self) -> Result<Vec<CacheRecord>> {
        let directory = self.root.join("cache");
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let records = names(&directory)?.into_iter().filter_map(|name| {
            let key = Digest::from_hex(&name)?;
            Some(CacheRecord {
                key,
                step: self.cache_record(key)?,
                used: std::fs::metadata(directory.join(&name))
                    .and_then(|about| about.modified())
                    .ok(),
            })
        });
        Ok(records.collect())
    }

    /// Removes the records of the cache that `goes` picks, and the content that nothing else refers to. None of them goes while
    /// somebody builds: then this says so with `None`.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn prune_cache(
        &self,
        goes: &dyn Fn(&CacheRecord) -> bool,
    ) -> Result<Option<Vec<CacheRecord>>> {
        let cache = self.cache_lock()?;
        match cache.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => {
                return Err(Error::io("lock", &self.root.join("cache.lock"))(e));
            }
        }
        let workspace = self.workspace()?;
        let _lock = self.lock()?;
        let mut gone = self.cache_records()?;
        gone.retain(|record| goes(record));
        for record in &gone {
            workspace.discard(&self.root.join("cache").join(record.key.hex()))?;
        }
        self.collect(&self.index()?, &workspace)?;
        Ok(Some(gone))
    }
}
