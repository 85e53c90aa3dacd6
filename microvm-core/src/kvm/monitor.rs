//! The monitor: puts a machine together, runs it, and says how it ended.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use kvm_ioctls::{Kvm, VcpuFd};
use vm_superio::Serial;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

use super::bus::{Bus, FIRST_LINE, FIRST_SLOT, KEYBOARD, RESET};
use super::jail::{Jail, Seal, Work};
use super::kick;
use super::report::Report;
use super::saved::{self, Fit, Saved, SerialLine};
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
use crate::devices::virtio::queue::Broken;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::slot::{SLOT_BYTES, Slot};
use crate::devices::virtio::vacant::Vacant;
use crate::event_loop::EventLoop;
use crate::kernel::Kernel;
use crate::machine::SAVE_SIGNAL;
use crate::memory::{Memory, allocate, place};
use crate::share::Shared;
use crate::template::{DraftFiles, Template};
use crate::{Discovery, End, Error, NICS_MAX, Nic, Result, Substrate, monotonic_now};

/// What a machine begins with.
pub(super) enum Origin {
    /// It boots this; with files, it becomes a template then.
    Boot {
        kernel: Kernel,
        initramfs: File,
        initramfs_bytes: u64,
        draft: Option<Box<Draft>>,
    },
    /// It goes on from a template.
    Template(Template),
}

/// What a machine needs that becomes a template.
pub(super) struct Draft {
    pub(super) files: DraftFiles,
    pub(super) fit: Fit,
}

/// Everything that a machine is made of, opened and checked.
pub(super) struct Parts {
    pub(super) kvm: Kvm,
    pub(super) substrate: Substrate,
    pub(super) origin: Origin,
    pub(super) discovery: Discovery,
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
    /// What the guest's kernel calls the places of the machine's own devices, if it comes from a template: it numbers them in the
    /// order of its command line.
    pub(super) fn late_devices(&self) -> Vec<String> {
        let shares = usize::from(!self.shares.is_empty());
        let devices = self.disks.len() + shares + self.networks.len();
        (COMMON..COMMON + devices)
            .map(|number| format!("virtio-mmio.{number}"))
            .collect()
    }

    /// The descriptors without which the machine cannot be.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let mut all = vec![
            self.kvm.as_raw_fd(),
            self.console.as_raw_fd(),
            self.control.as_raw_fd(),
        ];
        match &self.origin {
            Origin::Boot {
                kernel,
                initramfs,
                draft,
                ..
            } => {
                all.extend([kernel.descriptor(), initramfs.as_raw_fd()]);
                let files = draft.iter().map(|draft| &draft.files);
                all.extend(files.flat_map(|f| [f.state.as_raw_fd(), f.memory.as_raw_fd()]));
            }
            Origin::Template(template) => all.push(template.memory.as_raw_fd()),
        }
        all.extend(self.disks.iter().flat_map(Disk::descriptors));
        all.extend(self.shares.iter().map(|share| share.source.as_raw_fd()));
        all.extend(self.networks.iter().map(|nic| nic.tap.as_raw_fd()));
        all
    }
}

/// What the loop of the main thread comes back for.
const ENDED: u32 = 1;
const SIGNALLED: u32 = 2;

/// How many places for devices a machine has that is or comes from a template: the console, the entropy device, and for the
/// rest two disks, shares, and as many networks as there may be, with one to spare.
pub(super) const PLACES: usize = 2 + 2 + 1 + NICS_MAX + 1;

