//! A busybox root file system, and containers in it whose output is read back.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use container_core::{
    Container, Exit, ExitStatus, Launch, Result, Rootfs, Stdio, Teardown, default_spec, start,
};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use tempfile::TempDir;

/// Why these tests cannot run here, said aloud.
pub(crate) fn skip() -> bool {
    // SAFETY: takes nothing, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let reason = if !root {
        "containers take root"
    } else if !Path::new("/bin/busybox").exists() {
        "/bin/busybox is missing (apt-get install busybox-static)"
    } else {
        return false;
    };
    eprintln!("skipped: {reason}");
    true
}

/// A root file system of busybox, and a place for one container's changes.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) id: String,
}

/// What a container said and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Exit,
}

impl Output {
    /// The exit code, for a container that was not killed.
    pub(crate) fn code(&self) -> i32 {
        match self.exit.status {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled(signal) => panic!("killed by signal {signal}: {self:?}"),
        }
    }

    /// Standard output of a container that ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.exit.status, ExitStatus::Exited(0), "{self:?}");
        self.stdout
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("lower");
        for name in ["bin", "tmp", "proc", "sys", "dev", "etc", "root", "data"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let applets = std::process::Command::new("/bin/busybox")
            .arg("--list")
            .output()
            .unwrap()
            .stdout;
        for applet in String::from_utf8(applets)
            .unwrap()
            .lines()
            .filter(|applet| *applet != "busybox")
        {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
        )
        .unwrap();
        let (upper, work) = (
            directory.path().join("upper"),
            directory.path().join("work"),
        );
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self {
            lower: vec![root],
            upper,
            work,
            id,
            directory,
        }
    }

    /// The lower layer.
    pub(crate) fn root(&self) -> &Path {
        &self.lower[0]
    }

    pub(crate) fn overlay(&self) -> Rootfs<'_> {
        Rootfs::Overlay {
            lower: &self.lower,
            upper: &self.upper,
            work: &self.work,
            volatile: false,
        }
    }

    pub(crate) fn launch<'a>(
        &'a self,
        spec: &'a Spec,
        rootfs: Rootfs<'a>,
        stdio: Stdio,
    ) -> Launch<'a> {
        Launch::new(&self.id, spec, rootfs, stdio)
    }

    pub(crate) fn start(&self, spec: &Spec, rootfs: Rootfs<'_>, stdio: Stdio) -> Result<Container> {
        start(self.launch(spec, rootfs, stdio))
    }

    /// Starts a container whose output nobody reads.
    pub(crate) fn quietly(&self, spec: &Spec) -> Container {
        self.start(spec, self.overlay(), silent()).unwrap()
    }

    /// Runs a container to its end.
    pub(crate) fn run_in(&self, spec: &Spec, rootfs: Rootfs<'_>) -> Result<Output> {
        let null = File::open("/dev/null").unwrap().into();
        let (stdout, stdout_end) = pipe();
        let (stderr, stderr_end) = pipe();
        let mut container = self.start(
            spec,
            rootfs,
            Stdio::Descriptors([null, stdout_end, stderr_end]),
        )?;
        let (mut out, mut err) = (String::new(), String::new());
        // Little is said on standard error in these tests: it fits the pipe.
        stdout.take(1 << 20).read_to_string(&mut out).unwrap();
        stderr.take(1 << 20).read_to_string(&mut err).unwrap();
        let exit = container.wait()?;
        container.release(Teardown::Wait)?;
        Ok(Output {
            stdout: out,
            stderr: err,
            exit,
        })
    }

    pub(crate) fn run(&self, spec: &Spec) -> Output {
        self.run_in(spec, self.overlay()).unwrap()
    }

    /// Runs a line of shell with docker's defaults.
    pub(crate) fn shell(&self, script: &str) -> Output {
        self.run(&shell(script))
    }

    /// Where the container's cgroup is, in whichever hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = container_core::cgroup::detect().unwrap();
        let tops = hierarchies
            .v1()
            .iter()
            .map(|hierarchy| hierarchy.mount.clone())
            .chain(hierarchies.v2().map(Path::to_owned));
        tops.map(|top| top.join("plimsoll").join(&self.id))
            .filter(|path| path.exists())
            .collect()
    }
}

pub(crate) fn pipe() -> (File, OwnedFd) {
    let (read, write) = std::io::pipe().unwrap();
    (OwnedFd::from(read).into(), write.into())
}

pub(crate) fn silent() -> Stdio {
    let null = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into()
    };
    Stdio::Descriptors([null(), null(), null()])
}

pub(crate) fn command(args: &[&str]) -> Spec {
    default_spec(args.iter().map(|arg| (*arg).to_owned()).collect())
}

pub(crate) fn shell(script: &str) -> Spec {
    command(&["sh", "-c", script])
}

/// Takes a namespace out of a specification.
pub(crate) fn without(mut spec: Spec, kind: LinuxNamespaceType) -> Spec {
    let linux = spec.linux_mut().as_mut().unwrap();
    linux
        .namespaces_mut()
        .as_mut()
        .unwrap()
        .retain(|namespace| namespace.typ() != kind);
    spec
}

pub(crate) fn with_resources(mut spec: Spec, change: impl FnOnce(&mut LinuxResources)) -> Spec {
    change(
        spec.linux_mut()
            .as_mut()
            .unwrap()
            .resources_mut()
            .as_mut()
            .unwrap(),
    );
    spec
}
