//! Networks: what each is, in a directory of its own.
//!
//! ```text
//! networks/<name>/network.json     what it is
//! networks/<name>/leases/<address> whose the address is, and under which names
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use network_core::{Subnet, route};
use serde::{Deserialize, Serialize};

use super::lock::Guard;
use super::spec::{BRIDGE, HOST, NONE};
use super::{NetworkError, lease};
use crate::error::{Error, Result};
use crate::home::{DEFAULT_ROOT, Home, replace};
use crate::{instance, names};

/// The layout of network.json; raised when a field changes its meaning.
const VERSION: u32 = 1;

/// The largest network file that is read, bytes.
const FILE_MAX: u64 = 1 << 20;

/// Where subnets come from unless the user names one: 256 networks of 4,094 addresses, in a corner of the private range that
/// neither docker (172.16/12, 192.168/16) nor podman (10.88/16, 10.89/16 and up) uses by itself.
const POOL: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 208, 0, 0), 12);

/// The size of each.
const POOL_PREFIX: u8 = 20;

/// docker's key for a bridge's MTU.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// docker's key for a bridge's link name.
const NAME_OPTION: &str = "com.docker.network.bridge.name";

/// The link of the default network in the default state directory.
const DEFAULT_LINK: &str = "plimsoll0";

/// A network of ours: a bridge, its subnet, and who has which address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    version: u32,
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Nanoseconds since 1970.
    pub created: u64,
    /// Its addresses.
    pub subnet: Subnet,
    /// The bridge's own one.
    pub gateway: Ipv4Addr,
    /// Where addresses are taken from; `None`: the whole subnet.
    pub range: Option<Subnet>,
    /// The subnet was chosen by us, and may be chosen again while nobody is on the network.
    pub chosen: bool,
    /// Nothing goes out or comes in.
    pub internal: bool,
    /// The bridge's link.
    pub link: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options, docker's keys.
    pub options: BTreeMap<String, String>,
}

