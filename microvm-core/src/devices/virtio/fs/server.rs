//! The server of a file system in user space (FUSE): takes requests apart, does on the host what they ask for, and says
//! what came of it.
//!
//! Containment: the guest names nodes that it was told of before, and a single name below one of them. No path of the
//! guest's is ever walked on the host, no symbolic link followed: links are resolved by the guest's kernel.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::host::{self, Descriptors};
use super::identity::Identity;
use super::lock::{Locks, Wanted};
use super::node::{Found, Limits, Nodes};
use super::wire::{
    Answer, Errno, Fields, Header, MAJOR, MINOR, OLDEST_MINOR, Put, ROOT, init, opcode,
};
use crate::share::Shared;
use crate::{Error, Result};

/// The most that one read or write moves.
pub(super) const MAX_TRANSFER: u32 = 1 << 20;

/// Everything that is offered. There is no readdirplus among it: what that tells is valid for no time, as all attributes
/// are, so that the guest would ask again and each entry would cost a descriptor for nothing.
const OFFERED: u64 = init::ASYNC_READ
    | init::POSIX_LOCKS
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::FLOCK_LOCKS
    | init::AUTO_INVAL_DATA
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::HANDLE_KILLPRIV_V2
    | init::INIT_EXT;

/// How many requests the guest may have under way without its callers waiting for them (read-ahead), and from how many on it
/// calls the device congested.
const MAX_BACKGROUND: u16 = 64;
const CONGESTION: u16 = 48;

/// Descriptors that are left to the rest of the process.
const OTHER_DESCRIPTORS: usize = 128;

/// The memory that a request's data are in, and that its reply's data go to.
///
/// # Safety
/// The pieces that come back must be mapped for as long as the borrow lasts, writable if they are a target, and no memory
/// that Rust holds a reference to.
pub(super) unsafe trait Transfer {
    /// How many bytes a reply may have, its header apart.
    fn room(&self) -> usize;

    /// Where that many bytes are that come after the body of the request.
    fn source(&mut self, bytes: u32) -> Answer<&[libc::iovec]>;

    /// Where that many bytes of the reply go.
    fn target(&mut self, bytes: u32) -> Answer<&[libc::iovec]>;
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The reply is what was put into the buffer for it.
    Reply,
    /// This many bytes of the reply were put into the guest's memory.
    Moved(u32),
    /// There is no reply to such a request.
    Silent,
    /// There will be a reply: the lock is somebody else's now.
    Later(Wanted),
    /// The request that was given this number is not waited for any more.
    Interrupt(u64),
}

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: File,
    pub(super) is_directory: bool,
}

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) nodes: Nodes,
    pub(super) handles: HashMap<u64, Handle>,
    next_handle: u64,
    pub(super) locks: Locks,
    pub(super) descriptors: Descriptors,
    pub(super) identity: Identity,
    limits: Limits,
    /// Whether FUSE_INIT has come.
    spoken: bool,
}

impl Server {
    /// A server of these shares, for a guest with so much memory.
    ///
    /// The process's umask must be zero: the guest's kernel has taken the guest's own off modes already. Its root directory
    /// may be one in which there is nothing: the directory of its descriptors is given.
    pub(crate) fn new(
        shares: Vec<Shared>,
        memory_mib: u32,
        directory: Descriptors,
    ) -> Result<Self> {
        let descriptors = host::descriptor_limit().saturating_sub(OTHER_DESCRIPTORS);
        let limits = Limits {
            descriptors,
            // A guest's kernel needs more than a KiB for each file it knows of.
            nodes: (memory_mib as usize).saturating_mul(1024).max(1 << 16),
        };
        Self::with_limits(shares, limits, directory)
    }

