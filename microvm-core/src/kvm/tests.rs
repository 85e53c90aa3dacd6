//! The monitor with guests of a few instructions, on this host's KVM, whatever its kind.

use std::io::Read;
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

use super::*;
use crate::kernel::tests::image;
use crate::{End, Substrate, substrate};

/// Where the guests are loaded and entered.
pub(super) const AT: u64 = 0x100_0000;

/// `mov al, 0xfe; out 0x64, al; hlt; jmp -3`: asks for a reset.
const RESET: &[u8] = b"\xb0\xfe\xe6\x64\xf4\xeb\xfd";
/// `jmp -2`: for ever.
pub(super) const SPIN: &[u8] = b"\xeb\xfe";

/// `mov dx, 0x3f8`, and for each byte `mov al, byte; out dx, al`.
pub(super) fn say(text: &[u8]) -> Vec<u8> {
    let mut code = b"\x66\xba\xf8\x03".to_vec();
    for byte in text {
        code.extend([0xb0, *byte, 0xee]);
    }
    code
}

pub(super) struct Guest {
    files: TempDir,
    pub(super) config: VmConfig,
}

/// A machine for this code; nothing where there is no KVM, which is said.
pub(super) fn guest(code: &[u8]) -> Option<Guest> {
    if let Substrate::None { reason } = substrate() {
        eprintln!("skipped: kvm: {reason}");
        return None;
    }
    eprintln!("accelerator: kvm on {}", substrate());
    let files = tempfile::tempdir().unwrap();
    let path = |name| files.path().join(name);
    std::fs::write(path("kernel"), image(code, AT)).unwrap();
    std::fs::write(path("initramfs"), b"no archive").unwrap();
    let console = File::create(path("console")).unwrap();
    let mut config = VmConfig::new(path("kernel"), path("initramfs"), console);
    config.memory_mib = 64;
    Some(Guest { files, config })
}

impl Guest {
    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    pub(super) fn launch(&self) -> MicroVm {
        Kvm.launch(&self.config).unwrap()
    }

    fn console(&self) -> Vec<u8> {
        std::fs::read(self.files.path().join("console")).unwrap()
    }

    /// Runs the guest to its end, and says how it ended and what it wrote.
    pub(super) fn run(&self) -> (End, Vec<u8>) {
        let end = self
            .launch()
            .wait_for(Some(Duration::from_secs(60)))
            .unwrap();
        (
            end.expect("a guest of a few instructions ends"),
            self.console(),
        )
    }
}

#[test]
fn a_guest_writes_to_the_console_and_resets() {
    let Some(guest) = guest(&[&say(b"hello\nand good bye"), RESET].concat()) else {
        return;
    };
    assert_eq!(
        guest.run(),
        (End::GuestReset, b"hello\nand good bye".to_vec())
    );
}

#[test]
fn the_stages_come_in_order_and_before_the_end() {
    let Some(guest) = guest(RESET) else { return };
    let before = crate::monotonic_now();
    let mut vm = guest.launch();
    let stages = vm.stages().to_vec();
    vm.wait().unwrap();
    assert_eq!(
        stages.iter().map(|stage| stage.name).collect::<Vec<_>>(),
        [Stage::VMM_READY, Stage::FIRST_INSTRUCTION]
    );
    assert!(
        before < stages[0].at
            && stages[0].at <= stages[1].at
            && stages[1].at < crate::monotonic_now()
    );
}

#[test]
fn the_guest_reads_devices_where_they_are_and_ones_where_none_is() {
    // mov eax, [address]; then each byte of it to the console.
    let show = |address: u32| {
        let mut code = vec![0xa1];
        code.extend(address.to_le_bytes());
        code.extend(b"\x66\xba\xf8\x03\xee\xc1\xe8\x08\xee\xc1\xe8\x08\xee\xc1\xe8\x08\xee");
        code
    };
    // mov dx, 0xcf8; in eax, dx; not eax; then its low byte.
    let port = b"\x66\xba\xf8\x0c\xed\xf7\xd0\x66\xba\xf8\x03\xee";
    let first = bus::FIRST_SLOT as u32;
    let code = [
        &show(first),
        &show(first + 0x1000 * 20),
        port.as_slice(),
        RESET,
    ]
    .concat();
    let Some(guest) = guest(&code) else { return };
    assert_eq!(
        guest.run(),
        (End::GuestReset, b"virt\xff\xff\xff\xff\0".to_vec())
    );
}

