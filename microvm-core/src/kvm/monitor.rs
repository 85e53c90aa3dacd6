//! The monitor: puts a machine together, runs it, and says how it ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::{Kvm, VcpuFd};
use vm_superio::Serial;
use vmm_sys_util::eventfd::EventFd;

use super::bus::{Bus, FIRST_LINE, FIRST_SLOT, KEYBOARD, RESET};
use super::jail::{Jail, Seal, Work};
use super::kick;
use super::report::Report;
use super::vcpu::Vcpu;
use super::vm::Vm;
use crate::arch::cpuid::Features;
use crate::arch::{INTERRUPT_LINES, acpi, boot, registers};
use crate::devices::serial::{self, Interrupt, Output};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::blk::{Blk, Disk};
use crate::devices::virtio::console::Console;
use crate::devices::virtio::fs::{Fs, Server};
use crate::devices::virtio::net::Net;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::slot::{SLOT_BYTES, Slot};
use crate::event_loop::EventLoop;
use crate::kernel::Kernel;
use crate::memory::{Memory, allocate, place};
use crate::share::Shared;
use crate::{Discovery, End, Error, Nic, Result, Substrate, monotonic_now};

/// Everything that a machine is made of, opened and checked.
pub(super) struct Parts {
    pub(super) kvm: Kvm,
    pub(super) substrate: Substrate,
    pub(super) kernel: Kernel,
    pub(super) discovery: Discovery,
    pub(super) initramfs: File,
    pub(super) initramfs_bytes: u64,
    pub(super) disks: Vec<Disk>,
    pub(super) shares: Vec<Shared>,
    pub(super) networks: Vec<Nic>,
    pub(super) console: File,
    pub(super) control: UnixStream,
    pub(super) command_line: String,
    pub(super) vcpus: u8,
    pub(super) memory_mib: u32,
    /// What a test does in the place of the first virtual CPU: as a guest would that has taken its thread over.
    #[cfg(test)]
    pub(super) intruder: Option<super::jail::tests::Intruder>,
}

impl Parts {
    /// The descriptors without which the machine cannot be.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let mut all = vec![
            self.kvm.as_raw_fd(),
            self.kernel.descriptor(),
            self.initramfs.as_raw_fd(),
            self.console.as_raw_fd(),
            self.control.as_raw_fd(),
        ];
        all.extend(self.disks.iter().flat_map(Disk::descriptors));
        all.extend(self.shares.iter().map(|share| share.source.as_raw_fd()));
        all.extend(self.networks.iter().map(|nic| nic.tap.as_raw_fd()));
        all
    }
}

/// What the loop of the main thread comes back for.
const ENDED: u32 = 1;
const TERMINATED: u32 = 2;

/// A machine that is put together and has not run yet.
pub(super) struct Monitor {
    bus: Arc<Bus>,
    vcpus: Vec<Vcpu>,
    /// Slots with a thread of their own each, since their work may take long or there is much of it; the main thread serves the others.
    slow: Vec<Work>,
    #[cfg(test)]
    intruder: Option<super::jail::tests::Intruder>,
    // Last, so that the machine outlives its virtual CPUs.
    _vm: Vm,
}

/// How threads tell the main thread that the machine has ended.
#[derive(Clone)]
struct Teller {
    ends: Sender<End>,
    wake: Arc<EventFd>,
}

impl Teller {
    fn tell(&self, end: End) {
        // When nobody listens any more, another has told before.
        let _ = self.ends.send(end);
        let _ = self.wake.write(1);
    }
}

