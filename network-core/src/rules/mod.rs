//! Rules: two nftables tables of our own, and nothing else of the host's.
//!
//! The rules never change (base.nft has them in nft's words). What comes and goes are elements of their sets and maps, by one nfnetlink transaction
//! each time, whose cost does not depend on how many there are.

mod elements;
mod foreign;
mod tables;

use std::cell::OnceCell;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::conntrack;
use crate::error::Result;
use crate::netlink::{ACK, Messages, REQUEST, Socket};
use crate::subnet::{Mac, Subnet};

use elements::{Change, Element, Key};

/// nfnetlink.h.
pub(crate) const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// nf_tables.h.
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFTA_TABLE_NAME: u16 = 1;

/// The families of the tables.
const INET4: u8 = libc::NFPROTO_IPV4 as u8;
const BRIDGE: u8 = libc::NFPROTO_BRIDGE as u8;

/// The name of both tables.
const TABLE: &str = "plimsoll";

/// The size of an interface's name in a set, bytes.
const IFNAME: usize = 16;

/// struct nfgenmsg: family, version, resource.
pub(crate) fn nfnetlink_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// What changes the rules of the network namespace that it is first used in.
///
/// It keeps one connection to the kernel, and whoever removes elements is well advised to drop it late: closing such a connection waits
/// until everything that has just been removed is out of every processor's sight (some ten milliseconds), while removing does not.
#[derive(Debug, Default)]
pub struct Rules(OnceCell<Socket>);

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP as u8,
            Self::Udp => libc::IPPROTO_UDP as u8,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("unknown protocol {text:?}: tcp and udp are known")),
        }
    }
}

/// A port of the host that leads to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Published {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; 0.0.0.0 for every one.
    pub host_ip: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The instance's address.
    pub to: Ipv4Addr,
    /// Its port.
    pub to_port: u16,
}

impl Published {
    fn element(self) -> Element {
        let mut key = Key::default();
        let map = if self.host_ip.is_unspecified() {
            "any"
        } else {
            key.address(self.host_ip);
            "at"
        };
        key.byte(self.protocol.number()).port(self.host_port);
        let mut data = Key::default();
        data.address(self.to).port(self.to_port);
        Element {
            family: INET4,
            set: map,
            key: key.bytes(),
            data: Some(data.bytes()),
        }
    }

    fn read(map: &str, key: &[u8], data: &[u8]) -> Option<Self> {
        let (host_ip, key) = match map {
            "at" => (address(key)?, key.get(4..)?),
            _ => (Ipv4Addr::UNSPECIFIED, key),
        };
        Some(Self {
            protocol: Protocol::of_number(*key.first()?)?,
            host_ip,
            host_port: port(key.get(4..)?)?,
            to: address(data)?,
            to_port: port(data.get(4..)?)?,
        })
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let four: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(four))
}

fn port(bytes: &[u8]) -> Option<u16> {
    let two: [u8; 2] = bytes.get(..2)?.try_into().ok()?;
    Some(u16::from_be_bytes(two))
}

