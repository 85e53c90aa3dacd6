//! The guest's network interfaces, as the host describes them.

use alloc::format;
use alloc::vec::Vec;

use guest_protocol::Interface;

use crate::failure::{Context, Failure};
use crate::sys::Errno;
use crate::sys::net::Control;

/// The kernel's names for them are eth0, eth1 and so on, in the order in which it has found them: of which there are no more.
const INTERFACES: u8 = 8;

/// What the kernel has set unless told otherwise, bytes (IEEE 802.3).
const MTU: u16 = 1500;

/// Switches the loopback interface on, and gives each of the others its name, address and route.
pub(crate) fn configure(interfaces: &[Interface]) -> Result<(), Failure> {
    let control = match Control::open() {
        Ok(control) => control,
        // A kernel without a network has no loopback device either.
        Err(Errno(libc::EAFNOSUPPORT)) if interfaces.is_empty() => return Ok(()),
        Err(errno) => return Err(Failure::system("open a socket", errno)),
    };
    match control.up(b"lo") {
        Ok(()) | Err(Errno(libc::ENODEV)) => {}
        Err(errno) => return Err(Failure::system("switch the loopback interface on", errno)),
    }
    name_all(&control, interfaces)?;
    for interface in interfaces {
        let name = interface.name.as_bytes();
        let describe = |what: &str| format!("{what} of the interface {}", interface.name);
        if interface.mtu != MTU {
            control
                .set_mtu(name, interface.mtu)
                .or_fail(|| describe("set the MTU"))?;
        }
        control
            .set_address(name, interface.address, interface.prefix)
            .or_fail(|| describe("set the address"))?;
        control.up(name).or_fail(|| describe("change the state"))?;
        if let Some(gateway) = interface.gateway {
            control
                .set_gateway(gateway)
                .or_fail(|| describe("set the default route"))?;
        }
    }
    Ok(())
}

/// Sees to it that each interface has the name that it should have.
fn name_all(control: &Control, interfaces: &[Interface]) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for interface in interfaces {
        if interface.name.is_empty() || interface.name.len() > 15 {
            return Err(Failure::config("an interface's name has 1 to 15 bytes"));
        }
        let look = |name: &[u8]| {
            control
                .hardware_address(name)
                .or_fail(|| format!("look for the interface {}", interface.name))
        };
        if look(interface.name.as_bytes())? == Some(interface.mac) {
            continue;
        }
        let mut found = None;
        for number in 0..INTERFACES {
            let name = format!("eth{number}");
            if look(name.as_bytes())? == Some(interface.mac) {
                found = Some(name);
                break;
            }
        }
        let Some(found) = found else {
            return Err(Failure::config(format!(
                "there is no network device for the interface {}: the guest's kernel may lack CONFIG_VIRTIO_NET",
                interface.name
            )));
        };
        // By a name that nobody has: the right one may be another's so far.
        let between = format!("new{}", wrong.len());
        control
            .rename(found.as_bytes(), between.as_bytes())
            .or_fail(|| format!("rename the interface {found}"))?;
        wrong.push((between, &interface.name));
    }
    for (between, name) in wrong {
        control
            .rename(between.as_bytes(), name.as_bytes())
            .or_fail(|| format!("rename an interface to {name}"))?;
    }
    Ok(())
}
