//! An instance's endpoints: made before it starts, gone when it has ended.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};

use network_core::rules::{Protocol, Published, Rules};
use network_core::{Mac, link, port};
use serde::{Deserialize, Serialize};

use super::lock::Guard;
use super::names::Names;
use super::record::{self, Network};
use super::resolver::Resolver;
use super::spec::{Attachment, BRIDGE, Exposed, Publish};
use super::{NetworkError, lease};
use crate::error::Result;
use crate::home::Home;
use crate::instance::{self, Record};
use crate::names;

/// Where names are asked for (RFC 1035).
const DNS_PORT: u16 = 53;

/// The most instances' interfaces that a VM has: its slots for devices are few.
pub(crate) const VM_ENDPOINTS_MAX: usize = 4;

/// An instance's place on a network while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// Its identifier.
    pub network_id: String,
    /// The bridge's link.
    pub bridge: String,
    /// The host's end of the instance's link.
    pub link: String,
    /// The interface inside.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The subnet's prefix length.
    pub prefix: u8,
    /// The network's gateway.
    pub gateway: Ipv4Addr,
    /// Whether the instance's default route leads there.
    pub routes: bool,
    /// The hardware address.
    pub mac: Mac,
    /// The largest packet; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
    /// Further names.
    pub aliases: Vec<String>,
}

impl Endpoint {
    fn port(&self) -> link::Port<'_> {
        link::Port {
            host_name: &self.link,
            bridge: &self.bridge,
            guest_name: &self.interface,
            mac: self.mac,
            address: self.address,
            prefix: self.prefix,
            gateway: self.routes.then_some(self.gateway),
            mtu: self.mtu,
        }
    }

    /// Puts the instance's interface into its network namespace.
    pub(crate) fn plug(&self, namespace: BorrowedFd<'_>) -> Result<()> {
        Ok(link::veth(&self.port(), namespace).map_err(NetworkError::from)?)
    }

    /// Takes the interface out of the instance's network namespace.
    pub(crate) fn unplug(&self, namespace: BorrowedFd<'_>) -> Result<()> {
        Ok(link::detach(namespace, &self.interface).map_err(NetworkError::from)?)
    }

    /// The device that a VM's interface writes to and reads from.
    pub(crate) fn tap(&self) -> Result<OwnedFd> {
        Ok(link::tap(&self.port()).map_err(NetworkError::from)?)
    }
}

/// A port of the host that leads to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; 0.0.0.0 for every one.
    pub host_ip: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The instance's port.
    pub port: u16,
}

/// What a running instance has of the host's networks. Dropping it gives everything back.
pub(crate) struct Connection {
    home: Home,
    id: String,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) bindings: Vec<Binding>,
    /// Every network that it has been on.
    networks: Vec<Network>,
    /// Keep the host's ports from everybody else.
    held: Vec<OwnedFd>,
    resolvers: Vec<(String, Resolver)>,
    rules: Rules,
}

/// What an instance that is on no network any more leaves to be looked after.
#[derive(Default)]
pub(crate) struct Left {
    /// Networks that nobody may be on any more.
    networks: Vec<Network>,
    /// A connection to the kernel: closing it takes longer than anybody should wait.
    rules: Rules,
}

impl Left {
    /// Keeps what another connection has left too.
    pub(crate) fn add(&mut self, other: Self) {
        for network in other.networks {
            if !self.networks.contains(&network) {
                self.networks.push(network);
            }
        }
        // One that is closed by the way costs nobody anything: the instance starts again later.
        self.rules = other.rules;
    }

    /// Whether there is nothing to take down.
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Removes the bridges and rules of those networks that nobody is on.
    pub(crate) fn take_down(&self, home: &Home) -> Result<()> {
        take_idle_down(home, &self.networks)
    }
}

impl Connection {
    /// Of an instance that is on no network of ours.
    pub(crate) fn none(home: &Home, id: &str) -> Self {
        Self {
            home: home.clone(),
            id: id.to_owned(),
            endpoints: Vec::new(),
            bindings: Vec::new(),
            networks: Vec::new(),
            held: Vec::new(),
            resolvers: Vec::new(),
            rules: Rules::default(),
        }
    }

