//! The host's system calls, behind safe faces. Each goes to a descriptor that is held, and to one name below it at most.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::wire::{Answer, Attributes, Errno};

/// What `lookup` opens: a place in the file system and nothing of what is there.
const PLACE: i32 = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;

/// Whether this kernel has no openat2 (before Linux 5.6), or a filter refuses it.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// The descriptor that a call gives, or why there is none.
fn descriptor(result: i64) -> Answer<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Errno::last()),
    }
}

fn done(result: i32) -> Answer<()> {
    match result {
        0.. => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Opens one name below a directory: nothing that leads elsewhere is followed, be it a link or `..`.
fn open_below(directory: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> Answer<OwnedFd> {
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        // SAFETY: open_how is plain numbers; all zeros is a value.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = flags as u64;
        how.mode = mode.into();
        how.resolve =
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
        // SAFETY: the name ends in a zero byte, and the structure is as long as we say.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                name.as_ptr(),
                &raw const how,
                size_of_val(&how),
            )
        };
        match descriptor(result) {
            Err(Errno(libc::ENOSYS)) => NO_OPENAT2.store(true, Ordering::Relaxed),
            other => return other,
        }
    }
    // A name is one component and neither `.` nor `..` (see `Fields::name`), so that with O_NOFOLLOW, which every caller
    // sets, this cannot lead elsewhere either.
    // SAFETY: the name ends in a zero byte.
    let result = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags, mode) };
    descriptor(result.into())
}

/// The place that a name in a directory stands for; of a symbolic link the link itself.
pub(super) fn lookup(directory: BorrowedFd<'_>, name: &CStr) -> Answer<OwnedFd> {
    open_below(directory, name, PLACE, 0)
}

/// Makes a regular file that is not there yet, and opens it.
pub(super) fn create(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: i32,
    mode: u32,
) -> Answer<OwnedFd> {
    let flags = flags | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    open_below(directory, name, flags, mode)
}

/// Opens a directory to read.
pub(super) fn open_directory(directory: BorrowedFd<'_>) -> Answer<File> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the name ends in a zero byte.
    let result = unsafe { libc::openat(directory.as_raw_fd(), c".".as_ptr(), flags) };
    descriptor(result.into()).map(File::from)
}

/// Makes a file without a name in a directory.
pub(super) fn create_nameless(directory: BorrowedFd<'_>, flags: i32, mode: u32) -> Answer<OwnedFd> {
    let flags = flags | libc::O_TMPFILE | libc::O_CLOEXEC;
    // SAFETY: the name ends in a zero byte.
    let result = unsafe { libc::openat(directory.as_raw_fd(), c".".as_ptr(), flags, mode) };
    descriptor(result.into())
}

/// This process's /proc/self/fd, through which what a place stands for is opened, linked and changed.
#[derive(Debug)]
pub(crate) struct Descriptors(OwnedFd);

