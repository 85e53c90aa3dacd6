//! Network interfaces and routes, by ioctls: each is one short call, where a dump over netlink has the kernel write more about
//! every interface than is wanted.

use core::ffi::c_short;

use super::file::{Fd, ioctl};
use super::{Result, call};

/// An interface's name, ended by zero bytes.
pub(crate) type Name = [u8; libc::IFNAMSIZ];

/// Where interfaces and routes are asked for.
pub(crate) struct Network(Fd);

/// struct ifreq: a name, and a union of 24 bytes.
#[repr(C)]
struct Request<T> {
    name: Name,
    argument: T,
}

/// A union that begins with the flags, or with the MTU.
#[repr(C)]
struct Number<T> {
    number: T,
    rest: [u8; 20],
}

/// A union that is a struct sockaddr.
#[repr(C)]
struct Address {
    address: libc::sockaddr,
    rest: [u8; 8],
}

/// A union that is another name.
#[repr(C)]
struct Other {
    name: Name,
    rest: [u8; 8],
}

/// An IPv4 address as struct sockaddr; its port is zero.
fn sockaddr(address: [u8; 4]) -> libc::sockaddr {
    let [a, b, c, d] = address.map(|byte| byte as libc::c_char);
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: [0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0],
    }
}

impl Network {
    /// Fails with EAFNOSUPPORT where the kernel has no network.
    pub(crate) fn open() -> Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes numbers.
        let socket = unsafe {
            call(
                libc::SYS_socket,
                [libc::AF_INET as usize, kind as usize, 0, 0, 0, 0],
            )
        }?;
        Ok(Self(Fd::own(socket)))
    }

    fn request<T>(&self, request: u64, name: &Name, argument: T) -> Result<T> {
        const {
            // What every `T` here is: the union of struct ifreq.
            assert!(size_of::<T>() == 24 && size_of::<Request<T>>() == size_of::<libc::ifreq>());
        }
        let mut asked = Request {
            name: *name,
            argument,
        };
        // SAFETY: all requests here take an ifreq, which `asked` is as long as, with no pointers in it.
        unsafe { ioctl(&self.0, request, &mut asked) }?;
        Ok(asked.argument)
    }

    /// The hardware address of an interface.
    pub(crate) fn hardware_address(&self, name: &Name) -> Result<[u8; 6]> {
        let argument = Address {
            address: sockaddr([0; 4]),
            rest: [0; 8],
        };
        let found = self.request(libc::SIOCGIFHWADDR, name, argument)?;
        let [a, b, c, d, e, f, ..] = found.address.sa_data.map(|byte| byte as u8);
        Ok([a, b, c, d, e, f])
    }

    /// Calls an interface something else; one that is down.
    pub(crate) fn rename(&self, name: &Name, new: &Name) -> Result<()> {
        let argument = Other {
            name: *new,
            rest: [0; 8],
        };
        self.request(libc::SIOCSIFNAME, name, argument).map(drop)
    }

    /// Sets the size of an interface's largest packet.
    pub(crate) fn set_mtu(&self, name: &Name, bytes: u16) -> Result<()> {
        let argument = Number {
            number: i32::from(bytes),
            rest: [0; 20],
        };
        self.request(libc::SIOCSIFMTU, name, argument).map(drop)
    }

    /// Gives an interface its IPv4 address, and by the prefix's length the mask and the broadcast address.
    pub(crate) fn set_address(&self, name: &Name, address: [u8; 4], prefix: u8) -> Result<()> {
        let set = |request, address| {
            let argument = Address {
                address: sockaddr(address),
                rest: [0; 8],
            };
            self.request(request, name, argument).map(drop)
        };
        set(libc::SIOCSIFADDR, address)?;
        set(libc::SIOCSIFNETMASK, mask(prefix))
    }

    /// Switches an interface on.
    pub(crate) fn switch_on(&self, name: &Name) -> Result<()> {
        #[repr(C)]
        struct Flags {
            flags: c_short,
            rest: [u8; 22],
        }
        let argument = Flags {
            flags: (libc::IFF_UP) as c_short,
            rest: [0; 22],
        };
        self.request(libc::SIOCSIFFLAGS, name, argument).map(drop)
    }

    /// Sends what has no other route to this gateway.
    pub(crate) fn add_default_route(&self, gateway: [u8; 4]) -> Result<()> {
        // SAFETY: struct rtentry is numbers and a pointer to a device's name, for all of which zero is a value: any device.
        let mut route: libc::rtentry = unsafe { core::mem::zeroed() };
        route.rt_dst = sockaddr([0; 4]);
        route.rt_genmask = sockaddr([0; 4]);
        route.rt_gateway = sockaddr(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: SIOCADDRT reads an rtentry, and through its null pointer nothing.
        unsafe { ioctl(&self.0, libc::SIOCADDRT, &mut route) }.map(drop)
    }
}

/// The network mask of a prefix.
fn mask(prefix: u8) -> [u8; 4] {
    let host = 32u32.saturating_sub(prefix.into());
    u32::MAX.checked_shl(host).unwrap_or(0).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_as_many_ones_as_the_prefix_is_long() {
        assert_eq!(mask(0), [0, 0, 0, 0]);
        assert_eq!(mask(16), [255, 255, 0, 0]);
        assert_eq!(mask(30), [255, 255, 255, 252]);
        assert_eq!(mask(32), [255; 4]);
    }

    #[test]
    fn the_loopback_interface_has_a_hardware_address_of_zeros() {
        let network = Network::open().unwrap();
        let mut name = Name::default();
        name[..2].copy_from_slice(b"lo");
        assert_eq!(network.hardware_address(&name), Ok([0; 6]));
        name[..2].copy_from_slice(b"\xff/");
        assert_eq!(
            network.hardware_address(&name),
            Err(super::super::Errno(libc::ENODEV))
        );
    }
}
