//! Huge pages (admin-guide/cgroup-v2.rst, "HugeTLB").

use oci_spec::runtime::LinuxHugepageLimit;

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result};

pub(in crate::cgroup) fn apply(directory: &Directory, limits: &[LinuxHugepageLimit]) -> Result<()> {
    for limit in limits {
        let size = limit.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::Invalid {
                field: "linux.resources.hugepageLimits.pageSize".to_owned(),
                reason: format!("{size:?} is no size of pages, such as 2MB"),
            });
        }
        let value = match limit.limit() {
            ..0 => "max".to_owned(),
            limit => limit.to_string(),
        };
        directory.write(&format!("hugetlb.{size}.max"), &value)?;
        // Reservations count from Linux 5.7 on; the limit above holds without.
        let _ = directory.try_write(&format!("hugetlb.{size}.rsvd.max"), &value);
    }
    Ok(())
}
