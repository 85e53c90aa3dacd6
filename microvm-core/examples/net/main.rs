//! What a network device costs: TCP between this process and a guest, by our own monitor and by QEMU's virtio-net (with KVM, and
//! without the kernel's vhost), turn by turn in one run, with the same kernel, the same guest program and equal taps.
//!
//! `cargo run --release -p microvm-core --example net [-- ROUNDS [ACCELERATOR…]]` as root. It makes a network namespace of its
//! own, in which everything happens. Each round measures both ways of a stream, whose contents are compared, and how often a
//! request of one byte is answered in a second; and what the device itself took of a processor for each MiB and each request, which a
//! busy host disturbs least. On kvm_pvm the guest's kernel is interpreted, and how long things take there is mostly that.

mod guest;
mod host;

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use guest_protocol::{Extent, GuestConfig, ImageDisk, Interface, Process};
use microvm_core::session::{Guest, Handle, Main, Options, StdioFds};
use microvm_core::{Accelerator, Nic, Request, VmConfig, choose, cmdline, launch, substrate};

use host::{Amount, Figures};

const KERNEL: &str = "/var/cache/plimsoll/kernels/current/vmlinux";
const PORT: u16 = 9000;
const MTU: u16 = 1500;

/// Far longer than a boot takes anywhere.
const LIMIT: Duration = Duration::from_secs(300);

/// An arm: a machine that runs, and its connection.
struct Arm {
    accelerator: Accelerator,
    stream: TcpStream,
    monitor: i32,
    all: Vec<Figures>,
    // They end the machine.
    main: Main,
    _handle: Handle,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["guest", address] => guest::serve(address),
        _ => measure(&words),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("net: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(words: &[String]) -> Result<(), Box<dyn Error>> {
    let rounds: usize = words.first().map_or(Ok(5), |word| word.parse())?;
    let wanted = match words.get(1..) {
        None | Some([]) => ["qemu-kvm", "kvm"].map(str::to_owned).to_vec(),
        Some(words) => words.to_vec(),
    };
    host::own_network()?;
    let amount = Amount::on(&substrate());
    let folder = Folder::new()?;
    let image = image(&folder.0)?;
    let mut arms = Vec::new();
    for (number, word) in (0..).zip(&wanted) {
        arms.push(start(number, word.parse()?, &folder.0, &image)?);
    }
    for _ in 0..rounds {
        for arm in &mut arms {
            let figures = host::round(&mut arm.stream, arm.monitor, &amount)?;
            println!("{:>9}  {figures}", arm.accelerator.to_string());
            arm.all.push(figures);
        }
        // Whoever was last is first in the next round.
        arms.reverse();
    }
    arms.sort_by_key(|arm| {
        wanted
            .iter()
            .position(|word| *word == arm.accelerator.to_string())
    });
    println!("\nmedians of {rounds} rounds on {}", substrate());
    let medians: Vec<_> = arms.iter().map(|arm| Figures::median(&arm.all)).collect();
    for (arm, median) in arms.iter().zip(&medians) {
        println!("{:>9}  {median}", arm.accelerator.to_string());
    }
    if let [first, .., last] = &medians[..] {
        let names = [&arms[0], &arms[arms.len() - 1]].map(|arm| arm.accelerator);
        println!("{} / {}: {}", names[1], names[0], last.ratio(first));
    }
    for arm in arms {
        drop(arm.stream);
        arm.main.wait()?;
    }
    Ok(())
}

/// A directory that goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("plimsoll-net-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An image with this program, which is static, as all that there is in it.
fn image(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let root = folder.join("root");
    fs::create_dir(&root)?;
    let program = root.join("network");
    fs::copy("/proc/self/exe", &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let image = folder.join("image.erofs");
    let output = Command::new("mkfs.erofs")
        .arg("--all-root")
        .args([&image, &root])
        .output()
        .map_err(|error| format!("mkfs.erofs (package erofs-utils): {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(image)
}

/// Starts a machine, and waits until its program has called.
fn start(number: u8, request: Request, folder: &Path, image: &Path) -> Result<Arm, Box<dyn Error>> {
    let (accelerator, _) = choose(request)?;
    let gateway = [10, 99, number, 1];
    let mac = [2, 0, 0, 0, 0, number];
    let tap = host::tap(&format!("tap{number}"), gateway)?;
    let listener = TcpListener::bind((Ipv4Addr::from(gateway), PORT))?;

    let initramfs = folder.join(format!("initramfs{number}"));
    fs::write(&initramfs, guest_artifacts::initramfs())?;
    let console = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(folder.join(format!("console{number}")))?;
    let kernel = std::env::var_os("PLIMSOLL_KERNEL").map_or(KERNEL.into(), PathBuf::from);
    let mut config = VmConfig::new(kernel, initramfs, console.try_clone()?);
    config.image_disk = vec![image.to_owned()];
    config.networks = vec![Nic { tap, mac, mtu: MTU }];
    let vm = launch(accelerator, &config)?;
    let monitor = vm.pid();
    let mut options = Options::new(LIMIT);
    options.console = Some(console);
    let guest = Guest::connect(vm, options)?;
    let null = || OpenOptions::new().read(true).write(true).open("/dev/null");
    let stdio = StdioFds {
        stdin: None,
        stdout: null()?.into(),
        stderr: std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned()?,
    };
    let interface = Interface {
        mac,
        name: "eth0".into(),
        address: [10, 99, number, 2],
        prefix: 24,
        gateway: Some(gateway),
        mtu: MTU,
    };
    let (handle, main) = guest.start(guest_config(image, interface)?, stdio)?;
    let stream = accept(&listener)?;
    stream.set_nodelay(true)?;
    Ok(Arm {
        accelerator,
        stream,
        monitor,
        all: Vec::new(),
        main,
        _handle: handle,
    })
}

/// The guest's call, if it comes.
fn accept(listener: &TcpListener) -> Result<TcpStream, Box<dyn Error>> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + LIMIT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(format!("the guest does not call: {error}").into()),
        }
    }
}

fn guest_config(image: &Path, interface: Interface) -> std::io::Result<GuestConfig> {
    let gateway = Ipv4Addr::from(interface.gateway.unwrap_or_default());
    let mut env = Vec::new();
    if !substrate().is_hardware() {
        env.push(cmdline::PVM_GLIBC_TUNABLES.to_owned());
    }
    Ok(GuestConfig {
        hostname: "network".into(),
        image: ImageDisk {
            device: "/dev/vda".into(),
            layers: vec![Extent {
                offset: 0,
                length: fs::metadata(image)?.len(),
            }],
        },
        writable: None,
        read_only_rootfs: true,
        shares: Vec::new(),
        networks: vec![interface],
        mounts: Vec::new(),
        files: Vec::new(),
        shm_bytes: 1 << 20,
        process: Process {
            args: vec![
                "/network".into(),
                "guest".into(),
                format!("{gateway}:{PORT}"),
            ],
            env,
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
        realtime_ns: 0,
        entropy: Vec::new(),
        late_devices: Vec::new(),
    })
}
