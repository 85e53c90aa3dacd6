//! The messages: what FUSE's kernel interface (linux/fuse.h, version 7.38) puts into bytes, taken apart and put together.
//!
//! Numbers are in the machine's byte order, which is the guest's: both are x86-64.

use std::ffi::CStr;

/// The version of the interface that is spoken. Anything below [`OLDEST_MINOR`] has other structures.
pub(super) const MAJOR: u32 = 7;
pub(super) const MINOR: u32 = 38;
/// FUSE_HANDLE_KILLPRIV_V2 came with it; so did every structure as it is read here.
pub(super) const OLDEST_MINOR: u32 = 33;

/// The node of the root directory.
pub(super) const ROOT: u64 = 1;

/// The length of `fuse_in_header` and of `fuse_out_header`.
pub(super) const IN_HEADER: usize = 40;
pub(super) const OUT_HEADER: usize = 16;

/// The length of `fuse_write_in`, after which the data begin.
pub(super) const WRITE_IN: usize = 40;

/// The longest name that Linux has.
pub(super) const NAME_MAX: usize = 255;

/// What is asked for (enum fuse_opcode).
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const FLUSH: u32 = 25;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const GETLK: u32 = 31;
    pub(in super::super) const SETLK: u32 = 32;
    pub(in super::super) const SETLKW: u32 = 33;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
    pub(in super::super) const SYNCFS: u32 = 50;
    pub(in super::super) const TMPFILE: u32 = 51;
}

/// What both sides can do (FUSE_INIT's flags).
pub(super) mod init {
    pub(in super::super) const ASYNC_READ: u64 = 1 << 0;
    pub(in super::super) const POSIX_LOCKS: u64 = 1 << 1;
    pub(in super::super) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(in super::super) const BIG_WRITES: u64 = 1 << 5;
    pub(in super::super) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(in super::super) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(in super::super) const ASYNC_DIO: u64 = 1 << 15;
    pub(in super::super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in super::super) const MAX_PAGES: u64 = 1 << 22;
    pub(in super::super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in super::super) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in super::super) const INIT_EXT: u64 = 1 << 30;
}

/// FUSE_SETATTR's valid bits.
pub(super) mod setattr {
    pub(in super::super) const MODE: u32 = 1 << 0;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
    pub(in super::super) const ATIME: u32 = 1 << 4;
    pub(in super::super) const MTIME: u32 = 1 << 5;
    pub(in super::super) const HANDLE: u32 = 1 << 6;
    pub(in super::super) const ATIME_NOW: u32 = 1 << 7;
    pub(in super::super) const MTIME_NOW: u32 = 1 << 8;
    pub(in super::super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// FUSE_GETATTR_FH: the handle is given.
pub(super) const GETATTR_HANDLE: u32 = 1;
/// FUSE_OPEN_KILL_SUIDGID: truncating takes the set-user-ID and set-group-ID bits.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1;
/// FUSE_WRITE_CACHE: a page of the guest's cache goes back to where it came from.
pub(super) const WRITE_CACHE: u32 = 1;
/// FUSE_WRITE_KILL_SUIDGID: writing takes the set-user-ID and set-group-ID bits.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// FUSE_RELEASE_FLOCK_UNLOCK: the file had an flock(2) lock.
pub(super) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// FUSE_LK_FLOCK: the lock is flock(2)'s.
pub(super) const LOCK_FLOCK: u32 = 1;
/// FUSE_FSYNC_FDATASYNC: the data are enough.
pub(super) const FSYNC_DATA: u32 = 1;

/// An error number of Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i32);

/// What an operation comes to.
pub(super) type Answer<T> = Result<T, Errno>;

impl Errno {
    /// What the last system call of this thread failed with.
    pub(super) fn last() -> Self {
        std::io::Error::last_os_error().into()
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// The header of a request, as far as it is of interest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; IN_HEADER]) -> Answer<Self> {
        let mut fields = Fields(bytes);
        Ok(Self {
            length: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
        })
    }
}

/// The bytes of a request that have not been taken yet. What is not there is EINVAL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Answer<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Errno(libc::EINVAL))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Answer<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Answer<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// Passes over what is of no interest.
    pub(super) fn skip(&mut self, bytes: usize) -> Answer<()> {
        self.0 = self.0.get(bytes..).ok_or(Errno(libc::EINVAL))?;
        Ok(())
    }

    /// A string with its zero.
    pub(super) fn text(&mut self) -> Answer<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno(libc::EINVAL))?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// A name in a directory: one component of a path, and neither the directory itself nor the one above.
    pub(super) fn name(&mut self) -> Answer<&'a CStr> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno(libc::EINVAL)),
            bytes if bytes.contains(&b'/') => Err(Errno(libc::EINVAL)),
            bytes if bytes.len() > NAME_MAX => Err(Errno(libc::ENAMETOOLONG)),
            _ => Ok(name),
        }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Answer<&'a [u8]> {
        let bytes = self.0.get(..count).ok_or(Errno(libc::EINVAL))?;
        self.skip(count)?;
        Ok(bytes)
    }
}

