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
    /// How many chains were returned since the driver was last told.
    returned: u16,
    /// Chains were left for another turn.
    again: bool,
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

    /// Where the writable byte with this number is.
    pub(crate) fn writable_at(&self, number: u64) -> Option<GuestAddress> {
        parts(&self.writable, number, 1).next().map(|part| part.at)
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
    add_io_vectors(memory, buffers, skip, bytes, into)
}

/// As [`io_vectors`], behind what is there already.
pub(crate) fn add_io_vectors(
    memory: &Memory,
    buffers: &[Buffer],
    skip: u64,
    bytes: u64,
    into: &mut Vec<libc::iovec>,
) -> io::Result<()> {
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
            returned: 0,
            again: false,
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

    /// How many descriptors it has.
    pub(crate) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// How many chains one notification may take before others have their turn.
    pub(crate) fn burst(&self) -> u32 {
        u32::from(self.queue.size()) * ROUNDS
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
        self.returned = self.returned.wrapping_add(1);
        self.queue
            .add_used(self.memory.as_ref(), head, written)
            .map_err(|_| Broken)
    }

    /// Returns chains that the driver must see all at once.
    pub(crate) fn push_together(&mut self, chains: &[(u16, u32)]) -> Result<(), Broken> {
        let Some((&(last, written), others)) = chains.split_last() else {
            return Ok(());
        };
        let mut next = self.queue.next_used();
        for (head, written) in others {
            // Section 2.7.8: flags and index, two bytes each, before elements of eight bytes.
            let place = u64::from(next % self.queue.size());
            let element = (u64::from(*written) << 32 | u64::from(*head)).to_le_bytes();
            let at = GuestAddress(self.queue.used_ring() + 4 + 8 * place);
            self.memory.write_slice(&element, at).map_err(|_| Broken)?;
            next = next.wrapping_add(1);
        }
        self.returned = self.returned.wrapping_add(others.len() as u16);
        self.queue.set_next_used(next);
        // It is the index, written with the last of them, by which the driver sees them.
        self.push(last, written)
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
        let mut left = self.burst();
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
        let returned = std::mem::take(&mut self.returned);
        if returned == 0 {
            return false;
        }
        // All writes to the used ring come before this look at the driver's wish.
        std::sync::atomic::fence(Ordering::SeqCst);
        let wish = |offset: u64| {
            let at = self.queue.avail_ring().checked_add(offset)?;
            let word: u16 = self.memory.load(GuestAddress(at), Ordering::Relaxed).ok()?;
            Some(u16::from_le(word))
        };
        if !self.queue.event_idx_enabled() {
            return wish(0).unwrap_or(0) & NO_INTERRUPT == 0;
        }
        // Section 2.7.7: behind the ring the driver says with which chain it wants to be interrupted. Is that among these?
        let Some(event) = wish(4 + 2 * u64::from(self.queue.size())) else {
            return true;
        };
        let next = self.queue.next_used();
        next.wrapping_sub(event).wrapping_sub(1) < returned
    }
}

#[cfg(test)]
mod tests;
