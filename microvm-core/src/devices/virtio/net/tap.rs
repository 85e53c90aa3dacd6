//! The host's end: one packet with its header at each read and write.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::feature;
use crate::nic::HEADER_BYTES;

/// Of linux/if_tun.h: the request that says what whoever reads can take, and what there is to say.
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_TSO_ECN: libc::c_ulong = 8;

/// How many packets a tap holds at most, unless its queue was made longer.
const HELD: usize = 1000;

/// A tap that does not block.
pub(super) struct Tap(OwnedFd);

/// Whether an error of a write says that there will be no packets any more: the interface was deleted, or is none. Other
/// errors are about one packet, or an interface that is down.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADFD | libc::EBADF | libc::ENODEV)
    )
}

/// Whether an error of a read may be followed by packets. A tap that will give none any more is readable for ever.
pub(super) fn is_passing(error: &io::Error) -> bool {
    // EINVAL: a packet in segments of a kind that no header can say, as a card that joins packets may give a bridge. It alone is lost.
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN | libc::EINTR | libc::EINVAL | libc::EFAULT | libc::ENOMEM | libc::ENOBUFS
        )
    )
}

impl Tap {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Has the host send what a driver with these features takes: checksums left to whoever needs them, and segments that are
    /// not cut yet. A host that cannot sends what every driver takes.
    pub(super) fn set_offloads(&self, features: u64) {
        let mut offloads = 0;
        if features & feature::GUEST_CSUM != 0 {
            offloads = TUN_F_CSUM;
            for (wanted, offload) in [
                (feature::GUEST_TSO4, TUN_F_TSO4),
                (feature::GUEST_TSO6, TUN_F_TSO6),
            ] {
                if features & wanted != 0 {
                    offloads |= offload;
                    if features & feature::GUEST_ECN != 0 {
                        offloads |= TUN_F_TSO_ECN;
                    }
                }
            }
        }
        // SAFETY: TUNSETOFFLOAD takes a number; any other kind of file refuses the request.
        unsafe { libc::ioctl(self.descriptor(), TUNSETOFFLOAD as _, offloads) };
    }

    /// Reads a packet into these, and gives its length.
    pub(super) fn read(&self, vectors: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: the vectors are memory that stays mapped and that nothing else refers to; the kernel checks every address.
        let got = unsafe {
            libc::readv(
                self.descriptor(),
                vectors.as_ptr(),
                vectors.len() as libc::c_int,
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Writes a packet.
    pub(super) fn write(&self, vectors: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: as for reading.
        let sent = unsafe {
            libc::writev(
                self.descriptor(),
                vectors.as_ptr(),
                vectors.len() as libc::c_int,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Drops what has come so far.
    pub(super) fn discard(&self) {
        // Room for no more than the header: what of a packet does not fit is dropped with it. With less room than that a tap
        // drops the packet too, but says that it has failed.
        let mut header = [0u8; HEADER_BYTES];
        let room = libc::iovec {
            iov_base: header.as_mut_ptr().cast(),
            iov_len: header.len(),
        };
        for _ in 0..HELD {
            match self.read(&[room]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_passing(&error) => {}
                Err(_) => return,
            }
        }
    }
}
