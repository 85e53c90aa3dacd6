//! Resolvers on addresses of 127.0.0.0/8 that no other test has, with clients and upstream servers beside them.

mod answers;
mod forwarding;
mod hostile;
mod messages;
mod tcp;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Directory, Lookup, Resolver};

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;

const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

/// How long a test waits for what has to come. It is never reached unless the test fails.
const LONG: Duration = Duration::from_secs(30);

/// An address of the loopback network that is this test's alone, though other processes run the same tests.
fn own_address() -> SocketAddrV4 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 64;
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, a | 1, b, c), 5300)
}

/// A directory that knows a few names.
#[derive(Debug, Clone, Default)]
struct Names {
    upstreams: Vec<SocketAddr>,
    stranger: Option<Ipv4Addr>,
}

impl Directory for Names {
    fn lookup(&self, _: Ipv4Addr, name: &str) -> Lookup {
        assert_eq!(name, name.to_lowercase());
        Lookup::Addresses(match name {
            "web" | "web.net" => vec![WEB],
            "shared" => (2..5).map(|n| Ipv4Addr::new(10, 1, 0, n)).collect(),
            "many" => (0..200).map(|n| Ipv4Addr::new(10, 1, 1, n)).collect(),
            _ => return Lookup::Unknown,
        })
    }

    fn reverse(&self, _: Ipv4Addr, address: Ipv4Addr) -> Option<String> {
        (address == WEB).then(|| "web.net".into())
    }

    fn upstreams(&self, _: Ipv4Addr) -> Vec<SocketAddr> {
        self.upstreams.clone()
    }

    fn serves(&self, asker: Ipv4Addr) -> bool {
        Some(asker) != self.stranger
    }
}

/// A resolver with those upstream servers.
fn start(upstreams: &[SocketAddr]) -> (Resolver, SocketAddrV4) {
    let address = own_address();
    let names = Names {
        upstreams: upstreams.to_vec(),
        stranger: None,
    };
    (Resolver::start(address, names).unwrap(), address)
}

/// A query for that name, with an OPT that announces `size` if there is one.
fn query(id: u16, name: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, size.is_some().into()] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend(super::message::encode(name).unwrap());
    for word in [kind, 1] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    if let Some(size) = size {
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
    }
    message
}

/// A reply as an upstream server gives it: one address.
fn reply_to(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut reply = query[..end].to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x80]);
    reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4]);
    reply.extend_from_slice(&address);
    reply
}

/// A client's socket at that address, connected to the resolver.
fn client_at(from: Ipv4Addr, resolver: SocketAddrV4) -> UdpSocket {
    let client = UdpSocket::bind((from, 0)).unwrap();
    client.connect(resolver).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    client
}

fn client(resolver: SocketAddrV4) -> UdpSocket {
    client_at(*resolver.ip(), resolver)
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 65536];
    let count = client.recv(&mut buffer).unwrap();
    buffer[..count].to_vec()
}

/// Asks by UDP, and gives what comes back.
fn exchange(resolver: SocketAddrV4, message: &[u8]) -> Vec<u8> {
    let client = client(resolver);
    client.send(message).unwrap();
    receive(&client)
}

fn word(message: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([message[at], message[at + 1]])
}

fn code(reply: &[u8]) -> u8 {
    reply[3] & 0xf
}

fn is_truncated(reply: &[u8]) -> bool {
    reply[2] & 2 != 0
}

/// The addresses of a reply whose records all point to the question's name.
fn addresses(reply: &[u8]) -> Vec<Ipv4Addr> {
    let mut rest = &reply[12..];
    while rest[0] != 0 {
        rest = &rest[usize::from(rest[0]) + 1..];
    }
    let records = rest[5..].chunks_exact(16).take(word(reply, 6).into());
    let found: Vec<_> = records
        .map(|record| {
            assert_eq!(record[..6], [0xc0, 12, 0, 1, 0, 1]);
            Ipv4Addr::new(record[12], record[13], record[14], record[15])
        })
        .collect();
    assert_eq!(found.len(), usize::from(word(reply, 6)));
    found
}
