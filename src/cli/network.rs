//! `plimsoll network …` and `plimsoll port`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Connect an instance to a network
    Connect(NetworkConnectArguments),
    /// Create a network
    Create(NetworkCreateArguments),
    /// Disconnect an instance from a network
    Disconnect(NetworkDisconnectArguments),
    /// Show networks as JSON
    Inspect(NetworkInspectArguments),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(NetworkLsArguments),
    /// Remove all networks that no instance is on
    Prune(NetworkPruneArguments),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(NetworkRmArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NetworkConnectArguments {
    /// Add a name by which others on the network find it
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Vec<String>,

    /// Address there, such as 10.5.0.20 [default: the lowest that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<Ipv4Addr>,

    /// Name or identifier
    pub(crate) network: String,

    /// Name or identifier
    pub(crate) instance: String,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkDisconnectArguments {
    /// Accepted for docker's sake
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Name or identifier
    pub(crate) network: String,

    /// Name or identifier
    pub(crate) instance: String,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkCreateArguments {
    /// Driver: bridge is the only one
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    pub(crate) driver: String,

    /// Addresses of the network, such as 10.5.0.0/16 [default: a range that nobody uses]
    #[arg(long, value_name = "SUBNET")]
    pub(crate) subnet: Vec<String>,

    /// Address of the bridge itself [default: the subnet's first]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway: Vec<String>,

    /// Part of the subnet that instances get their addresses from, such as 10.5.1.0/24
    #[arg(long, value_name = "SUBNET")]
    pub(crate) ip_range: Vec<String>,

    /// Let nothing in or out
    #[arg(long)]
    pub(crate) internal: bool,

    /// Refused: these bridges carry IPv4 only, so far
    #[arg(long)]
    pub(crate) ipv6: bool,

    /// Accepted for docker's sake
    #[arg(long, hide = true)]
    pub(crate) attachable: bool,

    /// Set a label (KEY=VALUE, or KEY)
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,

    /// Set an option: com.docker.network.driver.mtu, com.docker.network.bridge.name
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,

    /// Name of the network
    #[arg(value_name = "NETWORK")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkInspectArguments {
    /// json for one line, or a template such as '{{.Name}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Names or identifiers
    #[arg(required = true, value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkLsArguments {
    /// Print only the identifiers
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Do not shorten identifiers
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// Only those that fit: name=PART, id=BEGINNING, driver=bridge, label=KEY[=VALUE], dangling=true|false, type=builtin|custom
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,

    /// table, json for one object a line, or a template such as '{{.Name}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkPruneArguments {
    /// Only those that fit: label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkRmArguments {
    /// What is not there is no failure
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Names or identifiers
    #[arg(required = true, value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PortArguments {
    /// Name or identifier
    pub(crate) instance: String,

    /// Only this port of the instance
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub(crate) port: Option<String>,
}
