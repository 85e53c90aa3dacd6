//! The stages of a start, as each of them says itself when it was done.

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

/// Names a file that `run` writes its stages to, as JSON: `{"stages":[{"name":"image","at_ns":…},…]}`.
pub const TIMELINE_VARIABLE: &str = "PLIMSOLL_TIMELINE";

/// A stage and the moment it ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stage {
    /// Before: command, created, supervisor. Container: image, rootfs, cgroup, network, clone, exec. VM: vmm-ready, first-instruction, kernel,
    /// init, agent, exec; without kernel and init from a template, and with those of the machine that became it before `template`.
    /// After: ended, released (of an instance that is removed at its end, cgroups and mounts go after settled), settled.
    pub(crate) name: &'static str,
    /// Nanoseconds of the host's CLOCK_MONOTONIC.
    pub(crate) at_ns: u64,
}

/// The stages so far, and what was learned of the run besides.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Timeline {
    stages: Vec<Stage>,
    /// The most memory that was charged to the instance's cgroup at any time, bytes.
    peak_memory: Option<u64>,
}

impl Timeline {
    /// Adds a stage that ends now.
    pub(crate) fn mark(&mut self, name: &'static str) {
        self.add(name, microvm_core::monotonic_now());
    }

    /// Adds a stage that ended at `at_ns`.
    pub(crate) fn add(&mut self, name: &'static str, at_ns: u64) {
        self.stages.push(Stage { name, at_ns });
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_wanted() -> bool {
        std::env::var_os(TIMELINE_VARIABLE).is_some()
    }

    /// Notes the cgroup's high-water mark.
    pub(crate) fn set_peak_memory(&mut self, bytes: Option<u64>) {
        self.peak_memory = bytes;
    }

    /// Writes the stages to the file that [`TIMELINE_VARIABLE`] names, if it does.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub(crate) fn write(&mut self) -> Result<()> {
        let Some(path) = std::env::var_os(TIMELINE_VARIABLE) else {
            return Ok(());
        };
        self.stages.sort_by_key(|stage| stage.at_ns);
        let json = serde_json::to_vec(self).map_err(|e| Error::Io {
            action: "write",
            path: path.clone().into(),
            source: e.into(),
        })?;
        std::fs::write(&path, json).map_err(|e| Error::io("write", Path::new(&path), e))
    }
}
