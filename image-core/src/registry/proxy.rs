//! Which proxy a request goes through, by the variables that curl, Go and so docker go by.

use std::net::IpAddr;

use ureq::Proxy;

use super::RegistryError;
use super::endpoint::{host_name, is_loopback};

/// The proxy for `https://host` or `http://host`; `environment` looks variables up.
///
/// This machine itself is never asked for through a proxy.
pub(super) fn for_host(
    scheme: &str,
    host: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, RegistryError> {
    if is_loopback(host) {
        return Ok(None);
    }
    let names: [&'static str; 4] = if scheme == "https" {
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    } else {
        ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    };
    let given = names.iter().find_map(|name| {
        let value = environment(name)?;
        (!value.trim().is_empty()).then(|| (*name, value.trim().to_owned()))
    });
    let Some((variable, address)) = given else {
        return Ok(None);
    };
    let exceptions = environment("NO_PROXY").or_else(|| environment("no_proxy"));
    if exceptions.is_some_and(|list| is_excepted(host, scheme, &list)) {
        return Ok(None);
    }
    let address = if address.contains("://") {
        address
    } else {
        format!("http://{address}")
    };
    // The address may hold a password: it is not repeated.
    let proxy = Proxy::new(&address).map_err(|error| RegistryError::Proxy {
        variable,
        reason: error.to_string(),
    })?;
    Ok(Some(proxy))
}

/// Whether NO_PROXY means a host: names with those below them, `.name` for only those, addresses, networks, `*` for all; each with an
/// optional port.
fn is_excepted(host: &str, scheme: &str, list: &str) -> bool {
    let name = host_name(host).to_ascii_lowercase();
    let ip = name.parse::<IpAddr>().ok();
    let port = host[host.len() - host.len().min(6)..]
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok())
        .unwrap_or(if scheme == "https" { 443 } else { 80 });
    list.split(',').map(str::trim).any(|entry| {
        if entry == "*" {
            return true;
        }
        if entry.is_empty() {
            return false;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return match (ip, network.parse::<IpAddr>(), bits.parse::<u32>()) {
                (Some(ip), Ok(network), Ok(bits)) => is_inside(ip, network, bits),
                _ => false,
            };
        }
        let (entry, wanted) = match entry.rsplit_once(':') {
            Some((entry, wanted)) if !entry.contains(':') || entry.ends_with(']') => {
                (entry, wanted.parse::<u16>().ok())
            }
            _ => (entry, None),
        };
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        let entry = entry
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        if let Ok(address) = entry.parse::<IpAddr>() {
            return ip == Some(address);
        }
        let entry = entry.strip_prefix('*').unwrap_or(&entry);
        match entry.strip_prefix('.') {
            Some(_) => name.ends_with(entry),
            None => name == entry || name.ends_with(&format!(".{entry}")),
        }
    })
}

fn is_inside(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_through(host: &str, variables: &[(&str, &str)]) -> Option<String> {
        let environment = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        };
        let proxy = for_host("https", host, environment).unwrap()?;
        Some(format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn the_proxy_for_https_is_the_one_for_https() {
        let both = [("HTTPS_PROXY", "http://p:1"), ("HTTP_PROXY", "http://q:2")];
        assert_eq!(goes_through("quay.io", &both).as_deref(), Some("p:1"));
        assert_eq!(
            goes_through("quay.io", &[("HTTP_PROXY", "http://q:2")]),
            None
        );
        assert_eq!(
            goes_through("quay.io", &[("https_proxy", "p:3")]).as_deref(),
            Some("p:3")
        );
    }

    #[test]
    fn this_machine_is_never_asked_through_a_proxy() {
        for host in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(goes_through(host, &[("HTTPS_PROXY", "http://p:1")]), None);
        }
    }

    #[test]
    fn exceptions_are_names_networks_and_ports() {
        let through = |host: &str, list: &str| {
            goes_through(host, &[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", list)]).is_some()
        };
        for (host, list) in [
            ("a.b", "*"),
            ("a.b", "x, a.b"),
            ("c.a.b", "a.b"),
            ("c.a.b:5000", ".a.b"),
            ("c.a.b", "*.a.b"),
            ("10.1.2.3:5000", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("a.b:5000", "a.b:5000"),
            ("[fd00::1]:5000", "fd00::/16"),
        ] {
            assert!(!through(host, list), "{host} {list}");
        }
        for (host, list) in [
            ("a.b", "b.a"),
            ("xa.b", "a.b"),
            ("a.b", ".a.b"),
            ("11.1.2.3", "10.0.0.0/8"),
            ("a.b:5000", "a.b:443"),
            ("a.b", ""),
            ("10.1.2.3", "10.0.0.0/99"),
        ] {
            assert!(through(host, list), "{host} {list}");
        }
    }

    #[test]
    fn a_proxy_that_is_none_is_named_by_its_variable_without_its_password() {
        let environment =
            |name: &str| (name == "HTTPS_PROXY").then(|| "ftp://u:secret@x".to_owned());
        let error = for_host("https", "quay.io", environment)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HTTPS_PROXY") && !error.contains("secret"),
            "{error}"
        );
    }
}
