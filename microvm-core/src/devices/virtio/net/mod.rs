//! The network device (section 5.1): a tap of the host's, to which packets are written from guest memory and from which they
//! are read into it. There is one pair of queues and no control queue.

mod room;
mod tap;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::RawFd;

use vmm_sys_util::epoll::EventSet;

use self::room::Room;
use self::tap::Tap;
use super::VirtioDevice;
use super::queue::{Broken, Chain, Popped, VirtQueue, io_vectors};
use crate::config::Nic;
use crate::nic::HEADER_BYTES;

/// The queues (section 5.1.2).
const TO_GUEST: usize = 0;
const TO_HOST: usize = 1;

/// Their sizes: as many packets as Linux's driver works through between two looks at anything else, four times over.
const QUEUE_SIZE: u16 = 256;

/// How many buffers a guest has for what comes, whose kernel is emulated: its driver fills all of them at the start, which for
/// 256 takes a second there. In 1536 bytes each, as Linux has them, the largest packet still fits.
const FEW_BUFFERS: u16 = 64;

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

/// The largest packet with its header that a guest may send: an Ethernet header and 64 KiB behind the header
/// (section 5.1.6.3.1).
const SENT_MAX: u64 = 65_562;

/// How many packets are carried before the guest is told and the other way has its turn.
const BURST: usize = 64;

/// And how many bytes to the host: a driver that has stopped, its queue being full of packets of 64 KiB, is to fill it again while
/// the rest of them is on its way.
const BURST_BYTES: u64 = 512 << 10;

/// The network device.
pub(crate) struct Net {
    tap: Tap,
    /// Hardware address, status, number of queue pairs, MTU (section 5.1.4).
    config: [u8; 12],
    queue_sizes: [u16; 2],
    /// The driver runs the device, and takes packets in several buffers.
    active: bool,
    mergeable: bool,
    /// The guest's buffers for what comes.
    room: Room,
    /// The guest has no more of them, and will say when it has.
    starved: bool,
    /// The tap does not take more for now.
    full: bool,
    /// The tap is gone: its interface was deleted.
    gone: bool,
    /// The packet that is being sent; kept for its memory.
    chain: Chain,
    vectors: Vec<libc::iovec>,
}

// SAFETY: the pointers in `vectors` and `room` are to guest memory, which stays mapped as long as the queues do and is only
// ever copied from and to; they belong to no thread.
unsafe impl Send for Net {}

impl Net {
    /// A device that leads to this tap; `emulated`: whether the guest's kernel is emulated.
    pub(crate) fn new(nic: Nic, emulated: bool) -> Self {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&nic.mac);
        config[10..].copy_from_slice(&nic.mtu.to_le_bytes());
        let tap = Tap::new(nic.tap);
        tap.set_offloads(0);
        Self {
            tap,
            config,
            queue_sizes: [if emulated { FEW_BUFFERS } else { QUEUE_SIZE }, QUEUE_SIZE],
            active: false,
            mergeable: false,
            room: Room::new(),
            starved: false,
            full: false,
            gone: false,
            chain: Chain::default(),
            vectors: Vec::new(),
        }
    }

    /// Carries packets to the host, as far as the tap takes them.
    fn send(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        self.full = false;
        let memory = queue.memory();
        let (mut left, mut sent) = (BURST, 0);
        loop {
            queue.no_notification()?;
            loop {
                match queue.pop(&mut self.chain)? {
                    Popped::Empty => break,
                    Popped::Malformed => {}
                    Popped::Chain => {
                        let bytes = self.chain.readable_bytes();
                        let packet = self.chain.writable.is_empty()
                            && (HEADER_BYTES as u64 + 1..=SENT_MAX).contains(&bytes)
                            && !self.gone;
                        let vectors = &mut self.vectors;
                        if packet
                            && io_vectors(&memory, &self.chain.readable, 0, bytes, vectors).is_ok()
                        {
                            match self.tap.write(vectors) {
                                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                    self.full = true;
                                    queue.undo_pop();
                                    return Ok(());
                                }
                                Err(error) => self.gone |= tap::is_gone(&error),
                                Ok(bytes) => sent += bytes as u64,
                            }
                        }
                    }
                }
                // What could not be sent is lost, as on any network.
                queue.push(self.chain.head, 0)?;
                left -= 1;
                if left == 0 || sent >= BURST_BYTES {
                    queue.come_again();
                    return Ok(());
                }
            }
            if !queue.want_notification()? {
                return Ok(());
            }
        }
    }

    /// Carries packets to the guest, as far as it has room.
    fn receive(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        self.starved = false;
        if self.gone {
            return Ok(());
        }
        for _ in 0..BURST {
            queue.no_notification()?;
            self.room.fill(queue, &mut self.chain)?;
            if self.room.is_short() {
                if queue.want_notification()? {
                    continue;
                }
                self.starved = true;
                return Ok(());
            }
            if !self.room.has_packet()
                && let Err(error) = self.room.read(&self.tap)
            {
                self.gone = !tap::is_passing(&error);
                return Ok(());
            }
            self.room.give(queue, self.mergeable)?;
        }
        // There may be nothing more on the tap to come back for.
        if self.room.has_packet() {
            queue.come_again();
        }
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        use feature::*;
        CSUM | GUEST_CSUM
            | MTU
            | MAC
            | GUEST_TSO4
            | GUEST_TSO6
            | GUEST_ECN
            | HOST_TSO4
            | HOST_TSO6
            | HOST_ECN
            | MRG_RXBUF
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, features: u64) {
        self.active = true;
        self.mergeable = features & feature::MRG_RXBUF != 0;
        self.tap.set_offloads(features);
    }

    fn reset(&mut self) {
        self.room.clear();
        (self.starved, self.full, self.mergeable) = (false, false, false);
        // What has come for this driver may be in a form that the next one does not take.
        if std::mem::take(&mut self.active) {
            self.tap.set_offloads(0);
            self.tap.discard();
        }
    }

    fn notified(&mut self, queue: usize, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        match queue {
            TO_HOST => self.send(&mut queues[TO_HOST]),
            _ => self.receive(&mut queues[TO_GUEST]),
        }
    }

    fn interest(&self) -> Option<(RawFd, EventSet)> {
        let mut events = EventSet::empty();
        events.set(EventSet::IN, !self.starved);
        events.set(EventSet::OUT, self.full);
        (!self.gone && !events.is_empty()).then(|| (self.tap.descriptor(), events))
    }

    fn ready(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        if self.full {
            self.send(&mut queues[TO_HOST])?;
        }
        self.receive(&mut queues[TO_GUEST])
    }

    /// Sends the guest's last packets, which may end its connections in order.
    fn finish(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        let queue = &mut queues[TO_HOST];
        // The guest stands still: a whole queue is the most that can be there.
        for _ in 0..=QUEUE_SIZE {
            self.send(queue)?;
            if !queue.take_again() {
                break;
            }
        }
        Ok(())
    }
}
