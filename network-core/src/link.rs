//! Bridges, and the ports that instances have on them.
//!
//! A pair is made by one message: the host's end on the bridge and up, the other end in the instance's network namespace, with
//! its name and hardware address. What is left to do inside is to set it up, with the address and the route.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::netlink::{
    ACK, CREATE, DUMP, EXCL, Messages, REPLACE, REQUEST, Socket, attribute, four, text,
};
use crate::subnet::{Mac, Subnet};

/// if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;

/// veth.h.
const VETH_INFO_PEER: u16 = 1;

/// if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

/// rtnetlink.h.
const RTA_GATEWAY: u16 = 5;
const RTA_OIF: u16 = 4;

/// Size of the header of a frame with offloads (struct virtio_net_hdr_mrg_rxbuf).
const VNET_HEADER: i32 = 12;

/// An instance's place on a bridge.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// The host's end: a link's name, at most 15 bytes.
    pub host_name: &'a str,
    /// The bridge.
    pub bridge: &'a str,
    /// The instance's end, as `eth0`.
    pub guest_name: &'a str,
    /// The instance's hardware address.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// The subnet's prefix length.
    pub prefix: u8,
    /// Where its default route leads; `None`: it gets none.
    pub gateway: Option<Ipv4Addr>,
    /// The largest packet, bytes; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
}

/// struct ifinfomsg.
fn link_header(family: i32, index: u32, flags: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family as u8;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&(flags as u32).to_ne_bytes());
    header[12..16].copy_from_slice(&(flags as u32).to_ne_bytes());
    header
}

fn route_socket() -> Result<Socket> {
    Socket::open(libc::NETLINK_ROUTE)
}

/// A link's number in the calling thread's network namespace.
fn index(name: &str) -> Result<Option<u32>> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(index) => Ok(Some(index)),
        Err(nix::Error::ENODEV | nix::Error::ENXIO) => Ok(None),
        Err(error) => Err(Error::kernel(
            format!("look the link {name} up"),
            error.into(),
        )),
    }
}

fn index_of(name: &str) -> Result<u32> {
    index(name)?.ok_or_else(|| {
        Error::kernel(
            format!("find the link {name}"),
            io::Error::from_raw_os_error(libc::ENODEV),
        )
    })
}

/// Makes a bridge with its address, if it is not there; whether it was not. Two callers may do so at once.
///
/// # Errors
/// [`Error::NotABridge`], [`Error::Kernel`]. A bridge that could not be finished is removed.
pub fn ensure_bridge(
    name: &str,
    gateway: Ipv4Addr,
    subnet: Subnet,
    mtu: Option<u32>,
) -> Result<bool> {
    if index(name)?.is_some() {
        return match is_bridge(name)? {
            true => Ok(false),
            false => Err(Error::NotABridge(name.to_owned())),
        };
    }
    let socket = route_socket()?;
    let mut messages = Messages::default();
    messages
        .begin(
            libc::RTM_NEWLINK,
            REQUEST | ACK | CREATE | EXCL,
            &link_header(libc::AF_UNSPEC, 0, libc::IFF_UP),
        )
        .text(IFLA_IFNAME, name)
        // A bridge's own one: else it would take that of whichever port comes first.
        .attribute(IFLA_ADDRESS, &Mac::of(gateway).0)
        .nest(IFLA_LINKINFO, &[], |m| {
            m.text(IFLA_INFO_KIND, "bridge")
                .nest(IFLA_INFO_DATA, &[], |m| {
                    // A port forwards at once: there are no loops to wait for.
                    m.attribute(IFLA_BR_FORWARD_DELAY, &0_u32.to_ne_bytes());
                });
        });
    if let Some(mtu) = mtu {
        messages.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    match socket.request(&|| format!("make the bridge {name}"), &messages) {
        Err(error) if error.errno() == Some(libc::EEXIST) => return Ok(false),
        other => other?,
    }
    let finished = finish_bridge(&socket, name, gateway, subnet);
    if finished.is_err() {
        // The first failure is the one to tell.
        let _ = remove_link(&socket, name);
    }
    finished.map(|()| true)
}

fn finish_bridge(socket: &Socket, name: &str, gateway: Ipv4Addr, subnet: Subnet) -> Result<()> {
    // First of all, so that it never has an address of version 6.
    sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1", true)?;
    let mut messages = Messages::default();
    address(&mut messages, index_of(name)?, gateway, subnet);
    socket.request(
        &|| format!("give the bridge {name} the address {gateway}"),
        &messages,
    )?;
    // What is published on the host's loopback addresses is forwarded to instances.
    sysctl(&format!("ipv4/conf/{name}/route_localnet"), "1", false)
}

/// Writes a setting of the network; `optional` where the kernel may lack it.
fn sysctl(path: &str, value: &str, optional: bool) -> Result<()> {
    let path = format!("/proc/sys/net/{path}");
    match fs::write(&path, value) {
        Err(e) if optional && e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| Error::kernel(format!("write {path}"), e)),
    }
}

