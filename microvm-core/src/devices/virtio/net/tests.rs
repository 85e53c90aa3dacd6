use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::mmio::register;
use crate::devices::virtio::slot::tests::Machine;
use crate::devices::virtio::testing::{Descriptor, INDIRECT, NEXT, Rings, WRITE};

const OUT: u64 = 0x20_0000;
const IN: u64 = 0x30_0000;
const HEADER: usize = HEADER_BYTES;
/// Beyond the memory of a test's machine.
const NOWHERE: u64 = 1 << 40;

/// A device that is not running yet, and what stands for the other side of its tap: it keeps packets apart as a tap does.
fn idle() -> (Machine, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    ours.set_nonblocking(true).unwrap();
    let nic = Nic {
        tap: theirs.into(),
        mac: [2, 1, 2, 3, 4, 5],
        mtu: 1450,
    };
    (Machine::new(Box::new(Net::new(nic, false))), ours)
}

fn running() -> (Machine, UnixDatagram) {
    let (mut machine, host) = idle();
    machine.start();
    (machine, host)
}

/// Bytes that tell where they are in their packet, and in which.
fn packet(bytes: usize, number: u8) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ number)
        .collect()
}

fn heard(host: &UnixDatagram) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 17];
    let count = host.recv(&mut bytes).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

fn put(machine: &Machine, at: u64, bytes: &[u8]) {
    machine.memory.write_slice(bytes, GuestAddress(at)).unwrap();
}

fn seen(machine: &Machine, at: u64, bytes: usize) -> Vec<u8> {
    let mut seen = vec![0; bytes];
    machine
        .memory
        .read_slice(&mut seen, GuestAddress(at))
        .unwrap();
    seen
}

/// A packet as the guest sees it: with the number of its buffers.
fn counted(mut packet: Vec<u8>, buffers: u16) -> Vec<u8> {
    packet[10..12].copy_from_slice(&buffers.to_le_bytes());
    packet
}

fn waits_for(machine: &Machine) -> Option<EventSet> {
    machine.slot.interest().map(|(_, events)| events)
}

#[test]
fn the_driver_learns_address_and_mtu_and_what_may_be_left_to_it() {
    let (machine, _host) = idle();
    let mut config = [0; 16];
    machine.slot.read(register::CONFIG, &mut config);
    assert_eq!(config[..6], [2, 1, 2, 3, 4, 5]);
    assert_eq!(config[10..12], 1450u16.to_le_bytes());
    assert_eq!(machine.get(register::DEVICE_ID), 1);
    let offered = u64::from(machine.get(register::DEVICE_FEATURES));
    for bit in [0, 1, 3, 5, 7, 8, 9, 11, 12, 13, 15, 28, 29] {
        assert_ne!(offered & 1 << bit, 0, "bit {bit}");
    }
    for (bit, what) in [(10, "UFO"), (14, "UFO"), (16, "status"), (17, "control")] {
        assert_eq!(offered & 1 << bit, 0, "{what}");
    }
}

#[test]
fn packets_go_out_whole_and_in_order_however_they_lie() {
    let (mut machine, host) = running();
    let all = packet(3000, 1);
    put(&machine, OUT, &all);
    machine.add(
        TO_HOST,
        &[
            Descriptor::read(OUT, 5),
            Descriptor::read(OUT + 5, 0),
            Descriptor::read(OUT + 5, 2000),
            Descriptor::read(OUT + 2005, 995),
        ],
    );
    put(&machine, 0x40_0000, &packet(60, 2));
    machine.add(TO_HOST, &[Descriptor::read(0x40_0000, 60)]);
    machine.slot.notified(TO_HOST);
    assert!(heard(&host).unwrap() == all);
    assert_eq!(heard(&host).unwrap(), packet(60, 2));
    assert!(heard(&host).is_none());
    assert_eq!(machine.used(TO_HOST), [(0, 0), (4, 0)]);
}

