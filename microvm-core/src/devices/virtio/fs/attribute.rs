//! What is known of files: attributes, and extended attributes.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use super::host;
use super::node::Found;
use super::server::Server;
use super::wire::{Answer, Errno, Fields, GETATTR_HANDLE, Header, Put, ROOT, opcode, setattr};

/// The longest value and the longest list of names that Linux has: XATTR_SIZE_MAX and XATTR_LIST_MAX in linux/limits.h.
const EXTENDED_MAX: usize = 64 << 10;

/// What overlayfs asks each directory of a lower layer for, and what it is answered from where nothing can be written: layers of images,
/// whose opaque directories bear both. The first can be read with privileges only, which this process has none of.
const OPAQUE: &CStr = c"trusted.overlay.opaque";
const OPAQUE_FOR_ALL: &CStr = c"user.plimsoll.trusted.overlay.opaque";

impl Server {
    pub(super) fn get_attributes(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let how = fields.u32()?;
        fields.skip(4)?;
        let handle = fields.u64()?;
        // An open file is known even when the node cannot be found any more.
        let attributes = match self.handles.get(&handle) {
            Some(handle) if how & GETATTR_HANDLE != 0 => {
                let (file, attributes) = host::stat(handle.file.as_fd())?;
                self.nodes.shown(&file, attributes)
            }
            _ => self.nodes.attributes(header.node)?,
        };
        attributes.reply(out);
        Ok(())
    }

    pub(super) fn set_attributes(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let valid = fields.u32()?;
        fields.skip(4)?;
        let (handle, size) = (fields.u64()?, fields.u64()?);
        fields.skip(8)?;
        let (atime, mtime) = (fields.u64()?, fields.u64()?);
        fields.skip(8)?;
        let (atime_nanos, mtime_nanos) = (fields.u32()?, fields.u32()?);
        fields.skip(4)?;
        let mode = fields.u32()?;
        fields.skip(4)?;
        let (uid, gid) = (fields.u32()?, fields.u32()?);

        let found = self.nodes.get(header.node)?.writable()?;
        let place = found.place.as_fd();
        let wants = |bits| valid & bits != 0;
        if wants(setattr::MODE) {
            if found.kind == libc::S_IFLNK {
                return Err(Errno(libc::EOPNOTSUPP));
            }
            self.descriptors.change_mode(place, mode & 0o7777)?;
        }
        if wants(setattr::UID | setattr::GID) {
            let chosen = |bit, id| if wants(bit) { id } else { u32::MAX };
            host::change_owner(place, chosen(setattr::UID, uid), chosen(setattr::GID, gid))?;
        }
        if wants(setattr::SIZE) {
            let handle = wants(setattr::HANDLE).then_some(handle);
            self.resize(&found, handle, size, wants(setattr::KILL_SUIDGID))?;
        }
        if wants(setattr::ATIME | setattr::MTIME) {
            let time = |bit, now, seconds: u64, nanos: u32| libc::timespec {
                tv_sec: seconds as i64,
                tv_nsec: match (wants(bit), wants(now)) {
                    (false, _) => libc::UTIME_OMIT,
                    (true, true) => libc::UTIME_NOW,
                    // Beyond a second it would be one of the two numbers above.
                    (true, false) => i64::from(nanos.min(999_999_999)),
                },
            };
            let times = [
                time(setattr::ATIME, setattr::ATIME_NOW, atime, atime_nanos),
                time(setattr::MTIME, setattr::MTIME_NOW, mtime, mtime_nanos),
            ];
            self.descriptors.change_times(place, &times)?;
        }
        let (file, attributes) = host::stat(place)?;
        self.nodes.shown(&file, attributes).reply(out);
        Ok(())
    }

