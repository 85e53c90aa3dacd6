//! A machine to test with: a busybox image, a kernel, an accelerator that is named.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use guest_protocol::{Extent, File, GuestConfig, ImageDisk, Mount, Process, SharedMount};
use microvm_core::session::{Events, Exit, Options, Session, SessionError, Stdio};
use microvm_core::{
    Accelerator, Share, Stage, Substrate, VmConfig, launch, qemu_binary, substrate,
};
use tempfile::TempDir;

/// Where the guest kernel's build puts it.
const KERNEL: &str = "/var/cache/plimsoll/kernels/current/vmlinux";

/// Linux's O_PATH on x86-64.
const O_PATH: i32 = 0o10_000_000;

/// Far longer than a machine takes to boot under software emulation or on kvm_pvm with everything else on the host busy.
const LIMIT: Duration = Duration::from_secs(400);

/// The applets that the tests' scripts use.
const APPLETS: [&str; 31] = [
    "cat", "cut", "date", "df", "echo", "grep", "head", "hostname", "id", "ls", "pwd", "rm", "sh",
    "sleep", "stat", "stty", "tail", "taskset", "touch", "tr", "true", "tty", "ulimit", "umask",
    "uname", "wc", "yes", "mount", "ps", "kill", "sync",
];

/// What to run, and on what. Every run boots a machine of its own.
pub(crate) struct Machine {
    pub(crate) folder: TempDir,
    accelerator: Accelerator,
    /// Topmost first.
    pub(crate) images: Vec<PathBuf>,
    pub(crate) writable: Option<PathBuf>,
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) read_only_rootfs: bool,
    pub(crate) mounts: Vec<Mount>,
    /// Paths here, where they are in the guest, and whether they are read-only.
    pub(crate) shares: Vec<(PathBuf, &'static str, bool)>,
    pub(crate) files: Vec<File>,
    pub(crate) shm_bytes: u64,
    pub(crate) process: Process,
    /// Kills the monitor when the output holds this.
    pub(crate) kill_when: Option<&'static str>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Result<Exit, SessionError>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Ran {
    pub(crate) fn exit(&self) -> &Exit {
        self.outcome.as_ref().unwrap()
    }
}

/// A machine under software emulation, or `None`, said aloud, where there can be none.
pub(crate) fn tcg() -> Option<Machine> {
    if qemu_binary().is_none() {
        eprintln!("skipped: qemu-system-x86_64 is not installed (package qemu-system-x86)");
        return None;
    }
    machine(Accelerator::Tcg)
}

/// A machine on this host's KVM by our own monitor, or `None`, said aloud, where there can be none.
pub(crate) fn kvm() -> Option<Machine> {
    match substrate() {
        Substrate::None { reason } => {
            eprintln!("skipped: {reason}");
            None
        }
        found => {
            eprintln!("accelerator: kvm on {found}");
            machine(Accelerator::Kvm)
        }
    }
}

fn machine(accelerator: Accelerator) -> Option<Machine> {
    if !Path::new(KERNEL).exists() {
        eprintln!("skipped: no guest kernel at {KERNEL}: run guest/kernel/build.sh");
        return None;
    }
    if Command::new("mkfs.erofs")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: mkfs.erofs is not installed (package erofs-utils)");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = base(folder.path());
    Some(Machine {
        folder,
        accelerator,
        images: vec![image],
        writable: None,
        vcpus: 1,
        memory_mib: 128,
        read_only_rootfs: false,
        mounts: Vec::new(),
        shares: Vec::new(),
        files: Vec::new(),
        shm_bytes: 64 << 20,
        process: Process {
            args: Vec::new(),
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            umask: 0o22,
            terminal: None,
            stdin: false,
            rlimits: Vec::new(),
            no_new_privileges: false,
            capabilities: None,
        },
        kill_when: None,
    })
}

fn share((number, (path, _, read_only)): (u32, &(PathBuf, &str, bool))) -> Share {
    let source = fs::File::options()
        .read(true)
        .custom_flags(O_PATH)
        .open(path)
        .unwrap();
    Share {
        name: number.to_string(),
        source: source.into(),
        read_only: *read_only,
    }
}

/// A shell and a script for it.
pub(crate) fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// The image with busybox.
fn base(folder: &Path) -> PathBuf {
    let root = folder.join("base.d");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/hostname"), "from-the-image\n").unwrap();
    let busybox = root.join("bin/busybox");
    fs::write(&busybox, guest_artifacts::BUSYBOX).unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&busybox, 0o755);
    mode(&root.join("tmp"), 0o1777);
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    erofs(&root)
}

/// A layer with these files.
pub(crate) fn layer(folder: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = folder.join(format!("{name}.d"));
    for (path, contents) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    erofs(&root)
}

