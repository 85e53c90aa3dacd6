//! Killed at any moment, a command or a supervisor leaves nothing that the next command does not settle.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Host, cgroups_of, descendants, eventually, is_alive, mounts, ways};

/// A foreground run whose first line of output has been seen, and the instance's identifier.
fn up(host: &Host, way: &[&str], flags: &[&str]) -> (Child, String) {
    let mut command = host.command();
    command.args([&["run"], way, flags].concat()).args([
        "plimsoll/base",
        "sh",
        "-c",
        "echo up; sleep 1000",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(line, "up", "{way:?}");
    let id = host
        .plimsoll(["ps", "-q", "-l", "--no-trunc"])
        .ok()
        .to_owned();
    (child, id)
}

#[test]
fn killing_the_command_that_started_it_harms_nothing() {
    let host = Host::new();
    for way in ways() {
        let (mut child, id) = up(&host, &way, &["--rm", "--name", "alone"]);
        common::kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        assert_eq!(host.inspect("alone", "{{.State.Status}}"), "running");
        assert_eq!(
            host.plimsoll(["exec", "alone", "echo", "here"]).ok(),
            "here"
        );
        assert_eq!(host.plimsoll(["logs", "alone"]).ok(), "up", "{way:?}");
        host.plimsoll(["stop", "-t", "1", "alone"]).ok();
        // It was to be removed at its end, whoever sees to that.
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
        assert!(cgroups_of(&id).is_empty());
    }
}

#[test]
fn a_killed_supervisor_takes_everything_along_and_is_reported() {
    let host = Host::new();
    let before = mounts();
    for way in ways() {
        for keep in [false, true] {
            let flags: &[&str] = if keep { &["--name", "lost"] } else { &["--rm"] };
            let (mut child, id) = up(&host, &way, flags);
            let supervisor = host.process(&id, "supervisor");
            let pid = host.process(&id, "pid");
            let mut started = descendants(supervisor);
            assert!(started.contains(&pid), "{way:?}: {started:?}");
            started.push(supervisor);
            assert!(!cgroups_of(&id).is_empty(), "{way:?}: {id} has no cgroup");
            common::kill(supervisor, libc::SIGKILL);
            // Whoever is attached is told, with the exit code of what was killed.
            assert_eq!(child.wait().unwrap().code(), Some(137), "{way:?}");
            eventually("what it started is gone", || {
                !started.iter().any(|pid| is_alive(*pid))
            });
            if keep {
                assert_eq!(
                    host.inspect("lost", "{{.State.Status}} {{.State.ExitCode}}"),
                    "exited 137"
                );
                assert!(
                    host.inspect("lost", "{{.State.Error}}")
                        .contains("supervisor")
                );
                host.plimsoll(["rm", "lost"]).ok();
            }
            // The last of the supervisor's threads to die lets go of the lock, and then of what was mounted.
            eventually("what it left is removed", || {
                host.plimsoll(["ps", "-aq"]).ok().is_empty()
            });
            assert!(cgroups_of(&id).is_empty(), "{way:?}: {:?}", cgroups_of(&id));
            assert!(
                host.leftovers().is_empty(),
                "{way:?}: {:?}",
                host.leftovers()
            );
            eventually("nothing of it is mounted", || mounts() == before);
        }
    }
}

#[test]
fn a_killed_monitor_ends_its_vm_with_a_reason() {
    let host = Host::new();
    for way in ways() {
        if !way.contains(&"vm") {
            continue;
        }
        let (mut child, id) = up(&host, &way, &["--name", "cut"]);
        common::kill(host.process(&id, "pid"), libc::SIGKILL);
        assert_eq!(child.wait().unwrap().code(), Some(125), "{way:?}");
        assert_eq!(host.inspect("cut", "{{.State.Status}}"), "exited");
        assert!(
            host.inspect("cut", "{{.State.Error}}").contains("killed"),
            "{way:?}"
        );
        host.plimsoll(["rm", "cut"]).ok();
        assert!(cgroups_of(&id).is_empty());
    }
}

#[test]
fn a_run_killed_at_any_moment_of_its_start_leaves_nothing() {
    let host = Host::new();
    // The image is made first, so that every kill falls into a start and not into the making of the image.
    host.plimsoll(["run", "--rm", "plimsoll/base", "true"]).ok();
    let before = mounts();
    for step in 0..40 {
        let mut command = host.command();
        let mut child = command
            .args(["run", "--rm", "plimsoll/base", "sleep", "1000"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(250 * step));
        common::kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        // Its supervisor may just have been made, and goes on: then the instance runs, and can be ended.
        eventually("it runs or is gone", || {
            let listed = host.plimsoll(["ps", "-a", "--format", "{{.ID}} {{.State}}"]);
            let rows: Vec<&str> = listed.ok().lines().collect();
            rows.iter().all(|row| row.ends_with("running"))
        });
        let ids = host.plimsoll(["ps", "-aq"]).ok().to_owned();
        if !ids.is_empty() {
            host.plimsoll([&["rm", "-f"][..], &ids.lines().collect::<Vec<_>>()].concat())
                .ok();
        }
        assert_eq!(host.plimsoll(["ps", "-aq"]).ok(), "");
        assert!(
            host.leftovers().is_empty(),
            "after {} µs: {:?}",
            250 * step,
            host.leftovers()
        );
    }
    assert_eq!(mounts(), before);
    host.plimsoll(["run", "--rm", "plimsoll/base", "true"]).ok();
}

#[test]
fn an_import_killed_at_any_moment_leaves_no_half_made_image() {
    let host = Host::new();
    let archive = common::tar_of(&[
        ("a", 0o644, &vec![1; 4 << 20]),
        ("b", 0o644, &vec![2; 4 << 20]),
    ]);
    let path = host.scratch().join("image.tar");
    std::fs::write(&path, archive).unwrap();
    for step in 0..12 {
        let mut command = host.command();
        command
            .args(["import", path.to_str().unwrap(), "victim"])
            .stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(2 * step));
        common::kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        let images = host.plimsoll(["images", "--format", "json"]);
        images.ok();
        if images.stdout.contains("victim") {
            // It got through: then it must be whole.
            let said = host.plimsoll(["rmi", "victim"]);
            said.ok();
        }
    }
    host.plimsoll(["import", path.to_str().unwrap(), "whole"])
        .ok();
    host.plimsoll(["rmi", "whole"]).ok();
}
