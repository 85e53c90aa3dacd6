//! Mounts by descriptor: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).

use std::ffi::CStr;

use super::{Fd, Result, check, check_int, file};

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const AT_EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// `MOUNT_ATTR_RDONLY`.
pub(crate) const ATTR_RDONLY: u64 = 0x01;
/// `MOUNT_ATTR_NOSUID`.
pub(crate) const ATTR_NOSUID: u64 = 0x02;
/// `MOUNT_ATTR_NODEV`.
pub(crate) const ATTR_NODEV: u64 = 0x04;
/// `MOUNT_ATTR_NOEXEC`.
pub(crate) const ATTR_NOEXEC: u64 = 0x08;
/// `MOUNT_ATTR__ATIME`: the field that holds one of the three access time policies (relatime is 0).
pub(crate) const ATTR_ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`.
pub(crate) const ATTR_NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`.
pub(crate) const ATTR_STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`.
pub(crate) const ATTR_NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_IDMAP`: the mount shows owners as a user namespace maps them (Linux 5.12).
pub(crate) const ATTR_IDMAP: u64 = 0x0010_0000;
/// `MOUNT_ATTR_NOSYMFOLLOW`.
pub(crate) const ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct MountAttr {
    /// Attributes to set.
    pub(crate) set: u64,
    /// Attributes to clear.
    pub(crate) clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to keep the propagation.
    pub(crate) propagation: u64,
    /// The user namespace of an idmapped mount.
    pub(crate) userns: u64,
}

impl MountAttr {
    /// Whether applying it would change nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A file system being configured.
pub(crate) struct FileSystem(Fd);

impl FileSystem {
    /// fsopen(2).
    pub(crate) fn open(kind: &CStr) -> Result<Self> {
        // SAFETY: the name is terminated.
        check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
            .map(|fd| Self(fd as Fd))
    }

    fn config(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: key and value are terminated or null, as the command wants them.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0,
                command,
                pointer(key),
                pointer(value),
                0,
            )
        })
        .map(drop)
    }

    /// Sets a parameter that takes no value.
    pub(crate) fn flag(&self, key: &CStr) -> Result<()> {
        self.config(FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Sets a parameter; the kernel takes values of up to 255 bytes.
    pub(crate) fn string(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.config(FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Makes the file system and a mount of it that is attached nowhere yet.
    pub(crate) fn mount(self, attributes: u64) -> Result<Fd> {
        let result = self.config(FSCONFIG_CMD_CREATE, None, None).and_then(|()| {
            // SAFETY: no memory is passed.
            check(unsafe {
                libc::syscall(
                    libc::SYS_fsmount,
                    self.0,
                    FSMOUNT_CLOEXEC,
                    attributes as libc::c_uint,
                )
            })
        });
        file::close(self.0);
        result.map(|fd| fd as Fd)
    }
}

/// A copy of the mount at a path (or of the tree of mounts below it) that is attached nowhere yet.
pub(crate) fn clone_tree(directory: Fd, path: &CStr, recursive: bool) -> Result<Fd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    // SAFETY: the path is terminated.
    check(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
        .map(|fd| fd as Fd)
}

/// Attaches a detached mount on top of an open file or directory.
pub(crate) fn attach(mount: Fd, target: Fd) -> Result<()> {
    // SAFETY: both paths are the empty string, terminated.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount,
            c"".as_ptr(),
            target,
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// mount_setattr(2) on an open mount.
pub(crate) fn set_attributes(mount: Fd, attributes: &MountAttr, recursive: bool) -> Result<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is terminated and the structure as long as we say.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// mount(2), where the newer interface does not reach: propagation of `/`, and overlay before `lowerdir+`.
pub(crate) fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Result<()> {
    let data = data.map_or(std::ptr::null(), |data| data.as_ptr().cast());
    // SAFETY: every string is terminated or null.
    check_int(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data) })
        .map(drop)
}

/// Makes the working directory the root of the mount namespace, with the old root on top of it, and takes the old
/// root away (pivot_root(2), "pivot_root(".", ".")").
pub(crate) fn pivot_to_working_directory() -> Result<()> {
    // SAFETY: both paths are terminated.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: the path is terminated.
    check_int(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }).map(drop)
}
