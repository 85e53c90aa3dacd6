//! What driver and device say to each other about ports (section 5.3.6.2).

use crate::devices::virtio::queue::Chain;
use crate::memory::Memory;

/// Kinds of messages.
pub(super) mod event {
    pub(in super::super) const DEVICE_READY: u16 = 0;
    pub(in super::super) const PORT_ADD: u16 = 1;
    pub(in super::super) const PORT_READY: u16 = 3;
    pub(in super::super) const PORT_OPEN: u16 = 6;
    pub(in super::super) const PORT_NAME: u16 = 7;
}

/// A message about a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    /// The port.
    pub(super) id: u32,
    /// What is said.
    pub(super) event: u16,
    /// The event's value.
    pub(super) value: u16,
    /// What follows: a port's name.
    name: &'static str,
}

impl Message {
    pub(super) fn new(id: u32, event: u16, value: u16) -> Self {
        Self {
            id,
            event,
            value,
            name: "",
        }
    }

    /// The name of a port.
    pub(super) fn named(id: u32, name: &'static str) -> Self {
        Self {
            id,
            event: event::PORT_NAME,
            value: 1,
            name,
        }
    }

    /// What the driver has written, if it is long enough to be a message.
    pub(super) fn read(memory: &Memory, chain: &Chain) -> Option<Self> {
        let mut bytes = [0; 8];
        chain.read(memory, 0, &mut bytes).then(|| {
            let [a, b, c, d, e, f, g, h] = bytes;
            Self::new(
                u32::from_le_bytes([a, b, c, d]),
                u16::from_le_bytes([e, f]),
                u16::from_le_bytes([g, h]),
            )
        })
    }

    /// The message as the driver reads it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.name.len());
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(self.name.as_bytes());
        bytes
    }
}
