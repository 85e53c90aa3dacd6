//! Bundles of busybox, and what the runtime says of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common;

/// How long anything here may take before it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A bundle, and a place for the state of its containers.
pub(crate) struct Bundle {
    pub(crate) directory: TempDir,
}

impl Bundle {
    /// A bundle of busybox whose command is a line of shell; `None`, said aloud, where that cannot run.
    pub(crate) fn new(script: &str) -> Option<Self> {
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

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn bundle(&self) -> &str {
        self.path().to_str().unwrap()
    }

    pub(crate) fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join("config.json")).unwrap()).unwrap()
    }

    pub(crate) fn write(&self, config: &Value) {
        fs::write(self.path().join("config.json"), config.to_string()).unwrap();
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut config = self.config();
        change(&mut config);
        self.write(&config);
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
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
    pub(crate) fn oci(&self, args: &[&str]) -> Said {
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
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.oci(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    }

    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str], with: &str) {
        let said = self.oci(args);
        assert_eq!(
            said.code,
            if args[0] == "exec" { 255 } else { 1 },
            "{args:?}: {said:?}"
        );
        assert!(said.err.contains(with), "{args:?}: {said:?}");
    }

    #[track_caller]
    pub(crate) fn create(&self, id: &str) {
        self.ok(&["create", "--bundle", self.bundle(), id]);
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self, id: &str) -> Said {
        self.oci(&["run", "--bundle", self.bundle(), id])
    }

    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    pub(crate) fn wait_for(&self, id: &str, status: &str) {
        let started = Instant::now();
        while self.state(id)["status"] != status {
            assert!(
                started.elapsed() < PATIENCE,
                "{id} does not become {status}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn in_root(&self, name: &str) -> PathBuf {
        self.path().join("rootfs").join(name)
    }

    pub(crate) fn wait_for_file(&self, name: &str) -> String {
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
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Where a cgroup of this name is, in whichever hierarchy.
pub(crate) fn cgroups(name: &str) -> Vec<PathBuf> {
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
pub(crate) fn remove_cgroups(directory: &Path) {
    let below = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path());
    }
    let _ = fs::remove_dir(directory);
}

pub(crate) fn id(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}
