//! The life of a container, from its bundle to its end.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundle::{Bundle, cgroups, id};

#[test]
fn a_container_goes_through_its_life() {
    let Some(bundle) = Bundle::new("echo run >> /mark; sleep 1000") else {
        return;
    };
    bundle.change(|config| config["annotations"] = json!({ "org.example.key": "value" }));
    let id = id("life");
    let pid_file = bundle.path().join("pid");
    bundle.ok(&[
        "create",
        "--bundle",
        bundle.bundle(),
        "--pid-file",
        pid_file.to_str().unwrap(),
        &id,
    ]);
    let state = bundle.state(&id);
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], id.as_str());
    assert_eq!(state["ociVersion"], "1.2.1");
    assert_eq!(state["bundle"], bundle.bundle());
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert_eq!(
        state["pid"].to_string(),
        fs::read_to_string(&pid_file).unwrap()
    );
    assert!(
        !bundle.in_root("mark").exists(),
        "nothing runs before start"
    );

    bundle.ok(&["start", &id]);
    assert_eq!(bundle.wait_for_file("mark"), "run\n");
    assert_eq!(bundle.state(&id)["status"], "running");
    bundle.fails(&["start", &id], "it is running, not created");
    bundle.fails(&["delete", &id], "not stopped: running");
    bundle.fails(
        &["create", "--bundle", bundle.bundle(), &id],
        "already exists",
    );

    bundle.ok(&["kill", &id, "KILL"]);
    bundle.wait_for(&id, "stopped");
    let state = bundle.state(&id);
    assert_eq!(state["pid"], 0);
    bundle.fails(&["kill", &id, "KILL"], "is not running");
    bundle.fails(&["start", &id], "it is stopped");
    bundle.fails(&["exec", &id, "true"], "it is stopped");
    bundle.ok(&["delete", &id]);
    assert_eq!(bundle.wait_for_file("mark"), "run\n", "started once");
    for args in [
        ["state", &id],
        ["start", &id],
        ["kill", &id],
        ["delete", &id],
    ] {
        bundle.fails(&args, "does not exist");
    }
    assert!(cgroups(&format!("plimsoll-oci/{id}")).is_empty());
    bundle.ok(&["delete", "--force", &id]);
}

#[test]
fn a_created_container_is_neither_deleted_nor_left_alive() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    let id = id("created");
    bundle.create(&id);
    bundle.fails(&["delete", &id], "not stopped: created");
    assert_eq!(
        bundle.state(&id)["status"],
        "created",
        "the refusal changes nothing"
    );
    bundle.ok(&["kill", &id, "TERM"]);
    bundle.wait_for(&id, "stopped");
    bundle.ok(&["delete", &id]);
    bundle.create(&id);
    let pid = bundle.state(&id)["pid"].to_string();
    bundle.ok(&["delete", "--force", &id]);
    let namespace = Path::new("/proc").join(pid).join("ns/mnt");
    assert!(
        fs::read_link(namespace).is_err(),
        "at most a zombie is left"
    );
}

#[test]
fn commands_without_an_id_or_with_a_wrong_one_are_refused() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    for verb in [
        "create", "start", "state", "kill", "delete", "exec", "ps", "pause", "resume", "update",
    ] {
        assert_ne!(bundle.oci(&[verb]).code, 0, "{verb}");
    }
    for wrong in ["../up", "a/b", "-x", "a b", ""] {
        assert_ne!(
            bundle
                .oci(&["create", "--bundle", bundle.bundle(), "--", wrong])
                .code,
            0,
            "{wrong:?}"
        );
    }
    assert!(fs::read_dir(bundle.path().join("state")).map_or(0, Iterator::count) == 0);
}

#[test]
fn a_bundle_that_is_wrong_leaves_nothing() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    let id = id("wrong");
    let good = bundle.config();
    type Change = fn(&mut Value);
    let wrong: [(Change, &str); 9] = [
        (|config| config["ociVersion"] = json!("2.0.0"), "ociVersion"),
        (
            |config| config["ociVersion"] = json!("nonsense"),
            "ociVersion",
        ),
        (
            |config| config["root"]["path"] = json!("absent"),
            "root.path",
        ),
        (
            |config| config["process"]["cwd"] = json!("relative"),
            "process.cwd",
        ),
        (
            |config| config["process"]["args"] = json!([]),
            "process.args",
        ),
        (
            |config| config["process"]["args"] = json!(["absent"]),
            "executable file not found in $PATH",
        ),
        (
            |config| config["linux"]["namespaces"] = json!([{ "type": "pid" }, { "type": "pid" }]),
            "twice",
        ),
        (
            |config| config["hooks"] = json!({ "prestart": [{ "path": "/bin/false" }] }),
            "hooks.prestart[0]",
        ),
        (
            |config| {
                config["mounts"] =
                    json!([{ "destination": "/x", "type": "nosuchfs", "source": "x" }])
            },
            "/x",
        ),
    ];
    for (change, with) in wrong {
        bundle.write(&good);
        bundle.change(change);
        bundle.fails(&["create", "--bundle", bundle.bundle(), &id], with);
        bundle.fails(&["state", &id], "does not exist");
        assert!(cgroups(&format!("plimsoll-oci/{id}")).is_empty(), "{with}");
    }
    fs::write(bundle.path().join("config.json"), "{").unwrap();
    bundle.fails(&["create", "--bundle", bundle.bundle(), &id], "is not JSON");
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    bundle.fails(&["create", "--bundle", bundle.bundle(), &id], "config.json");
    bundle.fails(&["create", "--bundle", "/absent", &id], "/absent");
}

