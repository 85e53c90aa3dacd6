//! What every whole-program test uses: the real binary, a state directory of its own, and a look at what is left.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses its own part of this"
)]

pub mod debian;
pub mod tmux;
pub mod world;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a boot on kvm_pvm with the machine's two cores busy (20 to 30 s when idle), and then something hangs.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The command under test: cargo's, or the one that was carried into the lab.
pub fn binary() -> PathBuf {
    std::env::var_os("PLIMSOLL_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_plimsoll")),
        PathBuf::from,
    )
}

/// Whether this runs inside the lab (lab/run sets it), where hardware KVM and cgroup v2 are.
pub fn in_lab() -> bool {
    std::env::var_os("PLIMSOLL_LAB").is_some()
}

/// Ends a test that cannot run here, aloud.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        eprintln!("skipped: {}", format_args!($($reason)*));
        return;
    }};
}

/// A state directory that goes with the test.
pub struct Host {
    directory: tempfile::TempDir,
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks that it succeeded, and gives its output without the last newline.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(
            self.code,
            Some(0),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self.stdout.trim_end_matches('\n')
    }

    /// Checks that it failed with `code` and one sentence that holds every one of `words`.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        let ours: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("plimsoll: "))
            .collect();
        assert_eq!(ours.len(), 1, "one sentence is wanted: {}", self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in: {}",
                self.stderr
            );
        }
        assert!(
            !self.stderr.contains("panicked") && !self.stderr.contains("RUST_BACKTRACE"),
            "{}",
            self.stderr
        );
    }
}

impl Host {
    /// A fresh state directory.
    pub fn new() -> Self {
        Self {
            directory: tempfile::Builder::new()
                .prefix("plimsoll-test-")
                .tempdir()
                .unwrap(),
        }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A place for files of the test's own.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The command with its state directory set, ready for arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .env("PLIMSOLL_ROOT", self.root())
            .stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    #[track_caller]
    pub fn plimsoll<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Said {
        let mut command = self.command();
        command.args(arguments);
        finish(command)
    }

    /// Runs the command with something on its standard input.
    #[track_caller]
    pub fn plimsoll_with_input(&self, input: &[u8], arguments: &[&str]) -> Said {
        let mut command = self.command();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // The command may end before it has read everything.
            let _ = stdin.write_all(&input);
        });
        let said = wait(child);
        writer.join().unwrap();
        said
    }

    /// Everything in the state directory that belongs to instances, once supervisors have had time to remove what they hold.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let left: Vec<PathBuf> = ["instances", "active", "names", "trash"]
                .iter()
                .filter_map(|folder| fs::read_dir(self.root().join(folder)).ok())
                .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
                .collect();
            if left.is_empty() || Instant::now() > until {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Host {
    /// A member of an instance's state.json.
    pub fn state(&self, id: &str, member: &str) -> serde_json::Value {
        let path = self.root().join("instances").join(id).join("state.json");
        let text = fs::read(&path).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        state[member].clone()
    }

    /// A process ID in an instance's state.json: `pid` or `supervisor`.
    #[track_caller]
    pub fn process(&self, id: &str, member: &str) -> u32 {
        let number = self.state(id, member).as_u64().unwrap_or_default();
        assert!(number > 1, "{id} has no {member}");
        number as u32
    }

    /// Starts an instance in the background; its identifier.
    #[track_caller]
    pub fn detached(&self, way: &[&str], flags: &[&str], command: &[&str]) -> String {
        let arguments = [&["run", "-d"], way, flags, &["plimsoll/base"], command].concat();
        let said = self.plimsoll(&arguments);
        said.ok().to_owned()
    }

    /// One field of an instance, as a template of `inspect` gives it.
    #[track_caller]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.plimsoll(["inspect", "--format", template, name])
            .ok()
            .to_owned()
    }
}

