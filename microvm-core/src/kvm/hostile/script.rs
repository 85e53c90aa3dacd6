//! What such a guest is to do: a table that the program of a few instructions carries out.

use std::arch::global_asm;

use super::AT;
use crate::devices::virtio::mmio::{register, status};
use crate::devices::virtio::slot::SLOT_BYTES;
use crate::kvm::bus::FIRST_SLOT;

/// Where things are, from where the program is loaded: its stack's end, page tables, and table.
const STACK: u64 = 0x1000;
const PAGES: u64 = 0x1000;
const ENTRIES: u64 = 0x7000;

/// The guest's memory, bytes, and where in it the one queue that is used has its parts.
pub(super) const MEMORY: u64 = 64 << 20;
pub(super) const TABLE: u64 = 48 << 20;
pub(super) const AVAILABLE: u64 = TABLE + 0x4000;
pub(super) const USED: u64 = TABLE + 0x8000;
/// Where buffers may be.
pub(super) const BUFFERS: u64 = TABLE + 0x10_0000;

/// The size of a queue, whatever the device would take.
const QUEUE_SIZE: u64 = 8;

/// How many exits a device has to answer what it need not answer.
const PATIENCE: u64 = 60;

global_asm!(
    include_str!("program.s"),
    AT = const AT,
    STACK = const STACK,
    PAGES = const PAGES,
    TABLE = const ENTRIES,
);

unsafe extern "C" {
    static plimsoll_hostile_begin: u8;
    static plimsoll_hostile_end: u8;
}

/// A device by its place on the bus.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub(super) slot: u64,
}

/// Where a device's registers are.
pub(super) fn slot(device: Device) -> u64 {
    FIRST_SLOT + device.slot * SLOT_BYTES
}

/// A descriptor.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    at: u64,
    rest: u64,
}

impl Entry {
    pub(super) fn new(at: u64, bytes: u32, flags: u16, next: u16) -> Self {
        let rest = u64::from(bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
        Self { at, rest }
    }
}

/// The table.
#[derive(Default)]
pub(super) struct Script(Vec<[u64; 4]>);

impl Script {
    fn add(&mut self, what: u64, width: u64, at: u64, value: u64, other: u64) {
        self.0.push([what | width << 32, at, value, other]);
    }

    pub(super) fn write(&mut self, width: u64, at: u64, value: u64) {
        self.add(1, width, at, value, 0);
    }

    /// Ends the guest unless these bits are so.
    pub(super) fn expect(&mut self, width: u64, at: u64, mask: u64, value: u64) {
        self.add(2, width, at, value, mask);
    }

    /// Waits until these bits are so; ends the guest when they never are.
    pub(super) fn wait(&mut self, width: u64, at: u64, mask: u64, value: u64) {
        self.add(3, width, at, value, mask);
    }

    pub(super) fn read(&mut self, width: u64, at: u64) {
        self.add(7, width, at, 0, 0);
    }

    pub(super) fn output(&mut self, width: u64, port: u64, value: u64) {
        self.add(5, width, port, value, 0);
    }

    pub(super) fn input(&mut self, width: u64, port: u64) {
        self.add(6, width, port, 0, 0);
    }

    /// Waits until the device has returned something or wants to be reset, but not for ever.
    pub(super) fn settle(&mut self, device: Device) {
        self.add(4, 0, USED, PATIENCE, slot(device) + register::STATUS);
    }

    fn put(&mut self, device: Device, register: u64, value: u64) {
        self.write(4, slot(device) + register, value);
    }

    /// Goes as far as the agreement on features.
    pub(super) fn agree(&mut self, device: Device, features: u64) {
        let known = u64::from(status::ACKNOWLEDGE | status::DRIVER);
        self.put(device, register::STATUS, known);
        for half in 0..2 {
            self.put(device, register::DRIVER_FEATURES_SELECT, half);
            let word = features >> (32 * half) & 0xffff_ffff;
            self.put(device, register::DRIVER_FEATURES, word);
        }
        self.put(
            device,
            register::STATUS,
            known | u64::from(status::FEATURES_OK),
        );
    }

