//! `plimsoll network create`, `ls`, `inspect`, `rm`, `prune`, `connect` and `disconnect`.

use std::path::Path;

use anyhow::{Context, bail};
use engine::Home;
use engine::network::{
    self, Attachment, BRIDGE, HOST, NONE, Network, NetworkError, NewNetwork, Subnet,
};
use serde_json::{Value, json};

use crate::cli::{
    NetworkCreateArguments, NetworkInspectArguments, NetworkLsArguments, NetworkPruneArguments,
    NetworkRmArguments, NetworkVerb,
};
use crate::filter::Filters;
use crate::format::inspect::{Kind, render};
use crate::format::{list, rows, time};
use crate::network_flags::{address, pairs};
use crate::output;

/// What `network ls --filter` knows.
const KEYS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

pub(crate) fn network(root: &Path, verb: &NetworkVerb) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    match verb {
        NetworkVerb::Create(arguments) => create(&home, arguments),
        NetworkVerb::Ls(arguments) => ls(&home, arguments),
        NetworkVerb::Inspect(arguments) => inspect(&home, arguments),
        NetworkVerb::Rm(arguments) => rm(&home, arguments),
        NetworkVerb::Prune(arguments) => prune(&home, arguments),
        NetworkVerb::Connect(arguments) => {
            let attachment = Attachment {
                aliases: arguments.alias.clone(),
                address: arguments.ip,
                ..Attachment::to(&arguments.network)
            };
            engine::lifecycle::connect(&home, &arguments.instance, &attachment)?;
            Ok(0)
        }
        NetworkVerb::Disconnect(arguments) => {
            engine::lifecycle::disconnect(&home, &arguments.instance, &arguments.network)?;
            Ok(0)
        }
    }
}

fn create(home: &Home, arguments: &NetworkCreateArguments) -> anyhow::Result<u8> {
    if arguments.ipv6 {
        bail!("--ipv6 is refused: Plimsoll's networks carry IPv4 only, so far");
    }
    if arguments.driver != BRIDGE {
        bail!(
            "could not find plugin {} in v1 plugin registry: bridge is the only driver",
            arguments.driver
        );
    }
    let one = |flag: &str, words: &[String]| match words {
        [] => Ok(None),
        [word] => Ok(Some(word.clone())),
        _ => bail!(
            "{flag} is given {} times: a network has one subnet",
            words.len()
        ),
    };
    let subnet = |flag: &str, text: Option<String>| -> anyhow::Result<Option<Subnet>> {
        text.map(|text| {
            text.parse::<Subnet>()
                .with_context(|| format!("invalid value {text:?} for {flag}"))
        })
        .transpose()
    };
    let new = NewNetwork {
        name: arguments.name.clone(),
        subnet: subnet("--subnet", one("--subnet", &arguments.subnet)?)?,
        gateway: one("--gateway", &arguments.gateway)?
            .map(|text| address("--gateway", &text))
            .transpose()?,
        range: subnet("--ip-range", one("--ip-range", &arguments.ip_range)?)?,
        internal: arguments.internal,
        labels: pairs("--label", &arguments.label)?,
        options: pairs("--opt", &arguments.opt)?,
    };
    if new.subnet.is_none() && (new.gateway.is_some() || new.range.is_some()) {
        bail!("--gateway and --ip-range need --subnet: say which subnet they are in");
    }
    println!("{}", network::create(home, new)?.id);
    Ok(0)
}

/// What `ls` and `inspect` show besides networks of ours: docker's names for the host's network and for none.
fn builtin() -> [(&'static str, &'static str); 2] {
    [(HOST, "host"), (NONE, "null")]
}

/// An identifier for what has none of its own, as its name in hexadecimal.
fn builtin_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

fn ls(home: &Home, arguments: &NetworkLsArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, KEYS)?;
    let holds = |key: &str, is: &dyn Fn(&str) -> bool| {
        let values = filters.values(key);
        values.is_empty() || values.iter().any(|value| is(value))
    };
    if let Some(wrong) = filters
        .values("type")
        .iter()
        .find(|kind| !["builtin", "custom"].contains(&kind.as_str()))
    {
        bail!("invalid filter: 'type'='{wrong}'");
    }
    let dangling = filters.flag("dangling");
    let mut rows = Vec::new();
    let mut add =
        |id: &str, name: &str, driver: &str, found: Option<&Network>| -> anyhow::Result<()> {
            let labels = found.map(|network| &network.labels);
            let is_custom = found.is_some_and(|network| !network.is_default());
            let kept = filters.name_holds(name)
                && filters.labels_hold(labels)
                && holds("id", &|wanted| id.starts_with(wanted))
                && holds("driver", &|wanted| wanted == driver)
                && holds("scope", &|wanted| wanted == "local")
                && holds("type", &|wanted| (wanted == "custom") == is_custom);
            if !kept {
                return Ok(());
            }
            if let Some(wanted) = dangling {
                let idle = is_custom && network::leases(home, name)?.is_empty();
                if idle != wanted {
                    return Ok(());
                }
            }
            rows.push(rows::network(
                &rows::id(id, arguments.no_trunc),
                name,
                driver,
                found.map_or(0, |network| network.created / 1_000_000_000),
                found.is_some_and(|network| network.internal),
                labels,
            ));
            Ok(())
        };
    for network in network::list(home)? {
        add(&network.id, &network.name, BRIDGE, Some(&network))?;
    }
    for (name, driver) in builtin() {
        add(&builtin_id(name), name, driver, None)?;
    }
    rows.sort_by_key(|row| row.get("Name").and_then(Value::as_str).map(str::to_owned));
    list::print(
        &list::NETWORKS,
        arguments.format.as_deref(),
        arguments.quiet,
        &rows,
    )?;
    Ok(0)
}

