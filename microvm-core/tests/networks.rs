//! Network devices in real machines: a tap in a network namespace of the test's own on one side, busybox on the other.

mod vm;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::thread;

use guest_protocol::{File, Interface};
use microvm_core::cmdline::PVM_GLIBC_TUNABLES;
use microvm_core::disk::blank_ext4;
use microvm_core::session::Status;
use microvm_core::{NICS_MAX, Nic, substrate};

use vm::tap::{call, in_a_network, tap};
use vm::{Machine, kvm, sh, tcg};

/// The host's ends of the links, and the guest's.
const HOST: [u8; 4] = [10, 99, 0, 1];
const GUEST: [u8; 4] = [10, 99, 0, 2];
const SECOND_HOST: [u8; 4] = [10, 98, 0, 1];
const SECOND_GUEST: [u8; 4] = [10, 98, 0, 2];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const SECOND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const MTU: u16 = 1400;

/// Gives the machine two devices, the second of which is to be the guest's eth0.
fn connect(machine: &mut Machine) {
    let nic = |tap, mac| Nic { tap, mac, mtu: MTU };
    let interface = |mac, name: &str, address, gateway| Interface {
        mac,
        name: name.into(),
        address,
        prefix: 24,
        gateway,
        mtu: MTU,
    };
    machine.networks = vec![
        (
            nic(tap("tap1", SECOND_HOST, MTU), SECOND_MAC),
            interface(SECOND_MAC, "eth1", SECOND_GUEST, None),
        ),
        (
            nic(tap("tap0", HOST, MTU), MAC),
            interface(MAC, "eth0", GUEST, Some(HOST)),
        ),
    ];
    // The kernel names them in the order of the devices: each has the other's name.
    machine.networks[0].1.name = "eth1".into();
}

/// What the guest does: says what it has got, sends the beginning of a file, receives, sends back what it has received, calls
/// over its other device, and is called.
const SCRIPT: &str = r#"
b() { busybox "$@"; }
cat /sys/class/net/eth0/address /sys/class/net/eth1/address /sys/class/net/eth0/mtu
b ip -4 -o addr show | b awk '{print $2, $4}' | b sort
b ip route | b awk '{print $1, $2, $3, $5}' | b sort
head -c $BYTES /bin/busybox | b nc 10.99.0.1 9000
b nc 10.99.0.1 9001 > /tmp/received
b nc 10.99.0.1 9002 < /tmp/received
b nc 10.98.0.1 9003 < /etc/hostname
echo ready
b nc -l -p 7000
"#;

const SETTINGS: &str = "02:00:00:00:00:0a\n02:00:00:00:00:0b\n1400\n\
    eth0 10.99.0.2/24\neth1 10.98.0.2/24\nlo 127.0.0.1/8\n\
    10.98.0.0/24 dev eth1 link\n10.99.0.0/24 dev eth0 link\ndefault via 10.99.0.1 eth0\n";

/// Bytes that no part of which is like another.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let step = |state: &mut u64| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 56) as u8
    };
    (0..count).map(|_| step(&mut state)).collect()
}

fn listen(address: [u8; 4], port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::from(address), port)).unwrap()
}

/// What the next caller sends, to its end.
fn hear(listener: &TcpListener) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut stream = listener.accept().unwrap().0;
    stream.read_to_end(&mut heard).unwrap();
    heard
}

/// Lets the guest send and receive this many bytes, call and be called.
fn exchange(machine: &mut Machine, bytes: usize) {
    connect(machine);
    let [up, down, back] = [9000, 9001, 9002].map(|port| listen(HOST, port));
    let second = listen(SECOND_HOST, 9003);
    let host = thread::spawn(move || {
        assert!(hear(&up) == guest_artifacts::BUSYBOX[..bytes]);
        let sent = noise(bytes);
        let mut stream = down.accept().unwrap().0;
        stream.write_all(&sent).unwrap();
        drop(stream);
        assert!(hear(&back) == sent);
        assert_eq!(hear(&second), b"from-the-image\n");
    });
    machine.process.env.push(format!("BYTES={bytes}"));
    machine.process.args = sh(SCRIPT);
    let ran = machine.run_and(&[], "ready\n", |_| {
        let mut stream = call(GUEST, 7000);
        stream.write_all(b"a word from the host\n").unwrap();
    });
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        format!("{SETTINGS}ready\na word from the host\n"),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(ran.exit().status, Status::Code(0));
    host.join().unwrap();
}

#[test]
fn the_host_and_a_guest_under_tcg_talk() {
    let Some(mut machine) = tcg() else { return };
    in_a_network(move || exchange(&mut machine, 1 << 20));
}

