//! Mounts and the root directory.

use core::ffi::CStr;
use core::mem::size_of;

use super::file::{self, Fd};
use super::{Result, call};

pub(crate) fn mount(
    source: &CStr,
    target: &CStr,
    filesystem: &CStr,
    flags: u64,
    data: &CStr,
) -> Result<()> {
    let arguments = [
        source.as_ptr() as usize,
        target.as_ptr() as usize,
        filesystem.as_ptr() as usize,
        flags as usize,
        data.as_ptr() as usize,
        0,
    ];
    // SAFETY: all four strings end in a zero byte.
    unsafe { call(libc::SYS_mount, arguments) }.map(drop)
}

pub(crate) fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: the path ends in a zero byte.
    unsafe { call(libc::SYS_chdir, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn change_root(path: &CStr) -> Result<()> {
    // SAFETY: the path ends in a zero byte.
    unsafe { call(libc::SYS_chroot, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// A mount that is nowhere yet.
pub(crate) struct Tree(Fd);

impl Tree {
    /// Of an open file, whatever directory it was made in and whether that can be reached.
    pub(crate) fn of_file(file: &Fd) -> Result<Self> {
        Self::open(file.number(), c"", libc::AT_EMPTY_PATH)
    }

    /// Of what a path leads to.
    pub(crate) fn of_path(path: &CStr) -> Result<Self> {
        Self::open(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW)
    }

    fn open(directory: i32, path: &CStr, flags: i32) -> Result<Self> {
        let flags =
            libc::OPEN_TREE_CLONE as usize | libc::OPEN_TREE_CLOEXEC as usize | flags as usize;
        // SAFETY: the path ends in a zero byte.
        let tree = unsafe {
            call(
                libc::SYS_open_tree,
                [directory as usize, path.as_ptr() as usize, flags, 0, 0, 0],
            )
        }?;
        Ok(Self(Fd::own(tree)))
    }

    /// Makes it read-only.
    pub(crate) fn make_read_only(&self) -> Result<()> {
        /// struct mount_attr: linux/mount.h.
        #[repr(C)]
        struct Attributes {
            set: u64,
            clear: u64,
            propagation: u64,
            user_namespace: u64,
        }
        let attributes = Attributes {
            set: libc::MOUNT_ATTR_RDONLY,
            clear: 0,
            propagation: 0,
            user_namespace: 0,
        };
        let arguments = [
            self.0.number() as usize,
            c"".as_ptr() as usize,
            libc::AT_EMPTY_PATH as usize,
            core::ptr::from_ref(&attributes) as usize,
            size_of::<Attributes>(),
            0,
        ];
        // SAFETY: the empty path ends in a zero byte, and the structure is as long as we say.
        unsafe { call(libc::SYS_mount_setattr, arguments) }.map(drop)
    }

    /// Whether it is a directory that is mounted, and not a file.
    pub(crate) fn is_directory(&self) -> Result<bool> {
        file::is_directory(&self.0)
    }

    /// Puts it in its place, once: over what the target is, or, if it is a symbolic link and `follow`, leads to.
    pub(crate) fn attach(&self, target: &CStr, follow: bool) -> Result<()> {
        /// MOVE_MOUNT_F_EMPTY_PATH and MOVE_MOUNT_T_SYMLINKS: linux/mount.h.
        const FROM_EMPTY_PATH: usize = 0x04;
        const TO_SYMLINKS: usize = 0x10;
        let arguments = [
            self.0.number() as usize,
            c"".as_ptr() as usize,
            libc::AT_FDCWD as usize,
            target.as_ptr() as usize,
            FROM_EMPTY_PATH | if follow { TO_SYMLINKS } else { 0 },
            0,
        ];
        // SAFETY: both paths end in a zero byte.
        unsafe { call(libc::SYS_move_mount, arguments) }.map(drop)
    }
}
