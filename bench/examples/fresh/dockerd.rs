//! Debian's dockerd with everything of it below a directory, and no network.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Outcome, succeed};

pub(crate) const PROGRAM: &str = "/usr/sbin/dockerd";

/// How long it may take to answer, and to end.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const ENDS_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Dockerd {
    daemon: Child,
    socket: String,
}

impl Dockerd {
    /// Starts one in a directory that is there, and waits until it answers.
    pub(crate) fn start(state: &Path) -> Outcome<Self> {
        let at = |name: &str| state.join(name);
        let socket = format!("unix://{}", at("socket").display());
        let log = File::create(at("dockerd.log"))?;
        let daemon = Command::new(PROGRAM)
            .arg("--data-root")
            .arg(at("docker"))
            .arg("--exec-root")
            .arg(at("docker-exec"))
            .arg("--pidfile")
            .arg(at("docker-pid"))
            .args(["--host", &socket])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--bridge=none", "--iptables=false"])
            .args(["--ip-forward=false", "--ip-masq=false"])
            .args(["--storage-driver", "overlay2"])
            .args(["--default-ulimit", "nofile=20000:20000"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let mut docker = Self { daemon, socket };
        let deadline = Instant::now() + STARTS_WITHIN;
        while succeed(docker.client().arg("version")).is_err() {
            if Instant::now() > deadline || docker.daemon.try_wait()?.is_some() {
                return Err("dockerd does not start".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(docker)
    }

    /// A command that speaks to it.
    pub(crate) fn client(&self) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command
            .args(["--host", &self.socket])
            .env_remove("DOCKER_HOST");
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It takes its containerd along.
        // SAFETY: kill(2) takes two numbers and touches no memory.
        unsafe { libc::kill(self.daemon.id().cast_signed(), libc::SIGTERM) };
        let deadline = Instant::now() + ENDS_WITHIN;
        while Instant::now() < deadline && matches!(self.daemon.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