    pub(super) fn with_limits(
        shares: Vec<Shared>,
        limits: Limits,
        descriptors: Descriptors,
    ) -> Result<Self> {
        let nodes = Nodes::new(shares, limits)
            .map_err(|Errno(number)| io::Error::from_raw_os_error(number))
            .map_err(Error::system("open what the guest shares"))?;
        Ok(Self {
            nodes,
            handles: HashMap::new(),
            next_handle: 1,
            locks: Locks::default(),
            descriptors,
            identity: Identity::own(),
            limits,
            spoken: false,
        })
    }

    /// Goes back to the beginning: everything is closed, every lock given up.
    pub(super) fn reset(&mut self) {
        self.spoken = false;
        self.handles.clear();
        self.locks.clear();
        // A share that cannot be looked at any more is not there for the next driver.
        let _ = self.nodes.forget_all();
    }

    /// Whether a request with this code takes data after its body.
    pub(super) fn takes_data(code: u32) -> bool {
        code == opcode::WRITE
    }

    /// Serves one request. `out` is empty.
    pub(super) fn serve(
        &mut self,
        header: &Header,
        body: &[u8],
        transfer: &mut dyn Transfer,
        out: &mut Vec<u8>,
    ) -> Answer<Outcome> {
        let fields = Fields(body);
        if !self.spoken && header.opcode != opcode::INIT {
            return Err(Errno(libc::EIO));
        }
        match header.opcode {
            opcode::INIT => self.init(fields, out)?,
            opcode::DESTROY => self.reset(),
            opcode::FORGET | opcode::BATCH_FORGET => {
                self.forget(header, fields)?;
                return Ok(Outcome::Silent);
            }
            opcode::INTERRUPT => {
                let mut fields = fields;
                return Ok(Outcome::Interrupt(fields.u64()?));
            }
            opcode::READ => return self.read(fields, transfer).map(Outcome::Moved),
            opcode::WRITE => self.write(fields, transfer, out)?,
            opcode::SETLK => self.set_lock(header, fields)?,
            opcode::SETLKW => return self.wait_for_lock(header, fields),
            opcode::READDIR => self.read_directory(header, fields, transfer.room(), out)?,
            opcode::GETXATTR | opcode::LISTXATTR => {
                self.read_extended(header, fields, transfer.room(), out)?;
            }
            _ => self.on_names(header, fields, out)?,
        }
        Ok(Outcome::Reply)
    }

    /// What is done to names.
    fn on_names(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let node = header.node;
        match header.opcode {
            opcode::LOOKUP => {
                let (found, attributes) = self.nodes.lookup(node, fields.name()?)?;
                attributes.entry(found, out);
                Ok(())
            }
            opcode::MKNOD => self.make_node(header, fields, out),
            opcode::MKDIR => {
                let mode = fields.u32()? & 0o7777;
                fields.skip(4)?;
                self.make(header, fields.name()?, out, |directory, name| {
                    host::make_directory(directory.place.as_fd(), name, mode)
                })
            }
            opcode::SYMLINK => {
                let name = fields.name()?;
                let target = fields.text()?;
                self.make(header, name, out, |directory, name| {
                    host::make_symlink(directory.place.as_fd(), name, target)
                })
            }
            opcode::LINK => {
                let original = self.nodes.get(fields.u64()?)?;
                let name = fields.name()?;
                let directory = self.nodes.directory(node)?.writable()?;
                if original.share != directory.share {
                    return Err(Errno(libc::EXDEV));
                }
                self.descriptors
                    .link(original.place.as_fd(), directory.place.as_fd(), name)?;
                self.tell(&directory, name, out)
            }
            opcode::UNLINK | opcode::RMDIR => {
                let directory = self.nodes.directory(node)?.writable()?;
                let is_directory = header.opcode == opcode::RMDIR;
                host::remove(directory.place.as_fd(), fields.name()?, is_directory)
            }
            opcode::RENAME => {
                let to = fields.u64()?;
                self.rename(node, to, 0, fields)
            }
            opcode::RENAME2 => {
                let (to, flags) = (fields.u64()?, fields.u32()?);
                fields.skip(4)?;
                self.rename(node, to, flags, fields)
            }
            opcode::READLINK => {
                let found = self.nodes.get(node)?;
                if found.kind != libc::S_IFLNK {
                    return Err(Errno(libc::EINVAL));
                }
                out.resize(libc::PATH_MAX as usize, 0);
                let length = host::read_link(found.place.as_fd(), out)?;
                out.truncate(length);
                Ok(())
            }
            opcode::STATFS => self.statfs(node, out),
            _ => self.on_files(header, fields, out),
        }
    }

