//! A machine to test with: a busybox image, a kernel, an accelerator that is named.

// Each test program uses a part of it.
#![allow(dead_code)]

pub(crate) mod tap;

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use guest_protocol::{
    Extent, File, GuestConfig, ImageDisk, Interface, Mount, Process, SharedMount,
};
use microvm_core::session::{
    Exec, ExecRequest, Exit, Guest, Handle, Main, Options, SessionError, StdioFds,
};
use microvm_core::{
    Accelerator, Nic, Share, Stage, Substrate, VmConfig, launch, qemu_binary, substrate,
};
use tempfile::TempDir;

/// Where the guest kernel's build puts it.
pub(crate) const KERNEL: &str = "/var/cache/plimsoll/kernels/current/vmlinux";

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
    /// Network devices, and what the guest makes of them.
    pub(crate) networks: Vec<(Nic, Interface)>,
    pub(crate) files: Vec<File>,
    pub(crate) shm_bytes: u64,
    pub(crate) process: Process,
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

/// A machine with this accelerator, or `None`, said aloud, where what its image is made with is missing.
pub(crate) fn machine(accelerator: Accelerator) -> Option<Machine> {
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
        networks: Vec::new(),
        files: Vec::new(),
        shm_bytes: 64 << 20,
        process: process(Vec::new()),
    })
}

/// A process like the main one's by default.
pub(crate) fn process(args: Vec<String>) -> Process {
    Process {
        args,
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
    }
}

/// A request to run a process with the image's own program.
pub(crate) fn request(args: Vec<String>) -> ExecRequest {
    ExecRequest {
        process: process(args),
        program: None,
        upper: false,
    }
}

/// A request to run one of the helper program's commands.
pub(crate) fn tool(words: &[&str]) -> ExecRequest {
    let mut args = vec!["plimsoll".to_owned()];
    args.extend(words.iter().map(|word| (*word).to_owned()));
    ExecRequest {
        process: process(args),
        program: Some(guest_artifacts::TOOLS),
        upper: words.first() == Some(&"upper"),
    }
}

/// A further process that runs, and the ends of its stdio.
pub(crate) struct Beside {
    pub(crate) exec: Exec,
    pub(crate) stdin: PipeWriter,
    pub(crate) stdout: PipeReader,
    pub(crate) stderr: PipeReader,
}

/// Runs a further process.
pub(crate) fn beside(handle: &Handle, request: ExecRequest) -> Result<Beside, SessionError> {
    let (stdio, stdin, stdout, stderr) = pipes(request.process.stdin);
    let exec = handle.exec(request, stdio)?;
    Ok(Beside {
        exec,
        stdin,
        stdout,
        stderr,
    })
}

