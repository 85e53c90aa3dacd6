//! A place on the bus with a device in it: what the guest touches on one side, what the event loop calls on the other.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;
use super::mmio::{Effect, Transport, register};
use super::queue::Broken;
use super::state::SlotState;
use crate::memory::Memory;

/// Bits of the interrupt status (section 4.2.2): a buffer was used, the configuration or the status changed.
const USED: u32 = 1;
const CONFIG: u32 = 2;

/// How large a slot is on the bus: a page.
pub(crate) const SLOT_BYTES: u64 = 0x1000;

/// A device on the bus.
pub(crate) struct Slot {
    /// Where its registers are in the guest's physical memory.
    pub(crate) address: u64,
    /// Its interrupt line.
    pub(crate) line: u32,
    /// Written to interrupt the guest; KVM is given it.
    pub(crate) interrupt: EventFd,
    /// Written by KVM when the driver notifies a queue: one for each.
    pub(crate) kicks: Vec<EventFd>,
    pending: AtomicU32,
    transport: Mutex<Transport>,
}

impl Slot {
    pub(crate) fn new(
        address: u64,
        line: u32,
        device: Box<dyn VirtioDevice>,
        memory: &Arc<Memory>,
    ) -> io::Result<Self> {
        let transport = Transport::new(device, memory).map_err(|Broken| {
            io::Error::other("a device has a queue whose size is no power of two")
        })?;
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let kicks = (0..transport.queue_count())
            .map(|_| event())
            .collect::<io::Result<_>>()?;
        Ok(Self {
            address,
            line,
            interrupt: event()?,
            kicks,
            pending: AtomicU32::new(0),
            transport: Mutex::new(transport),
        })
    }

    /// What a template keeps of it. Nothing: the device is in the midst of something. The virtual CPUs stand still.
    pub(crate) fn save(&self) -> Option<SlotState> {
        Some(SlotState {
            pending: self.pending.load(Ordering::SeqCst),
            transport: self.lock().save()?,
        })
    }

    /// Goes on from what a template has kept, before any virtual CPU runs.
    pub(crate) fn restore(&self, kept: &SlotState) -> Result<(), Broken> {
        if kept.pending & !(USED | CONFIG) != 0 {
            return Err(Broken);
        }
        self.lock().restore(&kept.transport)?;
        self.pending.store(kept.pending, Ordering::SeqCst);
        if kept.pending != 0 {
            // The interrupt may have been on its way. One too many does no harm.
            let _ = self.interrupt.write(1);
        }
        // What the device waits for is looked at with the first notification.
        (0..self.kicks.len()).for_each(|queue| self.kick(queue));
        Ok(())
    }

    /// The kernel parameter by which the driver finds the device.
    pub(crate) fn kernel_parameter(&self) -> String {
        format!(
            "virtio_mmio.device={}K@{:#x}:{}",
            SLOT_BYTES / 1024,
            self.address,
            self.line
        )
    }

