use proptest::prelude::*;

use super::*;
use crate::devices::virtio::testing::{Descriptor, Driver, INDIRECT, NEXT, WRITE};

fn pop(driver: &mut Driver) -> (Popped, Chain) {
    let mut chain = Chain::default();
    let popped = driver.queue.pop(&mut chain).unwrap();
    (popped, chain)
}

#[test]
fn a_chain_comes_out_as_it_was_put_in() {
    let mut driver = Driver::new(8);
    driver.add(&[
        Descriptor::read(0x1_0000, 16),
        Descriptor::write(0x2_0000, 512),
        Descriptor::write(0x3_0000, 1),
    ]);
    let (popped, chain) = pop(&mut driver);
    assert_eq!(popped, Popped::Chain);
    assert_eq!(
        chain.readable,
        [Buffer {
            at: GuestAddress(0x1_0000),
            bytes: 16
        }]
    );
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (16, 513));
    assert_eq!(pop(&mut driver).0, Popped::Empty);
    driver.queue.push(chain.head, 513).unwrap();
    assert_eq!(driver.used(), [(0, 513)]);
}

#[test]
fn malformed_chains_are_told_apart_from_good_ones() {
    let end = Driver::memory_bytes();
    let bad: &[(&str, &[Descriptor])] = &[
        ("past the end of memory", &[Descriptor::read(end - 8, 16)]),
        ("in no memory at all", &[Descriptor::read(u64::MAX - 4, 16)]),
        (
            "readable after writable",
            &[
                Descriptor::write(0x1_0000, 1),
                Descriptor::read(0x1_0000, 1),
            ],
        ),
    ];
    for (what, descriptors) in bad {
        let mut driver = Driver::new(8);
        driver.add(descriptors);
        assert_eq!(pop(&mut driver).0, Popped::Malformed, "{what}");
    }
}

#[test]
fn a_loop_and_a_bad_next_end_as_malformed() {
    for next in [0, 1, 7, 8, 0xffff] {
        let mut driver = Driver::new(8);
        let looped = Descriptor {
            at: 0x1_0000,
            bytes: 1,
            flags: NEXT,
            next,
        };
        driver.put(0, looped);
        driver.put(1, Descriptor { next: 0, ..looped });
        driver.put(7, Descriptor { next: 7, ..looped });
        driver.offer(0);
        assert_eq!(pop(&mut driver).0, Popped::Malformed, "next {next}");
    }
}

#[test]
fn indirect_tables_are_followed_once_and_no_further_than_the_queue_is_long() {
    let mut driver = Driver::new(8);
    driver.put(
        0,
        Descriptor {
            at: 0x4_0000,
            bytes: 32,
            flags: INDIRECT,
            next: 0,
        },
    );
    driver.put_at(
        0x4_0000,
        Descriptor {
            at: 0x1_0000,
            bytes: 4,
            flags: NEXT,
            next: 1,
        },
    );
    driver.put_at(
        0x4_0010,
        Descriptor {
            at: 0x1_0000,
            bytes: 4,
            flags: WRITE,
            next: 0,
        },
    );
    driver.offer(0);
    assert_eq!(pop(&mut driver).0, Popped::Chain);
    // A table in a table.
    driver.put_at(
        0x4_0010,
        Descriptor {
            at: 0x4_0000,
            bytes: 32,
            flags: INDIRECT,
            next: 0,
        },
    );
    driver.offer(0);
    assert_eq!(pop(&mut driver).0, Popped::Malformed);
    // A table that is longer than the queue.
    driver.put(
        0,
        Descriptor {
            at: 0x4_0000,
            bytes: 16 * 9,
            flags: INDIRECT,
            next: 0,
        },
    );
    for index in 0..9u16 {
        let flags = if index < 8 { NEXT } else { 0 };
        driver.put_at(
            0x4_0000 + 16 * u64::from(index),
            Descriptor {
                at: 0x1_0000,
                bytes: 1,
                flags,
                next: index + 1,
            },
        );
    }
    driver.offer(0);
    assert_eq!(pop(&mut driver).0, Popped::Malformed);
}

#[test]
fn an_available_index_that_jumps_breaks_the_queue() {
    let mut driver = Driver::new(8);
    driver.set_available(9);
    assert_eq!(driver.queue.pop(&mut Chain::default()), Err(Broken));
}

#[test]
fn a_head_beyond_the_table_breaks_the_queue_when_it_is_returned() {
    let mut driver = Driver::new(8);
    driver.offer(8);
    assert_eq!(driver.queue.drain(|_, _| 0), Err(Broken));
}

