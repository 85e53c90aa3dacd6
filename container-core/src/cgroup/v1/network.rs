//! The class and the priority of packets (admin-guide/cgroup-v1/net_cls.rst, net_prio.rst).

use oci_spec::runtime::LinuxNetwork;

use crate::cgroup::Result;
use crate::cgroup::directory::Directory;

pub(in crate::cgroup) fn apply_class(directory: &Directory, network: &LinuxNetwork) -> Result<()> {
    match network.class_id() {
        Some(class) => directory.write("net_cls.classid", &class.to_string()),
        None => Ok(()),
    }
}

pub(in crate::cgroup) fn apply_priorities(
    directory: &Directory,
    network: &LinuxNetwork,
) -> Result<()> {
    let values: Vec<String> = network
        .priorities()
        .iter()
        .flatten()
        .map(|priority| format!("{} {}", priority.name(), priority.priority()))
        .collect();
    directory.write_each("net_prio.ifpriomap", &values)
}