impl Descriptors {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: the path ends in a zero byte.
        let fd = unsafe { libc::open(c"/proc/self/fd".as_ptr(), flags) };
        descriptor(fd.into())
            .map(Self)
            .map_err(|Errno(number)| io::Error::from_raw_os_error(number))
    }

    fn name(of: BorrowedFd<'_>) -> [u8; 12] {
        let mut name = [0; 12];
        // Eleven bytes hold every number that fits.
        let _ = io::Write::write_fmt(&mut &mut name[..11], format_args!("{}", of.as_raw_fd()));
        name
    }

    /// Opens what a place stands for. Only for regular files and directories: anything else can do something by being
    /// opened.
    pub(super) fn reopen(&self, place: BorrowedFd<'_>, flags: i32) -> Answer<OwnedFd> {
        let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY;
        // SAFETY: the name ends in a zero byte.
        let result =
            unsafe { libc::openat(self.0.as_raw_fd(), Self::name(place).as_ptr().cast(), flags) };
        descriptor(result.into())
    }

    /// The place where an open file is.
    pub(super) fn place(&self, file: BorrowedFd<'_>) -> Answer<OwnedFd> {
        self.reopen(file, libc::O_PATH)
    }

    pub(super) fn change_mode(&self, place: BorrowedFd<'_>, mode: u32) -> Answer<()> {
        // SAFETY: the name ends in a zero byte.
        done(unsafe {
            libc::fchmodat(
                self.0.as_raw_fd(),
                Self::name(place).as_ptr().cast(),
                mode,
                0,
            )
        })
    }

    pub(super) fn change_times(
        &self,
        place: BorrowedFd<'_>,
        times: &[libc::timespec; 2],
    ) -> Answer<()> {
        // SAFETY: the name ends in a zero byte, and the array has the two times that are read.
        done(unsafe {
            libc::utimensat(
                self.0.as_raw_fd(),
                Self::name(place).as_ptr().cast(),
                times.as_ptr(),
                0,
            )
        })
    }

    /// Gives what a place stands for one more name.
    pub(super) fn link(
        &self,
        place: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
        name: &CStr,
    ) -> Answer<()> {
        // SAFETY: both names end in a zero byte.
        done(unsafe {
            libc::linkat(
                self.0.as_raw_fd(),
                Self::name(place).as_ptr().cast(),
                directory.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        })
    }
}

/// What identifies a file on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) mount: u64,
}

/// What a place stands for: which file, and what is known of it.
pub(super) fn stat(place: BorrowedFd<'_>) -> Answer<(Identity, Attributes)> {
    // SAFETY: statx is plain numbers; all zeros is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the empty path ends in a zero byte, and the kernel writes one statx.
    done(unsafe {
        libc::statx(
            place.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW,
            libc::STATX_BASIC_STATS | libc::STATX_MNT_ID,
            &raw mut found,
        )
    })?;
    let time = |stamp: libc::statx_timestamp| (stamp.tv_sec, stamp.tv_nsec);
    let identity = Identity {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        mount: found.stx_mnt_id,
    };
    let attributes = Attributes {
        inode: found.stx_ino,
        size: found.stx_size,
        blocks: found.stx_blocks,
        times: [found.stx_atime, found.stx_mtime, found.stx_ctime].map(time),
        mode: found.stx_mode.into(),
        links: found.stx_nlink,
        uid: found.stx_uid,
        gid: found.stx_gid,
        // As the kernel encodes it for user space: new_encode_dev in include/linux/kdev_t.h.
        device: libc::makedev(found.stx_rdev_major, found.stx_rdev_minor) as u32,
        block_size: found.stx_blksize,
    };
    Ok((identity, attributes))
}

pub(super) fn read_link(place: BorrowedFd<'_>, target: &mut [u8]) -> Answer<usize> {
    // SAFETY: the empty path ends in a zero byte; the kernel writes no more than the slice holds.
    let length = unsafe {
        libc::readlinkat(
            place.as_raw_fd(),
            c"".as_ptr(),
            target.as_mut_ptr().cast(),
            target.len(),
        )
    };
    usize::try_from(length).map_err(|_| Errno::last())
}

pub(super) fn make_directory(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> Answer<()> {
    // SAFETY: the name ends in a zero byte.
    done(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) })
}

pub(super) fn make_node(
    directory: BorrowedFd<'_>,
    name: &CStr,
    mode: u32,
    device: u32,
) -> Answer<()> {
    // SAFETY: the name ends in a zero byte.
    done(unsafe { libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, device.into()) })
}

pub(super) fn make_symlink(directory: BorrowedFd<'_>, name: &CStr, target: &CStr) -> Answer<()> {
    // SAFETY: both strings end in a zero byte.
    done(unsafe { libc::symlinkat(target.as_ptr(), directory.as_raw_fd(), name.as_ptr()) })
}

pub(super) fn remove(directory: BorrowedFd<'_>, name: &CStr, is_directory: bool) -> Answer<()> {
    let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: the name ends in a zero byte.
    done(unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), flags) })
}

