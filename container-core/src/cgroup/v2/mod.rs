//! Version 2: one hierarchy, in which controllers are handed down from the top (admin-guide/cgroup-v2.rst).

pub(super) mod block;
pub(super) mod cpu;
pub(super) mod cpuset;
pub(super) mod devices;
pub(super) mod freezer;
pub(super) mod hugetlb;
pub(super) mod memory;
pub(super) mod pids;
pub(super) mod rdma;

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::directory::Directory;
use super::hierarchy::{Controller, Hierarchies, Mode};
use super::needs::needed;
use super::{Error, Result};
use crate::sys::Errno;

const CONTROLLERS: &str = "cgroup.controllers";
const HANDED_DOWN: &str = "cgroup.subtree_control";

/// Makes a cgroup, with the controllers that its limits need where this hierarchy has them.
pub(super) fn make(
    top: &Path,
    path: &Path,
    hierarchies: &Hierarchies,
    resources: &LinuxResources,
) -> Result<Directory> {
    let directory = Directory::make(top, path, |_| Ok(()))?;
    {
        let ours = needed(resources, &[])?;
        let ours = ours
            .iter()
            .filter(|need| hierarchies.v2_has(need.controller) || hierarchies.mode() == Mode::V2);
        for need in ours {
            let name = need.controller.name_in_v2();
            if !lists(&directory, CONTROLLERS, name)? {
                match (hand_down(top, path, name), need.field) {
                    (Ok(()), _) => {}
                    // Nobody asked for a limit: the accounting is missed, the container runs.
                    (Err(_), None) => {}
                    (Err(error), Some(_)) => {
                        // The caller does not have it yet; nothing is in it.
                        let _ = std::fs::remove_dir(directory.path());
                        return Err(error);
                    }
                }
            }
        }
    }
    Ok(directory)
}

/// Whether a list of controllers has one.
fn lists(directory: &Directory, file: &str, controller: &str) -> Result<bool> {
    Ok(directory
        .read(file)?
        .unwrap_or_default()
        .split_whitespace()
        .any(|name| name == controller))
}

/// Has every ancestor of a path hand a controller down, from the top.
fn hand_down(top: &Path, path: &Path, controller: &str) -> Result<()> {
    let ancestors: Vec<_> = path.ancestors().skip(1).collect();
    for ancestor in ancestors.into_iter().rev() {
        let Some(directory) = Directory::open(top.join(ancestor))? else {
            continue;
        };
        if lists(&directory, HANDED_DOWN, controller)? {
            continue;
        }
        let value = format!("+{controller}");
        match directory.try_write(HANDED_DOWN, &value) {
            Ok(()) => {}
            // A cgroup other than the real root cannot both hold processes and hand controllers down.
            Err(Errno(libc::EBUSY)) => {
                move_ourselves(&directory)?;
                directory.write(HANDED_DOWN, &value)?;
            }
            Err(_) => directory.write(HANDED_DOWN, &value)?,
        }
    }
    Ok(())
}

/// Makes room in a cgroup that holds no process but this one, as in a container of whose cgroup we are the only
/// inhabitant: this process goes to a cgroup below. Other people's processes are not ours to move.
fn move_ourselves(directory: &Directory) -> Result<()> {
    let own = std::process::id();
    let processes = directory.processes()?;
    if processes != [own] {
        return Err(Error::InternalProcesses {
            path: directory.path().to_owned(),
        });
    }
    let leaf = Directory::make(directory.path(), Path::new("plimsoll.self"), |_| Ok(()))?;
    leaf.add(own)
}

/// Sets those limits that are this hierarchy's.
pub(super) fn apply(
    directory: &Directory,
    hierarchies: &Hierarchies,
    resources: &LinuxResources,
) -> Result<()> {
    let ours = |controller| hierarchies.v2_has(controller);
    if let Some(limits) = resources
        .hugepage_limits()
        .as_ref()
        .filter(|_| ours(Controller::Hugetlb))
    {
        hugetlb::apply(directory, limits)?;
    }
    if let Some(rdma) = resources.rdma().as_ref().filter(|_| ours(Controller::Rdma)) {
        rdma::apply(directory, rdma)?;
    }
    if let Some(block) = resources
        .block_io()
        .as_ref()
        .filter(|_| ours(Controller::Blkio))
    {
        block::apply(directory, block)?;
    }
    if hierarchies.mode() != Mode::V2 {
        return Ok(());
    }
    if let Some(memory) = resources.memory() {
        memory::apply(directory, memory)?;
    }
    if let Some(cpu) = resources.cpu().as_ref() {
        cpu::apply(directory, cpu)?;
        cpuset::apply(directory, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        pids::apply(directory, pids)?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(Error::Invalid {
                field: format!("linux.resources.unified.{file}"),
                reason: "is not the name of a controller's file".to_owned(),
            });
        }
        let controller = file.split('.').next().unwrap_or_default();
        if !lists(directory, CONTROLLERS, controller)?
            && let Some(top) = super::detect()?.v2()
        {
            let path = directory
                .path()
                .strip_prefix(top)
                .unwrap_or(directory.path());
            hand_down(top, path, controller)?;
        }
        directory.write(file, value)?;
    }
    Ok(())
}
