//! Terminals, and what remains when the launcher is killed.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio as Pipes};
use std::time::{Duration, Instant};

use common::{Fixture, command, shell, skip};
use container_core::{Stdio, Teardown, remove_cgroups};
use oci_spec::runtime::UserBuilder;

const TERMINAL: Stdio = Stdio::Terminal {
    rows: 33,
    columns: 77,
};

/// Everything a terminal says until its last user is gone (EIO).
fn read_terminal(master: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut file = File::from(master);
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = file.read(&mut part) {
        text.extend_from_slice(&part[..length]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_terminal_has_its_size_from_the_start() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = shell(
        "stty size; tty; echo via > /dev/tty; test -c /dev/console && echo console; ls /dev/pts",
    );
    let mut container = fixture.start(&spec, fixture.overlay(), TERMINAL).unwrap();
    let text = read_terminal(container.take_terminal().unwrap());
    assert_eq!(container.wait().unwrap().status.code(), 0, "{text}");
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..4],
        ["33 77", "/dev/pts/0", "via", "console"],
        "{text:?}"
    );
}

#[test]
fn an_interrupt_typed_at_the_terminal_reaches_the_command() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = shell("trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done");
    let mut container = fixture.start(&spec, fixture.overlay(), TERMINAL).unwrap();
    let mut master = File::from(container.take_terminal().unwrap());
    let mut greeting = [0; 7];
    master.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"ready\r\n");
    master.write_all(&[3]).unwrap();
    assert_eq!(container.wait().unwrap().status.code(), 9);
}

#[test]
fn a_terminal_belongs_to_the_user() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("stat -c '%u %g %a' $(tty); echo again > $(tty)");
    let user = UserBuilder::default()
        .uid(1000_u32)
        .gid(1000_u32)
        .build()
        .unwrap();
    spec.process_mut().as_mut().unwrap().set_user(user);
    let mut container = fixture.start(&spec, fixture.overlay(), TERMINAL).unwrap();
    let text = read_terminal(container.take_terminal().unwrap());
    assert_eq!(text, "1000 5 620\r\nagain\r\n");
    container.wait().unwrap();
}

#[test]
fn standard_input_is_null_unless_it_is_passed_on() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut container = fixture
        .start(
            &command(&["cat"]),
            fixture.overlay(),
            Stdio::Inherit { stdin: false },
        )
        .unwrap();
    assert_eq!(container.wait().unwrap().status.code(), 0);
}

#[test]
fn input_is_read_to_its_end() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let (input, input_end) = std::io::pipe().unwrap();
    let (mut output, output_end) = common::pipe();
    let null = File::options()
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into();
    let streams = Stdio::Descriptors([input.into(), output_end, null]);
    let mut container = fixture
        .start(&command(&["wc", "-c"]), fixture.overlay(), streams)
        .unwrap();
    let mut input_end = File::from(OwnedFd::from(input_end));
    input_end.write_all(&vec![0; 300_000]).unwrap();
    drop(input_end);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "300000\n");
    container.wait().unwrap();
}

#[test]
fn dropping_a_container_ends_it() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let container = fixture.quietly(&command(&["sleep", "60"]));
    let pid = container.pid();
    drop(container);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(fixture.cgroups().is_empty());
}

#[test]
fn output_ends_when_a_leaving_launcher_lets_go() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let null = || File::open("/dev/null").unwrap().into();
    let (mut output, end) = common::pipe();
    let held = end.try_clone().unwrap();
    let streams = Stdio::Descriptors([null(), end, null()]);
    let container = fixture
        .start(&command(&["echo", "hi"]), fixture.overlay(), streams)
        .unwrap();
    container.release(Teardown::Leave).unwrap();
    // The process that takes the namespace down has a copy of nothing: ours is the last.
    drop(held);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(
        text.is_empty() || text == "hi\n",
        "release may come before the word"
    );
}

/// Not a test: the launcher that the next one kills. It says the process ID of its container.
#[test]
#[ignore = "started by a_killed_launcher_takes_its_container_with_it"]
fn launcher_to_be_killed() {
    let Ok(id) = std::env::var("PLIMSOLL_TEST_ID") else {
        return;
    };
    let mut fixture = Fixture::new();
    fixture.id = id;
    let container = fixture.quietly(&shell("sleep 61 & sleep 62"));
    println!("container {}", container.pid());
    std::io::stdout().flush().unwrap();
    // Whoever kills this process cannot have the directory removed by it.
    fs::write(
        std::env::var("PLIMSOLL_TEST_NOTE").unwrap(),
        fixture.directory.path().to_str().unwrap(),
    )
    .unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_launcher_takes_its_container_with_it() {
    if skip() {
        return;
    }
    let notes = tempfile::tempdir().unwrap();
    let note = notes.path().join("directory");
    let id = format!("killed-{}", std::process::id());
    let mut launcher = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "launcher_to_be_killed",
            "--ignored",
            "--nocapture",
        ])
        .env("PLIMSOLL_TEST_ID", &id)
        .env("PLIMSOLL_TEST_NOTE", &note)
        .stdout(Pipes::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let wait = |what: &str, holds: &mut dyn FnMut() -> bool| {
        while !holds() {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "waited in vain: {what}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait("the container", &mut || {
        fs::read_to_string(&note).is_ok_and(|text| !text.is_empty())
    });
    let cgroup =
        container_core::cgroup::Cgroup::open(&container_core::cgroup::path_of_id(&id).unwrap())
            .unwrap()
            .unwrap();
    let inside = cgroup.processes().unwrap();
    assert!(!inside.is_empty());
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    wait("the container's end", &mut || {
        cgroup.processes().unwrap().is_empty()
    });
    drop(cgroup);
    remove_cgroups(&id).unwrap();
    assert!(!container_core::cgroup::list().unwrap().contains(&id));
    fs::remove_dir_all(fs::read_to_string(&note).unwrap()).unwrap();
}