fn has_table(socket: &Socket, family: u8) -> Result<bool> {
    let mut messages = Messages::default();
    messages
        .begin(
            NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE,
            REQUEST | ACK,
            &nfnetlink_header(family, 0),
        )
        .text(NFTA_TABLE_NAME, TABLE);
    let action = || format!("look at the table {TABLE}");
    match socket.ask(&action, &messages, &mut |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn network_elements(bridge: &str, internal: bool) -> Vec<Element> {
    let mut name = Key::default();
    name.name(bridge);
    let mut pair = Key::default();
    pair.name(bridge).name(bridge);
    let element = |set, key: &Key| Element {
        family: INET4,
        set,
        key: key.bytes(),
        data: None,
    };
    let mut elements = vec![element("bridges", &name), element("same", &pair)];
    if internal {
        elements.push(element("internal", &name));
    }
    elements
}

fn udp_ports(published: &[Published]) -> Vec<u16> {
    published
        .iter()
        .filter(|one| one.protocol == Protocol::Udp)
        .map(|one| one.host_port)
        .collect()
}

fn guard_elements(port_name: &str, mac: Mac, address: Ipv4Addr) -> [Element; 3] {
    let mut name = Key::default();
    name.name(port_name);
    let mut may = Key::default();
    may.name(port_name).mac(mac).address(address);
    let mut instance = Key::default();
    instance.address(address);
    [
        (BRIDGE, "guarded", name),
        (BRIDGE, "may", may),
        (INET4, "instances", instance),
    ]
    .map(|(family, set, key)| Element {
        family,
        set,
        key: key.bytes(),
        data: None,
    })
}

impl Rules {
    fn socket(&self) -> Result<&Socket> {
        if let Some(socket) = self.0.get() {
            return Ok(socket);
        }
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        Ok(self.0.get_or_init(|| socket))
    }

    fn change(
        &self,
        action: &dyn Fn() -> String,
        change: Change,
        elements: &[Element],
    ) -> Result<()> {
        elements::change(self.socket()?, action, change, elements)
    }

    fn list(&self, family: u8, set: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        elements::list(self.socket()?, family, set)
    }

    fn forget_connections(&self, published: &[Published]) -> Result<()> {
        let ports = udp_ports(published);
        if ports.is_empty() {
            return Ok(());
        }
        conntrack::forget_udp(self.socket()?, &ports)
    }

    /// Makes the tables if they are not there; whether they were not.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`]; also for a kernel without nftables.
    pub fn ensure(&self) -> Result<bool> {
        let socket = self.socket()?;
        let there = [INET4, BRIDGE]
            .into_iter()
            .filter_map(|family| match has_table(socket, family) {
                Ok(true) => Some(Ok(family)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<Vec<u8>>>()?;
        if there.len() == 2 {
            return Ok(false);
        }
        let action = || "make the tables of rules (nftables)".to_owned();
        // One of them may be there: both are made anew, in one transaction.
        let made = elements::transaction(socket, &action, 1, &mut |messages| {
            for family in &there {
                messages
                    .begin(
                        NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE,
                        REQUEST,
                        &nfnetlink_header(*family, 0),
                    )
                    .text(NFTA_TABLE_NAME, TABLE);
            }
            tables::write(messages);
        });
        match made {
            // Another process was faster.
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Removes both tables. Tables that are not there are fine.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn remove(&self) -> Result<()> {
        let socket = self.socket()?;
        for family in [INET4, BRIDGE] {
            if !has_table(socket, family)? {
                continue;
            }
            let removed = elements::transaction(
                socket,
                &|| format!("remove the table {TABLE}"),
                1,
                &mut |messages| {
                    messages
                        .begin(
                            NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE,
                            REQUEST | ACK,
                            &nfnetlink_header(family, 0),
                        )
                        .text(NFTA_TABLE_NAME, TABLE);
                },
            );
            match removed {
                // Somebody was faster.
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Lets instances on a bridge out (unless it is `internal`), and keeps those of other bridges away from them.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn add_network(&self, bridge: &str, _subnet: Subnet, internal: bool) -> Result<()> {
        self.change(
            &|| format!("add the network of {bridge} to the rules"),
            Change::Add,
            &network_elements(bridge, internal),
        )
    }

    /// Forgets a bridge. One that the rules do not know is fine.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn remove_network(&self, bridge: &str, _subnet: Subnet, internal: bool) -> Result<()> {
        self.change(
            &|| format!("take the network of {bridge} out of the rules"),
            Change::Remove,
            &network_elements(bridge, internal),
        )
    }

    /// The bridges that the rules know.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn networks(&self) -> Result<Vec<String>> {
        let found = self.list(INET4, "bridges")?;
        Ok(found
            .into_iter()
            .map(|(key, _)| crate::netlink::text(&key))
            .collect())
    }

    /// Forwards ports of the host's. What led elsewhere before leads here then.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn publish(&self, published: &[Published]) -> Result<()> {
        let elements: Vec<Element> = published.iter().map(|one| one.element()).collect();
        let action = || "publish ports".to_owned();
        match self.change(&action, Change::Add, &elements) {
            // A killed instance's are still there.
            Err(error) if matches!(error.errno(), Some(libc::EEXIST | libc::EBUSY)) => {
                self.change(&action, Change::Remove, &elements)?;
                self.change(&action, Change::Add, &elements)?;
            }
            other => other?,
        }
        self.forget_connections(published)
    }

    /// Forwards them no more. What is not forwarded is fine.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn withdraw(&self, published: &[Published]) -> Result<()> {
        let elements: Vec<Element> = published.iter().map(|one| one.element()).collect();
        self.change(&|| "withdraw ports".into(), Change::Remove, &elements)?;
        self.forget_connections(published)
    }

    /// [`Self::withdraw`] and [`Self::unguard`] at once: what an instance had is gone in one transaction.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn forget(&self, published: &[Published], guarded: &[(&str, Mac, Ipv4Addr)]) -> Result<()> {
        let mut elements: Vec<Element> = published.iter().map(|one| one.element()).collect();
        for (port_name, mac, address) in guarded {
            elements.extend(guard_elements(port_name, *mac, *address));
        }
        self.change(&|| "forget an instance".into(), Change::Remove, &elements)?;
        self.forget_connections(published)
    }

    /// Every port that is forwarded.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn published(&self) -> Result<Vec<Published>> {
        let mut found = Vec::new();
        for map in ["any", "at"] {
            for (key, data) in self.list(INET4, map)? {
                found.extend(Published::read(map, &key, &data));
            }
        }
        Ok(found)
    }

    /// Keeps a port of a bridge to its own addresses: whatever else it sends is dropped. What it sends beyond its bridge bears the
    /// host's address.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn guard(&self, port_name: &str, mac: Mac, address: Ipv4Addr) -> Result<()> {
        self.change(
            &|| format!("guard the port {port_name}"),
            Change::Add,
            &guard_elements(port_name, mac, address),
        )
    }

    /// Forgets a port. One that is not known is fine.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn unguard(&self, port_name: &str, mac: Mac, address: Ipv4Addr) -> Result<()> {
        self.change(
            &|| format!("forget the port {port_name}"),
            Change::Remove,
            &guard_elements(port_name, mac, address),
        )
    }

    /// Every guarded port, with its addresses.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn guarded(&self) -> Result<Vec<(String, Mac, Ipv4Addr)>> {
        let found = self.list(BRIDGE, "may")?;
        Ok(found
            .into_iter()
            .filter_map(|(key, _)| {
                let mac: [u8; 6] = key.get(IFNAME..IFNAME + 6)?.try_into().ok()?;
                // Each part fills whole words of four bytes.
                let at = address(key.get(IFNAME + 8..)?)?;
                Some((crate::netlink::text(&key), Mac(mac), at))
            })
            .collect())
    }
}
