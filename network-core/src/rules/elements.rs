//! Elements of sets and maps, by nfnetlink (linux/netfilter/nf_tables.h).

use std::net::Ipv4Addr;

use super::{IFNAME, NFNL_SUBSYS_NFTABLES, TABLE, nfnetlink_header};
use crate::error::Result;
use crate::netlink::{ACK, CREATE, DUMP, Messages, REQUEST, Socket, attribute, attributes};
use crate::subnet::Mac;

/// nfnetlink.h: the ends of a transaction.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

/// The value of an element, part by part: each fills whole words of four bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Key(Vec<u8>);

impl Key {
    fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn name(&mut self, name: &str) -> &mut Self {
        let mut padded = [0; IFNAME];
        for (to, from) in padded.iter_mut().zip(name.bytes()).take(IFNAME - 1) {
            *to = from;
        }
        self.part(&padded)
    }

    pub(super) fn address(&mut self, address: Ipv4Addr) -> &mut Self {
        self.part(&address.octets())
    }

    pub(super) fn port(&mut self, port: u16) -> &mut Self {
        self.part(&port.to_be_bytes())
    }

    pub(super) fn byte(&mut self, byte: u8) -> &mut Self {
        self.part(&[byte])
    }

    pub(super) fn mac(&mut self, mac: Mac) -> &mut Self {
        self.part(&mac.0)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.clone()
    }
}

/// An element of a set or a map.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) family: u8,
    pub(super) set: &'static str,
    pub(super) key: Vec<u8>,
    /// What a map has for it.
    pub(super) data: Option<Vec<u8>>,
}

/// What is done to elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// They are there after it.
    Add,
    /// They are not.
    Remove,
}

/// Does all or nothing.
pub(super) fn transaction(
    socket: &Socket,
    action: &dyn Fn() -> String,
    acknowledged: usize,
    inside: &mut dyn FnMut(&mut Messages),
) -> Result<()> {
    let mut messages = Messages::default();
    let ends = nfnetlink_header(libc::AF_UNSPEC as u8, NFNL_SUBSYS_NFTABLES);
    messages.begin(BATCH_BEGIN, REQUEST, &ends);
    inside(&mut messages);
    messages.begin(BATCH_END, REQUEST, &ends);
    socket.batch(action, &messages, acknowledged)
}

/// Adds or removes elements, in one transaction. Removing what is not there is fine.
pub(super) fn change(
    socket: &Socket,
    action: &dyn Fn() -> String,
    change: Change,
    elements: &[Element],
) -> Result<()> {
    if elements.is_empty() {
        return Ok(());
    }
    let all = change_at_once(socket, action, change, elements);
    match all {
        Err(error) if change == Change::Remove && is_missing(error.errno()) => {}
        other => return other,
    }
    // Some are not there: each by itself then.
    for element in elements {
        match change_at_once(socket, action, change, std::slice::from_ref(element)) {
            Err(error) if is_missing(error.errno()) => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_missing(errno: Option<i32>) -> bool {
    errno == Some(libc::ENOENT)
}

fn change_at_once(
    socket: &Socket,
    action: &dyn Fn() -> String,
    change: Change,
    elements: &[Element],
) -> Result<()> {
    let (message, flags) = match change {
        Change::Add => (NFT_MSG_NEWSETELEM, REQUEST | CREATE),
        Change::Remove => (NFT_MSG_DELSETELEM, REQUEST),
    };
    // The last one's acknowledgement is enough: a refusal comes for any, and many acknowledgements would not fit.
    let last = elements.len() - 1;
    transaction(socket, action, 1, &mut |messages| {
        for (number, element) in elements.iter().enumerate() {
            let flags = flags | if number == last { ACK } else { 0 };
            messages
                .begin(
                    NFNL_SUBSYS_NFTABLES << 8 | message,
                    flags,
                    &nfnetlink_header(element.family, 0),
                )
                .text(NFTA_SET_ELEM_LIST_TABLE, TABLE)
                .text(NFTA_SET_ELEM_LIST_SET, element.set)
                .nest(NFTA_SET_ELEM_LIST_ELEMENTS, &[], |m| {
                    m.nest(NFTA_LIST_ELEM, &[], |m| {
                        m.nest(NFTA_SET_ELEM_KEY, &[], |m| {
                            m.attribute(NFTA_DATA_VALUE, &element.key);
                        });
                        if let Some(data) = &element.data {
                            m.nest(NFTA_SET_ELEM_DATA, &[], |m| {
                                m.attribute(NFTA_DATA_VALUE, data);
                            });
                        }
                    });
                });
        }
    })
}

/// The elements of a set, each with what a map has for it. A set that is not there has none.
pub(super) fn list(socket: &Socket, family: u8, set: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut messages = Messages::default();
    messages
        .begin(
            NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM,
            REQUEST | DUMP,
            &nfnetlink_header(family, 0),
        )
        .text(NFTA_SET_ELEM_LIST_TABLE, TABLE)
        .text(NFTA_SET_ELEM_LIST_SET, set);
    let mut found = Vec::new();
    let action = || format!("list {set} of the table {TABLE}");
    let asked = socket.ask(&action, &messages, &mut |answer| {
        let attributes_of = answer.payload.get(4..).unwrap_or_default();
        let Some(elements) = attribute(attributes_of, NFTA_SET_ELEM_LIST_ELEMENTS) else {
            return;
        };
        for (_, element) in attributes(elements) {
            let value = |kind| {
                attribute(element, kind)
                    .and_then(|data| attribute(data, NFTA_DATA_VALUE))
                    .unwrap_or_default()
                    .to_vec()
            };
            found.push((value(NFTA_SET_ELEM_KEY), value(NFTA_SET_ELEM_DATA)));
        }
    });
    match asked {
        Err(error) if is_missing(error.errno()) => Ok(Vec::new()),
        other => other.map(|()| found),
    }
}
