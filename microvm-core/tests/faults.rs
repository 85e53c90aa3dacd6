//! What goes wrong in a guest that has booted, under software emulation: what the user is told, and that nothing stays.

mod vm;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use microvm_core::session::{Guest, Options, SessionError};
use microvm_core::{Accelerator, VmConfig, launch};

use vm::{KERNEL, tcg};

/// Waits for the agent of a guest with this initial RAM disk; the reason why there is none.
fn refusal(folder: &Path, initramfs: &[u8], limit: Duration) -> SessionError {
    let path = folder.join("other-initramfs");
    fs::write(&path, initramfs).unwrap();
    let console = File::create(folder.join("other-console")).unwrap();
    let config = VmConfig::new(KERNEL.into(), path, console.try_clone().unwrap());
    let vm = launch(Accelerator::Tcg, &config).unwrap();
    let process = format!("/proc/{}", vm.pid());
    let mut options = Options::new(limit);
    options.console = Some(console);
    let error = Guest::connect(vm, options).err().unwrap();
    assert!(!Path::new(&process).exists(), "{error}");
    error
}

#[test]
fn a_kernel_that_panics_before_the_agent_is_told_with_its_own_words() {
    let Some(machine) = tcg() else { return };
    let limit = Duration::from_secs(120);
    let error = refusal(machine.folder.path(), b"no archive", limit);
    let said = error.to_string();
    assert!(
        said.starts_with("the guest's kernel panicked: VFS: Unable to mount root fs")
            || said.starts_with("the guest's kernel panicked: No working init"),
        "{said}"
    );
    assert!(said.contains("\n  guest console: "), "{said}");
}

/// The initial RAM disk with an agent that starts with these instructions.
fn with_agent(code: &[u8]) -> Vec<u8> {
    let mut initramfs = guest_artifacts::initramfs();
    let program = initramfs
        .windows(4)
        .position(|bytes| bytes == b"\x7fELF")
        .unwrap();
    let number = |at: usize| u64::from_le_bytes(initramfs[at..at + 8].try_into().unwrap());
    let entry = number(program + 24);
    let headers = program + number(program + 32) as usize;
    let offset = (0..16)
        .map(|header| headers + header * 56)
        .find_map(|header| {
            let (offset, address, bytes) =
                (number(header + 8), number(header + 16), number(header + 32));
            let within = entry.checked_sub(address).filter(|within| *within < bytes);
            (initramfs[header..header + 4] == [1, 0, 0, 0])
                .then_some(within.map(|within| offset + within))?
        })
        .unwrap();
    let at = program + offset as usize;
    initramfs[at..at + code.len()].copy_from_slice(code);
    initramfs
}

#[test]
fn an_agent_that_dies_is_told_as_the_panic_that_it_is() {
    let Some(machine) = tcg() else { return };
    // ud2
    let initramfs = with_agent(b"\x0f\x0b");
    let limit = Duration::from_secs(120);
    let said = refusal(machine.folder.path(), &initramfs, limit).to_string();
    assert!(
        said.starts_with("the guest's kernel panicked: Attempted to kill init!"),
        "{said}"
    );
}

#[test]
fn an_agent_that_never_answers_is_ended_when_its_time_is_up() {
    let Some(machine) = tcg() else { return };
    // jmp -2
    let initramfs = with_agent(b"\xeb\xfe");
    let limit = Duration::from_secs(5);
    let error = refusal(machine.folder.path(), &initramfs, limit);
    assert!(matches!(error, SessionError::TooLate { .. }), "{error}");
}
