//! One request of the block device: header, data, status (section 5.2.6).

use std::io;

use vm_memory::ByteValued;

use super::disk::Disk;
use super::{MAX_RANGE_SECTORS, MAX_RANGES, SECTOR};
use crate::devices::virtio::queue::{Chain, io_vectors};
use crate::memory::Memory;

const HEADER_BYTES: u64 = 16;

mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// The length of a disk's name (VIRTIO_BLK_ID_BYTES).
const ID_BYTES: usize = 20;

/// Why a request fails: the answer that the driver gets.
enum Failure {
    Io,
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Self::Unsupported,
            _ => Self::Io,
        }
    }
}

/// A range in a discard or a write of zeroes.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

// SAFETY: three integers without padding; every pattern of bytes is a value.
unsafe impl ByteValued for Range {}

/// Serves one request and says how many bytes it has written to the guest's memory.
pub(super) fn serve(
    disk: &Disk,
    memory: &Memory,
    chain: &Chain,
    vectors: &mut Vec<libc::iovec>,
) -> u32 {
    let mut header = [0; HEADER_BYTES as usize];
    let room = chain.writable_bytes();
    if room == 0 || !chain.read(memory, 0, &mut header) {
        return 0;
    }
    // The status is the last byte that the device may write; what lies before it is for data.
    let room = room - 1;
    let (status, written) = match answer(disk, memory, chain, room, header, vectors) {
        Ok(written) => (OK, written),
        Err(Failure::Io) => (IO_ERROR, 0),
        Err(Failure::Unsupported) => (UNSUPPORTED, 0),
    };
    match chain.write(memory, room, &[status]) {
        // More than 4 GiB cannot be in one chain: the queue ends it there.
        true => u32::try_from(written + 1).unwrap_or(u32::MAX),
        false => 0,
    }
}

fn answer(
    disk: &Disk,
    memory: &Memory,
    chain: &Chain,
    room: u64,
    header: [u8; HEADER_BYTES as usize],
    vectors: &mut Vec<libc::iovec>,
) -> Result<u64, Failure> {
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes([a, b, c, d]) {
        kind::IN => {
            let offset = bounds(disk, sector, room)?;
            io_vectors(memory, &chain.writable, 0, room, vectors)?;
            disk.read(offset, room, vectors)?;
            Ok(room)
        }
        kind::OUT => {
            let bytes = chain.readable_bytes() - HEADER_BYTES;
            let offset = bounds(disk, sector, bytes)?;
            io_vectors(memory, &chain.readable, HEADER_BYTES, bytes, vectors)?;
            disk.write(offset, bytes, vectors)?;
            Ok(0)
        }
        kind::FLUSH => disk.flush().map(|()| 0).map_err(Failure::from),
        kind::GET_ID => {
            let mut id = [0; ID_BYTES];
            let name = disk.name().as_bytes();
            id[..name.len()].copy_from_slice(name);
            let bytes = room.min(ID_BYTES as u64);
            match chain.write(memory, 0, &id[..bytes as usize]) {
                true => Ok(bytes),
                false => Err(Failure::Io),
            }
        }
        kind::DISCARD | kind::WRITE_ZEROES if disk.is_writable() => clear(disk, memory, chain),
        _ => Err(Failure::Unsupported),
    }
}

/// The offset in bytes of a transfer that lies on the disk as a whole.
fn bounds(disk: &Disk, sector: u64, bytes: u64) -> Result<u64, Failure> {
    let offset = sector.checked_mul(SECTOR).ok_or(Failure::Io)?;
    let end = offset.checked_add(bytes).ok_or(Failure::Io)?;
    if bytes.is_multiple_of(SECTOR) && end <= disk.bytes() {
        Ok(offset)
    } else {
        Err(Failure::Io)
    }
}

/// Discarding and zeroing are the same here: a hole in the file reads as zeros.
fn clear(disk: &Disk, memory: &Memory, chain: &Chain) -> Result<u64, Failure> {
    const RANGE: u64 = size_of::<Range>() as u64;
    let bytes = chain.readable_bytes() - HEADER_BYTES;
    if !bytes.is_multiple_of(RANGE) || bytes > RANGE * u64::from(MAX_RANGES) {
        return Err(Failure::Io);
    }
    for number in 0..bytes / RANGE {
        let mut range = Range::default();
        if !chain.read(memory, HEADER_BYTES + number * RANGE, range.as_mut_slice()) {
            return Err(Failure::Io);
        }
        // The only flag there is (1: the space may be given back) allows what is done in any case.
        if range.sectors > MAX_RANGE_SECTORS || range.flags & !1 != 0 {
            return Err(Failure::Unsupported);
        }
        let bytes = u64::from(range.sectors) * SECTOR;
        let offset = bounds(disk, range.sector, bytes)?;
        disk.punch(offset, bytes)?;
    }
    Ok(0)
}