impl Monitor {
    /// Puts a machine together.
    pub(super) fn build(parts: Parts, jail: &mut Jail<'_>) -> Result<Self> {
        let memory_bytes = u64::from(parts.memory_mib) << 20;
        let vm = Vm::new(&parts.kvm, Arc::new(allocate(parts.memory_mib)?))?;
        parts.kernel.load(vm.memory(), memory_bytes)?;
        let ramdisk =
            boot::initramfs_address(parts.initramfs_bytes, memory_bytes, parts.kernel.end())?;
        place(
            vm.memory(),
            &parts.initramfs,
            0,
            parts.initramfs_bytes,
            ramdisk,
        )
        .map_err(Error::system("load the initial RAM disk"))?;

        jail.close()?;

        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::with_capacity(5);
        let mut slow = Vec::with_capacity(3);
        for disk in parts.disks {
            slow.push(Work::Disk);
            devices.push(Box::new(Blk::new(disk)));
        }
        if let Some(directory) = jail.take_descriptors() {
            slow.push(Work::Files);
            let server = Server::new(parts.shares, parts.memory_mib, directory)?;
            let device = Fs::new(server).map_err(Error::system("make a timer"))?;
            devices.push(Box::new(device));
        }
        let emulated = parts.substrate == Substrate::Pvm;
        for nic in parts.networks {
            slow.push(Work::Network);
            devices.push(Box::new(Net::new(nic, emulated)));
        }
        let console = Console::new(guest_protocol::PORT_NAME, parts.control)
            .map_err(Error::system("prepare the control channel"))?;
        devices.push(Box::new(console));
        devices.push(Box::new(Rng));
        let bus = bus(&vm, devices, parts.console)?;

        let mut command_line = parts.command_line;
        let acpi = match parts.discovery {
            Discovery::CommandLine => {
                for slot in bus.slots() {
                    command_line.push(' ');
                    command_line.push_str(&slot.kernel_parameter());
                }
                None
            }
            Discovery::Acpi => Some(tables(vm.memory(), &bus, parts.vcpus)?),
        };
        let ramdisk = (ramdisk, parts.initramfs_bytes);
        let entry = boot::write(
            vm.memory(),
            parts.kernel.entry(),
            &command_line,
            ramdisk,
            parts.vcpus,
            acpi,
        )?;
        registers::write_descriptors(vm.memory())?;
        let features = Features::supported(&parts.kvm, &parts.substrate)?;
        let fds: Vec<VcpuFd> = (0..parts.vcpus)
            .map(|number| vm.vcpu(number, parts.vcpus, &features))
            .collect::<Result<_>>()?;
        if let Some(first) = fds.first() {
            registers::set_entry(first, entry)?;
        }
        let vcpus = (0..)
            .zip(fds)
            .map(|(number, fd)| {
                Vcpu::new(
                    fd,
                    number,
                    Arc::clone(&bus),
                    Arc::clone(vm.memory()),
                    emulated,
                )
            })
            .collect();
        Ok(Self {
            bus,
            vcpus,
            slow,
            #[cfg(test)]
            intruder: parts.intruder,
            _vm: vm,
        })
    }

    /// Runs the machine to its end.
    pub(super) fn run(self, jail: &Jail<'_>, reports: &File) -> Result<End> {
        kick::install()?;
        let (ends, ended) = channel();
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let wake = Arc::new(event().map_err(Error::system("make an event"))?);
        let halt = Arc::new(event().map_err(Error::system("make an event"))?);
        let stop = Arc::new(AtomicBool::new(false));
        let teller = Teller {
            ends,
            wake: Arc::clone(&wake),
        };

        let mut events = EventLoop::new().map_err(Error::system("make the event loop"))?;
        let watching = "watch a descriptor";
        events
            .watch(wake.as_raw_fd(), ENDED)
            .map_err(Error::system(watching))?;
        let terminated = termination()?;
        events
            .watch(terminated.as_raw_fd(), TERMINATED)
            .map_err(Error::system(watching))?;
        let (slow, quick) = self.bus.slots().split_at(self.slow.len());
        for slot in quick {
            events
                .serve(Arc::clone(slot))
                .map_err(Error::system(watching))?;
        }
        let gate = Arc::new(Gate::default());
        let workers = slow
            .iter()
            .zip(&self.slow)
            .map(|(slot, work)| worker(slot, *work, (jail.seal(), &gate), &halt, teller.clone()))
            .collect::<Result<Vec<_>>>()?;
        Report::Ready(monotonic_now()).send(reports);

        let (bus, slow) = (Arc::clone(&self.bus), self.slow.len());
        let mut threads = Vec::with_capacity(self.vcpus.len());
        for (number, vcpu) in self.vcpus.into_iter().enumerate() {
            let (stop, teller) = (Arc::clone(&stop), teller.clone());
            let (gate, seal) = (Arc::clone(&gate), jail.seal());
            #[cfg(test)]
            let intruder = self.intruder.clone();
            let thread = Builder::new().name(format!("vcpu{number}")).spawn(move || {
                let sealed = seal.on(Work::Vcpu);
                gate.sealed();
                if let Err(error) = sealed {
                    teller.tell(End::MonitorFailed(error.to_string()));
                    return;
                }
                gate.pass();
                #[cfg(test)]
                if let Some(intruder) = intruder {
                    teller.tell(End::MonitorFailed((intruder.act)()));
                    return;
                }
                if let Some(end) = vcpu.run(&stop) {
                    teller.tell(end);
                }
            });
            threads.push(thread.map_err(Error::system("start a virtual CPU's thread"))?);
        }
        drop(teller);
        let seal = jail.seal();
        gate.wait_for(threads.len() + workers.len());
        seal.on(Work::Devices)?;
        Report::FirstInstruction(monotonic_now()).send(reports);
        gate.open();

        let end = wait(&mut events, &ended);
        stop.store(true, Ordering::SeqCst);
        for thread in &threads {
            kick::kick(thread.as_pthread_t());
        }
        join(threads);
        let _ = halt.write(1);
        join(workers);
        bus.slots()[slow..].iter().for_each(|slot| slot.finish());
        bus.finish_console();
        Ok(end)
    }
}

