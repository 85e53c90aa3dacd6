//! Cold starts: putting an image's files out of the page cache, and proving that they are out.
//!
//! Only the files of the image are dropped (posix_fadvise), not the whole page cache of the host: the harness, the
//! launcher and the guest kernel stay warm, so a cold start is a cold image and nothing else.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

const PAGE: usize = 4096;

/// Drops all files below `path` (or the file `path`) from the page cache and returns how many of their pages are still
/// there: mapped by a running program, or not yet written to disk.
///
/// # Errors
/// What reading the directories or mapping the files gave.
pub(crate) fn drop_cached(path: &Path) -> std::io::Result<u64> {
    let about = fs::symlink_metadata(path)?;
    if about.is_dir() {
        let mut left = 0;
        for entry in fs::read_dir(path)? {
            left += drop_cached(&entry?.path())?;
        }
        return Ok(left);
    }
    if !about.is_file() || about.len() == 0 {
        return Ok(0);
    }
    let file = File::open(path)?;
    // Dirty pages cannot be dropped. The image's files have been written long ago, so this is a matter of microseconds.
    file.sync_data()?;
    // SAFETY: an open descriptor; the call moves no memory.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    resident(&file, about.len() as usize)
}

/// How many pages of a file are in the page cache.
fn resident(file: &File, bytes: usize) -> std::io::Result<u64> {
    // SAFETY: a fresh shared read-only mapping that is never read through, at an address the kernel chooses.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let mut pages = vec![0u8; bytes.div_ceil(PAGE)];
    // SAFETY: the mapping covers `bytes`, and the vector has one byte for each of its pages, as mincore(2) wants.
    let result = unsafe { libc::mincore(start, bytes, pages.as_mut_ptr()) };
    let error = std::io::Error::last_os_error();
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { libc::munmap(start, bytes) };
    if result != 0 {
        return Err(error);
    }
    Ok(pages.iter().filter(|&&page| page & 1 != 0).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_read_is_out_of_the_cache_afterwards() {
        // Beside the test program: /tmp may be a tmpfs, which is nothing but page cache.
        let program = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = directory.path().join("below/file");
        fs::create_dir(directory.path().join("below")).unwrap();
        fs::write(&path, vec![7; 40 * PAGE + 1]).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(resident(&file, 40 * PAGE + 1).unwrap(), 41);
        assert_eq!(drop_cached(directory.path()).unwrap(), 0);
        assert_eq!(resident(&file, 40 * PAGE + 1).unwrap(), 0);
    }

    #[test]
    fn a_missing_path_is_an_error() {
        assert!(drop_cached(Path::new("/nowhere/at-all")).is_err());
    }
}
