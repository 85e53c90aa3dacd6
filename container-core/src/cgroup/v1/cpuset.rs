//! Which processors and memory nodes (admin-guide/cgroup-v1/cpusets.rst).

use oci_spec::runtime::LinuxCpu;

use crate::cgroup::Result;
use crate::cgroup::directory::Directory;

const CPUS: &str = "cpuset.cpus";
const NODES: &str = "cpuset.mems";

pub(in crate::cgroup) fn apply(directory: &Directory, cpu: &LinuxCpu) -> Result<()> {
    if let Some(cpus) = cpu.cpus() {
        directory.write(CPUS, cpus)?;
    }
    if let Some(nodes) = cpu.mems() {
        directory.write(NODES, nodes)?;
    }
    Ok(())
}

/// Gives a new cpuset what its parent has: it starts with nothing, and nothing can be put into it then.
pub(in crate::cgroup) fn inherit(directory: &Directory) -> Result<()> {
    let Some(parent) = directory.path().parent() else {
        return Ok(());
    };
    let Some(parent) = Directory::open(parent.to_owned())? else {
        return Ok(());
    };
    for file in [CPUS, NODES] {
        let own = directory.read(file)?.unwrap_or_default();
        if own.trim().is_empty() {
            directory.write(file, parent.read(file)?.unwrap_or_default().trim())?;
        }
    }
    Ok(())
}
