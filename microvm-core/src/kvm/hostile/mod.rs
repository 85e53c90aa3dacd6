//! Guests without an operating system that drive devices as no driver does, through real exits of KVM. Whatever they do,
//! the monitor goes on, and its devices work again after a reset.

mod script;

use std::fs;

use self::script::{Device, Entry, Script};
use super::tests::{AT, Guest, guest};
use crate::End;
use crate::devices::virtio::mmio::{
    RING_EVENT_IDX, RING_INDIRECT_DESC, VERSION_1, register, status,
};
use crate::devices::virtio::testing::{INDIRECT, NEXT, WRITE};

/// The sectors of the disk, each full of its number.
const SECTORS: u8 = 64;

/// What a guest may do, in the order in which a machine with a disk has its devices.
const DISK: Device = Device { slot: 0 };
const CONSOLE: Device = Device { slot: 1 };
const RANDOM: Device = Device { slot: 2 };

/// Runs a script on a machine with a writable disk, a console and a source of random numbers, and demands that it comes to
/// its end.
fn run(script: Script) {
    let Some(mut guest) = guest(&script.program()) else {
        return;
    };
    let disk = guest.path("disk");
    let contents: Vec<u8> = (0..SECTORS).flat_map(|sector| [sector; 512]).collect();
    fs::write(&disk, contents).unwrap();
    guest.config.writable_disk = Some(disk);
    assert_eq!(outcome(&guest), (End::GuestReset, String::new()));
}

/// How it ends, and which entry of the table has failed.
fn outcome(guest: &Guest) -> (End, String) {
    let (end, said) = guest.run();
    (end, String::from_utf8_lossy(&said).into_owned())
}

/// Everything works that a driver does: a sector is read, random numbers come.
fn works(script: &mut Script) {
    let buffer = script::BUFFERS;
    script.start(DISK, VERSION_1);
    // A request to read sector 5 (section 5.2.6): type 0, the sector, then the data, then the status.
    script.write(8, buffer, 0);
    script.write(8, buffer + 8, 5);
    script.write(1, buffer + 0x2000, 0xff);
    script.offer(
        0,
        &[
            Entry::new(buffer, 16, NEXT, 1),
            Entry::new(buffer + 0x1000, 512, NEXT | WRITE, 2),
            Entry::new(buffer + 0x2000, 1, WRITE, 0),
        ],
    );
    script.notify(DISK, 0);
    script.wait(2, script::USED + 2, 0xffff, 1);
    script.expect(1, buffer + 0x2000, 0xff, 0);
    script.expect(8, buffer + 0x1000, u64::MAX, 0x0505_0505_0505_0505);
    script.expect(8, buffer + 0x11f8, u64::MAX, 0x0505_0505_0505_0505);
    script.reset(DISK);
    script.start(RANDOM, VERSION_1);
    script.offer(0, &[Entry::new(buffer, 64, WRITE, 0)]);
    script.notify(RANDOM, 0);
    script.wait(2, script::USED + 2, 0xffff, 1);
    script.expect(4, script::USED + 8, u64::MAX, 64);
    script.reset(RANDOM);
}

#[test]
fn a_well_behaved_guest_is_served() {
    let mut script = Script::default();
    works(&mut script);
    run(script);
}

#[test]
fn a_guest_that_fails_says_so() {
    let mut script = Script::default();
    script.expect(4, script::slot(DISK) + register::MAGIC, u64::MAX, 1);
    let Some(mut guest) = guest(&script.program()) else {
        return;
    };
    let disk = guest.path("disk");
    fs::write(&disk, [0; 512]).unwrap();
    guest.config.writable_disk = Some(disk);
    let said = "0000000000000000 0000000074726976 ".to_owned();
    assert_eq!(outcome(&guest), (End::GuestReset, said));
}

/// Chains that no driver makes: each a table of descriptors, and the head.
fn malformed() -> Vec<(Vec<Entry>, u16)> {
    let (buffer, table) = (script::BUFFERS, script::TABLE);
    let end = script::MEMORY;
    let one = |entry| (vec![entry], 0);
    vec![
        // Loops: of one, of two, and one that comes back to its second.
        one(Entry::new(buffer, 16, NEXT, 0)),
        (
            vec![
                Entry::new(buffer, 16, NEXT, 1),
                Entry::new(buffer, 16, NEXT | WRITE, 0),
            ],
            0,
        ),
        (
            vec![
                Entry::new(buffer, 16, NEXT, 1),
                Entry::new(buffer, 16, NEXT, 2),
                Entry::new(buffer, 16, NEXT, 1),
            ],
            0,
        ),
        // Out of the table: the next, and the head itself.
        one(Entry::new(buffer, 16, NEXT, 999)),
        one(Entry::new(buffer, 16, NEXT, u16::MAX)),
        (vec![Entry::new(buffer, 16, WRITE, 0)], 999),
        (vec![Entry::new(buffer, 16, WRITE, 0)], u16::MAX),
        // Past memory, across its end, in the hole where devices are, around the end of addresses.
        one(Entry::new(end, 16, WRITE, 0)),
        one(Entry::new(end - 8, 16, WRITE, 0)),
        one(Entry::new(end - 1, 1, WRITE, 0)),
        one(Entry::new(script::slot(DISK), 64, WRITE, 0)),
        one(Entry::new(u64::MAX, 1, WRITE, 0)),
        one(Entry::new(u64::MAX - 7, 16, WRITE, 0)),
        one(Entry::new(buffer, u32::MAX, WRITE, 0)),
        one(Entry::new(0, u32::MAX, 0, 0)),
        one(Entry::new(buffer, 0, WRITE, 0)),
        // What may be read after what may be written.
        (
            vec![
                Entry::new(buffer, 16, NEXT | WRITE, 1),
                Entry::new(buffer, 16, 0, 0),
            ],
            0,
        ),
        // Flags that there are not, and tables in tables: around themselves, of odd length, past memory.
        one(Entry::new(buffer, 16, 0xfff8, 0)),
        one(Entry::new(table, 16, INDIRECT, 0)),
        one(Entry::new(table, 32, INDIRECT | NEXT, 0)),
        one(Entry::new(table, 17, INDIRECT, 0)),
        one(Entry::new(table, 0, INDIRECT, 0)),
        one(Entry::new(end - 16, 64, INDIRECT, 0)),
        one(Entry::new(u64::MAX - 15, 16, INDIRECT, 0)),
        one(Entry::new(table, u32::MAX, INDIRECT | WRITE, 0)),
        // Everything upon itself: the rings are the buffer.
        one(Entry::new(script::USED, 64, WRITE, 0)),
        one(Entry::new(table, 64, WRITE, 0)),
        one(Entry::new(script::AVAILABLE, 64, WRITE, 0)),
    ]
}

