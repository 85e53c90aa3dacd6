//! What is done to open files and directories.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use super::host;
use super::lock::{Kind, Owner, Wanted};
use super::node::Found;
use super::server::{MAX_TRANSFER, Outcome, Server, Transfer};
use super::wire::{
    Answer, Errno, FSYNC_DATA, Fields, Header, OPEN_KILL_SUIDGID, Put, RELEASE_FLOCK_UNLOCK, ROOT,
    WRITE_CACHE, WRITE_KILL_SUIDGID, opcode, put_directory_entry,
};

/// What the guest may ask an open for besides the way of access. O_APPEND is told with each write, and O_DIRECT is between
/// the guest and its own cache.
const OPEN_FLAGS: i32 = libc::O_TRUNC | libc::O_SYNC | libc::O_DSYNC;

/// What one FUSE_COPY_FILE_RANGE copies at most, so that others have their turn; who asked for more asks again.
const MAX_COPY: u64 = 16 << 20;

/// What FUSE_FALLOCATE may be asked for.
const ALLOCATE_MODES: i32 =
    libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;

/// How much of a directory is read at once.
const DIRECTORY_BYTES: usize = 16 << 10;

impl Server {
    pub(super) fn open(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let flags = fields.u32()? as i32;
        let kills = fields.u32()? & OPEN_KILL_SUIDGID != 0;
        let found = self.nodes.get(header.node)?;
        self.check_room()?;
        let opened = self.open_found(&found, flags, kills)?;
        self.put_handle(opened, false, out);
        Ok(())
    }

    fn put_handle(&mut self, opened: OwnedFd, is_directory: bool, out: &mut Vec<u8>) {
        out.put_u64(self.keep(opened, is_directory));
        // No flags: pages are cached, so that files can be mapped, and dropped when the file is opened anew or has changed.
        out.put_u64(0);
    }

