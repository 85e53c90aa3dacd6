//! Commands in real machines on our own monitor: the same kernel, agent and images as under QEMU, on this host's KVM.

mod vm;

use microvm_core::disk::blank_ext4;
use microvm_core::session::Status;

use vm::{kvm, layer, sh};

/// One boot for much: on kvm_pvm a boot takes many seconds, and so does each command.
#[test]
fn a_command_runs_on_layers_and_writes_to_the_writable_disk() {
    let Some(mut machine) = kvm() else { return };
    let top = layer(machine.folder.path(), "top", &[("made", "by us\n")]);
    machine.images.insert(0, top);
    let writable = machine.folder.path().join("writable");
    blank_ext4(
        &machine.folder.path().join("templates"),
        &writable,
        64 << 20,
    )
    .unwrap();
    machine.writable = Some(writable);
    machine.process.stdin = true;
    machine.process.args =
        sh("uname -r; cat /made; echo written > /made; cat /made /dev/stdin; echo woe >&2; exit 7");
    let ran = machine.run(b"from stdin\n");
    let stdout = String::from_utf8_lossy(&ran.stdout);
    let (release, rest) = stdout.split_once('\n').unwrap_or_else(|| panic!("{ran:?}"));
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(release, host.trim());
    assert_eq!(rest, "by us\nwritten\nfrom stdin\n");
    assert_eq!(ran.stderr, b"woe\n");
    assert_eq!(ran.exit().status, Status::Code(7));
    for stage in &ran.stages {
        let since = stage.at.saturating_sub(ran.stages[0].at) / 1_000_000;
        eprintln!("{} {since} ms after the monitor was ready", stage.name);
    }
    assert!(
        ran.stages.is_sorted_by_key(|stage| stage.at),
        "{:?}",
        ran.stages
    );
}

#[test]
fn a_machine_with_two_processors_runs_on_both() {
    let Some(mut machine) = kvm() else { return };
    machine.vcpus = 2;
    machine.process.args = sh("grep -c ^processor /proc/cpuinfo; taskset 2 sh -c 'echo second'");
    let ran = machine.run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "2\nsecond\n",
        "{ran:?}"
    );
}