/// A machine that is put together and has not run yet.
pub(super) struct Monitor {
    bus: Arc<Bus>,
    vcpus: Vec<Vcpu>,
    /// Which slots have a thread of their own each, since their work may take long or there is much of it; the main thread serves
    /// the others.
    slow: Vec<(usize, Work)>,
    /// What it takes to become a template.
    draft: Option<(Box<Draft>, Vec<u32>)>,
    #[cfg(test)]
    intruder: Option<super::jail::tests::Intruder>,
    // Last, so that the machine outlives its virtual CPUs.
    vm: Vm,
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
        let ramdisk = match &parts.origin {
            Origin::Boot {
                kernel,
                initramfs,
                initramfs_bytes,
                ..
            } => {
                kernel.load(vm.memory(), memory_bytes)?;
                let at = boot::initramfs_address(*initramfs_bytes, memory_bytes, kernel.end())?;
                place(vm.memory(), initramfs, 0, *initramfs_bytes, at)
                    .map_err(Error::system("load the initial RAM disk"))?;
                (at, *initramfs_bytes)
            }
            Origin::Template(template) => {
                let parts = &template.saved.memory;
                saved::map(vm.memory(), memory_bytes, &template.memory, parts)
                    .map_err(Error::system("map the template's memory"))?;
                (0, 0)
            }
        };

        jail.close()?;

        let emulated = parts.substrate == Substrate::Pvm;
        let mut own: Vec<(Box<dyn VirtioDevice>, Work)> = Vec::with_capacity(7);
        for disk in parts.disks {
            own.push((Box::new(Blk::new(disk)), Work::Disk));
        }
        if let Some(directory) = jail.take_descriptors() {
            let server = Server::new(parts.shares, parts.memory_mib, directory)?;
            let device = Fs::new(server).map_err(Error::system("make a timer"))?;
            own.push((Box::new(device), Work::Files));
        }
        for nic in parts.networks {
            own.push((Box::new(Net::new(nic, emulated)), Work::Network));
        }
        let console = Console::new(guest_protocol::PORT_NAME, parts.control)
            .map_err(Error::system("prepare the control channel"))?;
        let common: [Box<dyn VirtioDevice>; 2] = [Box::new(console), Box::new(Rng)];
        let (devices, slow) = arrange(common, own, parts.origin.places())?;

