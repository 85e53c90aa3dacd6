//! Who has which address of a network: a file for each, named for the address.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

use super::NetworkError;
use super::lock::Guard;
use super::record::{Network, folders, leases};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance;

/// The largest lease that is read, bytes: an identifier and some names.
const FILE_MAX: usize = 64 << 10;

/// An address that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The instance that has it.
    pub id: String,
    /// Further names of the instance on this network.
    pub aliases: Vec<String>,
}

/// All leases of a network.
///
/// # Errors
/// [`Error::Io`].
pub fn all(home: &Home, network: &str) -> Result<Vec<Lease>> {
    let path = leases(home, network);
    let entries = match fs::read_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::io("read", &path, e))?,
    };
    let mut list: Vec<Lease> = entries
        .flatten()
        .filter_map(|entry| {
            let address = entry.file_name().to_str()?.parse().ok()?;
            read(home, network, address)
        })
        .collect();
    list.sort_by_key(|lease| lease.address);
    Ok(list)
}

/// Whose an address is.
pub(super) fn read(home: &Home, network: &str, address: Ipv4Addr) -> Option<Lease> {
    let text = fs::read(leases(home, network).join(address.to_string())).ok()?;
    let text = String::from_utf8(text)
        .ok()
        .filter(|text| text.len() <= FILE_MAX)?;
    let mut lines = text.lines().map(str::to_owned);
    Some(Lease {
        address,
        id: lines.next()?,
        aliases: lines.collect(),
    })
}

/// Whether anybody is on the network.
pub(super) fn is_used(home: &Home, network: &str) -> Result<bool> {
    let path = leases(home, network);
    match fs::read_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("read", &path, e)),
        Ok(entries) => Ok(entries
            .flatten()
            .any(|entry| is_address(&entry.file_name()).is_some())),
    }
}

fn is_address(name: &std::ffi::OsStr) -> Option<Ipv4Addr> {
    name.to_str()?.parse().ok()
}

/// Gives an instance the address it wants, or the lowest that is free.
///
/// # Errors
/// [`NetworkError::AddressTaken`], [`NetworkError::Outside`], [`NetworkError::NoSubnet`], [`NetworkError::Exhausted`].
pub(super) fn take(
    home: &Home,
    _guard: &Guard,
    network: &Network,
    id: &str,
    wanted: Option<Ipv4Addr>,
    aliases: &[String],
) -> Result<Ipv4Addr> {
    let path = leases(home, &network.name);
    let taken: BTreeSet<Ipv4Addr> = fs::read_dir(&path)
        .map_err(|e| Error::io("read", &path, e))?
        .flatten()
        .filter_map(|entry| is_address(&entry.file_name()))
        .collect();
    let address = match wanted {
        Some(address) => {
            if network.chosen {
                return Err(NetworkError::NoSubnet(network.name.clone()).into());
            }
            let subnet = network.subnet;
            if !subnet.contains(address)
                || [subnet.address(), subnet.broadcast(), network.gateway].contains(&address)
            {
                return Err(NetworkError::Outside {
                    address,
                    network: network.name.clone(),
                    subnet,
                }
                .into());
            }
            if taken.contains(&address) {
                let holder = read(home, &network.name, address)
                    .map_or_else(String::new, |lease| instance::short(&lease.id).to_owned());
                return Err(NetworkError::AddressTaken {
                    address,
                    network: network.name.clone(),
                    holder,
                }
                .into());
            }
            address
        }
        None => network
            .addresses()
            .find(|address| !taken.contains(address))
            .ok_or_else(|| NetworkError::Exhausted {
                network: network.name.clone(),
                subnet: network.range.unwrap_or(network.subnet),
            })?,
    };
    let mut text = format!("{id}\n");
    for alias in aliases {
        text.push_str(alias);
        text.push('\n');
    }
    replace_whole(&path, address, &text)?;
    Ok(address)
}

/// A reader sees the whole lease or none.
fn replace_whole(folder: &std::path::Path, address: Ipv4Addr, text: &str) -> Result<()> {
    let path = folder.join(address.to_string());
    let unfinished = folder.join(format!(".{address}"));
    fs::write(&unfinished, text).map_err(|e| Error::io("write", &unfinished, e))?;
    fs::rename(&unfinished, &path).map_err(|e| Error::io("create", &path, e))
}

/// Gives an address back, if it is that instance's.
pub(super) fn release(home: &Home, network: &str, address: Ipv4Addr, id: &str) -> Result<()> {
    if read(home, network, address).is_none_or(|lease| lease.id != id) {
        return Ok(());
    }
    let path = leases(home, network).join(address.to_string());
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
        _ => Ok(()),
    }
}

/// Every address that an instance has, on any network; for what a killed one has left.
pub(super) fn of(home: &Home, id: &str) -> Result<Vec<(String, Ipv4Addr)>> {
    let mut found = Vec::new();
    for network in folders(home)? {
        for lease in all(home, &network)? {
            if lease.id == id {
                found.push((network.clone(), lease.address));
            }
        }
    }
    Ok(found)
}
