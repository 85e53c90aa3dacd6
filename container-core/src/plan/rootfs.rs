//! Where the container's root file system comes from.

use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::Spec;

use super::c_string;
use crate::error::{Error, Result};
use crate::launch::Rootfs;
use crate::sys::mount;

/// A directory of the host as a file system takes it.
#[derive(Debug)]
pub(crate) struct HostPath {
    pub(crate) path: CString,
    /// Short and free of what old option strings treat specially; otherwise it is passed as `/proc/self/fd/N`.
    pub(crate) plain: bool,
}

impl HostPath {
    fn new(field: &str, path: &Path) -> Result<Self> {
        if !path.is_absolute() {
            return Err(Error::invalid(
                field,
                format!("{} must be an absolute path", path.display()),
            ));
        }
        let bytes = path.as_os_str().as_bytes();
        Ok(Self {
            // 255: what fsconfig(2) takes as a value. Colon, comma and backslash mean something to overlay.
            plain: bytes.len() <= 255
                && !bytes.iter().any(|byte| matches!(byte, b':' | b',' | b'\\')),
            path: c_string(field, bytes)?,
        })
    }
}

/// The root file system, ready to be mounted.
#[derive(Debug)]
pub(crate) enum RootPlan {
    /// An overlay, mounted in the container's own mount namespace and nowhere else.
    Overlay {
        /// Topmost first.
        lower: Vec<HostPath>,
        upper: HostPath,
        work: HostPath,
        /// Keep overlay's marks in `user.*` attributes, as a user namespace must.
        userxattr: bool,
        volatile: bool,
    },
    /// A directory, which becomes a mount of its own. In a user namespace the launcher makes the mount: the namespace's
    /// root may not be able to reach the directory.
    Directory(HostPath, Option<OwnedFd>),
    /// A directory to chroot into, without a mount namespace.
    Chroot(HostPath),
    /// The host's own root, in a mount namespace of the container's own or joined.
    Unchanged,
}

/// Overlay's own bound on the layers of one mount (OVL_MAX_STACK, fs/overlayfs/params.h).
const MAX_LAYERS: usize = 500;

impl RootPlan {
    pub(crate) fn new(
        rootfs: &Rootfs<'_>,
        spec: &Spec,
        in_user_namespace: bool,
        own_mounts: bool,
    ) -> Result<Self> {
        Ok(match rootfs {
            Rootfs::Overlay { .. } if !own_mounts => {
                return Err(Error::invalid(
                    "linux.namespaces",
                    "an overlay root needs a mount namespace: without one the overlay would appear on the host",
                ));
            }
            Rootfs::Overlay { lower, .. } if lower.is_empty() || lower.len() > MAX_LAYERS => {
                return Err(Error::invalid(
                    "root",
                    format!(
                        "an overlay has 1 to {MAX_LAYERS} lower layers, not {}",
                        lower.len()
                    ),
                ));
            }
            Rootfs::Overlay {
                lower,
                upper,
                work,
                volatile,
            } => Self::Overlay {
                lower: lower
                    .iter()
                    .map(|path| HostPath::new("root", path))
                    .collect::<Result<_>>()?,
                upper: HostPath::new("root", upper)?,
                work: HostPath::new("root", work)?,
                userxattr: in_user_namespace,
                volatile: *volatile,
            },
            Rootfs::Directory(path) => {
                Self::directory("root", path, own_mounts, in_user_namespace)?
            }
            Rootfs::Bundle(bundle) => {
                let root = spec
                    .root()
                    .as_ref()
                    .ok_or_else(|| Error::invalid("root", "is needed to run a container"))?;
                Self::directory(
                    "root.path",
                    &bundle.join(root.path()),
                    own_mounts,
                    in_user_namespace,
                )?
            }
            Rootfs::Host => Self::Unchanged,
        })
    }

    fn directory(
        field: &str,
        path: &Path,
        own_mounts: bool,
        in_user_namespace: bool,
    ) -> Result<Self> {
        let host = HostPath::new(field, path)?;
        if !own_mounts {
            return Ok(Self::Chroot(host));
        }
        let tree = match in_user_namespace {
            false => None,
            true => {
                let tree =
                    mount::clone_tree(libc::AT_FDCWD, &host.path, true).map_err(|errno| {
                        Error::setup(format!("enter the root {}", path.display()), errno)
                    })?;
                // SAFETY: the call above made the descriptor.
                Some(unsafe { OwnedFd::from_raw_fd(tree) })
            }
        };
        Ok(Self::Directory(host, tree))
    }
}