#[test]
fn a_triple_fault_is_reported_as_one() {
    // ud2, with no table of handlers.
    let Some(guest) = guest(b"\x0f\x0b") else {
        return;
    };
    let (end, _) = guest.run();
    assert!(matches!(end, End::TripleFault { vcpu: 0, .. }), "{end}");
    assert!(!end.is_orderly());
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_reported_with_its_bytes() {
    // nop; popcnt eax, eax. Hardware executes it.
    let Some(guest) = guest(&[b"\x90\xf3\x0f\xb8\xc0", RESET].concat()) else {
        return;
    };
    let (end, _) = guest.run();
    match substrate() {
        Substrate::Pvm => {
            let End::EmulationFailure {
                vcpu,
                suberror,
                rip,
                bytes,
            } = &end
            else {
                panic!("{end}")
            };
            assert_eq!((*vcpu, *suberror, *rip), (0, 1, AT + 1));
            assert!(bytes.starts_with(b"\xf3\x0f\xb8\xc0"), "{end}");
            assert!(end.to_string().contains("f3 0f b8 c0"), "{end}");
        }
        _ => assert_eq!(end, End::GuestReset),
    }
}

#[test]
fn breakpoints_and_fwait_work_on_every_substrate() {
    const IDT: u32 = AT as u32 + 0x100;
    const HANDLER: u32 = AT as u32 + 0x200;
    const POINTER: u32 = AT as u32 + 0x180;
    // mov esp, AT+0x1000; lidt [POINTER]; int3; fwait; W; reset.
    let mut code = b"\xbc".to_vec();
    code.extend((AT as u32 + 0x1000).to_le_bytes());
    code.extend(b"\x0f\x01\x1d");
    code.extend(POINTER.to_le_bytes());
    code.extend(b"\xcc\x9b");
    code.extend(say(b"W"));
    code.extend(RESET);
    code.resize(0x100 + 3 * 8, 0);
    // A 32-bit interrupt gate to HANDLER in segment 8.
    code.extend((HANDLER as u16).to_le_bytes());
    code.extend([8, 0, 0, 0x8e]);
    code.extend(((HANDLER >> 16) as u16).to_le_bytes());
    code.resize(0x180, 0);
    code.extend((4 * 8 - 1u16).to_le_bytes());
    code.extend(IDT.to_le_bytes());
    code.resize(0x200, 0);
    code.extend(say(b"B"));
    // pop eax; jmp eax: to where the interrupt came from. (kvm_pvm has no iret in this mode.)
    code.extend(b"\x58\xff\xe0");
    code.resize(0x1000, 0);
    let Some(guest) = guest(&code) else { return };
    assert_eq!(guest.run(), (End::GuestReset, b"BW".to_vec()));
}

#[test]
fn a_guest_that_spins_is_stopped_or_killed_and_the_end_says_which() {
    let Some(guest) = guest(SPIN) else { return };
    let mut vm = guest.launch();
    assert_eq!(vm.wait_for(Some(Duration::from_millis(20))).unwrap(), None);
    vm.stop().unwrap();
    assert_eq!(vm.wait().unwrap(), End::Stopped);
    assert_eq!(vm.wait().unwrap(), End::Stopped, "asked again");
    let mut vm = guest.launch();
    vm.kill().unwrap();
    assert_eq!(vm.wait().unwrap(), End::Killed(9));
    vm.kill().unwrap();
}

#[test]
fn every_virtual_cpu_is_stopped() {
    let Some(mut guest) = guest(SPIN) else { return };
    guest.config.vcpus = 3;
    let mut vm = guest.launch();
    vm.stop().unwrap();
    assert_eq!(vm.wait().unwrap(), End::Stopped);
}

#[test]
fn a_machine_ends_with_its_owner() {
    let Some(guest) = guest(SPIN) else { return };
    let vm = guest.launch();
    let process = format!("/proc/{}", vm.pid());
    assert!(Path::new(&process).exists());
    drop(vm);
    assert!(!Path::new(&process).exists(), "dropped");
    // The thread that has launched it ends without a chance to kill it.
    let mut vm = std::thread::spawn(move || guest.launch()).join().unwrap();
    assert_eq!(vm.wait().unwrap(), End::Killed(9));
}

#[test]
fn the_monitor_keeps_no_descriptor_and_no_name_of_its_starter() {
    let Some(guest) = guest(SPIN) else { return };
    let secret = NamedTempFile::new().unwrap();
    let vm = guest.launch();
    let process = format!("/proc/{}", vm.pid());
    assert_eq!(
        std::fs::read_to_string(format!("{process}/comm")).unwrap(),
        "plimsoll-vmm\n"
    );
    let files: Vec<_> = std::fs::read_dir(format!("{process}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|path| path.starts_with("/") && path != Path::new("/dev/null"))
        .collect();
    assert_eq!(
        files,
        [guest.files.path().join("console")],
        "not {:?}",
        secret.path()
    );
}

#[test]
fn the_monitor_enters_its_cgroups() {
    let Some(mut guest) = guest(RESET) else {
        return;
    };
    let tasks = guest.files.path().join("tasks");
    guest.config.cgroup.tasks = vec![File::create(&tasks).unwrap()];
    assert_eq!(guest.run().0, End::GuestReset);
    assert_eq!(std::fs::read(tasks).unwrap(), b"0");
}

#[test]
fn a_monitor_that_cannot_enter_its_cgroups_is_not_run() {
    let Some(mut guest) = guest(&[&say(b"x"), RESET].concat()) else {
        return;
    };
    // Nothing can be written to it.
    guest.config.cgroup.tasks = vec![File::open("/dev/null").unwrap()];
    let error = Kvm.launch(&guest.config).err().unwrap();
    assert!(error.to_string().contains("cgroup"), "{error}");
    assert_eq!(guest.console(), b"");
}

#[test]
fn the_control_channel_ends_with_the_machine() {
    let Some(guest) = guest(SPIN) else { return };
    let vm = guest.launch();
    vm.kill().unwrap();
    assert_eq!(vm.control().read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn what_cannot_be_a_machine_is_refused_before_anything_starts() {
    let Some(mut guest) = guest(RESET) else {
        return;
    };
    let mut refuse = |change: &dyn Fn(&mut VmConfig), word: &str| {
        let (kernel, initramfs) = (guest.config.kernel.clone(), guest.config.initramfs.clone());
        change(&mut guest.config);
        let error = Kvm.launch(&guest.config).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
        guest.config = VmConfig::new(kernel, initramfs, File::open("/dev/null").unwrap());
    };
    refuse(&|config| config.vcpus = 0, "virtual CPUs");
    refuse(&|config| config.memory_mib = 8, "memory");
    refuse(&|config| config.kernel = "/bin/sh".into(), "/bin/sh");
    refuse(&|config| config.kernel = "/nowhere".into(), "/nowhere");
    refuse(&|config| config.initramfs = "/nowhere".into(), "/nowhere");
    refuse(
        &|config| config.image_disk = vec!["/nowhere".into()],
        "/nowhere",
    );
    refuse(
        &|config| config.writable_disk = Some("/dev/null".into()),
        "/dev/null",
    );
    refuse(&|config| config.extra_cmdline = "bell\u{7}".into(), "ASCII");
}

#[test]
fn what_does_not_fit_in_the_machine_is_said_by_the_monitor() {
    let Some(guest) = guest(RESET) else { return };
    let file = File::options()
        .write(true)
        .open(&guest.config.initramfs)
        .unwrap();
    file.set_len(64 << 20).unwrap();
    let error = Kvm.launch(&guest.config).err().unwrap().to_string();
    assert!(
        error.contains("initial RAM disk") && error.contains("more memory"),
        "{error}"
    );
}

/// What the monitor itself holds in memory, in KiB: every mapping but the guest's memory, by its proportional set size.
fn overhead(pid: i32) -> u64 {
    let mappings = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut guest, mut others, mut is_guest) = (0, 0, false);
    for line in mappings.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        let number = words.next().and_then(|word| word.parse::<u64>().ok());
        match (key, number) {
            // The guest's memory is in the only mappings that are this large and readable.
            ("Size:", Some(size)) => {
                is_guest &= size >= 8 << 10;
                guest += if is_guest { size } else { 0 };
            }
            ("Pss:", Some(size)) if !is_guest => others += size,
            _ if key.contains('-') => is_guest = line.contains(" rw-p "),
            _ => {}
        }
    }
    assert!(
        guest >= 120 << 10,
        "the guest's memory is among the mappings:\n{mappings}"
    );
    others
}

#[test]
fn the_monitor_takes_less_than_five_mebibytes_beside_the_guest() {
    /// Set in the process that measures.
    const ALONE: &str = "PLIMSOLL_TEST_ALONE";
    let Some(mut guest) = guest(SPIN) else { return };
    if std::env::var_os(ALONE).is_none() {
        // The monitor is a fork of its starter, whose heap is that of all tests that run now: here is a process without.
        let name = "kvm::tests::the_monitor_takes_less_than_five_mebibytes_beside_the_guest";
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
        eprint!("{said}");
        return;
    }
    guest.config.memory_mib = 128;
    let disk = guest.files.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    guest.config.image_disk = vec![disk.clone()];
    guest.config.writable_disk = Some(disk);
    let vm = guest.launch();
    std::thread::sleep(Duration::from_millis(50));
    let overhead = overhead(vm.pid());
    eprintln!("the monitor takes {overhead} KiB beside the guest's memory");
    assert!(overhead <= 5 << 10, "{overhead} KiB");
}
