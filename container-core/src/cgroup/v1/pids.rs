//! The number of tasks (admin-guide/cgroup-v1/pids.rst).

use oci_spec::runtime::LinuxPids;

use crate::cgroup::Result;
use crate::cgroup::directory::Directory;

/// 0 and below mean no limit.
pub(in crate::cgroup) fn apply(directory: &Directory, pids: &LinuxPids) -> Result<()> {
    let limit = if pids.limit() > 0 {
        pids.limit().to_string()
    } else {
        "max".to_owned()
    };
    directory.write("pids.max", &limit)
}
