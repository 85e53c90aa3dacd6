//! Commands in real machines, from kernel to exit code: QEMU's software emulation and the agent, with images made here.

mod vm;

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use guest_protocol::{Capabilities, File, Mount, Rlimit, WindowSize};
use microvm_core::disk::blank_ext4;
use microvm_core::session::{FailureKind, SessionError, Status};

use vm::{layer, read_until, sh, tcg};

#[test]
fn output_errors_and_exit_code_come_back_apart_and_the_stages_in_order() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh("echo hi; echo woe >&2; exit 7");
    let ran = machine.run(&[]);
    assert_eq!(ran.stdout, b"hi\n");
    assert_eq!(ran.stderr, b"woe\n");
    assert_eq!(ran.exit().status, Status::Code(7));
    let names: Vec<_> = ran.stages.iter().map(|stage| stage.name).collect();
    assert_eq!(
        names,
        [
            "vmm-ready",
            "first-instruction",
            "kernel",
            "init",
            "agent",
            "exec"
        ]
    );
    assert!(
        ran.stages.is_sorted_by_key(|stage| stage.at),
        "{:?}",
        ran.stages
    );
    assert!(ran.exit().ended_at >= ran.stages[5].at);
    assert!(ran.exit().peak_memory_bytes > 100_000);
}

#[test]
fn the_process_is_what_was_asked_for() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh(
        "echo $$; id -u; id -g; id -G; pwd; echo $FOO; umask; ulimit -n; hostname; cat /etc/hostname; cat /made/by/us; \
         grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status; grep -c /scratch /proc/mounts; echo to-stdout > /dev/stdout; \
         touch /tmp/x && stat -c %a /tmp/x; uname -n; cat /sys/class/net/lo/flags; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2",
    );
    machine.process.env.push("FOO=bar".into());
    machine.process.uid = 1000;
    machine.process.gid = 1001;
    machine.process.additional_gids = vec![1002, 1003];
    machine.process.cwd = "/not/there/yet".into();
    machine.process.umask = 0o27;
    machine.process.rlimits = vec![Rlimit {
        resource: 7,
        soft: 77,
        hard: 88,
    }];
    machine.process.no_new_privileges = true;
    let chown = 1;
    machine.process.capabilities = Some(Capabilities {
        bounding: chown,
        effective: 0,
        permitted: 0,
        inheritable: 0,
        ambient: 0,
    });
    machine.shm_bytes = 8 << 20;
    machine.files = vec![
        File {
            path: "/etc/hostname".into(),
            contents: "from-the-host\n".into(),
            mode: 0o644,
        },
        File {
            path: "/made/by/us".into(),
            contents: "laid\n".into(),
            mode: 0o644,
        },
    ];
    machine.mounts = vec![Mount {
        source: "tmpfs".into(),
        target: "/scratch".into(),
        filesystem: "tmpfs".into(),
        flags: 0,
        data: "size=1m".into(),
    }];
    let ran = machine.run(&[]);
    let expected = "1\n1000\n1001\n1001 1002 1003\n/not/there/yet\nbar\n0027\n77\nguest\nfrom-the-host\nlaid\n\
                    CapEff:\t0000000000000000\nCapBnd:\t0000000000000001\nNoNewPrivs:\t1\n1\nto-stdout\n640\nguest\n0x9\n8192\n";
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        expected,
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn the_kernel_is_the_guests_own_and_its_clock_is_the_hosts() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh("uname -r; date +%s");
    let ran = machine.run(&[]);
    let text = String::from_utf8(ran.stdout.clone()).unwrap();
    let (release, seconds) = text.trim().split_once('\n').unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(release, host.trim());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(
        now.abs_diff(seconds.parse().unwrap()) < 60,
        "{seconds} in the guest, {now} here"
    );
}

#[test]
fn stdin_is_carried_with_its_end_and_output_beyond_any_window() {
    let Some(mut machine) = tcg() else { return };
    machine.process.stdin = true;
    machine.process.args = sh("cat");
    let bytes: Vec<u8> = (0..1_500_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let ran = machine.run(&bytes);
    assert_eq!(ran.exit().status, Status::Code(0));
    assert!(
        ran.stdout == bytes,
        "{} bytes came back, not the same {}",
        ran.stdout.len(),
        bytes.len()
    );
}

#[test]
fn a_signal_passes_while_stdin_is_full_and_unread() {
    let Some(mut machine) = tcg() else { return };
    machine.process.stdin = true;
    machine.process.args =
        sh("trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    let ran = machine.run_and(&vec![0; 1 << 20], "ready", |live| live.main.signal(15));
    assert_eq!(ran.stdout, b"ready\ngot it\n");
    assert_eq!(ran.exit().status, Status::Code(5));
}

#[test]
fn a_kill_is_reported_as_its_signal_and_not_as_want_of_memory() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh("echo ready; while :; do sleep 0.05; done");
    let ran = machine.run_and(&[], "ready", |live| live.main.signal(9));
    assert_eq!(ran.exit().status, Status::Signal(9));
    assert_eq!(ran.exit().code(), 137);
    assert!(!ran.exit().oom_killed);
}

#[test]
fn want_of_memory_is_reported_as_such() {
    let Some(mut machine) = tcg() else { return };
    machine.memory_mib = 64;
    machine.process.args = sh("tail /dev/zero");
    let ran = machine.run(&[]);
    assert!(ran.exit().oom_killed, "{:?}", ran.exit());
    assert_eq!(ran.exit().code(), 137);
}

#[test]
fn a_terminal_has_its_size_its_echo_and_its_resizes() {
    let Some(mut machine) = tcg() else { return };
    machine.process.stdin = true;
    machine.process.terminal = Some(WindowSize {
        rows: 33,
        columns: 101,
    });
    machine.process.args = sh(
        "tty; stty size; trap 'stty size; exit 3' WINCH; read line; echo \"<$line>\"; echo ready; while :; do sleep 0.05; done",
    );
    let ran = machine.run_and(b"typed\n", "ready", |live| live.main.resize(44, 120));
    let text = String::from_utf8_lossy(&ran.stdout).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    // What is typed is echoed when the terminal gets it, which may be before the first line.
    let shown: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| *line != "typed")
        .collect();
    assert_eq!(
        shown,
        ["/dev/pts/0", "33 101", "<typed>", "ready", "44 120"],
        "{text}"
    );
    assert!(lines.contains(&"typed"), "{text}");
    assert!(ran.stderr.is_empty());
    assert_eq!(ran.exit().status, Status::Code(3));
}