/// What a network is to be.
#[derive(Debug, Clone, Default)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// `--subnet`.
    pub subnet: Option<Subnet>,
    /// `--gateway`.
    pub gateway: Option<Ipv4Addr>,
    /// `--ip-range`.
    pub range: Option<Subnet>,
    /// `--internal`.
    pub internal: bool,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--opt`.
    pub options: BTreeMap<String, String>,
}

impl Network {
    /// The largest packet, bytes; `None`: the kernel's 1500.
    pub fn mtu(&self) -> Option<u32> {
        self.options.get(MTU_OPTION)?.parse().ok()
    }

    /// Whether it is the one that instances are on unless told otherwise.
    pub fn is_default(&self) -> bool {
        self.name == BRIDGE
    }

    /// Addresses for instances, in the order in which they are handed out.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let gateway = self.gateway;
        let subnet = self.subnet;
        self.range
            .unwrap_or(self.subnet)
            .hosts()
            .filter(move |address| {
                *address != gateway
                    && *address != subnet.address()
                    && *address != subnet.broadcast()
            })
    }
}

fn folder(home: &Home, name: &str) -> PathBuf {
    home.networks().join(name)
}

/// The file that says what a network is.
fn file(home: &Home, name: &str) -> PathBuf {
    folder(home, name).join("network.json")
}

/// The directory of its leases.
pub(super) fn leases(home: &Home, name: &str) -> PathBuf {
    folder(home, name).join("leases")
}

fn read(home: &Home, name: &str) -> Result<Option<Network>> {
    let path = file(home, name);
    let damaged = |reason: String| NetworkError::Damaged {
        path: path.clone(),
        reason,
    };
    match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
        Ok(about) if about.len() > FILE_MAX => return Err(damaged("it is too long".into()).into()),
        Ok(_) => {}
    }
    let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let network: Network = serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))?;
    if network.version != VERSION {
        let (found, known) = (network.version, VERSION);
        return Err(damaged(format!(
            "its version is {found}, this plimsoll reads {known}"
        ))
        .into());
    }
    if network.name != name {
        return Err(damaged(format!("it is of network {:?}", network.name)).into());
    }
    Ok(Some(network))
}

/// The network with exactly that name; the default one is made when it is first asked for.
///
/// # Errors
/// [`NetworkError::NotFound`], [`NetworkError::Damaged`].
pub(crate) fn by_name(home: &Home, name: &str) -> Result<Network> {
    if let Some(network) = read(home, name)? {
        return Ok(network);
    }
    if name != BRIDGE {
        return Err(NetworkError::NotFound(name.to_owned()).into());
    }
    let guard = Guard::take()?;
    if let Some(network) = read(home, name)? {
        return Ok(network);
    }
    let new = NewNetwork {
        name: BRIDGE.to_owned(),
        ..NewNetwork::default()
    };
    make(home, &guard, new)
}

/// The network with that name, identifier or beginning of an identifier.
///
/// # Errors
/// [`NetworkError::NotFound`], [`NetworkError::Ambiguous`], [`NetworkError::Damaged`].
pub fn find(home: &Home, wanted: &str) -> Result<Network> {
    if wanted == BRIDGE || (names::is_valid_network(wanted) && file(home, wanted).exists()) {
        return by_name(home, wanted);
    }
    let hexadecimal = !wanted.is_empty() && wanted.bytes().all(|b| b.is_ascii_hexdigit());
    let mut fitting = list(home)?
        .into_iter()
        .filter(|network| hexadecimal && network.id.starts_with(wanted));
    match (fitting.next(), fitting.next()) {
        (Some(network), None) => Ok(network),
        (Some(_), Some(_)) => Err(NetworkError::Ambiguous(wanted.to_owned()).into()),
        (None, _) => Err(NetworkError::NotFound(wanted.to_owned()).into()),
    }
}

/// All networks of ours, by name. Damaged ones are left out; [`find`] tells what is wrong with them.
///
/// # Errors
/// [`Error::Io`].
pub fn list(home: &Home) -> Result<Vec<Network>> {
    let mut networks = vec![by_name(home, BRIDGE)?];
    for name in folders(home)? {
        if name != BRIDGE
            && let Ok(Some(network)) = read(home, &name)
        {
            networks.push(network);
        }
    }
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(networks)
}

/// The names of all networks that have a directory.
pub(super) fn folders(home: &Home) -> Result<Vec<String>> {
    let path = home.networks();
    let entries = match fs::read_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::io("read", &path, e))?,
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect())
}

/// Makes a network.
///
/// # Errors
/// [`NetworkError`]: a name that is taken or cannot be one, a subnet that overlaps another's or a route of the host's, a
/// gateway or range outside of it.
pub fn create(home: &Home, new: NewNetwork) -> Result<Network> {
    if [BRIDGE, HOST, NONE, "default"].contains(&new.name.as_str()) {
        return Err(NetworkError::Exists(new.name).into());
    }
    if !names::is_valid_network(&new.name) {
        return Err(NetworkError::Name(new.name).into());
    }
    let guard = Guard::take()?;
    if file(home, &new.name).exists() {
        return Err(NetworkError::Exists(new.name).into());
    }
    check_options(&new.options)?;
    make(home, &guard, new)
}

fn check_options(options: &BTreeMap<String, String>) -> Result<(), NetworkError> {
    for (key, value) in options {
        let wrong = |reason: &str| NetworkError::Value {
            flag: "--opt",
            value: format!("{key}={value}"),
            reason: reason.to_owned(),
        };
        match key.as_str() {
            MTU_OPTION => match value.parse::<u32>() {
                // RFC 791's least, and what an Ethernet frame's length field holds at the most.
                Ok(68..=65_535) => {}
                _ => return Err(wrong("the MTU is a number from 68 to 65535")),
            },
            NAME_OPTION => {
                let fits = (1..=15).contains(&value.len())
                    && value
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
                if !fits || value == "." || value == ".." {
                    return Err(wrong("a link's name has 1 to 15 characters and no slash"));
                }
            }
            _ => {
                return Err(wrong(&format!(
                    "the options {MTU_OPTION} and {NAME_OPTION} are known"
                )));
            }
        }
    }
    Ok(())
}

fn make(home: &Home, _guard: &Guard, new: NewNetwork) -> Result<Network> {
    let id = names::new_id()?;
    let (subnet, chosen) = match new.subnet {
        Some(subnet) => (subnet, false),
        None => (choose(home, &new.name)?, true),
    };
    if !chosen {
        refuse_overlap(home, &new.name, subnet)?;
    }
    let value = |flag, value: String, reason: String| NetworkError::Value {
        flag,
        value,
        reason,
    };
    if subnet.prefix() > 30 {
        let reason = "a network needs addresses for its gateway and an instance: use /30 or a shorter prefix";
        return Err(value("--subnet", subnet.to_string(), reason.into()).into());
    }
    let first = subnet.hosts().next().unwrap_or_else(|| subnet.address());
    let gateway = new.gateway.unwrap_or(first);
    if !subnet.contains(gateway) || gateway == subnet.address() || gateway == subnet.broadcast() {
        let reason = format!("no matching subnet: it is not one of {subnet}'s addresses for hosts");
        return Err(value("--gateway", gateway.to_string(), reason).into());
    }
    if let Some(range) = new.range
        && (!subnet.contains(range.address()) || !subnet.contains(range.broadcast()))
    {
        let reason = format!("it is not within the subnet {subnet}");
        return Err(value("--ip-range", range.to_string(), reason).into());
    }
    let link = match new.options.get(NAME_OPTION) {
        Some(name) => name.clone(),
        None if new.name == BRIDGE && home.root() == std::path::Path::new(DEFAULT_ROOT) => {
            DEFAULT_LINK.to_owned()
        }
        None => format!("pl-{}", instance::short(&id)),
    };
    let network = Network {
        version: VERSION,
        name: new.name,
        id,
        created: instance::now(),
        subnet,
        gateway,
        range: new.range,
        chosen,
        internal: new.internal,
        link,
        labels: new.labels,
        options: new.options,
    };
    write_new(home, &network)?;
    Ok(network)
}

/// Makes the network's directory, whole or not at all.
fn write_new(home: &Home, network: &Network) -> Result<()> {
    let place = folder(home, &network.name);
    let unfinished = home.networks().join(format!(".{}", network.id));
    let written = fs::create_dir_all(unfinished.join("leases"))
        .map_err(|e| Error::io("create", &unfinished, e))
        .and_then(|()| write(&unfinished.join("network.json"), network))
        .and_then(|()| {
            fs::rename(&unfinished, &place).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                    NetworkError::Exists(network.name.clone()).into()
                }
                _ => Error::io("create", &place, e),
            })
        });
    if written.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_dir_all(&unfinished);
    }
    written
}

fn write(path: &std::path::Path, network: &Network) -> Result<()> {
    let json = serde_json::to_vec(network).map_err(|e| NetworkError::Damaged {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    replace(path, &json)
}

/// A subnet that nobody uses.
fn choose(home: &Home, name: &str) -> Result<Subnet> {
    let ours: Vec<Subnet> = subnets(home, name)?.into_iter().map(|(_, s)| s).collect();
    let first = u32::from(POOL.0);
    let count = 1_u32 << (POOL_PREFIX - POOL.1);
    for number in 0..count {
        let address = Ipv4Addr::from(first + (number << (32 - POOL_PREFIX)));
        let subnet = Subnet::new(address, POOL_PREFIX).map_err(NetworkError::from)?;
        if ours.iter().all(|other| !other.overlaps(&subnet))
            && route::overlapping(subnet)
                .map_err(NetworkError::from)?
                .is_none()
        {
            return Ok(subnet);
        }
    }
    Err(NetworkError::NoPool(name.to_owned()).into())
}

/// The subnets of all other networks of this state directory.
fn subnets(home: &Home, name: &str) -> Result<Vec<(String, Subnet)>> {
    let mut subnets = Vec::new();
    for other in folders(home)? {
        if other != name
            && let Ok(Some(network)) = read(home, &other)
        {
            subnets.push((other, network.subnet));
        }
    }
    Ok(subnets)
}

fn refuse_overlap(home: &Home, name: &str, subnet: Subnet) -> Result<()> {
    for (other, theirs) in subnets(home, name)? {
        if theirs.overlaps(&subnet) {
            return Err(NetworkError::Pool {
                subnet,
                other,
                theirs,
            }
            .into());
        }
    }
    refuse_route(name, subnet)
}

fn refuse_route(name: &str, subnet: Subnet) -> Result<()> {
    match route::overlapping(subnet).map_err(NetworkError::from)? {
        Some(route) => Err(NetworkError::Overlap {
            subnet,
            network: name.to_owned(),
            route,
        }
        .into()),
        None => Ok(()),
    }
}

/// Before a network's bridge is made: its addresses must lead nowhere else. A subnet of our own choice is chosen again.
pub(super) fn settle_subnet(home: &Home, _guard: &Guard, network: Network) -> Result<Network> {
    match refuse_route(&network.name, network.subnet) {
        Ok(()) => Ok(network),
        Err(_) if network.chosen => {
            let subnet = choose(home, &network.name)?;
            let network = Network {
                subnet,
                gateway: subnet.hosts().next().unwrap_or_else(|| subnet.address()),
                range: None,
                ..network
            };
            write(&file(home, &network.name), &network)?;
            Ok(network)
        }
        Err(error) => Err(error),
    }
}

/// Removes a network that nobody is on.
///
/// # Errors
/// [`NetworkError::Predefined`], [`NetworkError::InUse`], [`NetworkError::NotFound`].
pub fn remove(home: &Home, wanted: &str) -> Result<Network> {
    if [BRIDGE, HOST, NONE].contains(&wanted) {
        return Err(NetworkError::Predefined(wanted.to_owned()).into());
    }
    let network = find(home, wanted)?;
    if network.is_default() {
        return Err(NetworkError::Predefined(network.name).into());
    }
    // What killed instances have left is no use of it.
    for lease in lease::all(home, &network.name)? {
        instance::settle(home, &lease.id)?;
    }
    let guard = Guard::take()?;
    let users = lease::all(home, &network.name)?;
    if !users.is_empty() {
        let users: Vec<String> = users
            .iter()
            .map(|lease| instance::name(home, &lease.id))
            .collect();
        return Err(NetworkError::InUse {
            name: network.name,
            users: users.join(", "),
        }
        .into());
    }
    super::attach::take_down(&guard, &network)?;
    let trash = home.trash().join(format!("network-{}", network.id));
    let place = folder(home, &network.name);
    fs::rename(&place, &trash).map_err(|e| Error::io("remove", &place, e))?;
    fs::remove_dir_all(&trash).map_err(|e| Error::io("remove", &trash, e))?;
    Ok(network)
}