/// Instances outlive the commands that started them, and a test that fails leaves its own behind.
impl Drop for Host {
    fn drop(&mut self) {
        if !self.root().join("instances").exists() {
            return;
        }
        let Ok(output) = self.command().args(["ps", "-aq", "--no-trunc"]).output() else {
            return;
        };
        let ids = String::from_utf8_lossy(&output.stdout).into_owned();
        if !ids.trim().is_empty() {
            let mut command = self.command();
            command.args(["rm", "-f", "-v"]).args(ids.lines());
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Runs a command to its end, within [`PATIENCE`].
#[track_caller]
pub fn finish(mut command: Command) -> Said {
    wait(
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    )
}

#[track_caller]
fn wait(child: Child) -> Said {
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => Said::of(output.unwrap()),
        Err(_) => {
            kill(pid, libc::SIGKILL);
            panic!("the command has not ended after {PATIENCE:?}");
        }
    }
}

/// Sends a signal to a process that this test started.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: kill(2) takes two numbers and touches no memory.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The cgroups that bear an instance's identifier.
pub fn cgroups_of(id: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(id) {
                    found.insert(entry.path());
                }
                open.push(entry.path());
            }
        }
    }
    found
}

/// The processes that descend from one that this test started, itself left out.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for task in fs::read_dir(format!("/proc/{parent}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|text| text.parse().ok())
            {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}

/// Whether a process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// This process's mounts.
pub fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Whether /dev/kvm is kvm_pvm: a boot takes tens of seconds there.
pub fn kvm_is_emulated() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// The ways to run an image that start within a few seconds here. Where KVM is emulated, tests/vm_kvm.rs covers it.
pub fn ways() -> Vec<Vec<&'static str>> {
    let mut ways = vec![vec!["--backend", "container"]];
    ways.extend(
        vm_ways()
            .into_iter()
            .filter(|way| !(kvm_is_emulated() && way.contains(&"kvm"))),
    );
    ways
}

/// All ways to run a VM that can be tried here, each with its accelerator named; what cannot is told on standard error.
pub fn vm_ways() -> Vec<Vec<&'static str>> {
    let mut ways = Vec::new();
    if !guest_kernel().is_file() {
        eprintln!("skipped: VMs, because there is no guest kernel (make kernel)");
        return ways;
    }
    if Path::new("/dev/kvm").exists() {
        ways.push(vec!["--backend", "vm", "--accel", "kvm"]);
    } else {
        eprintln!("skipped: --accel kvm, because there is no /dev/kvm");
    }
    if which("qemu-system-x86_64").is_some() {
        ways.push(vec!["--backend", "vm", "--accel", "tcg"]);
    } else {
        eprintln!("skipped: --accel tcg, because qemu-system-x86_64 is not installed");
    }
    ways
}

/// A shell's commands that work on two processors at once: what each has worked out, and which processors have worked for it.
pub const PARALLEL: &str = "for mask in 1 2; do taskset $mask awk 'BEGIN { for (i = 0; i < 400000; i++) s += i; print s }' & done; \
    wait; awk '/^cpu[0-9]/ { print $1, ($2 + $3 > 0) }' /proc/stat";

/// Checks what [`PARALLEL`] has printed.
#[track_caller]
pub fn check_parallel(printed: &str) {
    assert_eq!(
        printed.trim_end(),
        "79999800000\n79999800000\ncpu0 1\ncpu1 1"
    );
}

pub fn guest_kernel() -> PathBuf {
    std::env::var_os("PLIMSOLL_KERNEL").map_or_else(
        || PathBuf::from("/var/cache/plimsoll/kernels/current/vmlinux"),
        PathBuf::from,
    )
}

/// Whether VMs on KVM can be tried here; says why where not.
pub fn kvm_is_possible() -> bool {
    let missing = if !Path::new("/dev/kvm").exists() {
        "/dev/kvm"
    } else if !guest_kernel().is_file() {
        "guest kernel (make kernel)"
    } else {
        return true;
    };
    eprintln!("skipped: --accel kvm, because there is no {missing}");
    false
}

/// A program on PATH.
pub fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A root file system archive with busybox and a few files of the test's choosing.
pub fn tar_of(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_000_000_000);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}
