//! Files, directories, pipes, terminals and waiting for them.

use core::ffi::CStr;
use core::mem::size_of;

use guest_protocol::WindowSize;

use super::{Errno, Result, call};

/// An open descriptor, closed when dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fd(i32);

impl Fd {
    /// Takes charge of a descriptor that a system call has just made.
    pub(crate) fn own(number: usize) -> Self {
        Self(number as i32)
    }

    pub(crate) fn number(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: close takes a number, and this descriptor is ours alone.
        let _ = unsafe { call(libc::SYS_close, [self.0 as usize, 0, 0, 0, 0, 0]) };
    }
}

pub(crate) fn open(path: &CStr, flags: i32) -> Result<Fd> {
    create(path, flags, 0)
}

/// Opens, with permission bits for a file that O_CREAT makes. Every descriptor is close-on-exec.
pub(crate) fn create(path: &CStr, flags: i32, mode: u32) -> Result<Fd> {
    let flags = (flags | libc::O_CLOEXEC) as usize;
    // SAFETY: the path ends in a zero byte.
    let fd = unsafe {
        call(
            libc::SYS_open,
            [path.as_ptr() as usize, flags, mode as usize, 0, 0, 0],
        )
    }?;
    Ok(Fd::own(fd))
}

/// Opens a directory by its name in another one.
pub(crate) fn open_directory_in(directory: &Fd, name: &CStr) -> Result<Fd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let arguments = [
        directory.0 as usize,
        name.as_ptr() as usize,
        flags as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the name ends in a zero byte.
    unsafe { call(libc::SYS_openat, arguments) }.map(Fd::own)
}

/// A file in memory that can be executed.
pub(crate) fn memory_file(name: &CStr) -> Result<Fd> {
    let make = |flags: u32| {
        let arguments = [name.as_ptr() as usize, flags as usize, 0, 0, 0, 0];
        // SAFETY: the name ends in a zero byte.
        unsafe { call(libc::SYS_memfd_create, arguments) }.map(Fd::own)
    };
    match make(libc::MFD_CLOEXEC | libc::MFD_EXEC) {
        // Kernels before 6.3 do not know the second flag, and make every such file executable.
        Err(Errno(libc::EINVAL)) => make(libc::MFD_CLOEXEC),
        other => other,
    }
}

/// The same open file under a number of at least `least`.
pub(crate) fn raise(fd: &Fd, least: i32) -> Result<Fd> {
    let arguments = [
        fd.0 as usize,
        libc::F_DUPFD_CLOEXEC as usize,
        least as usize,
        0,
        0,
        0,
    ];
    // SAFETY: F_DUPFD_CLOEXEC takes a number.
    unsafe { call(libc::SYS_fcntl, arguments) }.map(Fd::own)
}

pub(crate) fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let arguments = [
        fd.0 as usize,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes no more than the buffer's length into it.
    unsafe { call(libc::SYS_read, arguments) }
}

pub(crate) fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    write_number(fd.0, bytes)
}

