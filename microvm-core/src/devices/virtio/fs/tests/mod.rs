//! The server against a directory, without a machine: requests as a guest's kernel makes them, and what comes back.

mod containment;
mod device;
mod files;
mod locks;
mod names;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

use super::node::Limits;
use super::server::{Outcome, Server, Transfer};
use super::wire::*;
use crate::share::Shared;

/// The node of the first share.
const SHARE: u64 = 2;

/// Where the pieces of a request and a reply are, when there is no guest's memory.
struct Buffers {
    data: Vec<u8>,
    room: Vec<u8>,
    pieces: Vec<libc::iovec>,
}

fn pieces(bytes: &mut [u8]) -> Vec<libc::iovec> {
    // Odd sizes, as a guest's buffers may have.
    bytes
        .chunks_mut(4093)
        .map(|chunk| libc::iovec {
            iov_base: chunk.as_mut_ptr().cast(),
            iov_len: chunk.len(),
        })
        .collect()
}

// SAFETY: the pieces are of buffers that live as long and that nobody else looks at meanwhile.
unsafe impl Transfer for Buffers {
    fn room(&self) -> usize {
        self.room.len()
    }

    fn source(&mut self, bytes: u32) -> Answer<&[libc::iovec]> {
        let data = self.data.get_mut(..bytes as usize);
        self.pieces = pieces(data.ok_or(Errno(libc::EINVAL))?);
        Ok(&self.pieces)
    }

    fn target(&mut self, bytes: u32) -> Answer<&[libc::iovec]> {
        let room = self.room.get_mut(..bytes as usize);
        self.pieces = pieces(room.ok_or(Errno(libc::EINVAL))?);
        Ok(&self.pieces)
    }
}

/// A request's body.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn u32(mut self, value: u32) -> Self {
        self.0.put_u32(value);
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.put_u64(value);
        self
    }

    fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }
}

fn body() -> Body {
    Body::default()
}

/// What a reply names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    node: u64,
    inode: u64,
    size: u64,
    mode: u32,
    links: u32,
    uid: u32,
    gid: u32,
}

fn known(reply: &[u8]) -> Known {
    let node = u64::from_ne_bytes(reply[..8].try_into().unwrap());
    Known {
        node,
        ..attributes(&reply[40..128])
    }
}

/// A struct fuse_attr.
fn attributes(bytes: &[u8]) -> Known {
    let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    Known {
        node: 0,
        inode: long(0),
        size: long(8),
        mode: word(60),
        links: word(64),
        uid: word(68),
        gid: word(72),
    }
}

/// A guest's kernel, as far as the server sees it.
struct Client {
    folder: TempDir,
    server: Server,
    uid: u32,
    gid: u32,
}

fn share(path: &Path, name: &str, read_only: bool) -> Shared {
    let source = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .unwrap();
    Shared {
        name: name.to_owned(),
        directory: source.metadata().unwrap().is_dir(),
        source: source.into(),
        read_only,
    }
}

const LIMITS: Limits = Limits {
    descriptors: 500,
    nodes: 1000,
};

/// Buffers for another thread.
struct Sealed<'a>(&'a mut Buffers);

// SAFETY: the pointers among them are made by who serves the request, from what else is in there.
unsafe impl Send for Sealed<'_> {}

impl Sealed<'_> {
    fn buffers(&mut self) -> &mut Buffers {
        self.0
    }
}

/// A device that shares this directory, under the name `0`.
pub(crate) fn device(folder: &Path, read_only: bool) -> super::Fs {
    let shares = vec![share(folder, "0", read_only)];
    let descriptors = crate::devices::virtio::fs::Descriptors::open().unwrap();
    super::Fs::new(Server::with_limits(shares, LIMITS, descriptors).unwrap()).unwrap()
}

impl Client {
    /// Shares `shared` of a new directory, as `0`.
    fn new(read_only: bool) -> Self {
        Self::with_limits(read_only, LIMITS)
    }

