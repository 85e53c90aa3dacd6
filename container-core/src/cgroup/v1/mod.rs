//! Version 1: a hierarchy for each controller, a directory of ours in each that is needed.

pub(super) mod cpu;
pub(super) mod cpuset;
pub(super) mod devices;
pub(super) mod freezer;
pub(super) mod memory;
pub(super) mod pids;

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::Result;
use super::devices::Rule;
use super::directory::Directory;
use super::hierarchy::{Controller, V1};

/// Makes a cgroup in one hierarchy.
pub(super) fn make(hierarchy: &V1, path: &Path) -> Result<Directory> {
    let cpuset = hierarchy.has(Controller::Cpuset);
    let directory = Directory::make(&hierarchy.mount, path, |ancestor| {
        if cpuset {
            cpuset::inherit(ancestor)
        } else {
            Ok(())
        }
    })?;
    if cpuset {
        cpuset::inherit(&directory)?;
    }
    Ok(directory)
}

/// Sets those limits that are this hierarchy's.
pub(super) fn apply(
    hierarchy: &V1,
    directory: &Directory,
    resources: &LinuxResources,
    rules: &[Rule],
) -> Result<()> {
    if let Some(memory) = resources
        .memory()
        .filter(|_| hierarchy.has(Controller::Memory))
    {
        memory::apply(directory, &memory)?;
    }
    if let Some(cpu) = resources.cpu().as_ref() {
        if hierarchy.has(Controller::Cpu) {
            cpu::apply(directory, cpu)?;
        }
        if hierarchy.has(Controller::Cpuset) {
            cpuset::apply(directory, cpu)?;
        }
    }
    if let Some(pids) = resources.pids().filter(|_| hierarchy.has(Controller::Pids)) {
        pids::apply(directory, &pids)?;
    }
    if hierarchy.has(Controller::Devices) && !rules.is_empty() {
        devices::apply(directory, rules)?;
    }
    Ok(())
}
