//! A virtqueue, as a device uses it: chains out, used chains in, and nothing of what the driver wrote taken on trust.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::memory::Memory;

/// The queue itself makes no sense any more: the driver must reset the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// The driver wants no interrupts (section 2.7.6, VIRTQ_AVAIL_F_NO_INTERRUPT).
const NO_INTERRUPT: u16 = 1;

/// How many chains one notification may take, in multiples of the queue's size, before others have their turn.
const ROUNDS: u32 = 4;

/// A queue and the memory it lies in.
pub(crate) struct VirtQueue {
    queue: Queue,
    memory: Arc<Memory>,
    /// Chains were returned since the driver was last told.
    returned: bool,
    /// Chains were left for another turn.
    again: bool,
    /// How far the used ring had come when the driver was last told.
    told: u16,
}

/// Memory of the guest's that one descriptor names. Lies within guest memory as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// Where it starts.
    pub(crate) at: GuestAddress,
    /// Its length in bytes.
    pub(crate) bytes: u32,
}

/// A descriptor chain that was followed to its end and found well-formed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its first descriptor, by which it is returned.
    pub(crate) head: u16,
    /// What the device may read.
    pub(crate) readable: Vec<Buffer>,
    /// What the device may write.
    pub(crate) writable: Vec<Buffer>,
}

/// What comes out of a queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// Nothing is there.
    Empty,
    /// A chain.
    Chain,
    /// Something malformed, which is to be returned with nothing done.
    Malformed,
}

impl Chain {
    /// All bytes that the device may read.
    pub(crate) fn readable_bytes(&self) -> u64 {
        total(&self.readable)
    }

    /// All bytes that the device may write.
    pub(crate) fn writable_bytes(&self) -> u64 {
        total(&self.writable)
    }

    /// Copies readable bytes, from `skip` on, until `into` is full; false when there are too few.
    pub(crate) fn read(&self, memory: &Memory, skip: u64, into: &mut [u8]) -> bool {
        let mut done = 0;
        for part in parts(&self.readable, skip, into.len() as u64) {
            let piece = &mut into[done..done + part.bytes as usize];
            if memory.read_slice(piece, part.at).is_err() {
                return false;
            }
            done += part.bytes as usize;
        }
        done == into.len()
    }

    /// Copies bytes to the writable ones, from `skip` on; false when there is too little room.
    pub(crate) fn write(&self, memory: &Memory, skip: u64, from: &[u8]) -> bool {
        let mut done = 0;
        for part in parts(&self.writable, skip, from.len() as u64) {
            let piece = &from[done..done + part.bytes as usize];
            if memory.write_slice(piece, part.at).is_err() {
                return false;
            }
            done += part.bytes as usize;
        }
        done == from.len()
    }
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.bytes)).sum()
}

/// The pieces of these buffers that hold `bytes` bytes behind the first `skip`.
fn parts(buffers: &[Buffer], skip: u64, bytes: u64) -> impl Iterator<Item = Buffer> + '_ {
    let (mut skip, mut left) = (skip, bytes);
    buffers.iter().filter_map(move |buffer| {
        let length = u64::from(buffer.bytes);
        let skipped = skip.min(length);
        skip -= skipped;
        let taken = left.min(length - skipped);
        left -= taken;
        (taken > 0).then(|| Buffer {
            at: GuestAddress(buffer.at.0 + skipped),
            bytes: taken as u32,
        })
    })
}

/// Guest memory for the kernel to read from or write to, as readv and its kin take it.
///
/// The pointers are good while `memory` is mapped. Guest memory is not Rust memory: the guest changes it as it likes, and
/// only the kernel copies from and to it here.
pub(crate) fn io_vectors(
    memory: &Memory,
    buffers: &[Buffer],
    skip: u64,
    bytes: u64,
    into: &mut Vec<libc::iovec>,
) -> io::Result<()> {
    into.clear();
    for part in parts(buffers, skip, bytes) {
        let slice = memory
            .get_slice(part.at, part.bytes as usize)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        into.push(libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: part.bytes as usize,
        });
    }
    Ok(())
}

impl VirtQueue {
    /// A queue of at most this size, a power of two.
    pub(crate) fn new(max_size: u16, memory: Arc<Memory>) -> Result<Self, Broken> {
        let queue = Queue::new(max_size).map_err(|_| Broken)?;
        Ok(Self {
            queue,
            memory,
            returned: false,
            again: false,
            told: 0,
        })
    }

    /// The registers of the queue.
    pub(crate) fn registers(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// The memory it lies in.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// Whether its rings lie in memory as a whole and the driver has called it ready.
    pub(crate) fn is_valid(&self) -> bool {
        self.queue.is_valid(self.memory.as_ref())
    }

    /// Whether the driver has called it ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.queue.ready()
    }