#[test]
fn the_largest_packet_is_sent_and_a_longer_one_is_not() {
    let (mut machine, host) = running();
    let largest = packet(SENT_MAX as usize, 7);
    put(&machine, OUT, &largest);
    for bytes in [SENT_MAX as u32 + 1, SENT_MAX as u32] {
        machine.add(TO_HOST, &[Descriptor::read(OUT, bytes)]);
    }
    machine.slot.notified(TO_HOST);
    assert!(heard(&host).unwrap() == largest);
    assert!(heard(&host).is_none());
    assert_eq!(machine.used(TO_HOST), [(0, 0), (1, 0)]);
}

#[test]
fn the_driver_is_told_of_some_before_a_full_queue_is_sent_and_all_are_sent_at_the_end() {
    let (mut machine, host) = running();
    let each = 60_000;
    put(&machine, OUT, &packet(each, 1));
    for _ in 0..20 {
        machine.add(TO_HOST, &[Descriptor::read(OUT, each as u32)]);
    }
    let count_all = || std::iter::from_fn(|| heard(&host)).count();
    machine.slot.notified(TO_HOST);
    let first = count_all();
    // A pair of sockets may take fewer than a tap.
    assert!((1..=BURST_BYTES as usize / each + 1).contains(&first));
    assert_eq!(machine.slot.interrupt.read().unwrap(), 1);
    let mut all = first;
    while all < 20 {
        machine.slot.finish();
        let some = count_all();
        assert!(some > 0, "{all}");
        all += some;
    }
    assert_eq!(machine.used(TO_HOST).len(), 20);
}

#[test]
fn what_is_no_packet_is_returned_with_nothing_sent() {
    let (mut machine, host) = running();
    let header = HEADER as u32;
    let chains: [&[Descriptor]; 8] = [
        &[Descriptor::read(OUT, header)],
        &[Descriptor::read(OUT, 3)],
        &[Descriptor::read(OUT, 0)],
        &[Descriptor::write(OUT, 100)],
        &[Descriptor::read(OUT, 100), Descriptor::write(OUT, 100)],
        &[Descriptor::write(OUT, 100), Descriptor::read(OUT, 100)],
        &[Descriptor::read(NOWHERE, 100)],
        &[Descriptor::read(OUT, 100), Descriptor::read(u64::MAX, 100)],
    ];
    let mut heads: Vec<(u32, u32)> = chains
        .iter()
        .map(|chain| (machine.add(TO_HOST, chain).into(), 0))
        .collect();
    // A loop, and an indirect table with more descriptors than a queue has.
    let looping = Descriptor {
        flags: NEXT,
        next: 100,
        ..Descriptor::read(OUT, 50)
    };
    machine.rings[TO_HOST].put(&machine.memory, 100, looping);
    machine.rings[TO_HOST].offer(&machine.memory, 100);
    heads.push((100, 0));
    for index in 0..300u64 {
        let entry = [
            OUT.to_le_bytes(),
            ((index + 1) << 48 | u64::from(NEXT) << 32 | 10).to_le_bytes(),
        ];
        put(&machine, 0x50_0000 + 16 * index, entry.as_flattened());
    }
    let table = Descriptor {
        flags: INDIRECT,
        ..Descriptor::read(0x50_0000, 300 * 16)
    };
    machine.rings[TO_HOST].put(&machine.memory, 101, table);
    machine.rings[TO_HOST].offer(&machine.memory, 101);
    heads.push((101, 0));
    machine.slot.notified(TO_HOST);
    assert!(heard(&host).is_none());
    assert_eq!(machine.used(TO_HOST), heads);
    put(&machine, OUT, &packet(64, 3));
    machine.add(TO_HOST, &[Descriptor::read(OUT, 64)]);
    machine.slot.notified(TO_HOST);
    assert_eq!(heard(&host).unwrap(), packet(64, 3), "and it goes on");
}

#[test]
fn a_host_that_takes_no_more_is_waited_for_and_nothing_is_lost_or_sent_twice() {
    let (mut machine, host) = running();
    for number in 0..100u8 {
        put(&machine, OUT + 64 * u64::from(number), &packet(64, number));
        machine.add(
            TO_HOST,
            &[Descriptor::read(OUT + 64 * u64::from(number), 64)],
        );
    }
    // Twice, should the pair of sockets take a whole turn's packets.
    machine.slot.notified(TO_HOST);
    machine.slot.notified(TO_HOST);
    let mut rounds = 0;
    for number in 0..100 {
        if machine.used(TO_HOST).len() < 100 {
            assert_eq!(
                waits_for(&machine),
                Some(EventSet::IN | EventSet::OUT),
                "it waits"
            );
        }
        assert_eq!(heard(&host).unwrap(), packet(64, number));
        machine.slot.ready();
        rounds += 1;
    }
    assert_eq!(rounds, 100);
    assert_eq!(machine.used(TO_HOST).len(), 100);
    assert_ne!(waits_for(&machine), Some(EventSet::IN | EventSet::OUT));
}