    fn with_limits(read_only: bool, limits: Limits) -> Self {
        // SAFETY: umask takes a number.
        unsafe { libc::umask(0) };
        let folder = tempfile::Builder::new()
            .prefix("plimsoll-fs-")
            .tempdir()
            .unwrap();
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).unwrap();
        Self::of(folder, vec![share(&shared, "0", read_only)], limits)
    }

    fn of(folder: TempDir, shares: Vec<Shared>, limits: Limits) -> Self {
        let mut client = Self {
            folder,
            server: Server::with_limits(
                shares,
                limits,
                crate::devices::virtio::fs::Descriptors::open().unwrap(),
            )
            .unwrap(),
            uid: 0,
            gid: 0,
        };
        let reply = client.init().unwrap();
        assert_eq!(reply.len(), 64, "struct fuse_init_out");
        client
    }

    fn init(&mut self) -> Result<Vec<u8>, i32> {
        let mut asked = body()
            .u32(7)
            .u32(40)
            .u32(1 << 20)
            .u32(u32::MAX)
            .u32(u32::MAX);
        asked.0.resize(64, 0);
        self.call(opcode::INIT, 0, asked)
    }

    /// A path in the shared directory, on the host.
    fn host(&self, path: &str) -> PathBuf {
        self.folder.path().join("shared").join(path)
    }

    fn outcome(
        &mut self,
        code: u32,
        node: u64,
        body: &Body,
        buffers: &mut Buffers,
        reply: &mut Vec<u8>,
    ) -> Result<Outcome, i32> {
        let header = Header {
            length: (IN_HEADER + body.0.len()) as u32,
            opcode: code,
            unique: 1,
            node,
            uid: self.uid,
            gid: self.gid,
        };
        let (server, mut sealed) = (&mut self.server, Sealed(buffers));
        // As in the monitor: on a thread that may make the system calls of this work and no others.
        thread::scope(|scope| {
            let serving = scope.spawn(move || {
                crate::kvm::seal_for_files();
                server.serve(&header, &body.0, sealed.buffers(), reply)
            });
            serving.join().unwrap()
        })
        .map_err(|Errno(number)| number)
    }

    /// Asks for something that neither reads nor writes a file.
    fn call(&mut self, code: u32, node: u64, body: Body) -> Result<Vec<u8>, i32> {
        self.call_with(code, node, body, Vec::new(), 64 << 10)
    }

    fn call_with(
        &mut self,
        code: u32,
        node: u64,
        body: Body,
        data: Vec<u8>,
        room: usize,
    ) -> Result<Vec<u8>, i32> {
        let mut buffers = Buffers {
            data,
            room: vec![0; room],
            pieces: Vec::new(),
        };
        let mut reply = Vec::new();
        match self.outcome(code, node, &body, &mut buffers, &mut reply)? {
            Outcome::Reply | Outcome::Silent => Ok(reply),
            Outcome::Moved(count) => Ok(buffers.room[..count as usize].to_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn lookup(&mut self, parent: u64, name: &str) -> Result<Known, i32> {
        self.call(opcode::LOOKUP, parent, body().text(name))
            .map(|reply| known(&reply))
    }

    /// The node of a path below the share.
    fn walk(&mut self, path: &str) -> u64 {
        path.split('/')
            .fold(SHARE, |node, name| self.lookup(node, name).unwrap().node)
    }

    fn forget(&mut self, node: u64, times: u64) {
        self.call(opcode::FORGET, node, body().u64(times)).unwrap();
    }

    fn getattr(&mut self, node: u64) -> Result<Known, i32> {
        self.call(opcode::GETATTR, node, body().u64(0).u64(0))
            .map(|reply| attributes(&reply[16..]))
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        self.call(opcode::OPEN, node, body().u32(flags as u32).u32(0))
            .map(|reply| u64::from_ne_bytes(reply[..8].try_into().unwrap()))
    }

    fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(Known, u64), i32> {
        let flags = flags | libc::O_CREAT;
        let asked = body().u32(flags as u32).u32(mode).u32(0).u32(0).text(name);
        let reply = self.call(opcode::CREATE, parent, asked)?;
        let handle = u64::from_ne_bytes(reply[128..136].try_into().unwrap());
        Ok((known(&reply), handle))
    }

    fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let asked = body()
            .u64(handle)
            .u64(offset)
            .u32(size)
            .u32(0)
            .u64(0)
            .u64(0);
        self.call_with(opcode::READ, 0, asked, Vec::new(), size as usize)
    }

    fn write_how(
        &mut self,
        handle: u64,
        offset: u64,
        data: &[u8],
        how: u32,
        flags: i32,
    ) -> Result<u32, i32> {
        let size = data.len() as u32;
        let asked = body().u64(handle).u64(offset).u32(size).u32(how);
        let asked = asked.u64(0).u32(flags as u32).u32(0);
        let reply = self.call_with(opcode::WRITE, 0, asked, data.to_vec(), 0)?;
        Ok(u32::from_ne_bytes(reply[..4].try_into().unwrap()))
    }

    fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        self.write_how(handle, offset, data, 0, 0)
    }

    fn release(&mut self, node: u64, handle: u64) {
        let asked = body().u64(handle).u32(0).u32(0).u64(0);
        self.call(opcode::RELEASE, node, asked).unwrap();
    }

    fn setattr(&mut self, node: u64, valid: u32, change: SetAttr) -> Result<Known, i32> {
        let asked = body()
            .u32(valid)
            .u32(0)
            .u64(change.handle)
            .u64(change.size)
            .u64(0);
        let asked = asked.u64(change.atime).u64(change.mtime).u64(0);
        let asked = asked.u32(0).u32(0).u32(0).u32(change.mode).u32(0);
        let asked = asked.u32(change.uid).u32(change.gid).u32(0);
        assert_eq!(asked.0.len(), 88, "struct fuse_setattr_in");
        self.call(opcode::SETATTR, node, asked)
            .map(|reply| attributes(&reply[16..]))
    }

    /// The names in a directory and their inodes, read in pieces of so many bytes.
    fn list(&mut self, node: u64, bytes: u32) -> BTreeMap<String, u64> {
        let reply = self.call(opcode::OPENDIR, node, body().u64(0)).unwrap();
        let handle = u64::from_ne_bytes(reply[..8].try_into().unwrap());
        let mut names = BTreeMap::new();
        let mut offset = 0;
        loop {
            let asked = body()
                .u64(handle)
                .u64(offset)
                .u32(bytes)
                .u32(0)
                .u64(0)
                .u64(0);
            let reply = self.call(opcode::READDIR, node, asked).unwrap();
            if reply.is_empty() {
                break;
            }
            let mut rest = &reply[..];
            while !rest.is_empty() {
                let long = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().unwrap());
                let length = u32::from_ne_bytes(rest[16..20].try_into().unwrap()) as usize;
                let name = String::from_utf8(rest[24..24 + length].to_vec()).unwrap();
                offset = long(8);
                assert_eq!(names.insert(name, long(0)), None, "each comes once");
                rest = &rest[(24 + length).next_multiple_of(8)..];
            }
        }
        let asked = body().u64(handle).u32(0).u32(0).u64(0);
        self.call(opcode::RELEASEDIR, node, asked).unwrap();
        names
    }
}

#[derive(Default)]
struct SetAttr {
    handle: u64,
    size: u64,
    atime: u64,
    mtime: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Whether this process may give files away and act as others.
fn is_root() -> bool {
    // SAFETY: geteuid takes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: only root may act as other users");
    }
    root
}
