//! The MMIO transport (section 4.2): the registers by which a driver finds a device, agrees with it on features, and
//! tells it where the queues are.

use std::sync::Arc;

use virtio_queue::QueueT;

use super::VirtioDevice;
use super::queue::{Broken, VirtQueue};
use super::state::{QueueState, TransportState};
use crate::memory::Memory;

/// Features that the transport and the queues have by themselves (section 6).
pub(crate) const RING_INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const RING_EVENT_IDX: u64 = 1 << 29;
pub(crate) const VERSION_1: u64 = 1 << 32;

/// Bits of the device status (section 2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u32 = 1;
    pub(crate) const DRIVER: u32 = 2;
    pub(crate) const DRIVER_OK: u32 = 4;
    pub(crate) const FEATURES_OK: u32 = 8;
    pub(crate) const NEEDS_RESET: u32 = 64;
    pub(crate) const FAILED: u32 = 128;
}

/// Registers (section 4.2.2).
pub(crate) mod register {
    pub(crate) const MAGIC: u64 = 0x000;
    pub(crate) const VERSION: u64 = 0x004;
    pub(crate) const DEVICE_ID: u64 = 0x008;
    pub(crate) const VENDOR_ID: u64 = 0x00c;
    pub(crate) const DEVICE_FEATURES: u64 = 0x010;
    pub(crate) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(crate) const DRIVER_FEATURES: u64 = 0x020;
    pub(crate) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(crate) const QUEUE_SELECT: u64 = 0x030;
    pub(crate) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(crate) const QUEUE_SIZE: u64 = 0x038;
    pub(crate) const QUEUE_READY: u64 = 0x044;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x050;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
    pub(crate) const INTERRUPT_ACK: u64 = 0x064;
    pub(crate) const STATUS: u64 = 0x070;
    pub(crate) const QUEUE_TABLE_LOW: u64 = 0x080;
    pub(crate) const QUEUE_TABLE_HIGH: u64 = 0x084;
    pub(crate) const QUEUE_AVAILABLE_LOW: u64 = 0x090;
    pub(crate) const QUEUE_AVAILABLE_HIGH: u64 = 0x094;
    pub(crate) const QUEUE_USED_LOW: u64 = 0x0a0;
    pub(crate) const QUEUE_USED_HIGH: u64 = 0x0a4;
    pub(crate) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(crate) const CONFIG: u64 = 0x100;
}

/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
/// The version of the transport that is not the legacy one.
const VERSION: u32 = 2;
/// "PLIM", little endian; nobody looks at it.
const VENDOR: u32 = 0x4d49_4c50;

/// A device behind its registers.
pub(crate) struct Transport {
    device: Box<dyn VirtioDevice>,
    queues: Vec<VirtQueue>,
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
}

/// What a write to a register asks of the machine around the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// The device has begun or ceased to work: look at its queues and at what it waits for.
    Changed,
    /// The driver has put something into this queue.
    Notified(usize),
}

