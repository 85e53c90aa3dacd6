//! Host names without the C library: its resolver loads modules at run time, which a static program cannot count on.
//!
//! `/etc/hosts` first, then the name servers of `/etc/resolv.conf` (RFC 1035; TCP when an answer does not fit in a datagram).

use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::endpoint::is_loopback;

/// Query types of RFC 1035 and RFC 3596.
const A: u16 = 1;
const AAAA: u16 = 28;

/// Addresses of one host at most.
const MOST: usize = 16;

/// The files' and the name servers' answers, as ureq asks for them.
#[derive(Debug, Default)]
pub(super) struct Names;

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = match (uri.port_u16(), uri.scheme_str()) {
            (Some(port), _) => port,
            (None, Some("https")) => 443,
            _ => 80,
        };
        let mut resolved = self.empty();
        for ip in lookup(host)?.into_iter().take(MOST) {
            resolved.push(SocketAddr::new(ip, port));
        }
        if resolved.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        Ok(resolved)
    }
}

/// The addresses of a host; an empty list means that it is known not to exist.
fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    let in_file = std::fs::read_to_string("/etc/hosts")
        .map(|text| from_hosts(&text, bare))
        .unwrap_or_default();
    if !in_file.is_empty() {
        return Ok(in_file);
    }
    // RFC 6761: such names never leave the machine.
    if is_loopback(bare) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Dns::parse(&text).lookup(bare)
}

/// The addresses that a hosts file has for `name`, those of version 4 first.
fn from_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let ip = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(ip)
        })
        .collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// What resolv.conf(5) says.
#[derive(Debug, PartialEq, Eq)]
struct Dns {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
}