#[test]
fn malformed_chains_end_nothing_but_themselves() {
    for (device, queues) in [(DISK, 1), (CONSOLE, 6), (RANDOM, 1)] {
        let mut script = Script::default();
        for features in [VERSION_1, VERSION_1 | RING_INDIRECT_DESC | RING_EVENT_IDX] {
            for (entries, head) in malformed() {
                for queue in 0..queues {
                    script.start_queue(device, queue, features);
                    script.offer(head, &entries);
                    script.notify(device, queue);
                    script.settle(device);
                    script.reset(device);
                }
            }
        }
        works(&mut script);
        run(script);
    }
}

#[test]
fn rings_that_say_nonsense_end_nothing_but_their_device() {
    let mut script = Script::default();
    for device in [DISK, CONSOLE, RANDOM] {
        for index in [2, 8, 0x7fff, 0x8000, u16::MAX] {
            script.start(device, VERSION_1);
            script.offer(0, &[Entry::new(script::BUFFERS, 16, WRITE, 0)]);
            script.write(2, script::AVAILABLE + 2, index.into());
            script.notify(device, 0);
            script.settle(device);
            script.reset(device);
        }
        for place in [
            script::MEMORY,
            script::MEMORY - 16,
            script::BUFFERS + 1,
            script::slot(device),
            u64::MAX,
            u64::MAX - 15,
        ] {
            for which in 0..3 {
                script.start_at(device, which, place);
                script.notify(device, 0);
                script.settle(device);
                script.reset(device);
            }
        }
    }
    works(&mut script);
    run(script);
}

#[test]
fn features_that_are_not_offered_are_not_agreed_on() {
    let mut script = Script::default();
    for device in [DISK, CONSOLE, RANDOM] {
        for features in [u64::MAX, 0, 1 << 33, VERSION_1 | 1 << 63] {
            script.agree(device, features);
            let at = script::slot(device) + register::STATUS;
            script.expect(4, at, status::FEATURES_OK.into(), 0);
            // And as if it had been.
            script.write(4, at, 0xf);
            script.notify(device, 0);
            script.reset(device);
        }
    }
    works(&mut script);
    run(script);
}

#[test]
fn registers_may_be_read_and_written_at_any_width_and_place() {
    let mut script = Script::default();
    for device in [DISK, CONSOLE, RANDOM] {
        for at in (0..0x140).chain([0xff8, 0xffc, 0xffd, 0xfff]) {
            for width in [1, 2, 4, 8] {
                script.read(width, script::slot(device) + at);
                script.write(width, script::slot(device) + at, u64::MAX);
            }
        }
        script.reset(device);
    }
    for port in [
        0x3f8u64, 0x3f9, 0x3fa, 0x3fb, 0x3fd, 0x3ff, 0x60, 0x61, 0xcf8, 0xffff,
    ] {
        for width in [1, 2, 4] {
            script.input(width, port);
            // Not what the serial port would write to the console, which must stay empty.
            if port != 0x3f8 {
                script.output(width, port, 0);
            }
        }
    }
    works(&mut script);
    run(script);
}

#[test]
fn a_reset_in_the_middle_of_a_request_loses_the_request_and_nothing_else() {
    let mut script = Script::default();
    let buffer = script::BUFFERS;
    for turn in 0..64u64 {
        script.start(DISK, VERSION_1);
        script.write(8, buffer, 0);
        script.write(8, buffer + 8, turn % 8);
        script.offer(
            0,
            &[
                Entry::new(buffer, 16, NEXT, 1),
                Entry::new(buffer + 0x1000, 8192, NEXT | WRITE, 2),
                Entry::new(buffer + 0x4000, 1, WRITE, 0),
            ],
        );
        script.notify(DISK, 0);
        (0..turn).for_each(|_| script.input(1, 0x80));
        script.reset(DISK);
    }
    works(&mut script);
    run(script);
}
