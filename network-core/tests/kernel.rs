//! What this crate does to a kernel, each test in a network namespace of its own. Root is needed.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;

use network_core::rules::{Protocol, Published, Rules};
use network_core::{Error, Mac, Subnet, forwarding, link, route};

/// Runs a test on a thread that has a network namespace of its own.
fn apart(test: impl FnOnce() + Send + 'static) {
    let done = std::thread::spawn(|| {
        // SAFETY: unshare(2) takes a number, and changes this thread's network namespace only.
        let made = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        test();
    })
    .join();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// What a program says, run in this thread's network namespace.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn subnet() -> Subnet {
    "10.9.0.0/16".parse().unwrap()
}

fn published(number: u16) -> Published {
    Published {
        protocol: if number.is_multiple_of(2) {
            Protocol::Tcp
        } else {
            Protocol::Udp
        },
        host_ip: if number.is_multiple_of(3) {
            Ipv4Addr::UNSPECIFIED
        } else {
            Ipv4Addr::LOCALHOST
        },
        host_port: 10_000 + number,
        to: Ipv4Addr::new(10, 9, 1, 2),
        to_port: number + 1,
    }
}

#[test]
fn a_bridge_is_made_once_and_removed_as_often_as_one_likes() {
    apart(|| {
        assert!(link::ensure_bridge("br", GATEWAY, subnet(), Some(1400)).unwrap());
        assert!(!link::ensure_bridge("br", GATEWAY, subnet(), None).unwrap());
        let shown = said("ip", &["addr", "show", "br"]);
        assert!(shown.contains("10.9.0.1/16"), "{shown}");
        assert!(shown.contains("mtu 1400"), "{shown}");
        assert!(shown.contains(&Mac::of(GATEWAY).to_string()), "{shown}");
        link::remove_bridge("br").unwrap();
        link::remove_bridge("br").unwrap();
        assert_eq!(link::names().unwrap(), ["lo"]);
        assert!(matches!(
            link::ensure_bridge("lo", GATEWAY, subnet(), None),
            Err(Error::NotABridge(_))
        ));
    });
}

#[test]
fn a_pair_is_finished_inside_or_not_there_at_all() {
    apart(|| {
        link::ensure_bridge("br", GATEWAY, subnet(), None).unwrap();
        // The other namespace: this thread goes there and comes back.
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        let other = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let enter = |namespace: &std::fs::File| {
            use std::os::fd::AsRawFd;
            // SAFETY: setns(2) takes numbers.
            let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0);
        };
        enter(&own);
        let address = Ipv4Addr::new(10, 9, 0, 2);
        let port = link::Port {
            host_name: "outer",
            bridge: "br",
            guest_name: "eth0",
            mac: Mac::of(address),
            address,
            prefix: 16,
            gateway: Some(GATEWAY),
            mtu: None,
        };
        link::veth(&port, other.as_fd()).unwrap();
        assert_eq!(link::ports_of("br").unwrap(), ["outer"]);
        assert!(said("ip", &["-br", "link", "show", "outer"]).contains(",UP,"));
        link::shut_port("outer").unwrap();
        assert!(!said("ip", &["-br", "link", "show", "outer"]).contains(",UP,"));
        link::shut_port("nowhere").unwrap();
        enter(&other);
        assert!(said("ip", &["addr", "show", "eth0"]).contains("10.9.0.2/16"));
        assert!(said("ip", &["route"]).contains("default via 10.9.0.1 dev eth0"));
        enter(&own);
        // A route that cannot be: the pair does not stay.
        let wrong = link::Port {
            host_name: "second",
            guest_name: "eth1",
            address: Ipv4Addr::new(10, 9, 0, 3),
            prefix: 32,
            gateway: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ..port
        };
        let default = link::detach(other.as_fd(), "eth0");
        default.unwrap();
        link::veth(&wrong, other.as_fd()).unwrap_err();
        assert_eq!(link::ports_of("br").unwrap(), [""; 0]);
        link::detach(other.as_fd(), "eth0").unwrap();
    });
}

#[test]
fn a_tap_is_a_port_as_long_as_it_is_open() {
    apart(|| {
        link::ensure_bridge("br", GATEWAY, subnet(), None).unwrap();
        let address = Ipv4Addr::new(10, 9, 0, 2);
        let port = link::Port {
            host_name: "tap",
            bridge: "br",
            guest_name: "eth0",
            mac: Mac::of(address),
            address,
            prefix: 16,
            gateway: None,
            mtu: Some(1400),
        };
        let tap = link::tap(&port).unwrap();
        assert_eq!(link::ports_of("br").unwrap(), ["tap"]);
        drop(tap);
        assert_eq!(link::ports_of("br").unwrap(), [""; 0]);
        let long = link::Port {
            host_name: "a-name-that-is-too-long",
            ..port
        };
        assert!(link::tap(&long).is_err());
    });
}

