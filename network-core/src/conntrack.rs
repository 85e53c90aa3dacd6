//! Connections that the kernel remembers. UDP has no end that could be seen: what was once translated to one instance goes on
//! being sent there, unless the entry is removed.

use crate::error::Result;
use crate::netlink::{ACK, DUMP, Messages, REQUEST, Socket, attribute};
use crate::rules::{NFNL_SUBSYS_CTNETLINK, nfnetlink_header};

/// nfnetlink_conntrack.h.
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Forgets every UDP connection to one of the host's ports.
///
/// # Errors
/// [`crate::Error::Kernel`].
pub(crate) fn forget_udp(socket: &Socket, ports: &[u16]) -> Result<()> {
    let kind = |message: u16| NFNL_SUBSYS_CTNETLINK << 8 | message;
    let mut messages = Messages::default();
    messages.begin(
        kind(IPCTNL_MSG_CT_GET),
        REQUEST | DUMP,
        &nfnetlink_header(libc::AF_INET as u8, 0),
    );
    let mut stale: Vec<Vec<u8>> = Vec::new();
    let asked = socket.ask(&|| "list connections".into(), &messages, &mut |answer| {
        let attributes = answer.payload.get(4..).unwrap_or_default();
        if let Some(tuple) = is_stale(attributes, ports) {
            stale.push(tuple.to_vec());
        }
    });
    match asked {
        // A kernel without the interface, or without connections to list.
        Err(error) if matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            return Ok(());
        }
        other => other?,
    }
    for tuple in stale {
        let mut messages = Messages::default();
        messages
            .begin(
                kind(IPCTNL_MSG_CT_DELETE),
                REQUEST | ACK,
                &nfnetlink_header(libc::AF_INET as u8, 0),
            )
            // Nested, as it came.
            .attribute(CTA_TUPLE_ORIG | 1 << 15, &tuple);
        match socket.request(&|| "forget a connection".into(), &messages) {
            // It has just timed out.
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The original direction of a connection that is to be forgotten.
fn is_stale<'a>(attributes: &'a [u8], ports: &[u16]) -> Option<&'a [u8]> {
    let original = attribute(attributes, CTA_TUPLE_ORIG)?;
    let protocol = attribute(original, CTA_TUPLE_PROTO)?;
    let number = attribute(protocol, CTA_PROTO_NUM)?.first()?;
    if i32::from(*number) != libc::IPPROTO_UDP {
        return None;
    }
    let port: [u8; 2] = attribute(protocol, CTA_PROTO_DST_PORT)?.try_into().ok()?;
    ports
        .contains(&u16::from_be_bytes(port))
        .then_some(original)
}
