//! The host's ports: held for an instance, so that nobody else takes them, and who has one that is taken.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::rules::Protocol;

/// Holds a port: a socket that is bound to it and does nothing else. Port 0 takes one that is free. The port's number comes
/// with it.
///
/// Packets never reach the socket: the rules send them elsewhere. It is there so that other programs get the kernel's usual
/// answer, and we from it where they were first.
///
/// # Errors
/// [`Error::InUse`]; [`Error::Kernel`] for an address that is not the host's, for example.
pub fn hold(protocol: Protocol, ip: Ipv4Addr, port: u16) -> Result<(OwnedFd, u16)> {
    match bind(protocol, ip, port, false) {
        // A connection that a program has closed keeps its port for a minute (TIME_WAIT): who allows that may have it. It is
        // not asked for at first, since two who both allow it could have the same port.
        Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) && protocol == Protocol::Tcp => {
            bind(protocol, ip, port, true)
        }
        other => other,
    }
    .map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => Error::InUse { ip, port, protocol },
        _ => Error::kernel(format!("bind {ip}:{port}/{protocol}"), source),
    })
}

fn bind(protocol: Protocol, ip: Ipv4Addr, port: u16, reuse: bool) -> io::Result<(OwnedFd, u16)> {
    let kind = match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    // SAFETY: socket(2) takes numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if reuse {
        set_reuse(&socket, 1)?;
    }
    let mut address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(ip).to_be(),
        },
        sin_zero: [0; 8],
    };
    let mut length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as we say, and is only read.
    if unsafe { libc::bind(fd, (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if reuse {
        // From here on, whoever allows it too does not get the port.
        set_reuse(&socket, 0)?;
    }
    // SAFETY: the address is as long as we say.
    if unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((socket, u16::from_be(address.sin_port)))
}

fn set_reuse(socket: &OwnedFd, value: i32) -> io::Result<()> {
    // SAFETY: the option is an int, which is only read.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Which program has a port, as `nginx (pid 123)`; `None` where that cannot be found out.
pub fn holder(protocol: Protocol, ip: Ipv4Addr, port: u16) -> Option<String> {
    let (inode, _) = ["", "6"]
        .into_iter()
        .filter_map(|version| {
            let table = format!("/proc/thread-self/net/{protocol}{version}");
            let text = fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| entry(line, ip, port))
        })
        .max_by_key(|(_, listens)| *listens)?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let has = descriptors.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        });
        if has {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// A line of /proc/net/tcp and its kind (proc(5)): the inode of a socket that has the port, and whether it listens.
fn entry(line: &str, ip: Ipv4Addr, port: u16) -> Option<(u64, bool)> {
    let mut fields = line.split_whitespace();
    let (address, number) = fields.nth(1)?.split_once(':')?;
    if u16::from_str_radix(number, 16).ok()? != port {
        return None;
    }
    // The last eight digits are the address of version 4, in the host's order of bytes.
    let digits = address.get(address.len().checked_sub(8)?..)?;
    let theirs = Ipv4Addr::from(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    let meets = ip.is_unspecified() || theirs.is_unspecified() || theirs == ip;
    let state = fields.nth(1)?;
    let inode: u64 = fields.nth(5)?.parse().ok()?;
    // A connection that is over has no inode any more.
    (meets && inode != 0).then_some((inode, state == "0A"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_port_is_held_until_it_is_let_go() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (held, port) = hold(protocol, Ipv4Addr::LOCALHOST, 0).unwrap();
            let taken = || match protocol {
                Protocol::Tcp => TcpListener::bind(("127.0.0.1", port)).is_err(),
                Protocol::Udp => UdpSocket::bind(("127.0.0.1", port)).is_err(),
            };
            assert!(taken());
            assert!(matches!(
                hold(protocol, Ipv4Addr::LOCALHOST, port),
                Err(Error::InUse { .. })
            ));
            assert!(hold(protocol, Ipv4Addr::UNSPECIFIED, port).is_err());
            drop(held);
            assert!(!taken());
        }
    }

    /// A port with a connection in TIME_WAIT: the side that closes first keeps its port.
    fn closed_lately() -> u16 {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (accepted, _) = server.accept().unwrap();
        drop(accepted);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        drop(server);
        let table = || fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let waits = format!("0100007F:{port:04X} ");
        let is_waiting = |line: &&str| line.contains(&waits) && line.contains(" 06 ");
        // The last acknowledgement is on its way.
        let end = Instant::now() + Duration::from_secs(5);
        while table().lines().find(is_waiting).is_none() {
            assert!(Instant::now() < end, "{}", table());
        }
        port
    }

    #[test]
    fn a_port_whose_last_connection_is_over_is_free_for_one() {
        let port = closed_lately();
        let plain = bind(Protocol::Tcp, Ipv4Addr::LOCALHOST, port, false);
        assert!(plain.is_err(), "the connection does not hold the port");
        let (held, _) = hold(Protocol::Tcp, Ipv4Addr::UNSPECIFIED, port).unwrap();
        assert!(matches!(
            hold(Protocol::Tcp, Ipv4Addr::UNSPECIFIED, port),
            Err(Error::InUse { .. })
        ));
        // A server allows what we allowed while we took it.
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
        drop(held);
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = holder(Protocol::Tcp, Ipv4Addr::UNSPECIFIED, port).unwrap();
        assert!(
            name.ends_with(&format!("(pid {})", std::process::id())),
            "{name}"
        );
    }

    #[test]
    fn a_table_of_sockets_is_read_and_damage_passed_over() {
        let line = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0";
        assert_eq!(entry(line, Ipv4Addr::LOCALHOST, 8080), Some((12345, true)));
        assert_eq!(entry(line, Ipv4Addr::new(10, 0, 0, 1), 8080), None);
        assert_eq!(entry(line, Ipv4Addr::UNSPECIFIED, 8081), None);
        for damaged in [
            "",
            "1:",
            "1: 0100007F",
            "1: x:1F90 0",
            "1: 7F:1F90 0 0A 0 0 0 0 0 1",
        ] {
            assert_eq!(
                entry(damaged, Ipv4Addr::UNSPECIFIED, 8080),
                None,
                "{damaged}"
            );
        }
    }
}