#[test]
fn elements_come_and_go_and_others_rules_stay_as_they_were() {
    apart(|| {
        let rules = Rules::default();
        said("nft", &["add", "table", "ip", "theirs"]);
        let before = said("nft", &["list", "ruleset"]);
        assert!(rules.ensure().unwrap());
        assert!(!rules.ensure().unwrap());
        rules.add_network("br0", subnet(), false).unwrap();
        rules
            .add_network("br1", "10.8.0.0/16".parse().unwrap(), true)
            .unwrap();
        rules
            .add_network("br1", "10.8.0.0/16".parse().unwrap(), true)
            .unwrap();
        let mut networks = rules.networks().unwrap();
        networks.sort();
        assert_eq!(networks, ["br0", "br1"]);
        let all: Vec<Published> = (0..500).map(published).collect();
        rules.publish(&all).unwrap();
        // Twice is once, and the last word counts.
        let moved = Published {
            to_port: 9,
            ..all[7]
        };
        rules.publish(&all[..3]).unwrap();
        rules.publish(&[moved]).unwrap();
        let found = rules.published().unwrap();
        assert_eq!(found.len(), 500);
        assert!(found.contains(&moved) && !found.contains(&all[7]));
        assert!(all.iter().filter(|one| found.contains(one)).count() == 499);
        let mac: Mac = "02:42:0a:09:00:02".parse().unwrap();
        rules
            .guard("plv0", mac, Ipv4Addr::new(10, 9, 0, 2))
            .unwrap();
        assert_eq!(
            rules.guarded().unwrap(),
            [("plv0".to_owned(), mac, Ipv4Addr::new(10, 9, 0, 2))]
        );
        rules
            .unguard("plv0", mac, Ipv4Addr::new(10, 9, 0, 2))
            .unwrap();
        rules
            .unguard("plv0", mac, Ipv4Addr::new(10, 9, 0, 2))
            .unwrap();
        rules
            .guard("plv1", mac, Ipv4Addr::new(10, 9, 0, 2))
            .unwrap();
        let guarded = ("plv1", mac, Ipv4Addr::new(10, 9, 0, 2));
        rules.forget(&all[1..2], &[guarded]).unwrap();
        assert_eq!(rules.published().unwrap().len(), 499);
        assert!(rules.guarded().unwrap().is_empty());
        // What is not there does not keep the rest.
        rules.withdraw(&all[..1]).unwrap();
        rules.withdraw(&all).unwrap();
        assert!(rules.published().unwrap().is_empty());
        rules
            .remove_network("br1", "10.8.0.0/16".parse().unwrap(), true)
            .unwrap();
        rules.remove_network("br0", subnet(), false).unwrap();
        assert!(rules.networks().unwrap().is_empty());
        rules.remove().unwrap();
        rules.remove().unwrap();
        assert_eq!(said("nft", &["list", "ruleset"]), before);
        assert!(rules.published().unwrap().is_empty());
    });
}

#[test]
fn the_tables_are_what_base_nft_says() {
    let listed = || said("nft", &["list", "ruleset"]);
    apart(move || {
        let rules = Rules::default();
        rules.ensure().unwrap();
        let ours = listed();
        rules.remove().unwrap();
        assert_eq!(listed(), "");
        let base = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rules/base.nft");
        said("nft", &["-f", base]);
        assert_eq!(ours, listed());
    });
}

#[test]
fn tables_that_somebody_has_flushed_are_made_again() {
    apart(|| {
        let rules = Rules::default();
        rules.ensure().unwrap();
        said("nft", &["delete", "table", "bridge", "plimsoll"]);
        assert!(rules.ensure().unwrap());
        rules
            .guard("plv0", Mac([2, 0, 0, 0, 0, 1]), GATEWAY)
            .unwrap();
    });
}

#[test]
fn a_route_in_the_way_is_named() {
    apart(|| {
        assert_eq!(route::overlapping(subnet()).unwrap(), None);
        link::ensure_bridge("br", GATEWAY, subnet(), None).unwrap();
        let inside: Subnet = "10.9.5.0/24".parse().unwrap();
        assert_eq!(
            route::overlapping(inside).unwrap().unwrap(),
            "10.9.0.0/16 dev br"
        );
        said("ip", &["route", "add", "default", "via", "10.9.0.2"]);
        assert_eq!(
            route::overlapping("10.10.0.0/16".parse().unwrap()).unwrap(),
            None
        );
    });
}

#[test]
fn forwarding_is_the_namespaces_own() {
    let before = forwarding::get().unwrap();
    apart(|| {
        forwarding::set(true).unwrap();
        assert!(forwarding::get().unwrap());
        forwarding::set(false).unwrap();
        assert!(!forwarding::get().unwrap());
    });
    assert_eq!(forwarding::get().unwrap(), before);
}

#[test]
fn a_chain_that_drops_is_named_until_it_accepts_the_bridge() {
    apart(|| {
        let rules = Rules::default();
        assert_eq!(rules.foreign_drop("br").unwrap(), None);
        said("nft", &["add", "table", "ip", "filter"]);
        said(
            "nft",
            &["add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"],
        );
        let sentence = rules.foreign_drop("br").unwrap().unwrap();
        assert!(
            sentence.contains("FORWARD") && sentence.contains("iptables -I FORWARD -i br"),
            "{sentence}"
        );
        for end in ["iifname", "oifname"] {
            assert!(rules.foreign_drop("br").unwrap().is_some());
            let rule = [
                "add", "rule", "ip", "filter", "FORWARD", end, "br", "accept",
            ];
            said("nft", &rule);
        }
        assert_eq!(rules.foreign_drop("br").unwrap(), None);
    });
}
