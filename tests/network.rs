//! Networks: containers and VMs on one bridge, published ports, names, links; each test on a host of its own.

mod common;

use std::time::{Duration, Instant};

use common::world::{HOST_ADDRESS, OUTSIDE_ADDRESS, World};
use common::{Said, eventually, ways};

/// A web server that says who it is, once it runs.
const SERVER: &str = "mkdir /www; hostname >/www/index.html; exec httpd -f -p 80 -h /www";

/// Whether something answers on that address; what it says.
fn asked(world: &World, from: &str, address: &str) -> Option<String> {
    let (host, port) = address.split_once(':').unwrap_or((address, "80"));
    // bash's own connections: a static busybox has trouble with names outside of its image.
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && tail -n 1 <&3"
    );
    let said = match from {
        "host" => world.inside.sh(&format!("timeout 5 bash -c {script:?}")),
        "outside" => world.outside.sh(&format!("timeout 5 bash -c {script:?}")),
        name => {
            let script =
                format!("printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 {host} {port} | tail -n 1");
            world.plimsoll(["exec", name, "sh", "-c", &script])
        }
    };
    let page = said.stdout.trim().to_owned();
    (said.code == Some(0) && !page.is_empty()).then_some(page)
}

fn ping(world: &World, from: &str, address: &str) -> Said {
    world.plimsoll(["exec", from, "ping", "-c", "1", "-W", "2", address])
}

/// How long an answer may take: a VM's program starts after its machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

