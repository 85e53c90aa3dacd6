use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::slot::tests::Machine;
use crate::devices::virtio::testing::Descriptor;

const DATA: u64 = 0x20_0000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Both ends of what stands in for a tap: a socket that keeps the borders of frames, as a tap does.
fn wire() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socketpair writes two descriptors, which nobody else has.
    unsafe {
        assert_eq!(
            libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()),
            0
        );
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

fn send(wire: &OwnedFd, frame: &[u8]) {
    // SAFETY: the frame is as long as we say.
    let sent = unsafe { libc::write(wire.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
    assert_eq!(sent, frame.len() as isize);
}

fn heard(wire: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; 1 << 17];
    // SAFETY: the buffer is as long as we say.
    let got = unsafe { libc::read(wire.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
    frame.truncate(usize::try_from(got).ok()?);
    Some(frame)
}

fn machine(without: u64) -> (OwnedFd, Machine) {
    let (tap, wire) = wire();
    let mut machine = Machine::new(Box::new(Net::new(tap, MAC, 1500)));
    machine.start_without(without);
    (wire, machine)
}

/// A frame that says its place in every byte.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER as usize];
    frame.extend((0..bytes).map(|at| (at % 251) as u8));
    frame
}

fn guest(machine: &Machine, at: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    machine
        .memory
        .read_slice(&mut data, GuestAddress(at))
        .unwrap();
    data
}

#[test]
fn a_frame_goes_out_as_the_guest_has_written_it() {
    let (wire, mut machine) = machine(0);
    let sent = frame(1000);
    machine
        .memory
        .write_slice(&sent, GuestAddress(DATA))
        .unwrap();
    machine.add(
        TRANSMIT,
        &[
            Descriptor::read(DATA, 12),
            Descriptor::read(DATA + 12, 500),
            Descriptor::read(DATA + 512, 500),
        ],
    );
    machine.slot.notified(TRANSMIT);
    assert_eq!(machine.used(TRANSMIT), [(0, 0)]);
    assert_eq!(heard(&wire).unwrap(), sent);
}

#[test]
fn a_frame_fills_as_many_buffers_as_it_needs_and_says_how_many() {
    let (wire, mut machine) = machine(0);
    for number in 0..100 {
        machine.add(RECEIVE, &[Descriptor::write(DATA + number * 2048, 1024)]);
    }
    let first = frame(2500);
    send(&wire, &first);
    send(&wire, &frame(20));
    machine.slot.notified(RECEIVE);
    assert_eq!(
        machine.used(RECEIVE),
        [(0, 1024), (1, 1024), (2, 464), (3, 32)]
    );
    let count = |at| guest(&machine, at + NUM_BUFFERS, 2);
    assert_eq!(count(DATA), [3, 0]);
    assert_eq!(count(DATA + 3 * 2048), [1, 0]);
    assert_eq!(guest(&machine, DATA + 12, 1012), first[12..1024]);
    assert_eq!(guest(&machine, DATA + 2048, 1024), first[1024..2048]);
    assert_eq!(guest(&machine, DATA + 4096, 464), first[2048..]);
}

#[test]
fn a_frame_waits_until_there_is_room_for_the_longest() {
    let (wire, mut machine) = machine(0);
    send(&wire, &frame(100));
    machine.add(RECEIVE, &[Descriptor::write(DATA, 4096)]);
    machine.slot.notified(RECEIVE);
    assert_eq!(machine.used(RECEIVE), [], "a longer one might come");
    assert!(
        machine.slot.interest().is_none(),
        "nobody looks at the tap meanwhile"
    );
    for _ in 0..2 {
        machine.add(RECEIVE, &[Descriptor::write(DATA + 4096, 65_600)]);
    }
    machine.slot.notified(RECEIVE);
    assert_eq!(machine.used(RECEIVE), [(0, 112)]);
    assert!(machine.slot.interest().is_some());
}

#[test]
fn a_driver_that_does_not_merge_gets_a_buffer_a_frame() {
    let (wire, mut machine) = machine(feature::MRG_RXBUF);
    send(&wire, &frame(100));
    send(&wire, &frame(200));
    for number in 0..2 {
        machine.add(RECEIVE, &[Descriptor::write(DATA + number * 4096, 2000)]);
    }
    machine.slot.notified(RECEIVE);
    assert_eq!(machine.used(RECEIVE), [(0, 112), (1, 212)]);
}

#[test]
fn what_is_no_frame_is_returned_and_not_sent() {
    let (wire, mut machine) = machine(0);
    let chains: [&[Descriptor]; 6] = [
        // No more than a header, or less.
        &[Descriptor::read(DATA, 12)],
        &[Descriptor::read(DATA, 4)],
        // Longer than any frame.
        &[Descriptor::read(DATA, 100_000)],
        // To be written, in part.
        &[Descriptor::read(DATA, 100), Descriptor::write(DATA, 100)],
        // Outside of memory, and around its end.
        &[Descriptor::read(1 << 40, 100)],
        &[Descriptor::read(u64::MAX - 10, 100)],
    ];
    for chain in chains {
        machine.add(TRANSMIT, chain);
    }
    machine.slot.notified(TRANSMIT);
    assert_eq!(machine.used(TRANSMIT).len(), chains.len());
    assert_eq!(heard(&wire), None);
    // It goes on working.
    machine.add(TRANSMIT, &[Descriptor::read(DATA, 100)]);
    machine.slot.notified(TRANSMIT);
    assert_eq!(heard(&wire).unwrap().len(), 100);
}

#[test]
fn buffers_that_cannot_hold_a_frame_are_returned_empty() {
    let (wire, mut machine) = machine(0);
    send(&wire, &frame(100));
    machine.add(RECEIVE, &[Descriptor::write(DATA, 11)]);
    machine.add(RECEIVE, &[Descriptor::read(DATA, 4096)]);
    machine.add(RECEIVE, &[Descriptor::write(1 << 40, 4096)]);
    machine.add(RECEIVE, &[Descriptor::write(DATA, 70_000)]);
    machine.slot.notified(RECEIVE);
    assert_eq!(machine.used(RECEIVE), [(0, 0), (1, 0), (2, 0), (3, 112)]);
}

#[test]
fn a_reset_gives_up_what_was_held() {
    let (wire, mut machine) = machine(0);
    machine.add(RECEIVE, &[Descriptor::write(DATA, 4096)]);
    machine.slot.notified(RECEIVE);
    machine.put(crate::devices::virtio::mmio::register::STATUS, 0);
    assert!(machine.slot.interest().is_none());
    machine.rings[0] = crate::devices::virtio::testing::Rings::new(7, 256);
    machine.rings[1] = crate::devices::virtio::testing::Rings::new(8, 256);
    machine.start();
    send(&wire, &frame(50));
    machine.add(RECEIVE, &[Descriptor::write(DATA + 8192, 70_000)]);
    machine.slot.notified(RECEIVE);
    assert_eq!(machine.used(RECEIVE), [(0, 62)]);
    assert_eq!(
        guest(&machine, DATA, 4),
        [0; 4],
        "the old buffer is left alone"
    );
}

#[test]
fn the_driver_reads_address_and_mtu() {
    let (_wire, machine) = machine(0);
    let word = |at: u64| machine.get(0x100 + at).to_le_bytes();
    assert_eq!([word(0), word(4)].concat()[..6], MAC);
    assert_eq!(word(8), [1, 0, 0xdc, 0x05]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_chains_come_all_are_returned_and_nothing_breaks(
        chains in proptest::collection::vec(
            proptest::collection::vec((any::<u64>(), 0u32..70_000, any::<bool>()), 1..6),
            1..30,
        ),
        queue in 0usize..2,
    ) {
        let (wire, mut machine) = machine(feature::MRG_RXBUF);
        let mut count = 0;
        for chain in &chains {
            let chain: Vec<Descriptor> = chain
                .iter()
                .map(|(at, bytes, write)| {
                    // Half of them within memory.
                    let at = if at % 2 == 0 { DATA + at % (1 << 20) } else { *at };
                    if *write { Descriptor::write(at, *bytes) } else { Descriptor::read(at, *bytes) }
                })
                .collect();
            machine.add(queue, &chain);
            count += 1;
            if queue == RECEIVE {
                send(&wire, &frame(40));
            }
        }
        machine.slot.notified(queue);
        while heard(&wire).is_some() {}
        machine.slot.ready();
        prop_assert!(machine.used(queue).len() <= count);
        if queue == TRANSMIT {
            prop_assert_eq!(machine.used(queue).len(), count);
        }
    }
}
