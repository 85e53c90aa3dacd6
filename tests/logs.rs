//! What an instance has written is kept, and told again as docker tells it.

mod common;

use std::fs;
use std::process::Stdio;

use common::{Host, eventually, ways};

fn log_file(host: &Host, id: &str) -> std::path::PathBuf {
    host.root()
        .join("instances")
        .join(id)
        .join(format!("{id}-json.log"))
}

#[test]
fn both_streams_are_kept_apart_in_dockers_format() {
    let host = Host::new();
    for way in ways() {
        let id = host.detached(
            &way,
            &[],
            &["sh", "-c", "echo one; echo two >&2; printf end; exit 3"],
        );
        assert_eq!(host.plimsoll(["wait", &id]).ok(), "3");
        let said = host.plimsoll(["logs", &id]);
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            ("one\nend", "two\n")
        );
        let text = fs::read_to_string(log_file(&host, &id)).unwrap();
        let mut streams = Vec::new();
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["time"].as_str().unwrap().len(), 30, "{line}");
            streams.push(format!(
                "{}:{}",
                record["stream"].as_str().unwrap(),
                record["log"]
            ));
        }
        streams.sort();
        assert_eq!(
            streams,
            ["stderr:\"two\\n\"", "stdout:\"end\"", "stdout:\"one\\n\""],
            "{way:?}"
        );
    }
}

#[test]
fn the_end_the_time_and_the_last_lines_can_be_asked_for() {
    let host = Host::new();
    let script = "for i in 1 2 3 4 5; do echo $i; done";
    let id = host.detached(&[], &[], &["sh", "-c", script]);
    host.plimsoll(["wait", &id]).ok();
    assert_eq!(host.plimsoll(["logs", "--tail", "2", &id]).ok(), "4\n5");
    assert_eq!(host.plimsoll(["logs", "-n", "0", &id]).ok(), "");
    let stamped = host.plimsoll(["logs", "-t", "--tail", "1", &id]);
    let (time, text) = stamped.ok().split_once(' ').unwrap().to_owned();
    assert_eq!((time.len(), text), (30, "5"));
    assert_eq!(
        host.plimsoll(["logs", "--since", "1h", &id]).ok(),
        "1\n2\n3\n4\n5"
    );
    assert_eq!(host.plimsoll(["logs", "--until", "1h", &id]).ok(), "");
    host.plimsoll(["logs", "--since", "yesterday", &id])
        .fails(1, &["--since", "yesterday"]);
}

#[test]
fn following_ends_with_the_instance_and_misses_nothing() {
    let host = Host::new();
    let script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); [ $((i%50)) = 0 ] && sleep 0.05; done; printf last";
    for flags in [
        &[][..],
        &["--log-opt", "max-size=2k", "--log-opt", "max-file=50"],
    ] {
        let id = host.detached(&[], flags, &["sh", "-c", script]);
        let said = host.plimsoll(["logs", "-f", &id]);
        let expected: String = (0..300).map(|i| format!("line {i}\n")).collect();
        assert_eq!(said.stdout, expected + "last", "{flags:?}");
        // And of one that has ended before.
        assert_eq!(
            host.plimsoll(["logs", "-f", "--tail", "1", &id]).ok(),
            "last"
        );
    }
}

#[test]
fn files_are_put_aside_and_the_oldest_dropped() {
    let host = Host::new();
    let flags = ["--log-opt", "max-size=10k", "--log-opt", "max-file=3"];
    let id = host.detached(&[], &flags, &["sh", "-c", "seq 1 2000"]);
    host.plimsoll(["wait", &id]).ok();
    let folder = host.root().join("instances").join(&id);
    let logs: Vec<u64> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(
        logs.len() <= 3 && logs.iter().all(|bytes| *bytes <= 11 << 10),
        "{logs:?}"
    );
    assert_eq!(host.plimsoll(["logs", "--tail", "1", &id]).ok(), "2000");
}

#[test]
fn what_failed_or_was_restarted_keeps_its_log() {
    let host = Host::new();
    let id = host.detached(
        &[],
        &["--name", "db"],
        &["sh", "-c", "echo no password is set >&2; exit 1"],
    );
    host.plimsoll(["wait", &id]).ok();
    assert_eq!(host.plimsoll(["logs", "db"]).stderr, "no password is set\n");
    host.plimsoll(["start", "db"]).ok();
    host.plimsoll(["wait", "db"]).ok();
    assert_eq!(
        host.plimsoll(["logs", "db"]).stderr,
        "no password is set\nno password is set\n"
    );
}

#[test]
fn much_output_neither_fills_memory_nor_loses_a_line() {
    let host = Host::new();
    const LINES: usize = 1 << 20;
    let script = format!(
        "seq 1 {LINES} | sed 's/$/ and fifty-five more bytes, to make the line as long as most/'; sleep 1000"
    );
    let id = host.detached(&[], &[], &["sh", "-c", &script]);
    let path = log_file(&host, &id);
    let last = format!("{LINES} and");
    eventually("everything is in the log", || {
        host.plimsoll(["logs", "--tail", "1", &id])
            .stdout
            .starts_with(&last)
    });
    let status =
        fs::read_to_string(format!("/proc/{}/status", host.process(&id, "supervisor"))).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    assert!(peak < 24 << 10, "the supervisor has used {peak} KiB");
    let mut child = host
        .command()
        .args(["logs", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    let mut expected = 1;
    for line in lines {
        let line = line.unwrap();
        assert!(line.starts_with(&format!("{expected} and")), "{line}");
        expected += 1;
    }
    child.wait().unwrap();
    assert_eq!(expected, LINES + 1);
    assert!(path.exists());
}

#[test]
fn without_a_log_there_is_nothing_to_tell() {
    let host = Host::new();
    let id = host.detached(&[], &["--log-driver", "none"], &["echo", "gone"]);
    host.plimsoll(["wait", &id]).ok();
    host.plimsoll(["logs", &id])
        .fails(1, &["does not support reading"]);
    assert!(!log_file(&host, &id).exists());
}