#[track_caller]
fn answers(world: &World, from: &str, address: &str, wanted: &str) {
    let deadline = Instant::now() + ANSWERS_WITHIN;
    loop {
        let said = asked(world, from, address);
        if said.as_deref() == Some(wanted) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{address} asked by {from} says {said:?} and not {wanted:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn n21_addresses_are_handed_out_in_order_on_one_bridge_for_every_backend() {
    let world = World::new();
    let before = world.snapshot();
    let mut addresses = Vec::new();
    let mut names = Vec::new();
    for (number, way) in ways().iter().enumerate() {
        let name = format!("n{number}");
        world.detached(way, &format!("--name {name} -h {name}"), SERVER);
        addresses.push(world.address(&name));
        names.push(name);
    }
    world.detached(&[], "--name last -h last", SERVER);
    addresses.push(world.address("last"));
    names.push("last".into());
    let last = |address: &String| -> u8 { address.rsplit('.').next().unwrap().parse().unwrap() };
    let numbers: Vec<u8> = addresses.iter().map(last).collect();
    let wanted: Vec<u8> = (2..2 + numbers.len() as u8).collect();
    assert_eq!(numbers, wanted, "{addresses:?}");
    // Everybody reaches everybody, and the host reaches them all.
    for from in &names {
        for (name, address) in names.iter().zip(&addresses) {
            answers(&world, from, address, name);
        }
    }
    for (name, address) in names.iter().zip(&addresses) {
        answers(&world, "host", address, name);
    }
    // The lowest address that is free is the next, and a restart may give another.
    world.line("stop -t 0 n0").ok();
    world.detached(&[], "--name new", "sleep 1000");
    assert_eq!(world.address("new"), addresses[0]);
    world.line("start n0").ok();
    assert_eq!(last(&world.address("n0")), *wanted.last().unwrap() + 1);
    let mut all = vec!["rm", "-f", "new"];
    all.extend(names.iter().map(String::as_str));
    world.plimsoll(all).ok();
    eventually("links, rules and forwarding are as they were", || {
        world.snapshot() == before
    });
}

#[test]
fn n13_published_ports_answer_from_outside_from_the_host_from_siblings_and_from_the_instance_itself()
 {
    for way in ways() {
        let world = World::new();
        let before = world.snapshot();
        world.detached(
            &way,
            "--name web -h web -p 8080:80 -p 127.0.0.1:8081:80 -p 9053:53/udp",
            "mkdir /www; hostname >/www/index.html; httpd -p 80 -h /www; exec workload echo 53",
        );
        world.detached(&[], "--name sibling", "exec sleep 1000");
        let port = world.line("port web");
        assert_eq!(
            port.ok(),
            "53/udp -> 0.0.0.0:9053\n80/tcp -> 0.0.0.0:8080\n80/tcp -> 127.0.0.1:8081",
            "{way:?}"
        );
        assert_eq!(world.line("port web 53/udp").ok(), "0.0.0.0:9053");
        let ports = world.line("ps --filter name=web --format {{.Ports}}");
        assert_eq!(
            ports.ok(),
            "0.0.0.0:9053->53/udp, 0.0.0.0:8080->80/tcp, 127.0.0.1:8081->80/tcp"
        );
        let address = format!("{HOST_ADDRESS}:8080");
        for from in ["outside", "host", "sibling", "web"] {
            answers(&world, from, &address, "web");
        }
        answers(&world, "host", "127.0.0.1:8080", "web");
        answers(&world, "host", "127.0.0.1:8081", "web");
        // What is published on the loopback interface is nobody else's.
        assert_eq!(
            asked(&world, "outside", &format!("{HOST_ADDRESS}:8081")),
            None
        );
        let script = format!(
            "exec 3<>/dev/udp/{HOST_ADDRESS}/9053; echo hello >&3; timeout 5 head -n 1 <&3"
        );
        let said = world.outside.sh(&script);
        assert_eq!(said.stdout, "hello\n", "{way:?}: {said:?}");
        world.line("rm -f web sibling").ok();
        eventually("links, rules and forwarding are as they were", || {
            world.snapshot() == before
        });
    }
}

#[test]
fn n20_a_port_without_the_hosts_gets_one_that_is_free() {
    let world = World::new();
    world.detached(
        &[],
        "--name web -h web -p 80 --expose 8000-8001/udp",
        SERVER,
    );
    let port = world.line("port web 80");
    let number: u16 = port.ok().rsplit(':').next().unwrap().parse().unwrap();
    assert!(number >= 1024, "{number}");
    answers(&world, "host", &format!("127.0.0.1:{number}"), "web");
    let listed = world.line("ps --format {{.Ports}}");
    assert_eq!(
        listed.ok(),
        format!("0.0.0.0:{number}->80/tcp, 8000-8001/udp")
    );
    world.detached(&[], "--name every -P --expose 80 --expose 53/udp", SERVER);
    let every = world.line("port every");
    assert_eq!(every.ok().lines().count(), 2, "{every:?}");
}

#[test]
fn a_port_that_is_taken_is_refused_with_its_holder_and_nothing_is_left() {
    let world = World::new();
    world.detached(&[], "--name first -p 8080:80", SERVER);
    let before = world.snapshot();
    world.line("run --rm -p 8080:80 plimsoll/base true").fails(
        125,
        &[
            "0.0.0.0:8080",
            "port is already allocated",
            "container first",
        ],
    );
    // A program of the host's own.
    let mut server = std::process::Command::new("busybox");
    server.args(["nc", "-l", "-p", "7070"]);
    world.inside.enter(&mut server);
    let mut server = server.stdin(std::process::Stdio::piped()).spawn().unwrap();
    eventually("it listens", || {
        world.inside.sh("busybox netstat -ltn | grep -q :7070").code == Some(0)
    });
    world
        .line("run --rm -p 7070:80 plimsoll/base true")
        .fails(125, &["7070", "busybox"]);
    common::kill(server.id(), libc::SIGKILL);
    server.wait().unwrap();
    assert_eq!(world.snapshot(), before);
    assert_eq!(world.line("ps -aq").ok().lines().count(), 1);
    // One of a range is enough.
    world.detached(&[], "--name second -p 8080-8082:80", SERVER);
    assert_eq!(world.line("port second 80").ok(), "0.0.0.0:8081");
}

#[test]
fn instances_on_a_network_of_the_users_own_find_each_other_by_name() {
    let world = World::new();
    let before = world.snapshot();
    world.line("network create --subnet 10.77.0.0/24 back").ok();
    for (number, way) in ways().iter().enumerate() {
        let name = format!("db{number}");
        world.detached(
            way,
            &format!("--network back --name {name} -h {name} --network-alias store{number}"),
            SERVER,
        );
    }
    world.detached(
        &[],
        "--network back --name client --ip 10.77.0.99",
        "exec sleep 1000",
    );
    assert_eq!(world.address("client"), "10.77.0.99");
    for (number, way) in ways().iter().enumerate() {
        let name = format!("db{number}");
        answers(&world, "client", &name, &name);
        answers(&world, "client", &format!("{name}.back"), &name);
        answers(&world, "client", &format!("store{number}"), &name);
        let looked = world.plimsoll(["exec", &name, "nslookup", "client"]);
        assert!(looked.ok().contains("10.77.0.99"), "{way:?}: {looked:?}");
    }
    let unknown = world.line("exec client nslookup -type=a nosuchname");
    assert_ne!(unknown.code, Some(0));
    // A network that is in use stays.
    world
        .line("network rm back")
        .fails(1, &["has active endpoints", "client"]);
    // The default network knows no names.
    world.detached(&[], "--name plain", "exec sleep 1000");
    assert_ne!(world.line("exec plain nslookup client").code, Some(0));
    let ids = world.line("ps -aq").ok().to_owned();
    world
        .plimsoll(["rm", "-f"].into_iter().chain(ids.lines()))
        .ok();
    world.line("network rm back").ok();
    eventually("links, rules and forwarding are as they were", || {
        world.snapshot() == before
    });
}

#[test]
fn networks_are_listed_inspected_pruned_and_apart() {
    let world = World::new();
    let id = world
        .line("network create --subnet 10.78.0.0/16 --ip-range 10.78.5.0/24 --gateway 10.78.0.254 --label tier=back one")
        .ok()
        .to_owned();
    assert_eq!(id.len(), 64);
    world.line("network create two").ok();
    let listed = world.line("network ls --format {{.Name}}/{{.Driver}}/{{.Scope}}");
    assert_eq!(
        listed.ok(),
        "bridge/bridge/local\nhost/host/local\nnone/null/local\none/bridge/local\ntwo/bridge/local"
    );
    assert_eq!(
        world.line("network ls -q --filter name=^one").ok(),
        &id[..12]
    );
    assert_eq!(
        world
            .line("network ls --filter label=tier=back --format {{.Name}}")
            .ok(),
        "one"
    );
    let config = world.plimsoll([
        "network",
        "inspect",
        "--format",
        "{{json .IPAM.Config}}",
        &id[..8],
    ]);
    assert_eq!(
        config.ok(),
        r#"[{"Gateway":"10.78.0.254","IPRange":"10.78.5.0/24","Subnet":"10.78.0.0/16"}]"#
    );
    world.detached(&[], "--name aa -h aa --network one", SERVER);
    world.detached(&[], "--name bb -h bb --network two", SERVER);
    let a = world.address("aa");
    assert!(a.starts_with("10.78.5."), "{a}");
    answers(&world, "host", &a, "aa");
    // Another network's instances are out of reach.
    assert_eq!(asked(&world, "bb", &a), None);
    let inside = world.line("network inspect --format {{range.Containers}}{{.Name}}{{end}} one");
    assert_eq!(inside.ok(), "aa");
    // On both, it reaches both.
    world.line("network connect --alias bee one bb").ok();
    answers(&world, "bb", &a, "aa");
    answers(&world, "aa", "bee", "bb");
    world
        .line("network connect one bb")
        .fails(1, &["already exists in network one"]);
    world.line("network disconnect one bb").ok();
    assert_eq!(asked(&world, "bb", &a), None);
    world
        .line("network disconnect one bb")
        .fails(1, &["is not connected to network one"]);
    world.line("rm -f aa bb").ok();
    let pruned = world.line("network prune -f");
    assert_eq!(pruned.ok(), "Deleted Networks:\none\ntwo");
}

#[test]
fn an_internal_network_leads_nowhere() {
    let world = World::new();
    world.line("network create --internal cell").ok();
    world.detached(&[], "--name aa -h aa --network cell", SERVER);
    world.detached(&[], "--name bb --network cell", "exec sleep 1000");
    answers(&world, "bb", "aa", "aa");
    assert_ne!(ping(&world, "bb", OUTSIDE_ADDRESS).code, Some(0));
    let routes = world.line("exec bb ip route");
    assert!(!routes.ok().contains("default"), "{routes:?}");
}

#[test]
fn instances_reach_the_outside_by_the_hosts_address() {
    for way in ways() {
        let world = World::new();
        world
            .outside
            .sh("mkdir -p /tmp; (while true; do echo seen | busybox nc -l -p 7777 -e sh -c 'cat >/dev/null' ; done) >/dev/null 2>&1 &");
        let mut server = std::process::Command::new("busybox");
        // It tells who has connected: the kernel's table of connections.
        server.args(["nc", "-ll", "-p", "7000", "-e", "busybox", "netstat", "-tn"]);
        world.outside.enter(&mut server);
        let mut server = server
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let script = format!(
            "for try in 1 2 3 4 5; do nc -w 5 {} 7000 </dev/null && exit 0; sleep 1; done; exit 1",
            OUTSIDE_ADDRESS
        );
        let mut words = vec!["run", "--rm"];
        words.extend(&way);
        words.extend(["plimsoll/base", "sh", "-c", &script]);
        let said = world.plimsoll(words);
        assert!(
            said.ok().contains(&format!("{HOST_ADDRESS}:")),
            "{way:?}: {said:?}"
        );
        common::kill(server.id(), libc::SIGKILL);
        server.wait().unwrap();
    }
}

#[test]
fn n20_a_link_gives_hosts_entries_and_variables() {
    for way in ways() {
        let world = World::new();
        world.detached(
            &way,
            "--name db -h dbhost --expose 3306 -e MYSQL_USER=root -e HOME=/x",
            SERVER,
        );
        let address = world.address("db");
        let script = "env | grep ^STORE_ | sort; grep store /etc/hosts";
        for client in ways() {
            let mut words = vec!["run", "--rm", "--name", "web", "--link", "db:store"];
            words.extend(&client);
            words.extend(["plimsoll/base", "sh", "-c", script]);
            let said = world.plimsoll(words);
            let wanted = format!(
                "STORE_ENV_MYSQL_USER=root\nSTORE_NAME=/web/store\nSTORE_PORT=tcp://{address}:3306\nSTORE_PORT_3306_TCP=tcp://{address}:3306\nSTORE_PORT_3306_TCP_ADDR={address}\nSTORE_PORT_3306_TCP_PORT=3306\nSTORE_PORT_3306_TCP_PROTO=tcp\n{address}\tstore dbhost db"
            );
            assert_eq!(said.ok(), wanted, "{way:?} {client:?}");
        }
        let fronts: Vec<String> = (0..)
            .zip(ways())
            .map(|(number, client)| {
                let name = format!("front{number}");
                let flags = format!("--name {name} --link db");
                world.detached(&client, &flags, "exec sleep 1000");
                answers(&world, &name, "db", "dbhost");
                name
            })
            .collect();
        // It comes back with another address, and is found all the same.
        world.line("stop -t 0 db").ok();
        world.detached(&[], "--name squatter", "exec sleep 1000");
        world.line("start db").ok();
        assert_ne!(world.address("db"), address);
        for front in &fronts {
            answers(&world, front, "db", "dbhost");
        }
        world.line("stop -t 0 db").ok();
        world
            .line("run --rm --link db plimsoll/base true")
            .fails(125, &["Cannot link to a non running container"]);
    }
}

#[test]
fn the_files_below_etc_are_the_instances_own_and_no_part_of_what_it_has_changed() {
    for way in ways() {
        let world = World::new();
        let mut words = vec!["run", "--name", "own", "-h", "ship"];
        words.extend(&way);
        words.extend([
            "--add-host",
            "port:192.0.2.9",
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "example.org",
            "--dns-option",
            "ndots:3",
            "plimsoll/base",
            "sh",
            "-c",
            "cat /etc/hostname /etc/resolv.conf; tail -n 2 /etc/hosts; ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*'; ip link show lo | grep -c UP",
        ]);
        let said = world.plimsoll(words);
        let lines: Vec<&str> = said.ok().lines().collect();
        let address = lines[6].trim_start_matches("inet ").to_owned();
        assert_eq!(
            lines,
            [
                "ship",
                "nameserver 192.0.2.53",
                "search example.org",
                "options ndots:3",
                "192.0.2.9\tport",
                &format!("{address}\tship"),
                &format!("inet {address}"),
                "1"
            ],
            "{way:?}"
        );
        assert_eq!(world.line("diff own").ok(), "", "{way:?}");
    }
}

#[test]
fn containers_share_a_network_when_asked_to() {
    let world = World::new();
    world.detached(&[], "--name web -h web", SERVER);
    answers(&world, "host", &world.address("web"), "web");
    let said = world.line("run --rm --network container:web plimsoll/base sh -c hostname;echo${IFS}GET${IFS}/${IFS}HTTP/1.0|nc${IFS}-w${IFS}5${IFS}127.0.0.1${IFS}80|tail${IFS}-n${IFS}1");
    assert_eq!(said.ok(), "web\nweb");
    world
        .line("run --rm --network container:web -p 80:80 plimsoll/base true")
        .fails(125, &["conflicting options"]);
    world
        .line("run --rm --backend vm --network container:web plimsoll/base true")
        .fails(125, &["--network container:NAME is refused for a VM"]);
    world.line("stop -t 0 web").ok();
    world
        .line("run --rm --network container:web plimsoll/base true")
        .fails(125, &["non running container"]);
}

#[test]
fn what_is_wrong_is_told_before_anything_is_made() {
    let world = World::new();
    let before = world.snapshot();
    for (line, words) in [
        (
            "run --rm --network nosuch plimsoll/base true",
            "network nosuch not found",
        ),
        ("run --rm -p 80:80:80:80 plimsoll/base true", "invalid"),
        (
            "run --rm -p 70000:80 plimsoll/base true",
            "invalid hostPort: 70000",
        ),
        ("run --rm -p [::1]:80:80 plimsoll/base true", "IPv4"),
        (
            "run --rm --ip 10.0.0.9 plimsoll/base true",
            "user defined networks only",
        ),
        (
            "run --rm --dns nowhere plimsoll/base true",
            "is not an ip address",
        ),
        (
            "run --rm --add-host x plimsoll/base true",
            "bad format for add-host",
        ),
        (
            "run --rm --link nosuch plimsoll/base true",
            "no such container: nosuch",
        ),
        (
            "run --rm --mac-address zz plimsoll/base true",
            "not a valid mac address",
        ),
        ("run --rm --ip6 ::1 plimsoll/base true", "IPv4 only"),
    ] {
        world.line(line).fails(125, &[words]);
    }
    for (line, words) in [
        ("network create --subnet 300.0.0.0/8 bad", "300.0.0.0/8"),
        ("network create --subnet 10.1.0.0/31 bad", "/30"),
        ("network create --subnet fd00::/64 bad", "fd00::/64"),
        ("network create --ipv6 bad", "IPv4 only"),
        ("network create --driver overlay bad", "overlay"),
        ("network create --gateway 10.1.0.1 bad", "--subnet"),
        (
            "network create --subnet 10.1.0.0/24 --gateway 10.2.0.1 bad",
            "no matching subnet",
        ),
        (
            "network create --subnet 198.51.100.0/25 bad",
            "overlaps the host's route",
        ),
        ("network create -bad", ""),
        ("network create bridge", "already exists"),
        ("network rm bridge", "pre-defined network"),
        ("network rm nosuch", "network nosuch not found"),
        ("network inspect nosuch", "network nosuch not found"),
        ("network connect nosuch nobody", "no such container: nobody"),
    ] {
        let said = world.line(line);
        assert_ne!(said.code, Some(0), "{line}");
        assert!(said.stderr.contains(words), "{line}: {}", said.stderr);
    }
    world.line("network create --subnet 10.79.0.0/29 tiny").ok();
    world
        .line("network create --subnet 10.79.0.0/24 other")
        .fails(1, &["Pool overlaps", "tiny"]);
    world
        .line("run --rm --network tiny --ip 10.80.0.1 plimsoll/base true")
        .fails(125, &["10.80.0.1"]);
    for number in 0..5 {
        world.detached(
            &[],
            &format!("--network tiny --name full{number}"),
            "exec sleep 1000",
        );
    }
    world
        .line("run --rm --network tiny --ip 10.79.0.3 plimsoll/base true")
        .fails(125, &["already in use"]);
    world
        .line("run --rm --network tiny plimsoll/base true")
        .fails(125, &["no available addresses on network tiny"]);
    let ids = world.line("ps -aq").ok().to_owned();
    world
        .plimsoll(["rm", "-f"].into_iter().chain(ids.lines()))
        .ok();
    eventually("links, rules and forwarding are as they were", || {
        world.snapshot() == before
    });
}

#[test]
fn what_a_killed_supervisor_leaves_is_found_and_taken_back() {
    let world = World::new();
    let before = world.snapshot();
    for _ in 0..3 {
        let id = world.detached(&[], "--name lost -p 8080:80", SERVER);
        let address = world.address("lost");
        answers(
            &world,
            "outside",
            &format!("{HOST_ADDRESS}:8080"),
            &id[..12],
        );
        common::kill(world.host.process(&id, "supervisor"), libc::SIGKILL);
        eventually("it is settled", || {
            world.line("inspect --format {{.State.Status}} lost").ok() == "exited"
        });
        // Its address and port are free again.
        world.detached(&[], "--name next -h next -p 8080:80", SERVER);
        assert_eq!(world.address("next"), address);
        answers(&world, "outside", &format!("{HOST_ADDRESS}:8080"), "next");
        world.line("rm -f lost next").ok();
    }
    eventually("links, rules and forwarding are as they were", || {
        world.snapshot() == before
    });
}

#[test]
fn other_programs_rules_are_left_alone_and_named_where_they_drop_ours() {
    let world = World::new();
    world
        .inside
        .sh("nft add table ip theirs && nft 'add chain ip theirs FORWARD { type filter hook forward priority 0; policy drop; }' && nft add rule ip theirs FORWARD iifname lo accept")
        .ok();
    let before = world.snapshot();
    let said = world.line("run --rm plimsoll/base true");
    said.ok();
    assert!(
        said.stderr.contains("theirs") && said.stderr.contains("FORWARD"),
        "{said:?}"
    );
    eventually("their rules are as they were", || {
        world.snapshot() == before
    });
}

#[test]
fn nobody_takes_anothers_address() {
    let world = World::new();
    world.detached(&[], "--name victim -h victim", SERVER);
    let victim = world.address("victim");
    answers(&world, "host", &victim, "victim");
    world.detached(
        &[],
        "--name thief --cap-add NET_ADMIN --privileged",
        "exec sleep 1000",
    );
    // Its own address works; another's, and another hardware address, do not.
    let gateway = world
        .line("inspect --format {{.NetworkSettings.Gateway}} thief")
        .ok()
        .to_owned();
    let ping = |source: &str| {
        world.plimsoll([
            "exec", "thief", "ping", "-c", "1", "-W", "2", "-I", source, &gateway,
        ])
    };
    let own = world.address("thief");
    ping(&own).ok();
    let prefix = world
        .line("inspect --format {{.NetworkSettings.IPPrefixLen}} thief")
        .ok()
        .to_owned();
    let taken = format!("{}/{prefix}", victim);
    world
        .plimsoll(["exec", "thief", "ip", "addr", "add", &taken, "dev", "eth0"])
        .ok();
    assert_ne!(ping(&victim).code, Some(0));
    answers(&world, "host", &victim, "victim");
    let other =
        "ip link set eth0 down; ip link set eth0 address 02:42:00:00:00:99; ip link set eth0 up";
    world.plimsoll(["exec", "thief", "sh", "-c", other]).ok();
    assert_ne!(ping(&own).code, Some(0));
    answers(&world, "host", &victim, "victim");
}

#[test]
fn many_instances_start_at_once_and_share_no_address() {
    const COUNT: usize = 30;
    let world = World::new();
    let before = world.snapshot();
    let children: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut command = world.command();
            command
                .args(["run", "-d", "plimsoll/base", "sleep", "1000"])
                .stdout(std::process::Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let ids = world.line("ps -q").ok().to_owned();
    let addresses: std::collections::BTreeSet<String> =
        ids.lines().map(|id| world.address(id)).collect();
    assert_eq!(addresses.len(), COUNT);
    world
        .plimsoll(["rm", "-f"].into_iter().chain(ids.lines()))
        .ok();
    eventually("links, rules and forwarding are as they were", || {
        world.snapshot() == before
    });
}

#[test]
fn n21_whoever_had_an_address_before_does_not_answer_for_it_any_more() {
    let world = World::new();
    let mut addresses = Vec::new();
    for number in 0..5 {
        let name = format!("server{number}");
        let flags = format!("--name {name} -p 8080:7");
        world.detached(&[], &flags, "exec workload echo 7");
        eventually("it listens", || {
            world.line(&format!("logs {name}")).stdout == "ready\n"
        });
        // One try: the namespace of the one before may still be there.
        let script = format!(
            "exec 3<>/dev/tcp/{HOST_ADDRESS}/8080 && printf 'e%064d' 5 >&3 && timeout 5 head -c 64 <&3"
        );
        let said = world.outside.sh(&script);
        assert_eq!(said.stdout, format!("{:064}", 5), "{number}: {said:?}");
        addresses.push(world.address(&name));
        world.line(&format!("rm -f {name}")).ok();
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 1, "{addresses:?}");
}
