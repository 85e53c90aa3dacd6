//! Reading config.json.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{Capability, Process, Spec};
use serde_json::Value;

use super::log::Log;

/// The largest config.json that is read: engines write some tens of kilobytes.
const MAX_CONFIG: u64 = 16 << 20;

/// A bundle: its directory and its configuration.
pub(super) struct Bundle {
    pub(super) directory: PathBuf,
    pub(super) spec: Spec,
}

impl Bundle {
    pub(super) fn load(directory: &Path, log: &Log) -> Result<Self> {
        let directory = directory
            .canonicalize()
            .with_context(|| format!("cannot use the bundle {}", directory.display()))?;
        let path = directory.join("config.json");
        let mut config = read_json(&path)?;
        if let Some(process) = config.get_mut("process") {
            drop_unknown_capabilities(process, log);
        }
        let spec: Spec = serde_json::from_value(config)
            .with_context(|| format!("{} is not a valid configuration", path.display()))?;
        check(&spec)?;
        Ok(Self { directory, spec })
    }

    /// The root file system's directory.
    pub(super) fn rootfs(&self) -> Result<PathBuf> {
        let Some(root) = self.spec.root() else {
            bail!("root: is needed to create a container");
        };
        let path = self.directory.join(root.path());
        let metadata = fs::metadata(&path)
            .with_context(|| format!("root.path: cannot use {}", path.display()))?;
        if !metadata.is_dir() {
            bail!("root.path: {} is not a directory", path.display());
        }
        path.canonicalize()
            .with_context(|| format!("root.path: cannot use {}", path.display()))
    }
}

/// Reads a process from a file, for exec.
pub(super) fn read_process(path: &Path, log: &Log) -> Result<Process> {
    let mut process = read_json(path)?;
    drop_unknown_capabilities(&mut process, log);
    serde_json::from_value(process)
        .with_context(|| format!("{} does not describe a process", path.display()))
}

fn read_json(path: &Path) -> Result<Value> {
    let cannot = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).with_context(cannot)?;
    if metadata.len() > MAX_CONFIG {
        bail!("{} is larger than {} MiB", path.display(), MAX_CONFIG >> 20);
    }
    let text = fs::read(path).with_context(cannot)?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// Capabilities that do not exist are warned of and left out, as the specification has it.
fn drop_unknown_capabilities(process: &mut Value, log: &Log) {
    let Some(sets) = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let mut unknown = Vec::new();
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if !known && !unknown.contains(name) {
                unknown.push(name.clone());
            }
            known
        });
    }
    for name in unknown {
        log.warn(&format!(
            "process.capabilities: {name} is unknown and left out"
        ));
    }
}

fn check(spec: &Spec) -> Result<()> {
    let version = spec.version();
    let mut numbers = version
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.')
        .map(str::parse::<u32>);
    let complete = matches!(
        (
            numbers.next(),
            numbers.next(),
            numbers.next(),
            numbers.next()
        ),
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None)
    );
    if !complete {
        bail!("ociVersion: {version:?} is not a version 1 of the specification, such as 1.2.1");
    }
    if spec.linux().is_none() && (spec.windows().is_some() || spec.solaris().is_some()) {
        bail!("linux: is needed; this configuration is for another platform");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_of_the_first_major_are_taken() {
        let of = |version: &str| {
            let mut spec = Spec::default();
            spec.set_version(version.to_owned());
            check(&spec)
        };
        for good in ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0", "1.0.0-rc5+build"] {
            of(good).unwrap();
        }
        for bad in [
            "", "2.0.0", "0.9.0", "1", "1.2", "1.x.0", "1.0.0.0", "v1.0.0",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
