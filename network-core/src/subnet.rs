//! Addresses: ranges of them, and hardware ones.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A range of IPv4 addresses with a common beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that an address is in. Bits behind the prefix are cleared.
    ///
    /// # Errors
    /// [`Error::Subnet`] for a prefix longer than an address.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self> {
        if prefix > 32 {
            return Err(Error::Subnet {
                text: format!("{address}/{prefix}"),
                reason: "its prefix is longer than 32 bits",
            });
        }
        Ok(Self {
            address: Ipv4Addr::from(u32::from(address) & mask(prefix)),
            prefix,
        })
    }

    /// Its first address, which names the subnet.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// How many bits all addresses begin with.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Its last address, which means all hosts.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !mask(self.prefix))
    }

    /// Whether an address belongs to it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.address)
    }

    /// Whether any address belongs to both.
    pub fn overlaps(self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Addresses for hosts, in order: all but the first and the last, which have meanings of their own, except where there
    /// are no others (RFC 3021).
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, last) = (u32::from(self.address), u32::from(self.broadcast()));
        let ends = u32::from(self.prefix < 31);
        (first + ends..=last - ends).map(Ipv4Addr::from)
    }
}

/// The bits of a prefix.
fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason| Error::Subnet {
            text: text.to_owned(),
            reason,
        };
        let (address, prefix) = text
            .split_once('/')
            .ok_or_else(|| wrong("write an address and a prefix, such as 10.5.0.0/16"))?;
        if address.contains(':') {
            return Err(wrong("networks carry IPv4 only, so far"));
        }
        let address: Ipv4Addr = address
            .parse()
            .map_err(|_| wrong("its address is not an IPv4 address"))?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix
            .parse()
            .ok()
            .filter(|prefix| digits && *prefix <= 32)
            .ok_or_else(|| wrong("its prefix is not a number from 0 to 32"))?;
        Self::new(address, prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// docker's rule: locally administered (02:42), then the IPv4 address, so that no two on a network are alike.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_by_any_of_its_addresses() {
        assert_eq!(subnet("10.5.7.9/16").to_string(), "10.5.0.0/16");
        assert_eq!(
            subnet("10.5.0.0/16").broadcast(),
            Ipv4Addr::new(10, 5, 255, 255)
        );
        assert_eq!(subnet("0.0.0.0/0").broadcast(), Ipv4Addr::BROADCAST);
        for wrong in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/8",
            "10.0.0.0/+8",
            "10.0.0.0/",
        ] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_and_last_addresses_are_no_hosts() {
        let hosts: Vec<String> = subnet("192.0.2.8/30")
            .hosts()
            .map(|a| a.to_string())
            .collect();
        assert_eq!(hosts, ["192.0.2.9", "192.0.2.10"]);
        assert_eq!(subnet("192.0.2.8/31").hosts().count(), 2);
        assert_eq!(subnet("192.0.2.8/32").hosts().count(), 1);
        assert_eq!(subnet("10.0.0.0/16").hosts().count(), 65_534);
    }

    #[test]
    fn overlapping_is_mutual() {
        for (one, other, overlap) in [
            ("10.0.0.0/8", "10.5.0.0/16", true),
            ("10.0.0.0/9", "10.128.0.0/9", false),
            ("0.0.0.0/0", "10.0.0.0/30", true),
        ] {
            assert_eq!(subnet(one).overlaps(&subnet(other)), overlap);
            assert_eq!(subnet(other).overlaps(&subnet(one)), overlap);
        }
    }

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac = Mac::of(Ipv4Addr::new(10, 1, 0, 2));
        assert_eq!(mac.to_string(), "02:42:0a:01:00:02");
        assert_eq!("02-42-0A-01-00-02".parse::<Mac>().unwrap(), mac);
        for wrong in [
            "",
            "02:42",
            "02:42:0a:01:00:02:03",
            "02:42:0a:01:00:g2",
            "2:42:0a:01:00:02",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