#[test]
fn a_packet_fills_as_many_buffers_as_it_needs_and_the_next_begins_in_another() {
    let (mut machine, host) = running();
    for number in 0..5 {
        machine.add(TO_GUEST, &[Descriptor::write(IN + 0x1000 * number, 1000)]);
    }
    machine.slot.notified(TO_GUEST);
    host.send(&packet(2500, 1)).unwrap();
    host.send(&packet(1000, 2)).unwrap();
    machine.slot.ready();
    assert_eq!(
        machine.used(TO_GUEST),
        [(0, 1000), (1, 1000), (2, 500), (3, 1000)]
    );
    let pieces = [(0, 1000), (1, 1000), (2, 500)]
        .map(|(number, bytes)| seen(&machine, IN + 0x1000 * number, bytes));
    assert!(pieces.concat() == counted(packet(2500, 1), 3));
    assert!(seen(&machine, IN + 0x3000, 1000) == counted(packet(1000, 2), 1));
    assert_eq!(machine.slot.interrupt.read().unwrap(), 1);
}

#[test]
fn a_header_may_lie_in_pieces() {
    let (mut machine, host) = running();
    machine.add(
        TO_GUEST,
        &[
            Descriptor::write(IN, 11),
            Descriptor::write(IN + 0x1000, 1),
            Descriptor::write(IN + 0x2000, 100),
        ],
    );
    machine.slot.notified(TO_GUEST);
    host.send(&packet(50, 1)).unwrap();
    machine.slot.ready();
    assert_eq!(machine.used(TO_GUEST), [(0, 50)]);
    let seen = [
        seen(&machine, IN, 11),
        seen(&machine, IN + 0x1000, 1),
        seen(&machine, IN + 0x2000, 38),
    ];
    assert_eq!(seen.concat(), counted(packet(50, 1), 1));
}

#[test]
fn a_driver_that_takes_packets_in_one_buffer_loses_those_that_do_not_fit() {
    let (mut machine, host) = idle();
    machine.start_without(feature::MRG_RXBUF);
    for number in 0..2 {
        machine.add(TO_GUEST, &[Descriptor::write(IN + 0x1000 * number, 1000)]);
    }
    machine.slot.notified(TO_GUEST);
    host.send(&packet(1001, 1)).unwrap();
    host.send(&packet(1000, 2)).unwrap();
    machine.slot.ready();
    assert_eq!(machine.used(TO_GUEST), [(0, 1000)]);
    assert!(seen(&machine, IN, 1000) == counted(packet(1000, 2), 1));
}