    /// What is done to files and what is known of them.
    fn on_files(&mut self, header: &Header, fields: Fields<'_>, out: &mut Vec<u8>) -> Answer<()> {
        match header.opcode {
            opcode::GETATTR => self.get_attributes(header, fields, out),
            opcode::SETATTR => self.set_attributes(header, fields, out),
            opcode::OPEN => self.open(header, fields, out),
            opcode::CREATE => self.create(header, fields, out),
            opcode::TMPFILE => self.create_nameless(header, fields, out),
            opcode::OPENDIR => self.open_directory(header, out),
            opcode::FLUSH => self.flush(header, fields),
            opcode::RELEASE => self.release(header, fields),
            opcode::RELEASEDIR => self.release_directory(fields),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(header, fields),
            opcode::SYNCFS => self.sync_file_systems(),
            opcode::FALLOCATE => self.allocate(fields),
            opcode::LSEEK => self.seek(fields, out),
            opcode::COPY_FILE_RANGE => self.copy(fields, out),
            opcode::GETLK => self.ask_lock(header, fields, out),
            opcode::SETXATTR => self.set_extended(header, fields),
            opcode::REMOVEXATTR => self.remove_extended(header, fields),
            // Linux takes this as what it is and asks no more: of FUSE_ACCESS, FUSE_STATX, FUSE_IOCTL, FUSE_POLL and so on.
            _ => Err(Errno(libc::ENOSYS)),
        }
    }

    fn init(&mut self, mut fields: Fields<'_>, out: &mut Vec<u8>) -> Answer<()> {
        let (major, minor) = (fields.u32()?, fields.u32()?);
        if major < MAJOR || (major == MAJOR && minor < OLDEST_MINOR) {
            return Err(Errno(libc::EPROTO));
        }
        self.reset();
        if major > MAJOR {
            // The other side is asked to come down to this one's version.
            out.put_u32(MAJOR);
            out.put_u32(MINOR);
            out.resize(64, 0);
            return Ok(());
        }
        let readahead = fields.u32()?;
        let low = u64::from(fields.u32()?);
        let high = match low & init::INIT_EXT {
            0 => 0,
            _ => u64::from(fields.u32()?) << 32,
        };
        let agreed = (low | high) & OFFERED;
        self.spoken = true;
        out.put_u32(MAJOR);
        out.put_u32(MINOR);
        out.put_u32(readahead.min(MAX_TRANSFER));
        out.put_u32(agreed as u32);
        out.extend_from_slice(&MAX_BACKGROUND.to_ne_bytes());
        out.extend_from_slice(&CONGESTION.to_ne_bytes());
        out.put_u32(MAX_TRANSFER);
        out.put_u32(1); // times are exact to the nanosecond
        out.extend_from_slice(&((MAX_TRANSFER / 4096) as u16).to_ne_bytes());
        out.extend_from_slice(&0u16.to_ne_bytes()); // alignment of mappings: there are none
        out.put_u32((agreed >> 32) as u32);
        out.resize(64, 0);
        Ok(())
    }

    fn forget(&mut self, header: &Header, mut fields: Fields<'_>) -> Answer<()> {
        let one = |server: &mut Self, node, times| {
            if server.nodes.forget(node, times) {
                server.locks.forget(node);
            }
        };
        if header.opcode == opcode::FORGET {
            one(self, header.node, fields.u64()?);
            return Ok(());
        }
        let count = fields.u32()?;
        fields.skip(4)?;
        for _ in 0..count {
            // There cannot be more rounds than the request has room for.
            one(self, fields.u64()?, fields.u64()?);
        }
        Ok(())
    }

