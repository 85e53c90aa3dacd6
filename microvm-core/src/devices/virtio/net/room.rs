//! The guest's buffers for what comes from the host: taken from the queue before there is a packet, so that each packet is
//! read into them at once, whatever its length.

use std::collections::VecDeque;
use std::io;

use vm_memory::{Bytes, GuestAddress};

use super::super::queue::{Broken, Chain, Popped, VirtQueue, add_io_vectors};
use super::tap::Tap;
use crate::memory::Memory;
use crate::nic::HEADER_BYTES;

/// The largest packet that a tap gives, with its header: 64 KiB of IP behind an Ethernet header with a VLAN's tag.
const READ_MAX: usize = HEADER_BYTES + 18 + 65_535;

/// How many pieces of memory one read takes: the kernel's UIO_MAXIOV less one for what is beyond the guest's.
const PIECES_MAX: usize = 1024 - 1;

/// Where the header says in how many buffers the packet is (section 5.1.6).
const COUNT: u64 = 10;

/// A chain of buffers of the guest's.
struct Held {
    head: u16,
    /// How many pieces of memory it is.
    pieces: usize,
    bytes: usize,
    /// Where the two bytes of [`COUNT`] are, should a packet begin here.
    count: [GuestAddress; 2],
}

/// A packet that has been read.
struct Packet {
    bytes: usize,
    /// How many of them are in the guest's buffers; the rest is beyond them.
    within: usize,
}

/// Buffers that were taken from the queue and not given back, and a packet if one is in them.
pub(super) struct Room {
    held: VecDeque<Held>,
    /// The memory of all of them, behind what the first `done` pieces were.
    pieces: Vec<libc::iovec>,
    done: usize,
    bytes: usize,
    /// Takes what of a packet does not fit into the buffers. Untouched while the guest has enough of them, it is no memory.
    beyond: Box<[u8]>,
    packet: Option<Packet>,
    /// What is given back for a packet; kept for its memory.
    used: Vec<(u16, u32)>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            held: VecDeque::new(),
            pieces: Vec::new(),
            done: 0,
            bytes: 0,
            beyond: vec![0; READ_MAX].into_boxed_slice(),
            packet: None,
            used: Vec::new(),
        }
    }

    /// Forgets everything: the driver has taken its buffers back.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.pieces.clear();
        (self.done, self.bytes, self.packet) = (0, 0, None);
    }

    fn piece_count(&self) -> usize {
        self.pieces.len() - self.done
    }

    /// Whether a packet was read that is not given yet.
    pub(super) fn has_packet(&self) -> bool {
        self.packet.is_some()
    }

    /// Whether nothing can be read, or what has been read cannot be given, before the guest has added buffers.
    pub(super) fn is_short(&self) -> bool {
        match &self.packet {
            Some(packet) => packet.bytes > self.bytes,
            None => self.held.is_empty(),
        }
    }

    /// Takes buffers until the largest packet fits or there are no more. What is no buffer for a packet goes back empty.
    pub(super) fn fill(&mut self, queue: &mut VirtQueue, chain: &mut Chain) -> Result<(), Broken> {
        let memory = queue.memory();
        let size = usize::from(queue.size());
        // A guest may keep offering what is none.
        let mut left = queue.burst();
        while self.bytes < READ_MAX && self.piece_count() + size <= PIECES_MAX && left > 0 {
            match queue.pop(chain)? {
                Popped::Empty => break,
                Popped::Chain if self.hold(&memory, chain) => {}
                Popped::Chain | Popped::Malformed => queue.push(chain.head, 0)?,
            }
            left -= 1;
        }
        if left == 0 {
            queue.come_again();
        }
        Ok(())
    }

    /// Holds a chain, if a packet can begin in it.
    fn hold(&mut self, memory: &Memory, chain: &Chain) -> bool {
        let bytes = chain.writable_bytes().min(READ_MAX as u64);
        if !chain.readable.is_empty() || bytes < HEADER_BYTES as u64 {
            return false;
        }
        let [Some(low), Some(high)] = [COUNT, COUNT + 1].map(|at| chain.writable_at(at)) else {
            return false;
        };
        if self.done > PIECES_MAX {
            self.pieces.drain(..self.done);
            self.done = 0;
        }
        let before = self.pieces.len();
        if add_io_vectors(memory, &chain.writable, 0, bytes, &mut self.pieces).is_err() {
            self.pieces.truncate(before);
            return false;
        }
        self.held.push_back(Held {
            head: chain.head,
            pieces: self.pieces.len() - before,
            bytes: bytes as usize,
            count: [low, high],
        });
        self.bytes += bytes as usize;
        true
    }

    /// Reads a packet: into the guest's buffers, and beyond them what does not fit.
    pub(super) fn read(&mut self, tap: &Tap) -> io::Result<()> {
        let within = self.bytes;
        let fits = within >= READ_MAX;
        if !fits {
            self.pieces.push(libc::iovec {
                iov_base: self.beyond.as_mut_ptr().cast(),
                iov_len: READ_MAX,
            });
        }
        let read = tap.read(&self.pieces[self.done..]);
        if !fits {
            self.pieces.pop();
        }
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // No tap gives less than a header.
            bytes if bytes < HEADER_BYTES => {}
            bytes => self.packet = Some(Packet { bytes, within }),
        }
        Ok(())
    }

    /// Gives the packet that was read to the guest. When it has not room enough, the packet is kept until it has; unless its
    /// queue is full of buffers, or a packet may be in one only: then the packet is lost.
    pub(super) fn give(&mut self, queue: &mut VirtQueue, mergeable: bool) -> Result<(), Broken> {
        let Some(packet) = self.packet.take() else {
            return Ok(());
        };
        let first = self.held.front().map_or(0, |held| held.bytes);
        if !mergeable && packet.bytes > first {
            return Ok(());
        }
        if packet.bytes > self.bytes {
            let full = self.held.len().max(self.piece_count()) >= usize::from(queue.size());
            if !full {
                self.packet = Some(packet);
            }
            return Ok(());
        }
        self.copy_beyond(&packet);
        let count = self.held.front().map(|held| held.count);
        self.used.clear();
        let mut left = packet.bytes;
        while left > 0
            && let Some(held) = self.held.pop_front()
        {
            let taken = left.min(held.bytes);
            left -= taken;
            self.used.push((held.head, taken as u32));
            self.done += held.pieces;
            self.bytes -= held.bytes;
        }
        let memory = queue.memory();
        let buffers = (self.used.len() as u16).to_le_bytes();
        for (at, byte) in count.into_iter().flatten().zip(buffers) {
            memory.write_obj(byte, at).map_err(|_| Broken)?;
        }
        queue.push_together(&self.used)
    }

    /// Copies what of a packet lies beyond the buffers that there were, to those that have come since.
    fn copy_beyond(&self, packet: &Packet) {
        let (mut skip, mut from) = (packet.within, &self.beyond[..]);
        let mut left = packet.bytes.saturating_sub(packet.within);
        for piece in &self.pieces[self.done..] {
            if left == 0 {
                return;
            }
            let skipped = skip.min(piece.iov_len);
            skip -= skipped;
            let count = left.min(piece.iov_len - skipped);
            let (these, rest) = from.split_at(count);
            // SAFETY: the piece is guest memory that stays mapped, `skipped + count` is within it, and `these` is ours.
            unsafe {
                let to = piece.iov_base.cast::<u8>().add(skipped);
                std::ptr::copy_nonoverlapping(these.as_ptr(), to, count);
            }
            (from, left) = (rest, left - count);
        }
    }
}
