//! Files, directories and descriptors.

use std::ffi::CStr;

use super::{Errno, Fd, Result, check, check_int};

/// Resolve as if the directory descriptor were the root: absolute links and `..` stay below it (openat2(2)).
pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;
/// Fail on any symbolic link on the way.
pub(crate) const RESOLVE_NO_SYMLINKS: u64 = 0x04;

/// `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2); close-on-exec is always added.
pub(crate) fn openat2(
    directory: Fd,
    path: &CStr,
    flags: libc::c_int,
    mode: u32,
    resolve: u64,
) -> Result<Fd> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: if flags & libc::O_CREAT != 0 {
            u64::from(mode)
        } else {
            0
        },
        resolve,
    };
    // A `..` whose resolution meets a rename or a mount anywhere on the machine gives EAGAIN (openat2(2)): not an answer, but
    // the advice to ask again. The bound keeps a busy machine from holding us for ever.
    let mut attempts = 0;
    loop {
        // SAFETY: the path is terminated and the structure as long as we say.
        let opened = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory,
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        });
        match opened {
            Err(Errno(libc::EAGAIN)) if attempts < 1000 => attempts += 1,
            done => return done.map(|fd| fd as Fd),
        }
    }
}

/// openat(2); close-on-exec is always added.
pub(crate) fn openat(directory: Fd, path: &CStr, flags: libc::c_int, mode: u32) -> Result<Fd> {
    // SAFETY: the path is terminated.
    check_int(unsafe { libc::openat(directory, path.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

/// Closes a descriptor that this process has no more use for.
pub(crate) fn close(fd: Fd) {
    // SAFETY: no memory is passed. The callers are the child, which owns its table, and failure paths of this module.
    unsafe { libc::close(fd) };
}

/// Closes every descriptor from `first` to `last`, both included.
pub(crate) fn close_range(first: Fd, last: Fd) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: no memory is passed; the caller is the child, whose table is its own.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            last as libc::c_uint,
            0,
        )
    })
    .map(drop)
}

/// Makes `to` another name of `from`, without close-on-exec unless they are the same.
pub(crate) fn dup2(from: Fd, to: Fd) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::dup2(from, to) }).map(drop)
}

/// Duplicates a descriptor to the lowest free number from `lowest`, close-on-exec.
pub(crate) fn dup_above(fd: Fd, lowest: Fd) -> Result<Fd> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) })
}

/// Lets a descriptor survive `execve`.
pub(crate) fn clear_close_on_exec(fd: Fd) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// read(2), started again after a signal.
pub(crate) fn read(fd: Fd, into: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: the buffer is writable for its length.
        match check(unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) } as libc::c_long)
        {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(|read| read as usize),
        }
    }
}

/// write(2), started again after a signal. Files of the kernel take a value in one piece or not at all.
pub(crate) fn write(fd: Fd, bytes: &[u8]) -> Result<usize> {
    loop {
        // SAFETY: the buffer is readable for its length.
        match check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as libc::c_long)
        {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(|written| written as usize),
        }
    }
}

/// mkdirat(2).
pub(crate) fn mkdirat(directory: Fd, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the name is terminated.
    check_int(unsafe { libc::mkdirat(directory, name.as_ptr(), mode) }).map(drop)
}

/// symlinkat(2).
pub(crate) fn symlinkat(to: &CStr, directory: Fd, name: &CStr) -> Result<()> {
    // SAFETY: both strings are terminated.
    check_int(unsafe { libc::symlinkat(to.as_ptr(), directory, name.as_ptr()) }).map(drop)
}

/// readlinkat(2): how many bytes of the buffer the link's text takes.
pub(crate) fn readlinkat(directory: Fd, name: &CStr, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the name is terminated and the buffer writable for its length.
    check(unsafe {
        libc::readlinkat(
            directory,
            name.as_ptr(),
            into.as_mut_ptr().cast(),
            into.len(),
        )
    } as libc::c_long)
    .map(|length| length as usize)
}

/// mknodat(2); `mode` holds the type and the permissions.
pub(crate) fn mknodat(directory: Fd, name: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: the name is terminated.
    check_int(unsafe { libc::mknodat(directory, name.as_ptr(), mode, device) }).map(drop)
}

/// unlinkat(2) of a file.
pub(crate) fn unlinkat(directory: Fd, name: &CStr) -> Result<()> {
    // SAFETY: the name is terminated.
    check_int(unsafe { libc::unlinkat(directory, name.as_ptr(), 0) }).map(drop)
}

/// Sets the owner of a name without following a link.
pub(crate) fn lchownat(directory: Fd, name: &CStr, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: the name is terminated.
    check_int(unsafe {
        libc::fchownat(
            directory,
            name.as_ptr(),
            uid,
            gid,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    })
    .map(drop)
}

/// Sets the owner of an open file; `None` keeps the group.
pub(crate) fn fchown(fd: Fd, uid: u32, gid: Option<u32>) -> Result<()> {
    // SAFETY: no memory is passed. An ID of all ones leaves the owner as it is.
    check_int(unsafe { libc::fchown(fd, uid, gid.unwrap_or(u32::MAX)) }).map(drop)
}

/// fchmod(2).
pub(crate) fn fchmod(fd: Fd, mode: u32) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::fchmod(fd, mode) }).map(drop)
}

