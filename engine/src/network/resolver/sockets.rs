//! The resolver's sockets. None of them ever blocks, and none survives an exec.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// What the kernel keeps of replies that are not read yet, bytes a connection; it doubles this for its own needs (socket(7)).
const SEND_BUFFER: usize = 64 << 10;

/// A port (RFC 863) from which nothing comes; connecting by UDP sends nothing either.
const DISCARD: u16 = 9;

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

fn named(address: SocketAddrV4, protocol: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |e| {
        let hint = match e.kind() {
            io::ErrorKind::AddrInUse => {
                ": stop the server that has it, or bind that to other addresses"
            }
            _ => "",
        };
        io::Error::new(
            e.kind(),
            format!("resolve names at {address}/{protocol}: {e}{hint}"),
        )
    }
}

/// Where queries by UDP come in.
///
/// # Errors
/// Those of socket(2) and bind(2).
pub(super) fn datagrams(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let bind = || -> io::Result<OwnedFd> {
        let socket = socket(address.into(), SocketType::DGRAM)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        Ok(socket)
    };
    Ok(bind().map_err(named(address, "udp"))?.into())
}

/// Where connections come in; `waiting` of them may.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub(super) fn connections(address: SocketAddrV4, waiting: i32) -> io::Result<TcpListener> {
    let bind = || -> io::Result<OwnedFd> {
        let socket = socket(address.into(), SocketType::STREAM)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        // Connections that an earlier resolver closed keep the port for a minute otherwise.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Its connections inherit this bound to what a client that does not read can have the kernel keep.
        sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, waiting)?;
        Ok(socket)
    };
    Ok(bind().map_err(named(address, "tcp"))?.into())
}

/// Takes the resolver's sockets out of what the kernel chooses from, which closing them does not while a fork has copies: a
/// connected socket gets nothing of what is for its port's group, and a listener that is shut down is none.
pub(super) fn withdraw(address: SocketAddrV4, datagrams: &UdpSocket, listener: &TcpListener) {
    // Nothing that fails here is worse than closing them alone.
    let _ = rustix::net::connect(datagrams, &SocketAddrV4::new(*address.ip(), DISCARD));
    let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
}

/// A socket for one query to an upstream server. The kernel gives it a port by its random generator, and drops what comes from
/// any other address.
///
/// # Errors
/// Those of socket(2) and connect(2).
pub(super) fn ask(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(server, SocketType::DGRAM)?;
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    // A port of its own: connect alone might choose one that another connected socket has too.
    rustix::net::bind(&socket, &any)?;
    rustix::net::connect(&socket, &server)?;
    Ok(socket.into())
}

/// A connection to an upstream server, which may not stand yet.
///
/// # Errors
/// Those of socket(2) and connect(2).
pub(super) fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(server, SocketType::STREAM)?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(e) => Err(e.into()),
    }
}

/// A number that nobody can guess.
///
/// # Errors
/// Those of getrandom(2).
pub(super) fn random() -> io::Result<u16> {
    Ok(u16::from_ne_bytes(crate::names::random()?))
}

/// Waits until one of them is ready, or for that moment.
///
/// # Errors
/// Those of poll(2), EINTR among them.
pub(super) fn wait(polled: &mut [libc::pollfd], until: Option<Instant>) -> io::Result<()> {
    let timeout = until.map_or(-1, |until| {
        // Rounded up, so that the moment has passed when the wait is over.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
    });
    // SAFETY: the kernel reads and writes as many entries as the slice has; it takes the numbers of descriptors on trust.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