    fn resize(&self, found: &Found, handle: Option<u64>, size: u64, kills: bool) -> Answer<()> {
        let opened;
        let file: BorrowedFd<'_> = match handle {
            Some(handle) => self.file(handle)?.as_fd(),
            None if found.is_file() => {
                let flags = libc::O_WRONLY | libc::O_NONBLOCK;
                opened = self.descriptors.reopen(found.place.as_fd(), flags)?;
                opened.as_fd()
            }
            None if found.is_directory() => return Err(Errno(libc::EISDIR)),
            None => return Err(Errno(libc::EINVAL)),
        };
        let unprivileged = match kills {
            true => Some(self.identity.act_unprivileged()?),
            false => None,
        };
        host::truncate(file, size)?;
        drop(unprivileged);
        Ok(())
    }

    /// Opens a file or directory for its extended attributes. Nothing else has any that a guest may see.
    fn extended(&self, found: &Found) -> Answer<File> {
        match (found.is_directory(), found.is_file()) {
            (true, _) => host::open_directory(found.place.as_fd()),
            (_, true) => {
                let flags = libc::O_RDONLY | libc::O_NONBLOCK;
                let opened = self.descriptors.reopen(found.place.as_fd(), flags)?;
                Ok(File::from(opened))
            }
            _ => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    /// The attribute of the host's that stands for one that is asked for.
    fn readable<'n>(&self, node: u64, name: &'n CStr) -> Answer<&'n CStr> {
        if name == OPAQUE && node != ROOT && self.nodes.get(node)?.read_only {
            return Ok(OPAQUE_FOR_ALL);
        }
        visible(name)
    }

    /// FUSE_GETXATTR and FUSE_LISTXATTR.
    pub(super) fn read_extended(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let size = fields.u32()? as usize;
        fields.skip(4)?;
        let name = match header.opcode {
            opcode::GETXATTR => Some(self.readable(header.node, fields.text()?)?),
            _ => None,
        };
        let mut bytes = vec![0; EXTENDED_MAX];
        let length = match (header.node, name) {
            (ROOT, Some(_)) => return Err(Errno(libc::ENODATA)),
            (ROOT, None) => 0,
            (node, name) => {
                let file = match (self.extended(&self.nodes.get(node)?), name) {
                    // Nothing to list is no error.
                    (Err(Errno(libc::EOPNOTSUPP)), None) => None,
                    (file, _) => Some(file?),
                };
                match (file, name) {
                    (None, _) => 0,
                    (Some(file), Some(name)) => host::get_attribute(&file, name, &mut bytes)?,
                    (Some(file), None) => {
                        let length = host::list_attributes(&file, &mut bytes)?;
                        keep_visible(&mut bytes, length)
                    }
                }
            }
        };
        bytes.truncate(length);
        match size {
            0 => {
                out.put_u32(length as u32);
                out.put_u32(0);
            }
            size if length > size.min(room) => return Err(Errno(libc::ERANGE)),
            _ => out.append(&mut bytes),
        }
        Ok(())
    }

    pub(super) fn set_extended(&mut self, header: &Header, mut fields: Fields<'_>) -> Answer<()> {
        let (size, flags) = (fields.u32()? as usize, fields.u32()? as i32);
        let name = visible(fields.text()?)?;
        let value = fields.bytes(size)?;
        let found = self.nodes.get(header.node)?.writable()?;
        host::set_attribute(&self.extended(&found)?, name, value, flags)
    }

    pub(super) fn remove_extended(
        &mut self,
        header: &Header,
        mut fields: Fields<'_>,
    ) -> Answer<()> {
        let name = visible(fields.text()?)?;
        let found = self.nodes.get(header.node)?.writable()?;
        host::remove_attribute(&self.extended(&found)?, name)
    }
}

/// Refuses the names of attributes that are not the guest's business: labels of the host's security modules, marks that only
/// the host's administrator may set, lists of access control that the guest's kernel would not look at.
fn visible(name: &CStr) -> Answer<&CStr> {
    match is_visible(name.to_bytes()) {
        true => Ok(name),
        false => Err(Errno(libc::EOPNOTSUPP)),
    }
}

fn is_visible(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.plimsoll.")
        || name == b"security.capability"
}

/// Keeps of the first `length` bytes the names that the guest may see, and gives their length.
fn keep_visible(names: &mut Vec<u8>, length: usize) -> usize {
    names.truncate(length);
    let kept: Vec<u8> = names
        .split_inclusive(|byte| *byte == 0)
        .filter(|name| is_visible(name.strip_suffix(&[0]).unwrap_or(name)))
        .flatten()
        .copied()
        .collect();
    *names = kept;
    names.len()
}
