//! /etc/hosts, /etc/hostname and /etc/resolv.conf, as docker writes them for each instance.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::NetworkError;
use super::attach::Connection;
use super::link;
use super::spec::{BRIDGE, NetworkMode, NetworkSpec};
use crate::error::{Error, Result};
use crate::home::{Home, overwrite};
use crate::instance::Record;

/// The host's list of name servers.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What docker takes where the host's servers are all on its loopback interface, out of an instance's reach.
const DEFAULT_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// The word of `--add-host` for the host itself.
pub const HOST_GATEWAY: &str = "host-gateway";

/// What every hosts file begins with.
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// A file that lies over the image's.
pub(crate) struct EtcFile {
    /// Its name below /etc, and in the instance's directory.
    pub(crate) name: &'static str,
    /// What it holds.
    pub(crate) contents: String,
}

/// The name of the file with the host's names.
pub(crate) const HOSTS: &str = "hosts";

/// Puts the three files together.
///
/// # Errors
/// [`NetworkError`] for a link to what does not run; [`Error::Io`].
pub(crate) fn compose(
    home: &Home,
    record: &Record,
    connection: &Connection,
) -> Result<[EtcFile; 3]> {
    Ok([
        EtcFile {
            name: HOSTS,
            contents: hosts(home, record, connection)?,
        },
        EtcFile {
            name: "hostname",
            contents: format!("{}\n", record.hostname()),
        },
        EtcFile {
            name: "resolv.conf",
            contents: resolv_conf(&record.spec.network, connection)?,
        },
    ])
}

/// Writes them to the instance's directory.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write(home: &Home, record: &Record, files: &[EtcFile]) -> Result<()> {
    for file in files {
        let path = path(home, &record.id, file.name);
        // In place: a mount of it sees what is written later too.
        overwrite(&path, file.contents.as_bytes())?;
    }
    Ok(())
}

/// Where a file is kept.
pub(crate) fn path(home: &Home, id: &str, name: &str) -> PathBuf {
    home.instance(id).join(name)
}

fn hosts(home: &Home, record: &Record, connection: &Connection) -> Result<String> {
    let asked = &record.spec.network;
    if asked.mode == NetworkMode::Host {
        let path = "/etc/hosts";
        let mut text = fs::read_to_string(path).unwrap_or_else(|_| LOCAL.to_owned());
        add_extra(&mut text, asked, None)?;
        return Ok(text);
    }
    let mut text = LOCAL.to_owned();
    let gateway = connection.endpoints.first().map(|first| first.gateway);
    add_extra(&mut text, asked, gateway)?;
    for line in link::hosts(home, record)? {
        text.push_str(&line);
    }
    for endpoint in &connection.endpoints {
        text.push_str(&format!("{}\t{}\n", endpoint.address, record.hostname()));
    }
    Ok(text)
}

fn add_extra(text: &mut String, asked: &NetworkSpec, gateway: Option<Ipv4Addr>) -> Result<()> {
    for (name, address) in &asked.hosts {
        if address != HOST_GATEWAY {
            text.push_str(&format!("{address}\t{name}\n"));
            continue;
        }
        let gateway = gateway.ok_or_else(|| NetworkError::Value {
            flag: "--add-host",
            value: format!("{name}:{address}"),
            reason: "the instance is on no network with a gateway".into(),
        })?;
        text.push_str(&format!("{gateway}\t{name}\n"));
    }
    Ok(())
}

/// The servers that a resolv.conf names.
pub(super) fn name_servers(text: &str) -> Vec<String> {
    values(text, "nameserver")
        .into_iter()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

/// What follows a keyword, for each line that begins with it.
fn values(text: &str, keyword: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let rest = line.trim_start().strip_prefix(keyword)?;
            rest.starts_with([' ', '\t'])
                .then(|| rest.trim().to_owned())
        })
        .collect()
}

fn resolv_conf(asked: &NetworkSpec, connection: &Connection) -> Result<String> {
    let host = match fs::read_to_string(RESOLV_CONF) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("read", RESOLV_CONF, e)),
    };
    let resolved_by = connection
        .endpoints
        .iter()
        .find(|endpoint| endpoint.network != BRIDGE)
        .map(|endpoint| endpoint.gateway.to_string());
    Ok(resolver_file(&host, asked, resolved_by))
}

/// The file's text, from the host's, the user's wishes, and the address of the network's own resolver.
fn resolver_file(host: &str, asked: &NetworkSpec, resolved_by: Option<String>) -> String {
    let untouched =
        asked.dns.is_empty() && asked.dns_search.is_empty() && asked.dns_options.is_empty();
    if asked.mode == NetworkMode::Host && untouched {
        return host.to_owned();
    }
    let or = |own: &[String], keyword: &str| match own.is_empty() {
        false => own.to_vec(),
        true => values(host, keyword)
            .last()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
    };
    let servers = match resolved_by {
        Some(own) => vec![own],
        None if !asked.dns.is_empty() => asked.dns.clone(),
        None => {
            let is_host = asked.mode == NetworkMode::Host;
            let mut within_reach = name_servers(host);
            within_reach.retain(|server| {
                is_host || !server.starts_with("127.") && !server.starts_with("::1")
            });
            if within_reach.is_empty() && asked.is_attached() {
                within_reach = DEFAULT_SERVERS.map(str::to_owned).to_vec();
            }
            within_reach
        }
    };
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // docker: a single dot takes the search domains away.
    let mut search = or(&asked.dns_search, "search");
    search.retain(|domain| domain != ".");
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let options = or(&asked.dns_options, "options");
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_the_hosts_loopback_interface_is_out_of_reach() {
        let asked = NetworkSpec::default();
        let host = "# made by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a.example b.example\noptions edns0\n";
        assert_eq!(
            resolver_file(host, &asked, None),
            "nameserver 9.9.9.9\nsearch a.example b.example\noptions edns0\n"
        );
        let only_local = "nameserver 127.0.0.53\n";
        assert!(resolver_file(only_local, &asked, None).starts_with("nameserver 8.8.8.8\n"));
        assert_eq!(resolver_file(only_local, &NetworkSpec::none(), None), "");
        let shared = NetworkSpec {
            mode: NetworkMode::Host,
            ..NetworkSpec::default()
        };
        assert_eq!(resolver_file(host, &shared, None), host);
    }

    #[test]
    fn the_users_servers_and_domains_win() {
        let asked = NetworkSpec {
            dns: vec!["1.1.1.1".into()],
            dns_search: vec![".".into()],
            ..NetworkSpec::default()
        };
        let host = "nameserver 9.9.9.9\nsearch a.example\n";
        assert_eq!(resolver_file(host, &asked, None), "nameserver 1.1.1.1\n");
        let own = Some("10.0.0.1".to_owned());
        assert_eq!(resolver_file(host, &asked, own), "nameserver 10.0.0.1\n");
    }
}
