//! Several processes in real machines, and work on the disks of machines that have stopped: QEMU's software emulation and the
//! agent, with images made here.

mod vm;

use std::io::{Read, Write};

use guest_protocol::WindowSize;
use microvm_core::disk::blank_ext4;
use microvm_core::session::{FailureKind, SessionError, Status};

use vm::{Live, Machine, beside, finish, process, read_until, request, sh, tcg, tool};

/// A main process that does nothing until it is told to stop.
const IDLE: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";

/// A machine that idles.
fn idling(machine: &mut Machine) -> Live {
    machine.process.args = sh(IDLE);
    let mut live = machine.start().unwrap();
    read_until(&mut live.stdout, "ready");
    live
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_further_process_is_among_the_main_ones_and_is_what_was_asked_for() {
    let Some(mut machine) = tcg() else { return };
    let live = idling(&mut machine);
    let script = "cat; id -u; id -g; pwd; echo $FOO; umask; tr '\\0' ' ' < /proc/1/cmdline | cut -c1-10; test $$ -gt 1 && echo not first; \
                  ls -d /proc/$$; grep -E 'NoNewPrivs' /proc/self/status; echo woe >&2; exit 7";
    let mut wanted = request(sh(script));
    wanted.process.uid = 1000;
    wanted.process.gid = 1001;
    wanted.process.cwd = "/tmp".into();
    wanted.process.umask = 0o27;
    wanted.process.env.push("FOO=bar".into());
    wanted.process.no_new_privileges = true;
    let (code, stdout, stderr) = finish(&live.handle, wanted, b"from stdin\n");
    let stdout = text(&stdout);
    let (rest, own) = stdout.split_once("not first\n").unwrap_or((&stdout, ""));
    assert_eq!(
        rest, "from stdin\n1000\n1001\n/tmp\nbar\n0027\n/bin/sh -c\n",
        "{stderr}"
    );
    assert!(
        own.starts_with("/proc/") && own.ends_with("NoNewPrivs:\t1\n"),
        "{own}"
    );
    assert_eq!(stderr, "woe\n");
    assert_eq!(code, 7);
    live.main.signal(15);
    assert_eq!(live.main.wait().unwrap().code(), 0);
    live.main.finish().unwrap();
}

#[test]
fn a_further_process_has_a_terminal_of_its_own() {
    let Some(mut machine) = tcg() else { return };
    let live = idling(&mut machine);
    let mut wanted = request(sh(
        "tty; stty size; trap 'stty size; exit 3' WINCH; read line; echo \"<$line>\"; echo ready; while :; do sleep 0.05; done",
    ));
    wanted.process.stdin = true;
    wanted.process.terminal = Some(WindowSize {
        rows: 33,
        columns: 101,
    });
    let mut shell = beside(&live.handle, wanted).unwrap();
    shell.stdin.write_all(b"typed\n").unwrap();
    let before = read_until(&mut shell.stdout, "ready").replace('\r', "");
    // The terminal's echo comes whenever it is typed.
    assert_eq!(
        before.replacen("typed\n", "", 1).trim_end(),
        "/dev/pts/0\n33 101\n<typed>\nready",
        "{before}"
    );
    shell.exec.resize(44, 120);
    let exit = shell.exec.wait().unwrap();
    assert_eq!(exit.status, Status::Code(3));
    let mut after = String::new();
    shell.stdout.read_to_string(&mut after).unwrap();
    assert!(after.contains("44 120"), "{after}");
    // The main process's console is none of its business.
    let (_, console, _) = finish(&live.handle, request(sh("ls /dev/console")), b"");
    assert_eq!(text(&console), "");
}

#[test]
fn a_signal_goes_to_the_process_it_is_for() {
    let Some(mut machine) = tcg() else { return };
    let live = idling(&mut machine);
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut first = beside(&live.handle, request(sh(script))).unwrap();
    let mut second = beside(&live.handle, request(sh(script))).unwrap();
    read_until(&mut first.stdout, "ready");
    read_until(&mut second.stdout, "ready");
    first.exec.signal(15);
    assert_eq!(first.exec.wait().unwrap().code(), 5);
    second.exec.signal(9);
    assert_eq!(second.exec.wait().unwrap().status, Status::Signal(9));
    assert!(!second.exec.wait().unwrap().oom_killed);
    live.main.signal(15);
    assert_eq!(live.main.wait().unwrap().code(), 0);
}

#[test]
fn a_process_passes_while_the_main_one_floods_and_while_nobody_reads_it() {
    let Some(mut machine) = tcg() else { return };
    machine.process.args = sh("yes");
    let live = machine.start().unwrap();
    // Nobody reads the main process's output yet: it stands still, and the others do not.
    let (code, stdout, _) = finish(&live.handle, request(sh("echo one; exit 4")), b"");
    assert_eq!((code, text(&stdout).as_str()), (4, "one\n"));
    let mut flood = live.stdout;
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        let mut seen = 0;
        loop {
            match flood.read(&mut piece).unwrap() {
                0 => return,
                count => seen += count,
            }
            // More than all the buffers hold that stood full before.
            if seen > 2 << 20 {
                let _ = tell.send(());
            }
        }
    });
    let bytes: Vec<u8> = (0..600_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let (code, stdout, _) = finish(&live.handle, request(sh("cat")), &bytes);
    assert_eq!(code, 0);
    assert!(stdout == bytes, "{} bytes came back", stdout.len());
    told.recv().unwrap();
    live.handle.shutdown();
    assert_eq!(live.main.wait().unwrap().status, Status::Signal(9));
    drop(live.main);
    reader.join().unwrap();
}

