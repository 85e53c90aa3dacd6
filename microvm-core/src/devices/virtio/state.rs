//! What a template keeps of a device: what its driver has written to the registers, and how far the queues have come.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

use super::queue::{Broken, VirtQueue};

/// A place on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlotState {
    /// Interrupts that the driver has not acknowledged.
    pub(crate) pending: u32,
    /// The device.
    pub(crate) transport: TransportState,
}

/// A device's registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransportState {
    pub(crate) kind: u32,
    pub(crate) status: u32,
    pub(crate) device_features_select: u32,
    pub(crate) driver_features_select: u32,
    pub(crate) driver_features: u64,
    pub(crate) queue_select: u32,
    pub(crate) queues: Vec<QueueState>,
    /// What the device itself keeps.
    pub(crate) device: Vec<u8>,
}

/// A queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueueState {
    pub(crate) size: u16,
    pub(crate) ready: bool,
    pub(crate) event_idx: bool,
    pub(crate) next_available: u16,
    pub(crate) next_used: u16,
    pub(crate) table: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

impl QueueState {
    pub(crate) fn of(queue: &mut VirtQueue) -> Self {
        let state = queue.registers().state();
        Self {
            size: state.size,
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next_available: state.next_avail,
            next_used: state.next_used,
            table: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
        }
    }

    /// Makes a queue what it was. Whether it makes sense in guest memory is for the caller to ask it.
    pub(crate) fn put(&self, queue: &mut VirtQueue) -> Result<(), Broken> {
        let registers = queue.registers();
        let state = virtio_queue::QueueState {
            max_size: registers.max_size(),
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: self.event_idx,
            size: self.size,
            ready: self.ready,
            desc_table: self.table,
            avail_ring: self.available,
            used_ring: self.used,
        };
        *registers = Queue::try_from(state).map_err(|_| Broken)?;
        Ok(())
    }
}
