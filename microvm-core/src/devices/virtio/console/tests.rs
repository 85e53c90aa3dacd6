use std::io::{Read, Write};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::slot::tests::Machine;
use crate::devices::virtio::testing::Descriptor;

const MESSAGES: u64 = 0x10_0000;
const ANSWERS: u64 = 0x11_0000;
const DATA: u64 = 0x20_0000;

fn console() -> (Machine, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut machine = Machine::new(Box::new(Console::new("test.port", theirs).unwrap()));
    machine.start();
    (machine, ours)
}

fn say(machine: &mut Machine, id: u32, event: u16, value: u16) {
    let bytes = Message::new(id, event, value).bytes();
    machine
        .memory
        .write_slice(&bytes, GuestAddress(MESSAGES))
        .unwrap();
    machine.add(CONTROL_TO_HOST, &[Descriptor::read(MESSAGES, 8)]);
    machine.slot.notified(CONTROL_TO_HOST);
}

/// Gives the device room for a message, and reads what it has said there.
fn hear(machine: &mut Machine) -> Option<(u32, u16, u16, Vec<u8>)> {
    let before = machine.used(CONTROL_TO_GUEST).len();
    machine.add(CONTROL_TO_GUEST, &[Descriptor::write(ANSWERS, 64)]);
    machine.slot.notified(CONTROL_TO_GUEST);
    let (_, bytes) = *machine.used(CONTROL_TO_GUEST).get(before)?;
    let mut message = vec![0; bytes as usize];
    machine
        .memory
        .read_slice(&mut message, GuestAddress(ANSWERS))
        .unwrap();
    let name = message.split_off(8);
    let word = |at: usize| u16::from_le_bytes([message[at], message[at + 1]]);
    Some((word(0).into(), word(4), word(6), name))
}

/// A device whose port the guest has opened.
fn open() -> (Machine, UnixStream) {
    let (mut machine, host) = console();
    say(&mut machine, u32::MAX, event::DEVICE_READY, 1);
    assert_eq!(hear(&mut machine), Some((PORT, event::PORT_ADD, 1, vec![])));
    say(&mut machine, PORT, event::PORT_READY, 1);
    assert_eq!(
        hear(&mut machine),
        Some((PORT, event::PORT_NAME, 1, b"test.port".to_vec()))
    );
    assert_eq!(
        hear(&mut machine),
        Some((PORT, event::PORT_OPEN, 1, vec![]))
    );
    say(&mut machine, PORT, event::PORT_OPEN, 1);
    (machine, host)
}

#[test]
fn the_guest_learns_of_one_named_port() {
    let (machine, _host) = open();
    assert_eq!(
        machine.get(0x104),
        PORTS,
        "the configuration says how many ports there may be"
    );
}

#[test]
fn bytes_pass_both_ways_in_order() {
    let (mut machine, mut host) = open();
    machine
        .memory
        .write_slice(b"from the guest", GuestAddress(DATA))
        .unwrap();
    machine.add(
        TO_HOST,
        &[Descriptor::read(DATA, 5), Descriptor::read(DATA + 5, 9)],
    );
    machine.slot.notified(TO_HOST);
    let mut heard = [0; 14];
    host.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"from the guest");

    host.write_all(b"from the host").unwrap();
    machine.add(
        TO_GUEST,
        &[
            Descriptor::write(DATA, 4),
            Descriptor::write(DATA + 0x1000, 100),
        ],
    );
    machine.slot.notified(TO_GUEST);
    assert_eq!(machine.used(TO_GUEST), [(0, 13)]);
    assert_eq!(
        machine
            .memory
            .read_obj::<[u8; 4]>(GuestAddress(DATA))
            .unwrap(),
        *b"from"
    );
    assert_eq!(
        machine
            .memory
            .read_obj::<[u8; 9]>(GuestAddress(DATA + 0x1000))
            .unwrap(),
        *b" the host"
    );
}

