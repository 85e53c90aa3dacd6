//! A place without a device: a machine that becomes a template has some, which the machines made from it fill.

use super::VirtioDevice;
use super::queue::{Broken, VirtQueue};

/// No device. Its kind, 0, is what the specification has for places like this (section 4.2.2): a driver lets it be.
pub(crate) struct Vacant;

impl VirtioDevice for Vacant {
    fn kind(&self) -> u32 {
        0
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[]
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn notified(&mut self, _queue: usize, _queues: &mut [VirtQueue]) -> Result<(), Broken> {
        Ok(())
    }
}
