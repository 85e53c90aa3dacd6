//! The host's end: a tap (Documentation/networking/tuntap.rst).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::feature;

/// The most pieces that the kernel takes at once (IOV_MAX).
const PIECES: usize = 1024;

/// Reads a frame into guest memory; its length with its header.
pub(super) fn read(tap: &OwnedFd, vectors: &[libc::iovec]) -> io::Result<u64> {
    let count = vectors.len().min(PIECES);
    // SAFETY: each piece is guest memory that stays mapped while the caller holds it; what the guest reads and writes there
    // meanwhile is its own affair, and nothing of ours refers to it.
    let got = unsafe { libc::readv(tap.as_raw_fd(), vectors.as_ptr(), count as i32) };
    u64::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Writes a frame from guest memory.
pub(super) fn write(tap: &OwnedFd, vectors: &[libc::iovec]) -> io::Result<u64> {
    if vectors.len() > PIECES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: as for `read`.
    let sent = unsafe { libc::writev(tap.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) };
    u64::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Lets the tap leave to the guest what its driver said that it does itself.
pub(super) fn set_offloads(tap: &OwnedFd, features: u64) -> io::Result<()> {
    let mut offloads = 0;
    if features & feature::GUEST_CSUM != 0 {
        // Segmentation goes with checksums only, as the kernel has it too.
        for (wanted, offload) in [
            (feature::GUEST_CSUM, libc::TUN_F_CSUM),
            (feature::GUEST_TSO4, libc::TUN_F_TSO4),
            (feature::GUEST_TSO6, libc::TUN_F_TSO6),
            (feature::GUEST_ECN, libc::TUN_F_TSO_ECN),
        ] {
            if features & wanted != 0 {
                offloads |= offload;
            }
        }
    }
    // SAFETY: TUNSETOFFLOAD takes a number.
    match unsafe {
        libc::ioctl(
            tap.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            offloads as libc::c_ulong,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
