//! Letting go of a descriptor without paying for it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Result, check};

/// `struct io_uring_params` (uapi/linux/io_uring.h): 120 bytes, all zero for a ring without options.
#[repr(C, align(8))]
struct Parameters([u8; 120]);

/// `IORING_REGISTER_FILES`.
const REGISTER_FILES: libc::c_uint = 2;

/// Has the kernel drop a descriptor in a thread of its own.
///
/// The descriptor is given to an io_uring, and the ring is closed: rings are taken apart by a worker of the kernel
/// (`io_ring_exit_work`), which drops the files that were registered with them. About 0.05 ms, whatever the last
/// reference to the file costs.
pub(crate) fn drop_later(fd: OwnedFd) -> Result<()> {
    let mut parameters = Parameters([0; 120]);
    // SAFETY: the structure has the kernel's size and is ours to write.
    let ring = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut parameters) })?;
    // SAFETY: the call above made the descriptor, close-on-exec.
    let ring = unsafe { OwnedFd::from_raw_fd(ring as libc::c_int) };
    let files = [fd.as_raw_fd()];
    // SAFETY: one descriptor, as the count says.
    check(unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_FILES,
            files.as_ptr(),
            files.len(),
        )
    })?;
    drop(fd);
    drop(ring);
    Ok(())
}
