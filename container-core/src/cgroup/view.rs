//! What a container sees of its cgroups.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::hierarchy::{Hierarchies, Mode};
use crate::plan::mounts::Parameter;

/// One hierarchy of the container's view.
#[derive(Debug)]
pub(crate) struct ViewEntry {
    /// Its directory below the mount.
    pub(crate) name: CString,
    /// The file system.
    pub(crate) kind: &'static CStr,
    pub(crate) parameters: Vec<Parameter>,
    /// The cgroup's own directory on the host, bound where the container has no cgroup namespace.
    pub(crate) host: CString,
}

/// A container's view of its cgroups: only hierarchies in which it has a cgroup of its own, for in any other it would
/// see the host's.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The unified hierarchy, where it is the only one.
    pub(crate) unified: Option<ViewEntry>,
    pub(crate) hierarchies: Vec<ViewEntry>,
    /// Controllers that share a hierarchy: the name of each, and the directory it leads to.
    pub(crate) links: Vec<(CString, CString)>,
}

impl View {
    pub(super) fn new(hierarchies: &Hierarchies, path: &Path, v1: &[usize], v2: bool) -> Self {
        // Names of controllers and mount points come from the kernel, where a NUL byte cannot be.
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let host = |top: &Path| text(top.join(path).as_os_str().as_bytes());
        let mut view = Self::default();
        if let Some(top) = hierarchies.v2().filter(|_| v2) {
            let entry = ViewEntry {
                name: c"unified".to_owned(),
                kind: c"cgroup2",
                parameters: Vec::new(),
                host: host(top),
            };
            if hierarchies.mode() == Mode::V2 {
                view.unified = Some(entry);
            } else {
                view.hierarchies.push(entry);
            }
        }
        for hierarchy in v1.iter().filter_map(|index| hierarchies.v1().get(*index)) {
            let name = text(hierarchy.options.join(",").as_bytes());
            if hierarchy.options.len() > 1 {
                view.links.extend(
                    hierarchy
                        .options
                        .iter()
                        .map(|option| (text(option.as_bytes()), name.clone())),
                );
            }
            let parameters = hierarchy
                .options
                .iter()
                .map(|option| Parameter::Flag(text(option.as_bytes())))
                .collect();
            view.hierarchies.push(ViewEntry {
                name,
                kind: c"cgroup",
                parameters,
                host: host(&hierarchy.mount),
            });
        }
        view
    }
}
