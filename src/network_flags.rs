//! The flags of `run` and `create` that are about networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{anyhow, bail};
use engine::network::{
    Attachment, BRIDGE, HOST, HOST_GATEWAY, Link, Mac, NONE, NetworkMode, NetworkSpec,
    parse_expose, parse_publish,
};

use crate::cli::CreateArguments;

/// docker's longest name of a host, characters.
const HOST_NAME_MAX: usize = 253;

/// What an instance asks of networks.
pub(crate) fn network(arguments: &CreateArguments) -> anyhow::Result<NetworkSpec> {
    if arguments.ip6.is_some() {
        bail!("--ip6 is refused: Plimsoll's networks carry IPv4 only, so far");
    }
    let (mode, mut attachments) = mode(&arguments.network)?;
    let single = !arguments.network_alias.is_empty()
        || arguments.ip.is_some()
        || arguments.mac_address.is_some();
    if single {
        if mode != NetworkMode::Networks {
            bail!(
                "conflicting options: --network-alias, --ip and --mac-address are for networks of Plimsoll's, not for --network {}",
                arguments.network.first().map_or(NONE, String::as_str)
            );
        }
        if attachments.is_empty() {
            attachments.push(Attachment::to(BRIDGE));
        }
        if let Some(first) = attachments.first_mut() {
            first
                .aliases
                .extend(arguments.network_alias.iter().cloned());
            first.address = first.address.or(arguments.ip);
            if let Some(text) = &arguments.mac_address {
                first.mac = Some(mac(text)?);
            }
        }
    }
    for alias in attachments.iter().flat_map(|place| &place.aliases) {
        if !is_host_name(alias) {
            bail!("invalid network alias {alias:?}: use letters, digits, '-', '_' and '.'");
        }
    }
    let mut publish = Vec::new();
    for text in &arguments.publish {
        publish.extend(parse_publish(text)?);
    }
    let mut exposed = Vec::new();
    for text in &arguments.expose {
        exposed.extend(parse_expose(text)?);
    }
    for server in &arguments.dns {
        if server.parse::<IpAddr>().is_err() {
            bail!("{server} is not an ip address: --dns takes the address of a name server");
        }
    }
    if let Some(domain) = arguments
        .dns_search
        .iter()
        .find(|domain| *domain != "." && !is_host_name(domain))
    {
        bail!("{domain} is not a valid domain: --dns-search takes a domain's name");
    }
    if let Some(option) = arguments
        .dns_option
        .iter()
        .find(|option| option.is_empty() || option.contains(char::is_whitespace))
    {
        bail!("invalid resolver option {option:?}: --dns-option takes one word, as ndots:2");
    }
    Ok(NetworkSpec {
        mode,
        attachments,
        publish,
        publish_all: arguments.publish_all,
        exposed,
        dns: arguments.dns.clone(),
        dns_search: arguments.dns_search.clone(),
        dns_options: arguments.dns_option.clone(),
        hosts: arguments
            .add_host
            .iter()
            .map(|text| host(text))
            .collect::<anyhow::Result<_>>()?,
        links: arguments
            .link
            .iter()
            .map(|text| link(text))
            .collect::<anyhow::Result<_>>()?,
    })
}

/// `--network`, once or several times.
fn mode(words: &[String]) -> anyhow::Result<(NetworkMode, Vec<Attachment>)> {
    let alone = |mode: NetworkMode| match words {
        [_] => Ok((mode, Vec::new())),
        _ => bail!(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        ),
    };
    let mut attachments = Vec::new();
    for word in words {
        match word.as_str() {
            NONE => return alone(NetworkMode::None),
            HOST => return alone(NetworkMode::Host),
            "" | "default" => attachments.push(Attachment::to(BRIDGE)),
            _ => match word.strip_prefix("container:") {
                Some("") => bail!(
                    "invalid container format container:<name|id>: name the container behind the colon"
                ),
                Some(other) => return alone(NetworkMode::Container(other.to_owned())),
                None => attachments.push(attachment(word)?),
            },
        }
    }
    Ok((NetworkMode::Networks, attachments))
}

