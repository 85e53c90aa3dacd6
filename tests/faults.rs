//! What goes wrong around an instance is told in a sentence, harms nothing else, and can be mended by the next command.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Command, Stdio};

use common::{Host, eventually, is_alive};

fn instance(host: &Host, id: &str) -> std::path::PathBuf {
    host.root().join("instances").join(id)
}

#[test]
fn a_damaged_state_harms_no_other_instance_and_is_removed_by_force() {
    let host = Host::new();
    let good = host.detached(&[], &["--name", "good"], &["sleep", "1000"]);
    for (file, bytes) in [
        ("instance.json", &b"{"[..]),
        ("instance.json", b""),
        ("instance.json", b"\x00\xff\x12garbage"),
        ("state.json", b"[1,2"),
        ("state.json", b"\xff\xfe"),
    ] {
        let bad = host
            .plimsoll(["create", "--name", "bad", "plimsoll/base", "true"])
            .ok()
            .to_owned();
        fs::write(instance(&host, &bad).join(file), bytes).unwrap();
        assert!(host.plimsoll(["ps", "-aq"]).ok().contains(&good[..12]));
        assert_eq!(host.plimsoll(["exec", "good", "echo", "fine"]).ok(), "fine");
        host.plimsoll(["start", &bad])
            .fails(1, &["damaged", "rm -f"]);
        host.plimsoll(["rm", "-f", &bad]).ok();
        assert!(!instance(&host, &bad).exists(), "{file}: {bytes:?}");
    }
    host.plimsoll(["rm", "-f", "good"]).ok();
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn of_two_commands_that_want_one_name_one_gets_it() {
    let host = Host::new();
    host.plimsoll(["run", "--rm", "plimsoll/base", "true"]).ok();
    for round in 0..20 {
        let name = format!("wanted{round}");
        let both: Vec<_> = (0..2)
            .map(|_| {
                host.command()
                    .args(["create", "--name", &name, "plimsoll/base", "true"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let mut won = 0;
        for child in both {
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                won += 1;
            } else {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(said.contains("already in use"), "{said}");
            }
        }
        assert_eq!(won, 1, "{name}");
        host.plimsoll(["rm", &name]).ok();
    }
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn a_terminal_that_vanishes_does_not_end_its_instance() {
    let host = Host::new();
    let mut ends = [0; 2];
    // SAFETY: openpty writes two descriptors, and is asked for no name, modes or size.
    let made = unsafe {
        libc::openpty(
            &mut ends[0],
            &mut ends[1],
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(made, 0);
    // SAFETY: both were just made, and nobody else has them.
    let (mut master, slave) = unsafe {
        (
            fs::File::from_raw_fd(ends[0]),
            fs::File::from_raw_fd(ends[1]),
        )
    };
    let mut command = host.command();
    command
        .args(["run", "-it", "--name", "term", "plimsoll/base", "sh"])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave);
    let mut child = command.spawn().unwrap();
    drop(command);
    master.write_all(b"echo re''ady\n").unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("ready") {
        let count = master.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
    }
    drop(master);
    // The command notices and leaves, or is ended by the hangup; the instance goes on.
    common::kill(child.id(), libc::SIGKILL);
    child.wait().unwrap();
    assert_eq!(host.inspect("term", "{{.State.Status}}"), "running");
    assert_eq!(host.plimsoll(["exec", "term", "echo", "here"]).ok(), "here");
    host.plimsoll(["rm", "-f", "term"]).ok();
}

/// A connection to an instance's supervisor, as a command makes it.
fn connect(host: &Host, id: &str) -> fs::File {
    let directory = fs::File::open(instance(host, id)).unwrap();
    let path = format!("/proc/self/fd/{}/control", directory.as_raw_fd());
    // SAFETY: an address of zeros is empty; the calls read it within its size, and the descriptor is new.
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
            *to = from.cast_signed();
        }
        let length = size_of_val(&address) as libc::socklen_t;
        let connected = libc::connect(socket, (&raw const address).cast(), length);
        assert_eq!(connected, 0, "{}", std::io::Error::last_os_error());
        fs::File::from_raw_fd(socket)
    }
}

#[test]
fn garbage_and_idle_connections_do_not_disturb_a_supervisor() {
    let host = Host::new();
    let id = host.detached(&[], &[], &["sleep", "1000"]);
    let idle: Vec<_> = (0..50).map(|_| connect(&host, &id)).collect();
    for garbage in [
        &b"\x00{"[..],
        b"\x00\"Nothing\"",
        b"\x01",
        b"\x07\x07\x07",
        &[0; 70_000],
        b"\x00{\"Exec\":{\"args\":[]}}",
        b"\x00{\"Resize\":{\"rows\":99999,\"columns\":1}}",
    ] {
        let mut socket = connect(&host, &id);
        let _ = socket.write_all(garbage);
    }
    assert_eq!(host.plimsoll(["exec", &id, "echo", "fine"]).ok(), "fine");
    host.plimsoll(["pause", &id]).ok();
    host.plimsoll(["unpause", &id]).ok();
    drop(idle);
    assert!(is_alive(host.process(&id, "supervisor")));
    host.plimsoll(["stop", "-t", "0", &id]).ok();
}

#[test]
fn a_reader_that_does_not_read_holds_the_output_up_and_nothing_else() {
    let host = Host::new();
    let script = "i=0; while :; do echo line $i; i=$((i+1)); done";
    let mut child = host
        .command()
        .args(["run", "--name", "loud", "plimsoll/base", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its pipe and the supervisor's patience fill up, and then the instance waits.
    let size = || host.plimsoll(["logs", "loud"]).stdout.len();
    let mut last = 0;
    eventually("the output stands still", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        std::mem::replace(&mut last, size()) == last && last > 0
    });
    assert_eq!(host.plimsoll(["exec", "loud", "echo", "fine"]).ok(), "fine");
    common::kill(child.id(), libc::SIGKILL);
    child.wait().unwrap();
    drop(child.stdout.take());
    eventually("it goes on", || size() > last);
    host.plimsoll(["rm", "-f", "loud"]).ok();
}

#[test]
fn a_full_disk_is_told_and_the_next_command_works_when_there_is_room() {
    let host = Host::new();
    let scratch = host.scratch().join("small");
    fs::create_dir(&scratch).unwrap();
    // A file system of its own, seen by nobody else, which a container fills; then there is room again.
    let script = r#"
        set -e
        mount -t tmpfs -o size=24m tmpfs "$1"
        export PLIMSOLL_ROOT="$1/state"
        "$2" run --rm plimsoll/base true
        "$2" run -d --name log plimsoll/base sh -c 'while :; do echo a line that fills the disk; done' >/dev/null
        while head -c 65536 /dev/zero >>"$1/fill" 2>/dev/null; do :; done
        sleep 0.5
        test "$("$2" inspect -f '{{.State.Status}}' log)" = running
        code=0; "$2" run --rm plimsoll/base true 2>"$1/../said" || code=$?
        test $code = 125
        grep -qi 'no space left' "$1/../said"
        "$2" rm -f log >/dev/null
        rm "$1/fill"
        "$2" run --rm plimsoll/base echo room
        "$2" ps -aq
    "#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&scratch)
        .arg(common::binary())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        fs::read_to_string(host.scratch().join("said")).unwrap_or_default()
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "room\n");
}

#[test]
fn doctor_finds_and_settles_what_a_killed_supervisor_left() {
    let host = Host::new();
    let id = host.detached(&[], &["--name", "left"], &["sleep", "1000"]);
    let (supervisor, pid) = (host.process(&id, "supervisor"), host.process(&id, "pid"));
    common::kill(supervisor, libc::SIGKILL);
    eventually("both are gone", || !is_alive(supervisor) && !is_alive(pid));
    assert!(!common::cgroups_of(&id).is_empty());
    host.plimsoll(["doctor", "--repair"]);
    assert!(common::cgroups_of(&id).is_empty());
    assert_eq!(fs::read_dir(host.root().join("active")).unwrap().count(), 0);
    assert_eq!(host.state(&id, "status"), "exited");
    host.plimsoll(["rm", "left"]).ok();
}
