//! What `plimsoll volume …` promises: docker's words, columns and JSON, and no volume lost or left half made.

mod common;

use std::fs;

use common::{Host, Said};
use serde_json::{Value, json};

impl common::Host {
    #[track_caller]
    fn volume(&self, arguments: &[&str]) -> Said {
        self.plimsoll([&["volume"], arguments].concat())
    }

    /// A record as `run -v NAME:/x` leaves it.
    fn instance_with(&self, id: &str, mounts: Value) {
        let directory = self.root().join("instances").join(id);
        fs::create_dir_all(&directory).unwrap();
        let record = json!({"version": 1, "spec": {"mounts": mounts}});
        fs::write(directory.join("instance.json"), record.to_string()).unwrap();
    }

    fn names(&self) -> String {
        self.volume(&["ls", "-q"]).ok().replace('\n', " ")
    }
}

fn parsed(said: &Said) -> Value {
    serde_json::from_str(said.ok()).unwrap()
}

#[test]
fn create_prints_the_name_and_finds_what_is_there() {
    let host = Host::new();
    assert_eq!(host.volume(&["create", "db"]).ok(), "db");
    assert_eq!(host.volume(&["create", "--name", "db"]).ok(), "db");
    let anonymous = host.volume(&["create"]);
    assert_eq!(anonymous.ok().len(), 64);
    assert_eq!(host.names().split(' ').count(), 2);
    host.volume(&["create", "--name", "a", "b"])
        .fails(1, &["cannot specify a volume-name through both"]);
    host.volume(&["create", "a/b"]).fails(
        1,
        &["create a/b: \"a/b\" includes invalid characters for a local volume name"],
    );
    host.volume(&["create", "x"]).fails(1, &["too short"]);
    host.volume(&["create", "-d", "nfs", "vv"])
        .fails(1, &["plugin \"nfs\" not found"]);
    host.volume(&["create", "-o", "type=tmpfs", "-o", "device=tmpfs", "vv"])
        .fails(1, &["type=tmpfs", "is refused"]);
    host.volume(&["create", "--label", "=x", "vv"])
        .fails(1, &["--label", "\"=x\""]);
    assert_eq!(host.names().split(' ').count(), 2);
}

#[test]
fn inspect_speaks_dockers_json() {
    let host = Host::new();
    host.volume(&["create", "--label", "a=b", "--label", "c", "db"])
        .ok();
    host.volume(&["create", "bare"]).ok();
    let said = host.volume(&["inspect", "db", "bare"]);
    assert!(
        said.ok()
            .starts_with("[\n    {\n        \"CreatedAt\": \"20"),
        "{said:?}"
    );
    let value = parsed(&said);
    assert_eq!(value[0]["Labels"], json!({"a": "b", "c": ""}));
    assert_eq!(value[1]["Labels"], Value::Null);
    assert_eq!(value[1]["Driver"], "local");
    assert_eq!(value[1]["Scope"], "local");
    let mountpoint = value[0]["Mountpoint"].as_str().unwrap();
    assert_eq!(
        mountpoint,
        host.root().join("volumes/db/_data").to_str().unwrap()
    );
    assert!(fs::metadata(mountpoint).unwrap().is_dir());
    let line = host.volume(&["inspect", "--format", "json", "bare"]);
    assert_eq!(parsed(&line)[0]["Name"], "bare");
    let missing = host.volume(&["inspect", "nosuch", "bare"]);
    missing.fails(1, &["no such volume: nosuch"]);
    assert!(missing.stdout.contains("\"bare\""), "{missing:?}");
    assert_eq!(host.volume(&["inspect", "nosuch"]).stdout, "[]\n");
}

#[test]
fn ls_has_dockers_columns_and_filters() {
    let host = Host::new();
    assert_eq!(host.volume(&["ls"]).ok(), "DRIVER    VOLUME NAME");
    host.volume(&["create", "--label", "env=prod", "web"]).ok();
    host.volume(&["create", "--label", "env=test", "db"]).ok();
    host.volume(&["create", "cache"]).ok();
    let web = json!([{"type": "volume", "name": "web", "target": "/x"}]);
    host.instance_with("0123", web);
    assert_eq!(
        host.volume(&["ls"]).ok(),
        "DRIVER    VOLUME NAME\nlocal     cache\nlocal     db\nlocal     web"
    );
    for (filters, names) in [
        (&["name=b"][..], "db web"),
        (&["name=db", "name=cache"], "cache db"),
        (&["label=env"], "db web"),
        (&["label=env=prod"], "web"),
        (&["label=env", "label=none"], ""),
        (&["dangling=true"], "cache db"),
        (&["dangling=0"], "web"),
        (&["driver=local", "dangling=1", "label=env"], "db"),
        (&["driver=nfs"], ""),
    ] {
        let mut arguments = vec!["ls", "-q"];
        filters
            .iter()
            .for_each(|filter| arguments.extend(["-f", filter]));
        assert_eq!(
            host.volume(&arguments).ok().replace('\n', " "),
            names,
            "{filters:?}"
        );
    }
    host.volume(&["ls", "-f", "odd=1"]).fails(1, &["'odd'"]);
    host.volume(&["ls", "-f", "odd"])
        .fails(125, &["expected name=value"]);
    let line = host.volume(&["list", "--format", "json", "-f", "name=web"]);
    let value = parsed(&line);
    assert_eq!(
        (&value["Labels"], &value["Size"]),
        (&json!("env=prod"), &json!("N/A"))
    );
}

