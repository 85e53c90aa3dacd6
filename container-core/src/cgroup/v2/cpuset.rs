//! Which processors and memory nodes (admin-guide/cgroup-v2.rst, "Cpuset").

use oci_spec::runtime::LinuxCpu;

use crate::cgroup::Result;
use crate::cgroup::directory::Directory;

pub(in crate::cgroup) fn apply(directory: &Directory, cpu: &LinuxCpu) -> Result<()> {
    if let Some(cpus) = cpu.cpus() {
        directory.write("cpuset.cpus", cpus)?;
    }
    if let Some(nodes) = cpu.mems() {
        directory.write("cpuset.mems", nodes)?;
    }
    Ok(())
}