/// A reply in the making.
pub(super) trait Put {
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
}

impl Put for Vec<u8> {
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_ne_bytes());
    }
}

/// The header of a reply of this length, header included; `error` is 0 or an error's number.
pub(super) fn out_header(length: u32, error: i32, unique: u64) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    header[0..4].copy_from_slice(&length.to_ne_bytes());
    header[4..8].copy_from_slice(&error.wrapping_neg().to_ne_bytes());
    header[8..16].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// What is known of a file (struct fuse_attr).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) blocks: u64,
    /// Seconds and nanoseconds of access, modification and change.
    pub(super) times: [(i64, u32); 3],
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u32,
    pub(super) block_size: u32,
}

impl Attributes {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.inode);
        out.put_u64(self.size);
        out.put_u64(self.blocks);
        self.times
            .iter()
            .for_each(|(seconds, _)| out.put_u64(*seconds as u64));
        self.times.iter().for_each(|(_, nanos)| out.put_u32(*nanos));
        for field in [
            self.mode,
            self.links,
            self.uid,
            self.gid,
            self.device,
            self.block_size,
            0, // flags: neither a mount point nor DAX
        ] {
            out.put_u32(field);
        }
    }

    /// A reply to FUSE_GETATTR and FUSE_SETATTR, valid for no time: somebody else may change the file.
    pub(super) fn reply(&self, out: &mut Vec<u8>) {
        out.put_u64(0);
        out.put_u64(0);
        self.put(out);
    }

    /// What names a node in replies (struct fuse_entry_out), valid for no time. Numbers of nodes are never used again,
    /// so that all are of generation 0.
    pub(super) fn entry(&self, node: u64, out: &mut Vec<u8>) {
        out.put_u64(node);
        for _ in 0..4 {
            out.put_u64(0);
        }
        self.put(out);
    }
}

/// Puts an entry of a directory (struct fuse_dirent), if it fits within `room` bytes of reply; false when it does not.
pub(super) fn put_directory_entry(
    out: &mut Vec<u8>,
    room: usize,
    inode: u64,
    next: u64,
    kind: u8,
    name: &[u8],
) -> bool {
    let padded = (24 + name.len()).next_multiple_of(8);
    if out.len() + padded > room {
        return false;
    }
    let end = out.len() + padded;
    out.put_u64(inode);
    out.put_u64(next);
    out.put_u32(name.len() as u32);
    out.put_u32(kind.into());
    out.extend_from_slice(name);
    out.resize(end, 0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_and_goes_down() {
        let name = |bytes: &'static [u8]| Fields(bytes).name().map(CStr::to_bytes);
        assert_eq!(name(b"a\0rest"), Ok(&b"a"[..]));
        assert_eq!(name(b"...\0"), Ok(&b"..."[..]));
        for bad in [&b""[..], b"\0", b".\0", b"..\0", b"a/b\0", b"/\0", b"../a\0", b"unended"] {
            assert_eq!(name(bad), Err(Errno(libc::EINVAL)), "{bad:?}");
        }
        let long = [vec![b'x'; 256], vec![0]].concat();
        assert_eq!(Fields(&long).name(), Err(Errno(libc::ENAMETOOLONG)));
    }

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        let mut out = Vec::new();
        Attributes::default().reply(&mut out);
        assert_eq!(out.len(), 104, "struct fuse_attr_out");
        out.clear();
        Attributes::default().entry(7, &mut out);
        assert_eq!(out.len(), 128, "struct fuse_entry_out");
        out.clear();
        assert!(put_directory_entry(&mut out, 32, 1, 2, 8, b"12345678"));
        assert_eq!(out.len(), 32, "struct fuse_dirent");
        assert!(!put_directory_entry(&mut out, 63, 1, 2, 8, b"1"));
        assert_eq!(out.len(), 32);
    }
}
