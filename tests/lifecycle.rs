//! The life of an instance, from `create` to `rm`, on every backend that starts quickly here.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Host, eventually, ways};

#[test]
fn an_instance_is_made_started_stopped_and_started_again_with_its_changes() {
    let host = Host::new();
    for way in ways() {
        let script = "[ -f /mark ] && echo again; echo x > /mark; trap 'exit 9' TERM; echo ready; sleep 1000 & wait";
        let made = [
            &["create", "--name", "web"][..],
            &way,
            &["plimsoll/base", "sh", "-c", script],
        ];
        let id = host.plimsoll(made.concat()).ok().to_owned();
        assert_eq!(id.len(), 64);
        assert_eq!(host.inspect("web", "{{.State.Status}}"), "created");
        assert_eq!(host.plimsoll(["start", "web"]).ok(), "web");
        eventually("it is ready", || {
            host.plimsoll(["logs", "web"]).ok().contains("ready")
        });
        assert_eq!(host.plimsoll(["stop", &id[..5]]).ok(), &id[..5]);
        assert_eq!(
            host.inspect("web", "{{.State.Status}} {{.State.ExitCode}}"),
            "exited 9",
            "{way:?}"
        );
        host.plimsoll(["restart", "-t", "1", "web"]).ok();
        eventually("it is ready again", || {
            host.plimsoll(["logs", "web"]).ok().contains("again")
        });
        host.plimsoll(["rename", "web", "other"]).ok();
        host.plimsoll(["rm", "-f", "other"]).ok();
        // The image has never seen any of it.
        let fresh = [
            &["run", "--rm"][..],
            &way,
            &["plimsoll/base", "ls", "/mark"],
        ]
        .concat();
        assert_ne!(host.plimsoll(fresh).code, Some(0));
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

#[test]
fn what_ignores_the_stop_signal_is_killed_after_the_timeout() {
    let host = Host::new();
    for way in ways() {
        let id = host.detached(
            &way,
            &["--stop-timeout", "1"],
            &["sh", "-c", "trap '' TERM; sleep 1000"],
        );
        host.plimsoll(["stop", &id]).ok();
        assert_eq!(host.plimsoll(["wait", &id]).ok(), "137", "{way:?}");
    }
}

#[test]
fn signals_reach_the_command_by_kill_and_through_run() {
    let host = Host::new();
    for way in ways() {
        let script =
            "trap 'echo usr1' USR1; trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
        let mut child = host
            .command()
            .args(
                [
                    &["run", "--name", "sig"][..],
                    &way,
                    &["plimsoll/base", "sh", "-c", script],
                ]
                .concat(),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        host.plimsoll(["kill", "-s", "USR1", "sig"]).ok();
        assert_eq!(lines.next().unwrap().unwrap(), "usr1");
        common::kill(child.id(), libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(5), "{way:?}");
        host.plimsoll(["kill", "sig"]).fails(1, &["is not running"]);
        host.plimsoll(["rm", "sig"]).ok();
    }
}

#[test]
fn a_paused_instance_stands_still() {
    let host = Host::new();
    for way in ways() {
        let script = "while :; do echo x; sleep 0.02; done";
        let id = host.detached(&way, &[], &["sh", "-c", script]);
        host.plimsoll(["pause", &id]).ok();
        assert_eq!(host.inspect(&id, "{{.State.Status}}"), "paused");
        host.plimsoll(["pause", &id]).fails(1, &["already paused"]);
        host.plimsoll(["exec", &id, "true"]).fails(1, &["paused"]);
        // What was on its way arrives first.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let log = host.plimsoll(["logs", &id]).stdout.len();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(host.plimsoll(["logs", &id]).stdout.len(), log, "{way:?}");
        host.plimsoll(["unpause", &id]).ok();
        eventually("it goes on", || {
            host.plimsoll(["logs", &id]).stdout.len() > log
        });
        host.plimsoll(["rm", "-f", &id]).ok();
    }
}

#[test]
fn restart_policies_start_it_again_until_they_are_satisfied_or_it_is_stopped() {
    let host = Host::new();
    let id = host.detached(
        &[],
        &["--restart", "on-failure:2"],
        &["sh", "-c", "echo try; exit 1"],
    );
    eventually("it has been tried three times", || {
        host.inspect(&id, "{{.State.Status}} {{.RestartCount}}") == "exited 2"
    });
    assert_eq!(host.plimsoll(["logs", &id]).ok(), "try\ntry\ntry");
    let id = host.detached(&[], &["--restart", "always"], &["sh", "-c", "sleep 0.05"]);
    eventually("it was restarted", || {
        host.inspect(&id, "{{.RestartCount}}")
            .parse::<u32>()
            .unwrap()
            >= 2
    });
    host.plimsoll(["stop", "-t", "1", &id]).ok();
    assert_eq!(host.inspect(&id, "{{.State.Status}}"), "exited");
    host.plimsoll([
        "run",
        "--rm",
        "--restart",
        "always",
        "plimsoll/base",
        "true",
    ])
    .fails(125, &["--restart", "--rm"]);
}

#[test]
fn another_command_runs_in_a_running_instance() {
    let host = Host::new();
    for way in ways() {
        let flags = ["-e", "OWN=1", "-w", "/tmp"];
        let id = host.detached(&way, &flags, &["sleep", "1000"]);
        let exec = |arguments: &[&str]| host.plimsoll([&["exec"][..], arguments].concat());
        assert_eq!(exec(&[&id, "sh", "-c", "pwd; echo $OWN"]).ok(), "/tmp\n1");
        assert_eq!(
            exec(&[
                "-e",
                "OWN=2",
                "-w",
                "/etc",
                "-u",
                "nobody",
                &id,
                "sh",
                "-c",
                "pwd; echo $OWN; id -un"
            ])
            .ok(),
            "/etc\n2\nnobody",
            "{way:?}"
        );
        assert_eq!(exec(&[&id, "sh", "-c", "exit 42"]).code, Some(42));
        exec(&[&id, "no-such-command"]).fails(127, &["no-such-command"]);
        exec(&[&id, "/etc/passwd"]).fails(126, &["/etc/passwd"]);
        let said = host.plimsoll_with_input(
            b"in\n",
            &["exec", "-i", &id, "sh", "-c", "cat; echo err >&2"],
        );
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            ("in\n", "err\n")
        );
        exec(&["-d", &id, "sh", "-c", "sleep 0.1; echo done > /tmp/done"]).ok();
        eventually("the detached one is done", || {
            exec(&[&id, "cat", "/tmp/done"]).stdout == "done\n"
        });
        host.plimsoll(["stop", "-t", "0", &id]).ok();
        exec(&[&id, "true"]).fails(1, &["is not running"]);
    }
}

#[test]
fn pipes_are_binary_clean_and_their_end_is_passed_on() {
    let host = Host::new();
    let input: Vec<u8> = (0..4 << 20).map(|n: u32| (n ^ n >> 8) as u8).collect();
    let path = host.scratch().join("input");
    fs::write(&path, &input).unwrap();
    for way in ways() {
        let output = host
            .command()
            .args([&["run", "--rm", "-i"][..], &way, &["plimsoll/base", "cat"]].concat())
            .stdin(fs::File::open(&path).unwrap())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.stdout == input,
            "{way:?}: {} bytes",
            output.stdout.len()
        );
    }
}

#[test]
fn whoever_attaches_sees_what_comes_and_is_heard() {
    let host = Host::new();
    for way in ways() {
        let id = host.detached(
            &way,
            &["-i"],
            &[
                "sh",
                "-c",
                "while read line; do echo got $line; done; echo end",
            ],
        );
        let said = host.plimsoll_with_input(b"one\ntwo\n", &["attach", &id]);
        assert_eq!(said.stdout, "got one\ngot two\nend\n", "{way:?}");
        host.plimsoll(["attach", &id])
            .fails(1, &["stopped container"]);
    }
}

#[test]
fn names_and_wrong_words_are_answered_as_docker_answers_them() {
    let host = Host::new();
    let id = host.detached(&[], &["--name", "one"], &["sleep", "1000"]);
    host.plimsoll(["create", "--name", "one", "plimsoll/base"])
        .fails(1, &["already in use", &id]);
    host.plimsoll(["rm", "one"])
        .fails(1, &["running", "force remove"]);
    host.plimsoll(["start", "nobody"])
        .fails(1, &["no such container: nobody"]);
    host.plimsoll(["kill", "-s", "NOPE", "one"])
        .fails(1, &["invalid signal"]);
    host.plimsoll(["run", "--name", "no/slash", "plimsoll/base"])
        .fails(125, &["no/slash"]);
    // A start that fails leaves its instance, with the reason and docker's code.
    host.plimsoll(["run", "--name", "wrong", "plimsoll/base", "no-such-command"])
        .fails(127, &["no-such-command"]);
    assert_eq!(
        host.inspect("wrong", "{{.State.Status}} {{.State.ExitCode}}"),
        "created 127"
    );
}

#[test]
fn what_a_container_may_do_is_what_was_asked_for() {
    let host = Host::new();
    let run = |flags: &[&str], command: &[&str]| {
        let all = [&["run", "--rm"][..], flags, &["plimsoll/base"], command].concat();
        host.plimsoll(all).ok().to_owned()
    };
    let caps = |flags: &[&str]| run(flags, &["grep", "CapEff", "/proc/self/status"]);
    let default = caps(&[]);
    assert_eq!(default, "CapEff:\t00000000a80425fb");
    assert_eq!(caps(&["--cap-drop", "ALL"]), "CapEff:\t0000000000000000");
    assert_eq!(
        caps(&["--cap-drop", "ALL", "--cap-add", "NET_RAW"]),
        "CapEff:\t0000000000002000"
    );
    assert_ne!(caps(&["--privileged"]), default);
    assert_eq!(
        run(
            &["--ulimit", "nofile=100:200"],
            &["sh", "-c", "ulimit -n; ulimit -Hn"]
        ),
        "100\n200"
    );
    assert!(
        run(
            &["--security-opt", "no-new-privileges"],
            &["grep", "NoNewPrivs", "/proc/self/status"]
        )
        .ends_with('1')
    );
    assert_eq!(
        run(
            &["--read-only", "--tmpfs", "/t:size=1m"],
            &[
                "sh",
                "-c",
                "touch /x 2>/dev/null || touch /t/x && echo only /t"
            ]
        ),
        "only /t"
    );
    // With an init, the command is not PID 1, and orphans are reaped.
    assert_ne!(run(&["--init"], &["sh", "-c", "echo $$"]), "1");
    let orphans = "sh -c 'sleep 0.05 & exit 0'; sleep 0.3; grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    assert_eq!(run(&["--init"], &["sh", "-c", orphans]), "0");
    let file = host.scratch().join("env");
    fs::write(&file, "# comment\nA=1\nB=two words\n").unwrap();
    assert_eq!(
        run(
            &["--env-file", file.to_str().unwrap()],
            &["sh", "-c", "echo $A $B"]
        ),
        "1 two words"
    );
    let cid = host.scratch().join("cid");
    run(&["--cidfile", cid.to_str().unwrap()], &["true"]);
    assert_eq!(fs::read_to_string(&cid).unwrap().len(), 64);
    host.plimsoll([
        "run",
        "--cidfile",
        cid.to_str().unwrap(),
        "plimsoll/base",
        "true",
    ])
    .fails(125, &["container ID file found"]);
}

#[test]
fn what_a_vm_cannot_mean_is_refused_by_name() {
    let host = Host::new();
    for (flags, word) in [
        (&["--init"][..], "--init"),
        (&["--pids-limit", "5"], "--pids-limit"),
        (&["--memory-swap", "1g"], "--memory-swap"),
        (&["--cap-add", "NET_RAW"], "--cap-add"),
        (&["--network", "host"], "--network host"),
        (&["--security-opt", "seccomp=unconfined"], "seccomp"),
    ] {
        let arguments = [
            &["run", "--rm", "--backend", "vm", "--accel", "tcg"][..],
            flags,
            &["plimsoll/base", "true"],
        ];
        host.plimsoll(arguments.concat())
            .fails(125, &[word, "refused for a VM"]);
    }
    assert!(host.leftovers().is_empty());
}

#[test]
fn a_volume_is_one_directory_for_containers_and_vms() {
    let host = Host::new();
    host.plimsoll(["volume", "create", "shared"]).ok();
    let mount = ["-v", "shared:/data"];
    let ids: Vec<String> = ways()
        .iter()
        .map(|way| host.detached(way, &mount, &["sleep", "1000"]))
        .collect();
    for (number, id) in ids.iter().enumerate() {
        let script = format!("echo {number} > /data/{number}; cat /data/* | sort | tr -d '\\n'");
        let expected: String = (0..=number).map(|n| n.to_string()).collect();
        assert_eq!(
            host.plimsoll(["exec", id, "sh", "-c", &script]).ok(),
            expected
        );
    }
    host.plimsoll(["volume", "rm", "shared"])
        .fails(1, &["volume is in use"]);
    for id in &ids {
        host.plimsoll(["rm", "-f", id]).ok();
    }
    // Data outlives whoever wrote it.
    let last = [
        "run",
        "--rm",
        "-v",
        "shared:/data",
        "plimsoll/base",
        "ls",
        "/data",
    ];
    assert_eq!(host.plimsoll(last).ok().lines().count(), ids.len());
    host.plimsoll(["volume", "rm", "shared"]).ok();
}
