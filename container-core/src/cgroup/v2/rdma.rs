//! RDMA devices (admin-guide/cgroup-v2.rst, "RDMA").

use std::collections::HashMap;

use oci_spec::runtime::LinuxRdma;

use crate::cgroup::Result;
use crate::cgroup::directory::Directory;

/// The same file in both versions. What is not given is not limited.
pub(in crate::cgroup) fn apply(
    directory: &Directory,
    devices: &HashMap<String, LinuxRdma>,
) -> Result<()> {
    let values: Vec<String> = devices
        .iter()
        .map(|(name, limit)| {
            let text = |limit: Option<u32>| {
                limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string())
            };
            format!(
                "{name} hca_handle={} hca_object={}",
                text(limit.hca_handles()),
                text(limit.hca_objects())
            )
        })
        .collect();
    directory.write_each("rdma.max", &values)
}
