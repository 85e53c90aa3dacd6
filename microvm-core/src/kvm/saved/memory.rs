//! A template's memory file: sparse, as large as the memory, with those pages in it that hold anything.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{Extent, MAX_EXTENTS};
use crate::memory::{Memory, place, ranges};

const PAGE: usize = 4096;

/// How far apart two parts are at least. What is between nearer ones is mapped from the file too, in which it is a hole.
const APART: u64 = 64 << 10;

/// Writes memory of `bytes` bytes into an empty file, and says what is mapped from it.
pub(crate) fn write(memory: &Memory, bytes: u64, file: &File) -> io::Result<Vec<Extent>> {
    file.set_len(bytes)?;
    let mut found: Vec<Extent> = Vec::new();
    let mut offset = 0;
    for (start, length) in ranges(bytes) {
        let slice = memory
            .get_slice(start, length)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let guard = slice.ptr_guard();
        // SAFETY: the slice is one mapping of that length, which stays while `memory` does; the machine's virtual CPUs stand
        // still and its devices are at rest, so nothing writes to it meanwhile.
        let pages = unsafe { std::slice::from_raw_parts(guard.as_ptr(), length) };
        let begun = found.len();
        for (number, page) in pages.chunks(PAGE).enumerate() {
            if is_zero(page) {
                continue;
            }
            let at = offset + (number * PAGE) as u64;
            write_at(file, page, at)?;
            match found[begun..].last_mut() {
                Some(last) if at - (last.offset + last.bytes) < APART => {
                    last.bytes = at + page.len() as u64 - last.offset;
                }
                _ => found.push(Extent {
                    offset: at,
                    bytes: page.len() as u64,
                }),
            }
        }
        offset += length as u64;
    }
    Ok(join(found, bytes))
}

/// Joins neighbours until there are few enough.
fn join(mut extents: Vec<Extent>, bytes: u64) -> Vec<Extent> {
    let seam = ranges(bytes)
        .first()
        .map_or(bytes, |(_, below)| *below as u64);
    let mut apart = APART;
    while extents.len() > MAX_EXTENTS {
        apart *= 2;
        let mut fewer: Vec<Extent> = Vec::with_capacity(extents.len());
        for extent in extents {
            match fewer.last_mut() {
                Some(last)
                    if extent.offset - (last.offset + last.bytes) < apart
                        && (last.offset < seam) == (extent.offset < seam) =>
                {
                    last.bytes = extent.offset + extent.bytes - last.offset;
                }
                _ => fewer.push(extent),
            }
        }
        extents = fewer;
    }
    extents
}

fn is_zero(page: &[u8]) -> bool {
    // SAFETY: every 16 bytes are a number, whatever they hold.
    let (before, words, after) = unsafe { page.align_to::<u128>() };
    before.iter().chain(after).all(|byte| *byte == 0) && words.iter().all(|word| *word == 0)
}

fn write_at(file: &File, page: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = page.get(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the kernel reads no more than the slice.
        let written = unsafe {
            libc::pwrite(
                file.as_raw_fd(),
                rest.as_ptr().cast(),
                rest.len(),
                (at + done as u64) as libc::off_t,
            )
        };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Maps what a template's memory holds into new memory of `bytes` bytes, copy-on-write.
pub(crate) fn map(memory: &Memory, bytes: u64, file: &File, extents: &[Extent]) -> io::Result<()> {
    let regions = ranges(bytes);
    for extent in extents {
        let mut behind = 0;
        for (start, length) in &regions {
            if (behind..behind + *length as u64).contains(&extent.offset) {
                let GuestAddress(start) = *start;
                let at = start + (extent.offset - behind);
                place(memory, file, extent.offset, extent.bytes, at)?;
            }
            behind += *length as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use vm_memory::Bytes;

    use super::*;
    use crate::memory::allocate;

    #[test]
    fn memory_comes_back_as_it_was_and_what_is_written_then_stays_out_of_the_file() {
        let bytes = 64 << 20;
        let memory = allocate(64).unwrap();
        for at in [0x500u64, 0x10_0ffc, 0x300_0000, (64 << 20) - 8] {
            memory.write_obj(!at, GuestAddress(at)).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        let extents = write(&memory, bytes, &file).unwrap();
        let about = file.metadata().unwrap();
        assert_eq!(about.len(), bytes);
        assert!(
            about.blocks() * 512 <= 64 << 10,
            "{} blocks",
            about.blocks()
        );
        assert_eq!(extents.len(), 4, "{extents:?}");
        assert_eq!(
            extents[1],
            Extent {
                offset: 0x10_0000,
                bytes: 0x2000
            }
        );
        for _ in 0..2 {
            let again = allocate(64).unwrap();
            map(&again, bytes, &file, &extents).unwrap();
            for at in [0x500u64, 0x10_0ffc, 0x300_0000, (64 << 20) - 8] {
                let seen: u64 = again.read_obj(GuestAddress(at)).unwrap();
                assert_eq!(seen, !at);
                again.write_obj(u64::MAX, GuestAddress(at)).unwrap();
            }
        }
    }

    #[test]
    fn memory_above_four_gibibytes_lies_behind_that_below() {
        use crate::memory::{GAP_END, GAP_START};
        let bytes = GAP_START + (1 << 20);
        let memory = allocate((bytes >> 20) as u32).unwrap();
        memory.write_obj(7u8, GuestAddress(GAP_START - 1)).unwrap();
        memory.write_obj(8u8, GuestAddress(GAP_END)).unwrap();
        let file = tempfile::tempfile().unwrap();
        let extents = write(&memory, bytes, &file).unwrap();
        assert_eq!(extents.len(), 2, "no part reaches across: {extents:?}");
        let again = allocate((bytes >> 20) as u32).unwrap();
        map(&again, bytes, &file, &extents).unwrap();
        assert_eq!(
            again.read_obj::<u8>(GuestAddress(GAP_START - 1)).unwrap(),
            7
        );
        assert_eq!(again.read_obj::<u8>(GuestAddress(GAP_END)).unwrap(), 8);
    }

    #[test]
    fn many_small_parts_become_few() {
        let scattered: Vec<_> = (0..5000u64)
            .map(|number| Extent {
                offset: number << 20,
                bytes: 4096,
            })
            .collect();
        let joined = join(scattered, 5000 << 20);
        assert!(joined.len() <= MAX_EXTENTS, "{}", joined.len());
        assert_eq!(
            joined
                .iter()
                .filter(|part| part.offset == 3072 << 20)
                .count(),
            1
        );
    }
}
