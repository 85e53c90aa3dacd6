//! Virtio devices behind the MMIO transport, by the Virtual I/O Device specification 1.2, to which section numbers in
//! this folder refer.

pub(crate) mod blk;
pub(crate) mod console;
pub(crate) mod fs;
pub(crate) mod mmio;
pub(crate) mod net;
pub(crate) mod queue;
pub(crate) mod rng;
pub(crate) mod slot;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod vacant;

use std::os::fd::RawFd;

use vmm_sys_util::epoll::EventSet;

use self::queue::{Broken, VirtQueue};

/// A device as the transport sees it: features, queues and configuration space, and what it does when it is notified.
pub(crate) trait VirtioDevice: Send {
    /// The kind of device (section 5).
    fn kind(&self) -> u32;

    /// The features of its kind that the device offers; the transport adds its own.
    fn features(&self) -> u64;

    /// The greatest size of each of its queues.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space. What is read beyond it is zero.
    fn config(&self) -> &[u8];

    /// The driver is ready, with these features of those that were offered.
    fn activate(&mut self, features: u64);

    /// The driver takes the device back to its beginning.
    fn reset(&mut self);

    /// The driver has put something into this queue.
    fn notified(&mut self, queue: usize, queues: &mut [VirtQueue]) -> Result<(), Broken>;

    /// The host's descriptor that the device waits for, and what for. Nothing: it does not wait.
    fn interest(&self) -> Option<(RawFd, EventSet)> {
        None
    }

    /// The host's descriptor is ready.
    fn ready(&mut self, _queues: &mut [VirtQueue]) -> Result<(), Broken> {
        Ok(())
    }

    /// The machine ends and its virtual CPUs stand still: carry out what the guest has asked for.
    fn finish(&mut self, _queues: &mut [VirtQueue]) -> Result<(), Broken> {
        Ok(())
    }

    /// What a template keeps of the device beside its registers and queues. Nothing: it is in the midst of something.
    fn save(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    /// Goes on from what [`Self::save`] gave, after [`Self::activate`].
    fn restore(&mut self, kept: &[u8]) -> Result<(), Broken> {
        match kept {
            [] => Ok(()),
            _ => Err(Broken),
        }
    }
}
