//! What `plimsoll run` promises, on every backend that starts quickly here.

mod common;

use std::fs;

use common::{Host, PARALLEL, eventually, ways};

/// `run --rm` with a way's flags, more flags, and the built-in image.
fn arguments<'a>(way: &[&'a str], flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--rm"], way, flags, &["plimsoll/base"], command].concat()
}

#[test]
fn a_newcomer_runs_the_built_in_image_without_any_import() {
    let host = Host::new();
    for way in ways() {
        assert_eq!(
            host.plimsoll(arguments(&way, &[], &["echo", "hi"])).ok(),
            "hi",
            "{way:?}"
        );
    }
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let host = Host::new();
    for way in ways() {
        for code in [0, 7, 255] {
            let script = format!("exit {code}");
            let said = host.plimsoll(arguments(&way, &[], &["sh", "-c", &script]));
            assert_eq!(said.code, Some(code), "{way:?}: {said:?}");
            assert_eq!(
                said.stderr
                    .lines()
                    .filter(|line| !line.contains("tcg"))
                    .count(),
                0,
                "{way:?}: {said:?}"
            );
        }
    }
}

#[test]
fn a_command_killed_by_signal_n_gives_128_plus_n() {
    let host = Host::new();
    for way in ways() {
        // PID 1 of a namespace cannot kill itself, so a child of the shell does.
        let said = host.plimsoll(arguments(
            &way,
            &[],
            &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"],
        ));
        assert_eq!(said.code, Some(137), "{way:?}: {said:?}");
    }
}

