//! What engines want of a runtime.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Bundle, cgroups, id, remove_cgroups};
use crate::common;

#[test]
fn a_log_has_what_an_engine_looks_for() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    let log = bundle.path().join("log.json");
    let said: Output = bundle
        .command(&[
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "state",
            "absent",
        ])
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).starts_with("plimsoll: "));
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container absent does not exist");
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    let refused = bundle
        .command(&["--systemd-cgroup", "list"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cgroupfs"));
    assert!(
        bundle
            .command(&["--systemd-cgroup=false", "list"])
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn containers_are_listed() {
    let Some(bundle) = Bundle::new("sleep 1000") else {
        return;
    };
    let (one, two) = (id("list-a"), id("list-b"));
    assert_eq!(bundle.ok(&["list", "--format", "json"]), "[]\n");
    bundle.create(&one);
    bundle.ok(&["run", "-d", "--bundle", bundle.bundle(), &two]);
    assert_eq!(bundle.ok(&["list", "-q"]), format!("{one}\n{two}\n"));
    let table = bundle.ok(&["list"]);
    let lines: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    assert_eq!((lines[1][0], lines[1][2]), (one.as_str(), "created"));
    assert_eq!((lines[2][0], lines[2][2]), (two.as_str(), "running"));
    let all: Vec<Value> = serde_json::from_str(&bundle.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!(all.len(), 2);
    bundle.ok(&["delete", "-f", &one]);
    bundle.ok(&["delete", "-f", &two]);
}

#[test]
fn what_this_runtime_can_do_is_told_in_json() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    let features: Value = serde_json::from_str(&bundle.ok(&["features"])).unwrap();
    assert_eq!(features["ociVersionMax"], "1.2.1");
    assert!(
        features["mountOptions"]
            .as_array()
            .unwrap()
            .contains(&json!("rro"))
    );
    assert!(features["linux"]["capabilities"].as_array().unwrap().len() > 40);
    let version = bundle.ok(&["--version"]);
    assert!(
        version.starts_with("plimsoll-oci version ") && version.contains("\nspec: 1.2.1"),
        "{version}"
    );
    bundle.fails(&["spec", "--bundle", bundle.bundle()], "remove it first");
}

#[test]
fn podman_runs_containers_by_it() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    if !Path::new("/usr/bin/podman").exists() {
        eprintln!("skipped: podman is missing (apt-get install podman)");
        return;
    }
    if common::in_lab() {
        eprintln!("skipped: podman is not part of the lab");
        return;
    }
    let runtime = bundle.path().join("plimsoll-oci");
    symlink(common::binary(), &runtime).unwrap();
    let config = bundle.path().join("containers.conf");
    // This host's root may not raise limits, and has no systemd.
    fs::write(
        &config,
        "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=4096:4096\"]\nlog_driver=\"k8s-file\"\n\
         [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n",
    )
    .unwrap();
    let podman = format!(
        "podman --root {0}/p --runroot {0}/r --tmpdir {0}/t --storage-driver vfs --runtime {0}/plimsoll-oci --runtime-flag root={0}/state",
        bundle.bundle()
    );
    // On a hybrid host podman takes the presence of version 2 for its controllers': it is out of the way in a mount
    // namespace of its own.
    let script = format!(
        "set -u\n\
         grep -q ' cgroup ' /proc/mounts && awk '$3==\"cgroup2\"{{print $2}}' /proc/mounts | xargs -r umount -l\n\
         run() {{ echo \"== $*\"; \"$@\" 2>&1; echo \"-> $?\"; }}\n\
         run {podman} run --rm --network none --rootfs {0}/rootfs sh -c 'echo hello; exit 5'\n\
         run {podman} run --rm --network none --rootfs {0}/rootfs absent\n\
         run {podman} run -d --name background --network none --rootfs {0}/rootfs sleep 1000\n\
         run {podman} exec background sh -c 'echo inside; exit 4'\n\
         run {podman} pause background\n\
         run {podman} unpause background\n\
         run {podman} rm -f -t 0 background\n",
        bundle.bundle()
    );
    let left_before = cgroups("libpod_parent");
    let mut child = Command::new("timeout")
        .args(["120", "unshare", "-m", "sh"])
        .env("CONTAINERS_CONF", &config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    // podman leaves the cgroup that held those of its containers and monitors.
    for directory in cgroups("libpod_parent") {
        if !left_before.contains(&directory) {
            remove_cgroups(&directory);
        }
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("-> "))
        .collect();
    assert_eq!(answers, ["5", "127", "0", "4", "0", "0", "0"], "{text}");
    assert!(
        text.contains("\nhello\n") && text.contains("\ninside\n"),
        "{text}"
    );
}
