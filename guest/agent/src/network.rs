//! The guest's network interfaces: found by their hardware addresses, named, and given what the host says.

use alloc::format;
use alloc::vec::Vec;

use guest_protocol::Interface;

use crate::failure::{Context, Failure};
use crate::sys::Errno;
use crate::sys::net::{Name, Network};

/// How many names are tried that the kernel may have given, `eth0` being the first.
const TRIED: usize = 16;

/// Switches the loopback interface on, and sets these up. Each wants an interface of its own.
pub(crate) fn set_up(interfaces: &[Interface]) -> Result<(), Failure> {
    let network = match Network::open() {
        Ok(network) => network,
        // A kernel without a network has no loopback interface either.
        Err(Errno(libc::EAFNOSUPPORT)) if interfaces.is_empty() => return Ok(()),
        Err(errno) => return Err(Failure::system("reach the network's settings", errno)),
    };
    match network.switch_on(&name("lo")?) {
        Ok(()) | Err(Errno(libc::ENODEV)) => {}
        Err(errno) => return Err(Failure::system("switch the loopback interface on", errno)),
    }
    if interfaces.is_empty() {
        return Ok(());
    }
    rename(&network, interfaces)?;
    interfaces
        .iter()
        .try_for_each(|interface| set_up_one(&network, interface))
}

fn set_up_one(network: &Network, wanted: &Interface) -> Result<(), Failure> {
    let name = name(&wanted.name)?;
    if wanted.prefix > 32 {
        return Err(Failure::config(format!(
            "a prefix of {} bits is longer than an address",
            wanted.prefix
        )));
    }
    network
        .set_mtu(&name, wanted.mtu)
        .or_fail(|| format!("set the MTU of {} to {}", wanted.name, wanted.mtu))?;
    let [a, b, c, d] = wanted.address;
    network
        .set_address(&name, wanted.address, wanted.prefix)
        .or_fail(|| format!("give {} the address {a}.{b}.{c}.{d}", wanted.name))?;
    network
        .switch_on(&name)
        .or_fail(|| format!("switch {} on", wanted.name))?;
    if let Some(gateway) = wanted.gateway {
        let [a, b, c, d] = gateway;
        network
            .add_default_route(gateway)
            .or_fail(|| format!("route by {a}.{b}.{c}.{d}"))?;
    }
    Ok(())
}

/// Finds the interfaces, and gives them their names where they have others.
fn rename(network: &Network, interfaces: &[Interface]) -> Result<(), Failure> {
    let mut left: Vec<&Interface> = interfaces.iter().collect();
    let mut astray = Vec::new();
    for number in 0..TRIED {
        if left.is_empty() {
            break;
        }
        let current = name(&format!("eth{number}"))?;
        let address = match network.hardware_address(&current) {
            Ok(address) => address,
            Err(Errno(libc::ENODEV)) => continue,
            Err(errno) => return Err(Failure::system("read a hardware address", errno)),
        };
        let Some(place) = left.iter().position(|wanted| wanted.mac == address) else {
            continue;
        };
        let wanted = name(&left.swap_remove(place).name)?;
        if wanted != current {
            astray.push((current, wanted));
        }
    }
    if let Some(missing) = left.first() {
        let [a, b, c, d, e, f] = missing.mac;
        return Err(Failure::config(format!(
            "no interface has the hardware address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
        )));
    }
    // One may have the name that another wants: no name is given before all of these are free.
    if astray.len() > 1 {
        for (number, (current, _)) in astray.iter_mut().enumerate() {
            let aside = name(&format!("aside{number}"))?;
            network
                .rename(current, &aside)
                .or_fail(|| "rename an interface")?;
            *current = aside;
        }
    }
    for (current, wanted) in &astray {
        network
            .rename(current, wanted)
            .or_fail(|| "give an interface its name")?;
    }
    Ok(())
}

/// An interface's name as the kernel takes it; what it would take for a pattern or refuse is refused in words.
fn name(text: &str) -> Result<Name, Failure> {
    let mut name = Name::default();
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    // The last byte is the zero that ends it.
    let fits = text.len() < name.len() && !matches!(text, "" | "." | "..");
    if !fits || !text.bytes().all(plain) {
        return Err(Failure::config(format!(
            "{text:?} is no name of an interface: 1 to 15 printable characters but '/', ':' and '%'"
        )));
    }
    for (to, from) in name.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_refuse_or_expand_is_refused() {
        assert_eq!(name("eth0").unwrap()[..5], *b"eth0\0");
        assert!(name("fifteen-letters").is_ok());
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "eth%d",
            "a/b",
            "a:1",
            "sixteen-letters-",
            "\u{e9}",
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