#[test]
fn commands_that_cannot_be_run_fail_as_docker_tells_them_apart() {
    let Some(mut machine) = tcg() else { return };
    let mut kind = |command: &str| {
        machine.process.args = vec![command.into()];
        match machine.run(&[]).outcome {
            Err(SessionError::Failed { kind, message }) => {
                assert!(message.contains(command), "{message}");
                kind
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(kind("nowhere"), FailureKind::NotFound);
    assert_eq!(kind("/etc/passwd"), FailureKind::NotExecutable);
}

#[test]
fn a_hundred_and_twenty_seven_layers_are_one_file_system() {
    let Some(mut machine) = tcg() else { return };
    // Topmost first; the lowest is the one with busybox, which is there already.
    let base = machine.images.pop().unwrap();
    machine.images = (0..126)
        .map(|number| {
            let own = format!("layers/{number}");
            layer(
                machine.folder.path(),
                &format!("layer{number}"),
                &[("top", &number.to_string()), (&own, "")],
            )
        })
        .collect();
    machine.images.push(base);
    machine.process.args =
        sh("cat /top; echo; ls /layers | wc -l; grep -c erofs /proc/filesystems");
    let ran = machine.run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "0\n126\n1\n",
        "{:?}",
        ran.outcome
    );
}

#[test]
fn writes_are_on_the_disk_when_the_exit_is_told() {
    let Some(mut machine) = tcg() else { return };
    let disk = machine.folder.path().join("writable");
    blank_ext4(&machine.folder.path().join("templates"), &disk, 64 << 20).unwrap();
    machine.writable = Some(disk.clone());
    machine.process.args =
        sh("echo kept > /kept; rm /etc/passwd; head -c 3000000 /dev/zero > /big; exit 4");
    // The machine is killed the moment it has told its exit: nothing may be lost.
    assert_eq!(machine.run(&[]).exit().status, Status::Code(4));
    let check = std::process::Command::new("e2fsck")
        .arg("-fn")
        .arg(&disk)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(
        check.status.success() && !said.contains("recovering journal"),
        "{said}"
    );
    machine.process.args = sh(
        "cat /kept; ls /etc/passwd; wc -c < /big; grep ' / ' /proc/mounts | grep -o upperdir=[a-z/]*",
    );
    let ran = machine.run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "kept\n3000000\nupperdir=/write/upper\n"
    );
}

#[test]
fn a_read_only_root_file_system_refuses_writes_and_still_has_its_mounts() {
    let Some(mut machine) = tcg() else { return };
    machine.read_only_rootfs = true;
    machine.process.args = sh("touch /x; echo $?; touch /dev/shm/x; echo $?; ls /proc/self/status");
    let ran = machine.run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "1\n0\n/proc/self/status\n"
    );
}

#[test]
fn a_process_whose_output_nobody_reads_learns_of_it() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh("yes; echo yes ended >&2");
    let mut live = machine.start().unwrap();
    drop(live.stdout);
    read_until(&mut live.stderr, "yes ended");
    let exit = live.main.wait().unwrap();
    assert!(exit.lost.is_empty(), "a reader that has gone is no loss");
}

#[test]
fn what_the_process_leaves_running_ends_with_it() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh("(sleep 1000; echo never) & echo done");
    let ran = machine.run(&[]);
    assert_eq!(ran.stdout, b"done\n");
    assert_eq!(ran.exit().status, Status::Code(0));
}

#[test]
fn a_monitor_that_is_killed_is_an_error_at_once() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh("echo ready; while :; do sleep 1; done");
    let ran = machine.run_and(&[], "ready", |live| live.handle.kill());
    match ran.outcome {
        Err(SessionError::Ended { end, .. }) => assert_eq!(end, microvm_core::End::Killed(9)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_with_two_processors_runs_on_both() {
    let Some(mut machine) = tcg() else { return };
    machine.vcpus = 2;
    machine.process.args = sh("grep -c ^processor /proc/cpuinfo; taskset 2 sh -c 'echo second'");
    let ran = machine.run(&[]);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "2\nsecond\n");
}
