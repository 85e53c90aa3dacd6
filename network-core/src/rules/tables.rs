//! The two tables as the kernel takes them (linux/netfilter/nf_tables.h). base.nft beside this file has the same in nft's words, and
//! a test compares the two: nobody needs the nft program for instances to have a network.
//!
//! A rule is a list of expressions that load values into registers, compare them, and end in a verdict. The registers here are
//! the four of 16 bytes, and words of four bytes within them.

use super::{BRIDGE, INET4, NFNL_SUBSYS_NFTABLES, TABLE, nfnetlink_header};
use crate::netlink::{ACK, APPEND, CREATE, Messages, REQUEST};

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;

const NFTA_TABLE_NAME: u16 = 1;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFT_SET_MAP: u32 = 8;

/// nft's own numbers for types of data (its datatype.h): the kernel keeps them for whoever lists the tables. Those of a
/// concatenation stand one after another in groups of six bits.
mod kind {
    pub(super) const IPV4_ADDR: u32 = 7;
    pub(super) const ETHER_ADDR: u32 = 9;
    pub(super) const INET_PROTO: u32 = 12;
    pub(super) const INET_SERVICE: u32 = 13;
    pub(super) const IFNAME: u32 = 41;
}

/// Registers: NFT_REG_1 and NFT_REG_2, and the words 1, 2 and 6 (counted from the first's beginning).
const R1: u32 = 1;
const R2: u32 = 2;
const WORD1: u32 = 9;
const WORD2: u32 = 10;
const WORD6: u32 = 14;

