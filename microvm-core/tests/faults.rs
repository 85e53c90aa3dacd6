//! What goes wrong in a guest that has booted, under software emulation: what the user is told, and that nothing stays.

mod vm;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use microvm_core::session::{Guest, Options, SessionError};
use microvm_core::{Accelerator, VmConfig, launch};

use vm::{KERNEL, sh, tcg};

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

#[test]
fn an_agent_that_is_killed_in_the_guest_is_told_as_the_panic_that_it_is() {
    let Some(mut machine) = tcg() else { return };
    // Root in the guest takes the agent's code away; the agent meets that as soon as it does anything.
    machine.process.args = sh(
        "a=$(grep -m1 r-xp /proc/1/maps); s=$((0x${a%%-*})); e=${a#*-}; e=$((0x${e%% *})); echo ready; \
         busybox dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((s / 4096)) count=$(((e - s) / 4096)) conv=notrunc; \
         sleep 1000",
    );
    let ran = machine.run(&[]);
    assert_eq!(ran.stdout, b"ready\n");
    let said = ran.outcome.unwrap_err().to_string();
    assert!(
        said.starts_with("the guest's kernel panicked: Attempted to kill init!"),
        "{said}"
    );
}
