//! What a network's names mean: the directory that its resolvers look into.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use network_core::Subnet;

use super::files;
use super::lease::{self, Lease};
use super::record::Network;
use super::resolver::{Directory, Lookup};
use crate::home::Home;
use crate::instance;

/// Where names are asked for.
const DNS_PORT: u16 = 53;

/// The beginning of an identifier that is a name, digits: what `ps` shows.
const SHORT: usize = 12;

/// One network's names.
pub(super) struct Names {
    home: Home,
    network: String,
    subnet: Subnet,
}

impl Names {
    pub(super) fn new(home: &Home, network: &Network) -> Self {
        Self {
            home: home.clone(),
            network: network.name.clone(),
            subnet: network.subnet,
        }
    }

    fn leases(&self) -> Vec<Lease> {
        lease::all(&self.home, &self.network).unwrap_or_default()
    }
}

impl Directory for Names {
    fn lookup(&self, _asker: Ipv4Addr, name: &str) -> Lookup {
        // `db.backend` is db on the network backend, as docker has it.
        let name = name
            .strip_suffix(&format!(".{}", self.network.to_ascii_lowercase()))
            .unwrap_or(name);
        let named = instance::with_name(&self.home, name);
        let found: Vec<Ipv4Addr> = self
            .leases()
            .into_iter()
            .filter(|lease| {
                named.as_deref() == Some(lease.id.as_str())
                    || lease.aliases.iter().any(|a| a.eq_ignore_ascii_case(name))
                    || (name.len() == SHORT && lease.id.starts_with(name))
            })
            .map(|lease| lease.address)
            .collect();
        if found.is_empty() {
            Lookup::Unknown
        } else {
            Lookup::Addresses(found)
        }
    }

    fn reverse(&self, _asker: Ipv4Addr, address: Ipv4Addr) -> Option<String> {
        let lease = lease::read(&self.home, &self.network, address)?;
        Some(format!(
            "{}.{}",
            instance::name(&self.home, &lease.id),
            self.network
        ))
    }

    fn upstreams(&self, asker: Ipv4Addr) -> Vec<SocketAddr> {
        let own = lease::read(&self.home, &self.network, asker)
            .and_then(|lease| instance::look(&self.home, &lease.id).ok())
            .map(|found| found.record.spec.network.dns)
            .unwrap_or_default();
        let servers = match own.is_empty() {
            false => own,
            // This thread is in the host's network namespace: a server on the loopback interface is within reach.
            true => {
                files::name_servers(&fs::read_to_string(files::RESOLV_CONF).unwrap_or_default())
            }
        };
        servers
            .iter()
            .filter_map(|server| server.parse::<IpAddr>().ok())
            .map(|server| SocketAddr::new(server, DNS_PORT))
            .collect()
    }

    fn serves(&self, asker: Ipv4Addr) -> bool {
        self.subnet.contains(asker)
    }
}
