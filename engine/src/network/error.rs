//! What can go wrong with networks.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use network_core::Subnet;
use network_core::rules::Protocol;

/// Everything that keeps a network or an endpoint from being made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel's side failed.
    #[error(transparent)]
    Kernel(#[from] network_core::Error),
    /// No network goes by that name or identifier.
    #[error("network {0} not found")]
    NotFound(String),
    /// An identifier's beginning fits several networks.
    #[error("network {0} is ambiguous: give more of the identifier, or the name")]
    Ambiguous(String),
    /// The name is in use.
    #[error("network with name {0} already exists")]
    Exists(String),
    /// The name cannot be one.
    #[error("invalid network name {0:?}: use [a-zA-Z0-9_.-], beginning with a letter or a digit")]
    Name(String),
    /// Three networks are always there.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// Something is still on it.
    #[error(
        "error while removing network: network {name} has active endpoints ({users}): stop or disconnect them first"
    )]
    InUse {
        /// The network.
        name: String,
        /// Who is on it.
        users: String,
    },
    /// A value of a flag is wrong.
    #[error("invalid value {value:?} for {flag}: {reason}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A port is not what one can be.
    #[error("invalid port {text:?}: {reason}")]
    Port {
        /// As typed.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Named twice.
    #[error("network {0} is named more than once")]
    Twice(String),
    /// The default network gives addresses itself.
    #[error(
        "user specified IP address is supported on user defined networks only: make one with `plimsoll network create --subnet`"
    )]
    AddressOnDefault,
    /// The default network knows no names.
    #[error(
        "network-scoped alias is supported only for containers in user defined networks: make one with `plimsoll network create`"
    )]
    AliasOnDefault,
    /// The subnet was chosen by us, and may change.
    #[error(
        "user specified IP address is supported only when connecting to networks with user configured subnets: network {0} has none"
    )]
    NoSubnet(String),
    /// The address does not belong to the network.
    #[error("address {address} is not one of network {network}'s ({subnet}) for instances")]
    Outside {
        /// What was asked for.
        address: Ipv4Addr,
        /// The network.
        network: String,
        /// Its subnet.
        subnet: Subnet,
    },
    /// Somebody has the address.
    #[error("address {address} is already in use on network {network} by container {holder}")]
    AddressTaken {
        /// What was asked for.
        address: Ipv4Addr,
        /// The network.
        network: String,
        /// Short identifier.
        holder: String,
    },
    /// No address is left.
    #[error("no available addresses on network {network}: all of {subnet} are in use")]
    Exhausted {
        /// The network.
        network: String,
        /// Its subnet.
        subnet: Subnet,
    },
    /// The host goes elsewhere for these addresses.
    #[error(
        "the subnet {subnet} of network {network} overlaps the host's route {route}: choose another with `network create --subnet`"
    )]
    Overlap {
        /// The subnet.
        subnet: Subnet,
        /// The network.
        network: String,
        /// The route, in ip-route(8)'s words.
        route: String,
    },
    /// Two networks of ours cannot have the same addresses.
    #[error(
        "Pool overlaps with other one on this address space: {subnet} overlaps network {other}'s {theirs}"
    )]
    Pool {
        /// What was asked for.
        subnet: Subnet,
        /// The other network.
        other: String,
        /// Its subnet.
        theirs: Subnet,
    },
    /// All of our own range is taken.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to network {0}: name one with --subnet"
    )]
    NoPool(String),
    /// The host's port is taken.
    #[error("Bind for {ip}:{port}/{protocol} failed: port is already allocated{}", .holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    PortTaken {
        /// The host's address.
        ip: Ipv4Addr,
        /// The host's port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Who has it.
        holder: Option<String>,
    },
    /// Every port of a range is taken.
    #[error("Bind for {ip}:{first}-{last}/{protocol} failed: all ports are allocated")]
    RangeTaken {
        /// The host's address.
        ip: Ipv4Addr,
        /// The range's first port.
        first: u16,
        /// Its last one.
        last: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// The instance is on it already.
    #[error("endpoint with name {instance} already exists in network {network}")]
    AlreadyThere {
        /// The instance's name.
        instance: String,
        /// The network.
        network: String,
    },
    /// The instance is not on it.
    #[error("container {instance} is not connected to network {network}")]
    NotThere {
        /// The instance.
        instance: String,
        /// The network.
        network: String,
    },
    /// Links lead to what runs.
    #[error("Cannot link to a non running container: /{target} AS /{name}/{alias}")]
    LinkNotRunning {
        /// The other one.
        target: String,
        /// This one.
        name: String,
        /// What it is called here.
        alias: String,
    },
    /// A network of another instance is joined while that runs.
    #[error("cannot join network of a non running container: {0}")]
    JoinNotRunning(String),
    /// A network of ours in its place.
    #[error("{0}")]
    Refused(String),
    /// A file does not hold what it should.
    #[error("the network file {} is damaged ({reason}): remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
}
