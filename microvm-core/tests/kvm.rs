//! Commands in real machines on our own monitor: the same kernel, agent and images as under QEMU, on this host's KVM.

mod vm;

use microvm_core::disk::blank_ext4;
use microvm_core::session::Status;

use vm::{finish, kvm, layer, read_until, request, sh, tool};

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

/// One boot again: a further process, the helper program twice (it is sent once), and the end of all.
#[test]
fn further_processes_and_helpers_run_beside_the_main_one() {
    let Some(mut machine) = kvm() else { return };
    let writable = machine.folder.path().join("writable");
    let templates = machine.folder.path().join("templates");
    blank_ext4(&templates, &writable, 64 << 20).unwrap();
    machine.writable = Some(writable);
    machine.process.args = sh("trap 'exit 3' TERM; echo ready; while :; do sleep 1; done");
    let mut live = machine.start().unwrap();
    read_until(&mut live.stdout, "ready");
    let timed = |what: &str, wanted, stdin: &[u8]| {
        let begun = std::time::Instant::now();
        let (code, stdout, stderr) = finish(&live.handle, wanted, stdin);
        eprintln!("{what}: {} ms", begun.elapsed().as_millis());
        assert_eq!(stderr, "", "{what}");
        (code, String::from_utf8_lossy(&stdout).into_owned())
    };
    let script = sh("cat; echo made > /made; exit 4");
    let ran = timed("a further process", request(script), b"in\n");
    assert_eq!(ran, (4, "in\n".to_owned()));
    let (code, processes) = timed("a helper", tool(&["ps"]), b"");
    assert_eq!(code, 0);
    assert!(processes.contains("\"pid\":1,\"ppid\":0"), "{processes}");
    let (code, upper) = timed("a helper again", tool(&["upper", "3"]), b"");
    assert_eq!(code, 0);
    assert!(upper.contains("f /made\0"), "{upper}");
    live.main.signal(15);
    assert_eq!(live.main.wait().unwrap().status, Status::Code(3));
    live.main.finish().unwrap();
}