impl Transport {
    pub(crate) fn new(device: Box<dyn VirtioDevice>, memory: &Arc<Memory>) -> Result<Self, Broken> {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|size| VirtQueue::new(*size, Arc::clone(memory)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            device,
            queues,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
        })
    }

    /// What a template keeps of it. Nothing: the device is in the midst of something.
    pub(crate) fn save(&mut self) -> Option<TransportState> {
        Some(TransportState {
            kind: self.device.kind(),
            status: self.status,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            driver_features: self.driver_features,
            queue_select: self.queue_select,
            queues: self.queues.iter_mut().map(QueueState::of).collect(),
            device: self.device.save()?,
        })
    }

    /// Goes on from what a template has kept. Nothing in there is taken on trust: it is what a driver may have brought about.
    pub(crate) fn restore(&mut self, kept: &TransportState) -> Result<(), Broken> {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
        if kept.kind != self.device.kind() || kept.queues.len() != self.queues.len() {
            return Err(Broken);
        }
        let steps = [
            0,
            ACKNOWLEDGE,
            ACKNOWLEDGE | DRIVER,
            ACKNOWLEDGE | DRIVER | FEATURES_OK,
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        ];
        let place = steps
            .iter()
            .position(|step| *step == kept.status)
            .ok_or(Broken)?;
        self.driver_features = kept.driver_features;
        if place >= 3 && !self.features_are_fine() {
            return Err(Broken);
        }
        self.status = kept.status;
        self.device_features_select = kept.device_features_select;
        self.driver_features_select = kept.driver_features_select;
        self.queue_select = kept.queue_select;
        let event_idx = self.driver_features & RING_EVENT_IDX != 0;
        for (queue, kept) in self.queues.iter_mut().zip(&kept.queues) {
            kept.put(queue)?;
            let usable = place >= 3 && kept.event_idx == event_idx;
            if queue.is_ready() && !(usable && queue.is_valid()) {
                return Err(Broken);
            }
        }
        if place == 4 {
            self.device.activate(self.driver_features);
        }
        self.device.restore(&kept.device)
    }

    /// How many queues the device has.
    pub(crate) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// The device, and its queues when the driver has them ready.
    pub(crate) fn parts(&mut self) -> (&mut dyn VirtioDevice, &mut [VirtQueue]) {
        (self.device.as_mut(), &mut self.queues)
    }

    /// Whether the driver runs the device.
    pub(crate) fn is_live(&self) -> bool {
        self.status & status::DRIVER_OK != 0
            && self.status & (status::NEEDS_RESET | status::FAILED) == 0
    }

    /// Gives up on what the driver has done, until it resets the device.
    pub(crate) fn needs_reset(&mut self) {
        self.status |= status::NEEDS_RESET;
    }

    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC
    }

    /// What a read of `data.len()` bytes gives. What is no register is all ones.
    pub(crate) fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset >= register::CONFIG {
            return self.read_config(offset - register::CONFIG, data);
        }
        let value = self.register(offset);
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) => *word = value.unwrap_or(u32::MAX).to_le_bytes(),
            Err(_) => data.fill(0xff),
        }
    }

    fn register(&mut self, offset: u64) -> Option<u32> {
        Some(match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device.kind(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered(), self.device_features_select),
            register::QUEUE_SIZE_MAX => self
                .selected()
                .map_or(0, |queue| queue.registers().max_size().into()),
            register::QUEUE_READY => self.selected().map_or(0, |queue| queue.is_ready().into()),
            register::STATUS => self.status,
            // The configuration space never changes while a driver looks.
            register::CONFIG_GENERATION => 0,
            _ => return None,
        })
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.device.config();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at)
                .ok()
                .and_then(|at| config.get(at))
                .copied()
                .unwrap_or(0);
        }
    }

    /// Takes a write of `data.len()` bytes. What is no register, or not a register's size, is ignored.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return Effect::None;
        };
        let value = u32::from_le_bytes(word);
        match offset {
            register::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            register::DRIVER_FEATURES => self.take_features(value),
            register::QUEUE_SELECT => self.queue_select = value,
            register::QUEUE_NOTIFY => {
                let queue = value as usize;
                return if queue < self.queues.len() {
                    Effect::Notified(queue)
                } else {
                    Effect::None
                };
            }
            register::STATUS => return self.set_status(value),
            _ => self.write_queue(offset, value),
        }
        Effect::None
    }

    fn selected(&mut self) -> Option<&mut VirtQueue> {
        self.queues.get_mut(self.queue_select as usize)
    }

    /// Features are agreed on between DRIVER and FEATURES_OK (section 3.1.1).
    fn take_features(&mut self, value: u32) {
        if self.status & (status::DRIVER | status::FEATURES_OK) != status::DRIVER {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_select {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// Queues are set up between FEATURES_OK and DRIVER_OK, and each only while it is not ready.
    fn write_queue(&mut self, offset: u64, value: u32) {
        if self.status & (status::FEATURES_OK | status::DRIVER_OK) != status::FEATURES_OK {
            return;
        }
        let event_idx = self.driver_features & RING_EVENT_IDX != 0;
        let Some(queue) = self.selected() else { return };
        if offset == register::QUEUE_READY {
            queue.registers().set_ready(value == 1);
            queue.registers().set_event_idx(event_idx);
            if value == 1 && !queue.is_valid() {
                queue.registers().set_ready(false);
            }
            return;
        }
        if queue.is_ready() {
            return;
        }
        let registers = queue.registers();
        match offset {
            // A size that is no power of two, or too great, is refused by the queue.
            register::QUEUE_SIZE => registers.set_size(u16::try_from(value).unwrap_or(0)),
            register::QUEUE_TABLE_LOW => registers.set_desc_table_address(Some(value), None),
            register::QUEUE_TABLE_HIGH => registers.set_desc_table_address(None, Some(value)),
            register::QUEUE_AVAILABLE_LOW => registers.set_avail_ring_address(Some(value), None),
            register::QUEUE_AVAILABLE_HIGH => registers.set_avail_ring_address(None, Some(value)),
            register::QUEUE_USED_LOW => registers.set_used_ring_address(Some(value), None),
            register::QUEUE_USED_HIGH => registers.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) -> Effect {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
        if value == 0 {
            self.reset();
            return Effect::Changed;
        }
        // A driver adds bits in their order and takes none back; what comes out of order is not taken over.
        let new = value & !self.status;
        for (bit, first) in [
            (ACKNOWLEDGE, 0),
            (DRIVER, ACKNOWLEDGE),
            (FEATURES_OK, ACKNOWLEDGE | DRIVER),
            (DRIVER_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK),
            (FAILED, 0),
        ] {
            if new & bit == 0 || self.status & first != first {
                continue;
            }
            if bit == FEATURES_OK && !self.features_are_fine() {
                continue;
            }
            self.status |= bit;
            if bit == DRIVER_OK {
                self.device.activate(self.driver_features);
            }
        }
        if new & (DRIVER_OK | FAILED) != 0 {
            Effect::Changed
        } else {
            Effect::None
        }
    }

    fn features_are_fine(&self) -> bool {
        self.driver_features & !self.offered() == 0 && self.driver_features & VERSION_1 != 0
    }

    fn reset(&mut self) {
        self.device.reset();
        for queue in &mut self.queues {
            queue.registers().reset();
            queue.take_signal();
        }
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
    }
}

/// Half of the feature bits; beyond the two halves there are none.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
pub(crate) mod tests;
