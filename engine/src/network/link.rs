//! `--link`: another instance's address and ports, in the environment and in /etc/hosts.
//!
//! As docker: on the default network only. On a network of the user's own a link is one more name, which resolves by itself
//! and goes on resolving when the other instance is started again.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::NetworkError;
use super::attach::Endpoint;
use super::files;
use super::spec::{BRIDGE, Exposed, Link};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed, Record};
use crate::lifecycle;
use crate::spec::BackendKind;

/// In an instance's directory: an entry for each instance that has a link to it.
const LINKED_BY: &str = "linked-by";

/// What a link leads to, now.
struct Target {
    link: Link,
    listed: Listed,
    endpoint: Endpoint,
}

/// The links of an instance that is on the default network.
fn targets(home: &Home, record: &Record) -> Result<Vec<Target>> {
    let asked = &record.spec.network;
    if asked.links.is_empty() || asked.mode_name() != BRIDGE {
        return Ok(Vec::new());
    }
    asked
        .links
        .iter()
        .map(|link| {
            let listed = instance::look(home, &link.instance)?;
            let endpoint = listed
                .state
                .endpoints
                .iter()
                .find(|endpoint| endpoint.network == BRIDGE)
                .filter(|_| listed.is_running())
                .cloned()
                .ok_or_else(|| NetworkError::LinkNotRunning {
                    target: listed.record.name.clone(),
                    name: record.name.clone(),
                    alias: link.alias.clone(),
                })?;
            Ok(Target {
                link: link.clone(),
                listed,
                endpoint,
            })
        })
        .collect()
}

/// Lines of /etc/hosts.
pub(super) fn hosts(home: &Home, record: &Record) -> Result<Vec<String>> {
    Ok(targets(home, record)?.iter().map(line).collect())
}

fn line(target: &Target) -> String {
    let other = &target.listed.record;
    let mut names = vec![target.link.alias.as_str(), other.hostname()];
    if other.name != target.link.alias {
        names.push(&other.name);
    }
    format!("{}\t{}\n", target.endpoint.address, names.join(" "))
}

/// docker's variables for what an instance is linked to.
///
/// # Errors
/// [`NetworkError::LinkNotRunning`].
pub(crate) fn environment(home: &Home, record: &Record) -> Result<Vec<String>> {
    let mut env = Vec::new();
    for target in targets(home, record)? {
        let other = &target.listed.record;
        let prefix = target.link.alias.to_ascii_uppercase().replace('-', "_");
        let ip = target.endpoint.address.to_string();
        ports(&prefix, &ip, &other.spec.network.exposed, &mut env);
        env.push(format!(
            "{prefix}_NAME=/{}/{}",
            record.name, target.link.alias
        ));
        for entry in instance::environment(home, other) {
            let key = entry.split('=').next().unwrap_or_default();
            // What belongs to the image's own programs is of no use to another's.
            if entry.contains('=') && !["HOME", "PATH"].contains(&key) {
                env.push(format!("{prefix}_ENV_{entry}"));
            }
        }
    }
    Ok(env)
}

fn ports(prefix: &str, ip: &str, exposed: &[Exposed], env: &mut Vec<String>) {
    let mut exposed = exposed.to_vec();
    exposed.sort_unstable();
    exposed.dedup();
    if let Some(first) = exposed.first() {
        env.push(format!(
            "{prefix}_PORT={}://{ip}:{}",
            first.protocol, first.port
        ));
    }
    for Exposed { port, protocol } in exposed {
        let upper = protocol.to_string().to_ascii_uppercase();
        let name = format!("{prefix}_PORT_{port}_{upper}");
        env.push(format!("{name}={protocol}://{ip}:{port}"));
        env.push(format!("{name}_ADDR={ip}"));
        env.push(format!("{name}_PORT={port}"));
        env.push(format!("{name}_PROTO={protocol}"));
    }
}

fn linked_by(home: &Home, id: &str) -> PathBuf {
    home.instance(id).join(LINKED_BY)
}

