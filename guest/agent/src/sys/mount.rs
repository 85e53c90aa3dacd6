//! Mounts and the root directory.

use core::ffi::CStr;

use super::file::Fd;
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

/// Mounts an open file on another: seen at `target`, whatever directory it was made in and whether that can be reached.
pub(crate) fn bind_file(file: &Fd, target: &CStr) -> Result<()> {
    /// MOVE_MOUNT_F_EMPTY_PATH: linux/mount.h.
    const FROM_EMPTY_PATH: usize = 4;
    let flags = libc::OPEN_TREE_CLONE as usize
        | libc::OPEN_TREE_CLOEXEC as usize
        | libc::AT_EMPTY_PATH as usize;
    let empty = c"".as_ptr() as usize;
    // SAFETY: the empty path ends in a zero byte.
    let tree = unsafe {
        call(
            libc::SYS_open_tree,
            [file.number() as usize, empty, flags, 0, 0, 0],
        )
    }?;
    let tree = Fd::own(tree);
    let arguments = [
        tree.number() as usize,
        empty,
        libc::AT_FDCWD as usize,
        target.as_ptr() as usize,
        FROM_EMPTY_PATH,
        0,
    ];
    // SAFETY: both paths end in a zero byte.
    unsafe { call(libc::SYS_move_mount, arguments) }.map(drop)
}
