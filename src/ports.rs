//! `plimsoll port`, and how `ps` and `inspect` show ports.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::bail;
use engine::network::{Binding, Exposed, NetworkSpec, Protocol};
use engine::{Home, Listed};
use serde_json::{Map, Value, json};

use crate::cli::PortArguments;

pub(crate) fn port(root: &Path, arguments: &PortArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let found = engine::look(&home, &arguments.instance)?;
    let mut bindings = found.state.bindings;
    bindings.sort_by_key(|binding| (binding.port, binding.protocol, binding.host_port));
    let Some(wanted) = &arguments.port else {
        for binding in &bindings {
            println!("{}/{} -> {}", binding.port, binding.protocol, host(binding));
        }
        return Ok(0);
    };
    let (number, protocol) = match wanted.split_once('/') {
        Some((number, protocol)) => (number, protocol.parse::<Protocol>().ok()),
        None => (wanted.as_str(), Some(Protocol::Tcp)),
    };
    let (Ok(number), Some(protocol)) = (number.parse::<u16>(), protocol) else {
        bail!("invalid port {wanted:?}: write a number, such as 80 or 53/udp");
    };
    let mut any = false;
    for binding in &bindings {
        if (binding.port, binding.protocol) == (number, protocol) {
            println!("{}", host(binding));
            any = true;
        }
    }
    if !any {
        bail!(
            "no public port '{number}/{protocol}' published for {}",
            arguments.instance
        );
    }
    Ok(0)
}

fn host(binding: &Binding) -> String {
    format!("{}:{}", binding.host_ip, binding.host_port)
}

/// A port: its protocol, where it is published, its number.
type Line = (Protocol, Option<(Ipv4Addr, u16)>, u16);

/// The PORTS column: `0.0.0.0:8080->80/tcp, 443/tcp`, runs of ports as ranges.
pub(crate) fn column(item: &Listed) -> String {
    if !item.is_running() {
        return String::new();
    }
    let bindings = &item.state.bindings;
    let mut ports: Vec<Line> = bindings
        .iter()
        .map(|b| (b.protocol, Some((b.host_ip, b.host_port)), b.port))
        .collect();
    let is_bound = |exposed: &&Exposed| {
        !bindings
            .iter()
            .any(|b| (b.port, b.protocol) == (exposed.port, exposed.protocol))
    };
    let exposed = &item.record.spec.network.exposed;
    ports.extend(
        exposed
            .iter()
            .filter(is_bound)
            .map(|exposed| (exposed.protocol, None, exposed.port)),
    );
    ports.sort_by_key(|(protocol, host, port)| (*port, *protocol, *host));
    ports.dedup();
    // Ports that follow one another, and whose host's ports do, are one range.
    let mut ranges: Vec<(Line, u16)> = Vec::new();
    for (protocol, host, port) in ports {
        let joined = ranges.iter_mut().rev().find(|((p, h, first), length)| {
            *p == protocol
                && u32::from(*first) + u32::from(*length) == u32::from(port)
                && match (h, host) {
                    (None, None) => true,
                    (Some((ip, low)), Some((other, high))) => {
                        *ip == other && u32::from(*low) + u32::from(*length) == u32::from(high)
                    }
                    _ => false,
                }
        });
        match joined {
            Some((_, length)) => *length += 1,
            None => ranges.push(((protocol, host, port), 1)),
        }
    }
    let span = |first: u16, length: u16| match length {
        1 => first.to_string(),
        _ => format!("{first}-{}", u32::from(first) + u32::from(length) - 1),
    };
    let texts: Vec<String> = ranges
        .into_iter()
        .map(|((protocol, host, port), length)| match host {
            Some((ip, low)) => format!(
                "{ip}:{}->{}/{protocol}",
                span(low, length),
                span(port, length)
            ),
            None => format!("{}/{protocol}", span(port, length)),
        })
        .collect();
    texts.join(", ")
}

/// docker's `NetworkSettings.Ports`: each exposed port to where it is published, or null.
pub(crate) fn settings(item: &Listed) -> Value {
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    if !item.is_running() {
        return json!({});
    }
    for exposed in &item.record.spec.network.exposed {
        map.entry(format!("{}/{}", exposed.port, exposed.protocol))
            .or_default();
    }
    for binding in &item.state.bindings {
        map.entry(format!("{}/{}", binding.port, binding.protocol))
            .or_default()
            .push(json!({
                "HostIp": binding.host_ip.to_string(),
                "HostPort": binding.host_port.to_string(),
            }));
    }
    let members: Map<String, Value> = map
        .into_iter()
        .map(|(port, hosts)| {
            let hosts = if hosts.is_empty() {
                Value::Null
            } else {
                json!(hosts)
            };
            (port, hosts)
        })
        .collect();
    Value::Object(members)
}

/// docker's `HostConfig.PortBindings`: what was asked for.
pub(crate) fn asked(spec: &NetworkSpec) -> Value {
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for publish in &spec.publish {
        let port = match publish.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let ip = match publish.host_ip.is_unspecified() {
            true => String::new(),
            false => publish.host_ip.to_string(),
        };
        map.entry(format!("{}/{}", publish.port, publish.protocol))
            .or_default()
            .push(json!({"HostIp": ip, "HostPort": port}));
    }
    json!(map)
}

/// Ports such as `80/tcp`.
pub(crate) fn exposed(spec: &NetworkSpec) -> Vec<String> {
    spec.exposed
        .iter()
        .map(|exposed| format!("{}/{}", exposed.port, exposed.protocol))
        .collect()
}

/// The host's ports such as `8080/tcp`.
pub(crate) fn published(item: &Listed) -> Vec<String> {
    item.state
        .bindings
        .iter()
        .map(|binding| format!("{}/{}", binding.host_port, binding.protocol))
        .collect()
}