/// fchmodat(2), of a name that is no link.
pub(crate) fn fchmodat(directory: Fd, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the name is terminated.
    check_int(unsafe { libc::fchmodat(directory, name.as_ptr(), mode, 0) }).map(drop)
}

/// getdents64(2): how many bytes of the buffer records take; 0 at the end of the directory.
pub(crate) fn list(directory: Fd, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is writable for its length.
    check(unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory,
            into.as_mut_ptr(),
            into.len(),
        )
    })
    .map(|length| length as usize)
}

/// sendfile(2): how many bytes went from one file to the other; 0 at the end.
pub(crate) fn send(from: Fd, to: Fd, most: usize) -> Result<usize> {
    // SAFETY: a null pointer has the file's own offset used.
    check(unsafe { libc::sendfile(to, from, std::ptr::null_mut(), most) } as libc::c_long)
        .map(|sent| sent as usize)
}

fn empty_stat() -> libc::stat {
    // SAFETY: the structure is plain integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// fstat(2).
pub(crate) fn fstat(fd: Fd) -> Result<libc::stat> {
    let mut stat = empty_stat();
    // SAFETY: the structure is ours to write.
    check_int(unsafe { libc::fstat(fd, &mut stat) })?;
    Ok(stat)
}

/// fstatat(2); follows links unless `AT_SYMLINK_NOFOLLOW` is among the flags.
pub(crate) fn fstatat(directory: Fd, path: &CStr, flags: libc::c_int) -> Result<libc::stat> {
    let mut stat = empty_stat();
    // SAFETY: the path is terminated and the structure ours to write.
    check_int(unsafe { libc::fstatat(directory, path.as_ptr(), &mut stat, flags) })?;
    Ok(stat)
}

/// Device and inode of what a path leads to.
pub(crate) fn identity(path: &str) -> Result<(u64, u64)> {
    // The longest path that is asked for is one below /proc/PID/ns: no allocation for the terminator.
    let mut text = [0_u8; 64];
    let bytes = path.as_bytes();
    match text.get_mut(..bytes.len()) {
        Some(room) if bytes.len() < 64 => room.copy_from_slice(bytes),
        _ => return Err(Errno(libc::ENAMETOOLONG)),
    }
    let path = CStr::from_bytes_until_nul(&text).map_err(|_| Errno(libc::EINVAL))?;
    let stat = fstatat(libc::AT_FDCWD, path, 0)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The magic number of the file system that holds an open file.
pub(crate) fn filesystem(fd: Fd) -> Result<libc::c_long> {
    // SAFETY: the structure is plain integers, for which zero is a value.
    let mut statfs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours to write.
    check_int(unsafe { libc::fstatfs(fd, &mut statfs) })?;
    Ok(statfs.f_type as libc::c_long)
}

/// chdir(2).
pub(crate) fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: the path is terminated.
    check_int(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// fchdir(2).
pub(crate) fn fchdir(directory: Fd) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::fchdir(directory) }).map(drop)
}

/// chroot(2).
pub(crate) fn chroot(path: &CStr) -> Result<()> {
    // SAFETY: the path is terminated.
    check_int(unsafe { libc::chroot(path.as_ptr()) }).map(drop)
}

/// Whether the working directory can be reached from the root directory.
///
/// The kernel writes "(unreachable)" in front of a directory outside the root (getcwd(3), NOTES).
pub(crate) fn working_directory_is_inside() -> Result<bool> {
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is writable for its length. The raw call is used because the C library's may allocate.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path.first() == Some(&b'/'))
}

/// The text `/proc/self/fd/N`, by which old interfaces take a descriptor.
pub(crate) struct FdPath([u8; 32]);

impl FdPath {
    /// The path of a descriptor of the calling process.
    pub(crate) fn new(fd: Fd) -> Self {
        const PREFIX: &[u8] = b"/proc/self/fd/";
        let mut text = [0_u8; 32];
        let (head, digits) = text.split_at_mut(PREFIX.len());
        head.copy_from_slice(PREFIX);
        let mut rest = fd.unsigned_abs();
        let mut length = 1;
        while rest >= 10 {
            rest /= 10;
            length += 1;
        }
        let mut rest = fd.unsigned_abs();
        // At most ten digits: the remaining eighteen bytes hold them and the terminator.
        for digit in digits.iter_mut().take(length).rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self(text)
    }

    /// The path as the kernel takes it.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_has_its_path_in_proc() {
        for fd in [0, 9, 10, 127, 1_048_575, i32::MAX] {
            assert_eq!(
                FdPath::new(fd).as_c_str().to_str().unwrap(),
                format!("/proc/self/fd/{fd}")
            );
        }
    }
}