/// What is loaded or done.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// meta: a key into a register.
    Meta(Meta, u32),
    /// payload: base, offset and length into a register.
    Payload(Base, u32, u32, u32),
    /// fib daddr type into the first register.
    AddressType,
    /// ct: a key into the first register.
    Conntrack(u32),
    /// bitwise and cmp: any of these bits in the first register.
    AnyOf(u32),
    /// cmp: the first register holds these bytes.
    Is(&'static [u8]),
    /// lookup: the first register is in the set.
    In(&'static str),
    /// lookup: it is not.
    NotIn(&'static str),
    /// lookup in a map: what it has for the first register goes there.
    Map(&'static str),
    /// nat dnat: to the address in the first register and the port in the word behind it.
    Dnat,
    /// masq.
    Masquerade,
    /// immediate: the verdict.
    Verdict(u32),
}

#[derive(Debug, Clone, Copy)]
enum Meta {
    IifName = 6,
    OifName = 7,
    L4Proto = 16,
}

#[derive(Debug, Clone, Copy)]
enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

const DROP: Step = Step::Verdict(0);
const ACCEPT: Step = Step::Verdict(1);

/// Whether the packet's destination was translated (IPS_DST_NAT, nf_conntrack_common.h).
const TRANSLATED: [Step; 2] = [Step::Conntrack(2), Step::AnyOf(1 << 5)];
/// Whether it belongs or is related to a connection that is there (NF_CT_STATE_BIT of both).
const KNOWN: [Step; 2] = [Step::Conntrack(0), Step::AnyOf(1 << 1 | 1 << 2)];

const FROM: [Step; 1] = [Step::Meta(Meta::IifName, R1)];
const TO: [Step; 1] = [Step::Meta(Meta::OifName, R1)];
const SOURCE: [Step; 1] = [Step::Payload(Base::Network, 12, 4, R1)];
/// RTN_LOCAL: the address is the host's.
const LOCAL: [Step; 2] = [Step::AddressType, Step::Is(&2_u32.to_ne_bytes())];

/// Sets: name, kind and length of the key; and what a map has for it.
type Set = (&'static str, u32, u32, Option<(u32, u32)>);

const SETS_IP: [Set; 6] = {
    use kind::{IFNAME, INET_PROTO, INET_SERVICE, IPV4_ADDR};
    let target = Some((IPV4_ADDR << 6 | INET_SERVICE, 8));
    [
        ("any", INET_PROTO << 6 | INET_SERVICE, 8, target),
        (
            "at",
            IPV4_ADDR << 12 | INET_PROTO << 6 | INET_SERVICE,
            12,
            target,
        ),
        ("bridges", IFNAME, 16, None),
        ("instances", IPV4_ADDR, 4, None),
        ("internal", IFNAME, 16, None),
        ("same", IFNAME << 6 | IFNAME, 32, None),
    ]
};

const SETS_BRIDGE: [Set; 2] = {
    use kind::{ETHER_ADDR, IFNAME, IPV4_ADDR};
    [
        ("guarded", IFNAME, 16, None),
        ("may", IFNAME << 12 | ETHER_ADDR << 6 | IPV4_ADDR, 28, None),
    ]
};

/// A chain: name, type, hook and priority.
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
    rules: Vec<Vec<Step>>,
}

/// Hooks (netfilter.h), the same numbers for bridges.
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

/// Priorities by which the chains of a hook follow one another (netfilter_ipv4.h).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;
/// netfilter_bridge.h: NF_BR_PRI_NAT_DST_BRIDGED.
const BEFORE_BRIDGE: i32 = -300;

/// Where a port of the host's leads: one that is published on the address, then on any.
fn published() -> Vec<Vec<Step>> {
    let protocol = |register| Step::Meta(Meta::L4Proto, register);
    let port = |register| Step::Payload(Base::Transport, 2, 2, register);
    let at = [
        Step::Payload(Base::Network, 16, 4, R1),
        protocol(WORD1),
        port(WORD2),
        Step::Map("at"),
        Step::Dnat,
    ];
    let any = [protocol(R1), port(WORD1), Step::Map("any"), Step::Dnat];
    vec![rule(&[&LOCAL, &at]), rule(&[&LOCAL, &any])]
}

fn rule(parts: &[&[Step]]) -> Vec<Step> {
    parts.concat()
}

fn chains_ip() -> Vec<Chain> {
    use Step::{In, Is, Masquerade, Meta as Load, NotIn, Payload};
    let nat = |name, hook, priority, rules| Chain {
        name,
        kind: "nat",
        hook,
        priority,
        rules,
    };
    let first_byte = |offset| [Payload(Base::Network, offset, 1, R1), Is(&[127])];
    vec![
        Chain {
            name: "raw",
            kind: "filter",
            hook: PREROUTING,
            priority: RAW,
            rules: vec![rule(&[&FROM, &[In("bridges")], &first_byte(16), &[DROP]])],
        },
        nat("prerouting", PREROUTING, DSTNAT, published()),
        nat("output", OUTPUT, DSTNAT, published()),
        nat(
            "postrouting",
            POSTROUTING,
            SRCNAT,
            vec![
                rule(&[
                    &SOURCE,
                    &[In("instances")],
                    &TO,
                    &[NotIn("bridges"), Masquerade],
                ]),
                rule(&[
                    &SOURCE,
                    &[In("instances")],
                    &TO,
                    &[In("bridges")],
                    &TRANSLATED,
                    &[Masquerade],
                ]),
                rule(&[&TO, &[In("bridges")], &first_byte(12), &[Masquerade]]),
            ],
        ),
        Chain {
            name: "forward",
            kind: "filter",
            hook: FORWARD,
            priority: FILTER,
            rules: vec![
                rule(&[&FROM, &[Load(Meta::OifName, R2), In("same"), ACCEPT]]),
                rule(&[&FROM, &[In("internal"), DROP]]),
                rule(&[&TO, &[In("internal"), DROP]]),
                rule(&[&FROM, &[In("bridges")], &TO, &[NotIn("bridges"), ACCEPT]]),
                rule(&[&TO, &[In("bridges")], &KNOWN, &[ACCEPT]]),
                rule(&[&TO, &[In("bridges")], &TRANSLATED, &[ACCEPT]]),
                rule(&[&TO, &[In("bridges"), DROP]]),
            ],
        },
    ]
}

fn chains_bridge() -> Vec<Chain> {
    use Step::{In, Is, NotIn, Payload};
    let kind = |bytes| [Payload(Base::Link, 12, 2, R1), Is(bytes)];
    // Port, hardware address and address, where each kind of frame has them.
    let sender = |base, ether, address| {
        [
            FROM[0],
            Payload(base, ether, 6, R2),
            Payload(Base::Network, address, 4, WORD6),
            In("may"),
        ]
    };
    vec![Chain {
        name: "prerouting",
        kind: "filter",
        hook: PREROUTING,
        priority: BEFORE_BRIDGE,
        rules: vec![
            rule(&[&FROM, &[NotIn("guarded"), ACCEPT]]),
            rule(&[&kind(&[0x08, 0x00]), &sender(Base::Link, 6, 12), &[ACCEPT]]),
            rule(&[
                &kind(&[0x08, 0x06]),
                &sender(Base::Link, 6, 14),
                &sender(Base::Network, 8, 14),
                &[ACCEPT],
            ]),
            rule(&[&FROM, &[In("guarded"), DROP]]),
        ],
    }]
}

/// The messages that make both tables.
pub(super) fn write(messages: &mut Messages) {
    table(messages, INET4, &SETS_IP, &chains_ip(), false);
    table(messages, BRIDGE, &SETS_BRIDGE, &chains_bridge(), true);
}

fn table(messages: &mut Messages, family: u8, sets: &[Set], chains: &[Chain], last: bool) {
    let header = nfnetlink_header(family, 0);
    let kind = |message: u16| NFNL_SUBSYS_NFTABLES << 8 | message;
    messages
        .begin(kind(NFT_MSG_NEWTABLE), REQUEST | CREATE, &header)
        .text(NFTA_TABLE_NAME, TABLE);
    for (number, (name, key, length, data)) in (1_u32..).zip(sets) {
        let flags = if data.is_some() { NFT_SET_MAP } else { 0 };
        messages
            .begin(kind(NFT_MSG_NEWSET), REQUEST | CREATE, &header)
            .text(NFTA_SET_TABLE, TABLE)
            .text(NFTA_SET_NAME, name)
            .attribute(NFTA_SET_FLAGS, &flags.to_be_bytes())
            .attribute(NFTA_SET_KEY_TYPE, &key.to_be_bytes())
            .attribute(NFTA_SET_KEY_LEN, &length.to_be_bytes())
            .attribute(NFTA_SET_ID, &number.to_be_bytes());
        if let Some((kind, length)) = data {
            messages
                .attribute(NFTA_SET_DATA_TYPE, &kind.to_be_bytes())
                .attribute(NFTA_SET_DATA_LEN, &length.to_be_bytes());
        }
    }
    for chain in chains {
        messages
            .begin(kind(NFT_MSG_NEWCHAIN), REQUEST | CREATE, &header)
            .text(NFTA_CHAIN_TABLE, TABLE)
            .text(NFTA_CHAIN_NAME, chain.name)
            .nest(NFTA_CHAIN_HOOK, &[], |m| {
                m.attribute(NFTA_HOOK_HOOKNUM, &chain.hook.to_be_bytes())
                    .attribute(NFTA_HOOK_PRIORITY, &chain.priority.to_be_bytes());
            })
            // NF_ACCEPT.
            .attribute(NFTA_CHAIN_POLICY, &1_u32.to_be_bytes())
            .text(NFTA_CHAIN_TYPE, chain.kind);
    }
    let count: usize = chains.iter().map(|chain| chain.rules.len()).sum();
    let all = chains
        .iter()
        .flat_map(|chain| chain.rules.iter().map(|rule| (chain.name, rule)));
    for (number, (chain, rule)) in (1..).zip(all) {
        // One acknowledgement tells of all that was done.
        let ack = if last && number == count { ACK } else { 0 };
        messages
            .begin(
                kind(NFT_MSG_NEWRULE),
                REQUEST | CREATE | APPEND | ack,
                &header,
            )
            .text(NFTA_RULE_TABLE, TABLE)
            .text(NFTA_RULE_CHAIN, chain)
            .nest(NFTA_RULE_EXPRESSIONS, &[], |m| {
                rule.iter().for_each(|step| step.write(m));
            });
    }
}

impl Step {
    fn write(self, messages: &mut Messages) {
        match self {
            Self::Meta(key, register) => {
                expression(messages, "meta", &[(1, register), (2, key as u32)]);
            }
            Self::Payload(base, offset, length, register) => expression(
                messages,
                "payload",
                &[(1, register), (2, base as u32), (3, offset), (4, length)],
            ),
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
            Self::AddressType => expression(messages, "fib", &[(1, R1), (2, 3), (3, 1 << 1)]),
            Self::Conntrack(key) => expression(messages, "ct", &[(1, R1), (2, key)]),
            Self::AnyOf(bits) => {
                any_of(messages, bits);
                compare(messages, 1, &[0; 4]);
            }
            Self::Is(bytes) => compare(messages, 0, bytes),
            Self::In(set) => lookup(messages, set, &[(2, R1)]),
            // NFT_LOOKUP_F_INV.
            Self::NotIn(set) => lookup(messages, set, &[(2, R1), (5, 1)]),
            Self::Map(set) => lookup(messages, set, &[(2, R1), (3, R1)]),
            // NFT_NAT_DNAT, of addresses of version 4.
            Self::Dnat => expression(
                messages,
                "nat",
                &[(1, 1), (2, libc::NFPROTO_IPV4 as u32), (3, R1), (5, WORD1)],
            ),
            Self::Masquerade => expression(messages, "masq", &[]),
            Self::Verdict(verdict) => element(messages, "immediate", |m| {
                // NFT_REG_VERDICT.
                m.attribute(1, &0_u32.to_be_bytes()).nest(2, &[], |m| {
                    m.nest(NFTA_DATA_VERDICT, &[], |m| {
                        m.attribute(NFTA_VERDICT_CODE, &verdict.to_be_bytes());
                    });
                });
            }),
        }
    }
}

fn element(messages: &mut Messages, name: &str, inside: impl FnOnce(&mut Messages)) {
    messages.nest(NFTA_LIST_ELEM, &[], |m| {
        m.text(NFTA_EXPR_NAME, name)
            .nest(NFTA_EXPR_DATA, &[], inside);
    });
}

/// An expression whose attributes are numbers.
fn expression(messages: &mut Messages, name: &str, attributes: &[(u16, u32)]) {
    element(messages, name, |m| {
        for (kind, value) in attributes {
            m.attribute(*kind, &value.to_be_bytes());
        }
    });
}

fn lookup(messages: &mut Messages, set: &str, attributes: &[(u16, u32)]) {
    element(messages, "lookup", |m| {
        m.text(1, set);
        for (kind, value) in attributes {
            m.attribute(*kind, &value.to_be_bytes());
        }
    });
}

/// cmp: the first register with these bytes, by operation (0: equal, 1: not).
fn compare(messages: &mut Messages, operation: u32, bytes: &[u8]) {
    element(messages, "cmp", |m| {
        m.attribute(1, &R1.to_be_bytes())
            .attribute(2, &operation.to_be_bytes())
            .nest(3, &[], |m| {
                m.attribute(NFTA_DATA_VALUE, bytes);
            });
    });
}

/// bitwise: the first register and a mask.
fn any_of(messages: &mut Messages, bits: u32) {
    element(messages, "bitwise", |m| {
        m.attribute(1, &R1.to_be_bytes())
            .attribute(2, &R1.to_be_bytes())
            .attribute(3, &4_u32.to_be_bytes());
        for (kind, value) in [(4, bits), (5, 0)] {
            m.nest(kind, &[], |m| {
                // In the host's order, as the kernel has loaded it.
                m.attribute(NFTA_DATA_VALUE, &value.to_ne_bytes());
            });
        }
    });
}