impl Dns {
    fn parse(text: &str) -> Self {
        let mut dns = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            // Defaults and ceilings of resolv.conf(5).
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    // More than three are ignored (MAXNS of resolv.h).
                    if let Some(ip) = ip
                        && dns.servers.len() < 3
                    {
                        dns.servers.push(SocketAddr::new(ip, 53));
                    }
                }
                Some("search" | "domain") => {
                    dns.search = words.map(str::to_owned).take(6).collect()
                }
                Some("options") => {
                    for option in words {
                        let Some((key, value)) = option.split_once(':') else {
                            continue;
                        };
                        let Ok(value) = value.parse::<usize>() else {
                            continue;
                        };
                        match key {
                            "ndots" => dns.ndots = value.min(15),
                            "timeout" => {
                                dns.timeout = Duration::from_secs(value.clamp(1, 30) as u64)
                            }
                            "attempts" => dns.attempts = value.clamp(1, 5),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if dns.servers.is_empty() {
            dns.servers
                .push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        dns
    }

    fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut candidates = Vec::new();
        if let Some(absolute) = host.strip_suffix('.') {
            candidates.push(absolute.to_owned());
        } else {
            let searched = self
                .search
                .iter()
                .map(|domain| format!("{host}.{}", domain.trim_matches('.')));
            let searched: Vec<String> = searched.filter(|name| !name.ends_with('.')).collect();
            if host.matches('.').count() >= self.ndots {
                candidates.push(host.to_owned());
                candidates.extend(searched);
            } else {
                candidates.extend(searched);
                candidates.push(host.to_owned());
            }
        }
        for name in candidates {
            let mut found = self.addresses(&name, A)?;
            // Version 6 is a second question; who has version 4 rarely needs it.
            if found.is_empty() {
                found = self.addresses(&name, AAAA)?;
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn addresses(&self, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
        let Some(question) = question(name, kind) else {
            return Ok(Vec::new());
        };
        let mut last = None;
        for _ in 0..self.attempts {
            for server in &self.servers {
                match self.ask(*server, &question, kind) {
                    Ok(found) => return Ok(found),
                    Err(error) => last = Some((server, error)),
                }
            }
        }
        Err(match last {
            Some((server, error)) => io::Error::new(
                error.kind(),
                format!("the name server {} does not answer: {error}", server.ip()),
            ),
            None => io::ErrorKind::NotFound.into(),
        })
    }

    /// One question to one server.
    fn ask(&self, server: SocketAddr, question: &[u8], kind: u16) -> io::Result<Vec<IpAddr>> {
        let id = random_id();
        let mut query = question.to_vec();
        query[..2].copy_from_slice(&id.to_be_bytes());
        let any: IpAddr = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        // Connected: the kernel drops what others send.
        socket.connect(server)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.send(&query)?;
        let mut answer = [0; 4096];
        // A few answers to other questions may come in between.
        for _ in 0..8 {
            let length = socket.recv(&mut answer)?;
            let answer = &answer[..length];
            if answer.len() < 12 || answer[..2] != query[..2] || !repeats(answer, &query) {
                continue;
            }
            // TC of RFC 1035, 4.1.1.
            if answer[2] & 2 == 0 {
                return read_answer(answer, kind);
            }
            return read_answer(&self.ask_by_tcp(server, &query)?, kind);
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn ask_by_tcp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&server, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream.write_all(&[&length.to_be_bytes(), query].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        if answer.len() < 12 || answer[..2] != query[..2] || !repeats(&answer, query) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(answer)
    }
}

/// A number that nobody who does not see our questions can guess (std keys its hash maps by the kernel's random numbers).
fn random_id() -> u16 {
    let hasher = std::hash::RandomState::new().build_hasher();
    (hasher.finish() & 0xffff) as u16
}

/// A query for one name, its identifier still 0. None for what cannot be a name.
fn question(name: &str, kind: u16) -> Option<Vec<u8>> {
    // Recursion desired, one question.
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..=63).contains(n))?;
        query.push(length);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    // The Internet.
    query.extend([0, 1]);
    (query.len() <= 12 + 255 + 4).then_some(query)
}

/// Whether an answer repeats our question; names in it may have another case.
fn repeats(answer: &[u8], query: &[u8]) -> bool {
    answer
        .get(12..query.len())
        .is_some_and(|echo| echo.eq_ignore_ascii_case(&query[12..]))
}

/// The addresses in an answer. Servers that recurse put those behind all aliases into it.
fn read_answer(answer: &[u8], kind: u16) -> io::Result<Vec<IpAddr>> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "its answer is cut short");
    let word = |at: usize| -> io::Result<u16> {
        let bytes = answer.get(at..at + 2).ok_or_else(cut)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    match answer[3] & 15 {
        0 => {}
        // The name does not exist.
        3 => return Ok(Vec::new()),
        code => {
            return Err(io::Error::other(format!(
                "it answers with the error {code}"
            )));
        }
    }
    let (questions, records) = (word(4)?, word(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(answer, at).ok_or_else(cut)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..records {
        at = after_name(answer, at).ok_or_else(cut)?;
        let (record, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length).ok_or_else(cut)?;
        at += 10 + length;
        if record != kind || found.len() == MOST {
            continue;
        }
        if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            found.push(IpAddr::from(bytes));
        } else if let Ok(bytes) = <[u8; 16]>::try_from(data) {
            found.push(IpAddr::from(bytes));
        }
    }
    Ok(found)
}

/// The place after a name: labels, or what refers to others (RFC 1035, 4.1.4).
fn after_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name server that answers each question by `answer`, in a thread of its own.
    fn server(count: usize, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            for _ in 0..count {
                let mut query = [0; 512];
                let (length, from) = socket.recv_from(&mut query).unwrap();
                socket.send_to(&answer(&query[..length]), from).unwrap();
            }
        });
        Dns {
            servers: vec![address],
            search: vec!["example.com".to_owned()],
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 1,
        }
    }

    fn with_records(query: &[u8], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 60]);
            answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend(*data);
        }
        answer
    }

    #[test]
    fn an_alias_and_the_address_behind_it_are_read() {
        let dns = server(1, |query| {
            with_records(query, &[(5, b"\x01a\x00"), (A, &[192, 0, 2, 7])])
        });
        assert_eq!(
            dns.lookup("registry.example").unwrap(),
            ["192.0.2.7".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn version_6_is_asked_for_when_there_is_no_version_4_and_searched_domains_come_first() {
        let dns = server(2, |query| {
            assert!(query[12..].starts_with(b"\x01a\x07example\x03com\x00"));
            if query[query.len() - 3] == 28 {
                with_records(query, &[(AAAA, &[0; 16])])
            } else {
                with_records(query, &[])
            }
        });
        assert_eq!(
            dns.lookup("a").unwrap(),
            [IpAddr::from(Ipv6Addr::UNSPECIFIED)]
        );
    }

    #[test]
    fn answers_that_are_cut_or_loop_are_errors_and_never_a_panic() {
        let query = question("a.b", A).unwrap();
        let whole = with_records(&query, &[(A, &[1, 2, 3, 4]), (A, &[1, 2, 3, 5])]);
        assert_eq!(read_answer(&whole, A).unwrap().len(), 2);
        for end in 12..whole.len() {
            assert!(read_answer(&whole[..end], A).is_err(), "{end}");
        }
        let mut refused = whole.clone();
        refused[3] = 5;
        assert!(read_answer(&refused, A).is_err());
        refused[3] = 3;
        assert!(read_answer(&refused, A).unwrap().is_empty());
    }

    #[test]
    fn files_are_read_as_their_manual_says() {
        let hosts =
            "# x\n::1 ip6 localhost\n127.0.0.1 localhost # registry\n192.0.2.1 a REGISTRY.test\n";
        assert_eq!(from_hosts(hosts, "localhost").len(), 2);
        assert!(from_hosts(hosts, "localhost")[0].is_ipv4());
        assert_eq!(from_hosts(hosts, "registry.test.").len(), 1);
        assert!(from_hosts(hosts, "registry").is_empty());
        let dns = Dns::parse(
            "nameserver 192.0.2.53\nsearch a b\noptions ndots:3 timeout:90 attempts:0 rotate\nnameserver nonsense\n",
        );
        assert_eq!(dns.servers, ["192.0.2.53:53".parse().unwrap()]);
        assert_eq!((dns.search.len(), dns.ndots, dns.attempts), (2, 3, 1));
        assert_eq!(dns.timeout, Duration::from_secs(30));
        assert_eq!(Dns::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
        assert!(question(&"a".repeat(64), A).is_none() && question("a..b", A).is_none());
    }
}