        let features = Features::supported(&parts.kvm, &parts.substrate)?;
        let fds: Vec<VcpuFd> = (0..parts.vcpus)
            .map(|number| vm.vcpu(number, parts.vcpus, &features))
            .collect::<Result<_>>()?;
        let line = match &parts.origin {
            Origin::Boot { .. } => None,
            Origin::Template(template) => Some(&template.saved.serial),
        };
        let bus = bus(&vm, devices, parts.console, line)?;
        match &parts.origin {
            Origin::Boot { kernel, .. } => {
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
                let entry = boot::write(
                    vm.memory(),
                    kernel.entry(),
                    &command_line,
                    ramdisk,
                    parts.vcpus,
                    acpi,
                )?;
                registers::write_descriptors(vm.memory())?;
                fds.iter().try_for_each(registers::set_common)?;
                if let Some(first) = fds.first() {
                    registers::set_entry(first, entry)?;
                }
            }
            Origin::Template(template) => resume(&vm, &fds, &bus, &template.saved)?,
        }
        let draft = match parts.origin {
            Origin::Boot { draft, .. } => draft,
            Origin::Template(_) => None,
        };
        let draft = draft
            .map(|draft| Ok::<_, Error>((draft, model_specific_registers(&parts.kvm)?)))
            .transpose()?;
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
            draft,
            #[cfg(test)]
            intruder: parts.intruder,
            vm,
        })
    }

    /// Runs the machine to its end.
    pub(super) fn run(mut self, jail: &Jail<'_>, reports: &File) -> Result<End> {
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
        let signals = signals()?;
        events
            .watch(signals.as_raw_fd(), SIGNALLED)
            .map_err(Error::system(watching))?;
        let bus = Arc::clone(&self.bus);
        let slow = |number: usize| self.slow.iter().find(|(slot, _)| *slot == number);
        let quick = || {
            let all = bus.slots().iter().enumerate();
            all.filter(|(number, _)| slow(*number).is_none())
        };
        for (_, slot) in quick() {
            events
                .serve(Arc::clone(slot))
                .map_err(Error::system(watching))?;
        }
        let gate = Arc::new(Gate::default());
        let workers = bus
            .slots()
            .iter()
            .enumerate()
            .filter_map(|(number, slot)| Some((slot, slow(number)?.1)))
            .map(|(slot, work)| worker(slot, work, (jail.seal(), &gate), &halt, teller.clone()))
            .collect::<Result<Vec<_>>>()?;
        Report::Ready(monotonic_now()).send(reports);

        let mut threads = Vec::with_capacity(self.vcpus.len());
        for (number, mut vcpu) in std::mem::take(&mut self.vcpus).into_iter().enumerate() {
            let (stop, teller) = (Arc::clone(&stop), teller.clone());
            let (gate, seal) = (Arc::clone(&gate), jail.seal());
            #[cfg(test)]
            let intruder = self.intruder.clone();
            let thread = Builder::new().name(format!("vcpu{number}")).spawn(move || {
                let sealed = seal.on(Work::Vcpu);
                gate.sealed();
                if let Err(error) = sealed {
                    teller.tell(End::MonitorFailed(error.to_string()));
                    return vcpu;
                }
                gate.pass();
                #[cfg(test)]
                if let Some(intruder) = intruder {
                    teller.tell(End::MonitorFailed((intruder.act)()));
                    return vcpu;
                }
                if let Some(end) = vcpu.run(&stop) {
                    teller.tell(end);
                }
                vcpu
            });
            threads.push(thread.map_err(Error::system("start a virtual CPU's thread"))?);
        }
        drop(teller);
        let seal = jail.seal();
        gate.wait_for(threads.len() + workers.len());
        seal.on(match self.draft {
            Some(_) => Work::Saving,
            None => Work::Devices,
        })?;
        Report::FirstInstruction(monotonic_now()).send(reports);
        gate.open();

        let mut end = wait(&mut events, &ended, &signals);
        stop.store(true, Ordering::SeqCst);
        for thread in &threads {
            kick::kick(thread.as_pthread_t());
        }
        let vcpus = join(threads);
        let _ = halt.write(1);
        join(workers);
        quick().for_each(|(_, slot)| slot.finish());
        bus.finish_console();
        if end == End::Saved {
            end = match self.save(vcpus, &ended) {
                Ok(()) => End::Saved,
                Err(error) => End::MonitorFailed(error.to_string()),
            };
        }
        Ok(end)
    }

    /// Writes the machine into its files; its virtual CPUs and devices stand still.
    fn save(&self, mut vcpus: Vec<Vcpu>, ended: &Receiver<End>) -> Result<()> {
        let (draft, indices) = self
            .draft
            .as_ref()
            .ok_or_else(|| Error::Start("this machine was not started as a template".to_owned()))?;
        if let Ok(end) = ended.try_recv() {
            return Err(Error::Start(end.to_string()));
        }
        vcpus.iter_mut().try_for_each(Vcpu::rest)?;
        let system = self.vm.save()?;
        let cpus = vcpus
            .iter()
            .map(|vcpu| vcpu.save(indices))
            .collect::<Result<_>>()?;
        let slots = self.bus.slots().iter().take(COMMON);
        let slots = slots
            .map(|slot| slot.save())
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::Start("the guest is not at rest".to_owned()))?;
        let bytes = u64::from(draft.fit.memory_mib) << 20;
        let memory = saved::write(self.vm.memory(), bytes, &draft.files.memory)
            .map_err(Error::system("write the template's memory"))?;
        let saved = Saved {
            fit: draft.fit.clone(),
            saved_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            cpus,
            system,
            serial: self.bus.save_console(),
            slots,
            memory,
        };
        let state = saved.encode().map_err(Error::Start)?;
        (&draft.files.state)
            .write_all(&state)
            .map_err(Error::system("write the template's state"))
    }
}

/// How many devices every machine has, the first ones in a template.
const COMMON: usize = 2;

impl Origin {
    /// How many places for devices there are, in a machine that has to do with a template.
    fn places(&self) -> Option<usize> {
        match self {
            Self::Boot { draft: None, .. } => None,
            Self::Boot { .. } | Self::Template(_) => Some(PLACES),
        }
    }
}