pub(super) fn rename(
    from: (BorrowedFd<'_>, &CStr),
    to: (BorrowedFd<'_>, &CStr),
    flags: u32,
) -> Answer<()> {
    // SAFETY: both names end in a zero byte.
    done(unsafe {
        libc::renameat2(
            from.0.as_raw_fd(),
            from.1.as_ptr(),
            to.0.as_raw_fd(),
            to.1.as_ptr(),
            flags,
        )
    })
}

/// Gives a file away; an ID of `u32::MAX` stays as it is.
pub(super) fn change_owner(place: BorrowedFd<'_>, uid: u32, gid: u32) -> Answer<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the empty path ends in a zero byte.
    done(unsafe { libc::fchownat(place.as_raw_fd(), c"".as_ptr(), uid, gid, flags) })
}

pub(super) fn truncate(file: BorrowedFd<'_>, size: u64) -> Answer<()> {
    let size = i64::try_from(size).map_err(|_| Errno(libc::EFBIG))?;
    // SAFETY: ftruncate takes numbers.
    done(unsafe { libc::ftruncate(file.as_raw_fd(), size) })
}

pub(super) fn statfs(place: BorrowedFd<'_>) -> Answer<libc::statfs> {
    // SAFETY: statfs is plain numbers; all zeros is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one statfs.
    done(unsafe { libc::fstatfs(place.as_raw_fd(), &raw mut found) })?;
    Ok(found)
}

/// Makes everything durable that was written to the file system of an open file.
pub(super) fn sync_file_system(file: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: syncfs takes a number.
    done(unsafe { libc::syncfs(file.as_raw_fd()) })
}

/// Reads into pieces of memory. The caller's promise is that each may be written to: see [`super::Transfer`].
pub(super) fn read(file: &File, offset: u64, into: &[libc::iovec]) -> Answer<u32> {
    let offset = i64::try_from(offset).map_err(|_| Errno(libc::EINVAL))?;
    let count = into.len().min(libc::UIO_MAXIOV as usize) as i32;
    // SAFETY: `Transfer` gives pieces of mapped memory that is not Rust's; there are as many as we say.
    let moved = unsafe { libc::preadv(file.as_raw_fd(), into.as_ptr(), count, offset) };
    u32::try_from(moved).map_err(|_| Errno::last())
}

/// Writes pieces of memory at an offset, or at the file's end.
pub(super) fn write(file: &File, offset: u64, append: bool, from: &[libc::iovec]) -> Answer<u32> {
    let offset = i64::try_from(offset).map_err(|_| Errno(libc::EINVAL))?;
    let count = from.len().min(libc::UIO_MAXIOV as usize) as i32;
    let flags = if append { libc::RWF_APPEND } else { 0 };
    // SAFETY: as for reading; the kernel only reads from the pieces.
    let moved = unsafe { libc::pwritev2(file.as_raw_fd(), from.as_ptr(), count, offset, flags) };
    u32::try_from(moved).map_err(|_| Errno::last())
}

pub(super) fn allocate(file: &File, mode: i32, offset: u64, length: u64) -> Answer<()> {
    let number = |value| i64::try_from(value).map_err(|_| Errno(libc::EFBIG));
    // SAFETY: fallocate takes numbers.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, number(offset)?, number(length)?) })
}

pub(super) fn seek(file: &File, offset: u64, whence: i32) -> Answer<u64> {
    let offset = i64::try_from(offset).map_err(|_| Errno(libc::EINVAL))?;
    // SAFETY: lseek takes numbers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    u64::try_from(found).map_err(|_| Errno::last())
}

/// Copies from file to file; less than was asked for may be copied.
pub(super) fn copy(from: (&File, u64), to: (&File, u64), length: usize) -> Answer<u32> {
    let number = |value| i64::try_from(value).map_err(|_| Errno(libc::EINVAL));
    let (mut start, mut end) = (number(from.1)?, number(to.1)?);
    // SAFETY: both offsets are valid to read and to write.
    let copied = unsafe {
        libc::copy_file_range(
            from.0.as_raw_fd(),
            &raw mut start,
            to.0.as_raw_fd(),
            &raw mut end,
            length,
            0,
        )
    };
    u32::try_from(copied).map_err(|_| Errno::last())
}

/// Reads entries of a directory, as getdents64(2) writes them, from where its descriptor stands.
pub(super) fn directory_entries(directory: &File, into: &mut [u8]) -> Answer<usize> {
    // SAFETY: the kernel writes no more than the slice holds.
    let length = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            into.as_mut_ptr(),
            into.len(),
        )
    };
    usize::try_from(length).map_err(|_| Errno::last())
}