fn address(messages: &mut Messages, index: u32, address: Ipv4Addr, subnet: Subnet) {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut header = [0; 8];
    header[0] = libc::AF_INET as u8;
    header[1] = subnet.prefix();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    messages
        .begin(libc::RTM_NEWADDR, REQUEST | ACK | CREATE | REPLACE, &header)
        .attribute(IFA_LOCAL, &address.octets())
        .attribute(IFA_ADDRESS, &address.octets())
        .attribute(IFA_BROADCAST, &subnet.broadcast().octets());
}

fn is_bridge(name: &str) -> Result<bool> {
    let mut found = false;
    let mut messages = Messages::default();
    messages
        .begin(
            libc::RTM_GETLINK,
            REQUEST | ACK,
            &link_header(libc::AF_UNSPEC, 0, 0),
        )
        .text(IFLA_IFNAME, name);
    route_socket()?.ask(
        &|| format!("look at the link {name}"),
        &messages,
        &mut |answer| {
            let attributes = answer.payload.get(16..).unwrap_or_default();
            let kind = attribute(attributes, IFLA_LINKINFO)
                .and_then(|info| attribute(info, IFLA_INFO_KIND));
            found |= kind.is_some_and(|kind| text(kind) == "bridge");
        },
    )?;
    Ok(found)
}

fn remove_link(socket: &Socket, name: &str) -> Result<()> {
    let mut messages = Messages::default();
    messages
        .begin(
            libc::RTM_DELLINK,
            REQUEST | ACK,
            &link_header(libc::AF_UNSPEC, 0, 0),
        )
        .text(IFLA_IFNAME, name);
    match socket.request(&|| format!("remove the link {name}"), &messages) {
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ENXIO)) => Ok(()),
        other => other,
    }
}

/// Removes a bridge. One that is not there is fine. The kernel waits for a grace period: tens of milliseconds.
///
/// # Errors
/// [`Error::Kernel`].
pub fn remove_bridge(name: &str) -> Result<()> {
    remove_link(&route_socket()?, name)
}

/// Removes a port from the host's side, and so the instance's interface. One that is not there is fine. Slow as
/// [`remove_bridge`].
///
/// # Errors
/// [`Error::Kernel`].
pub fn remove_port(host_name: &str) -> Result<()> {
    remove_link(&route_socket()?, host_name)
}

