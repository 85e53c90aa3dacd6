//! Devices behind their registers. An input is a list of what a guest does: a byte that says which of them, and its
//! arguments. The device has been started before, with everything that it offers or only what it must have.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};

use super::fuzz;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::blk::{Blk, Disk};
use crate::devices::virtio::console::Console;
use crate::devices::virtio::fs;
use crate::devices::virtio::mmio::{VERSION_1, register};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::slot::tests::Machine;

/// What a guest writes to is within this, where the rings and buffers are that the corpus uses.
const REACH: u64 = 0x20_0000;

/// What a step is: eight bytes into memory, a register written, read and written as wide as it may be, a queue's
/// notification, and that the host's side of the device is ready.
pub(super) const POKE: u8 = 0;
pub(super) const REGISTER: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WIDE: u8 = 3;
pub(super) const NOTIFY: u8 = 4;
pub(super) const READY: u8 = 5;

/// How much of its input a guest carries out.
const STEPS: usize = 300;

/// An input, taken apart.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn number(&mut self, bytes: usize) -> Option<u64> {
        let (number, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        let mut all = [0; 8];
        all[..bytes].copy_from_slice(number);
        Some(u64::from_le_bytes(all))
    }
}

/// Lets a guest do what the input says; what it came to is the device's state and how much it has returned.
fn drive(device: Box<dyn VirtioDevice>, input: &[u8], mut outside: impl FnMut()) -> String {
    let queues = device.queue_sizes().len();
    let mut machine = Machine::new(device);
    let mut steps = Steps(input);
    match steps.number(1) {
        Some(0) => machine.start_without(!VERSION_1),
        Some(_) => machine.start(),
        None => {}
    }
    let mut said = 0u64;
    for _ in 0..STEPS {
        if step(&machine, &mut steps, queues, &mut said).is_none() {
            break;
        }
        outside();
        let _ = machine.slot.interest();
    }
    let used: Vec<u16> = machine
        .rings
        .iter()
        .map(|rings| {
            let at = rings.addresses()[2] + 2;
            machine.memory.read_obj(GuestAddress(at)).unwrap_or(0)
        })
        .collect();
    machine.slot.finish();
    format!(
        "{} {used:?} {}",
        machine.get(register::STATUS),
        machine.get(register::INTERRUPT_STATUS)
    )
}

fn step(machine: &Machine, steps: &mut Steps<'_>, queues: usize, said: &mut u64) -> Option<()> {
    match steps.number(1)? as u8 % 6 {
        POKE => {
            let (at, value) = (steps.number(4)? % REACH, steps.number(8)?);
            let _ = machine.memory.write_obj(value, GuestAddress(at));
        }
        REGISTER => {
            let (at, value) = (steps.number(2)?, steps.number(4)?);
            machine
                .slot
                .write(at % 0x1000, &(value as u32).to_le_bytes());
        }
        READ => {
            let (at, width) = (steps.number(2)?, steps.number(1)? as usize % 9);
            let mut data = [0; 8];
            machine.slot.read(at % 0x1000, &mut data[..width]);
            *said ^= u64::from_le_bytes(data);
        }
        WIDE => {
            let (at, width) = (steps.number(2)?, steps.number(1)? as usize % 9);
            let value = steps.number(8)?.to_le_bytes();
            machine.slot.write(at % 0x1000, &value[..width]);
        }
        NOTIFY => machine.slot.notified(steps.number(1)? as usize % queues),
        _ => machine.slot.ready(),
    }
    Some(())
}

#[test]
fn transport_and_random_numbers() {
    fuzz("rng", |input| drive(Box::new(Rng), input, || {}));
}

#[test]
fn blocks() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 10).unwrap();
    fuzz("block", |input| {
        let disk = match input.len() % 2 {
            0 => Disk::writable(file.path()).unwrap(),
            _ => Disk::image(&[file.path().to_owned(), file.path().to_owned()]).unwrap(),
        };
        let outcome = drive(Box::new(Blk::new(disk)), input, || {});
        assert_eq!(file.as_file().metadata().unwrap().len(), 64 << 10);
        outcome
    });
}

#[test]
fn the_console() {
    fuzz("console", |input| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let device = Console::new(guest_protocol::PORT_NAME, theirs).unwrap();
        let mut host = vec![0; 4096];
        let mut turn = 0;
        drive(Box::new(device), input, || {
            turn += 1;
            let _ = ours.read(&mut host);
            if turn % 3 == 0 {
                let _ = ours.write(b"from the host");
            }
        })
    });
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("directory")).unwrap();
    std::fs::write(folder.path().join("file"), "contents").unwrap();
    fuzz("fs", |input| {
        // Read-only: what an input may ask for would fill the host's disk.
        let device = fs::tests::device(folder.path(), true);
        drive(Box::new(device), input, || {})
    });
}
