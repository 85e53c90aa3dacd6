//! One entry of a layer archive after another.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::Times;
use crate::{Error, Result, xattr};

/// Bytes of a tar block.
const BLOCK: u64 = 512;

/// Bytes of a name that fits into a header.
const NAME: usize = 100;

/// The largest number in a header's seven and eleven octal digits.
const OWNER: u64 = 0o7_777_777;
const LARGE: u64 = 0o77_777_777_777;

/// Bytes read at once: large enough that system calls do not count.
const CHUNK: usize = 128 << 10;

/// What an entry has apart from its content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
}

impl Attributes {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            device: (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            ),
        }
    }
}

/// A layer archive being written.
pub(crate) struct LayerWriter<'w> {
    output: &'w mut dyn Write,
    times: Times,
    /// The first names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<'w> LayerWriter<'w> {
    pub(crate) fn new(output: &'w mut dyn Write, times: Times) -> Self {
        Self {
            output,
            times,
            links: HashMap::new(),
        }
    }

    /// Writes `name` in `parent`, a file of any kind, under `path`. What has vanished meanwhile and sockets, which an archive cannot
    /// hold, are passed over. False if it was.
    pub(crate) fn file(
        &mut self,
        path: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        attributes: &Attributes,
    ) -> Result<bool> {
        self.add(path, parent, name, stat, attributes)
            .map_err(|e| Error::pack(path, e))
    }

    fn add(
        &mut self,
        path: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        attributes: &Attributes,
    ) -> io::Result<bool> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let open = |flags| {
            let flags =
                flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                // Removed or replaced since it was looked at.
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
                opened => opened.map(Some),
            }
        };
        if kind == FileType::Directory {
            let Some(directory) = open(OFlags::DIRECTORY)? else {
                return Ok(false);
            };
            let xattrs = xattr::of(directory.as_fd());
            let path = [path, b"/"].concat();
            self.header(EntryType::Directory, &path, b"", 0, attributes, &xattrs)?;
            return Ok(true);
        }
        if stat.st_nlink > 1 {
            let file = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&file) {
                let first = first.clone();
                self.header(EntryType::Link, path, &first, 0, attributes, &[])?;
                return Ok(true);
            }
        }
        match kind {
            FileType::RegularFile => {
                let Some(file) = open(OFlags::empty())? else {
                    return Ok(false);
                };
                let now = rustix::fs::fstat(&file)?;
                if FileType::from_raw_mode(now.st_mode) != FileType::RegularFile {
                    return Ok(false);
                }
                let size = u64::try_from(now.st_size).unwrap_or(0);
                let xattrs = xattr::of(file.as_fd());
                self.header(EntryType::Regular, path, b"", size, attributes, &xattrs)?;
                self.content(&mut File::from(file), size)?;
            }
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(parent, name, Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(false),
                    read => read?,
                };
                let link = target.to_bytes();
                self.header(EntryType::Symlink, path, link, 0, attributes, &[])?;
            }
            FileType::CharacterDevice => {
                self.header(EntryType::Char, path, b"", 0, attributes, &[])?;
            }
            FileType::BlockDevice => {
                self.header(EntryType::Block, path, b"", 0, attributes, &[])?;
            }
            FileType::Fifo => self.header(EntryType::Fifo, path, b"", 0, attributes, &[])?,
            _ => return Ok(false),
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        Ok(true)
    }

    /// Writes a directory or an empty file that is nowhere on this machine.
    pub(crate) fn empty(
        &mut self,
        path: &[u8],
        is_directory: bool,
        attributes: &Attributes,
    ) -> Result<()> {
        let written = if is_directory {
            let path = [path, b"/"].concat();
            self.header(EntryType::Directory, &path, b"", 0, attributes, &[])
        } else {
            self.header(EntryType::Regular, path, b"", 0, attributes, &[])
        };
        written.map_err(|e| Error::pack(path, e))
    }

    /// Writes that lower layers' `path` is deleted. Its time is always the same.
    pub(crate) fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let (directory, name) = match path.iter().rposition(|c| *c == b'/') {
            Some(slash) => path.split_at(slash + 1),
            None => (&b""[..], path),
        };
        let marker = [directory, b".wh.", name].concat();
        self.empty(&marker, false, &Attributes::default())
    }

    /// Writes that lower layers' content of the directory `path` is deleted.
    pub(crate) fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let marker = [path, b"/.wh..wh..opq"].concat();
        self.empty(&marker, false, &Attributes::default())
    }

    /// Writes the end marker.
    pub(crate) fn finish(self) -> Result<()> {
        self.output
            .write_all(&[0; 2 * BLOCK as usize])
            .and_then(|()| self.output.flush())
            .map_err(|e| Error::pack(b"the end of the archive", e))
    }

    fn header(
        &mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        size: u64,
        attributes: &Attributes,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<()> {
        let mtime = self.times.of(attributes.mtime);
        let mut records: Vec<u8> = Vec::new();
        let mut note = |key: &[u8], value: &[u8]| records.extend(record(key, value));
        if path.len() > NAME {
            note(b"path", path);
        }
        if link.len() > NAME {
            note(b"linkpath", link);
        }
        // The largest number stands in the header of what has its own place.
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                note(key.as_bytes(), value.to_string().as_bytes());
            }
            value.min(most)
        };
        let uid = number("uid", attributes.uid.into(), OWNER);
        let gid = number("gid", attributes.gid.into(), OWNER);
        let stored = number("size", size, LARGE);
        let in_header = match u64::try_from(mtime) {
            Ok(time) if time <= LARGE => time,
            _ => {
                note(b"mtime", mtime.to_string().as_bytes());
                0
            }
        };
        let mut sorted: Vec<_> = xattrs.iter().collect();
        sorted.sort_unstable();
        for (name, value) in sorted {
            note(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o644);
            header.set_size(records.len() as u64);
            put(&mut header.as_old_mut().name, b"PaxHeaders/entry");
            header.set_cksum();
            self.output.write_all(header.as_bytes())?;
            self.output.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(attributes.mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(stored);
        header.set_mtime(in_header);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(attributes.device.0)?;
            header.set_device_minor(attributes.device.1)?;
        }
        put(&mut header.as_old_mut().name, path);
        put(&mut header.as_old_mut().linkname, link);
        header.set_cksum();
        self.output.write_all(header.as_bytes())
    }

    /// Writes `size` bytes, whatever the file has by now: one that has become shorter ends in zeros, so that what comes after it
    /// stays where the headers say.
    fn content(&mut self, file: &mut File, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK).max(1))];
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            match file.read(&mut buffer[..want]) {
                Ok(0) => break,
                Ok(read) => {
                    self.output.write_all(&buffer[..read])?;
                    left -= read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        io::copy(&mut io::repeat(0).take(left), self.output)?;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(rest), self.output).map(drop)
    }
}

/// Copies as much of a name as the field takes.
fn put(field: &mut [u8; NAME], name: &[u8]) {
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
}

/// A PAX record, whose length counts its own digits: `LENGTH KEY=VALUE\n`.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while rest.len() + length.to_string().len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}
