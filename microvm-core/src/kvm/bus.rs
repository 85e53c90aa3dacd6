//! What the guest reaches by ports and by memory that is none: which device answers, and what answers where none is.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::saved::SerialLine;
use crate::arch::acpi;
use crate::devices::serial::{self, Console};
use crate::devices::virtio::slot::{SLOT_BYTES, Slot};
use crate::memory::GAP_START;

/// The keyboard controller's command port, and its command that resets the machine.
pub(super) const KEYBOARD: u16 = 0x64;
const KEYBOARD_DATA: u16 = 0x60;
pub(super) const RESET: u8 = 0xfe;

/// Where the first virtio device is on the bus; the others follow, a page each.
pub(crate) const FIRST_SLOT: u64 = GAP_START + 0x1000_0000;

/// The interrupt line of the first virtio device. Those below belong to what a PC always has.
pub(crate) const FIRST_LINE: u32 = 5;

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing.
    Nothing,
    /// To be reset, which is how a guest ends, or to be switched off, which is the same here.
    Reset,
}

/// The devices, as the virtual CPUs see them.
pub(crate) struct Bus {
    console: Mutex<Console>,
    slots: Vec<Arc<Slot>>,
}

impl Bus {
    /// A bus with these devices; slot number `n` is at its place in the order.
    pub(crate) fn new(console: Console, slots: Vec<Arc<Slot>>) -> Self {
        Self {
            console: Mutex::new(console),
            slots,
        }
    }

    /// The virtio devices, in their order.
    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    fn console(&self) -> MutexGuard<'_, Console> {
        // A panic ends the process, so nobody ever sees what a panic has left.
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes out what the guest has not ended with a line break.
    pub(crate) fn finish_console(&self) {
        self.console().writer_mut().finish();
    }

    /// The registers of the serial console.
    pub(crate) fn save_console(&self) -> SerialLine {
        self.console().state().into()
    }

    /// A read from ports. A string instruction's reads come all at once, each as wide as the first.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        match port {
            serial::PORT..=serial::LAST => {
                let mut console = self.console();
                let register = (port - serial::PORT) as u8;
                data.iter_mut()
                    .for_each(|byte| *byte = console.read(register));
            }
            // Nothing to read, and room for a command; and nothing that has woken the machine.
            KEYBOARD | KEYBOARD_DATA | acpi::SLEEP_CONTROL | acpi::SLEEP_STATUS => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// A write to ports.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Asked {
        match port {
            serial::PORT..=serial::LAST => {
                let mut console = self.console();
                for byte in data {
                    // Output that cannot be written is lost: the guest goes on.
                    let _: Result<(), vm_superio::serial::Error<io::Error>> =
                        console.write((port - serial::PORT) as u8, *byte);
                }
            }
            KEYBOARD if data == [RESET] => return Asked::Reset,
            acpi::SLEEP_CONTROL if data.iter().any(|byte| byte & acpi::SLEEP_ENABLE != 0) => {
                return Asked::Reset;
            }
            _ => {}
        }
        Asked::Nothing
    }

    /// The slot at this address, and the offset in it.
    fn slot(&self, address: u64) -> Option<(&Slot, u64)> {
        let offset = address.checked_sub(FIRST_SLOT)?;
        let slot = self.slots.get(usize::try_from(offset / SLOT_BYTES).ok()?)?;
        Some((slot, offset % SLOT_BYTES))
    }

    /// A read from where no memory is.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.slot(address) {
            Some((slot, offset)) => slot.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A write to where no memory is.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((slot, offset)) = self.slot(address) {
            slot.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_superio::Serial;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::serial::{Interrupt, Output};
    use crate::devices::virtio::rng::Rng;

    fn bus() -> Bus {
        let memory = Arc::new(crate::memory::allocate(64).unwrap());
        let interrupt = Interrupt(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap());
        let console = Serial::new(
            interrupt,
            Output::new(tempfile::tempfile().unwrap()).unwrap(),
        );
        let slot = Slot::new(FIRST_SLOT, FIRST_LINE, Box::new(Rng), &memory).unwrap();
        Bus::new(console, vec![Arc::new(slot)])
    }

    #[test]
    fn what_is_not_there_reads_as_ones_and_takes_every_write() {
        let bus = bus();
        let mut data = [0; 8];
        for address in [0, FIRST_SLOT - 1, FIRST_SLOT + SLOT_BYTES, u64::MAX] {
            bus.write_memory(address, &data);
            data.fill(0);
            bus.read_memory(address, &mut data);
            assert_eq!(data, [0xff; 8], "{address:#x}");
        }
        bus.read_port(0xcf8, &mut data[..4]);
        assert_eq!(bus.write_port(0xcf8, &data), Asked::Nothing);
        assert_eq!(data, [0xff; 8]);
    }

    #[test]
    fn devices_are_where_the_guest_is_told_they_are() {
        let bus = bus();
        let mut word = [0; 4];
        bus.read_memory(FIRST_SLOT, &mut word);
        assert_eq!(&word, b"virt");
        let mut status = [0];
        bus.read_port(0x3fd, &mut status);
        assert_eq!(status, [0x60]);
    }

    #[test]
    fn the_keyboard_controller_resets_and_is_never_busy() {
        let bus = bus();
        let mut status = [0xff];
        bus.read_port(KEYBOARD, &mut status);
        assert_eq!(status, [0]);
        assert_eq!(bus.write_port(KEYBOARD, &[0xd1]), Asked::Nothing);
        assert_eq!(bus.write_port(KEYBOARD, &[RESET]), Asked::Reset);
    }

    #[test]
    fn only_the_enabled_sleep_switches_off() {
        let bus = bus();
        let mut status = [0xff];
        bus.read_port(acpi::SLEEP_STATUS, &mut status);
        assert_eq!(status, [0]);
        assert_eq!(bus.write_port(acpi::SLEEP_STATUS, &[0x80]), Asked::Nothing);
        assert_eq!(bus.write_port(acpi::SLEEP_CONTROL, &[0x14]), Asked::Nothing);
        assert_eq!(bus.write_port(acpi::SLEEP_CONTROL, &[0x34]), Asked::Reset);
    }
}
