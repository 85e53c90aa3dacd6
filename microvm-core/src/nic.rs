//! Network devices as they are given: checked before anything is started.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::config::{NICS_MAX, Nic};
use crate::{Error, Result};

/// Requests of linux/if_tun.h.
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNGETVNETHDRSZ: libc::c_ulong = 0x8004_54d7;

/// What a tap's flags (linux/if_tun.h) must be among those that change what is read from it and written to it.
const IFF_TUN: i16 = 0x1;
const IFF_TAP: i16 = 0x2;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;

/// The header before each packet: struct virtio_net_hdr_v1 (section 5.1.6 of the virtio specification).
pub(crate) const HEADER_BYTES: usize = 12;

/// The least MTU of IPv4, and of virtio's.
const MTU_LEAST: u16 = 68;

/// Checks the devices, and gives the machine descriptors of its own.
pub(crate) fn open(networks: &[Nic]) -> Result<Vec<Nic>> {
    if networks.len() > NICS_MAX {
        return Err(Error::OutOfRange {
            what: "the number of network devices",
            given: networks.len() as u64,
            least: 0,
            most: NICS_MAX as u64,
        });
    }
    let mut all: Vec<Nic> = Vec::with_capacity(networks.len());
    for nic in networks {
        let refuse = |why: String| Error::Nic { mac: nic.mac, why };
        if nic.mac[0] & 1 != 0 || nic.mac == [0; 6] {
            return Err(refuse("it is no address of a single device".to_owned()));
        }
        if all.iter().any(|other| other.mac == nic.mac) {
            return Err(refuse("another device has this address".to_owned()));
        }
        if nic.mtu < MTU_LEAST {
            return Err(refuse(format!(
                "its MTU must be at least {MTU_LEAST}, not {}",
                nic.mtu
            )));
        }
        check_tap(nic.tap.as_raw_fd()).map_err(refuse)?;
        all.push(Nic {
            tap: nic
                .tap
                .try_clone()
                .map_err(Error::system("copy a tap's descriptor"))?,
            ..*nic
        });
    }
    Ok(all)
}

/// Says what is wrong with a descriptor that should be a tap's.
fn check_tap(tap: RawFd) -> std::result::Result<(), String> {
    // SAFETY: ifreq is plain data, for which zeros are a value.
    let mut about: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq; any other kind of file refuses the request.
    if unsafe { libc::ioctl(tap, TUNGETIFF as _, &raw mut about) } != 0 {
        return Err(format!(
            "its descriptor is not an attached tap's: {}",
            io::Error::last_os_error()
        ));
    }
    // SAFETY: TUNGETIFF has written the flags.
    let flags = unsafe { about.ifr_ifru.ifru_flags };
    let wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if flags & (wanted | IFF_TUN) != wanted {
        return Err(format!(
            "its tap has the flags {flags:#x}: make it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
        ));
    }
    let mut header: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int.
    if unsafe { libc::ioctl(tap, TUNGETVNETHDRSZ as _, &raw mut header) } != 0
        || header != HEADER_BYTES as libc::c_int
    {
        return Err(format!(
            "its tap has a header of {header} bytes: set it to {HEADER_BYTES} with TUNSETVNETHDRSZ"
        ));
    }
    // SAFETY: F_GETFL takes nothing.
    let status = unsafe { libc::fcntl(tap, libc::F_GETFL) };
    if status & libc::O_NONBLOCK == 0 {
        return Err("its tap blocks: open it with O_NONBLOCK".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn nic(mac: u8, mtu: u16) -> Nic {
        Nic {
            tap: File::open("/dev/null").unwrap().into(),
            mac: [mac, 0, 0, 0, 0, 1],
            mtu,
        }
    }

    #[test]
    fn what_is_no_network_device_is_refused_by_its_address() {
        for (nic, why) in [
            (nic(3, 1500), "single device"),
            (nic(2, 67), "at least 68"),
            (nic(2, 1500), "not an attached tap's"),
        ] {
            let said = open(&[nic]).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
            assert!(said.contains("00:00:00:00:01"), "{said}");
        }
        let many: Vec<_> = (0..=NICS_MAX).map(|_| nic(2, 1500)).collect();
        assert!(open(&many).unwrap_err().to_string().contains("between 0"));
    }
}