#[test]
fn a_command_that_is_not_there_gives_127_and_one_that_cannot_run_126() {
    let host = Host::new();
    for way in ways() {
        host.plimsoll(arguments(&way, &[], &["no-such-command"]))
            .fails(127, &["no-such-command"]);
        host.plimsoll(arguments(&way, &[], &["/no/such/file"]))
            .fails(127, &["/no/such/file"]);
        host.plimsoll(arguments(&way, &[], &["/etc/passwd"]))
            .fails(126, &["/etc/passwd"]);
        host.plimsoll(arguments(&way, &[], &["/etc"]))
            .fails(126, &["/etc"]);
    }
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn a_container_has_the_hosts_kernel_and_a_vm_its_own() {
    let host = Host::new();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for way in ways() {
        let said = host.plimsoll(arguments(&way, &[], &["uname", "-r"]));
        assert_eq!(
            said.ok() == kernel.trim(),
            way.contains(&"container"),
            "{way:?}: {said:?}"
        );
    }
}

#[test]
fn streams_stay_apart_and_are_binary_clean() {
    let host = Host::new();
    let input: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    use sha2::Digest;
    let digest: String = sha2::Sha256::digest(&input)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for way in ways() {
        let said = host.plimsoll(arguments(
            &way,
            &[],
            &["sh", "-c", "echo out; echo err >&2"],
        ));
        assert_eq!(said.ok(), "out", "{way:?}");
        assert!(
            said.stderr.lines().any(|line| line == "err"),
            "{way:?}: {said:?}"
        );
        let summed = host.plimsoll_with_input(&input, &arguments(&way, &["-i"], &["sha256sum"]));
        assert!(summed.ok().starts_with(&digest), "{way:?}: {summed:?}");
        let echoed = host.plimsoll_with_input(
            b"a\0b\xff\n",
            &arguments(&way, &["-i"], &["od", "-An", "-tx1"]),
        );
        assert_eq!(echoed.ok().trim(), "61 00 62 ff 0a", "{way:?}");
    }
}

#[test]
fn without_i_the_command_reads_nothing() {
    let host = Host::new();
    for way in ways() {
        let said = host.plimsoll_with_input(b"secret\n", &arguments(&way, &[], &["cat"]));
        assert_eq!(said.ok(), "", "{way:?}");
    }
}

#[test]
fn environment_user_directory_and_host_name_are_as_asked() {
    let host = Host::new();
    let script = "echo $A/$PLIMSOLL_TEST_PASSED/$HOME; id -u; id -g; pwd; hostname; cat /etc/hostname 2>/dev/null || hostname";
    let flags = [
        "-e",
        "A=1 2",
        "-e",
        "PLIMSOLL_TEST_PASSED",
        "-u",
        "nobody",
        "-w",
        "/var/made/here",
        "-h",
        "deck",
        "--name",
        "mate",
    ];
    for way in ways() {
        let mut command = host.command();
        command.env("PLIMSOLL_TEST_PASSED", "yes").args(arguments(
            &way,
            &flags,
            &["sh", "-c", script],
        ));
        let said = common::finish(command);
        assert_eq!(
            said.ok(),
            "1 2/yes//\n65534\n65534\n/var/made/here\ndeck\ndeck",
            "{way:?}"
        );
    }
}

#[test]
fn nothing_that_an_instance_writes_changes_the_image() {
    let host = Host::new();
    for way in ways() {
        let script = "echo changed > /etc/passwd; rm /etc/group; mkdir /new; test -d /new";
        host.plimsoll(arguments(&way, &[], &["sh", "-c", script]))
            .ok();
        let said = host.plimsoll(arguments(
            &way,
            &[],
            &["sh", "-c", "ls -d /new /etc/group; head -1 /etc/passwd"],
        ));
        assert_eq!(
            said.ok(),
            "/etc/group\nroot:x:0:0:root:/root:/bin/sh",
            "{way:?}"
        );
    }
}

#[test]
fn a_read_only_root_refuses_writes() {
    let host = Host::new();
    for way in ways() {
        let said = host.plimsoll(arguments(
            &way,
            &["--read-only"],
            &["sh", "-c", "echo x > /file"],
        ));
        assert_ne!(said.code, Some(0), "{way:?}");
        assert!(said.stderr.contains("Read-only"), "{way:?}: {said:?}");
    }
}

#[test]
fn an_instance_sees_its_own_processes_and_network_only() {
    let host = Host::new();
    for way in ways() {
        let said = host.plimsoll(arguments(
            &way,
            &[],
            &[
                "sh",
                "-c",
                "echo $$; ls /sys/class/net; ping -c1 127.0.0.1 | grep -c ' 0% packet loss'",
            ],
        ));
        assert_eq!(said.ok(), "1\neth0\nlo\n1", "{way:?}");
    }
}

#[test]
fn a_terminal_is_a_terminal_with_the_users_size() {
    let host = Host::new();
    for way in ways() {
        let pty = nix::pty::openpty(
            Some(&nix::pty::Winsize {
                ws_row: 33,
                ws_col: 101,
                ws_xpixel: 0,
                ws_ypixel: 0,
            }),
            None,
        )
        .unwrap();
        let mut command = host.command();
        command.args(arguments(
            &way,
            &["-i", "-t"],
            &["sh", "-c", "tty; stty size; read line; echo got $line"],
        ));
        command.stdin(pty.slave.try_clone().unwrap());
        command
            .stdout(pty.slave.try_clone().unwrap())
            .stderr(pty.slave);
        let mut child = command.spawn().unwrap();
        // The builder holds copies of the terminal: its end is seen only when they are gone.
        drop(command);
        nix::unistd::write(&pty.master, b"typed\r").unwrap();
        let mut shown = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = nix::unistd::read(&pty.master, &mut buffer) {
            shown.extend_from_slice(&buffer[..count]);
        }
        assert!(child.wait().unwrap().success(), "{way:?}");
        let shown = String::from_utf8_lossy(&shown);
        assert!(
            shown.contains("/dev/pts/0") || shown.contains("/dev/console"),
            "{way:?}: {shown}"
        );
        assert!(shown.contains("33 101"), "{way:?}: {shown}");
        assert!(shown.contains("got typed"), "{way:?}: {shown}");
    }
}

#[test]
fn signals_reach_the_command() {
    use std::io::{BufRead, BufReader};
    let host = Host::new();
    for way in ways() {
        let mut command = host.command();
        let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
        command
            .args(arguments(&way, &[], &["sh", "-c", script]))
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready", "{way:?}");
        common::kill(child.id(), libc::SIGTERM);
        assert_eq!(lines.next().unwrap().unwrap(), "caught", "{way:?}");
        assert_eq!(child.wait().unwrap().code(), Some(3), "{way:?}");
    }
}

#[test]
fn a_kept_instance_is_listed_with_its_exit_code_until_it_is_removed() {
    let host = Host::new();
    for way in ways() {
        let run = [
            &["run"],
            way.as_slice(),
            &["--name", "kept", "plimsoll/base", "sh", "-c", "exit 4"],
        ]
        .concat();
        assert_eq!(host.plimsoll(run).code, Some(4));
        let listed = host.plimsoll(["ps", "-a", "--format", "json"]);
        let line: serde_json::Value = serde_json::from_str(listed.ok()).unwrap();
        assert_eq!(
            (&line["Names"], &line["ExitCode"]),
            (&"kept".into(), &4.into()),
            "{line}"
        );
        assert_eq!(line["Backend"], way[1]);
        assert_eq!(host.plimsoll(["ps", "-q"]).ok(), "");
        host.plimsoll(["run", "--name", "kept", "plimsoll/base", "true"])
            .fails(125, &["kept", "already in use"]);
        assert_eq!(host.plimsoll(["rm", "kept"]).ok(), "kept");
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

#[test]
fn a_running_instance_is_removed_only_by_force() {
    let host = Host::new();
    for way in ways() {
        let mut command = host.command();
        let mut child = command
            .args(arguments(&way, &["--name", "busy"], &["sleep", "1000"]))
            .spawn()
            .unwrap();
        eventually("the instance is listed", || {
            host.plimsoll(["ps", "-q"]).ok().len() == 12
        });
        host.plimsoll(["rm", "busy"])
            .fails(1, &["running", "force remove"]);
        assert_eq!(host.plimsoll(["rm", "-f", "busy"]).ok(), "busy");
        child.wait().unwrap();
        assert!(
            host.leftovers().is_empty(),
            "{way:?}: {:?}",
            host.leftovers()
        );
    }
}

#[test]
fn memory_beyond_the_limit_is_told_as_such() {
    let host = Host::new();
    // tail keeps the whole of a stream without newlines.
    let hog = "tail -c 1000000000 /dev/zero | cat > /dev/null; exit 0";
    let said = host.plimsoll([
        "run",
        "--rm",
        "-m",
        "32m",
        "plimsoll/base",
        "tail",
        "/dev/zero",
    ]);
    assert_eq!(said.code, Some(137), "{said:?} {hog}");
    assert!(said.stderr.contains("memory limit of 32 MiB"), "{said:?}");
}

#[test]
fn the_number_of_processes_is_limited() {
    let host = Host::new();
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait";
    let said = host.plimsoll([
        "run",
        "--rm",
        "--pids-limit",
        "4",
        "plimsoll/base",
        "sh",
        "-c",
        script,
    ]);
    assert!(said.stderr.contains("can't fork"), "{said:?}");
}

#[test]
fn the_share_of_a_cpu_is_limited() {
    let host = Host::new();
    // The cgroup's own books, read from inside: periods in which the instance was held back.
    let script = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; \
                  cat /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null | grep nr_throttled";
    let said = host.plimsoll([
        "run",
        "--rm",
        "--cpus",
        "0.1",
        "plimsoll/base",
        "sh",
        "-c",
        script,
    ]);
    let throttled: u32 = said
        .ok()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(throttled > 0, "{said:?}");
}

#[test]
fn a_vm_has_the_memory_and_cpus_it_was_given() {
    let host = Host::new();
    for way in ways().into_iter().filter(|way| way.contains(&"vm")) {
        let said = host.plimsoll(arguments(
            &way,
            &["-m", "128m", "--cpus", "1.5"],
            &["sh", "-c", "nproc; free -m | awk '/Mem:/{print $2}'"],
        ));
        let (cpus, memory) = said.ok().split_once('\n').unwrap();
        assert_eq!(cpus, "2", "{way:?}");
        let memory: u32 = memory.parse().unwrap();
        assert!((64..=128).contains(&memory), "{way:?}: {memory}");
    }
}

#[test]
fn an_emulated_vm_of_two_processors_works_on_both_at_once() {
    let host = Host::new();
    // By our own monitor: tests/vm_kvm.rs.
    for way in ways().into_iter().filter(|way| way.contains(&"tcg")) {
        let said = host.plimsoll(arguments(&way, &["--cpus", "2"], &["sh", "-c", PARALLEL]));
        common::check_parallel(said.ok());
    }
}

#[test]
fn the_seccomp_filter_is_dockers_unless_it_is_left_out() {
    let host = Host::new();
    let mode = |flags: &[&str]| {
        let status = ["grep", "Seccomp:", "/proc/self/status"];
        host.plimsoll(arguments(&["--backend", "container"], flags, &status))
            .ok()
            .to_owned()
    };
    assert_eq!(mode(&[]), "Seccomp:\t2");
    assert_eq!(
        mode(&["--security-opt", "seccomp=unconfined"]),
        "Seccomp:\t0"
    );
}

#[test]
fn the_stages_of_a_start_are_told_in_their_order() {
    let host = Host::new();
    for way in ways() {
        let file = host.scratch().join("timeline.json");
        // One that goes on from a template has no kernel that boots.
        let flags: &[&str] = match way.contains(&"kvm") {
            true => &["--no-template"],
            false => &[],
        };
        let mut command = host.command();
        command
            .env("PLIMSOLL_TIMELINE", &file)
            .args(arguments(&way, flags, &["true"]));
        common::finish(command).ok();
        let timeline: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let names: Vec<&str> = timeline["stages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|stage| stage["name"].as_str().unwrap())
            .collect();
        for wanted in if way.contains(&"vm") {
            &[
                "image",
                "vmm-ready",
                "first-instruction",
                "kernel",
                "init",
                "agent",
                "exec",
            ][..]
        } else {
            &["image", "rootfs", "cgroup", "network", "clone", "exec"][..]
        } {
            assert!(
                names.contains(wanted),
                "{way:?}: {wanted} is not in {names:?}"
            );
        }
        assert_eq!(
            (names.first(), names.last()),
            (Some(&"command"), Some(&"settled")),
            "{way:?}: {names:?}"
        );
    }
}