#[test]
fn every_process_ends_with_the_main_one() {
    let Some(mut machine) = tcg() else { return };
    machine.process.stdin = true;
    machine.process.args = sh("read line; exit 6");
    let mut live = machine.start().unwrap();
    let mut one = beside(
        &live.handle,
        request(sh("echo up; while :; do sleep 0.05; done")),
    )
    .unwrap();
    read_until(&mut one.stdout, "up");
    live.stdin.write_all(b"go\n").unwrap();
    assert_eq!(live.main.wait().unwrap().code(), 6);
    assert_eq!(one.exec.wait().unwrap().code(), 137);
    live.main.finish().unwrap();
    let over = beside(&live.handle, request(sh("true"))).err();
    assert!(matches!(over, Some(SessionError::Over)), "{over:?}");
}

#[test]
fn what_a_further_process_leaves_running_keeps_nobody_waiting_and_lives_on() {
    let Some(mut machine) = tcg() else { return };
    let live = idling(&mut machine);
    // It holds the output open, and goes on writing more than a pipe takes.
    let script = "(i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; echo lives > /tmp/x) & echo done";
    let (code, stdout, _) = finish(&live.handle, request(sh(script)), b"");
    assert_eq!(code, 0);
    assert!(text(&stdout).contains("done\n"));
    let wait = "while ! test -f /tmp/x; do sleep 0.05; done; cat /tmp/x";
    let (_, stdout, _) = finish(&live.handle, request(sh(wait)), b"");
    assert_eq!(text(&stdout), "lives\n");
}

#[test]
fn further_processes_that_cannot_be_run_fail_as_docker_tells_them_apart() {
    let Some(mut machine) = tcg() else { return };
    let live = idling(&mut machine);
    let kind = |wanted| match beside(&live.handle, wanted).err() {
        Some(SessionError::Failed { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(request(vec!["nowhere".into()])), FailureKind::NotFound);
    assert_eq!(
        kind(request(vec!["/etc/passwd".into()])),
        FailureKind::NotExecutable
    );
    let mut lost = request(sh("true"));
    lost.process.cwd = "/not/there".into();
    assert_eq!(kind(lost), FailureKind::NotFound);
    let mut upper = tool(&["upper", "3"]);
    upper.upper = true;
    assert_eq!(
        kind(upper),
        FailureKind::Config,
        "there is no disk for writes"
    );
    // And the machine goes on.
    assert_eq!(finish(&live.handle, request(sh("exit 9")), b"").0, 9);
}

#[test]
fn many_processes_run_at_once() {
    let Some(mut machine) = tcg() else { return };
    let live = idling(&mut machine);
    let handle = &live.handle;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..40u8)
            .map(|number| {
                scope.spawn(move || {
                    let script = format!("read line; echo $line-{number}; exit {number}");
                    let (code, stdout, _) = finish(handle, request(sh(&script)), b"in\n");
                    assert_eq!(code, number);
                    assert_eq!(text(&stdout), format!("in-{number}\n"));
                })
            })
            .collect();
        all.into_iter().for_each(|one| one.join().unwrap());
    });
}