    /// Makes something in a directory, as the guest's user, and tells the guest of it.
    fn make(
        &mut self,
        header: &Header,
        name: &CStr,
        out: &mut Vec<u8>,
        make: impl FnOnce(&Found, &CStr) -> Answer<()>,
    ) -> Answer<()> {
        let directory = self.nodes.directory(header.node)?.writable()?;
        let acting = self.identity.act_as(header.uid, header.gid)?;
        make(&directory, name)?;
        drop(acting);
        self.tell(&directory, name, out)
    }

    fn tell(&mut self, directory: &Found, name: &CStr, out: &mut Vec<u8>) -> Answer<()> {
        let place = host::lookup(directory.place.as_fd(), name)?;
        let (node, attributes) = self.nodes.tell(directory.share, place)?;
        attributes.entry(node, out);
        Ok(())
    }

    fn make_node(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (mode, device) = (fields.u32()?, fields.u32()?);
        fields.skip(8)?;
        match mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => {}
            // What overlayfs marks a deleted file with is no device.
            libc::S_IFCHR if device == 0 => {}
            // A device's number means another device on the host.
            _ => return Err(Errno(libc::EPERM)),
        }
        self.make(header, fields.name()?, out, |directory, name| {
            host::make_node(directory.place.as_fd(), name, mode, device)
        })
    }

    fn rename(&mut self, from: u64, to: u64, flags: u32, mut fields: Fields<'_>) -> Answer<()> {
        let (name, new_name) = (fields.name()?, fields.name()?);
        let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;
        if flags & !known != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let from = self.nodes.directory(from)?.writable()?;
        let to = self.nodes.directory(to)?.writable()?;
        if from.share != to.share {
            return Err(Errno(libc::EXDEV));
        }
        host::rename(
            (from.place.as_fd(), name),
            (to.place.as_fd(), new_name),
            flags,
        )
    }

    fn statfs(&mut self, node: u64, out: &mut Vec<u8>) -> Answer<()> {
        let found = match node {
            // The root directory is made of nothing.
            ROOT => None,
            _ => Some(host::statfs(self.nodes.get(node)?.place.as_fd())?),
        };
        let field = |get: fn(&libc::statfs) -> u64| found.as_ref().map_or(0, get);
        out.put_u64(field(|found| found.f_blocks));
        out.put_u64(field(|found| found.f_bfree));
        out.put_u64(field(|found| found.f_bavail));
        out.put_u64(field(|found| found.f_files));
        out.put_u64(field(|found| found.f_ffree));
        out.put_u32(found.map_or(4096, |found| found.f_bsize as u32));
        out.put_u32(found.map_or(255, |found| found.f_namelen as u32));
        out.put_u32(found.map_or(4096, |found| found.f_frsize as u32));
        out.resize(80, 0);
        Ok(())
    }

    /// Whether one more descriptor may be held for the guest.
    pub(super) fn check_room(&self) -> Answer<()> {
        let used = self.nodes.held() + self.handles.len() + self.locks.count();
        match used < self.limits.descriptors {
            true => Ok(()),
            false => Err(Errno(libc::ENFILE)),
        }
    }

    /// Keeps an open file; the number by which the guest refers to it comes back.
    pub(super) fn keep(&mut self, file: OwnedFd, is_directory: bool) -> u64 {
        let number = self.next_handle;
        self.next_handle += 1;
        let handle = Handle {
            file: File::from(file),
            is_directory,
        };
        self.handles.insert(number, handle);
        number
    }

    /// An open file.
    pub(super) fn file(&self, handle: u64) -> Answer<&File> {
        match self.handles.get(&handle) {
            Some(handle) if !handle.is_directory => Ok(&handle.file),
            _ => Err(Errno(libc::EBADF)),
        }
    }
}
