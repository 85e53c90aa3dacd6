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
