//! Owner, mode, extended attributes and times of unpacked files.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::{Entry, Timestamp};
use crate::{Error, Limits, Result};

/// A directory's default ACL would be handed down to whatever is unpacked into it: it is set at the end.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Attributes split by when they are set.
pub(crate) struct Attributes<'e> {
    now: Vec<(&'e [u8], &'e [u8])>,
    pub(crate) default_acl: Option<Vec<u8>>,
}

enum Policy {
    Set,
    PassOver,
    Refuse,
}

/// Which attributes an image may bring.
///
/// - `user.*`, file capabilities and POSIX ACLs belong to the file and are kept.
/// - `trusted.*` belongs to the host's root: with `trusted.overlay.redirect` an archive could show files of other directories as its
///   own, and `user.overlay.*` is the same for mounts in user namespaces, `user.plimsoll.*` for VMs. Refused.
/// - Labels and hashes of security modules (`security.selinux`, `.ima`, …) are the host's policy, as for docker. Passed over, like
///   all that no Linux file system knows.
fn policy(name: &[u8]) -> Policy {
    match name {
        b"security.capability" | b"system.posix_acl_access" | DEFAULT_ACL => Policy::Set,
        _ if name.starts_with(b"trusted.")
            || name.starts_with(b"user.overlay.")
            || name.starts_with(b"user.plimsoll.") =>
        {
            Policy::Refuse
        }
        _ if name.starts_with(b"user.") => Policy::Set,
        _ => Policy::PassOver,
    }
}

/// Bytes of a block of ext4 that are left for attributes, without their headers.
const BLOCK_FOR_ATTRIBUTES: usize = 3900;

impl<'e> Attributes<'e> {
    pub(crate) fn of(entry: &'e Entry, limits: &Limits) -> Result<Self> {
        let mut now = Vec::new();
        let mut default_acl = None;
        for (name, value) in &entry.xattrs {
            match policy(name) {
                Policy::Set => {}
                Policy::PassOver => continue,
                Policy::Refuse => {
                    let name = String::from_utf8_lossy(name).escape_debug().to_string();
                    return Err(Error::refused(
                        &entry.path,
                        format!("its extended attribute {name} belongs to the host"),
                    ));
                }
            }
            if value.len() > limits.xattr_bytes {
                return Err(Error::refused(
                    &entry.path,
                    format!(
                        "an extended attribute is longer than the limit of {} bytes",
                        limits.xattr_bytes
                    ),
                ));
            }
            if name.as_slice() == DEFAULT_ACL {
                default_acl = Some(value.clone());
            } else {
                now.push((name.as_slice(), value.as_slice()));
            }
        }
        Ok(Self { now, default_acl })
    }

    /// Sets everything but the time on an open file or directory. The order matters: a change of owner clears set-id
    /// bits and capabilities.
    pub(crate) fn set(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
        rustix::fs::fchown(
            file,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in &self.now {
            rustix::fs::fsetxattr(file, *name, value, XattrFlags::empty())
                .map_err(|error| self.too_large(error))?;
        }
        Ok(())
    }

    /// What a file system says of attributes that it has no place for. ext4 takes a block's worth of them, and says that the disk is
    /// full (fs/ext4/xattr.c), which freeing some would not mend.
    fn too_large(&self, error: Errno) -> Errno {
        let sizes = self
            .now
            .iter()
            .map(|(name, value)| name.len() + value.len());
        if error == Errno::NOSPC && sizes.sum::<usize>() > BLOCK_FOR_ATTRIBUTES {
            Errno::TOOBIG
        } else {
            error
        }
    }

    /// The same, and the time, for what cannot be opened without side effects: devices, FIFOs and links.
    pub(crate) fn set_at(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        is_link: bool,
    ) -> Result<(), Errno> {
        rustix::fs::chownat(
            directory,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        // A link has no mode of its own.
        if !is_link {
            rustix::fs::chmodat(
                directory,
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )?;
        }
        if !self.now.is_empty() {
            // There is no lsetxattr relative to a directory before Linux 6.13; /proc leads to the same place.
            let path = Path::new("/proc/self/fd")
                .join(directory.as_raw_fd().to_string())
                .join(OsStr::from_bytes(name));
            for (attribute, value) in &self.now {
                // The kernel keeps user attributes only on files and directories (xattr(7)).
                if attribute.starts_with(b"user.") {
                    continue;
                }
                rustix::fs::lsetxattr(&path, *attribute, value, XattrFlags::empty())
                    .map_err(|error| self.too_large(error))?;
            }
        }
        rustix::fs::utimensat(
            directory,
            name,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    /// Sets what had to wait until a directory's content was there.
    pub(crate) fn set_default_acl(directory: BorrowedFd<'_>, acl: &[u8]) -> Result<(), Errno> {
        rustix::fs::fsetxattr(directory, DEFAULT_ACL, acl, XattrFlags::empty())
    }
}

/// The access time is set too: it would differ each time otherwise.
pub(crate) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
