//! Rules of other programs that drop what instances send and receive. An accept of ours cannot override another chain's drop, so
//! that all there is to do is to say what to allow.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{NFNL_SUBSYS_NFTABLES, TABLE, nfnetlink_header, socket};
use crate::error::Result;
use crate::netlink::{DUMP, Messages, REQUEST, attribute, four, text};

/// nf_tables.h.
const NFT_MSG_GETCHAIN: u16 = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;

/// netfilter.h: NF_INET_FORWARD, and the policy NF_DROP.
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// A chain that drops what nothing accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: &'static str,
    table: String,
    name: String,
}

/// Whether another table drops what is forwarded from or to a bridge and does not accept it: a sentence that names it, and
/// what to allow.
///
/// # Errors
/// [`crate::Error::Kernel`].
pub fn foreign_drop(bridge: &str) -> Result<Option<String>> {
    for chain in dropping()? {
        if !accepts(&chain, bridge) {
            return Ok(Some(sentence(&chain, bridge)));
        }
    }
    Ok(None)
}

fn sentence(chain: &Chain, bridge: &str) -> String {
    let Chain {
        family,
        table,
        name,
    } = chain;
    // iptables calls its tables and chains so, and would lose rules that nft adds.
    let allow = match (table.as_str(), name.as_str()) {
        ("filter", "FORWARD") => {
            format!(
                "iptables -I FORWARD -i {bridge} -j ACCEPT; iptables -I FORWARD -o {bridge} -j ACCEPT"
            )
        }
        _ => format!(
            "nft insert rule {family} {table} {name} iifname {bridge} accept; nft insert rule {family} {table} {name} oifname {bridge} accept"
        ),
    };
    format!(
        "the chain {name} of the table {family} {table}, which is not Plimsoll's, drops what instances on {bridge} send and receive beyond it: allow it with `{allow}`"
    )
}

/// Chains of other tables that see forwarded packets and drop what nothing accepts.
fn dropping() -> Result<Vec<Chain>> {
    let mut found = Vec::new();
    let socket = socket()?;
    for (number, family) in [(libc::NFPROTO_IPV4, "ip"), (libc::NFPROTO_INET, "inet")] {
        let mut messages = Messages::default();
        messages.begin(
            NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN,
            REQUEST | DUMP,
            &nfnetlink_header(number as u8, 0),
        );
        socket.ask(&|| "list chains".into(), &messages, &mut |answer| {
            let attributes = answer.payload.get(4..).unwrap_or_default();
            let named = |kind| attribute(attributes, kind).map(text).unwrap_or_default();
            let number = |bytes: &[u8]| u32::from_be_bytes(four(bytes));
            let hook = attribute(attributes, NFTA_CHAIN_HOOK)
                .and_then(|hook| attribute(hook, NFTA_HOOK_HOOKNUM))
                .map(number);
            let policy = attribute(attributes, NFTA_CHAIN_POLICY).map(number);
            let table = named(NFTA_CHAIN_TABLE);
            if hook == Some(FORWARD) && policy == Some(DROP) && table != TABLE {
                found.push(Chain {
                    family,
                    table,
                    name: named(NFTA_CHAIN_NAME),
                });
            }
        })?;
    }
    Ok(found)
}

/// Whether one of the chain's own rules accepts everything, or everything of that bridge. What cannot be found out is taken for a
/// no: a warning too many harms nobody.
fn accepts(chain: &Chain, bridge: &str) -> bool {
    let listed = Command::new("nft")
        .args([
            "-j",
            "list",
            "chain",
            chain.family,
            &chain.table,
            &chain.name,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(listed) = listed else {
        return false;
    };
    serde_json::from_slice(&listed.stdout).is_ok_and(|value| has_accepting_rule(&value, bridge))
}

fn has_accepting_rule(listed: &Value, bridge: &str) -> bool {
    let objects = listed["nftables"].as_array().map(Vec::as_slice);
    let rules = objects
        .unwrap_or_default()
        .iter()
        .filter_map(|object| object.get("rule"));
    rules.into_iter().any(|rule| {
        let statements = rule["expr"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let accepts = statements.iter().any(|one| one.get("accept").is_some());
        let all_fit = statements.iter().all(|one| {
            let is_ours = one.get("match").is_some_and(|matched| {
                let key = &matched["left"]["meta"]["key"];
                (key == "iifname" || key == "iif")
                    && matched["op"] == "=="
                    && matched["right"] == bridge
            });
            is_ours || one.get("accept").is_some() || one.get("counter").is_some()
        });
        accepts && all_fit
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listed(expressions: Value) -> Value {
        json!({"nftables": [{"metainfo": {}}, {"chain": {"policy": "drop"}}, {"rule": {"expr": expressions}}]})
    }

    #[test]
    fn a_rule_that_accepts_our_bridge_is_seen() {
        let of_bridge = |name: &str| json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}});
        let accept = json!({"accept": null});
        let counter = json!({"counter": {"packets": 0, "bytes": 0}});
        let rule = listed(json!([of_bridge("pl-0"), counter, accept]));
        assert!(has_accepting_rule(&rule, "pl-0"));
        assert!(!has_accepting_rule(&rule, "pl-1"));
        assert!(has_accepting_rule(&listed(json!([accept])), "pl-1"));
        let other = json!({"match": {"op": "==", "left": {"payload": {}}, "right": 80}});
        assert!(!has_accepting_rule(
            &listed(json!([of_bridge("pl-0"), other, accept])),
            "pl-0"
        ));
        assert!(!has_accepting_rule(&json!(null), "pl-0"));
    }
}