    /// Opens a regular file.
    fn open_found(&self, found: &Found, flags: i32, kills: bool) -> Answer<OwnedFd> {
        match found.kind {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno(libc::EISDIR)),
            libc::S_IFLNK => return Err(Errno(libc::ELOOP)),
            // The guest's kernel opens pipes, sockets and devices itself.
            _ => return Err(Errno(libc::ENXIO)),
        }
        let access = flags & libc::O_ACCMODE;
        let reads = access == libc::O_RDONLY && flags & libc::O_TRUNC == 0;
        if found.read_only && !reads {
            return Err(Errno(libc::EROFS));
        }
        // A lease that somebody has on the file is no reason to wait here.
        let flags = access | flags & OPEN_FLAGS | libc::O_NONBLOCK;
        if found.read_only {
            // Nothing about the file changes, as on a read-only mount. Only its owner and root may ask for this.
            match self.descriptors.reopen(found.place.as_fd(), flags | libc::O_NOATIME) {
                Err(Errno(libc::EPERM)) => {}
                other => return other,
            }
        }
        let unprivileged = match kills {
            true => Some(self.identity.act_unprivileged()?),
            false => None,
        };
        let opened = self.descriptors.reopen(found.place.as_fd(), flags);
        drop(unprivileged);
        opened
    }

    pub(super) fn create(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (flags, mode) = (fields.u32()? as i32, fields.u32()? & 0o7777);
        fields.skip(4)?;
        let kills = fields.u32()? & OPEN_KILL_SUIDGID != 0;
        let name = fields.name()?;
        let directory = self.nodes.directory(header.node)?.writable()?;
        self.check_room()?;
        let wanted = flags & (libc::O_ACCMODE | OPEN_FLAGS);
        let acting = self.identity.act_as(header.uid, header.gid)?;
        let made = host::create(directory.place.as_fd(), name, wanted, mode);
        drop(acting);
        let (opened, place) = match made {
            Ok(opened) => {
                let place = self.descriptors.place(opened.as_fd())?;
                (opened, place)
            }
            Err(Errno(libc::EEXIST)) if flags & libc::O_EXCL == 0 => {
                // Somebody else has made it since the guest looked.
                let place = host::lookup(directory.place.as_fd(), name)?;
                let kind = host::stat(place.as_fd())?.1.mode & libc::S_IFMT;
                if kind != libc::S_IFREG {
                    // The guest looks again and finds what it is.
                    return Err(Errno(libc::ESTALE));
                }
                let place = std::sync::Arc::new(place);
                let found = Found {
                    place: std::sync::Arc::clone(&place),
                    kind,
                    ..directory
                };
                let opened = self.open_found(&found, flags, kills)?;
                drop(found);
                let place = std::sync::Arc::into_inner(place).ok_or(Errno(libc::EIO))?;
                (opened, place)
            }
            Err(errno) => return Err(errno),
        };
        let (node, attributes) = self.nodes.tell(directory.share, place)?;
        attributes.entry(node, out);
        self.put_handle(opened, false, out);
        Ok(())
    }

    pub(super) fn create_nameless(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (flags, mode) = (fields.u32()? as i32, fields.u32()? & 0o7777);
        let directory = self.nodes.directory(header.node)?.writable()?;
        self.check_room()?;
        let acting = self.identity.act_as(header.uid, header.gid)?;
        // Without O_EXCL, which here means that it may be given a name later.
        let wanted = flags & (libc::O_ACCMODE | libc::O_SYNC | libc::O_DSYNC | libc::O_EXCL);
        let opened = host::create_nameless(directory.place.as_fd(), wanted, mode)?;
        drop(acting);
        let place = self.descriptors.place(opened.as_fd())?;
        let (node, attributes) = self.nodes.tell(directory.share, place)?;
        attributes.entry(node, out);
        self.put_handle(opened, false, out);
        Ok(())
    }

    pub(super) fn open_directory(&mut self, header: &Header, out: &mut Vec<u8>) -> Answer<()> {
        if header.node == ROOT {
            // What is in there is told without a descriptor.
            out.put_u64(0);
            out.put_u64(0);
            return Ok(());
        }
        let found = self.nodes.directory(header.node)?;
        self.check_room()?;
        let opened = host::open_directory(found.place.as_fd())?;
        self.put_handle(opened.into(), true, out);
        Ok(())
    }

    pub(super) fn read_directory(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (number, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let room = room.min(size as usize).min(MAX_TRANSFER as usize);
        if header.node == ROOT {
            let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
            let entries = self.nodes.root_entries().zip(1..).skip(skipped);
            for ((node, name, kind), next) in entries {
                // The type of an entry is the file's kind without the permissions.
                let kind = (kind >> 12) as u8;
                if !put_directory_entry(out, room, node, next, kind, name.as_bytes()) {
                    break;
                }
            }
            return Ok(());
        }
        let handle = self.handles.get(&number).ok_or(Errno(libc::EBADF))?;
        if !handle.is_directory {
            return Err(Errno(libc::ENOTDIR));
        }
        let device = host::stat(handle.file.as_fd())?.0.device;
        host::seek(&handle.file, offset, libc::SEEK_SET)?;
        let mut raw = vec![0; DIRECTORY_BYTES];
        loop {
            let length = host::directory_entries(&handle.file, &mut raw)?;
            let mut rest = raw.get(..length).ok_or(Errno(libc::EIO))?;
            if rest.is_empty() {
                return Ok(());
            }
            while let Some((entry, after)) = Entry::parse(rest) {
                let inode = self.nodes.inode_number(device, entry.inode);
                if !put_directory_entry(out, room, inode, entry.next, entry.kind, entry.name) {
                    return match out.is_empty() {
                        // Nothing would come back ever, which would look like the end.
                        true => Err(Errno(libc::EINVAL)),
                        false => Ok(()),
                    };
                }
                rest = after;
            }
        }
    }

    pub(super) fn read(
        &mut self,
        mut fields: Fields<'_>,
        transfer: &mut dyn Transfer,
    ) -> Answer<u32> {
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let room = u32::try_from(transfer.room()).unwrap_or(u32::MAX);
        let file = self.file(handle)?;
        host::read(file, offset, transfer.target(size.min(room))?)
    }

    pub(super) fn write(
        &mut self,
        mut fields: Fields<'_>,
        transfer: &mut dyn Transfer,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (handle, offset) = (fields.u64()?, fields.u64()?);
        let (size, how) = (fields.u32()?, fields.u32()?);
        fields.skip(8)?;
        let flags = fields.u32()? as i32;
        if size > MAX_TRANSFER {
            return Err(Errno(libc::EINVAL));
        }
        let file = self.file(handle)?;
        // The end is where it is on the host: others may append too. What comes from the cache has its place already.
        let append = flags & libc::O_APPEND != 0 && how & WRITE_CACHE == 0;
        let unprivileged = match how & WRITE_KILL_SUIDGID {
            0 => None,
            _ => Some(self.identity.act_unprivileged()?),
        };
        let written = host::write(file, offset, append, transfer.source(size)?)?;
        drop(unprivileged);
        out.put_u32(written);
        out.put_u32(0);
        Ok(())
    }

    pub(super) fn flush(&mut self, header: &Header, mut fields: Fields<'_>) -> Answer<()> {
        self.file(fields.u64()?)?;
        fields.skip(8)?;
        // Whoever closes a file gives up their POSIX locks on it.
        self.locks.release(&Owner {
            node: header.node,
            kind: Kind::Posix,
            number: fields.u64()?,
        });
        Ok(())
    }

    pub(super) fn release(&mut self, header: &Header, mut fields: Fields<'_>) -> Answer<()> {
        let handle = fields.u64()?;
        fields.skip(4)?;
        let flags = fields.u32()?;
        self.file(handle)?;
        self.handles.remove(&handle);
        if flags & RELEASE_FLOCK_UNLOCK != 0 {
            self.locks.release(&Owner {
                node: header.node,
                kind: Kind::Flock,
                number: fields.u64()?,
            });
        }
        Ok(())
    }

    pub(super) fn release_directory(&mut self, mut fields: Fields<'_>) -> Answer<()> {
        let number = fields.u64()?;
        if self.handles.get(&number).is_some_and(|handle| handle.is_directory) {
            self.handles.remove(&number);
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, header: &Header, mut fields: Fields<'_>) -> Answer<()> {
        let (number, flags) = (fields.u64()?, fields.u32()?);
        if header.node == ROOT {
            return Ok(());
        }
        let handle = self.handles.get(&number).ok_or(Errno(libc::EBADF))?;
        if handle.is_directory != (header.opcode == opcode::FSYNCDIR) {
            return Err(Errno(libc::EBADF));
        }
        match flags & FSYNC_DATA {
            0 => handle.file.sync_all()?,
            _ => handle.file.sync_data()?,
        }
        Ok(())
    }

    /// Makes durable what the guest has written: sync(2) in there.
    pub(super) fn sync_file_systems(&mut self) -> Answer<()> {
        for node in self.nodes.writable_shares().collect::<Vec<_>>() {
            let found = self.nodes.get(node)?;
            let opened = match found.is_directory() {
                true => host::open_directory(found.place.as_fd())?.into(),
                false => self.descriptors.reopen(
                    found.place.as_fd(),
                    libc::O_RDONLY | libc::O_NONBLOCK,
                )?,
            };
            host::sync_file_system(opened.as_fd())?;
        }
        Ok(())
    }

    pub(super) fn allocate(&mut self, mut fields: Fields<'_>) -> Answer<()> {
        let (handle, offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let mode = fields.u32()? as i32;
        if mode & !ALLOCATE_MODES != 0 {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let file = self.file(handle)?;
        let unprivileged = self.identity.act_unprivileged()?;
        host::allocate(file, mode, offset, length)?;
        drop(unprivileged);
        Ok(())
    }

    pub(super) fn seek(&mut self, mut fields: Fields<'_>, out: &mut Vec<u8>) -> Answer<()> {
        let (handle, offset) = (fields.u64()?, fields.u64()?);
        let whence = fields.u32()? as i32;
        if whence != libc::SEEK_DATA && whence != libc::SEEK_HOLE {
            return Err(Errno(libc::EINVAL));
        }
        out.put_u64(host::seek(self.file(handle)?, offset, whence)?);
        Ok(())
    }

    pub(super) fn copy(&mut self, mut fields: Fields<'_>, out: &mut Vec<u8>) -> Answer<()> {
        let (from, start) = (fields.u64()?, fields.u64()?);
        fields.skip(8)?; // the target's node
        let (to, end) = (fields.u64()?, fields.u64()?);
        let length = fields.u64()?.min(MAX_COPY) as usize;
        let (from, to) = (self.file(from)?, self.file(to)?);
        let unprivileged = self.identity.act_unprivileged()?;
        let copied = host::copy((from, start), (to, end), length)?;
        drop(unprivileged);
        out.put_u32(copied);
        out.put_u32(0);
        Ok(())
    }

    pub(super) fn set_lock(&mut self, header: &Header, fields: Fields<'_>) -> Answer<()> {
        let wanted = Wanted::parse(header.node, fields)?;
        self.lock_with(&wanted)
    }

    pub(super) fn wait_for_lock(&mut self, header: &Header, fields: Fields<'_>) -> Answer<Outcome> {
        let wanted = Wanted::parse(header.node, fields)?;
        match self.lock_with(&wanted) {
            Ok(()) => Ok(Outcome::Reply),
            Err(Errno(libc::EAGAIN)) => Ok(Outcome::Later(wanted)),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn ask_lock(
        &mut self,
        header: &Header,
        fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let wanted = Wanted::parse(header.node, fields)?;
        self.prepare_lock(&wanted)?;
        self.locks.ask(&wanted, out)
    }

    /// Tries to lock, without waiting: EAGAIN when somebody else's lock is in the way.
    pub(super) fn lock_with(&mut self, wanted: &Wanted) -> Answer<()> {
        if !wanted.unlocks() {
            self.prepare_lock(wanted)?;
        }
        self.locks.set(wanted)
    }

    /// Sees to it that the owner has a file to lock with.
    fn prepare_lock(&mut self, wanted: &Wanted) -> Answer<()> {
        if self.locks.has(&wanted.owner) {
            return Ok(());
        }
        self.check_room()?;
        let found = self.nodes.get(wanted.owner.node)?;
        let place = found.place.as_fd();
        let flags = libc::O_NONBLOCK;
        let opened = match found.kind {
            libc::S_IFDIR => host::open_directory(place)?.into(),
            libc::S_IFREG if found.read_only => self.descriptors.reopen(place, flags)?,
            // A program that runs cannot be opened for writing; reading is enough for all locks but one kind.
            libc::S_IFREG => match self.descriptors.reopen(place, flags | libc::O_RDWR) {
                Err(Errno(libc::ETXTBSY | libc::EACCES | libc::EROFS | libc::EPERM)) => {
                    self.descriptors.reopen(place, flags)?
                }
                other => other?,
            },
            _ => return Err(Errno(libc::EBADF)),
        };
        self.locks.add(wanted.owner, File::from(opened));
        Ok(())
    }
}

/// An entry as getdents64(2) writes it.
struct Entry<'a> {
    inode: u64,
    next: u64,
    kind: u8,
    name: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Takes the first entry off.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        // linux_dirent64: inode, offset of the next, length, type, then the name with its zero.
        let (inode, rest) = bytes.split_first_chunk()?;
        let (next, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let kind = *rest.first()?;
        let name = bytes.get(19..length)?.split(|byte| *byte == 0).next()?;
        let entry = Self {
            inode: u64::from_ne_bytes(*inode),
            next: u64::from_ne_bytes(*next),
            kind,
            name,
        };
        Some((entry, bytes.get(length..)?))
    }
}
