//! Measures what each of many machines from one template has of its own: private memory of its monitor, and how long it takes to
//! be there.
//!
//! ```text
//! crowd --template DIRECTORY --initramfs FILE --image EROFS [--kernel FILE] [--machines N] [--memory MIB] [-- COMMAND…]
//! ```
//!
//! The template must have been made (`session --template`). With a command each machine runs it when it is measured for the second
//! time; it should sleep. Private memory is Private_Clean and Private_Dirty of /proc/PID/smaps_rollup.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use guest_protocol::{Extent, GuestConfig, ImageDisk, Process};
use microvm_core::session::{Guest, Options, StdioFds};
use microvm_core::template::Template;
use microvm_core::{Accelerator, Start, VmConfig, launch, monotonic_now};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crowd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut template, mut initramfs, mut image) = (PathBuf::new(), PathBuf::new(), PathBuf::new());
    let mut kernel = PathBuf::from("/var/cache/plimsoll/kernels/current/vmlinux");
    let (mut machines, mut memory, mut command) = (20, 256, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--" {
            command = words.by_ref().collect();
            break;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--template" => template = value.into(),
            "--initramfs" => initramfs = value.into(),
            "--image" => image = value.into(),
            "--kernel" => kernel = value.into(),
            "--machines" => machines = value.parse()?,
            "--memory" => memory = value.parse()?,
            _ => return Err(format!("unknown flag {word}").into()),
        }
    }
    let template = Template::open(&template)?.ok_or("there is no such template")?;
    let (mut waiting, mut times) = (Vec::new(), Vec::new());
    for _ in 0..machines {
        let console = OpenOptions::new().write(true).open("/dev/null")?;
        let mut config = VmConfig::new(kernel.clone(), initramfs.clone(), console);
        config.memory_mib = memory;
        config.image_disk = vec![image.clone()];
        config.start = Start::Template(template.clone());
        let begun = monotonic_now();
        let vm = launch(Accelerator::Kvm, &config)?;
        times.push(monotonic_now() - begun);
        waiting.push((
            vm.pid(),
            Guest::connect(vm, Options::new(Duration::from_secs(120)))?,
        ));
    }
    times.sort_unstable();
    println!(
        "restored: median {:.2} ms of {machines}",
        times[times.len() / 2] as f64 / 1e6
    );
    let pids: Vec<i32> = waiting.iter().map(|(pid, _)| *pid).collect();
    std::thread::sleep(Duration::from_secs(2));
    show("restored, idle", &pids)?;
    if command.is_empty() {
        return Ok(());
    }
    let mut running = Vec::new();
    for (_, guest) in waiting {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        let stdio = StdioFds {
            stdin: None,
            stdout: null.as_fd().try_clone_to_owned()?,
            stderr: null.into(),
        };
        running.push(guest.start(guest_config(&image, &command)?, stdio)?);
    }
    std::thread::sleep(Duration::from_secs(2));
    show("running the command", &pids)
}

fn show(what: &str, pids: &[i32]) -> Result<(), Box<dyn Error>> {
    let mut private = Vec::new();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| -> u64 {
            text.lines()
                .filter_map(|line| line.strip_prefix(name))
                .filter_map(|rest| rest.split_whitespace().next())
                .filter_map(|number| number.parse::<u64>().ok())
                .sum()
        };
        private.push(field("Private_Clean:") + field("Private_Dirty:"));
    }
    private.sort_unstable();
    let at = |place: usize| private.get(place).copied().unwrap_or(0) as f64 / 1024.0;
    println!(
        "{what}: private memory of each of {}: least {:.1}, median {:.1}, most {:.1} MiB",
        private.len(),
        at(0),
        at(private.len() / 2),
        at(private.len().saturating_sub(1))
    );
    Ok(())
}

fn guest_config(image: &Path, command: &[String]) -> std::io::Result<GuestConfig> {
    Ok(GuestConfig {
        hostname: "crowd".into(),
        image: ImageDisk {
            device: "/dev/vda".into(),
            layers: vec![Extent {
                offset: 0,
                length: fs::metadata(image)?.len(),
            }],
        },
        writable: None,
        read_only_rootfs: false,
        shares: Vec::new(),
        networks: Vec::new(),
        mounts: Vec::new(),
        files: Vec::new(),
        shm_bytes: 64 << 20,
        process: Process {
            args: command.to_vec(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()],
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
