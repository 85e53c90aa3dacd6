//! The network device (section 5.1): one pair of queues, frames from and to a tap.
//!
//! Nothing is copied here: the kernel reads frames from guest memory and writes them there (readv, writev). Each begins with the
//! 12 bytes of `virtio_net_hdr_v1`, which the tap takes and gives as they are: checksums and segmentation are left to whoever
//! gets the frame last.

mod tap;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;

use super::VirtioDevice;
use super::queue::{Broken, Buffer, Chain, Popped, VirtQueue, io_vectors};

/// The queues (section 5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const QUEUE_SIZE: u16 = 256;

/// The header of a frame, and where it says how many buffers the frame fills (section 5.1.6).
const HEADER: u64 = 12;
const NUM_BUFFERS: u64 = 10;

/// The longest frame with its header: 64 KiB of IP, an Ethernet header with a VLAN tag.
const FRAME_MAX: u64 = HEADER + 65_535 + 18;

/// What an Ethernet frame has besides its packet: addresses, type, a VLAN tag.
const ETHERNET: u64 = 18;

/// How many frames go either way before others have their turn.
const TURN: u32 = 256;

/// Features (section 5.1.3).
mod feature {
    pub(super) const CSUM: u64 = 1 << 0;
    pub(super) const GUEST_CSUM: u64 = 1 << 1;
    pub(super) const MTU: u64 = 1 << 3;
    pub(super) const MAC: u64 = 1 << 5;
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const GUEST_ECN: u64 = 1 << 9;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    pub(super) const HOST_ECN: u64 = 1 << 13;
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
}

/// The network device.
pub(crate) struct Net {
    tap: OwnedFd,
    mtu: u16,
    config: [u8; 12],
    vectors: Vec<libc::iovec>,
    /// A frame may fill several of the guest's buffers.
    merges: bool,
    /// How much room a frame may need, its header included.
    longest: u64,
    /// Buffers that the guest has given for frames, taken from the queue already, and the bytes they hold.
    held: VecDeque<Chain>,
    held_bytes: u64,
    /// Chains that are not in use, kept for their allocations.
    spare: Vec<Chain>,
    /// What a frame has filled: chain and bytes.
    filled: Vec<(u16, u32)>,
    /// There is room for a frame, as far as is known.
    room: bool,
    /// The tap takes no more for now.
    full: bool,
}

// SAFETY: the pointers in `vectors` are made anew from guest memory for each frame and not used after it; between frames they
// mean nothing, so the device may move between threads.
unsafe impl Send for Net {}

