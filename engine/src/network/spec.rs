//! What an instance asks of networks.

use std::net::Ipv4Addr;

use network_core::Mac;
use network_core::rules::Protocol;
use serde::{Deserialize, Serialize};

use super::NetworkError;
use crate::error::{Error, Result};
use crate::spec::BackendKind;

/// docker's name of the network that an instance is on unless told otherwise.
pub const BRIDGE: &str = "bridge";
/// The word for the host's own network.
pub const HOST: &str = "host";
/// The word for a loopback interface and nothing else.
pub const NONE: &str = "none";

/// Which network an instance sees (`--network`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Networks of ours, which the attachments name.
    #[default]
    Networks,
    /// A loopback interface of its own and nothing else.
    None,
    /// The host's own network.
    Host,
    /// That of another container: its identifier, once the instance is made; before that, as typed.
    Container(String),
}

/// An instance's place on a network of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// Further names it has there.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The address asked for; `None`: the lowest that is free.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The hardware address asked for; `None`: one made from the address.
    #[serde(default)]
    pub mac: Option<Mac>,
}

impl Attachment {
    /// A place on a network, with nothing else asked for.
    pub fn to(network: &str) -> Self {
        Self {
            network: network.to_owned(),
            ..Self::default()
        }
    }
}

/// A port of an instance that the host's are forwarded to (`-p`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host; 0.0.0.0 for every one.
    pub host_ip: Ipv4Addr,
    /// The host's port, or the first and last of those to choose from; `None`: any that is free.
    pub host_ports: Option<(u16, u16)>,
    /// The instance's port.
    pub port: u16,
}

/// A port that an image or user says is served (`EXPOSE`, `--expose`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exposed {
    /// The number.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Another instance that this one is told about (`--link`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other one: its identifier, once this instance is made; before that, as typed.
    pub instance: String,
    /// What it is called here.
    pub alias: String,
}

/// Everything that an instance asks of networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworkSpec {
    /// Which network it sees.
    pub mode: NetworkMode,
    /// Its places on networks of ours, the first being the one with the default route. Empty in what a user asks for: the
    /// default network.
    pub attachments: Vec<Attachment>,
    /// Ports of the host that lead to it.
    pub publish: Vec<Publish>,
    /// Whether every exposed port is published.
    pub publish_all: bool,
    /// Ports that are served; the image's among them once the instance is made.
    pub exposed: Vec<Exposed>,
    /// Name servers in place of the host's.
    pub dns: Vec<String>,
    /// Search domains in place of the host's.
    pub dns_search: Vec<String>,
    /// Options of the resolver in place of the host's.
    pub dns_options: Vec<String>,
    /// More lines of /etc/hosts: a name, and an address or `host-gateway`.
    pub hosts: Vec<(String, String)>,
    /// Other instances that it is told about.
    pub links: Vec<Link>,
}

impl NetworkSpec {
    /// Nothing but a loopback interface.
    pub fn none() -> Self {
        Self {
            mode: NetworkMode::None,
            ..Self::default()
        }
    }

    /// docker's word for the mode: `bridge`, `none`, `host`, `container:ID` or a network's name.
    pub fn mode_name(&self) -> String {
        match &self.mode {
            NetworkMode::Networks => self
                .attachments
                .first()
                .map_or_else(|| BRIDGE.to_owned(), |first| first.network.clone()),
            NetworkMode::None => NONE.to_owned(),
            NetworkMode::Host => HOST.to_owned(),
            NetworkMode::Container(id) => format!("container:{id}"),
        }
    }

    /// The names of its networks, as `ps` lists them.
    pub fn names(&self) -> Vec<String> {
        match &self.mode {
            NetworkMode::Networks if !self.attachments.is_empty() => self
                .attachments
                .iter()
                .map(|attachment| attachment.network.clone())
                .collect(),
            NetworkMode::Container(_) => Vec::new(),
            _ => vec![self.mode_name()],
        }
    }

    /// Whether it is on networks of ours.
    pub fn is_attached(&self) -> bool {
        self.mode == NetworkMode::Networks
    }

    /// Refuses what contradicts itself, or what the backend cannot mean.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`NetworkError`].
    pub fn check(&self, backend: BackendKind) -> Result<()> {
        let refuse = |sentence: &str| Err(Error::Unsupported(sentence.to_owned()));
        match (&self.mode, backend) {
            (NetworkMode::Host, backend) if backend.is_machine() => {
                return refuse(
                    "--network host is refused for a VM: it has a kernel, and so a network, of its own; use --network bridge with -p, or --backend container",
                );
            }
            (NetworkMode::Container(_), backend) if backend.is_machine() => {
                return refuse(
                    "--network container:NAME is refused for a VM: a kernel of its own cannot share another's network; put both on one network",
                );
            }
            (NetworkMode::Container(_), _) => {
                if !self.publish.is_empty() || self.publish_all {
                    return refuse(
                        "conflicting options: port publishing and the container type network mode",
                    );
                }
                if !self.exposed.is_empty() {
                    return refuse(
                        "conflicting options: port exposing and the container type network mode",
                    );
                }
                if !self.links.is_empty() {
                    return refuse(
                        "conflicting options: container type network can't be used with links. This would result in undefined behavior",
                    );
                }
                if !self.dns.is_empty() {
                    return refuse("conflicting options: dns and the network mode");
                }
                if !self.hosts.is_empty() {
                    return refuse(
                        "conflicting options: custom host-to-IP mapping and the network mode",
                    );
                }
            }
            (NetworkMode::Host, _) if !self.links.is_empty() => {
                return refuse(
                    "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
                );
            }
            _ => {}
        }
        for (index, attachment) in self.attachments.iter().enumerate() {
            let twice = |other: &&Attachment| other.network == attachment.network;
            if self.attachments.iter().take(index).any(|o| twice(&o)) {
                return Err(NetworkError::Twice(attachment.network.clone()).into());
            }
            if attachment.network == BRIDGE {
                if attachment.address.is_some() {
                    return Err(NetworkError::AddressOnDefault.into());
                }
                if !attachment.aliases.is_empty() {
                    return Err(NetworkError::AliasOnDefault.into());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_a_vm_cannot_have_is_refused_by_name() {
        for mode in [NetworkMode::Host, NetworkMode::Container("x".into())] {
            let spec = NetworkSpec {
                mode,
                ..NetworkSpec::default()
            };
            let said = spec.check(BackendKind::Vm).unwrap_err().to_string();
            assert!(said.starts_with("--network "), "{said}");
            assert!(said.contains("is refused for a VM"), "{said}");
        }
    }

    #[test]
    fn only_networks_of_the_users_own_give_chosen_addresses_and_aliases() {
        let with = |attachment| NetworkSpec {
            attachments: vec![attachment],
            ..NetworkSpec::default()
        };
        let address = Attachment {
            address: Some(Ipv4Addr::new(10, 0, 0, 9)),
            ..Attachment::to(BRIDGE)
        };
        assert!(with(address).check(BackendKind::Container).is_err());
        let alias = Attachment {
            aliases: vec!["db".into()],
            ..Attachment::to(BRIDGE)
        };
        assert!(with(alias.clone()).check(BackendKind::Vm).is_err());
        let own = Attachment {
            network: "own".into(),
            ..alias
        };
        assert!(with(own).check(BackendKind::Vm).is_ok());
    }
}