    /// Gets an instance its addresses and ports. Its interfaces are made when it is started.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left then.
    pub(crate) fn make(home: &Home, record: &Record, notice: &mut dyn FnMut(&str)) -> Result<Self> {
        let mut connection = Self::none(home, &record.id);
        let asked = &record.spec.network;
        if !asked.is_attached() {
            return Ok(connection);
        }
        // Before anything is made: a port that is taken is what goes wrong most often.
        connection.hold_ports(&asked.publish)?;
        if asked.publish_all {
            connection.hold_exposed(&asked.exposed)?;
        }
        if asked.attachments.is_empty() {
            connection.join(&Attachment::to(BRIDGE), notice)?;
        }
        for attachment in &asked.attachments {
            connection.join(attachment, notice)?;
        }
        connection.publish()?;
        Ok(connection)
    }

    /// Takes the host's ports.
    fn hold_ports(&mut self, publish: &[Publish]) -> Result<()> {
        for wanted in publish {
            let (held, host_port) = match wanted.host_ports {
                None => self.hold(wanted, 0)?,
                Some((port, last)) if port == last => self.hold(wanted, port)?,
                Some((first, last)) => (first..=last)
                    .find_map(|port| self.hold(wanted, port).ok())
                    .ok_or(NetworkError::RangeTaken {
                        ip: wanted.host_ip,
                        first,
                        last,
                        protocol: wanted.protocol,
                    })?,
            };
            self.held.push(held);
            self.bindings.push(Binding {
                protocol: wanted.protocol,
                host_ip: wanted.host_ip,
                host_port,
                port: wanted.port,
            });
        }
        Ok(())
    }

    fn hold_exposed(&mut self, exposed: &[Exposed]) -> Result<()> {
        let unpublished: Vec<Publish> = exposed
            .iter()
            .filter(|exposed| {
                !self.bindings.iter().any(|binding| {
                    (binding.port, binding.protocol) == (exposed.port, exposed.protocol)
                })
            })
            .map(|exposed| Publish {
                protocol: exposed.protocol,
                host_ip: Ipv4Addr::UNSPECIFIED,
                host_ports: None,
                port: exposed.port,
            })
            .collect();
        self.hold_ports(&unpublished)
    }

    fn hold(&self, wanted: &Publish, port: u16) -> Result<(OwnedFd, u16)> {
        port::hold(wanted.protocol, wanted.host_ip, port).map_err(|error| match error {
            network_core::Error::InUse { ip, port, protocol } => NetworkError::PortTaken {
                ip,
                port,
                protocol,
                holder: instance::with_port(&self.home, protocol, ip, port)
                    .map(|name| format!("container {name}"))
                    .or_else(|| port::holder(protocol, ip, port)),
            }
            .into(),
            other => NetworkError::from(other).into(),
        })
    }

    /// Takes a place on a network: its bridge is there after this, and the address is the instance's.
    pub(crate) fn join(
        &mut self,
        attachment: &Attachment,
        notice: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let home = self.home.clone();
        let network = record::by_name(&home, &attachment.network)?;
        if let Some(lease) = attachment
            .address
            .and_then(|address| lease::read(&home, &network.name, address))
        {
            // A killed instance may have had it.
            instance::settle(&home, &lease.id)?;
        }
        let (network, made, address) = {
            let guard = Guard::take()?;
            let (network, made) = bring_up(&home, &guard, &self.rules, network)?;
            if !self.networks.contains(&network) {
                self.networks.push(network.clone());
            }
            let address = lease::take(
                &home,
                &guard,
                &network,
                &self.id,
                attachment.address,
                &attachment.aliases,
            )?;
            (network, made, address)
        };
        let routes = !network.internal && !self.endpoints.iter().any(|other| other.routes);
        let random: [u8; 5] = names::random_bytes()?;
        let link = random.iter().fold("plv".to_owned(), |mut name, byte| {
            use std::fmt::Write;
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
            name
        });
        let number = (0..)
            .find(|number| {
                !self
                    .endpoints
                    .iter()
                    .any(|other| other.interface == format!("eth{number}"))
            })
            .unwrap_or_default();
        let endpoint = Endpoint {
            network: network.name.clone(),
            network_id: network.id.clone(),
            bridge: network.link.clone(),
            link,
            interface: format!("eth{number}"),
            address,
            prefix: network.subnet.prefix(),
            gateway: network.gateway,
            routes,
            mac: attachment.mac.unwrap_or_else(|| Mac::of(address)),
            mtu: network.mtu(),
            aliases: attachment.aliases.clone(),
        };
        // From here on, dropping the connection gives the address back.
        self.endpoints.push(endpoint.clone());
        self.rules
            .guard(&endpoint.link, endpoint.mac, address)
            .map_err(NetworkError::from)?;
        if made && let Ok(Some(sentence)) = self.rules.foreign_drop(&network.link) {
            notice(&sentence);
        }
        Ok(())
    }