type Devices = Vec<Box<dyn VirtioDevice>>;

/// In which places the devices are, and which of those have threads of their own. With a number of places the devices that every
/// machine has come first, and the places that are left stay vacant.
fn arrange(
    common: [Box<dyn VirtioDevice>; COMMON],
    own: Vec<(Box<dyn VirtioDevice>, Work)>,
    places: Option<usize>,
) -> Result<(Devices, Vec<(usize, Work)>)> {
    let first = if places.is_some() { COMMON } else { 0 };
    let slow = (first..).zip(&own).map(|(slot, (_, work))| (slot, *work));
    let slow: Vec<_> = slow.collect();
    let own = own.into_iter().map(|(device, _)| device);
    let mut devices: Devices = match places {
        Some(_) => common.into_iter().chain(own).collect(),
        None => own.chain(common).collect(),
    };
    if let Some(places) = places {
        if devices.len() > places {
            return Err(Error::Start(format!(
                "{} devices are more than a template has places for",
                devices.len()
            )));
        }
        devices.resize_with(places, || Box::new(Vacant));
    }
    Ok((devices, slow))
}

/// Makes a machine what a template was.
fn resume(vm: &Vm, vcpus: &[VcpuFd], bus: &Bus, saved: &Saved) -> Result<()> {
    vm.resume(&saved.system)?;
    for (vcpu, state) in vcpus.iter().zip(&saved.cpus) {
        state.put(vcpu)?;
    }
    if saved.slots.len() != COMMON {
        return Err(Error::Start(
            "the template has another number of devices".to_owned(),
        ));
    }
    for (slot, state) in bus.slots().iter().zip(&saved.slots) {
        slot.restore(state).map_err(|Broken| {
            Error::Start("the template's devices are in no possible state".to_owned())
        })?;
    }
    vm.resume_clock(&saved.system)
}

/// The model-specific registers that KVM names.
fn model_specific_registers(kvm: &Kvm) -> Result<Vec<u32>> {
    let list = kvm.get_msr_index_list().map_err(|error| Error::Kvm {
        what: "list the model-specific registers",
        source: error.into(),
    })?;
    Ok(list.as_slice().to_vec())
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
fn wait(events: &mut EventLoop, ended: &Receiver<End>, signals: &OwnedFd) -> End {
    match events.run() {
        Ok(SIGNALLED) => match signal(signals) {
            SAVE_SIGNAL => End::Saved,
            _ => End::Stopped,
        },
        Ok(_) => ended
            .try_recv()
            .unwrap_or_else(|_| End::MonitorFailed("a thread ended without a word".to_owned())),
        Err(error) => End::MonitorFailed(format!("the event loop: {error}")),
    }
}

/// Joins threads; one that panicked has told so.
fn join<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    let joined = threads.into_iter().map(JoinHandle::join);
    joined.flatten().collect()
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
fn bus(vm: &Vm, devices: Devices, console: File, line: Option<&SerialLine>) -> Result<Arc<Bus>> {
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
    let interrupt = Interrupt(interrupt);
    let serial = match line {
        None => Serial::new(interrupt, output),
        Some(line) => Serial::from_state(&line.into(), interrupt, NoEvents, output)
            .map_err(|_| Error::Start("the template's console is in no possible state".into()))?,
    };
    Ok(Arc::new(Bus::new(serial, slots)))
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

/// The number of a signal that has come.
fn signal(signals: &OwnedFd) -> i32 {
    // SAFETY: a signalfd_siginfo is numbers, of which the kernel writes one.
    unsafe {
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let bytes = size_of_val(&info);
        libc::read(signals.as_raw_fd(), (&raw mut info).cast(), bytes);
        info.ssi_signo as i32
    }
}

/// A descriptor that is readable when the process is told to end or to save its machine; the signals are blocked in every
/// thread.
fn signals() -> Result<OwnedFd> {
    // SAFETY: the set is initialized by sigemptyset before it is read; signalfd reads it and makes a descriptor.
    let fd = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, SAVE_SIGNAL);
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