    /// Takes the next chain, if there is one, and says what came.
    pub(crate) fn pop(&mut self, chain: &mut Chain) -> Result<Popped, Broken> {
        chain.readable.clear();
        chain.writable.clear();
        if !self.queue.ready() {
            return Ok(Popped::Empty);
        }
        let limit = usize::from(self.queue.size());
        let mut heads = self.queue.iter(self.memory.as_ref()).map_err(|_| Broken)?;
        let Some(mut descriptors) = heads.next() else {
            return Ok(Popped::Empty);
        };
        chain.head = descriptors.head_index();
        let mut goes_on = true;
        for descriptor in descriptors.by_ref() {
            let buffer = Buffer {
                at: descriptor.addr(),
                bytes: descriptor.len(),
            };
            let inside = self.memory.check_range(buffer.at, buffer.bytes as usize);
            let too_many = chain.readable.len() + chain.writable.len() == limit;
            let out_of_order = !descriptor.is_write_only() && !chain.writable.is_empty();
            if (buffer.bytes > 0 && !inside) || too_many || out_of_order {
                return Ok(Popped::Malformed);
            }
            match descriptor.is_write_only() {
                true => chain.writable.push(buffer),
                false => chain.readable.push(buffer),
            }
            goes_on = descriptor.has_next();
        }
        // The iterator ends without a word at a bad index, at a table outside memory, and in a loop; then the last
        // descriptor still says that the chain goes on.
        Ok(if goes_on {
            Popped::Malformed
        } else {
            Popped::Chain
        })
    }

    /// Gives back the chain that was taken last, so that it comes again.
    pub(crate) fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain, of which the device has written this many bytes.
    pub(crate) fn push(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        self.returned = true;
        self.queue
            .add_used(self.memory.as_ref(), head, written)
            .map_err(|_| Broken)
    }

    /// Returns several chains so that the driver sees all of them or none: a frame that fills several buffers.
    pub(crate) fn push_all(&mut self, chains: &[(u16, u32)]) -> Result<(), Broken> {
        let (size, ring) = (self.queue.size(), self.queue.used_ring());
        let next = self.queue.next_used();
        let in_range = chains.iter().all(|(head, _)| *head < size);
        let count = u16::try_from(chains.len()).map_err(|_| Broken)?;
        if !in_range || count > size {
            return Err(Broken);
        }
        for (place, (head, written)) in (0..).zip(chains) {
            // The layout of virtq_used (section 2.7.8): flags, index, then elements of eight bytes.
            let slot = u64::from(next.wrapping_add(place) % size);
            let at = ring.checked_add(4 + 8 * slot).ok_or(Broken)?;
            let element = u64::from(*head) | u64::from(*written) << 32;
            self.memory
                .write_obj(element.to_le(), GuestAddress(at))
                .map_err(|_| Broken)?;
        }
        let new = next.wrapping_add(count);
        self.queue.set_next_used(new);
        self.returned = true;
        self.memory
            .store(new.to_le(), GuestAddress(ring + 2), Ordering::Release)
            .map_err(|_| Broken)
    }

    /// Takes every chain that comes, gives it to `each`, and returns it with what `each` says it has written.
    ///
    /// A guest that keeps adding gets another turn after others had theirs: see [`Self::take_again`].
    pub(crate) fn drain(
        &mut self,
        mut each: impl FnMut(&Memory, &Chain) -> u32,
    ) -> Result<(), Broken> {
        let memory = self.memory();
        let mut chain = Chain::default();
        let mut left = u32::from(self.queue.size()) * ROUNDS;
        loop {
            self.no_notification()?;
            loop {
                match self.pop(&mut chain)? {
                    Popped::Empty => break,
                    Popped::Chain => {
                        let written = each(&memory, &chain);
                        self.push(chain.head, written)?;
                    }
                    Popped::Malformed => self.push(chain.head, 0)?,
                }
                left -= 1;
                if left == 0 {
                    self.again = true;
                    return Ok(());
                }
            }
            if !self.want_notification()? {
                return Ok(());
            }
        }
    }

    /// Asks not to be notified: the queue is looked at in any case.
    pub(crate) fn no_notification(&mut self) -> Result<(), Broken> {
        match self.queue.ready() {
            true => self
                .queue
                .disable_notification(self.memory.as_ref())
                .map_err(|_| Broken),
            false => Ok(()),
        }
    }

    /// Asks to be notified from now on; true when something is there already.
    pub(crate) fn want_notification(&mut self) -> Result<bool, Broken> {
        match self.queue.ready() {
            true => self
                .queue
                .enable_notification(self.memory.as_ref())
                .map_err(|_| Broken),
            false => Ok(false),
        }
    }

    /// Leaves something for another turn.
    pub(crate) fn come_again(&mut self) {
        self.again = true;
    }

    /// Whether [`Self::drain`] or a device has left something for another turn.
    pub(crate) fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// Whether the driver is to be interrupted for what was returned since this was last asked.
    pub(crate) fn take_signal(&mut self) -> bool {
        if !std::mem::take(&mut self.returned) {
            return false;
        }
        // All writes to the used ring come before this look at the driver's wish.
        std::sync::atomic::fence(Ordering::SeqCst);
        let (new, old) = (self.queue.next_used(), self.told);
        self.told = new;
        if self.queue.event_idx_enabled() {
            // Behind the available ring: up to where the driver wants no word (section 2.7.10).
            let at = self.queue.avail_ring() + 4 + 2 * u64::from(self.queue.size());
            let event: u16 = self
                .memory
                .load(GuestAddress(at), Ordering::Relaxed)
                .map_or(new.wrapping_sub(1), u16::from_le);
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        let flags: u16 = self
            .memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .unwrap_or(0);
        u16::from_le(flags) & NO_INTERRUPT == 0
    }
}

#[cfg(test)]
mod tests;