/// A network's name, or docker's longer form: `name=NET,alias=A,ip=1.2.3.4`.
fn attachment(word: &str) -> anyhow::Result<Attachment> {
    if !word.contains('=') {
        return Ok(Attachment::to(word));
    }
    let mut place = Attachment::default();
    for field in word.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            anyhow!("invalid field {field} in --network {word:?}: write KEY=VALUE")
        })?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => place.network = value.to_owned(),
            "alias" => place.aliases.push(value.to_owned()),
            "ip" => place.address = Some(address("--network ip", value)?),
            "mac-address" => place.mac = Some(mac(value)?),
            "ip6" | "link-local-ip" | "driver-opt" | "gw-priority" => {
                bail!("--network field {key} is not supported: name, alias, ip and mac-address are")
            }
            _ => bail!("invalid field key {key} in --network {word:?}"),
        }
    }
    if place.network.is_empty() {
        bail!("network name/id is not specified in --network {word:?}");
    }
    Ok(place)
}

/// An address of version 4, in words that say which flag is meant.
pub(crate) fn address(flag: &str, text: &str) -> anyhow::Result<Ipv4Addr> {
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(address),
        Ok(IpAddr::V6(_)) => bail!("{flag} {text}: Plimsoll's networks carry IPv4 only, so far"),
        Err(_) => bail!("invalid IPv4 address: {text} ({flag})"),
    }
}

fn mac(text: &str) -> anyhow::Result<Mac> {
    let mac: Mac = text
        .parse()
        .map_err(|_| anyhow!("{text} is not a valid mac address"))?;
    // The lowest bit of the first byte marks a group (IEEE 802): nobody is one.
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        bail!("{text} is not a valid mac address of one interface");
    }
    Ok(mac)
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
fn host(text: &str) -> anyhow::Result<(String, String)> {
    let wrong = || anyhow!("bad format for add-host: {text:?}: write NAME:ADDRESS");
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(wrong)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if !is_host_name(name) {
        return Err(wrong());
    }
    if address != HOST_GATEWAY && address.parse::<IpAddr>().is_err() {
        bail!("invalid IP address in add-host: {address:?}");
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// `NAME[:ALIAS]`.
fn link(text: &str) -> anyhow::Result<Link> {
    let (instance, alias) = text.split_once(':').unwrap_or((text, text));
    if instance.is_empty() || alias.contains(':') {
        bail!("bad format for links: {text}: write NAME[:ALIAS]");
    }
    let alias = if alias.is_empty() { instance } else { alias };
    let alias = alias.strip_prefix('/').unwrap_or(alias);
    if !is_host_name(alias) {
        bail!("bad format for links: {text}: the alias {alias:?} is no host's name");
    }
    Ok(Link {
        instance: instance.to_owned(),
        alias: alias.to_owned(),
    })
}

/// Whether it can stand in /etc/hosts and be asked for.
fn is_host_name(name: &str) -> bool {
    (1..=HOST_NAME_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// `KEY=VALUE` words; the last one of a key counts.
pub(crate) fn pairs(flag: &str, words: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    words
        .iter()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if key.is_empty() {
                bail!(
                    "invalid argument {word:?} for \"{flag}\" flag: a key must stand before the ="
                );
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_network_is_named_shortly_or_at_length() {
        let (mode, places) = mode(&words(&[
            "front",
            "name=back,alias=db,alias=sql,ip=10.1.0.9",
        ]))
        .unwrap();
        assert_eq!(mode, NetworkMode::Networks);
        assert_eq!(places[0], Attachment::to("front"));
        assert_eq!(places[1].aliases, ["db", "sql"]);
        assert_eq!(places[1].address, Some(Ipv4Addr::new(10, 1, 0, 9)));
    }

    #[test]
    fn the_hosts_network_goes_with_no_other() {
        for wrong in [
            &["host", "front"][..],
            &["front", "none"],
            &["container:"],
            &["alias=x"],
            &["name=x,color=red"],
            &["name=x,ip=::1"],
        ] {
            assert!(mode(&words(wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(mode(&words(&["none"])).unwrap().0, NetworkMode::None);
        assert_eq!(
            mode(&words(&["container:web"])).unwrap().0,
            NetworkMode::Container("web".into())
        );
    }

    #[test]
    fn hosts_and_links_are_read_as_docker_reads_them() {
        assert_eq!(host("a:1.2.3.4").unwrap(), ("a".into(), "1.2.3.4".into()));
        assert_eq!(host("a=::1").unwrap().1, "::1");
        assert_eq!(host("a:host-gateway").unwrap().1, HOST_GATEWAY);
        for wrong in ["a", "a:", "a:b", ":1.2.3.4", "a b:1.2.3.4"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
        assert_eq!(link("db:mysql").unwrap().alias, "mysql");
        assert_eq!(link("db").unwrap().alias, "db");
        for wrong in [":x", "a:b:c", "a:b c"] {
            assert!(link(wrong).is_err(), "{wrong}");
        }
    }
}
