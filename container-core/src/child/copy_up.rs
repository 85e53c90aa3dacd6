//! What a tmpfs begins with when it is mounted with `tmpcopyup`: a copy of the directory that it hides.
//!
//! The image is hostile: nothing is followed, everything is bounded, and the tmpfs' own size bounds the sum.

use std::ffi::CStr;

use crate::sys::file;
use crate::sys::{Errno, Fd, Result};

/// How deep directories may lie. Each level takes 5 KiB of the stack.
const DEPTH: usize = 64;
/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// Copies what is in one directory into another, with owners and modes. Both are descriptors of `O_PATH` or of mounts.
pub(super) fn copy(from: Fd, to: Fd) -> Result<()> {
    let from = reopen(from)?;
    let to = reopen(to)?;
    let copied = copy_directory(from, to, DEPTH).and_then(|()| copy_owner(from, to));
    file::close(from);
    file::close(to);
    copied
}

/// A directory to be listed.
fn reopen(directory: Fd) -> Result<Fd> {
    file::openat(directory, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

fn copy_owner(from: Fd, to: Fd) -> Result<()> {
    let stat = file::fstat(from)?;
    file::fchown(to, stat.st_uid, Some(stat.st_gid))?;
    file::fchmod(to, stat.st_mode & 0o7777)
}

fn copy_directory(from: Fd, to: Fd, depth: usize) -> Result<()> {
    if depth == 0 {
        return Err(Errno(libc::ELOOP));
    }
    let mut entries = [0_u8; 4096];
    loop {
        let length = file::list(from, &mut entries)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = entries.get(..length).unwrap_or_default();
        // `struct linux_dirent64` (getdents64(2)): the record's length at 16, the name from 19 on.
        while let Some(size) = rest.get(16..18) {
            let size = usize::from(u16::from_ne_bytes([
                size.first().copied().unwrap_or(0),
                size.get(1).copied().unwrap_or(0),
            ]));
            let name = rest.get(19..size).unwrap_or_default();
            let name = CStr::from_bytes_until_nul(name).map_err(|_| Errno(libc::EIO))?;
            if !matches!(name.to_bytes(), b"." | b"..") {
                copy_entry(from, to, name, depth)?;
            }
            rest = rest.get(size..).unwrap_or_default();
        }
    }
}

fn copy_entry(from: Fd, to: Fd, name: &CStr, depth: usize) -> Result<()> {
    let stat = file::fstatat(from, name, libc::AT_SYMLINK_NOFOLLOW)?;
    let mode = stat.st_mode & 0o7777;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            file::mkdirat(to, name, 0o700)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let (inner, made) = (
                file::openat(from, name, flags, 0)?,
                file::openat(to, name, flags, 0)?,
            );
            let copied =
                copy_directory(inner, made, depth - 1).and_then(|()| copy_owner(inner, made));
            file::close(inner);
            file::close(made);
            return copied;
        }
        libc::S_IFREG => {
            let read = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let inner = file::openat(from, name, read, 0)?;
            let write = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
            let made = file::openat(to, name, write, 0o600)?;
            let copied = copy_bytes(inner, made).and_then(|()| copy_owner(inner, made));
            file::close(inner);
            file::close(made);
            return copied;
        }
        libc::S_IFLNK => copy_link(from, to, name)?,
        libc::S_IFIFO | libc::S_IFCHR | libc::S_IFBLK => {
            match file::mknodat(to, name, stat.st_mode, stat.st_rdev) {
                // Not for a user namespace to make: the tmpfs would not let it be used either.
                Err(Errno(libc::EPERM)) => return Ok(()),
                made => made?,
            }
            file::fchmodat(to, name, mode)?;
        }
        // A socket is nothing without the process that listens.
        _ => return Ok(()),
    }
    file::lchownat(to, name, stat.st_uid, stat.st_gid)
}

fn copy_bytes(from: Fd, to: Fd) -> Result<()> {
    while file::send(from, to, CHUNK)? > 0 {}
    Ok(())
}

#[inline(never)]
fn copy_link(from: Fd, to: Fd, name: &CStr) -> Result<()> {
    let mut text = [0_u8; libc::PATH_MAX as usize];
    let length = file::readlinkat(from, name, &mut text)?;
    if let Some(end) = text.get_mut(length) {
        *end = 0;
    }
    let link = CStr::from_bytes_until_nul(&text).map_err(|_| Errno(libc::ENAMETOOLONG))?;
    file::symlinkat(link, to, name)
}
