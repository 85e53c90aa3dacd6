//! The driver's side of a queue, for tests: writes descriptors and rings into guest memory as a guest would.

use std::sync::Arc;

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::queue::VirtQueue;
use crate::memory::{Memory, allocate};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Where the rings of a queue lie; queue number `n` of a device has them `n` pages groups further on.
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const EACH: u64 = 0x3000;

/// The largest queue whose rings have room there.
pub(crate) const LARGEST: u16 = 256;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) at: u64,
    pub(crate) bytes: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    pub(crate) fn read(at: u64, bytes: u32) -> Self {
        Self {
            at,
            bytes,
            flags: 0,
            next: 0,
        }
    }

    pub(crate) fn write(at: u64, bytes: u32) -> Self {
        Self {
            at,
            bytes,
            flags: WRITE,
            next: 0,
        }
    }
}

/// One queue, driven from the guest's side.
pub(crate) struct Driver {
    pub(crate) memory: Arc<Memory>,
    pub(crate) queue: VirtQueue,
    rings: Rings,
}

/// Where a queue's rings are, and how far the driver has come in them.
#[derive(Debug, Clone)]
pub(crate) struct Rings {
    base: u64,
    size: u16,
    available: u16,
    free: u16,
}

impl Rings {
    pub(crate) fn new(number: u64, size: u16) -> Self {
        Self {
            base: number * EACH,
            size,
            available: 0,
            free: 0,
        }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The addresses of descriptor table, available ring and used ring.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [TABLE, AVAILABLE, USED].map(|at| self.base + at)
    }

    pub(crate) fn configure(&self, queue: &mut VirtQueue) {
        let [table, available, used] = self.addresses();
        let registers = queue.registers();
        registers.set_size(self.size);
        registers.set_desc_table_address(Some(table as u32), Some(0));
        registers.set_avail_ring_address(Some(available as u32), Some(0));
        registers.set_used_ring_address(Some(used as u32), Some(0));
        registers.set_ready(true);
        assert!(queue.is_valid());
    }

    pub(crate) fn put(&self, memory: &Memory, index: u16, descriptor: Descriptor) {
        put_at(
            memory,
            self.addresses()[0] + 16 * u64::from(index),
            descriptor,
        );
    }

    /// Puts a chain into free descriptors and offers it; its head comes back.
    pub(crate) fn add(&mut self, memory: &Memory, chain: &[Descriptor]) -> u16 {
        let head = self.free % self.size;
        for (place, descriptor) in chain.iter().enumerate() {
            let index = self.free % self.size;
            self.free = self.free.wrapping_add(1);
            let goes_on = if place + 1 < chain.len() { NEXT } else { 0 };
            let next = self.free % self.size;
            self.put(
                memory,
                index,
                Descriptor {
                    flags: descriptor.flags | goes_on,
                    next,
                    ..*descriptor
                },
            );
        }
        self.offer(memory, head);
        head
    }

    pub(crate) fn offer(&mut self, memory: &Memory, head: u16) {
        let available = self.addresses()[1];
        let slot = available + 4 + 2 * u64::from(self.available % self.size);
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        memory
            .write_obj(self.available, GuestAddress(available + 2))
            .unwrap();
    }

    /// Everything that the device has returned so far: head and bytes written.
    pub(crate) fn used(&self, memory: &Memory) -> Vec<(u32, u32)> {
        let used = self.addresses()[2];
        let count: u16 = memory.read_obj(GuestAddress(used + 2)).unwrap();
        assert!(count <= self.size, "the tests here do not wrap around");
        (0..count)
            .map(|index| {
                let at = used + 4 + 8 * u64::from(index);
                (
                    memory.read_obj(GuestAddress(at)).unwrap(),
                    memory.read_obj(GuestAddress(at + 4)).unwrap(),
                )
            })
            .collect()
    }
}

fn put_at(memory: &Memory, at: u64, descriptor: Descriptor) {
    memory.write_obj(descriptor.at, GuestAddress(at)).unwrap();
    memory
        .write_obj(descriptor.bytes, GuestAddress(at + 8))
        .unwrap();
    memory
        .write_obj(descriptor.flags, GuestAddress(at + 12))
        .unwrap();
    memory
        .write_obj(descriptor.next, GuestAddress(at + 14))
        .unwrap();
}

impl Driver {
    pub(crate) fn new(size: u16) -> Self {
        let memory = Arc::new(allocate(64).unwrap());
        let mut queue = VirtQueue::new(size, Arc::clone(&memory)).unwrap();
        let rings = Rings::new(0, size);
        rings.configure(&mut queue);
        Self {
            memory,
            queue,
            rings,
        }
    }

    pub(crate) fn memory_bytes() -> u64 {
        64 << 20
    }

    pub(crate) fn put(&self, index: u16, descriptor: Descriptor) {
        self.rings.put(&self.memory, index, descriptor);
    }

    pub(crate) fn put_at(&self, at: u64, descriptor: Descriptor) {
        put_at(&self.memory, at, descriptor);
    }

    pub(crate) fn add(&mut self, chain: &[Descriptor]) -> u16 {
        self.rings.add(&self.memory, chain)
    }

    pub(crate) fn offer(&mut self, head: u16) {
        self.rings.offer(&self.memory, head);
    }

    pub(crate) fn set_available(&self, index: u16) {
        self.memory
            .write_obj(index, GuestAddress(self.rings.addresses()[1] + 2))
            .unwrap();
    }

    pub(crate) fn set_available_flags(&self, flags: u16) {
        self.memory
            .write_obj(flags, GuestAddress(self.rings.addresses()[1]))
            .unwrap();
    }

    pub(crate) fn used(&self) -> Vec<(u32, u32)> {
        self.rings.used(&self.memory)
    }
}