/// Writes to a descriptor that is not ours to close, such as the kernel's console.
pub(crate) fn write_number(fd: i32, bytes: &[u8]) -> Result<usize> {
    let arguments = [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
    // SAFETY: the kernel reads no more than the slice.
    unsafe { call(libc::SYS_write, arguments) }
}

/// Writes everything; for descriptors that block.
pub(crate) fn write_all(fd: &Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pipe: its end to read from, its end to write to.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    let arguments = [
        ends.as_mut_ptr() as usize,
        libc::O_CLOEXEC as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes two descriptors into the array of two.
    unsafe { call(libc::SYS_pipe2, arguments) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

pub(crate) fn set_nonblocking(fd: &Fd, nonblocking: bool) -> Result<()> {
    let flags = if nonblocking { libc::O_NONBLOCK } else { 0 };
    let arguments = [
        fd.0 as usize,
        libc::F_SETFL as usize,
        flags as usize,
        0,
        0,
        0,
    ];
    // SAFETY: F_SETFL takes numbers. The descriptors it is used on have no other status flags.
    unsafe { call(libc::SYS_fcntl, arguments) }.map(drop)
}

/// Makes `new` refer to what `fd` refers to, kept across exec.
pub(crate) fn duplicate(fd: &Fd, new: i32) -> Result<()> {
    // dup2 of a descriptor onto itself would leave it close-on-exec; the agent's own descriptors are beyond stdio.
    // SAFETY: dup2 takes numbers; what `new` was is given up by the caller.
    unsafe { call(libc::SYS_dup2, [fd.0 as usize, new as usize, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn change_owner(fd: i32, uid: u32, gid: u32) -> Result<()> {
    let arguments = [fd as usize, uid as usize, gid as usize, 0, 0, 0];
    // SAFETY: fchown takes numbers.
    unsafe { call(libc::SYS_fchown, arguments) }.map(drop)
}

/// Whether a descriptor is a directory's.
pub(crate) fn is_directory(fd: &Fd) -> Result<bool> {
    // SAFETY: stat is plain numbers; all zeros is a value.
    let mut found: libc::stat = unsafe { core::mem::zeroed() };
    let arguments = [
        fd.0 as usize,
        core::ptr::from_mut(&mut found) as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes one stat.
    unsafe { call(libc::SYS_fstat, arguments) }?;
    Ok(found.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

pub(crate) fn make_directory(path: &CStr, mode: u32) -> Result<()> {
    let arguments = [path.as_ptr() as usize, mode as usize, 0, 0, 0, 0];
    // SAFETY: the path ends in a zero byte.
    unsafe { call(libc::SYS_mkdir, arguments) }.map(drop)
}

/// Gives a module's file to the kernel.
pub(crate) fn load_module(module: &Fd) -> Result<()> {
    let arguments = [module.0 as usize, c"".as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: finit_module takes a descriptor and parameters that end in a zero byte.
    unsafe { call(libc::SYS_finit_module, arguments) }.map(drop)
}

/// Removes a file.
pub(crate) fn remove(path: &CStr) -> Result<()> {
    // SAFETY: the path ends in a zero byte.
    unsafe { call(libc::SYS_unlink, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Makes a character device.
pub(crate) fn make_device(path: &CStr, mode: u32, major: u32, minor: u32) -> Result<()> {
    let arguments = [
        path.as_ptr() as usize,
        (libc::S_IFCHR | mode) as usize,
        libc::makedev(major, minor) as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the path ends in a zero byte.
    unsafe { call(libc::SYS_mknod, arguments) }.map(drop)
}

pub(crate) fn make_symlink(target: &CStr, path: &CStr) -> Result<()> {
    let arguments = [target.as_ptr() as usize, path.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: both paths end in a zero byte.
    unsafe { call(libc::SYS_symlink, arguments) }.map(drop)
}

/// What a symbolic link says, as much of it as the buffer holds.
pub(crate) fn read_symlink<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let arguments = [
        path.as_ptr() as usize,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the path ends in a zero byte, and the kernel writes no more than the buffer's length into it.
    let length = unsafe { call(libc::SYS_readlink, arguments) }?;
    Ok(buffer.get(..length).unwrap_or_default())
}

pub(crate) fn exists(path: &CStr) -> bool {
    let arguments = [path.as_ptr() as usize, libc::F_OK as usize, 0, 0, 0, 0];
    // SAFETY: the path ends in a zero byte.
    unsafe { call(libc::SYS_access, arguments) }.is_ok()
}

/// Goes back to the start of a directory or file.
pub(crate) fn rewind(fd: &Fd) -> Result<()> {
    // SAFETY: lseek takes numbers.
    unsafe {
        call(
            libc::SYS_lseek,
            [fd.0 as usize, 0, libc::SEEK_SET as usize, 0, 0, 0],
        )
    }
    .map(drop)
}

/// Calls `each` with the names in a directory.
pub(crate) fn names(directory: &Fd, mut each: impl FnMut(&[u8])) -> Result<()> {
    // linux_dirent64: u64 inode, i64 offset, u16 record length, u8 type, then the name, ended by a zero byte.
    const RECORD_LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut buffer = [0u8; 2048];
    loop {
        let arguments = [
            directory.0 as usize,
            buffer.as_mut_ptr() as usize,
            buffer.len(),
            0,
            0,
            0,
        ];
        // SAFETY: the kernel writes no more than the buffer's length into it.
        let filled = unsafe { call(libc::SYS_getdents64, arguments) }?;
        if filled == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..filled).unwrap_or_default();
        while let Some(&[low, high]) = rest.get(RECORD_LENGTH..RECORD_LENGTH + 2) {
            let length = usize::from(u16::from_le_bytes([low, high]));
            let Some(name) = rest.get(NAME..length) else {
                return Err(Errno(libc::EIO));
            };
            each(name.split(|byte| *byte == 0).next().unwrap_or_default());
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

pub(crate) use libc::pollfd as Poll;

/// An entry to [`poll`] with.
pub(crate) fn watch(fd: &Fd, events: i16) -> Poll {
    Poll {
        fd: fd.0,
        events,
        revents: 0,
    }
}

/// Waits until one of the descriptors is ready.
pub(crate) fn poll(entries: &mut [Poll]) -> Result<()> {
    let arguments = [
        entries.as_mut_ptr() as usize,
        entries.len(),
        usize::MAX,
        0,
        0,
        0,
    ];
    loop {
        // SAFETY: the kernel reads and writes as many entries as the slice has.
        match unsafe { call(libc::SYS_poll, arguments) } {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(drop),
        }
    }
}

/// An ioctl whose argument is a structure the kernel reads or writes.
///
/// # Safety
/// `T` must be the structure that `request` takes, and what it points to must be valid too.
pub(super) unsafe fn ioctl<T>(fd: &Fd, request: u64, argument: &mut T) -> Result<usize> {
    let arguments = [
        fd.0 as usize,
        request as usize,
        core::ptr::from_mut(argument) as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the caller promises that the kernel finds the structure it expects.
    unsafe { call(libc::SYS_ioctl, arguments) }
}

/// Opens the other side of a new pseudo-terminal's master.
pub(crate) fn open_terminal(master: &Fd) -> Result<Fd> {
    let mut unlocked = 0i32;
    // SAFETY: TIOCSPTLCK reads an int.
    unsafe { ioctl(master, libc::TIOCSPTLCK, &mut unlocked) }?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let arguments = [
        master.0 as usize,
        libc::TIOCGPTPEER as usize,
        flags as usize,
        0,
        0,
        0,
    ];
    // SAFETY: TIOCGPTPEER takes open flags, a number.
    Ok(Fd::own(unsafe { call(libc::SYS_ioctl, arguments) }?))
}

/// The number of the pseudo-terminal: it is /dev/pts/N.
pub(crate) fn terminal_number(master: &Fd) -> Result<u32> {
    let mut number = 0u32;
    // SAFETY: TIOCGPTN writes an unsigned int.
    unsafe { ioctl(master, libc::TIOCGPTN, &mut number) }?;
    Ok(number)
}

pub(crate) fn set_window_size(terminal: &Fd, size: WindowSize) -> Result<()> {
    let mut size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize.
    unsafe { ioctl(terminal, libc::TIOCSWINSZ, &mut size) }.map(drop)
}

/// Makes the terminal on descriptor 0 the controlling terminal of the caller's session.
pub(crate) fn control_terminal() -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    unsafe { call(libc::SYS_ioctl, [0, libc::TIOCSCTTY as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Gives the kernel's generator random bytes, and counts every bit of them as entropy.
pub(crate) fn add_entropy(random: &Fd, bytes: &[u8]) -> Result<()> {
    /// RNDADDENTROPY, _IOW('R', 3, int[2]): linux/random.h.
    const RNDADDENTROPY: u64 = 0x4008_5203;
    /// struct rand_pool_info with room for what the host sends.
    #[repr(C)]
    struct Pool {
        entropy_bits: i32,
        bytes: i32,
        pool: [u8; 256],
    }
    let mut pool = Pool {
        entropy_bits: 0,
        bytes: 0,
        pool: [0; 256],
    };
    for piece in bytes.chunks(pool.pool.len()) {
        pool.entropy_bits = piece.len() as i32 * 8;
        pool.bytes = piece.len() as i32;
        for (to, from) in pool.pool.iter_mut().zip(piece) {
            *to = *from;
        }
        // SAFETY: RNDADDENTROPY reads a rand_pool_info and as many bytes after it as that says, which the array holds.
        unsafe { ioctl(random, RNDADDENTROPY, &mut pool) }?;
    }
    Ok(())
}

/// Has the kernel's generator begin anew with what it has been given, so that nothing it gives out from now on can be known from
/// what it was before.
pub(crate) fn reseed(random: &Fd) -> Result<()> {
    /// RNDRESEEDCRNG, _IO('R', 7): linux/random.h.
    const RNDRESEEDCRNG: u64 = 0x5207;
    let mut nothing = 0u64;
    // SAFETY: RNDRESEEDCRNG looks at no argument.
    unsafe { ioctl(random, RNDRESEEDCRNG, &mut nothing) }.map(drop)
}

/// Makes a part of a block device a device of its own: its name with `number` appended. Offset and length are in bytes.
pub(crate) fn add_partition(device: &Fd, number: i32, offset: i64, length: i64) -> Result<()> {
    /// BLKPG, _IO(0x12, 105), and its operation: linux/blkpg.h.
    const BLKPG: u64 = 0x1269;
    const BLKPG_ADD_PARTITION: i32 = 1;
    #[repr(C)]
    struct Partition {
        start: i64,
        length: i64,
        number: i32,
        device_name: [u8; 64],
        volume_name: [u8; 64],
    }
    #[repr(C)]
    struct Argument {
        operation: i32,
        flags: i32,
        data_length: i32,
        data: *mut Partition,
    }
    let mut partition = Partition {
        start: offset,
        length,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let mut argument = Argument {
        operation: BLKPG_ADD_PARTITION,
        flags: 0,
        data_length: size_of::<Partition>() as i32,
        data: &mut partition,
    };
    // SAFETY: BLKPG reads a blkpg_ioctl_arg, and through its pointer a blkpg_partition, which outlives the call.
    unsafe { ioctl(device, BLKPG, &mut argument) }.map(drop)
}

/// Writes everything of the file system that holds `file` to its disk, marks it clean, and refuses writes from then on.
pub(crate) fn freeze(file: &Fd) -> Result<()> {
    /// FIFREEZE, _IOWR('X', 119, int): linux/fs.h.
    const FIFREEZE: u64 = 0xc004_5877;
    let mut level = 0i32;
    // SAFETY: FIFREEZE takes an int, which it ignores.
    unsafe { ioctl(file, FIFREEZE, &mut level) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn a_pipe_carries_bytes_and_ends() {
        let (reader, writer) = pipe().unwrap();
        write_all(&writer, b"abc").unwrap();
        drop(writer);
        let mut buffer = [0; 8];
        assert_eq!(read(&reader, &mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"abc");
        assert_eq!(read(&reader, &mut buffer), Ok(0));
    }

    #[test]
    fn a_nonblocking_pipe_says_that_it_is_empty() {
        let (reader, _writer) = pipe().unwrap();
        set_nonblocking(&reader, true).unwrap();
        assert_eq!(read(&reader, &mut [0; 8]), Err(Errno(libc::EAGAIN)));
    }

    #[test]
    fn every_name_in_a_directory_is_listed() {
        let directory = open(c"/proc/self", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        let mut seen: Vec<Vec<u8>> = vec![];
        names(&directory, |name| seen.push(name.to_vec())).unwrap();
        let expected = std::fs::read_dir("/proc/self").unwrap().count();
        assert_eq!(seen.len(), expected + 2, ". and .. are listed too");
        assert!(seen.iter().any(|name| name == b"status"));
    }
}