/// Lets the instances that this one is linked to know of it.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn note(home: &Home, record: &Record) -> Result<()> {
    for link in &record.spec.network.links {
        let folder = linked_by(home, &link.instance);
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", &folder, e));
            }
            _ => {}
        }
        let path = folder.join(&record.id);
        fs::write(&path, "").map_err(|e| Error::io("create", &path, e))?;
    }
    Ok(())
}

/// An instance has another address: what runs with a link to it is told by its hosts file. A VM is told beside all this, since it
/// may take its time. Threads do that, so it comes after the instance's processes have been forked.
pub(crate) fn tell(home: &Home, record: &Record, endpoints: &[Endpoint]) {
    let Ok(entries) = fs::read_dir(linked_by(home, &record.id)) else {
        return;
    };
    let Some(own) = endpoints.iter().find(|endpoint| endpoint.network == BRIDGE) else {
        return;
    };
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let Ok(other) = instance::look(home, &id) else {
            // It has been removed.
            let _ = fs::remove_file(entry.path());
            continue;
        };
        if !other.is_running() {
            continue;
        }
        let links: Vec<Link> = other.record.spec.network.links.clone();
        let aliases: Vec<String> = links
            .into_iter()
            .filter(|link| link.instance == record.id)
            .map(|link| link.alias)
            .collect();
        let (address, hostname) = (own.address, record.hostname().to_owned());
        let change = move |text: &str| {
            aliases.iter().fold(text.to_owned(), |text, alias| {
                with_address(&text, alias, address, &hostname)
            })
        };
        // What cannot be written stays as it was, as for a program that has read it already.
        match other.record.spec.backend {
            BackendKind::Container => {
                let path = files::path(home, &other.record.id, files::HOSTS);
                let _ = fs::read_to_string(&path).and_then(|text| fs::write(&path, change(&text)));
            }
            BackendKind::Vm => {
                let home = home.clone();
                let edit = move || lifecycle::edit(&home, other, "/etc/hosts", &change);
                let _ = std::thread::Builder::new().name("links".into()).spawn(edit);
            }
            BackendKind::Native | BackendKind::Toolbox => {}
        }
    }
}

/// A hosts file in which a name has this address: its line with another one, or a new line.
fn with_address(text: &str, alias: &str, address: Ipv4Addr, hostname: &str) -> String {
    let is_line = |line: &str| line.split_whitespace().nth(1) == Some(alias);
    let mut rewritten = String::new();
    for old in text.lines() {
        if !is_line(old) {
            rewritten.push_str(old);
            rewritten.push('\n');
            continue;
        }
        let rest = old.split_once(['\t', ' ']).map_or("", |(_, rest)| rest);
        rewritten.push_str(&format!("{address}\t{rest}\n"));
    }
    if !text.lines().any(is_line) {
        rewritten.push_str(&format!("{address}\t{alias} {hostname}\n"));
    }
    rewritten
}

#[cfg(test)]
mod tests {
    use network_core::rules::Protocol;

    use super::*;

    #[test]
    fn ports_become_dockers_variables_the_lowest_first() {
        let exposed = [
            Exposed {
                port: 8080,
                protocol: Protocol::Tcp,
            },
            Exposed {
                port: 53,
                protocol: Protocol::Udp,
            },
        ];
        let mut env = Vec::new();
        ports("DB", "10.0.0.2", &exposed, &mut env);
        assert_eq!(
            env,
            [
                "DB_PORT=udp://10.0.0.2:53",
                "DB_PORT_53_UDP=udp://10.0.0.2:53",
                "DB_PORT_53_UDP_ADDR=10.0.0.2",
                "DB_PORT_53_UDP_PORT=53",
                "DB_PORT_53_UDP_PROTO=udp",
                "DB_PORT_8080_TCP=tcp://10.0.0.2:8080",
                "DB_PORT_8080_TCP_ADDR=10.0.0.2",
                "DB_PORT_8080_TCP_PORT=8080",
                "DB_PORT_8080_TCP_PROTO=tcp",
            ]
        );
    }
}
