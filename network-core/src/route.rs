//! The host's routes, as far as they stand in the way of a subnet.

use std::net::Ipv4Addr;

use crate::error::Result;
use crate::netlink::{DUMP, Messages, REQUEST, Socket, attribute, four};
use crate::subnet::Subnet;

/// rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;

/// struct rtmsg.
const HEADER: usize = 12;

/// A route of the host's that leads to some of a subnet's addresses, in ip-route(8)'s words. The default route leads
/// everywhere, and is none.
///
/// # Errors
/// [`crate::Error::Kernel`].
pub fn overlapping(subnet: Subnet) -> Result<Option<String>> {
    let mut header = [0; HEADER];
    header[0] = libc::AF_INET as u8;
    let mut messages = Messages::default();
    messages.begin(libc::RTM_GETROUTE, REQUEST | DUMP, &header);
    let mut found = None;
    let socket = Socket::open(libc::NETLINK_ROUTE)?;
    socket.ask(&|| "list routes".into(), &messages, &mut |answer| {
        if found.is_none() {
            found = route(answer.payload, subnet);
        }
    })?;
    Ok(found)
}

/// The route in a message, if it overlaps.
fn route(message: &[u8], subnet: Subnet) -> Option<String> {
    let (header, attributes) = message.split_at_checked(HEADER)?;
    let number = |kind| attribute(attributes, kind).map(|bytes| u32::from_ne_bytes(four(bytes)));
    let table = number(RTA_TABLE).unwrap_or(u32::from(header[4]));
    let prefix = header[1];
    let is_main = table == u32::from(libc::RT_TABLE_MAIN);
    if !is_main || prefix == 0 {
        return None;
    }
    let address = attribute(attributes, RTA_DST)
        .map_or(Ipv4Addr::UNSPECIFIED, |bytes| Ipv4Addr::from(four(bytes)));
    let theirs = Subnet::new(address, prefix).ok()?;
    if !theirs.overlaps(&subnet) {
        return None;
    }
    let device = number(RTA_OIF)
        .and_then(|index| nix::net::if_::if_indextoname(index).ok())
        .map_or_else(String::new, |name| {
            format!(" dev {}", name.to_string_lossy())
        });
    Some(format!("{theirs}{device}"))
}