/// The value of an extended attribute, or its length when `value` is empty.
pub(super) fn get_attribute(file: &File, name: &CStr, value: &mut [u8]) -> Answer<usize> {
    // SAFETY: the name ends in a zero byte; the kernel writes no more than the slice holds.
    let length = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    usize::try_from(length).map_err(|_| Errno::last())
}

pub(super) fn set_attribute(file: &File, name: &CStr, value: &[u8], flags: i32) -> Answer<()> {
    // SAFETY: the name ends in a zero byte; the kernel reads no more than the slice holds.
    done(unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })
}

/// The names of extended attributes, each with its zero, or their length when `names` is empty.
pub(super) fn list_attributes(file: &File, names: &mut [u8]) -> Answer<usize> {
    // SAFETY: the kernel writes no more than the slice holds.
    let length =
        unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    usize::try_from(length).map_err(|_| Errno::last())
}

pub(super) fn remove_attribute(file: &File, name: &CStr) -> Answer<()> {
    // SAFETY: the name ends in a zero byte.
    done(unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) })
}

/// Locks a part of a file for its open description, or asks who holds a lock in the way.
pub(super) fn lock_range(file: &File, command: i32, lock: &mut libc::flock) -> Answer<()> {
    // SAFETY: the OFD commands read and write one flock.
    done(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) })
}

/// flock(2), which must not wait.
pub(super) fn lock_whole(file: &File, operation: i32) -> Answer<()> {
    // SAFETY: flock takes numbers.
    done(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) })
}

/// How many descriptors this process may have.
pub(super) fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX),
        _ => 1024,
    }
}

/// By what a file is found again on its file system (struct file_handle).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

/// Room for a file handle of any file system: MAX_HANDLE_SZ in linux/exportfs.h.
const HANDLE_BYTES: usize = 128;

#[repr(C)]
struct RawHandle {
    length: u32,
    kind: i32,
    bytes: [u8; HANDLE_BYTES],
}

/// The file handle of a place; not every file system has them.
pub(super) fn file_handle(place: BorrowedFd<'_>) -> Answer<FileHandle> {
    let mut raw = RawHandle {
        length: HANDLE_BYTES as u32,
        kind: 0,
        bytes: [0; HANDLE_BYTES],
    };
    let mut mount = 0i32;
    // SAFETY: the empty path ends in a zero byte; the kernel writes a handle no longer than we say there is room for, and a
    // number.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            place.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    done(result as i32)?;
    let bytes = raw.bytes.get(..raw.length as usize);
    Ok(FileHandle {
        kind: raw.kind,
        bytes: bytes.ok_or(Errno(libc::EOVERFLOW))?.into(),
    })
}

/// The place that a file handle names, on the file system where `mount` is open.
pub(super) fn open_handle(mount: &File, handle: &FileHandle) -> Answer<OwnedFd> {
    let mut raw = RawHandle {
        length: handle.bytes.len() as u32,
        kind: handle.kind,
        bytes: [0; HANDLE_BYTES],
    };
    raw.bytes
        .iter_mut()
        .zip(&handle.bytes)
        .for_each(|(to, from)| *to = *from);
    // SAFETY: the kernel reads a handle that is as long as it says.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            PLACE,
        )
    })
}
