//! `-p` and `--expose`, as docker reads them.

use std::net::Ipv4Addr;

use network_core::rules::Protocol;

use super::NetworkError;
use super::spec::{Exposed, Publish};

/// The most ports that one range may name.
const RANGE_MAX: u32 = 65_535;

fn invalid(text: &str, reason: &str) -> NetworkError {
    NetworkError::Port {
        text: text.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Reads `[IP:][HOST:]CONTAINER[/PROTOCOL]`, where both ports may be ranges.
///
/// # Errors
/// [`NetworkError::Port`], which says what is wrong.
pub fn parse_publish(text: &str) -> Result<Vec<Publish>, NetworkError> {
    let (ports, protocol) = protocol(text)?;
    if ports.starts_with('[') {
        return Err(invalid(
            text,
            "ports are published on IPv4 addresses only, so far",
        ));
    }
    let mut parts = ports.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next();
    let ip = parts.next();
    if container.is_empty() {
        return Err(invalid(text, "no port specified"));
    }
    let host_ip = match ip {
        None | Some("") => Ipv4Addr::UNSPECIFIED,
        Some(ip) if ip.contains(':') => {
            return Err(invalid(
                text,
                "ports are published on IPv4 addresses only, so far",
            ));
        }
        Some(ip) => ip
            .parse()
            .map_err(|_| invalid(text, &format!("invalid IP address: {ip}")))?,
    };
    let (first, last) = range(text, container, "containerPort")?;
    let host = match host {
        None | Some("") => None,
        Some(host) => Some(range(text, host, "hostPort")?),
    };
    let count = last - first;
    match host {
        Some((low, high)) if high - low != count && count != 0 => Err(invalid(
            text,
            &format!(
                "invalid ranges specified for container and host Ports: {container} and {low}-{high}"
            ),
        )),
        Some((low, high)) if count == 0 => Ok(vec![Publish {
            protocol,
            host_ip,
            host_ports: Some((low, high)),
            port: first,
        }]),
        host => Ok((0..=count)
            .map(|offset| Publish {
                protocol,
                host_ip,
                host_ports: host.map(|(low, _)| (low + offset, low + offset)),
                port: first + offset,
            })
            .collect()),
    }
}

/// Reads `PORT[-PORT][/PROTOCOL]`.
///
/// # Errors
/// [`NetworkError::Port`].
pub fn parse_expose(text: &str) -> Result<Vec<Exposed>, NetworkError> {
    let (ports, protocol) = protocol(text)?;
    if ports.contains(':') {
        return Err(invalid(
            text,
            "invalid port format for --expose: a port or a range, such as 80 or 8000-8010/tcp",
        ));
    }
    let (first, last) = range(text, ports, "port")?;
    Ok((first..=last)
        .map(|port| Exposed { port, protocol })
        .collect())
}

fn protocol(text: &str) -> Result<(&str, Protocol), NetworkError> {
    let Some((ports, name)) = text.split_once('/') else {
        return Ok((text, Protocol::Tcp));
    };
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok((ports, Protocol::Tcp)),
        "udp" => Ok((ports, Protocol::Udp)),
        other => Err(invalid(
            text,
            &format!("invalid proto: {other}: tcp and udp are known"),
        )),
    }
}

fn range(whole: &str, text: &str, which: &str) -> Result<(u16, u16), NetworkError> {
    let wrong = || invalid(whole, &format!("invalid {which}: {text}"));
    let number = |text: &str| -> Result<u16, NetworkError> {
        // A sign is not part of a port.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        text.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)
    };
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last || u32::from(last - first) > RANGE_MAX {
                return Err(wrong());
            }
            Ok((first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Publish {
        let list = parse_publish(text).unwrap();
        assert_eq!(list.len(), 1, "{text}");
        list[0]
    }

    #[test]
    fn every_form_of_dockers_is_read() {
        let any = Ipv4Addr::UNSPECIFIED;
        for (text, ip, host, port, protocol) in [
            ("80", any, None, 80, Protocol::Tcp),
            ("8080:80", any, Some((8080, 8080)), 80, Protocol::Tcp),
            ("8080:80/udp", any, Some((8080, 8080)), 80, Protocol::Udp),
            (
                "127.0.0.1:8080:80",
                Ipv4Addr::LOCALHOST,
                Some((8080, 8080)),
                80,
                Protocol::Tcp,
            ),
            (
                "127.0.0.1::80",
                Ipv4Addr::LOCALHOST,
                None,
                80,
                Protocol::Tcp,
            ),
            ("8000-8010:80", any, Some((8000, 8010)), 80, Protocol::Tcp),
        ] {
            let wanted = Publish {
                protocol,
                host_ip: ip,
                host_ports: host,
                port,
            };
            assert_eq!(one(text), wanted, "{text}");
        }
    }

    #[test]
    fn ranges_of_one_length_are_paired() {
        let list = parse_publish("8000-8002:80-82").unwrap();
        let pairs: Vec<_> = list.iter().map(|p| (p.host_ports, p.port)).collect();
        let pair = |host, port| (Some((host, host)), port);
        assert_eq!(pairs, [pair(8000, 80), pair(8001, 81), pair(8002, 82)]);
        assert_eq!(parse_publish("80-82").unwrap().len(), 3);
        assert_eq!(parse_expose("8000-8003/udp").unwrap().len(), 4);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "no port specified"),
            ("8080:", "no port specified"),
            ("0:80", "invalid hostPort: 0"),
            ("80:0", "invalid containerPort: 0"),
            ("65536:80", "invalid hostPort: 65536"),
            ("-1:80", "invalid hostPort: -1"),
            ("+80", "invalid containerPort: +80"),
            ("80/sctp", "invalid proto: sctp"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("[::1]:80:80", "IPv4"),
            ("80-81:80-85", "invalid ranges"),
            ("90-80:80", "invalid hostPort: 90-80"),
            ("a:80", "invalid hostPort: a"),
        ] {
            let said = parse_publish(text).unwrap_err().to_string();
            assert!(said.contains(reason), "{text}: {said}");
        }
        assert!(parse_expose("80:80").is_err());
    }
}