#[test]
fn helpers_do_what_the_image_has_no_programs_for() {
    let Some(mut machine) = tcg() else { return };
    let disk = machine.folder.path().join("writable");
    blank_ext4(&machine.folder.path().join("templates"), &disk, 64 << 20).unwrap();
    machine.writable = Some(disk);
    let live = idling(&mut machine);
    let handle = &live.handle;
    let made = "mkdir -p /a/b; head -c 200000 /dev/zero | tr '\\0' x > /a/b/large; ln -s b /a/link; touch /a/own; chmod 4750 /a/own; \
                rm /etc/passwd";
    let made = made
        .replace("mkdir", "/bin/busybox mkdir")
        .replace("ln ", "/bin/busybox ln ")
        .replace("chmod", "/bin/busybox chmod");
    assert_eq!(finish(handle, request(sh(&made)), b"").0, 0);
    // Out, and in at another place.
    let (code, archive, complaints) = finish(handle, tool(&["tar-out", "/a"]), b"");
    assert_eq!((code, complaints.as_str()), (0, ""));
    let mut target = tool(&["tar-in", "/tmp"]);
    target.process.stdin = true;
    let (code, _, complaints) = finish(handle, target, &archive);
    assert_eq!((code, complaints.as_str()), (0, ""));
    let (_, seen, _) = finish(
        handle,
        request(sh(
            "wc -c < /tmp/a/b/large; stat -c '%a %F' /tmp/a/own /tmp/a/link",
        )),
        b"",
    );
    assert_eq!(
        text(&seen),
        "200000\n4750 regular empty file\n777 symbolic link\n"
    );
    let (code, told, _) = finish(handle, tool(&["stat", "/a/link"]), b"");
    assert_eq!(code, 0);
    assert!(
        text(&told).contains("\"linkTarget\":\"/a/b\""),
        "{}",
        text(&told)
    );
    let (code, _, complaints) = finish(handle, tool(&["tar-out", "/nowhere"]), b"");
    assert_eq!(code, 2);
    assert!(
        complaints.contains("/nowhere: no such file"),
        "{complaints}"
    );
    // A whole root file system leaves out what is not on a disk.
    let (code, whole, _) = finish(handle, tool(&["tar-out", "/"]), b"");
    assert_eq!(code, 0);
    let whole = text(&whole);
    assert!(
        whole.contains("./tmp/a/own")
            && whole.contains("./proc/\0")
            && !whole.contains("./proc/1/")
    );
    let (code, upper, complaints) = finish(handle, tool(&["upper", "3"]), b"");
    assert_eq!((code, complaints.as_str()), (0, ""));
    let upper = text(&upper);
    let entries: Vec<&str> = upper.split_terminator('\0').collect();
    for entry in [
        "d /a",
        "f /a/b/large",
        "l /a/link",
        "w /etc/passwd",
        "d /etc",
    ] {
        assert!(entries.contains(&entry), "{entry} in {entries:?}");
    }
    let (code, processes, _) = finish(handle, tool(&["ps"]), b"");
    assert_eq!(code, 0);
    let processes = text(&processes);
    assert!(
        processes.starts_with("{\"pid\":1,\"ppid\":0,\"uid\":0,"),
        "{processes}"
    );
    assert!(
        processes.contains("\"cmd\":\"/bin/sh -c trap"),
        "{processes}"
    );
}

#[test]
fn work_on_the_disk_of_a_machine_that_has_stopped() {
    let Some(mut machine) = tcg() else { return };
    let disk = machine.folder.path().join("writable");
    blank_ext4(&machine.folder.path().join("templates"), &disk, 64 << 20).unwrap();
    machine.writable = Some(disk.clone());
    machine.process.args = sh("echo kept > /kept; rm /etc/passwd");
    assert_eq!(machine.run(&[]).exit().code(), 0);
    // A process that is not looked at.
    machine.process = process(vec!["/not/there".into()]);
    let (handle, main) = machine.maintain().unwrap();
    let names: Vec<_> = handle.stages().iter().map(|stage| stage.name).collect();
    assert_eq!(
        names,
        ["vmm-ready", "first-instruction", "kernel", "init", "agent"]
    );
    let (code, upper, _) = finish(&handle, tool(&["upper", "3"]), b"");
    assert_eq!(code, 0);
    let upper = text(&upper);
    assert!(
        upper.contains("f /kept\0") && upper.contains("w /etc/passwd\0"),
        "{upper}"
    );
    let (code, archive, _) = finish(&handle, tool(&["tar-out", "/kept"]), b"");
    assert_eq!(code, 0);
    let (code, _, complaints) = finish(&handle, tool(&["tar-in", "/etc"]), &archive);
    assert_eq!((code, complaints.as_str()), (0, ""));
    // One that is still busy does not keep the work from ending.
    let mut busy = beside(
        &handle,
        request(sh("echo up; while :; do sleep 0.05; done")),
    )
    .unwrap();
    read_until(&mut busy.stdout, "up");
    handle.shutdown();
    assert_eq!(busy.exec.wait().unwrap().code(), 137);
    assert_eq!(main.wait().unwrap().code(), 0);
    drop(main);
    let check = std::process::Command::new("e2fsck")
        .arg("-fn")
        .arg(&disk)
        .output()
        .unwrap();
    let said = text(&check.stdout);
    assert!(
        check.status.success() && !said.contains("recovering journal"),
        "{said}"
    );
    machine.process = process(sh("cat /etc/kept"));
    assert_eq!(text(&machine.run(&[]).stdout), "kept\n");
}
