//! What a disk is on the host: files one after another to read, or one file to read and write.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use super::SECTOR;
use crate::{Error, Result};

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    extents: Vec<Extent>,
    bytes: u64,
    writable: bool,
}

/// One file, and where on the disk it lies.
#[derive(Debug)]
struct Extent {
    file: File,
    start: u64,
    bytes: u64,
}

impl Disk {
    /// A read-only disk of these files, one after another.
    pub(crate) fn image(paths: &[PathBuf]) -> Result<Self> {
        let mut disk = Self {
            extents: Vec::with_capacity(paths.len()),
            bytes: 0,
            writable: false,
        };
        for path in paths {
            disk.add(path, OpenOptions::new().read(true))?;
        }
        Ok(disk)
    }

    /// A disk that is this file.
    pub(crate) fn writable(path: &Path) -> Result<Self> {
        let mut disk = Self {
            extents: Vec::with_capacity(1),
            bytes: 0,
            writable: true,
        };
        disk.add(path, OpenOptions::new().read(true).write(true))?;
        Ok(disk)
    }

    fn add(&mut self, path: &Path, how: &OpenOptions) -> Result<()> {
        let failed = |what| {
            move |source| Error::File {
                path: path.to_owned(),
                what,
                source,
            }
        };
        let refuse = |why: &str| Error::Disk {
            path: path.to_owned(),
            why: why.to_owned(),
        };
        let file = how.open(path).map_err(failed("cannot open the disk"))?;
        let about = file.metadata().map_err(failed("cannot read the disk"))?;
        if !about.is_file() {
            return Err(refuse("is no regular file, so it is no disk"));
        }
        match about.len() {
            0 => return Err(refuse("is empty, so it is no disk")),
            bytes if !bytes.is_multiple_of(SECTOR) => {
                return Err(refuse("is no disk: its length is no multiple of 512 bytes"));
            }
            bytes => {
                self.extents.push(Extent {
                    file,
                    start: self.bytes,
                    bytes,
                });
                self.bytes += bytes;
            }
        }
        Ok(())
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it may be written.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// What it calls itself; at most 20 bytes.
    pub(crate) fn name(&self) -> &'static str {
        if self.writable {
            "plimsoll-rw"
        } else {
            "plimsoll-ro"
        }
    }

    /// The descriptors of its files.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.extents.iter().map(|extent| extent.file.as_raw_fd())
    }

    /// Reads `bytes` bytes from `offset` on into these pieces of memory, which have room for just as many.
    pub(crate) fn read(
        &self,
        offset: u64,
        bytes: u64,
        vectors: &mut Vec<libc::iovec>,
    ) -> io::Result<()> {
        self.transfer(offset, bytes, vectors, |file, vectors, at| {
            // SAFETY: the vectors were made from guest memory that stays mapped; the kernel checks every address.
            unsafe { libc::preadv(file, vectors.as_ptr(), vectors.len() as i32, at) }
        })
    }

    /// Writes these pieces of memory, `bytes` bytes in all, from `offset` on.
    pub(crate) fn write(
        &self,
        offset: u64,
        bytes: u64,
        vectors: &mut Vec<libc::iovec>,
    ) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.transfer(offset, bytes, vectors, |file, vectors, at| {
            // SAFETY: as for reading.
            unsafe { libc::pwritev(file, vectors.as_ptr(), vectors.len() as i32, at) }
        })
    }

    /// Goes from file to file, and on where the kernel has stopped short.
    fn transfer(
        &self,
        mut offset: u64,
        mut bytes: u64,
        vectors: &mut Vec<libc::iovec>,
        call: impl Fn(RawFd, &[libc::iovec], libc::off_t) -> isize,
    ) -> io::Result<()> {
        let mut index = self
            .extents
            .partition_point(|extent| extent.start + extent.bytes <= offset);
        while bytes > 0 {
            let extent = self
                .extents
                .get(index)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let within = offset - extent.start;
            let here = bytes.min(extent.bytes - within);
            let mut piece = take(vectors, here);
            let mut done = 0;
            while done < here {
                match call(
                    extent.file.as_raw_fd(),
                    &piece,
                    (within + done) as libc::off_t,
                ) {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    moved if moved > 0 => {
                        take(&mut piece, moved as u64);
                        done += moved as u64;
                    }
                    _ => match io::Error::last_os_error() {
                        error if error.kind() == io::ErrorKind::Interrupted => {}
                        error => return Err(error),
                    },
                }
            }
            offset += here;
            bytes -= here;
            index += 1;
        }
        Ok(())
    }

    /// Makes everything that was written durable.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.extents
            .iter()
            .try_for_each(|extent| extent.file.sync_data())
    }

    /// Makes a hole, which reads as zeros.
    pub(crate) fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let [extent] = self.extents.as_slice() else {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        };
        if bytes == 0 {
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: fallocate takes integers only; the descriptor is this disk's own.
        match unsafe {
            libc::fallocate(
                extent.file.as_raw_fd(),
                mode,
                offset as libc::off_t,
                bytes as libc::off_t,
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Takes the first `bytes` bytes off these pieces and gives them as pieces of their own.
fn take(vectors: &mut Vec<libc::iovec>, bytes: u64) -> Vec<libc::iovec> {
    let all: u64 = vectors.iter().map(|vector| vector.iov_len as u64).sum();
    if all <= bytes {
        return std::mem::take(vectors);
    }
    let mut left = bytes as usize;
    let mut taken = Vec::new();
    let mut whole = 0;
    for vector in vectors.iter_mut() {
        if left == 0 {
            break;
        }
        if vector.iov_len <= left {
            left -= vector.iov_len;
            taken.push(*vector);
            whole += 1;
        } else {
            taken.push(libc::iovec {
                iov_base: vector.iov_base,
                iov_len: left,
            });
            vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(left).cast();
            vector.iov_len -= left;
            left = 0;
        }
    }
    vectors.drain(..whole);
    taken
}
