//! crun and runc: OCI runtimes, each with a bundle on the same root file system.

use std::cell::Cell;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reports::results::{self, ArmKind};
use serde_json::{Value, json};

use super::{Arm, Candidate, Purpose, entry};
use crate::launch::Launch;
use crate::peers;

struct Runtime {
    about: results::Arm,
    program: &'static str,
    rootfs: PathBuf,
    /// Holds the bundles and the runtime's state.
    directory: PathBuf,
    /// Where cgroup2 is not mounted, on hosts of the hybrid kind.
    mounts: Option<Arc<OwnedFd>>,
    started: Cell<u32>,
}

/// crun, then runc. `mounts`: the mount namespace that they are started in (see [`peers::without_cgroup2`]).
pub(crate) fn candidates(
    rootfs: &Path,
    directory: &Path,
    mounts: Option<Arc<OwnedFd>>,
) -> Vec<Candidate> {
    [("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc")]
        .into_iter()
        .map(|(id, program)| {
            let mut about = entry(id, id, ArmKind::Peer);
            about.omits = [
                "no overlay (the root file system is mounted read-only)",
                "no seccomp filter",
                "no image",
            ]
            .map(str::to_owned)
            .to_vec();
            match peers::version(program) {
                Err(reason) => Candidate::unable(about, reason),
                Ok(version) => {
                    about.versions.insert(id.to_owned(), version);
                    Candidate::Able(Box::new(Runtime {
                        about,
                        program,
                        rootfs: rootfs.to_owned(),
                        directory: directory.join(id),
                        mounts: mounts.clone(),
                        started: Cell::new(0),
                    }))
                }
            }
        })
        .collect()
}

impl Arm for Runtime {
    fn about(&self) -> &results::Arm {
        &self.about
    }

    fn launch(&self, workload: &[&str], _: &Purpose) -> Result<Launch, String> {
        let number = self.started.get();
        self.started.set(number + 1);
        let id = format!("plimsoll-bench-{}-{number}", std::process::id());
        let bundle = self.directory.join(workload.join("-"));
        let config = bundle.join("config.json");
        if !config.exists() {
            fs::create_dir_all(&bundle)
                .and_then(|()| fs::write(&config, spec(&self.rootfs, workload).to_string()))
                .map_err(|error| format!("{}: {error}", config.display()))?;
        }
        let state = self.directory.join("state");
        let mut launch = Launch::new(
            self.program,
            [
                "--root".as_ref(),
                state.as_os_str(),
                "run".as_ref(),
                "--bundle".as_ref(),
                bundle.as_os_str(),
                id.as_ref(),
            ],
        );
        launch.mounts = self.mounts.clone();
        let delete = [
            self.program.as_ref(),
            "--root".as_ref(),
            state.as_os_str(),
            "delete".as_ref(),
            "--force".as_ref(),
            id.as_ref(),
        ];
        launch.cleanup = Some(
            delete
                .map(|word: &std::ffi::OsStr| word.to_owned())
                .to_vec(),
        );
        Ok(launch)
    }

    fn image_files(&self) -> Vec<PathBuf> {
        vec![self.rootfs.clone()]
    }
}

/// An OCI specification with docker's namespaces, mounts and capabilities.
fn spec(rootfs: &Path, workload: &[&str]) -> Value {
    let mut args = vec!["/bin/workload"];
    args.extend(workload);
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": true},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"},
                           {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
