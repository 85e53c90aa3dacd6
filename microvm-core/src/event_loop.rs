//! The loop on which devices work, off the virtual CPUs' threads: waits for notifications of queues and for the devices'
//! own descriptors, and calls them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::devices::virtio::slot::Slot;

/// What a token names: the number of a slot with one of its queues or its descriptor, or something of the caller's.
const SLOT_SHIFT: u32 = 16;
const SOURCE: u64 = 0xffff;
const OUTSIDE: u64 = 1 << 63;

/// How many events one wait takes.
const BATCH: usize = 16;

/// The loop of one thread.
pub(crate) struct EventLoop {
    epoll: Epoll,
    slots: Vec<Arc<Slot>>,
    /// What is registered for a slot's own descriptor.
    watched: HashMap<usize, (RawFd, EventSet)>,
}

impl EventLoop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            slots: Vec::new(),
            watched: HashMap::new(),
        })
    }

    /// Serves this device from now on.
    pub(crate) fn serve(&mut self, slot: Arc<Slot>) -> io::Result<()> {
        let number = self.slots.len() as u64;
        for (queue, kick) in slot.kicks.iter().enumerate() {
            let event = EpollEvent::new(EventSet::IN, number << SLOT_SHIFT | queue as u64);
            self.epoll
                .ctl(ControlOperation::Add, kick.as_raw_fd(), event)?;
        }
        self.slots.push(slot);
        Ok(())
    }

    /// Returns from [`Self::run`] with this number when the descriptor is readable.
    pub(crate) fn watch(&mut self, fd: RawFd, number: u32) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, OUTSIDE | u64::from(number));
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    /// Serves the devices until one of the watched descriptors is readable, and says which.
    pub(crate) fn run(&mut self) -> io::Result<u32> {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in &events[..count] {
                let token = event.data();
                if token & OUTSIDE != 0 {
                    return Ok(token as u32);
                }
                let number = (token >> SLOT_SHIFT) as usize;
                let Some(slot) = self.slots.get(number) else {
                    continue;
                };
                match token & SOURCE {
                    SOURCE => slot.ready(),
                    queue => slot.notified(queue as usize),
                }
                self.follow(number)?;
            }
        }
    }

    /// Registers what a device waits for now. What it does not wait for is taken out as a whole: a descriptor that is
    /// hung up reports so without being asked, for ever.
    fn follow(&mut self, number: usize) -> io::Result<()> {
        let wanted = self.slots[number].interest();
        let now = self.watched.get(&number).copied();
        if wanted == now {
            return Ok(());
        }
        let token = (number as u64) << SLOT_SHIFT | SOURCE;
        if let Some((fd, _)) = now {
            self.epoll
                .ctl(ControlOperation::Delete, fd, EpollEvent::default())?;
            self.watched.remove(&number);
        }
        if let Some((fd, events)) = wanted {
            self.epoll
                .ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))?;
            self.watched.insert(number, (fd, events));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use vm_memory::{Bytes, GuestAddress};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::virtio::VirtioDevice;
    use crate::devices::virtio::queue::{Broken, VirtQueue};
    use crate::devices::virtio::slot::tests::Machine;
    use crate::devices::virtio::testing::Descriptor;

    /// Copies a byte from its stream to each buffer the driver gives, and waits for more only while there is one.
    struct Feeder {
        stream: UnixStream,
        hungry: bool,
        calls: Arc<std::sync::atomic::AtomicU32>,
    }

    impl VirtioDevice for Feeder {
        fn kind(&self) -> u32 {
            3
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
        fn notified(&mut self, _: usize, _: &mut [VirtQueue]) -> Result<(), Broken> {
            self.hungry = true;
            Ok(())
        }
        fn interest(&self) -> Option<(RawFd, EventSet)> {
            self.hungry.then(|| (self.stream.as_raw_fd(), EventSet::IN))
        }
        fn ready(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
            self.calls
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.hungry = false;
            let mut byte = [0];
            let got = self.stream.read(&mut byte).unwrap_or(0);
            queues[0].drain(|memory, chain| {
                chain.write(memory, 0, &byte[..got]);
                got as u32
            })
        }
    }

    #[test]
    fn a_device_is_called_while_it_waits_and_left_alone_when_it_does_not() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let device = Feeder {
            stream: theirs,
            hungry: false,
            calls: Arc::clone(&calls),
        };
        let mut machine = Machine::new(Box::new(device));
        machine.start();
        machine.add(0, &[Descriptor::write(0x10_0000, 1)]);
        let memory = Arc::clone(&machine.memory);
        let slot = Arc::new(machine.slot);
        let stop = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap();
        let mut events = EventLoop::new().unwrap();
        events.serve(Arc::clone(&slot)).unwrap();
        events.watch(stop.as_raw_fd(), 7).unwrap();
        let thread = std::thread::spawn(move || events.run().unwrap());

        ours.write_all(b"ab").unwrap();
        while slot.interrupt.read().is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            memory.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(),
            b'a'
        );
        // One byte is still there, and then the stream is hung up: neither may keep the loop busy.
        drop(ours);
        std::thread::sleep(Duration::from_millis(20));
        stop.write(1).unwrap();
        assert_eq!(thread.join().unwrap(), 7);
        assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
