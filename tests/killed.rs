//! Killed at any moment, a command leaves nothing that the next one does not settle.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use common::{Host, cgroups_of, descendants, eventually, is_alive, mounts, ways};

#[test]
fn an_owner_killed_while_its_command_runs_takes_everything_along() {
    let host = Host::new();
    let before = mounts();
    for way in ways() {
        let mut command = host.command();
        command.args(
            [
                &["run", "--rm"],
                way.as_slice(),
                &["plimsoll/base", "sh", "-c", "echo up; sleep 1000"],
            ]
            .concat(),
        );
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let line = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(line, "up", "{way:?}");
        let id = host.plimsoll(["ps", "-q", "--no-trunc"]).ok().to_owned();
        let started = descendants(child.id());
        assert!(!started.is_empty(), "{way:?}");
        let cgroups = cgroups_of(&id);
        assert!(!cgroups.is_empty(), "{way:?}: {id} has no cgroup");
        // The command of a container, the monitor of a VM: in every hierarchy, for what it uses is accounted there.
        for cgroup in &cgroups {
            let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
            let ours = members.lines().filter_map(|pid| pid.parse().ok());
            assert!(
                ours.clone().any(|pid: u32| started.contains(&pid)),
                "{way:?}: {} has {members:?}, not one of {started:?}",
                cgroup.display()
            );
        }
        common::kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        eventually("what it started is gone", || {
            !started.iter().any(|pid| is_alive(*pid))
        });
        // The next command settles the state and the cgroups.
        assert_eq!(host.plimsoll(["ps", "-a", "-q"]).ok(), "", "{way:?}");
        assert!(cgroups_of(&id).is_empty(), "{way:?}: {:?}", cgroups_of(&id));
        assert!(
            host.leftovers().is_empty(),
            "{way:?}: {:?}",
            host.leftovers()
        );
        assert_eq!(mounts(), before, "{way:?}");
    }
}

#[test]
fn a_kept_instance_whose_owner_was_killed_is_listed_as_ended() {
    let host = Host::new();
    let mut command = host.command();
    let mut child = command
        .args(["run", "--name", "lost", "plimsoll/base", "sleep", "1000"])
        .spawn()
        .unwrap();
    eventually("it runs", || !host.plimsoll(["ps", "-q"]).ok().is_empty());
    common::kill(child.id(), libc::SIGKILL);
    child.wait().unwrap();
    let listed = host.plimsoll(["ps", "-a", "--format", "json"]);
    let line: serde_json::Value = serde_json::from_str(listed.ok()).unwrap();
    assert_eq!(
        (&line["State"], &line["ExitCode"]),
        (&"exited".into(), &137.into()),
        "{line}"
    );
    host.plimsoll(["rm", "lost"]).ok();
    assert!(host.leftovers().is_empty());
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
        let started = descendants(child.id());
        common::kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        eventually("what it started is gone", || {
            !started.iter().any(|pid| is_alive(*pid))
        });
        assert_eq!(host.plimsoll(["ps", "-a", "-q"]).ok(), "");
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