impl Net {
    /// A device with this hardware address on this tap, whose frames have headers of 12 bytes and which does not block.
    pub(crate) fn new(tap: OwnedFd, mac: [u8; 6], mtu: u16) -> Self {
        // The layout of virtio_net_config (section 5.1.4).
        let mut config = [0; 12];
        config[..6].copy_from_slice(&mac);
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..12].copy_from_slice(&mtu.to_le_bytes());
        Self {
            tap,
            mtu,
            config,
            vectors: Vec::new(),
            merges: false,
            longest: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            spare: Vec::new(),
            filled: Vec::new(),
            room: false,
            full: false,
        }
    }

    /// The tap's descriptor.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.tap.as_raw_fd()
    }

    /// Takes buffers from the queue until a frame of any length has room; false when there are too few.
    fn make_room(&mut self, queue: &mut VirtQueue) -> Result<bool, Broken> {
        // Without merging a frame has one buffer, of whatever size.
        let enough = |this: &Self| match this.merges {
            true => this.held_bytes >= this.longest,
            false => !this.held.is_empty(),
        };
        while !enough(self) {
            let mut chain = self.spare.pop().unwrap_or_default();
            match queue.pop(&mut chain)? {
                Popped::Empty => {
                    self.spare.push(chain);
                    if queue.want_notification()? {
                        continue;
                    }
                    return Ok(false);
                }
                // A buffer that a header does not fit in, or that is to be read, is of no use.
                Popped::Chain if chain.readable.is_empty() && chain.writable_bytes() >= HEADER => {
                    self.held_bytes += chain.writable_bytes();
                    self.held.push_back(chain);
                }
                Popped::Chain | Popped::Malformed => {
                    queue.push(chain.head, 0)?;
                    self.spare.push(chain);
                }
            }
        }
        Ok(true)
    }

    /// Brings frames from the tap into the guest's buffers, as long as there are both.
    fn receive(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        let memory = queue.memory();
        queue.no_notification()?;
        for _ in 0..TURN {
            self.room = self.make_room(queue)?;
            if !self.room {
                return Ok(());
            }
            self.vectors.clear();
            let mut part = Vec::new();
            for chain in self
                .held
                .iter()
                .take(if self.merges { usize::MAX } else { 1 })
            {
                if io_vectors(&memory, &chain.writable, 0, u64::MAX, &mut part).is_err() {
                    return Err(Broken);
                }
                self.vectors.append(&mut part);
            }
            let got = match tap::read(&self.tap, &self.vectors) {
                Ok(got) => got,
                // Nothing there; or the link is down for now.
                Err(_) => return Ok(()),
            };
            if got < HEADER {
                continue;
            }
            self.hand_over(queue, got)?;
        }
        Ok(())
    }

    /// Gives the guest the buffers that a frame of that length has filled, all at once.
    fn hand_over(&mut self, queue: &mut VirtQueue, bytes: u64) -> Result<(), Broken> {
        let memory = queue.memory();
        self.filled.clear();
        let mut left = bytes;
        let mut first = None;
        while left > 0 {
            let Some(chain) = self.held.pop_front() else {
                break;
            };
            let room = chain.writable_bytes();
            let taken = left.min(room);
            left -= taken;
            self.held_bytes -= room;
            self.filled.push((chain.head, taken as u32));
            first.get_or_insert_with(|| place(&chain, NUM_BUFFERS));
            self.spare.push(chain);
        }
        if let Some(Some(pieces)) = first {
            let count = (self.filled.len() as u16).to_le_bytes();
            for (at, byte) in pieces.into_iter().zip(count) {
                memory.write_obj(byte, at).map_err(|_| Broken)?;
            }
        }
        queue.push_all(&self.filled)
    }

    /// Brings the guest's frames to the tap.
    fn transmit(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        let memory = queue.memory();
        let mut chain = self.spare.pop().unwrap_or_default();
        self.full = false;
        queue.no_notification()?;
        for _ in 0..TURN {
            match queue.pop(&mut chain)? {
                Popped::Empty => {
                    if queue.want_notification()? {
                        continue;
                    }
                    self.spare.push(chain);
                    return Ok(());
                }
                Popped::Malformed => {
                    queue.push(chain.head, 0)?;
                    continue;
                }
                Popped::Chain => {}
            }
            let bytes = chain.readable_bytes();
            let is_frame = chain.writable.is_empty() && (HEADER + 1..=FRAME_MAX).contains(&bytes);
            if is_frame
                && io_vectors(&memory, &chain.readable, 0, bytes, &mut self.vectors).is_ok()
                && let Err(error) = tap::write(&self.tap, &self.vectors)
                && error.kind() == io::ErrorKind::WouldBlock
            {
                self.full = true;
                queue.undo_pop();
                self.spare.push(chain);
                return Ok(());
            }
            // What the tap refuses is lost, as on any wire.
            queue.push(chain.head, 0)?;
        }
        self.spare.push(chain);
        queue.come_again();
        Ok(())
    }
}

/// Where the two bytes behind the first `skip` of a chain lie.
fn place(chain: &Chain, skip: u64) -> Option<[GuestAddress; 2]> {
    let byte = |at: u64| {
        let mut before = 0;
        chain
            .writable
            .iter()
            .find_map(|Buffer { at: start, bytes }| {
                let inside = at.checked_sub(before)?;
                before += u64::from(*bytes);
                (inside < u64::from(*bytes)).then(|| GuestAddress(start.0 + inside))
            })
    };
    Some([byte(skip)?, byte(skip + 1)?])
}

impl VirtioDevice for Net {
    fn kind(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        use feature::{
            CSUM, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, HOST_ECN, HOST_TSO4, HOST_TSO6,
            MAC, MRG_RXBUF, MTU,
        };
        let sent = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
        let received = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | MRG_RXBUF;
        MAC | MTU | sent | received
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, features: u64) {
        use feature::{GUEST_TSO4, GUEST_TSO6, MRG_RXBUF};
        self.merges = features & MRG_RXBUF != 0;
        self.longest = match features & (GUEST_TSO4 | GUEST_TSO6) {
            0 => HEADER + ETHERNET + u64::from(self.mtu),
            _ => FRAME_MAX,
        };
        // A tap that does not do them gives whole and checked frames, which every driver takes.
        let _ = tap::set_offloads(&self.tap, features);
        self.room = true;
    }

    fn reset(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.room = false;
        self.full = false;
        let _ = tap::set_offloads(&self.tap, 0);
    }

    fn notified(&mut self, queue: usize, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        match queue {
            RECEIVE => self.receive(&mut queues[RECEIVE]),
            _ => self.transmit(&mut queues[TRANSMIT]),
        }
    }

    fn interest(&self) -> Option<(RawFd, EventSet)> {
        let mut events = EventSet::empty();
        events.set(EventSet::IN, self.room);
        events.set(EventSet::OUT, self.full);
        (!events.is_empty()).then(|| (self.tap.as_raw_fd(), events))
    }

    fn ready(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        if self.full {
            self.transmit(&mut queues[TRANSMIT])?;
        }
        self.receive(&mut queues[RECEIVE])
    }
}
