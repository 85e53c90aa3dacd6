//! Version 1: a hierarchy for each controller, a directory of ours in each that is needed.

pub(super) mod block;
pub(super) mod cpu;
pub(super) mod cpuset;
pub(super) mod devices;
pub(super) mod freezer;
pub(super) mod hugetlb;
pub(super) mod memory;
pub(super) mod network;
pub(super) mod pids;
pub(super) mod rdma;

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
    if let Some(block) = resources
        .block_io()
        .as_ref()
        .filter(|_| hierarchy.has(Controller::Blkio))
    {
        block::apply(directory, block)?;
    }
    if let Some(limits) = resources
        .hugepage_limits()
        .as_ref()
        .filter(|_| hierarchy.has(Controller::Hugetlb))
    {
        hugetlb::apply(directory, limits)?;
    }
    if let Some(network) = resources.network().as_ref() {
        if hierarchy.has(Controller::NetCls) {
            network::apply_class(directory, network)?;
        }
        if hierarchy.has(Controller::NetPrio) {
            network::apply_priorities(directory, network)?;
        }
    }
    if let Some(rdma) = resources
        .rdma()
        .as_ref()
        .filter(|_| hierarchy.has(Controller::Rdma))
    {
        rdma::apply(directory, rdma)?;
    }
    if hierarchy.has(Controller::Devices) && !rules.is_empty() {
        devices::apply(directory, rules)?;
    }
    Ok(())
}