#[test]
fn pieces_are_read_and_written_across_buffers() {
    let mut driver = Driver::new(8);
    driver.add(&[
        Descriptor::read(0x1_0000, 3),
        Descriptor::read(0x2_0000, 5),
        Descriptor::write(0x3_0000, 2),
        Descriptor::write(0x4_0000, 2),
    ]);
    driver
        .memory
        .write_slice(b"abc", GuestAddress(0x1_0000))
        .unwrap();
    driver
        .memory
        .write_slice(b"defgh", GuestAddress(0x2_0000))
        .unwrap();
    let (_, chain) = pop(&mut driver);
    let mut piece = [0; 4];
    assert!(chain.read(&driver.memory, 2, &mut piece));
    assert_eq!(&piece, b"cdef");
    assert!(
        !chain.read(&driver.memory, 5, &mut piece),
        "only three are left"
    );
    assert!(chain.write(&driver.memory, 1, b"xyz"));
    assert_eq!(
        driver
            .memory
            .read_obj::<[u8; 2]>(GuestAddress(0x3_0000))
            .unwrap(),
        *b"\0x"
    );
    assert_eq!(
        driver
            .memory
            .read_obj::<[u8; 2]>(GuestAddress(0x4_0000))
            .unwrap(),
        *b"yz"
    );
    assert!(!chain.write(&driver.memory, 1, b"wxyz"));
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let mut driver = Driver::new(8);
    assert!(!driver.queue.take_signal(), "nothing was returned");
    driver.add(&[Descriptor::read(0x1_0000, 1)]);
    driver.queue.drain(|_, _| 0).unwrap();
    assert!(driver.queue.take_signal());
    driver.set_available_flags(NO_INTERRUPT);
    driver.add(&[Descriptor::read(0x1_0000, 1)]);
    driver.queue.drain(|_, _| 0).unwrap();
    assert!(!driver.queue.take_signal());
}

proptest! {
    #[test]
    fn whatever_the_driver_writes_every_chain_is_returned_or_the_queue_is_broken(
        descriptors in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u16>(), any::<u16>()), 16),
        near in any::<bool>(),
        heads in prop::collection::vec(any::<u16>(), 1..16),
    ) {
        let mut driver = Driver::new(16);
        for (index, (at, bytes, flags, next)) in descriptors.into_iter().enumerate() {
            // Half of the time close to what a driver would write, so that more of it is followed.
            let (at, bytes, next) = match near {
                true => (at % (2 * Driver::memory_bytes()), bytes % 0x1_0000, next % 17),
                false => (at, bytes, next),
            };
            driver.put(index as u16, Descriptor { at, bytes, flags: flags & 7, next });
        }
        for head in &heads {
            driver.offer(head % 17);
        }
        let memory_bytes = Driver::memory_bytes();
        let mut seen = 0;
        let drained = driver.queue.drain(|_, chain| {
            for buffer in chain.readable.iter().chain(&chain.writable) {
                assert!(buffer.bytes == 0 || buffer.at.0 + u64::from(buffer.bytes) <= memory_bytes);
            }
            seen += 1;
            0
        });
        prop_assert!(seen <= heads.len());
        if drained.is_ok() {
            prop_assert_eq!(driver.used().len(), heads.len());
        }
    }
}

#[test]
fn chains_that_are_returned_together_are_seen_together_and_interrupt_where_the_driver_says() {
    let mut driver = Driver::new(4);
    driver.queue.registers().set_event_idx(true);
    let event = |driver: &Driver, at: u16| {
        let place = driver.queue.queue.avail_ring() + 4 + 2 * 4;
        driver.memory.write_obj(at, GuestAddress(place)).unwrap();
    };
    for _ in 0..4 {
        driver.add(&[Descriptor::write(0x1_0000, 64)]);
        pop(&mut driver);
    }
    event(&driver, 1);
    driver.queue.push_together(&[]).unwrap();
    assert!(!driver.queue.take_signal());
    driver
        .queue
        .push_together(&[(2, 64), (0, 64), (1, 7)])
        .unwrap();
    assert_eq!(driver.used(), [(2, 64), (0, 64), (1, 7)]);
    assert!(driver.queue.take_signal(), "the second of them is the one");
    driver.queue.push(3, 1).unwrap();
    assert!(!driver.queue.take_signal(), "it was told of that before");
    assert_eq!(driver.used().len(), 4);
}