/// Takes a port down: nothing passes it any more. One that is not there is fine. Unlike removing it this is quick.
///
/// A namespace goes some time after its last process, and until then whatever was in it answers for its address.
///
/// # Errors
/// [`Error::Kernel`].
pub fn shut_port(host_name: &str) -> Result<()> {
    let Some(index) = index(host_name)? else {
        return Ok(());
    };
    let mut header = link_header(libc::AF_UNSPEC, index, libc::IFF_UP);
    // None of the flags that are changed is set.
    header[8..12].fill(0);
    let mut messages = Messages::default();
    messages.begin(libc::RTM_NEWLINK, REQUEST | ACK, &header);
    match route_socket()?.request(&|| format!("take the link {host_name} down"), &messages) {
        // The namespace has just gone.
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Puts an interface into a network namespace: named, up, with its address and default route. The host's end is a port of the
/// bridge.
///
/// # Errors
/// [`Error::Kernel`]; nothing is left then.
pub fn veth(port: &Port<'_>, namespace: BorrowedFd<'_>) -> Result<()> {
    let bridge = index_of(port.bridge)?;
    let socket = route_socket()?;
    let mut messages = Messages::default();
    messages
        .begin(
            libc::RTM_NEWLINK,
            REQUEST | ACK | CREATE | EXCL,
            &link_header(libc::AF_UNSPEC, 0, libc::IFF_UP),
        )
        .text(IFLA_IFNAME, port.host_name)
        .attribute(IFLA_MASTER, &bridge.to_ne_bytes());
    if let Some(mtu) = port.mtu {
        messages.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    messages.nest(IFLA_LINKINFO, &[], |m| {
        m.text(IFLA_INFO_KIND, "veth")
            .nest(IFLA_INFO_DATA, &[], |m| {
                // Not up yet: the kernel makes it before the pair is one (veth_open gives ENOTCONN).
                let peer = link_header(libc::AF_UNSPEC, 0, 0);
                m.nest(VETH_INFO_PEER, &peer, |m| {
                    m.text(IFLA_IFNAME, port.guest_name)
                        .attribute(IFLA_ADDRESS, &port.mac.0)
                        .attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                    if let Some(mtu) = port.mtu {
                        m.attribute(IFLA_MTU, &mtu.to_ne_bytes());
                    }
                });
            });
    });
    socket.request(
        &|| format!("make the link {} on {}", port.host_name, port.bridge),
        &messages,
    )?;
    let finished =
        hairpin(&socket, port.host_name).and_then(|()| within(namespace, || configure(port)));
    if finished.is_err() {
        // The first failure is the one to tell.
        let _ = remove_link(&socket, port.host_name);
    }
    finished
}

/// Lets a bridge send a frame back to the port it came from: an instance that calls its own published port, where frames on
/// the bridge are translated (br_netfilter).
fn hairpin(socket: &Socket, name: &str) -> Result<()> {
    let mut messages = Messages::default();
    messages
        .begin(
            libc::RTM_SETLINK,
            REQUEST | ACK,
            &link_header(libc::AF_BRIDGE, index_of(name)?, 0),
        )
        .nest(IFLA_PROTINFO, &[], |m| {
            m.attribute(IFLA_BRPORT_MODE, &[1]);
        });
    socket.request(&|| format!("set the port {name} up"), &messages)
}

/// The part of a port that is done inside.
fn configure(port: &Port<'_>) -> Result<()> {
    let index = index_of(port.guest_name)?;
    let subnet = Subnet::new(port.address, port.prefix)?;
    let socket = route_socket()?;
    let mut messages = Messages::default();
    messages.begin(
        libc::RTM_NEWLINK,
        REQUEST | ACK,
        &link_header(libc::AF_UNSPEC, index, libc::IFF_UP),
    );
    address(&mut messages, index, port.address, subnet);
    socket.request(
        &|| format!("give {} the address {}", port.guest_name, port.address),
        &messages,
    )?;
    let Some(gateway) = port.gateway else {
        return Ok(());
    };
    // struct rtmsg: family, lengths of destination and source, service, table, protocol, scope, type, flags.
    let header = [
        libc::AF_INET as u8,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let mut messages = Messages::default();
    messages
        .begin(libc::RTM_NEWROUTE, REQUEST | ACK | CREATE | EXCL, &header)
        .attribute(RTA_GATEWAY, &gateway.octets())
        .attribute(RTA_OIF, &index.to_ne_bytes());
    match socket.request(&|| format!("set the default route to {gateway}"), &messages) {
        // Another of its networks has it.
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Takes an interface out of a network namespace; its port on the bridge goes with it. One that is not there is fine.
///
/// # Errors
/// [`Error::Kernel`].
pub fn detach(namespace: BorrowedFd<'_>, guest_name: &str) -> Result<()> {
    within(namespace, || remove_link(&route_socket()?, guest_name))
}

/// Does something in another network namespace, and returns to this thread's own.
fn within<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    const OWN: &str = "/proc/thread-self/ns/net";
    let own = File::open(OWN).map_err(|e| Error::kernel(format!("open {OWN}"), e))?;
    enter(namespace.as_raw_fd())?;
    let done = work();
    // A thread that cannot return must not go on as if it had.
    enter(own.as_raw_fd())?;
    done
}

fn enter(namespace: i32) -> Result<()> {
    // SAFETY: setns(2) takes numbers, and changes this thread's network namespace only.
    match unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(Error::kernel(
            "enter a network namespace",
            io::Error::last_os_error(),
        )),
    }
}

/// Makes the device that a VM's interface writes to and reads from: frames with a header for offloads of 12 bytes. It is a
/// port of the bridge, and goes when its last descriptor is closed.
///
/// # Errors
/// [`Error::Kernel`].
pub fn tap(port: &Port<'_>) -> Result<OwnedFd> {
    let bridge = index_of(port.bridge)?;
    let device = open_tap(port.host_name)?;
    let socket = route_socket()?;
    let mut messages = Messages::default();
    messages
        .begin(
            libc::RTM_SETLINK,
            REQUEST | ACK,
            &link_header(libc::AF_UNSPEC, index_of(port.host_name)?, libc::IFF_UP),
        )
        .attribute(IFLA_MASTER, &bridge.to_ne_bytes());
    if let Some(mtu) = port.mtu {
        messages.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    socket.request(
        &|| format!("put the link {} on {}", port.host_name, port.bridge),
        &messages,
    )?;
    sysctl(
        &format!("ipv6/conf/{}/disable_ipv6", port.host_name),
        "1",
        true,
    )?;
    hairpin(&socket, port.host_name)?;
    Ok(device)
}

fn open_tap(name: &str) -> Result<OwnedFd> {
    const TUN: &str = "/dev/net/tun";
    let failed = |action: String| Error::kernel(action, io::Error::last_os_error());
    // SAFETY: the path ends in a zero.
    let fd = unsafe {
        libc::open(
            c"/dev/net/tun".as_ptr(),
            libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(failed(format!("open {TUN}")));
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    let device = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is an empty request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Error::kernel(
            format!("make the tap {name}"),
            io::Error::from_raw_os_error(libc::ENAMETOOLONG),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    if unsafe { libc::ioctl(fd, libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(failed(format!("make the tap {name}")));
    }
    let header = VNET_HEADER;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    if unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const header) } < 0 {
        return Err(failed(format!("set the tap {name} up")));
    }
    Ok(device)
}

fn list(each: &mut dyn FnMut(&str, u32, Option<u32>)) -> Result<()> {
    let mut messages = Messages::default();
    messages.begin(
        libc::RTM_GETLINK,
        REQUEST | DUMP,
        &link_header(libc::AF_UNSPEC, 0, 0),
    );
    route_socket()?.ask(&|| "list links".into(), &messages, &mut |answer| {
        let (header, attributes) = answer.payload.split_at_checked(16).unwrap_or_default();
        let index = u32::from_ne_bytes(four(header.get(4..).unwrap_or_default()));
        let master =
            attribute(attributes, IFLA_MASTER).map(|bytes| u32::from_ne_bytes(four(bytes)));
        if let Some(name) = attribute(attributes, IFLA_IFNAME) {
            each(&text(name), index, master);
        }
    })
}

/// All links of this network namespace.
///
/// # Errors
/// [`Error::Kernel`].
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    list(&mut |name, _, _| names.push(name.to_owned()))?;
    Ok(names)
}

/// The ports of a bridge.
///
/// # Errors
/// [`Error::Kernel`]; also when the bridge is not there.
pub fn ports_of(bridge: &str) -> Result<Vec<String>> {
    let wanted = index_of(bridge)?;
    let mut names = Vec::new();
    list(&mut |name, _, master| {
        if master == Some(wanted) {
            names.push(name.to_owned());
        }
    })?;
    Ok(names)
}
