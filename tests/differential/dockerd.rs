//! Debian's docker.io, run for a test: everything of it is below a temporary directory and goes with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{finish, is_alive, kill};

/// Debian's own: other programs of that name may stand before them on PATH.
const DOCKER: &str = "/usr/bin/docker";
const DOCKERD: &str = "/usr/sbin/dockerd";

/// A daemon of its own.
pub(crate) struct Dockerd {
    daemon: Child,
    directory: tempfile::TempDir,
    cgroups: BTreeSet<PathBuf>,
}

impl Dockerd {
    /// Starts it and waits until it answers. The error says why it cannot be.
    pub(crate) fn start() -> Result<Self, String> {
        for program in [DOCKER, DOCKERD] {
            if !Path::new(program).is_file() {
                return Err(format!("there is no {program} (apt-get install docker.io)"));
            }
        }
        let mut reasons = Vec::new();
        for driver in ["overlay2", "vfs"] {
            match Self::start_with(driver) {
                Ok(dockerd) => return Ok(dockerd),
                Err(reason) => reasons.push(format!("{driver}: {reason}")),
            }
        }
        Err(format!("dockerd does not start: {}", reasons.join("; ")))
    }

    fn start_with(driver: &str) -> Result<Self, String> {
        let directory = tempfile::Builder::new()
            .prefix("plimsoll-dockerd-")
            .tempdir()
            .map_err(|error| error.to_string())?;
        let at = |name: &str| directory.path().join(name);
        let log = File::create(at("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let cgroups = cgroups();
        let mut command = Command::new(DOCKERD);
        command
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", at("socket").display()))
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false"])
            .args(["--ip-masq=false", "--storage-driver", driver])
            // Its own default is more than root has where CAP_SYS_RESOURCE is missing.
            .args(["--default-ulimit", "nofile=20000:20000"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let daemon = command.spawn().map_err(|error| error.to_string())?;
        let mut dockerd = Self {
            daemon,
            directory,
            cgroups,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut asks = dockerd.command();
            asks.args(["version", "--format", "{{.Server.Version}}"]);
            if finish(asks).code == Some(0) {
                return Ok(dockerd);
            }
            let ended = dockerd.daemon.try_wait().is_ok_and(|end| end.is_some());
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(dockerd.at("log")).unwrap_or_default();
                let last = log
                    .lines()
                    .rev()
                    .find(|line| !line.is_empty())
                    .unwrap_or("it says nothing");
                return Err(last.to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A place for files of the test's own.
    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The client, ready for arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(DOCKER);
        command
            .arg("--host")
            .arg(format!("unix://{}", self.at("socket").display()))
            .env("DOCKER_CONFIG", self.at("config"))
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let mut pids: BTreeSet<u32> = crate::common::descendants(self.daemon.id())
            .into_iter()
            .collect();
        // Shims leave their parent: each is known by the directory that it was started for.
        pids.extend(started_below(self.directory.path()));
        kill(self.daemon.id(), libc::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && self.daemon.try_wait().is_ok_and(|end| end.is_none()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && pids.iter().any(|&pid| is_alive(pid)) {
            std::thread::sleep(Duration::from_millis(20));
            for &pid in &started_below(self.directory.path()) {
                kill(pid, libc::SIGKILL);
            }
        }
        for mount in mounts_below(self.directory.path()) {
            let path = std::ffi::CString::new(mount.into_os_string().into_encoded_bytes());
            if let Ok(path) = path {
                // SAFETY: the path is a C string that lives for the call.
                unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
            }
        }
        // The deepest come last in order, and go first.
        for cgroup in cgroups().difference(&self.cgroups).rev_sorted() {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

trait RevSorted<'a> {
    fn rev_sorted(self) -> Vec<&'a PathBuf>;
}

impl<'a, I: Iterator<Item = &'a PathBuf>> RevSorted<'a> for I {
    fn rev_sorted(self) -> Vec<&'a PathBuf> {
        let mut paths: Vec<&PathBuf> = self.collect();
        paths.sort_by(|left, right| right.cmp(left));
        paths
    }
}

/// The processes whose command line names something below a directory.
fn started_below(directory: &Path) -> Vec<u32> {
    let directory = directory.to_string_lossy().into_owned();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| pid != std::process::id())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let line = String::from_utf8_lossy(&line).into_owned();
                let program = line.split('\0').next().unwrap_or_default();
                (program.ends_with("containerd")
                    || program.ends_with("containerd-shim-runc-v2")
                    || program.ends_with("dockerd"))
                    && line.contains(&directory)
            })
        })
        .collect()
}

/// Every mount below a directory, the last first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = crate::common::mounts()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(directory))
        .collect();
    found.reverse();
    found
}

/// docker's cgroups.
fn cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if path.iter().any(|part| part == "docker") {
                    found.insert(path.clone());
                }
                open.push(path);
            }
        }
    }
    found
}

/// A root file system with busybox, as a tar archive.
pub(crate) fn image() -> Option<Vec<u8>> {
    let busybox = fs::read("/bin/busybox").ok()?;
    let mut list = Command::new("/bin/busybox");
    list.arg("--list");
    let applets = finish(list).stdout;
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(u64::try_from(size).unwrap_or(0));
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for (path, mode) in [
        ("bin", 0o755),
        ("data", 0o755),
        ("data/inner", 0o750),
        ("etc", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("sys", 0o755),
        ("dev", 0o755),
        ("tmp", 0o1777),
    ] {
        archive
            .append_data(
                &mut header(tar::EntryType::Directory, mode, 0),
                path,
                std::io::empty(),
            )
            .ok()?;
    }
    let files: [(&str, u32, &[u8]); 6] = [
        ("bin/busybox", 0o755, &busybox),
        (
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
        ),
        (
            "etc/group",
            0o644,
            b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n",
        ),
        ("data/from-image", 0o640, b"of the image\n"),
        ("data/inner/deep", 0o600, b"deep\n"),
        ("etc/not-a-program", 0o644, b"text\n"),
    ];
    for (path, mode, content) in files {
        archive
            .append_data(
                &mut header(tar::EntryType::Regular, mode, content.len()),
                path,
                content,
            )
            .ok()?;
    }
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        archive
            .append_link(
                &mut header(tar::EntryType::Symlink, 0o777, 0),
                format!("bin/{applet}"),
                "busybox",
            )
            .ok()?;
    }
    archive.into_inner().ok()
}