    /// Answers for its networks' names, beside everybody else on them. Threads do that, so it comes after the instance's
    /// processes have been forked.
    pub(crate) fn resolve(&mut self, notice: &mut dyn FnMut(&str)) {
        for network in self.networks.clone() {
            let is_on = self.endpoints.iter().any(|one| one.network == network.name);
            let resolves = self.resolvers.iter().any(|(name, _)| *name == network.name);
            if is_on && !resolves && !network.is_default() {
                self.resolve_one(&network, notice);
            }
        }
    }

    fn resolve_one(&mut self, network: &Network, notice: &mut dyn FnMut(&str)) {
        let address = SocketAddrV4::new(network.gateway, DNS_PORT);
        match Resolver::start(address, Names::new(&self.home, network)) {
            Ok(resolver) => self.resolvers.push((network.name.clone(), resolver)),
            Err(error) => notice(&format!(
                "names on network {} are not resolved: {error}",
                network.name
            )),
        }
    }

    /// The endpoint that published ports lead to: the one with the default route.
    fn published_at(&self) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.routes)
            .or(self.endpoints.first())
    }

    fn published(&self) -> Vec<Published> {
        let Some(endpoint) = self.published_at() else {
            return Vec::new();
        };
        self.bindings
            .iter()
            .map(|binding| Published {
                protocol: binding.protocol,
                host_ip: binding.host_ip,
                host_port: binding.host_port,
                to: endpoint.address,
                to_port: binding.port,
            })
            .collect()
    }

    fn publish(&self) -> Result<()> {
        let published = self.published();
        if !published.is_empty() {
            self.rules.publish(&published).map_err(NetworkError::from)?;
        }
        Ok(())
    }

    /// Gives everything back.
    pub(crate) fn end(mut self) -> Left {
        self.give_everything_back();
        Left {
            networks: std::mem::take(&mut self.networks),
            rules: std::mem::take(&mut self.rules),
        }
    }

    /// Leaves one network; the interface must be gone already.
    pub(crate) fn leave(&mut self, network: &str) -> Result<()> {
        let published = self.published();
        self.resolvers.retain(|(name, _)| name != network);
        let place = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.network == network);
        let forgotten = match place {
            Some(place) => {
                let endpoint = self.endpoints.remove(place);
                let guarded = (endpoint.link.as_str(), endpoint.mac, endpoint.address);
                let forgotten = self.rules.forget(&published, &[guarded]);
                lease::release(&self.home, &endpoint.network, endpoint.address, &self.id)?;
                forgotten
            }
            None => self.rules.withdraw(&published),
        };
        forgotten.map_err(NetworkError::from)?;
        self.publish()
    }

    fn give_everything_back(&mut self) {
        self.resolvers.clear();
        let published = self.published();
        let guarded: Vec<_> = self
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.link.as_str(), endpoint.mac, endpoint.address))
            .collect();
        if !guarded.is_empty() || !published.is_empty() {
            // Whatever cannot be taken back now is found by the leases when the network is next looked at.
            let _ = self.rules.forget(&published, &guarded);
        }
        for endpoint in &self.endpoints {
            // Whatever still stands in the instance's namespace must not answer for whoever gets the address next.
            let _ = link::shut_port(&endpoint.link);
        }
        // Only now may others have them.
        for endpoint in self.endpoints.drain(..) {
            let _ = lease::release(&self.home, &endpoint.network, endpoint.address, &self.id);
        }
        self.bindings.clear();
        self.held.clear();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.give_everything_back();
        // Nobody keeps them for a while: the start has failed.
        let _ = take_idle_down(&self.home, &self.networks);
    }
}