#[test]
fn rm_refuses_what_is_in_use_and_goes_on_with_the_rest() {
    let host = Host::new();
    for name in ["one", "two", "used"] {
        host.volume(&["create", name]).ok();
    }
    host.instance_with(
        "0123abcd",
        json!([{"type": "volume", "name": "used", "target": "/x"}]),
    );
    let said = host.volume(&["rm", "one", "used", "two"]);
    said.fails(1, &["remove used: volume is in use - [0123abcd]"]);
    assert_eq!(said.stdout, "one\ntwo\n");
    assert_eq!(host.names(), "used");
    host.volume(&["rm", "-f", "used"])
        .fails(1, &["volume is in use"]);
    host.volume(&["rm", "nosuch"])
        .fails(1, &["get nosuch: no such volume"]);
    assert_eq!(host.volume(&["remove", "-f", "nosuch"]).ok(), "nosuch");
    host.volume(&["rm", "../instances"])
        .fails(1, &["no such volume"]);
    fs::write(host.root().join("instances/0123abcd/instance.json"), "{").unwrap();
    host.volume(&["rm", "used"])
        .fails(1, &["instance.json", "is damaged", "rm -f"]);
    fs::remove_dir_all(host.root().join("instances/0123abcd")).unwrap();
    host.volume(&["rm", "used"]).ok();
    assert_eq!(host.names(), "");
}

#[test]
fn prune_asks_and_takes_anonymous_volumes_only_unless_all_are_wanted() {
    let host = Host::new();
    host.volume(&["create", "--label", "keep", "named"]).ok();
    let anonymous = host.volume(&["create"]);
    let data = host
        .root()
        .join("volumes")
        .join(anonymous.ok())
        .join("_data");
    fs::write(data.join("file"), "twelve bytes").unwrap();
    let no = host.plimsoll_with_input(b"n\n", &["volume", "prune"]);
    assert_eq!(
        no.ok(),
        "WARNING! This will remove anonymous local volumes not used by at least one container.\nAre you sure you want to continue? [y/N] "
    );
    // Nobody who answers is a no.
    host.volume(&["prune"]).ok();
    assert_eq!(host.names().split(' ').count(), 2);
    let yes = host.plimsoll_with_input(b"y\n", &["volume", "prune"]);
    assert!(
        yes.ok().ends_with(&format!(
            "[y/N] Deleted Volumes:\n{}\n\nTotal reclaimed space: 12B",
            anonymous.ok()
        )),
        "{yes:?}"
    );
    assert_eq!(
        host.volume(&["prune", "-f"]).ok(),
        "Total reclaimed space: 0B"
    );
    let all = host.plimsoll_with_input(b"", &["volume", "prune", "-a"]);
    assert!(all.ok().contains("remove all local volumes"), "{all:?}");
    host.volume(&["prune", "-a", "-f", "--filter", "label!=keep"])
        .ok();
    host.volume(&["prune", "-a", "-f", "--filter", "label=other"])
        .ok();
    assert_eq!(host.names(), "named");
    host.volume(&["prune", "-a", "--filter", "all=1"])
        .fails(1, &["conflicting options"]);
    host.volume(&["prune", "-f", "--filter", "name=x"])
        .fails(1, &["'name'"]);
    host.volume(&["prune", "-f", "--filter", "all=1", "--filter", "label=keep"])
        .ok();
    assert_eq!(host.names(), "");
}

#[test]
fn a_killed_command_leaves_a_whole_volume_or_none() {
    let host = Host::new();
    host.volume(&["create", "kept"]).ok();
    let data = host.root().join("volumes/kept/_data");
    fs::write(data.join("file"), "kept").unwrap();
    for n in 0..40_u64 {
        for verb in ["create", "rm"] {
            let mut command = host.command();
            command
                .args(["volume", verb, "victim"])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            let mut child = command.spawn().unwrap();
            // From before it has begun to after it has ended.
            std::thread::sleep(std::time::Duration::from_micros(n * 97 % 4000));
            let _ = child.kill();
            child.wait().unwrap();
        }
        let listed = host.names();
        assert!(listed == "kept" || listed == "kept victim", "{listed}");
        if listed.contains("victim") {
            let value = parsed(&host.volume(&["inspect", "victim"]));
            assert_ne!(value[0]["CreatedAt"], "1970-01-01T00:00:00Z");
            assert!(host.root().join("volumes/victim/_data").is_dir());
        }
    }
    // The next command of the kind finishes what was cut off.
    host.volume(&["create", "victim"]).ok();
    host.volume(&["rm", "victim"]).ok();
    let left = fs::read_dir(host.root().join("volumes/.tmp")).unwrap();
    assert_eq!(left.count(), 0);
    assert_eq!(fs::read(data.join("file")).unwrap(), b"kept");
}

#[test]
fn many_commands_at_once_lose_no_volume() {
    let host = Host::new();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let host = &host;
            scope.spawn(move || {
                assert_eq!(host.volume(&["create", "shared"]).ok(), "shared");
                let own = format!("own-{n}");
                host.volume(&["create", &own]).ok();
                host.volume(&["rm", &own]).ok();
            });
        }
    });
    assert_eq!(host.names(), "shared");
    let left = fs::read_dir(host.root().join("volumes/.tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}