    fn queue(&mut self, device: Device, queue: u64, places: [u64; 3]) {
        self.put(device, register::QUEUE_SELECT, queue);
        self.put(device, register::QUEUE_SIZE, QUEUE_SIZE);
        let registers = [
            (register::QUEUE_TABLE_LOW, register::QUEUE_TABLE_HIGH),
            (
                register::QUEUE_AVAILABLE_LOW,
                register::QUEUE_AVAILABLE_HIGH,
            ),
            (register::QUEUE_USED_LOW, register::QUEUE_USED_HIGH),
        ];
        for ((low, high), place) in registers.into_iter().zip(places) {
            self.put(device, low, place & 0xffff_ffff);
            self.put(device, high, place >> 32);
        }
        self.put(device, register::QUEUE_READY, 1);
        self.write(8, AVAILABLE, 0);
        self.write(8, USED, 0);
        let all = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.put(device, register::STATUS, all.into());
    }

    /// Starts a device with its first queue.
    pub(super) fn start(&mut self, device: Device, features: u64) {
        self.start_queue(device, 0, features);
    }

    /// Starts a device with one of its queues, or what it takes for one.
    pub(super) fn start_queue(&mut self, device: Device, queue: u64, features: u64) {
        self.agree(device, features);
        self.queue(device, queue, [TABLE, AVAILABLE, USED]);
    }

    /// Starts a device whose first queue has one of its parts elsewhere.
    pub(super) fn start_at(&mut self, device: Device, which: usize, place: u64) {
        self.agree(device, crate::devices::virtio::mmio::VERSION_1);
        let mut places = [TABLE, AVAILABLE, USED];
        places[which] = place;
        self.queue(device, 0, places);
    }

    /// Makes these the first descriptors, and offers the chain with this head.
    pub(super) fn offer(&mut self, head: u16, entries: &[Entry]) {
        for (at, entry) in (TABLE..).step_by(16).zip(entries) {
            self.write(8, at, entry.at);
            self.write(8, at + 8, entry.rest);
        }
        self.write(2, AVAILABLE + 4, head.into());
        self.write(2, AVAILABLE + 2, 1);
    }

    pub(super) fn notify(&mut self, device: Device, queue: u64) {
        self.put(device, register::QUEUE_NOTIFY, queue);
    }

    /// Resets a device, which must take it.
    pub(super) fn reset(&mut self, device: Device) {
        self.put(device, register::STATUS, 0);
        self.expect(4, slot(device) + register::STATUS, u64::MAX, 0);
    }

    /// The whole as it is loaded: program, page tables for the first four gibibytes, table.
    pub(super) fn program(&self) -> Vec<u8> {
        let begin = &raw const plimsoll_hostile_begin;
        // SAFETY: both are symbols of one section, in which the program is all there is between them.
        let mut image = unsafe {
            let length = (&raw const plimsoll_hostile_end).offset_from(begin);
            std::slice::from_raw_parts(begin, length as usize)
        }
        .to_vec();
        assert!(image.len() < 0xf00, "the stack has room");
        image.resize(PAGES as usize, 0);
        const PAGE: u64 = 4096;
        // Present, writable; of a directory's entries a page of two mebibytes.
        let (present, large) = (3, 0x83);
        let level = |entries: Vec<u64>| {
            let mut bytes: Vec<u8> = entries
                .iter()
                .flat_map(|entry| entry.to_le_bytes())
                .collect();
            bytes.resize(PAGE as usize, 0);
            bytes
        };
        let first = AT + PAGES;
        image.extend(level(vec![first + PAGE + present]));
        let directories = (2..6).map(|number| first + number * PAGE + present);
        image.extend(level(directories.collect()));
        for gibibyte in 0..4u64 {
            let pages = (0..512).map(|page| (gibibyte << 30) + (page << 21) + large);
            image.extend(level(pages.collect()));
        }
        let end = [[0u64; 4]];
        let table = self.0.iter().chain(&end).flatten();
        image.extend(table.flat_map(|word| word.to_le_bytes()));
        assert!((AT + image.len() as u64) < TABLE);
        image
    }
}