/// Holds the virtual CPUs back until every thread is shut in.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    sealed: usize,
    open: bool,
}

impl Gate {
    /// A thread is shut in, or has given up.
    fn sealed(&self) {
        self.state().sealed += 1;
        self.changed.notify_all();
    }

    /// Waits until so many threads are.
    fn wait_for(&self, threads: usize) {
        let state = self
            .changed
            .wait_while(self.state(), |state| state.sealed < threads);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }

    fn pass(&self) {
        let state = self.changed.wait_while(self.state(), |state| !state.open);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }

    fn open(&self) {
        self.state().open = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell(End::MonitorFailed("a thread panicked".to_owned()));
        }
    }
}

/// Waits until the machine has ended or is told to end.
fn wait(events: &mut EventLoop, ended: &Receiver<End>) -> End {
    match events.run() {
        Ok(TERMINATED) => End::Stopped,
        Ok(_) => ended
            .try_recv()
            .unwrap_or_else(|_| End::MonitorFailed("a thread ended without a word".to_owned())),
        Err(error) => End::MonitorFailed(format!("the event loop: {error}")),
    }
}

/// Joins threads; one that panicked has told so.
fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

/// A thread that serves one device, until `halt` is written; then it finishes what is left.
fn worker(
    slot: &Arc<Slot>,
    work: Work,
    (seal, gate): (Seal, &Arc<Gate>),
    halt: &Arc<EventFd>,
    teller: Teller,
) -> Result<JoinHandle<()>> {
    let mut events = EventLoop::new().map_err(Error::system("make the event loop"))?;
    events
        .serve(Arc::clone(slot))
        .map_err(Error::system("watch a descriptor"))?;
    events
        .watch(halt.as_raw_fd(), 0)
        .map_err(Error::system("watch a descriptor"))?;
    let (halt, slot, gate) = (Arc::clone(halt), Arc::clone(slot), Arc::clone(gate));
    Builder::new()
        .name(work.name().to_owned())
        .spawn(move || {
            let sealed = seal.on(work);
            gate.sealed();
            if let Err(error) = sealed {
                teller.tell(End::MonitorFailed(error.to_string()));
                return;
            }
            match events.run() {
                Ok(_) => slot.finish(),
                Err(error) => teller.tell(End::MonitorFailed(format!(
                    "a device's event loop: {error}"
                ))),
            }
            drop(halt);
        })
        .map_err(Error::system("start a device's thread"))
}

/// Puts the devices on the bus and connects them with KVM.
fn bus(vm: &Vm, devices: Vec<Box<dyn VirtioDevice>>, console: File) -> Result<Arc<Bus>> {
    if FIRST_LINE as usize + devices.len() > INTERRUPT_LINES as usize {
        return Err(Error::Start(format!(
            "{} devices are more than there are interrupt lines",
            devices.len()
        )));
    }
    let mut slots = Vec::with_capacity(devices.len());
    for (number, device) in (0..).zip(devices) {
        let address = FIRST_SLOT + u64::from(number) * SLOT_BYTES;
        let slot = Slot::new(address, FIRST_LINE + number, device, vm.memory())
            .map_err(Error::system("put a device on the bus"))?;
        vm.connect(&slot)?;
        slots.push(Arc::new(slot));
    }
    let interrupt = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
        .map_err(Error::system("make an event"))?;
    vm.interrupt_on(&interrupt, serial::LINE)?;
    let output = Output::new(console).map_err(Error::system("use the console's file"))?;
    Ok(Arc::new(Bus::new(
        Serial::new(Interrupt(interrupt), output),
        slots,
    )))
}

/// Writes ACPI's tables of what is on the bus, and gives the address of their root.
fn tables(memory: &Memory, bus: &Bus, cpus: u8) -> Result<u64> {
    let place = |slot: &Arc<Slot>| acpi::Place {
        address: slot.address,
        bytes: SLOT_BYTES,
        line: slot.line,
    };
    let virtio: Vec<acpi::Place> = bus.slots().iter().map(place).collect();
    let machine = acpi::Machine {
        cpus,
        serial: (serial::PORT, serial::LINE),
        reset: (KEYBOARD, RESET),
        virtio: &virtio,
    };
    acpi::write(memory, &machine)
}

/// A descriptor that is readable when the process is told to end; the signal is blocked in every thread.
fn termination() -> Result<OwnedFd> {
    // SAFETY: the set is initialized by sigemptyset before it is read; signalfd reads it and makes a descriptor.
    let fd = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(Error::system("watch for SIGTERM")(
            io::Error::last_os_error(),
        ));
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