/// Whether a network's bridge is there. Asked by a socket, which sees this thread's network namespace; /sys shows that of whoever
/// mounted it.
fn is_up(network: &Network) -> bool {
    nix::net::if_::if_nametoindex(network.link.as_str()).is_ok()
}

/// Makes a network's bridge and rules, if they are not there; whether the bridge was not.
fn bring_up(
    home: &Home,
    guard: &Guard,
    rules: &Rules,
    network: Network,
) -> Result<(Network, bool)> {
    let network = match is_up(&network) {
        true => network,
        false => record::settle_subnet(home, guard, network)?,
    };
    let kernel = NetworkError::from;
    // Each time: somebody may have flushed the host's rules.
    rules.ensure().map_err(kernel)?;
    let made = link::ensure_bridge(
        &network.link,
        network.gateway,
        network.subnet,
        network.mtu(),
    )
    .map_err(kernel)?;
    guard.turn_forwarding_on()?;
    rules
        .add_network(&network.link, network.subnet, network.internal)
        .map_err(kernel)?;
    Ok((network, made))
}

/// Removes a network's bridge and rules; what all networks share too, if it was the last.
pub(super) fn take_down(guard: &Guard, network: &Network) -> Result<()> {
    let kernel = NetworkError::from;
    let rules = Rules::default();
    if is_up(network) {
        rules
            .remove_network(&network.link, network.subnet, network.internal)
            .map_err(kernel)?;
        link::remove_bridge(&network.link).map_err(kernel)?;
    }
    if rules.networks().map_err(kernel)?.is_empty() {
        rules.remove().map_err(kernel)?;
        guard.restore_forwarding()?;
    }
    Ok(())
}

/// Gives back what a killed instance had.
pub(crate) fn reclaim(home: &Home, id: &str) -> Result<()> {
    let leases = lease::of(home, id)?;
    if leases.is_empty() {
        return Ok(());
    }
    let kernel = NetworkError::from;
    let rules = Rules::default();
    let stale: Vec<Published> = rules
        .published()
        .map_err(kernel)?
        .into_iter()
        .filter(|published| leases.iter().any(|(_, address)| *address == published.to))
        .collect();
    rules.withdraw(&stale).map_err(kernel)?;
    for (link, mac, address) in rules.guarded().map_err(kernel)? {
        if leases.iter().any(|(_, leased)| *leased == address) {
            rules.unguard(&link, mac, address).map_err(kernel)?;
            // A VM's goes with its monitor, a container's with its namespace, both of which may take a moment.
            link::remove_port(&link).map_err(kernel)?;
        }
    }
    for (network, address) in leases {
        lease::release(home, &network, address, id)?;
    }
    collect(home)
}

/// Removes the bridges and rules of networks that nobody is on.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn collect(home: &Home) -> Result<()> {
    let mut idle = Vec::new();
    for name in record::folders(home)? {
        if !lease::is_used(home, &name)?
            && let Ok(network) = record::by_name(home, &name)
            && is_up(&network)
        {
            idle.push(network);
        }
    }
    take_idle_down(home, &idle)
}

/// Removes the bridges and rules of those of these networks that nobody is on. A network whose directory is gone has nobody.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn take_idle_down(home: &Home, networks: &[Network]) -> Result<()> {
    if networks.is_empty() {
        return Ok(());
    }
    let guard = Guard::take()?;
    for network in networks {
        if !lease::is_used(home, &network.name)? {
            take_down(&guard, network)?;
        }
    }
    Ok(())
}
