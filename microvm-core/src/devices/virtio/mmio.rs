//! The MMIO transport (section 4.2): the registers by which a driver finds a device, agrees with it on features, and
//! tells it where the queues are.

use std::sync::Arc;

use virtio_queue::QueueT;

use super::VirtioDevice;
use super::queue::{Broken, VirtQueue};
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
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::virtio::testing::Rings;
    use crate::memory::allocate;

    /// A device with two queues that counts what is asked of it.
    struct Plain {
        activated: Option<u64>,
    }

    impl VirtioDevice for Plain {
        fn kind(&self) -> u32 {
            4
        }
        fn features(&self) -> u64 {
            1 << 5
        }
        fn queue_sizes(&self) -> &[u16] {
            &[8, 16]
        }
        fn config(&self) -> &[u8] {
            b"config"
        }
        fn activate(&mut self, features: u64) {
            self.activated = Some(features);
        }
        fn reset(&mut self) {
            self.activated = None;
        }
        fn notified(&mut self, _: usize, _: &mut [VirtQueue]) -> Result<(), Broken> {
            Ok(())
        }
    }

    fn plain() -> Transport {
        Transport::new(
            Box::new(Plain { activated: None }),
            &Arc::new(allocate(64).unwrap()),
        )
        .unwrap()
    }

    pub(crate) fn get(transport: &mut Transport, offset: u64) -> u32 {
        let mut word = [0; 4];
        transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub(crate) fn put(transport: &mut Transport, offset: u64, value: u32) -> Effect {
        transport.write(offset, &value.to_le_bytes())
    }

    /// Does what a driver does until features are agreed on.
    pub(crate) fn agree(transport: &mut Transport, features: u64) -> bool {
        put(transport, register::STATUS, status::ACKNOWLEDGE);
        put(
            transport,
            register::STATUS,
            status::ACKNOWLEDGE | status::DRIVER,
        );
        for half in 0..2 {
            put(transport, register::DRIVER_FEATURES_SELECT, half);
            put(
                transport,
                register::DRIVER_FEATURES,
                (features >> (32 * half)) as u32,
            );
        }
        put(
            transport,
            register::STATUS,
            status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
        );
        get(transport, register::STATUS) & status::FEATURES_OK != 0
    }

    pub(crate) fn set_up_queue(transport: &mut Transport, number: u32, rings: &Rings, size: u32) {
        let [table, available, used] = rings.addresses();
        put(transport, register::QUEUE_SELECT, number);
        put(transport, register::QUEUE_SIZE, size);
        put(transport, register::QUEUE_TABLE_LOW, table as u32);
        put(transport, register::QUEUE_AVAILABLE_LOW, available as u32);
        put(transport, register::QUEUE_USED_LOW, used as u32);
        put(transport, register::QUEUE_READY, 1);
    }

    pub(crate) const RUNNING: u32 =
        status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

    #[test]
    fn a_driver_finds_the_device_and_runs_it() {
        let mut device = plain();
        assert_eq!(get(&mut device, register::MAGIC).to_le_bytes(), *b"virt");
        assert_eq!(
            (
                get(&mut device, register::VERSION),
                get(&mut device, register::DEVICE_ID)
            ),
            (2, 4)
        );
        assert!(agree(&mut device, VERSION_1 | RING_EVENT_IDX | 1 << 5));
        set_up_queue(&mut device, 1, &Rings::new(0, 16), 16);
        assert_eq!(get(&mut device, register::QUEUE_READY), 1);
        assert_eq!(put(&mut device, register::STATUS, RUNNING), Effect::Changed);
        assert!(device.is_live());
        assert_eq!(
            put(&mut device, register::QUEUE_NOTIFY, 1),
            Effect::Notified(1)
        );
        assert_eq!(put(&mut device, register::QUEUE_NOTIFY, 2), Effect::None);
        assert_eq!(put(&mut device, register::STATUS, 0), Effect::Changed);
        assert!(!device.is_live());
        put(&mut device, register::QUEUE_SELECT, 1);
        assert_eq!(get(&mut device, register::QUEUE_READY), 0);
    }

    #[test]
    fn features_that_were_not_offered_or_without_version_1_are_refused() {
        assert!(!agree(&mut plain(), VERSION_1 | 1 << 6));
        assert!(!agree(&mut plain(), 1 << 5));
        assert!(agree(&mut plain(), VERSION_1));
        let mut device = plain();
        agree(&mut device, VERSION_1 | 1 << 6);
        assert_eq!(put(&mut device, register::STATUS, RUNNING), Effect::Changed);
        assert!(
            !device.is_live(),
            "DRIVER_OK does not hold without FEATURES_OK"
        );
    }

    #[test]
    fn features_and_queues_are_closed_once_they_are_agreed_on() {
        let mut device = plain();
        put(&mut device, register::DRIVER_FEATURES, 1 << 5);
        assert_eq!(device.driver_features, 0, "before DRIVER");
        set_up_queue(&mut device, 0, &Rings::new(0, 8), 8);
        assert_eq!(
            get(&mut device, register::QUEUE_READY),
            0,
            "before FEATURES_OK"
        );
        agree(&mut device, VERSION_1);
        put(&mut device, register::DRIVER_FEATURES_SELECT, 0);
        put(&mut device, register::DRIVER_FEATURES, 1 << 5);
        assert_eq!(device.driver_features, VERSION_1, "after FEATURES_OK");
        set_up_queue(&mut device, 0, &Rings::new(0, 8), 8);
        put(&mut device, register::QUEUE_TABLE_LOW, 0xdead_0000);
        assert_eq!(
            device.queues[0].registers().desc_table(),
            0x1000,
            "while it is ready"
        );
        put(&mut device, register::STATUS, RUNNING);
        put(&mut device, register::QUEUE_READY, 0);
        assert_eq!(get(&mut device, register::QUEUE_READY), 1, "while it runs");
    }

    #[test]
    fn a_queue_outside_memory_or_of_a_bad_size_is_not_ready() {
        for (offset, value) in [
            (register::QUEUE_TABLE_LOW, 64 << 20),
            (register::QUEUE_TABLE_HIGH, u32::MAX),
            (register::QUEUE_AVAILABLE_LOW, (64 << 20) - 4),
            (register::QUEUE_USED_HIGH, 1),
        ] {
            let mut device = plain();
            agree(&mut device, VERSION_1);
            set_up_queue(&mut device, 0, &Rings::new(0, 8), 8);
            put(&mut device, register::QUEUE_READY, 0);
            put(&mut device, offset, value);
            put(&mut device, register::QUEUE_READY, 1);
            assert_eq!(
                get(&mut device, register::QUEUE_READY),
                0,
                "{offset:#x} {value:#x}"
            );
        }
        let mut device = plain();
        agree(&mut device, VERSION_1);
        for size in [0, 3, 16, 0x1_0000] {
            put(&mut device, register::QUEUE_SIZE, size);
            assert_eq!(
                device.queues[0].registers().size(),
                8,
                "size {size} is refused"
            );
        }
    }

    #[test]
    fn what_is_no_register_reads_as_ones_and_the_configuration_ends_in_zeros() {
        let mut device = plain();
        for offset in [0x01c, 0x0b0, 0x0bc, 0x0f8, 0x002] {
            assert_eq!(get(&mut device, offset), u32::MAX, "{offset:#x}");
        }
        let mut byte = [0];
        device.read(register::MAGIC, &mut byte);
        assert_eq!(byte, [0xff], "registers are read as words");
        let mut wide = [0; 8];
        device.read(register::CONFIG + 2, &mut wide);
        assert_eq!(&wide, b"nfig\0\0\0\0");
        device.read(u64::MAX - 3, &mut wide);
    }

    proptest! {
        #[test]
        fn no_order_of_accesses_makes_it_panic_or_go_live_without_agreement(
            accesses in prop::collection::vec((0u64..0x120, any::<u32>(), any::<bool>(), 1usize..9), 0..200),
        ) {
            let mut device = plain();
            for (offset, value, small, bytes) in accesses {
                let value = if small { value % 16 } else { value };
                let mut data = [0; 8];
                data[..4].copy_from_slice(&value.to_le_bytes());
                let offset = if small { offset / 4 * 4 } else { offset };
                let bytes = if small { 4 } else { bytes };
                device.write(offset, &data[..bytes]);
                device.read(offset, &mut data[..bytes]);
                if device.is_live() {
                    prop_assert!(device.features_are_fine());
                }
                for queue in &device.queues {
                    prop_assert!(!queue.is_ready() || queue.is_valid());
                }
            }
        }
    }
}