/// Makes an EROFS image beside a directory, out of it.
fn erofs(root: &Path) -> PathBuf {
    let image = root.with_extension("erofs");
    let output = Command::new("mkfs.erofs")
        .arg("--all-root")
        .args([&image, &root.to_owned()])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    image
}

impl Machine {
    /// Runs with these bytes as stdin (if the process has one), and collects everything.
    pub(crate) fn run(&mut self, stdin: &[u8]) -> Ran {
        self.run_watching(stdin, |_| {}, None)
    }

    /// Runs with `seen` called with each piece of stdout, on another thread.
    pub(crate) fn run_watching(
        &mut self,
        stdin: &[u8],
        seen: impl FnMut(&[u8]) + Send,
        events: Option<&mut dyn Events>,
    ) -> Ran {
        self.run_full(stdin, Some(seen), events)
    }

    /// Runs with a stdout that its reader has closed.
    pub(crate) fn run_with_closed_stdout(&mut self) -> Ran {
        self.run_full(&[], None::<fn(&[u8])>, None)
    }

    fn run_full<F: FnMut(&[u8]) + Send>(
        &mut self,
        stdin: &[u8],
        seen: Option<F>,
        events: Option<&mut dyn Events>,
    ) -> Ran {
        let initramfs = self.folder.path().join("initramfs");
        fs::write(&initramfs, guest_artifacts::initramfs()).unwrap();
        let console_path = self.folder.path().join("console");
        let console = fs::File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(console_path)
            .unwrap();
        let mut config = VmConfig::new(KERNEL.into(), initramfs, console.try_clone().unwrap());
        config.image_disk.clone_from(&self.images);
        config.writable_disk.clone_from(&self.writable);
        config.shares = (0..).zip(&self.shares).map(share).collect();
        config.vcpus = self.vcpus;
        config.memory_mib = self.memory_mib;
        let (input, mut input_end) = std::io::pipe().unwrap();
        let (mut output, output_end) = std::io::pipe().unwrap();
        let (mut errors, errors_end) = std::io::pipe().unwrap();
        let mut vm = launch(self.accelerator, &config).unwrap();
        let mut stages = vm.stages().to_vec();
        let (pid, kill_when) = (vm.pid(), self.kill_when);
        thread::scope(|scope| {
            scope.spawn(move || {
                // A process that does not read its stdin, or none that has one: then this fails when the session ends.
                let _ = input_end.write_all(stdin);
            });
            let collected = scope.spawn(move || {
                let Some(mut seen) = seen else {
                    drop(output);
                    return Vec::new();
                };
                let mut all = Vec::new();
                let mut piece = vec![0; 65536];
                loop {
                    let count = output.read(&mut piece).unwrap();
                    if count == 0 {
                        return all;
                    }
                    all.extend_from_slice(&piece[..count]);
                    seen(&piece[..count]);
                    if kill_when.is_some_and(|word| String::from_utf8_lossy(&all).contains(word)) {
                        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
                    }
                }
            });
            let complaints = scope.spawn(move || {
                let mut all = Vec::new();
                errors.read_to_end(&mut all).unwrap();
                all
            });
            let mut options = Options::new(LIMIT);
            options.console = Some(&console);
            if let Some(events) = events {
                options.events = Some(events);
            }
            let outcome = Session::connect(&mut vm, options).and_then(|mut session| {
                session.start(self.config())?;
                stages.extend_from_slice(session.stages());
                session.run(&Stdio {
                    stdin: self.process.stdin.then(|| input.as_fd()),
                    stdout: output_end.as_fd(),
                    stderr: errors_end.as_fd(),
                })
            });
            drop((input, output_end, errors_end));
            // At once, as a power cut would: what has been told must be true by now.
            drop(vm);
            Ran {
                outcome,
                stages,
                stdout: collected.join().unwrap(),
                stderr: complaints.join().unwrap(),
            }
        })
    }

    fn config(&self) -> GuestConfig {
        let mut offset = 0;
        let layers = self
            .images
            .iter()
            .map(|image| {
                let length = fs::metadata(image).unwrap().len();
                let extent = Extent { offset, length };
                offset += length;
                extent
            })
            .collect();
        GuestConfig {
            hostname: "guest".into(),
            image: ImageDisk {
                device: "/dev/vda".into(),
                layers,
            },
            writable: self.writable.as_ref().map(|_| "/dev/vdb".into()),
            read_only_rootfs: self.read_only_rootfs,
            mounts: self.mounts.clone(),
            shares: (0..)
                .zip(&self.shares)
                .map(|(number, (_, target, read_only))| SharedMount {
                    name: number.to_string(),
                    target: (*target).into(),
                    read_only: *read_only,
                })
                .collect(),
            files: self.files.clone(),
            shm_bytes: self.shm_bytes,
            process: self.process.clone(),
            realtime_ns: 0,
            entropy: Vec::new(),
        }
    }
}