    fn lock(&self) -> MutexGuard<'_, Transport> {
        // A panic ends the process, so nobody ever sees what a panic has left.
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A virtual CPU reads.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        match <&mut [u8; 4]>::try_from(&mut *data) {
            // Every interrupt reads this, while the device may be at work under the lock.
            Ok(word) if offset == register::INTERRUPT_STATUS => {
                *word = self.pending.load(Ordering::SeqCst).to_le_bytes();
            }
            _ => self.lock().read(offset, data),
        }
    }

    /// A virtual CPU writes.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        if let (register::INTERRUPT_ACK, Ok(word)) = (offset, <[u8; 4]>::try_from(data)) {
            self.pending
                .fetch_and(!u32::from_le_bytes(word), Ordering::SeqCst);
            return;
        }
        let mut transport = self.lock();
        let effect = transport.write(offset, data);
        if effect == Effect::Changed && !transport.is_live() {
            self.pending.store(0, Ordering::SeqCst);
        }
        drop(transport);
        match effect {
            Effect::None => {}
            Effect::Notified(queue) => self.kick(queue),
            // Whatever the driver has put there before it said that it is ready is looked at now.
            Effect::Changed => (0..self.kicks.len()).for_each(|queue| self.kick(queue)),
        }
    }

    fn kick(&self, queue: usize) {
        if let Some(kick) = self.kicks.get(queue) {
            // The counter can only be too full to take more when the kick is there already.
            let _ = kick.write(1);
        }
    }

    /// The event loop has seen a queue's notification.
    pub(crate) fn notified(&self, queue: usize) {
        if let Some(kick) = self.kicks.get(queue) {
            // Empty when another wait has taken it: nothing is lost, the queue is looked at in any case.
            let _ = kick.read();
        }
        self.work(|device, queues| device.notified(queue, queues));
    }

    /// The event loop has seen that the device's descriptor is ready.
    pub(crate) fn ready(&self) {
        self.work(|device, queues| device.ready(queues));
    }

    /// The machine ends and its virtual CPUs stand still.
    pub(crate) fn finish(&self) {
        self.work(|device, queues| device.finish(queues));
    }

    /// What the device waits for on the host's side, while the driver runs it.
    pub(crate) fn interest(&self) -> Option<(RawFd, EventSet)> {
        let mut transport = self.lock();
        if !transport.is_live() {
            return None;
        }
        transport.parts().0.interest()
    }

    fn work(
        &self,
        work: impl FnOnce(&mut dyn VirtioDevice, &mut [super::queue::VirtQueue]) -> Result<(), Broken>,
    ) {
        let mut transport = self.lock();
        if !transport.is_live() {
            return;
        }
        let (device, queues) = transport.parts();
        let done = work(device, queues);
        let mut used = false;
        for (number, queue) in queues.iter_mut().enumerate() {
            used |= queue.take_signal();
            if queue.take_again() {
                self.kick(number);
            }
        }
        let mut bits = if used { USED } else { 0 };
        if done.is_err() {
            transport.needs_reset();
            bits |= CONFIG;
        }
        if bits != 0 {
            self.pending.fetch_or(bits, Ordering::SeqCst);
            let _ = self.interrupt.write(1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::devices::virtio::mmio::tests::RUNNING;
    use crate::devices::virtio::mmio::{VERSION_1, status};
    use crate::devices::virtio::testing::{LARGEST, Rings};

    /// A device on the bus, driven by registers and rings as a guest drives it.
    pub(crate) struct Machine {
        pub(crate) memory: Arc<Memory>,
        pub(crate) slot: Slot,
        pub(crate) rings: Vec<Rings>,
    }

    impl Machine {
        pub(crate) fn new(device: Box<dyn VirtioDevice>) -> Self {
            let memory = Arc::new(crate::memory::allocate(64).unwrap());
            let sizes = device.queue_sizes().to_vec();
            let slot = Slot::new(0xd000_0000, 5, device, &memory).unwrap();
            let rings = sizes
                .iter()
                .enumerate()
                .map(|(at, size)| Rings::new(at as u64, (*size).min(LARGEST)))
                .collect();
            Self {
                memory,
                slot,
                rings,
            }
        }

        pub(crate) fn put(&self, offset: u64, value: u32) {
            self.slot.write(offset, &value.to_le_bytes());
        }

        pub(crate) fn get(&self, offset: u64) -> u32 {
            let mut word = [0; 4];
            self.slot.read(offset, &mut word);
            u32::from_le_bytes(word)
        }

        /// Agrees on every feature that is offered but these, sets all queues up, and starts.
        pub(crate) fn start_without(&mut self, features: u64) {
            self.put(register::STATUS, status::ACKNOWLEDGE);
            self.put(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
            for half in 0..2 {
                self.put(register::DEVICE_FEATURES_SELECT, half);
                self.put(register::DRIVER_FEATURES_SELECT, half);
                let offered = self.get(register::DEVICE_FEATURES);
                self.put(
                    register::DRIVER_FEATURES,
                    offered & !((features >> (32 * half)) as u32),
                );
            }
            self.put(register::STATUS, RUNNING & !status::DRIVER_OK);
            for (number, rings) in self.rings.iter().enumerate() {
                let [table, available, used] = rings.addresses();
                self.put(register::QUEUE_SELECT, number as u32);
                self.put(register::QUEUE_SIZE, rings.size().into());
                self.put(register::QUEUE_TABLE_LOW, table as u32);
                self.put(register::QUEUE_AVAILABLE_LOW, available as u32);
                self.put(register::QUEUE_USED_LOW, used as u32);
                self.put(register::QUEUE_READY, 1);
                assert_eq!(self.get(register::QUEUE_READY), 1);
            }
            self.put(register::STATUS, RUNNING);
            assert_eq!(self.get(register::STATUS), RUNNING);
        }

        pub(crate) fn start(&mut self) {
            self.start_without(0);
        }

        pub(crate) fn add(
            &mut self,
            queue: usize,
            chain: &[crate::devices::virtio::testing::Descriptor],
        ) -> u16 {
            self.rings[queue].add(&self.memory, chain)
        }

        pub(crate) fn used(&self, queue: usize) -> Vec<(u32, u32)> {
            self.rings[queue].used(&self.memory)
        }
    }

    struct Echo;

    impl VirtioDevice for Echo {
        fn kind(&self) -> u32 {
            1
        }
        fn features(&self) -> u64 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            &[8]
        }
        fn config(&self) -> &[u8] {
            &[]
        }
        fn activate(&mut self, _: u64) {}
        fn reset(&mut self) {}
        fn notified(
            &mut self,
            queue: usize,
            queues: &mut [super::super::queue::VirtQueue],
        ) -> Result<(), Broken> {
            queues[queue].drain(|_, chain| chain.writable_bytes() as u32)
        }
    }

    #[test]
    fn a_notification_is_answered_by_an_interrupt_that_the_guest_acknowledges() {
        use crate::devices::virtio::testing::Descriptor;
        let mut machine = Machine::new(Box::new(Echo));
        machine.start();
        machine.add(0, &[Descriptor::write(0x10_0000, 7)]);
        machine.put(register::QUEUE_NOTIFY, 0);
        machine.slot.notified(0);
        assert_eq!(machine.used(0), [(0, 7)]);
        assert_eq!(machine.slot.interrupt.read().unwrap(), 1);
        assert_eq!(machine.get(register::INTERRUPT_STATUS), USED);
        machine.put(register::INTERRUPT_ACK, USED);
        assert_eq!(machine.get(register::INTERRUPT_STATUS), 0);
    }

    #[test]
    fn a_broken_queue_asks_for_a_reset_and_works_again_after_it() {
        use crate::devices::virtio::testing::Descriptor;
        let mut machine = Machine::new(Box::new(Echo));
        machine.start();
        machine.rings[0].offer(&machine.memory, 99);
        machine.slot.notified(0);
        assert_ne!(machine.get(register::STATUS) & status::NEEDS_RESET, 0);
        assert_eq!(machine.get(register::INTERRUPT_STATUS) & CONFIG, CONFIG);
        machine.slot.notified(0);
        assert_eq!(machine.used(0), [], "it stands still");
        machine.put(register::STATUS, 0);
        machine.rings[0] = Rings::new(5, 8);
        machine.start_without(!VERSION_1);
        machine.add(0, &[Descriptor::write(0x10_0000, 3)]);
        machine.slot.notified(0);
        assert_eq!(machine.used(0), [(0, 3)]);
    }

    #[test]
    fn the_kernel_is_told_where_the_device_is() {
        let machine = Machine::new(Box::new(Echo));
        assert_eq!(
            machine.slot.kernel_parameter(),
            "virtio_mmio.device=4K@0xd0000000:5"
        );
    }
}
