//! `plimsoll compare` of a server under a load: each way is started anew, loaded, measured and gone again.

mod common;

use std::os::unix::process::CommandExt;
use std::process::Stdio;

use common::world::World;
use common::{eventually, kill};
use serde_json::Value;

/// A web server of the base image's, and what asks it for a file of a known size.
const SERVER: &[&str] = &["plimsoll/base", "httpd", "-f", "-p", "8080", "-h", "/"];
const LOAD: &str = "for i in 1 2 3; do exec 3<>/dev/tcp/{ip}/{port}; printf 'GET /etc/passwd HTTP/1.0\\r\\n\\r\\n' >&3; \
                    grep -q root <&3 || exit 1; done; echo 'answered: 3 of 3'";

fn load(load: &str) -> String {
    format!("bash -c {}", quoted(load))
}

/// One word of sh's.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn results(folder: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("results.json")).unwrap()).unwrap()
}

#[test]
fn a_server_is_loaded_every_way_and_a_report_is_written() {
    let world = World::new();
    let folder = world.host.scratch().join("report");
    let load = load(LOAD);
    let mut words = vec![
        "compare", "--accel", "tcg", "--rounds", "2", "--port", "8080",
    ];
    words.extend(["--load", &load, "--figure", "answers=answered: ([0-9]+)"]);
    words.extend(["--output", folder.to_str().unwrap()]);
    words.extend(SERVER);
    let said = world.plimsoll(words);
    let shown = said.ok();
    for way in ["native", "container", "vm"] {
        let line = shown.lines().find(|line| line.starts_with(way));
        assert!(line.is_some_and(|line| line.ends_with("3.00")), "{shown}");
    }
    assert!(shown.contains("say nothing of VMs"), "{shown}");
    let results = results(&folder);
    assert_eq!(results["completeness"]["state"], "complete");
    for id in [
        "compare.server.ready",
        "compare.load.time",
        "compare.figure.answers",
    ] {
        let series = results["series"].as_array().unwrap();
        let series = series.iter().find(|series| series["metric"] == id);
        let rounds = series.unwrap_or_else(|| panic!("no {id}"))["rounds"]
            .as_array()
            .unwrap();
        assert_eq!(rounds.len(), 2, "{id}");
        for round in rounds {
            // Three ways, and native again as the control.
            assert_eq!(round["samples"].as_array().unwrap().len(), 4, "{id}");
        }
    }
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    assert!(page.contains("compare") && page.contains("VM (tcg)"));
    assert_eq!(world.line("ps -aq").ok(), "");
}

#[test]
fn what_is_wrong_with_a_load_or_its_server_is_told_and_nothing_is_left() {
    let world = World::new();
    let fails = |options: &[&str], command: &[&str], words: &[&str]| {
        let mut all = vec!["compare", "--accel", "tcg", "--rounds", "1"];
        all.extend(options);
        all.extend(command);
        world.plimsoll(all).fails(125, words);
        assert_eq!(world.line("ps -aq").ok(), "");
    };
    let at = ["--port", "8080", "--load"];
    fails(
        &["--load", "true"],
        SERVER,
        &["exposes no TCP port", "--port"],
    );
    fails(&["--port", "80"], SERVER, &["--load"]);
    fails(&["--figure", "a=(b)"], SERVER, &["--load"]);
    fails(
        &[&at[..], &["true", "--figure", "a"]].concat(),
        SERVER,
        &["NAME=PATTERN"],
    );
    fails(
        &[&at[..], &["echo no >&2; exit 9"]].concat(),
        SERVER,
        &["the load", "exit status: 9", "no"],
    );
    fails(
        &[&at[..], &["true", "--figure", "speed=([0-9]+) MB"]].concat(),
        SERVER,
        &["prints no figure for speed"],
    );
    let ends = ["plimsoll/base", "sh", "-c", "echo no password >&2; exit 1"];
    fails(
        &[&at[..], &["true"]].concat(),
        &ends,
        &["ended before it answered", "no password"],
    );
    // Somebody is there already: it would be measured in place of the native server.
    let other = world.detached(
        &["--backend", "native"],
        "--network host",
        "httpd -f -p 8080 -h /",
    );
    eventually("the other server answers", || {
        world.inside.sh("exec 3<>/dev/tcp/127.0.0.1/8080").code == Some(0)
    });
    let mut words = vec!["compare", "--accel", "tcg"];
    words.extend(at);
    words.push("true");
    words.extend(SERVER);
    world
        .plimsoll(words)
        .fails(125, &["answers on port 8080 already"]);
    world.plimsoll(["rm", "-f", &other]).ok();
}

#[test]
fn ctrl_c_ends_every_instance_and_keeps_what_was_measured() {
    let world = World::new();
    let folder = world.host.scratch().join("report");
    let mut command = world.command();
    command.args([
        "compare", "--accel", "tcg", "--rounds", "50", "--port", "8080",
    ]);
    command
        .args(["--load", "sleep 100", "--output"])
        .arg(&folder)
        .args(SERVER);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let mut compare = command.spawn().unwrap();
    eventually("the first server is loaded", || {
        common::descendants(compare.id()).iter().any(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line == b"sleep\x00100\x00")
        })
    });
    kill(compare.id(), libc::SIGINT);
    assert_eq!(compare.wait().unwrap().code(), Some(130));
    assert_eq!(world.line("ps -aq").ok(), "");
    let results = results(&folder);
    assert_eq!(results["completeness"]["state"], "partial");
}