#[test]
fn the_tap_is_left_alone_until_the_guest_has_buffers() {
    let (mut machine, host) = running();
    host.send(&packet(100, 1)).unwrap();
    assert_eq!(waits_for(&machine), Some(EventSet::IN));
    machine.slot.ready();
    assert_eq!(waits_for(&machine), None);
    machine.add(TO_GUEST, &[Descriptor::write(IN, 2000)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(machine.used(TO_GUEST), [(0, 100)]);
    assert!(seen(&machine, IN, 100) == counted(packet(100, 1), 1));
    assert_eq!(waits_for(&machine), None, "there is no other buffer");
}

#[test]
fn a_packet_that_outgrows_the_buffers_waits_for_more_of_them() {
    let (mut machine, host) = running();
    machine.add(TO_GUEST, &[Descriptor::write(IN, 700)]);
    machine.slot.notified(TO_GUEST);
    host.send(&packet(3000, 1)).unwrap();
    host.send(&packet(30, 2)).unwrap();
    machine.slot.ready();
    assert_eq!(machine.used(TO_GUEST), []);
    assert_eq!(waits_for(&machine), None);
    machine.add(TO_GUEST, &[Descriptor::write(IN + 700, 1300)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(machine.used(TO_GUEST), []);
    machine.add(TO_GUEST, &[Descriptor::write(IN + 2000, 2000)]);
    machine.add(TO_GUEST, &[Descriptor::write(IN + 4000, 2000)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(
        machine.used(TO_GUEST),
        [(0, 700), (1, 1300), (2, 1000), (3, 30)]
    );
    assert!(seen(&machine, IN, 3000) == counted(packet(3000, 1), 3));
    assert!(seen(&machine, IN + 4000, 30) == counted(packet(30, 2), 1));
}

#[test]
fn a_packet_for_which_a_whole_queue_of_buffers_is_too_little_is_lost() {
    let (mut machine, host) = running();
    for number in 0..256 {
        machine.add(TO_GUEST, &[Descriptor::write(IN + 0x100 * number, 100)]);
    }
    machine.slot.notified(TO_GUEST);
    host.send(&packet(25_601, 1)).unwrap();
    host.send(&packet(25_600, 2)).unwrap();
    machine.slot.ready();
    let used = machine.used(TO_GUEST);
    assert_eq!(used.len(), 256);
    assert!(used.iter().all(|(_, bytes)| *bytes == 100));
    assert_eq!(seen(&machine, IN + 10, 2), 256u16.to_le_bytes());
}

#[test]
fn what_is_no_buffer_for_a_packet_goes_back_empty() {
    let (mut machine, host) = running();
    let chains: [&[Descriptor]; 5] = [
        &[Descriptor::read(IN, 2000)],
        &[Descriptor::read(IN, 20), Descriptor::write(IN, 2000)],
        &[Descriptor::write(IN, HEADER as u32 - 1)],
        &[Descriptor::write(NOWHERE, 2000)],
        &[Descriptor::write(IN, 0)],
    ];
    let mut expected: Vec<(u32, u32)> = chains
        .iter()
        .map(|chain| (machine.add(TO_GUEST, chain).into(), 0))
        .collect();
    expected.push((
        machine.add(TO_GUEST, &[Descriptor::write(IN, 2000)]).into(),
        40,
    ));
    machine.slot.notified(TO_GUEST);
    host.send(&packet(40, 1)).unwrap();
    machine.slot.ready();
    assert_eq!(machine.used(TO_GUEST), expected);
}

#[test]
fn a_reset_takes_buffers_back_and_drops_what_was_under_way() {
    let (mut machine, host) = running();
    machine.add(TO_GUEST, &[Descriptor::write(IN, 700)]);
    machine.slot.notified(TO_GUEST);
    host.send(&packet(3000, 1)).unwrap();
    machine.slot.ready();
    host.send(&packet(500, 2)).unwrap();
    machine.put(register::STATUS, 0);
    put(&machine, IN, &[0xee; 3000]);
    machine.rings = vec![Rings::new(4, 256), Rings::new(5, 256)];
    machine.start();
    machine.add(TO_GUEST, &[Descriptor::write(IN + 0x1000, 4000)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(machine.used(TO_GUEST), []);
    host.send(&packet(300, 3)).unwrap();
    machine.slot.ready();
    assert_eq!(machine.used(TO_GUEST), [(0, 300)]);
    assert!(seen(&machine, IN + 0x1000, 300) == counted(packet(300, 3), 1));
    assert!(seen(&machine, IN, 3000) == [0xee; 3000]);
}

#[test]
fn a_tap_that_is_gone_keeps_nobody_busy_and_the_guest_goes_on() {
    let (mut machine, host) = running();
    let descriptor = machine.slot.interest().unwrap().0;
    // Anything that can be neither read nor written stands for it.
    let null = std::fs::File::open("/").unwrap();
    // SAFETY: dup2 takes numbers; the device's descriptor stays the device's.
    assert!(unsafe { libc::dup2(null.as_raw_fd(), descriptor) } >= 0);
    drop(host);
    machine.add(TO_GUEST, &[Descriptor::write(IN, 2000)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(waits_for(&machine), None);
    machine.add(TO_HOST, &[Descriptor::read(OUT, 100)]);
    machine.slot.notified(TO_HOST);
    assert_eq!(machine.used(TO_HOST), [(0, 0)]);
}

// What it has for machines that boot is not used here.
#[allow(dead_code)]
#[path = "../../../../tests/vm/tap.rs"]
mod host;

/// What has come to the guest since the last look, in buffers of 2000 bytes.
fn came(machine: &Machine, seen_so_far: &mut usize) -> Vec<Vec<u8>> {
    let used = machine.used(TO_GUEST);
    let new = &used[std::mem::replace(seen_so_far, used.len())..];
    new.iter()
        .map(|(head, bytes)| seen(machine, IN + 0x1000 * u64::from(*head), *bytes as usize))
        .collect()
}

#[test]
fn a_real_tap_keeps_nothing_of_one_driver_for_the_next() {
    host::in_a_network(|| {
        let nic = Nic {
            tap: host::tap("tap0", [10, 99, 0, 1], 1500),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
        };
        let mut machine = Machine::new(Box::new(Net::new(nic, false)));
        let give_buffers = |machine: &mut Machine| {
            for number in 0..32 {
                machine.add(TO_GUEST, &[Descriptor::write(IN + 0x1000 * number, 2000)]);
            }
            machine.slot.notified(TO_GUEST);
        };
        // To everybody on the link, so that nobody is asked for an address first.
        let socket = std::net::UdpSocket::bind("10.99.0.1:0").unwrap();
        socket.set_broadcast(true).unwrap();
        let say = |word: &[u8]| socket.send_to(word, "10.99.0.255:9").unwrap();
        let has = |packets: &[Vec<u8>], word: &[u8]| {
            let holds = |packet: &&Vec<u8>| packet.windows(word.len()).any(|part| part == word);
            packets.iter().filter(holds).count()
        };

        machine.start();
        give_buffers(&mut machine);
        let mut looked = 0;
        say(b"first");
        machine.slot.ready();
        assert_eq!(has(&came(&machine, &mut looked), b"first"), 1);

        for _ in 0..20 {
            say(b"stale");
        }
        machine.put(register::STATUS, 0);
        machine.rings = vec![Rings::new(4, 256), Rings::new(5, 256)];
        machine.start();
        give_buffers(&mut machine);
        say(b"fresh");
        machine.slot.ready();
        let packets = came(&machine, &mut 0);
        assert_eq!((has(&packets, b"stale"), has(&packets, b"fresh")), (0, 1));
    });
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let at = prop_oneof![0..0x400_0000u64, Just(NOWHERE), any::<u64>()];
    let bytes = prop_oneof![0..4096u32, any::<u32>()];
    (at, bytes, any::<bool>()).prop_map(|(at, bytes, write)| Descriptor {
        // Never over the rings, which a guest may break, but which the test reads.
        at: if at < 0x10_0000 { at + 0x10_0000 } else { at },
        bytes,
        flags: if write { WRITE } else { 0 },
        next: 0,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the guest offers, each chain comes back at most once, and packets get through afterwards.
    #[test]
    fn no_chain_breaks_the_device(
        chains in prop::collection::vec(
            (0..2usize, prop::collection::vec(any_descriptor(), 1..5)),
            1..40,
        ),
        packets in prop::collection::vec(0..5000usize, 0..8),
    ) {
        let (mut machine, host) = running();
        for (queue, chain) in &chains {
            machine.add(*queue, chain);
            machine.slot.notified(*queue);
            while heard(&host).is_some() {}
        }
        for bytes in packets {
            let _ = host.send(&packet(bytes, 1));
            machine.slot.ready();
        }
        for queue in [TO_GUEST, TO_HOST] {
            let mut heads: Vec<_> = machine.used(queue).iter().map(|(head, _)| *head).collect();
            let count = heads.len();
            heads.sort_unstable();
            heads.dedup();
            prop_assert_eq!(heads.len(), count);
        }
        put(&machine, OUT, &packet(64, 9));
        machine.add(TO_HOST, &[Descriptor::read(OUT, 64)]);
        machine.slot.notified(TO_HOST);
        while machine.used(TO_HOST).len() < chains.iter().filter(|(q, _)| *q == TO_HOST).count() + 1 {
            prop_assert!(heard(&host).is_some());
            machine.slot.ready();
        }
    }
}
