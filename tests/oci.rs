//! `plimsoll oci`: bundles run with runc's command line, as engines do it.

mod common;

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything here may take before it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A bundle, and a place for the state of its containers.
struct Bundle {
    directory: TempDir,
}

impl Bundle {
    /// A bundle of busybox whose command is a line of shell; `None`, said aloud, where that cannot run.
    fn new(script: &str) -> Option<Self> {
        // SAFETY: takes nothing, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: containers take root");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            eprintln!("skipped: /bin/busybox is missing (apt-get install busybox-static)");
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("plimsoll-oci-")
            .tempdir()
            .unwrap();
        let this = Self { directory };
        let root = this.path().join("rootfs");
        for name in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "true", "false", "sleep", "cat", "ls", "id", "tty", "stty", "grep", "readlink",
            "hostname", "mount", "env", "pwd", "kill", "touch", "tr", "stat",
        ] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let mut config: Value = {
            assert_eq!(this.oci(&["spec", "--bundle", this.bundle()]).code, 0);
            serde_json::from_slice(&fs::read(this.path().join("config.json")).unwrap()).unwrap()
        };
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["root"]["readonly"] = json!(false);
        this.write(&config);
        Some(this)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn bundle(&self) -> &str {
        self.path().to_str().unwrap()
    }

    fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join("config.json")).unwrap()).unwrap()
    }

    fn write(&self, config: &Value) {
        fs::write(self.path().join("config.json"), config.to_string()).unwrap();
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut config = self.config();
        change(&mut config);
        self.write(&config);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(common::binary());
        command
            .arg0("plimsoll-oci")
            .arg("--root")
            .arg(self.path().join("state"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command. Its output goes through files: a container that lives on would hold a pipe open.
    fn oci(&self, args: &[&str]) -> Said {
        let file = |name: &str| self.path().join(format!("{name}-{}", args[0]));
        let (out, err) = (file("out"), file("err"));
        let mut child = self
            .command(args)
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("{args:?} hangs: {}", fs::read_to_string(err).unwrap());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Said {
            code: status.code().unwrap_or(-1),
            out: fs::read_to_string(out).unwrap(),
            err: fs::read_to_string(err).unwrap(),
        }
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let said = self.oci(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    }

    #[track_caller]
    fn fails(&self, args: &[&str], with: &str) {
        let said = self.oci(args);
        assert_eq!(
            said.code,
            if args[0] == "exec" { 255 } else { 1 },
            "{args:?}: {said:?}"
        );
        assert!(said.err.contains(with), "{args:?}: {said:?}");
    }

    #[track_caller]
    fn create(&self, id: &str) {
        self.ok(&["create", "--bundle", self.bundle(), id]);
    }

    /// `run` in the foreground.
    fn run(&self, id: &str) -> Said {
        self.oci(&["run", "--bundle", self.bundle(), id])
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    fn wait_for(&self, id: &str, status: &str) {
        let started = Instant::now();
        while self.state(id)["status"] != status {
            assert!(
                started.elapsed() < PATIENCE,
                "{id} does not become {status}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn in_root(&self, name: &str) -> PathBuf {
        self.path().join("rootfs").join(name)
    }

    fn wait_for_file(&self, name: &str) -> String {
        let started = Instant::now();
        loop {
            match fs::read_to_string(self.in_root(name)) {
                Ok(text) if !text.is_empty() => return text,
                _ => assert!(started.elapsed() < PATIENCE, "{name} is not written"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let state = self.path().join("state");
        for entry in fs::read_dir(state).into_iter().flatten().flatten() {
            let id = entry.file_name();
            let mut command = self.command(&["delete", "--force"]);
            let _ = command
                .arg(id)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Where a cgroup of this name is, in whichever hierarchy.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let mount = fields.next()?;
            fields
                .next()?
                .starts_with("cgroup")
                .then(|| Path::new(mount).join(name))
        })
        .filter(|path| path.exists())
        .collect()
}

/// Removes a cgroup in which nothing runs, with those below it.
fn remove_cgroups(directory: &Path) {
    let below = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path());
    }
    let _ = fs::remove_dir(directory);
}

fn id(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

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
            table.starts_with("UID") && table.contains("sleep 999") && table.lines().count() == 3,
            "{table}"
        );
    } else {
        eprintln!("skipped: the table of ps takes ps(1)");
    }
    bundle.fails(
        &["exec", &id, "absent"],
        "executable file not found in $PATH",
    );
    bundle.fails(&["exec", &id, "/etc"], "is a directory");
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
