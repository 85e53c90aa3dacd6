//! Rules of other programs that drop what instances send and receive. An accept of ours cannot override another chain's drop, so
//! that all there is to do is to say what to allow.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::Rules;
use super::{NFNL_SUBSYS_NFTABLES, TABLE, nfnetlink_header};
use crate::error::Result;
use crate::netlink::{DUMP, Messages, REQUEST, Socket, attribute, four, text};

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

/// The chain that docker keeps for its users' own rules, and jumps to before its own.
const DOCKER_USER: &str = "DOCKER-USER";

/// How many chains deep a jump is followed.
const DEPTH: usize = 8;

impl Rules {
    /// Whether another table drops what is forwarded from or to a bridge and does not accept it: a sentence that names it, and
    /// what to allow.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn foreign_drop(&self, bridge: &str) -> Result<Option<String>> {
        for chain in dropping(self.socket()?)? {
            let listed = listed(&chain);
            let accepts = |key| accepts(&listed, &chain.name, key, bridge, DEPTH);
            if !accepts("iif") || !accepts("oif") {
                return Ok(Some(sentence(&chain, &listed, bridge)));
            }
        }
        Ok(None)
    }
}

fn sentence(chain: &Chain, listed: &Value, bridge: &str) -> String {
    let Chain {
        family,
        table,
        name,
    } = chain;
    // iptables calls its tables and chains so, and would lose rules that nft adds.
    let allow = match (table.as_str(), name.as_str()) {
        ("filter", "FORWARD") => {
            let users = rules_of(listed, name)
                .flat_map(statements)
                .any(|one| one["jump"]["target"] == DOCKER_USER);
            let chain = if users { DOCKER_USER } else { "FORWARD" };
            format!(
                "iptables -I {chain} -i {bridge} -j ACCEPT; iptables -I {chain} -o {bridge} -j ACCEPT"
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
fn dropping(socket: &Socket) -> Result<Vec<Chain>> {
    let mut found = Vec::new();
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

/// What nft says of the chain's table; nothing where it cannot be asked: a warning too many harms nobody.
fn listed(chain: &Chain) -> Value {
    let listed = Command::new("nft")
        .args(["-j", "list", "table", chain.family, &chain.table])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    listed
        .ok()
        .and_then(|listed| serde_json::from_slice(&listed.stdout).ok())
        .unwrap_or_default()
}

fn rules_of<'a>(listed: &'a Value, chain: &'a str) -> impl Iterator<Item = &'a Value> {
    let objects = listed["nftables"].as_array().map(Vec::as_slice);
    objects
        .unwrap_or_default()
        .iter()
        .filter_map(|object| object.get("rule"))
        .filter(move |rule| rule["chain"] == chain)
}

fn statements(rule: &Value) -> &[Value] {
    rule["expr"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Whether a rule of the chain, or of one that it leads to, accepts everything, or everything that has the bridge for its `iif` or
/// `oif`.
fn accepts(listed: &Value, chain: &str, key: &str, bridge: &str, depth: usize) -> bool {
    let is_ours = |one: &Value| {
        one.get("match").is_some_and(|matched| {
            let left = matched["left"]["meta"]["key"].as_str().unwrap_or_default();
            left.strip_suffix("name").unwrap_or(left) == key
                && matched["op"] == "=="
                && matched["right"] == bridge
        })
    };
    rules_of(listed, chain).any(|rule| {
        let mut verdict = false;
        for one in statements(rule) {
            let target = ["jump", "goto"]
                .iter()
                .find_map(|kind| one[kind]["target"].as_str());
            match target {
                Some(target) if depth > 0 => {
                    verdict |= accepts(listed, target, key, bridge, depth - 1);
                }
                _ if one.get("accept").is_some() => verdict = true,
                _ if one.get("counter").is_some() || is_ours(one) => {}
                // It is about something else too.
                _ => return false,
            }
        }
        verdict
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(chain: &str, expressions: Value) -> Value {
        json!({"rule": {"chain": chain, "expr": expressions}})
    }

    fn table(rules: &[Value]) -> Value {
        let mut all = vec![
            json!({"metainfo": {}}),
            json!({"chain": {"policy": "drop"}}),
        ];
        all.extend_from_slice(rules);
        json!({ "nftables": all })
    }

    fn of_bridge(key: &str, name: &str) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": name}})
    }

    #[test]
    fn a_rule_that_accepts_our_bridge_is_seen() {
        let accept = json!({"accept": null});
        let counter = json!({"counter": {"packets": 0, "bytes": 0}});
        let is_accepted =
            |table: &Value, key, bridge| accepts(table, "FORWARD", key, bridge, DEPTH);
        let listed = table(&[rule(
            "FORWARD",
            json!([of_bridge("iifname", "pl-0"), counter, accept]),
        )]);
        assert!(is_accepted(&listed, "iif", "pl-0"));
        assert!(!is_accepted(&listed, "oif", "pl-0"));
        assert!(!is_accepted(&listed, "iif", "pl-1"));
        assert!(is_accepted(
            &table(&[rule("FORWARD", json!([accept]))]),
            "oif",
            "pl-1"
        ));
        let other = json!({"match": {"op": "==", "left": {"payload": {}}, "right": 80}});
        let narrow = rule("FORWARD", json!([of_bridge("iif", "pl-0"), other, accept]));
        assert!(!is_accepted(&table(&[narrow]), "iif", "pl-0"));
        let elsewhere = rule("INPUT", json!([accept]));
        assert!(!is_accepted(&table(&[elsewhere]), "iif", "pl-0"));
        assert!(!is_accepted(&json!(null), "iif", "pl-0"));
    }

    #[test]
    fn dockers_chain_for_users_is_where_a_rule_counts_and_belongs() {
        let jump = |to: &str| {
            rule(
                "FORWARD",
                json!([{"counter": {}}, {"jump": {"target": to}}]),
            )
        };
        let of_user = rule(
            DOCKER_USER,
            json!([of_bridge("iifname", "pl-0"), {"accept": null}]),
        );
        let listed = table(&[jump(DOCKER_USER), jump("DOCKER"), of_user]);
        assert!(accepts(&listed, "FORWARD", "iif", "pl-0", DEPTH));
        assert!(!accepts(&listed, "FORWARD", "iif", "pl-1", DEPTH));
        let chain = Chain {
            family: "ip",
            table: "filter".into(),
            name: "FORWARD".into(),
        };
        let sentence = sentence(&chain, &listed, "pl-1");
        assert!(
            sentence.contains("iptables -I DOCKER-USER -i pl-1 -j ACCEPT"),
            "{sentence}"
        );
        // Chains that lead to each other end.
        let circle = table(&[
            jump("LOOP"),
            rule("LOOP", json!([{"jump": {"target": "LOOP"}}])),
        ]);
        assert!(!accepts(&circle, "FORWARD", "iif", "pl-0", DEPTH));
    }
}