#[test]
fn a_change_of_the_configuration_after_create_has_no_effect() {
    let Some(bundle) = Bundle::new("echo first > /said") else {
        return;
    };
    let id = id("changed");
    bundle.create(&id);
    bundle.change(|config| config["process"]["args"] = json!(["sh", "-c", "echo second > /said"]));
    bundle.ok(&["start", &id]);
    assert_eq!(bundle.wait_for_file("said"), "first\n");
}

#[test]
fn a_container_without_a_process_is_created_and_cannot_be_started() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    bundle.change(|config| drop(config.as_object_mut().unwrap().remove("process")));
    let id = id("noprocess");
    bundle.create(&id);
    assert_eq!(bundle.state(&id)["status"], "created");
    bundle.fails(&["start", &id], "process");
    assert_eq!(bundle.state(&id)["status"], "created");
    bundle.ok(&["delete", "--force", &id]);
}

#[test]
fn run_ends_as_its_command_did_and_leaves_nothing() {
    let Some(bundle) = Bundle::new("echo out; echo err >&2; exit 7") else {
        return;
    };
    let id = id("run");
    let said = bundle.run(&id);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (7, "out\n", "err\n")
    );
    bundle.fails(&["state", &id], "does not exist");
    bundle.change(|config| config["process"]["args"] = json!(["sh", "-c", "kill -9 $$"]));
    assert_eq!(
        bundle.run(&id).code,
        0,
        "PID 1 of a namespace is not ended by its own signal"
    );
    bundle.change(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    bundle.ok(&["run", "--detach", "--bundle", bundle.bundle(), &id]);
    assert_eq!(bundle.state(&id)["status"], "running");
    let kept = bundle.oci(&["run", "--bundle", bundle.bundle(), &id]);
    assert!(
        kept.code == 1 && kept.err.contains("already exists"),
        "{kept:?}"
    );
}

#[test]
fn hooks_run_at_their_points() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    let log = bundle.path().join("log");
    let hook = |name: &str, path: &Path| {
        let script = format!("s=$(cat); echo \"{name} $s\" >> {}", path.display());
        json!([{ "path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin"], "timeout": 10 }])
    };
    bundle.change(|config| {
        config["annotations"] = json!({ "key": "value" });
        config["hooks"] = json!({
            "prestart": hook("prestart", &log),
            "createRuntime": hook("createRuntime", &log),
            "createContainer": hook("createContainer", &log),
            "startContainer": hook("startContainer", Path::new("/log")),
            "poststart": hook("poststart", &log),
            "poststop": hook("poststop", &log),
        });
    });
    let id = id("hooks");
    let names = |path: &Path| -> Vec<(String, Value)> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| {
                let (name, state) = line.split_once(' ').unwrap();
                (name.to_owned(), serde_json::from_str(state).unwrap())
            })
            .collect()
    };
    bundle.create(&id);
    let pid = bundle.state(&id)["pid"].clone();
    let seen = names(&log);
    let order: Vec<_> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, ["prestart", "createRuntime", "createContainer"]);
    for (_, state) in &seen {
        assert_eq!(state["id"], id.as_str());
        assert_eq!(state["pid"], pid);
        assert_eq!(state["bundle"], bundle.bundle());
        assert_eq!(state["annotations"]["key"], "value");
        assert_eq!(state["status"], "creating");
    }
    bundle.ok(&["start", &id]);
    assert_eq!(names(&bundle.in_root("log"))[0].1["status"], "created");
    assert_eq!(names(&log).last().unwrap().0, "poststart");
    assert_eq!(names(&log).last().unwrap().1["status"], "running");
    bundle.wait_for(&id, "stopped");
    assert_eq!(names(&log).len(), 4, "poststop comes with delete");
    bundle.ok(&["delete", &id]);
    let last = names(&log).pop().unwrap();
    assert_eq!(
        (last.0.as_str(), &last.1["status"]),
        ("poststop", &json!("stopped"))
    );
}

#[test]
fn a_killed_creator_leaves_what_delete_force_removes() {
    let Some(bundle) = Bundle::new("true") else {
        return;
    };
    let id = id("killed");
    let hook = json!([{ "path": "/bin/busybox", "args": ["sh", "-c", format!("echo > {0}; echo x > {0}; sleep 1000", bundle.in_root("hooked").display())] }]);
    bundle.change(|config| config["hooks"] = json!({ "createRuntime": hook }));
    let mut child = bundle
        .command(&["create", "--bundle", bundle.bundle(), &id])
        .spawn()
        .unwrap();
    bundle.wait_for_file("hooked");
    assert_eq!(bundle.state(&id)["status"], "creating");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bundle.state(&id)["status"], "stopped");
    bundle.ok(&["delete", "--force", &id]);
    bundle.fails(&["state", &id], "does not exist");
    assert!(cgroups(&format!("plimsoll-oci/{id}")).is_empty());
}
