//! Network interfaces, by ioctl(2) (netdevice(7)): a handful of calls for each, which is as few as any way needs.

use libc::{AF_INET, IFF_RUNNING, IFF_UP};

use super::file::{Fd, ioctl};
use super::{Errno, Result, call};

/// A socket to ask about interfaces with.
pub(crate) struct Control(Fd);

/// struct ifreq: the name, then a union of 24 bytes.
#[repr(C)]
struct Request {
    name: [u8; 16],
    value: [u8; 24],
}

/// struct rtentry on x86-64: three addresses, flags, and what is not used here; 120 bytes.
#[repr(C)]
struct Route {
    padding: u64,
    destination: [u8; 16],
    gateway: [u8; 16],
    mask: [u8; 16],
    flags: u16,
    rest: [u8; 62],
}

/// linux/route.h: the route is usable, and leads to a gateway.
const RTF_UP: u16 = 1;
const RTF_GATEWAY: u16 = 2;

/// struct sockaddr_in without a port.
fn socket_address(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&address);
    bytes
}

impl Request {
    fn of(name: &[u8]) -> Self {
        let mut request = Self {
            name: [0; 16],
            value: [0; 24],
        };
        for (to, from) in request.name.iter_mut().take(15).zip(name) {
            *to = *from;
        }
        request
    }

    fn with_address(name: &[u8], address: [u8; 4]) -> Self {
        let mut request = Self::of(name);
        request.value[..16].copy_from_slice(&socket_address(address));
        request
    }
}

impl Control {
    pub(crate) fn open() -> Result<Self> {
        let arguments = [
            AF_INET as usize,
            (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize,
            0,
            0,
            0,
            0,
        ];
        // SAFETY: socket takes numbers.
        Ok(Self(Fd::own(unsafe { call(libc::SYS_socket, arguments) }?)))
    }

    fn ask(&self, what: u64, request: &mut Request) -> Result<()> {
        // SAFETY: every request here reads or writes an ifreq, which is 40 bytes.
        unsafe { ioctl(&self.0, what, request) }.map(drop)
    }

    /// Switches an interface on.
    pub(crate) fn up(&self, name: &[u8]) -> Result<()> {
        let mut request = Request::of(name);
        let flags = (IFF_UP | IFF_RUNNING) as u16;
        request.value[..2].copy_from_slice(&flags.to_ne_bytes());
        self.ask(libc::SIOCSIFFLAGS, &mut request)
    }

    /// An interface's hardware address; `None` where there is no such interface.
    pub(crate) fn hardware_address(&self, name: &[u8]) -> Result<Option<[u8; 6]>> {
        let mut request = Request::of(name);
        match self.ask(libc::SIOCGIFHWADDR, &mut request) {
            Err(Errno(libc::ENODEV)) => Ok(None),
            Err(errno) => Err(errno),
            Ok(()) => {
                let mut address = [0; 6];
                // Behind the family.
                address.copy_from_slice(&request.value[2..8]);
                Ok(Some(address))
            }
        }
    }

    /// Gives an interface that is off another name.
    pub(crate) fn rename(&self, name: &[u8], new: &[u8]) -> Result<()> {
        let mut request = Request::of(name);
        for (to, from) in request.value.iter_mut().take(15).zip(new) {
            *to = *from;
        }
        self.ask(libc::SIOCSIFNAME, &mut request)
    }

    /// Sets an interface's largest packet.
    pub(crate) fn set_mtu(&self, name: &[u8], mtu: u16) -> Result<()> {
        let mut request = Request::of(name);
        request.value[..4].copy_from_slice(&i32::from(mtu).to_ne_bytes());
        self.ask(libc::SIOCSIFMTU, &mut request)
    }

    /// Gives an interface an address.
    pub(crate) fn set_address(&self, name: &[u8], address: [u8; 4], prefix: u8) -> Result<()> {
        let mask = u32::MAX
            .checked_shl(32 - u32::from(prefix.min(32)))
            .unwrap_or(0);
        let broadcast = u32::from_be_bytes(address) | !mask;
        let mut request = Request::with_address(name, address);
        self.ask(libc::SIOCSIFADDR, &mut request)?;
        let mut request = Request::with_address(name, mask.to_be_bytes());
        self.ask(libc::SIOCSIFNETMASK, &mut request)?;
        let mut request = Request::with_address(name, broadcast.to_be_bytes());
        self.ask(libc::SIOCSIFBRDADDR, &mut request)
    }

    /// Sets the default route.
    pub(crate) fn set_gateway(&self, gateway: [u8; 4]) -> Result<()> {
        let mut route = Route {
            padding: 0,
            destination: socket_address([0; 4]),
            gateway: socket_address(gateway),
            mask: socket_address([0; 4]),
            flags: RTF_UP | RTF_GATEWAY,
            rest: [0; 62],
        };
        // SAFETY: SIOCADDRT reads an rtentry, which is 120 bytes, and whose pointer to a device's name is null here.
        unsafe { ioctl(&self.0, libc::SIOCADDRT, &mut route) }.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
        assert_eq!(size_of::<Route>(), size_of::<libc::rtentry>());
    }

    #[test]
    fn an_interface_that_is_not_there_has_no_address() {
        let control = Control::open().unwrap();
        assert_eq!(control.hardware_address(b"lo"), Ok(Some([0; 6])));
        assert_eq!(control.hardware_address(b"none0"), Ok(None));
    }
}
