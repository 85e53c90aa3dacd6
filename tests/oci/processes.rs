//! Processes, terminals, pauses and limits of containers that run.

use std::fs;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::bundle::{Bundle, cgroups, id};

#[test]
fn a_signal_to_run_is_for_its_command() {
    let Some(bundle) = Bundle::new(
        "trap 'exit 9' TERM; echo > /ready; echo ready > /ready; while :; do sleep 0.05; done",
    ) else {
        return;
    };
    let mut child = bundle
        .command(&["run", "--bundle", bundle.bundle(), &id("signal")])
        .spawn()
        .unwrap();
    bundle.wait_for_file("ready");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn exec_runs_beside_the_first_process() {
    let Some(bundle) = Bundle::new("sleep 1000") else {
        return;
    };
    let id = id("exec");
    bundle.ok(&["run", "-d", "--bundle", bundle.bundle(), &id]);
    let said = bundle.oci(&["exec", &id, "sh", "-c", "echo -n in; echo err >&2; exit 3"]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (3, "in", "err\n")
    );
    let text = bundle.ok(&[
        "exec",
        "--cwd",
        "/tmp",
        "-e",
        "A=b",
        "--user",
        "7:8",
        "-g",
        "9",
        "--cap",
        "CAP_NET_RAW",
        &id,
        "sh",
        "-c",
        "pwd; echo $A; id -u; id -g; grep CapBnd /proc/self/status; readlink /proc/self/ns/pid",
    ]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..4], ["/tmp", "b", "7", "8"], "{text}");
    // audit_write (29), kill (5), net_bind_service (10) of the configuration, and net_raw (13).
    assert_eq!(lines[4], "CapBnd:\t0000000020002420");
    let pid = bundle.state(&id)["pid"].to_string();
    let namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_eq!(lines[5], namespace.to_str().unwrap());

    let process = bundle.path().join("process.json");
    let described = json!({ "args": ["sh", "-c", "echo $X $(pwd)"], "env": ["X=y", "PATH=/bin"], "cwd": "/etc",
        "user": { "uid": 0, "gid": 0 } });
    fs::write(&process, described.to_string()).unwrap();
    assert_eq!(
        bundle.ok(&["exec", "--process", process.to_str().unwrap(), &id]),
        "y /etc\n"
    );

    let pid_file = bundle.path().join("exec-pid");
    bundle.ok(&[
        "exec",
        "-d",
        "--pid-file",
        pid_file.to_str().unwrap(),
        &id,
        "sleep",
        "999",
    ]);
    let pid: u32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    let pids: Vec<u32> =
        serde_json::from_str(&bundle.ok(&["ps", "--format", "json", &id])).unwrap();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
    if Command::new("ps").output().is_ok() {
        let table = bundle.ok(&["ps", &id]);
        assert!(
            table.lines().next().unwrap().contains("PID")
                && table.contains("sleep 999")
                && table.lines().count() == 3,
            "{table}"
        );
    } else {
        eprintln!("skipped: the table of ps takes ps(1)");
    }
    bundle.fails(
        &["exec", &id, "absent"],
        "executable file not found in $PATH",
    );
    bundle.fails(&["exec", &id, "/etc"], "is a directory: permission denied");
    bundle.fails(&["exec", &id], "needs a command");
}

#[test]
fn a_paused_container_stands_still() {
    let Some(bundle) = Bundle::new("while :; do touch /tick; sleep 0.01; done") else {
        return;
    };
    let id = id("paused");
    bundle.ok(&["run", "-d", "--bundle", bundle.bundle(), &id]);
    bundle.fails(&["resume", &id], "not paused");
    bundle.ok(&["pause", &id]);
    assert_eq!(bundle.state(&id)["status"], "paused");
    bundle.fails(&["pause", &id], "it is paused");
    bundle.fails(&["exec", &id, "true"], "paused");
    bundle.ok(&["resume", &id]);
    assert_eq!(bundle.state(&id)["status"], "running");
    bundle.ok(&["pause", &id]);
    bundle.ok(&["kill", &id, "9"]);
    bundle.wait_for(&id, "stopped");
    bundle.ok(&["delete", &id]);
}

#[test]
fn limits_are_set_and_changed() {
    let Some(bundle) = Bundle::new("sleep 1000") else {
        return;
    };
    let id = id("limits");
    bundle.change(|config| {
        config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    });
    bundle.create(&id);
    let read = |files: &[&str]| {
        let path = format!("plimsoll-oci/{id}");
        let found = cgroups(&path)
            .iter()
            .flat_map(|directory| {
                files
                    .iter()
                    .map(|file| directory.join(file))
                    .collect::<Vec<_>>()
            })
            .find_map(|file| fs::read_to_string(file).ok());
        found.unwrap().trim().to_owned()
    };
    let memory = ["memory.limit_in_bytes", "memory.max"];
    assert_eq!(read(&["pids.max"]), "20");
    assert_eq!(read(&memory), (64 << 20).to_string());
    bundle.ok(&[
        "update",
        "--pids-limit",
        "30",
        "--memory",
        &(96 << 20).to_string(),
        &id,
    ]);
    assert_eq!(read(&["pids.max"]), "30");
    assert_eq!(read(&memory), (96 << 20).to_string());
    let file = bundle.path().join("resources.json");
    fs::write(&file, json!({ "pids": { "limit": 40 } }).to_string()).unwrap();
    bundle.ok(&["update", "-r", file.to_str().unwrap(), &id]);
    assert_eq!(read(&["pids.max"]), "40");
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &id])).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 96 << 20);
    bundle.ok(&["delete", "--force", &id]);
}

/// The master that a runtime sends to a console socket.
fn receive_master(listener: UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let mut space = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut name)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .unwrap();
    let descriptor = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just made the descriptor for this process.
    unsafe { OwnedFd::from_raw_fd(descriptor.unwrap()) }
}

fn read_terminal(master: OwnedFd) -> String {
    let mut file = fs::File::from(master);
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = file.read(&mut part) {
        text.extend_from_slice(&part[..length]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    let Some(bundle) = Bundle::new("tty; stty size; sleep 1000") else {
        return;
    };
    bundle.change(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({ "height": 31, "width": 71 });
    });
    let id = id("console");
    bundle.fails(
        &["create", "--bundle", bundle.bundle(), &id],
        "--console-socket",
    );
    let socket = bundle.path().join("console.sock");
    let socket_text = socket.to_str().unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let receiving = std::thread::spawn(move || receive_master(listener));
    bundle.ok(&[
        "create",
        "--bundle",
        bundle.bundle(),
        "--console-socket",
        socket_text,
        &id,
    ]);
    let master = receiving.join().unwrap();
    bundle.ok(&["start", &id]);

    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let receiving = std::thread::spawn(move || receive_master(listener));
    bundle.ok(&[
        "exec",
        "-d",
        "-t",
        "--console-socket",
        socket_text,
        &id,
        "sh",
        "-c",
        "tty; echo second",
    ]);
    let second = read_terminal(receiving.join().unwrap());
    assert_eq!(second, "/dev/pts/1\r\nsecond\r\n");
    bundle.ok(&["kill", &id, "KILL"]);
    assert_eq!(read_terminal(master), "/dev/pts/0\r\n31 71\r\n");
    bundle.change(|config| config["process"]["terminal"] = json!(false));
    bundle.wait_for(&id, "stopped");
    bundle.ok(&["delete", &id]);
    bundle.fails(
        &[
            "create",
            "--bundle",
            bundle.bundle(),
            "--console-socket",
            socket_text,
            &id,
        ],
        "has no terminal",
    );
}
