//! Bind mounts that the launcher makes, because only it can: with other owners, or as a peer of the host's own mount.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::namespaces::{self, Namespaces};
use super::users;
use crate::error::{Error, Result};
use crate::sys::Errno;
use crate::sys::mount::{self, ATTR_IDMAP, MountAttr};

/// The owners that an idmapped mount shows, and whether what is mounted below shows them too.
pub(super) struct Owners {
    uid_map: String,
    gid_map: String,
    recursive: bool,
}

/// The owners that a mount asks for; those of the container's user namespace where it has no mappings of its own.
pub(super) fn owners(
    field: &str,
    mount: &Mount,
    idmap: Option<bool>,
    namespaces: &Namespaces,
) -> Result<Option<Owners>> {
    let given = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    if idmap.is_none() && !given {
        return Ok(None);
    }
    let (uid_map, gid_map) = if given {
        let map = |name: &str, list: &Option<Vec<LinuxIdMapping>>| {
            let field = format!("{field}.{name}");
            match namespaces::mappings(&field, list)? {
                map if map.is_empty() => Err(Error::invalid(
                    field,
                    "an idmapped mount needs mappings of users and of groups",
                )),
                map => Ok(map),
            }
        };
        (
            map("uidMappings", mount.uid_mappings())?,
            map("gidMappings", mount.gid_mappings())?,
        )
    } else {
        (namespaces.uid_map.clone(), namespaces.gid_map.clone())
    };
    if uid_map.is_empty() {
        return Err(Error::invalid(
            format!("{field}.uidMappings"),
            "an idmapped mount needs mappings: its own, or those of the container's user namespace",
        ));
    }
    Ok(Some(Owners {
        uid_map,
        gid_map,
        recursive: idmap.unwrap_or(false),
    }))
}

/// Makes a bind mount in the launcher, attached nowhere, with its attributes.
pub(super) fn prepare(
    field: &str,
    source: &CStr,
    recursive: bool,
    owners: Option<Owners>,
    attributes: &mut MountAttr,
    recursive_attributes: &mut MountAttr,
) -> Result<OwnedFd> {
    let failed = |doing: &str, errno: Errno| {
        Error::setup(
            format!("{field}: {doing} {}", source.to_string_lossy()),
            errno,
        )
    };
    let tree = mount::clone_tree(libc::AT_FDCWD, source, recursive)
        .map_err(|errno| failed("bind", errno))?;
    // SAFETY: the call above made the descriptor.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    if let Some(owners) = owners {
        let users = users::namespace(&owners.uid_map, &owners.gid_map)?;
        let idmapped = MountAttr {
            set: ATTR_IDMAP,
            userns: users.as_raw_fd() as u64,
            ..MountAttr::default()
        };
        mount::set_attributes(tree.as_raw_fd(), &idmapped, owners.recursive).map_err(|errno| {
            let hint = match errno.0 {
                libc::EINVAL => "map the owners of (its file system may not support it)",
                _ => "map the owners of",
            };
            failed(hint, errno)
        })?;
    }
    for (attributes, recursive) in [(attributes, false), (recursive_attributes, true)] {
        if !attributes.is_empty() {
            mount::set_attributes(tree.as_raw_fd(), attributes, recursive)
                .map_err(|errno| failed("set the options of", errno))?;
            *attributes = MountAttr::default();
        }
    }
    Ok(tree)
}
