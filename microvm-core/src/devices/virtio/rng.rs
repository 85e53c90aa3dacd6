//! The entropy device (section 5.4): the guest's first random numbers come from the host's kernel.

use super::VirtioDevice;
use super::queue::{Broken, VirtQueue};

/// What one request gets at most; a driver that wants more asks again.
const MAX_BYTES: usize = 4096;

/// The entropy device.
#[derive(Debug, Default)]
pub(crate) struct Rng;

impl VirtioDevice for Rng {
    fn kind(&self) -> u32 {
        4
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

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn notified(&mut self, queue: usize, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        let mut random = [0; MAX_BYTES];
        queues[queue].drain(|memory, chain| {
            let wanted = chain.writable_bytes().min(MAX_BYTES as u64) as usize;
            // SAFETY: `random` is valid to write for `wanted` bytes, which is at most its length.
            let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), wanted, 0) };
            match usize::try_from(got) {
                Ok(got) if chain.write(memory, 0, &random[..got]) => got as u32,
                _ => 0,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::devices::virtio::slot::tests::Machine;
    use crate::devices::virtio::testing::Descriptor;

    #[test]
    fn random_bytes_are_given_and_differ() {
        let mut machine = Machine::new(Box::new(Rng));
        machine.start();
        machine.add(
            0,
            &[
                Descriptor::write(0x10_0000, 32),
                Descriptor::write(0x20_0000, 32),
            ],
        );
        machine.slot.notified(0);
        assert_eq!(machine.used(0), [(0, 64)]);
        let halves: [[u8; 32]; 2] =
            [0x10_0000, 0x20_0000].map(|at| machine.memory.read_obj(GuestAddress(at)).unwrap());
        assert_ne!(halves[0], halves[1]);
        assert_ne!(halves[0], [0; 32]);
    }

    #[test]
    fn a_request_for_gigabytes_gets_a_page_and_one_without_room_gets_nothing() {
        let mut machine = Machine::new(Box::new(Rng));
        machine.start();
        machine.add(0, &[Descriptor::write(0x10_0000, 48 << 20)]);
        machine.add(0, &[Descriptor::read(0x10_0000, 64)]);
        machine.slot.notified(0);
        assert_eq!(machine.used(0), [(0, MAX_BYTES as u32), (1, 0)]);
    }
}
