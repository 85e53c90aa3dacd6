//! VMs by our own monitor on /dev/kvm, whatever that is here. Where it is kvm_pvm a boot takes tens of seconds, so each
//! boot shows several things, and these tests stand in a program of their own, which runs alone.

mod common;

use std::fs;

use common::{Host, PARALLEL, kvm_is_possible};

const VM: [&str; 6] = ["run", "--rm", "--backend", "vm", "--accel", "kvm"];

#[test]
fn kvm_says_hi_from_a_kernel_of_its_own_and_passes_the_exit_code_on() {
    if !kvm_is_possible() {
        return;
    }
    let host = Host::new();
    assert_eq!(
        host.plimsoll([&VM[..], &["plimsoll/base", "echo", "hi"]].concat())
            .ok(),
        "hi"
    );
    let script = "uname -r; cat; echo to-err >&2; exit 7";
    let said = host.plimsoll_with_input(
        b"in\n",
        &[&VM[..], &["-i", "plimsoll/base", "sh", "-c", script]].concat(),
    );
    assert_eq!(said.code, Some(7), "{said:?}");
    let (kernel, rest) = said.stdout.split_once('\n').unwrap();
    assert_ne!(
        kernel,
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap()
            .trim()
    );
    assert_eq!(rest, "in\n");
    assert!(said.stderr.contains("to-err"), "{said:?}");
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn kvm_runs_work_on_two_cpus_at_once_and_keeps_an_ended_instances_disk() {
    if !kvm_is_possible() {
        return;
    }
    let host = Host::new();
    let flags = [
        "run",
        "--backend",
        "vm",
        "--accel",
        "kvm",
        "--cpus",
        "2",
        "-m",
        "128m",
        "--name",
        "two",
    ];
    let script = format!("nproc; echo kept > /kept; {PARALLEL}");
    let said = host.plimsoll([&flags[..], &["plimsoll/base", "sh", "-c", &script]].concat());
    let parallel = said.ok().strip_prefix("2\n").expect("two processors");
    common::check_parallel(parallel);
    let disks: Vec<_> = fs::read_dir(host.root().join("instances"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("disk.ext4"))
        .filter(|disk| disk.is_file())
        .collect();
    assert_eq!(disks.len(), 1);
    host.plimsoll(["rm", "two"]).ok();
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn a_command_that_kvms_guest_does_not_have_gives_127() {
    if !kvm_is_possible() {
        return;
    }
    let host = Host::new();
    host.plimsoll([&VM[..], &["plimsoll/base", "no-such-command"]].concat())
        .fails(127, &["no-such-command"]);
    assert!(host.leftovers().is_empty());
}