/// One boot for much: on kvm_pvm it takes many seconds, and so does each command.
#[test]
fn the_host_and_a_guest_on_kvm_talk() {
    let Some(mut machine) = kvm() else { return };
    let mut bytes = 1 << 20;
    if !substrate().is_hardware() {
        bytes = 200_000;
        // As the engine does: without it busybox's C library keeps what it copies in registers that are not kept.
        machine.process.env.push(PVM_GLIBC_TUNABLES.into());
    }
    in_a_network(move || exchange(&mut machine, bytes));
}

/// Nine virtio devices: more interrupt lines than a PC has free ones below 16, were its own in use.
#[test]
fn a_machine_with_all_devices_that_there_may_be_starts_and_all_of_them_work_on_kvm() {
    let Some(mut machine) = kvm() else { return };
    if !substrate().is_hardware() {
        return eprintln!("skipped: the lab does this; here a boot takes too long");
    }
    in_a_network(move || {
        let disk = machine.folder.path().join("writable");
        blank_ext4(&machine.folder.path().join("templates"), &disk, 64 << 20).unwrap();
        machine.writable = Some(disk);
        let shared = machine.folder.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(shared.join("word"), "through the share\n").unwrap();
        machine.shares.push((shared, "/shared", true));
        let listeners: Vec<_> = (1..=NICS_MAX as u8)
            .map(|number| {
                let (host, mac) = ([10, 99, number, 1], [2, 0, 0, 0, 0, number]);
                let nic = Nic {
                    tap: tap(&format!("tap{number}"), host, MTU),
                    mac,
                    mtu: MTU,
                };
                let interface = Interface {
                    mac,
                    name: format!("net{number}"),
                    address: [10, 99, number, 2],
                    prefix: 24,
                    gateway: None,
                    mtu: MTU,
                };
                machine.networks.push((nic, interface));
                listen(host, 9000)
            })
            .collect();
        machine.process.args = sh(
            "for n in 1 2 3 4; do echo over $n | busybox nc 10.99.$n.1 9000; done; cat /shared/word; \
             echo kept > /kept; cat /kept; grep -c virtio /proc/interrupts",
        );
        let host = thread::spawn(move || listeners.iter().map(hear).collect::<Vec<_>>());
        let ran = machine.run(&[]);
        let text = String::from_utf8_lossy(&ran.stdout);
        assert_eq!(text, "through the share\nkept\n9\n", "{ran:?}");
        let words: Vec<_> = (1..=4)
            .map(|n| format!("over {n}\n").into_bytes())
            .collect();
        assert_eq!(host.join().unwrap(), words);
    });
}

/// What an image may have where the host lays its files.
#[test]
fn an_image_whose_etc_leads_elsewhere_gets_its_files_and_starts() {
    let Some(mut machine) = tcg() else { return };
    let top = machine.folder.path().join("top.d");
    std::fs::create_dir(&top).unwrap();
    symlink("../../../../nowhere/etc", top.join("etc")).unwrap();
    symlink("/circle/circle", top.join("circle")).unwrap();
    symlink("/outside/resolv.conf", top.join("link")).unwrap();
    std::fs::create_dir(top.join("directory")).unwrap();
    std::fs::write(top.join("file"), "the image's\n").unwrap();
    machine.images.insert(0, vm::erofs(&top));
    let file = |path: &str| File {
        path: path.into(),
        contents: "laid\n".into(),
        mode: 0o644,
    };
    let places = [
        "/etc/hosts",
        "/etc/resolv.conf",
        "/circle/hosts",
        "/link",
        "/directory",
        "/file/hosts",
        "/file",
        "/sys/hosts",
        "/../../above",
    ];
    machine.files = places.map(file).to_vec();
    machine.process.args =
        sh("cat /etc/hosts /nowhere/etc/resolv.conf /link /file /above; ls -d /outside; echo up");
    let ran = machine.run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        format!("{}up\n", "laid\n".repeat(5)),
        "{ran:?}"
    );
    let console = std::fs::read_to_string(machine.folder.path().join("console")).unwrap();
    for place in ["/circle/hosts", "/directory", "/file/hosts", "/sys/hosts"] {
        let said = format!("cannot lay a file over {place}: ");
        assert!(console.contains(&said), "{said} is not in {console}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named_by_its_address() {
    let Some(mut machine) = tcg() else { return };
    in_a_network(move || {
        connect(&mut machine);
        machine.networks[0].1.mac = [2, 0, 0, 0, 0, 0xff];
        machine.process.args = sh("true");
        let said = machine.run(&[]).outcome.unwrap_err().to_string();
        assert!(
            said.contains("no interface has the hardware address 02:00:00:00:00:ff"),
            "{said}"
        );
    });
}
