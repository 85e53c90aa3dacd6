//! The guest's physical memory: where it lies, and how files get into it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::{Error, Result};

/// The guest's memory as the devices see it.
pub(crate) type Memory = GuestMemoryMmap<()>;

/// Where memory below 4 GiB ends at the latest, and devices begin. What does not fit below goes on at [`GAP_END`].
pub(crate) const GAP_START: u64 = 0xc000_0000;

/// Where memory goes on above the devices.
pub(crate) const GAP_END: u64 = 1 << 32;

const PAGE: u64 = 4096;

/// The ranges of guest memory of this size, in bytes, lowest first.
pub(crate) fn ranges(bytes: u64) -> Vec<(GuestAddress, usize)> {
    let below = bytes.min(GAP_START);
    let mut ranges = vec![(GuestAddress(0), below as usize)];
    if bytes > below {
        ranges.push((GuestAddress(GAP_END), (bytes - below) as usize));
    }
    ranges
}

/// Guest memory of this size: anonymous, private, and not there until it is touched.
pub(crate) fn allocate(mib: u32) -> Result<Memory> {
    let memory =
        Memory::from_ranges(&ranges(u64::from(mib) << 20)).map_err(|error| Error::System {
            what: "map the guest's memory",
            source: io::Error::other(error.to_string()),
        })?;
    for region in memory.iter() {
        if let Ok(start) = memory.get_host_address(region.start_addr()) {
            // A core dump of the monitor is of no use with the guest's memory in it, and must not leak it.
            // SAFETY: the range is one whole mapping that `memory` owns; the advice changes no contents.
            unsafe { libc::madvise(start.cast(), region.len() as usize, libc::MADV_DONTDUMP) };
        }
    }
    Ok(memory)
}

/// Puts `bytes` bytes of a file, from `offset`, at the guest's physical address `at`.
///
/// Whole pages are mapped copy-on-write: nothing is read before the guest touches it, and guests share what none of
/// them writes. What is not a whole page, or does not lie at the same place within its page in file and memory, is
/// read. The file must not be changed or cut while the machine runs; kernels and initial RAM disks are kept by digest.
pub(crate) fn place(
    memory: &Memory,
    file: &File,
    offset: u64,
    bytes: u64,
    at: u64,
) -> io::Result<()> {
    let end = at.checked_add(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let (first, last) = (at.next_multiple_of(PAGE), end / PAGE * PAGE);
    if at % PAGE != offset % PAGE || first >= last {
        return read_at(memory, file, offset, bytes, at);
    }
    read_at(memory, file, offset, first - at, at)?;
    map(memory, file, offset + (first - at), last - first, first)?;
    read_at(memory, file, offset + (last - at), end - last, last)
}

fn map(memory: &Memory, file: &File, offset: u64, bytes: u64, at: u64) -> io::Result<()> {
    // One slice proves that the whole range lies inside one region.
    let slice = memory
        .get_slice(GuestAddress(at), bytes as usize)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let host = slice.ptr_guard_mut().as_ptr();
    // SAFETY: the range is page-aligned and inside one anonymous mapping that `memory` owns and unmaps as a whole, so
    // replacing pages of it takes nothing from anyone else; no reference into guest memory is ever held.
    let mapped = unsafe {
        libc::mmap(
            host.cast(),
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset as libc::off_t,
        )
    };
    if mapped == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn read_at(memory: &Memory, file: &File, offset: u64, bytes: u64, at: u64) -> io::Result<()> {
    if bytes == 0 {
        // Nothing is at the very end of memory either.
        return Ok(());
    }
    let slice = memory
        .get_slice(GuestAddress(at), bytes as usize)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let guard = slice.ptr_guard_mut();
    let mut done = 0;
    while done < bytes {
        // SAFETY: the slice is `bytes` long and stays mapped while `guard` lives; the kernel writes at most what is
        // left of it.
        let read = unsafe {
            libc::pread(
                file.as_raw_fd(),
                guard.as_ptr().add(done as usize).cast(),
                (bytes - done) as usize,
                (offset + done) as libc::off_t,
            )
        };
        match read {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if read > 0 => done += read as u64,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn memory_leaves_a_hole_below_four_gibibytes() {
        assert_eq!(ranges(64 << 20), [(GuestAddress(0), 64 << 20)]);
        assert_eq!(ranges(GAP_START), [(GuestAddress(0), GAP_START as usize)]);
        assert_eq!(
            ranges(GAP_START + 4096),
            [
                (GuestAddress(0), GAP_START as usize),
                (GuestAddress(GAP_END), 4096)
            ]
        );
    }

    #[test]
    fn gigabytes_cost_nothing_until_they_are_touched() {
        let memory = allocate(64 * 1024).unwrap();
        let top = GAP_END + (64 << 30) - GAP_START - 8;
        memory.write_obj(7u64, GuestAddress(top)).unwrap();
        assert!(memory.write_obj(7u64, GuestAddress(top + 1)).is_err());
        assert!(memory.write_obj(7u64, GuestAddress(GAP_START)).is_err());
    }

    #[test]
    fn a_file_lands_whole_wherever_it_starts() {
        let mut file = tempfile::tempfile().unwrap();
        let contents: Vec<u8> = (0..5 * PAGE + 100).map(|at| (at % 251) as u8).collect();
        file.write_all(&contents).unwrap();
        for (offset, bytes, at) in [
            (0, contents.len() as u64, 0x10_0000),
            (100, 3 * PAGE, 0x10_0064),
            (7, 3 * PAGE, 0x10_0000),
            (3, 9, 0x10_0003),
        ] {
            let memory = allocate(64).unwrap();
            place(&memory, &file, offset, bytes, at).unwrap();
            let mut seen = vec![0; bytes as usize];
            memory.read_slice(&mut seen, GuestAddress(at)).unwrap();
            assert_eq!(seen, contents[offset as usize..(offset + bytes) as usize]);
            assert_eq!(
                memory.read_obj::<u8>(GuestAddress(at + bytes)).unwrap(),
                0,
                "nothing beyond it"
            );
        }
    }

    #[test]
    fn what_the_guest_writes_never_reaches_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 2 * PAGE as usize]).unwrap();
        let memory = allocate(64).unwrap();
        place(&memory, &file, 0, 2 * PAGE, 0x20_0000).unwrap();
        memory.write_obj(0xffu8, GuestAddress(0x20_0000)).unwrap();
        let mut first = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
        assert_eq!(first, [1]);
    }

    #[test]
    fn a_file_that_is_too_short_or_memory_that_is_too_small_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        let memory = allocate(64).unwrap();
        assert!(place(&memory, &file, 0, 101, 0x20_0000).is_err());
        assert!(place(&memory, &file, 0, 100, (64 << 20) - 50).is_err());
        assert!(place(&memory, &file, 0, 100, u64::MAX - 50).is_err());
    }
}