#[test]
fn nothing_reaches_a_port_that_the_guest_has_not_opened() {
    let (mut machine, mut host) = console();
    host.write_all(b"early").unwrap();
    machine.add(TO_GUEST, &[Descriptor::write(DATA, 100)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(machine.used(TO_GUEST), []);
    assert!(machine.slot.interest().is_none(), "and nobody waits for it");
    say(&mut machine, PORT, event::PORT_OPEN, 1);
    assert_eq!(machine.used(TO_GUEST), [(0, 5)]);
}

#[test]
fn without_room_in_the_guest_the_host_is_not_read() {
    let (machine, mut host) = open();
    host.write_all(b"waiting").unwrap();
    machine.slot.ready();
    assert!(
        machine.slot.interest().is_none(),
        "no busy loop on what nobody can take"
    );
    let mut machine = machine;
    machine.add(TO_GUEST, &[Descriptor::write(DATA, 4)]);
    machine.add(TO_GUEST, &[Descriptor::write(DATA, 4)]);
    machine.add(TO_GUEST, &[Descriptor::write(DATA, 4)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(machine.used(TO_GUEST), [(0, 4), (1, 3)]);
    assert_eq!(machine.slot.interest().unwrap().1, EventSet::IN);
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_back_and_loses_nothing() {
    let (mut machine, mut host) = open();
    const CHUNK: usize = 1 << 20;
    let pattern: Vec<u8> = (0..CHUNK).map(|at| (at % 253) as u8).collect();
    machine
        .memory
        .write_slice(&pattern, GuestAddress(DATA))
        .unwrap();
    for _ in 0..3 {
        machine.add(TO_HOST, &[Descriptor::read(DATA, CHUNK as u32)]);
    }
    machine.slot.notified(TO_HOST);
    assert!(machine.used(TO_HOST).len() < 3, "more than a socket holds");
    assert_eq!(
        machine.slot.interest().unwrap().1 & EventSet::OUT,
        EventSet::OUT
    );
    let mut seen = 0;
    let mut buffer = vec![0; 100_000];
    while seen < 3 * CHUNK {
        let got = host.read(&mut buffer).unwrap();
        for (at, byte) in buffer[..got].iter().enumerate() {
            assert_eq!(*byte, pattern[(seen + at) % CHUNK]);
        }
        seen += got;
        machine.slot.ready();
    }
    assert_eq!(machine.used(TO_HOST).len(), 3);
    assert_eq!(
        machine
            .slot
            .interest()
            .map(|(_, events)| events & EventSet::OUT),
        Some(EventSet::empty()).filter(|_| machine.slot.interest().is_some())
    );
}

#[test]
fn when_the_host_hangs_up_the_guest_is_told_and_its_writes_lead_nowhere() {
    let (mut machine, host) = open();
    drop(host);
    machine.add(TO_GUEST, &[Descriptor::write(DATA, 100)]);
    machine.slot.notified(TO_GUEST);
    assert_eq!(machine.used(TO_GUEST), [], "no data");
    assert_eq!(
        hear(&mut machine),
        Some((PORT, event::PORT_OPEN, 0, vec![]))
    );
    assert!(
        machine.slot.interest().is_none(),
        "no busy loop on a stream that has ended"
    );
    machine.add(TO_HOST, &[Descriptor::read(DATA, 100)]);
    machine.slot.notified(TO_HOST);
    assert_eq!(machine.used(TO_HOST).len(), 1);
}

#[test]
fn last_words_reach_a_host_that_reads_late() {
    let (mut machine, mut host) = open();
    const BYTES: usize = 2 << 20;
    machine
        .memory
        .write_slice(&vec![7; BYTES], GuestAddress(DATA))
        .unwrap();
    machine.add(TO_HOST, &[Descriptor::read(DATA, BYTES as u32)]);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        host.read_to_end(&mut all).unwrap();
        all
    });
    machine.slot.finish();
    drop(machine);
    assert_eq!(reader.join().unwrap(), vec![7; BYTES]);
}

#[test]
fn messages_without_end_do_not_pile_up() {
    let (machine, _host) = console();
    let (_, theirs) = UnixStream::pair().unwrap();
    let mut device = Console::new("test.port", theirs).unwrap();
    for _ in 0..10 * MAX_MESSAGES {
        device.tell(Message::new(PORT, event::PORT_ADD, 1));
    }
    assert_eq!(device.messages.len(), MAX_MESSAGES);
    drop(machine);
}

#[test]
fn a_driver_without_multiport_gets_nothing_to_do() {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut machine = Machine::new(Box::new(Console::new("test.port", theirs).unwrap()));
    machine.start_without(MULTIPORT);
    machine.add(TO_HOST, &[Descriptor::read(DATA, 1)]);
    machine.slot.notified(TO_HOST);
    assert_eq!(machine.used(TO_HOST), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whatever_the_driver_says_every_chain_to_the_host_comes_back(
        steps in prop::collection::vec(
            (
                0usize..6,
                prop::collection::vec(
                    (prop_oneof![0x10_0000u64..(65 << 20), any::<u64>()], prop_oneof![0u32..9000, any::<u32>()], any::<bool>()),
                    1..4,
                ),
                any::<[u8; 8]>(),
                prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..3000)],
            ),
            1..12,
        ),
    ) {
        let (mut machine, mut host) = open();
        host.set_nonblocking(true).unwrap();
        let mut added = [0; 6];
        for rings in [CONTROL_TO_HOST, TO_HOST] {
            added[rings] = machine.used(rings).len();
        }
        for (queue, buffers, message, from_host) in steps {
            let _ = host.write_all(&from_host);
            machine.memory.write_slice(&message, GuestAddress(MESSAGES)).unwrap();
            let mut chain: Vec<_> = buffers
                .iter()
                .map(|(at, bytes, write)| {
                    let at = (*at).max(0x10_0000);
                    if *write { Descriptor::write(at, *bytes) } else { Descriptor::read(at, *bytes) }
                })
                .collect();
            if queue == CONTROL_TO_HOST {
                chain.insert(0, Descriptor::read(MESSAGES, 8));
            }
            chain.truncate(usize::from(QUEUE_SIZES[queue]));
            if machine.used(queue).len() + 2 > usize::from(QUEUE_SIZES[queue]) || queue < 2 {
                continue;
            }
            machine.add(queue, &chain);
            added[queue] += 1;
            machine.slot.notified(queue);
            let mut sink = vec![0; 1 << 20];
            for _ in 0..200 {
                while matches!(host.read(&mut sink), Ok(got) if got > 0) {}
                machine.slot.ready();
                if machine.used(TO_HOST).len() == added[TO_HOST] {
                    break;
                }
            }
        }
        prop_assert_eq!(machine.used(CONTROL_TO_HOST).len(), added[CONTROL_TO_HOST]);
        prop_assert_eq!(machine.used(TO_HOST).len(), added[TO_HOST]);
    }
}