/// Runs a further process to its end, with this as its stdin, and gives its exit code, stdout and stderr.
pub(crate) fn finish(
    handle: &Handle,
    mut request: ExecRequest,
    stdin: &[u8],
) -> (u8, Vec<u8>, String) {
    request.process.stdin = true;
    let mut beside = beside(handle, request).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || beside.stdin.write_all(stdin));
        let complaints = scope.spawn(move || {
            let mut text = String::new();
            beside.stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut output = Vec::new();
        beside.stdout.read_to_end(&mut output).unwrap();
        let code = beside.exec.wait().unwrap().code();
        (code, output, complaints.join().unwrap())
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

fn copy(nic: &Nic) -> Nic {
    Nic {
        tap: nic.tap.try_clone().unwrap(),
        ..*nic
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
pub(crate) fn erofs(root: &Path) -> PathBuf {
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

/// A machine that runs, and the ends of its main process's stdio.
pub(crate) struct Live {
    pub(crate) handle: Handle,
    pub(crate) main: Main,
    pub(crate) stdin: PipeWriter,
    pub(crate) stdout: PipeReader,
    pub(crate) stderr: PipeReader,
}

/// Pipes for a process's stdio, and our ends of them.
pub(crate) fn pipes(stdin: bool) -> (StdioFds, PipeWriter, PipeReader, PipeReader) {
    let (input, input_end) = std::io::pipe().unwrap();
    let (output, output_end) = std::io::pipe().unwrap();
    let (errors, errors_end) = std::io::pipe().unwrap();
    let fds = StdioFds {
        stdin: stdin.then(|| OwnedFd::from(input)),
        stdout: output_end.into(),
        stderr: errors_end.into(),
    };
    (fds, input_end, output, errors)
}

/// Reads until the text holds a word.
pub(crate) fn read_until(reader: &mut PipeReader, word: &str) -> String {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen);
        if text.contains(word) {
            return text.into_owned();
        }
        let count = reader.read(&mut piece).unwrap();
        assert!(count > 0, "no {word:?} in {text:?}");
        seen.extend_from_slice(&piece[..count]);
    }
}

impl Machine {
    /// Boots to the agent.
    fn boot(&self) -> Result<Guest<'static>, SessionError> {
        let initramfs = self.folder.path().join("initramfs");
        fs::write(&initramfs, guest_artifacts::initramfs()).unwrap();
        let console = fs::File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(self.folder.path().join("console"))
            .unwrap();
        let mut config = VmConfig::new(KERNEL.into(), initramfs, console.try_clone().unwrap());
        config.image_disk.clone_from(&self.images);
        config.writable_disk.clone_from(&self.writable);
        config.shares = (0..).zip(&self.shares).map(share).collect();
        config.networks = self.networks.iter().map(|(nic, _)| copy(nic)).collect();
        config.vcpus = self.vcpus;
        config.memory_mib = self.memory_mib;
        let vm = launch(self.accelerator, &config).unwrap();
        let mut options = Options::new(LIMIT);
        options.console = Some(console);
        Guest::connect(vm, options)
    }

    /// Starts the machine and its main process.
    pub(crate) fn start(&self) -> Result<Live, SessionError> {
        let (stdio, stdin, stdout, stderr) = pipes(self.process.stdin);
        let (handle, main) = self.boot()?.start(self.config(), stdio)?;
        Ok(Live {
            handle,
            main,
            stdin,
            stdout,
            stderr,
        })
    }

    /// Starts the machine without a main process.
    pub(crate) fn maintain(&self) -> Result<(Handle, Main), SessionError> {
        self.boot()?.maintain(self.config())
    }

    /// Runs with these bytes as stdin (if the process has one), and collects everything.
    pub(crate) fn run(&self, stdin: &[u8]) -> Ran {
        self.run_and(stdin, "", |_| {})
    }

    /// Runs with `ask` called when the process's output first holds `word`.
    pub(crate) fn run_and(&self, stdin: &[u8], word: &str, ask: impl FnOnce(&Live)) -> Ran {
        let mut live = match self.start() {
            Ok(live) => live,
            Err(error) => {
                return Ran {
                    outcome: Err(error),
                    stages: Vec::new(),
                    stdout: Vec::new(),
                    stderr: Vec::new(),
                };
            }
        };
        let mut input = live.stdin.try_clone().unwrap();
        let mut errors = live.stderr.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                // A process that does not read its stdin, or none that has one: then this fails when the machine ends.
                let _ = input.write_all(stdin);
            });
            let complaints = scope.spawn(move || {
                let mut all = Vec::new();
                errors.read_to_end(&mut all).unwrap();
                all
            });
            let mut stdout = read_until(&mut live.stdout, word).into_bytes();
            ask(&live);
            let Live {
                handle,
                main,
                stdin,
                stdout: mut rest,
                ..
            } = live;
            drop(stdin);
            rest.read_to_end(&mut stdout).unwrap();
            let outcome = main.wait();
            // At once, as a power cut would: what has been told must be true by now.
            drop(main);
            Ran {
                outcome,
                stages: handle.stages().to_vec(),
                stdout,
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
            networks: self
                .networks
                .iter()
                .map(|(_, interface)| interface.clone())
                .collect(),
            files: self.files.clone(),
            shm_bytes: self.shm_bytes,
            process: self.process.clone(),
            realtime_ns: 0,
            entropy: Vec::new(),
            late_devices: Vec::new(),
        }
    }
}