fn inspect(home: &Home, arguments: &NetworkInspectArguments) -> anyhow::Result<u8> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for name in &arguments.networks {
        match described(home, name) {
            Ok(value) => found.push((Kind::Network, value)),
            Err(error) => errors.push(error.to_string()),
        }
    }
    print!("{}", render(&found, arguments.format.as_deref())?);
    for error in &errors {
        output::notice(error);
    }
    Ok(u8::from(!errors.is_empty()))
}

/// docker's JSON of a network.
pub(crate) fn described(home: &Home, name: &str) -> anyhow::Result<Value> {
    if let Some((name, driver)) = builtin().into_iter().find(|(known, _)| *known == name) {
        return Ok(object(&builtin_id(name), name, driver, None, json!({})));
    }
    let network = network::find(home, name)?;
    let containers: serde_json::Map<String, Value> = network::leases(home, &network.name)?
        .into_iter()
        .map(|lease| {
            let found = engine::look(home, &lease.id).ok();
            let endpoint = found.as_ref().and_then(|found| {
                let endpoints = &found.state.endpoints;
                endpoints.iter().find(|one| one.address == lease.address)
            });
            let entry = json!({
                "Name": found.as_ref().map_or("", |found| &found.record.name),
                "EndpointID": endpoint.map_or_else(String::new, |one| endpoint_id(&lease.id, &one.network_id)),
                "MacAddress": endpoint.map_or_else(String::new, |one| one.mac.to_string()),
                "IPv4Address": format!("{}/{}", lease.address, network.subnet.prefix()),
                "IPv6Address": "",
            });
            (lease.id, entry)
        })
        .collect();
    Ok(object(
        &network.id,
        &network.name,
        BRIDGE,
        Some(&network),
        Value::Object(containers),
    ))
}

/// An identifier for an instance's place on a network: halves of both of theirs.
pub(crate) fn endpoint_id(instance: &str, network: &str) -> String {
    let half = |id: &str| id.get(..32).unwrap_or(id).to_owned();
    half(instance) + &half(network)
}

fn object(id: &str, name: &str, driver: &str, found: Option<&Network>, containers: Value) -> Value {
    let config = found.map_or(json!(null), |network| {
        let mut config = json!({
            "Subnet": network.subnet.to_string(),
            "Gateway": network.gateway.to_string(),
        });
        if let (Some(range), Some(members)) = (network.range, config.as_object_mut()) {
            members.insert("IPRange".into(), json!(range.to_string()));
        }
        json!([config])
    });
    json!({
        "Name": name,
        "Id": id,
        "Created": found.map_or_else(|| time::NEVER.to_owned(), |network| time::rfc3339(network.created)),
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Options": null, "Config": config},
        "Internal": found.is_some_and(|network| network.internal),
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": found.map_or_else(|| json!({}), |network| json!(network.options)),
        "Labels": found.map_or_else(|| json!({}), |network| json!(network.labels)),
    })
}

fn rm(home: &Home, arguments: &NetworkRmArguments) -> anyhow::Result<u8> {
    let mut code = 0;
    for name in &arguments.networks {
        match network::remove(home, name) {
            Ok(_) => println!("{name}"),
            Err(engine::Error::Network(NetworkError::NotFound(_))) if arguments.force => {}
            Err(error) => {
                output::notice(&error.to_string());
                code = 1;
            }
        }
    }
    Ok(code)
}

fn prune(home: &Home, arguments: &NetworkPruneArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, &["label", "label!", "until"])?;
    let what = "This will remove all custom networks not used by at least one container.";
    if !arguments.force && !output::confirm(what)? {
        return Ok(0);
    }
    let mut removed = Vec::new();
    for network in network::list(home)? {
        if network.is_default() || !filters.labels_hold(Some(&network.labels)) {
            continue;
        }
        match network::remove(home, &network.name) {
            Ok(network) => removed.push(network.name),
            Err(engine::Error::Network(NetworkError::InUse { .. } | NetworkError::NotFound(_))) => {
            }
            Err(error) => return Err(error.into()),
        }
    }
    if !removed.is_empty() {
        println!("Deleted Networks:");
        removed.iter().for_each(|name| println!("{name}"));
        println!();
    }
    Ok(0)
}
