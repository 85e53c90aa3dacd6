//! What is told while layers move.

use std::time::Duration;

use super::RegistryError;
use crate::Digest;

/// Something that happened to a layer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'e> {
    /// It will be moved.
    Queued,
    /// It need not be: it is there already.
    Exists,
    /// Another process is fetching it.
    Waiting,
    /// So many of its bytes have come.
    Receiving {
        /// These.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// It is unpacked.
    Pulled,
    /// So many of its bytes have gone.
    Sending {
        /// These.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// The registry has it.
    Pushed,
    /// The registry took it over from another of its repositories.
    Mounted(&'e str),
    /// It is not for registries to hand on.
    Skipped,
    /// The transfer broke, and goes on after a while.
    Retrying {
        /// The while.
        wait: Duration,
        /// What happened.
        reason: &'e RegistryError,
    },
}

/// Who is told.
pub trait Progress: Sync {
    /// The registry knows the name: it means what has this digest.
    fn found(&self, digest: Digest) {
        let _ = digest;
    }

    /// Something happened to the layer at `index`, which is shown as `id`. Comes from several threads, and often.
    fn layer(&self, index: usize, id: &str, event: Event<'_>);
}

/// Nobody.
impl Progress for () {
    fn layer(&self, _: usize, _: &str, _: Event<'_>) {}
}

/// Tells of one layer.
#[derive(Clone, Copy)]
pub(super) struct Report<'r> {
    pub(super) to: &'r dyn Progress,
    pub(super) index: usize,
    pub(super) id: &'r str,
}

impl Report<'_> {
    pub(super) fn say(&self, event: Event<'_>) {
        self.to.layer(self.index, self.id, event);
    }
}
