//! Work that enters the kernel and does little there.

use std::ffi::CString;

use super::last_error;
use crate::args::Args;
use crate::clock::Stopwatch;

/// The cheapest system call there is.
pub(crate) fn getpid(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    args.finish()?;
    let pid = i64::from(std::process::id());
    let same = watch.time(|| {
        let mut same = true;
        for _ in 0..iterations {
            // SAFETY: getpid has no arguments and cannot fail. The raw call, since a library may keep the answer.
            same &= unsafe { libc::syscall(libc::SYS_getpid) } == pid;
        }
        same
    });
    if same {
        Ok(0)
    } else {
        Err("getpid changed its mind".to_owned())
    }
}

/// Bytes that one step of [`mmap`] maps, without touching them.
const MAPPED: usize = 64 * 1024;

/// mmap and munmap of 64 KiB of anonymous memory.
pub(crate) fn mmap(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    args.finish()?;
    watch.time(|| {
        for _ in 0..iterations {
            // SAFETY: a fresh private mapping, at an address the kernel chooses.
            let start = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    MAPPED,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if start == libc::MAP_FAILED {
                return Err(last_error("mmap"));
            }
            // SAFETY: the mapping made above, which nothing refers to.
            if unsafe { libc::munmap(start, MAPPED) } != 0 {
                return Err(last_error("munmap"));
            }
        }
        Ok(0)
    })
}

/// Creates, closes and removes an empty file in the directory `path=`.
pub(crate) fn create(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let directory = args.text("path").ok_or("create needs path=DIRECTORY")?;
    args.finish()?;
    std::fs::create_dir_all(directory).map_err(|error| format!("{directory}: {error}"))?;
    let path = format!("{directory}/created.{}", std::process::id());
    let name = CString::new(path.as_str()).map_err(|_| "the path holds a NUL".to_owned())?;
    watch.time(|| {
        for _ in 0..iterations {
            // SAFETY: the name ends with a NUL and lives through the call.
            let file = unsafe {
                libc::open(
                    name.as_ptr(),
                    libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC,
                    0o600,
                )
            };
            if file < 0 {
                return Err(last_error(&path));
            }
            // SAFETY: the descriptor opened above, closed once.
            unsafe { libc::close(file) };
            // SAFETY: as for open.
            if unsafe { libc::unlink(name.as_ptr()) } != 0 {
                return Err(last_error(&path));
            }
        }
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_files_are_gone_afterwards_and_a_bad_directory_is_named() {
        let directory =
            std::env::temp_dir().join(format!("workload-create-{}", std::process::id()));
        let path = format!("path={}", directory.display());
        let mut args = Args::parse([path.as_str()].into_iter()).unwrap();
        assert_eq!(create(5, &mut args, &mut Stopwatch::default()), Ok(0));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
        let mut args = Args::parse(["path=/proc/none"].into_iter()).unwrap();
        assert!(
            create(1, &mut args, &mut Stopwatch::default())
                .unwrap_err()
                .contains("/proc/none")
        );
    }
}
