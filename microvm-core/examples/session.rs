//! Runs one command in a virtual machine, from disk images, with the terminal's stdio: the whole of this crate in one
//! program, for trying things out.
//!
//! ```text
//! cargo run -p microvm-core --example session -- --accel tcg --image base.erofs -- /bin/echo hi
//! ```
//!
//! Prints the stages of the start to stderr with `--times`.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use guest_protocol::{Extent, GuestConfig, ImageDisk, Process, SharedMount, WindowSize};
use microvm_core::session::{Guest, Options, StdioFds};
use microvm_core::template::{Draft, Template};
use microvm_core::{Accelerator, Request, Share, Start, VmConfig, choose, launch, monotonic_now};

const USAGE: &str = "usage: session [--accel auto|kvm|tcg|qemu-kvm] [--kernel FILE] [--initramfs FILE] [--append WORDS] [--image EROFS]... \
                     [--writable EXT4] [--share SOURCE:TARGET[:ro]]... [--cpus N] [--limit SECONDS] [--tty] [--times] [--template DIRECTORY] -- COMMAND [ARGUMENT]...";

struct Arguments {
    request: Request,
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    append: String,
    images: Vec<PathBuf>,
    writable: Option<PathBuf>,
    shares: Vec<(Share, SharedMount)>,
    cpus: u8,
    limit: u64,
    tty: bool,
    times: bool,
    template: Option<PathBuf>,
    command: Vec<String>,
}

fn parse() -> Result<Arguments, Box<dyn Error>> {
    let mut parsed = Arguments {
        request: Request::Auto,
        kernel: "/var/cache/plimsoll/kernels/current/vmlinux".into(),
        initramfs: None,
        append: String::new(),
        images: Vec::new(),
        writable: None,
        shares: Vec::new(),
        cpus: 1,
        limit: 120,
        tty: false,
        times: false,
        template: None,
        command: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .ok_or_else(|| format!("{word} needs a value\n{USAGE}"))
        };
        match word.as_str() {
            "--accel" => parsed.request = value()?.parse()?,
            "--kernel" => parsed.kernel = value()?.into(),
            "--initramfs" => parsed.initramfs = Some(value()?.into()),
            "--append" => parsed.append = value()?,
            "--image" => parsed.images.push(value()?.into()),
            "--writable" => parsed.writable = Some(value()?.into()),
            "--share" => {
                let number = parsed.shares.len();
                parsed.shares.push(share(number, &value()?)?);
            }
            "--cpus" => parsed.cpus = value()?.parse()?,
            "--limit" => parsed.limit = value()?.parse()?,
            "--tty" => parsed.tty = true,
            "--times" => parsed.times = true,
            "--template" => parsed.template = Some(value()?.into()),
            "--" => {
                parsed.command = words.collect();
                break;
            }
            other => return Err(format!("{other}: unknown\n{USAGE}").into()),
        }
    }
    if parsed.images.is_empty() || parsed.command.is_empty() {
        return Err(USAGE.into());
    }
    Ok(parsed)
}

/// What `SOURCE:TARGET` or `SOURCE:TARGET:ro` shares.
fn share(number: usize, words: &str) -> Result<(Share, SharedMount), Box<dyn Error>> {
    /// Linux's O_PATH on x86-64.
    const O_PATH: i32 = 0o10_000_000;
    let parts: Vec<&str> = words.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [source, target] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err(USAGE.into()),
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(O_PATH)
        .open(source)?;
    let name = number.to_string();
    let mount = SharedMount {
        name: name.clone(),
        target: (*target).into(),
        read_only,
    };
    let share = Share {
        name,
        source: opened.into(),
        read_only,
    };
    Ok((share, mount))
}

/// Where each image lies on the disk that all of them are.
fn layers(images: &[PathBuf]) -> std::io::Result<Vec<Extent>> {
    let mut offset = 0;
    images
        .iter()
        .map(|image| {
            let length = fs::metadata(image)?.len();
            let extent = Extent { offset, length };
            offset += length;
            Ok(extent)
        })
        .collect()
}

fn run() -> Result<u8, Box<dyn Error>> {
    let mut arguments = parse()?;
    let begun = monotonic_now();
    let (accelerator, why) = choose(arguments.request)?;
    let folder = std::env::temp_dir().join(format!("plimsoll-session-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let outcome = in_folder(&mut arguments, accelerator, &folder, begun);
    fs::remove_dir_all(&folder)?;
    if arguments.times {
        eprintln!("{why}");
    }
    outcome
}

fn in_folder(
    arguments: &mut Arguments,
    accelerator: Accelerator,
    folder: &Path,
    begun: u64,
) -> Result<u8, Box<dyn Error>> {
    let initramfs = match &arguments.initramfs {
        Some(other) if other.exists() => other.clone(),
        // A template fits one file and no copy of it: one that is named is made and stays.
        Some(other) => {
            fs::write(other, guest_artifacts::initramfs())?;
            other.clone()
        }
        None => {
            let path = folder.join("initramfs");
            fs::write(&path, guest_artifacts::initramfs())?;
            path
        }
    };
    let console = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(folder.join("console"))?;
    let mut config = VmConfig::new(
        arguments.kernel.clone(),
        initramfs.clone(),
        console.try_clone()?,
    );
    config.image_disk.clone_from(&arguments.images);
    config.writable_disk.clone_from(&arguments.writable);
    let (shares, mounts) = std::mem::take(&mut arguments.shares).into_iter().unzip();
    config.shares = shares;
    config.vcpus = arguments.cpus;
    config.extra_cmdline.clone_from(&arguments.append);
    if let Some(path) = &arguments.template {
        config.start = Start::Template(template(path, accelerator, arguments, &initramfs)?);
    }
    let vm = launch(accelerator, &config)?;
    let mut options = Options::new(Duration::from_secs(arguments.limit));
    options.console = Some(console);
    let guest = Guest::connect(vm, options)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let stdio = StdioFds {
        stdin: Some(stdin.as_fd().try_clone_to_owned()?),
        stdout: stdout.as_fd().try_clone_to_owned()?,
        stderr: stderr.as_fd().try_clone_to_owned()?,
    };
    let config = GuestConfig {
        hostname: "session".into(),
        image: ImageDisk {
            device: "/dev/vda".into(),
            layers: layers(&arguments.images)?,
        },
        writable: arguments.writable.as_ref().map(|_| "/dev/vdb".into()),
        read_only_rootfs: false,
        shares: mounts,
        networks: Vec::new(),
        mounts: Vec::new(),
        files: Vec::new(),
        shm_bytes: 64 << 20,
        process: Process {
            args: arguments.command.clone(),
            env: vec![
                "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into(),
                "HOME=/root".into(),
            ],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            umask: 0o22,
            terminal: arguments.tty.then_some(WindowSize {
                rows: 24,
                columns: 80,
            }),
            stdin: true,
            rlimits: Vec::new(),
            no_new_privileges: false,
            capabilities: None,
        },
        realtime_ns: 0,
        entropy: Vec::new(),
        late_devices: Vec::new(),
    };
    let (handle, main) = guest.start(config, stdio)?;
    let exit = main.wait()?;
    if arguments.times {
        let millis = |at: u64| at.saturating_sub(begun) as f64 / 1e6;
        for stage in handle.stages() {
            eprintln!("{:>18} {:9.1} ms", stage.name, millis(stage.at));
        }
        eprintln!("{:>18} {:9.1} ms", "ended", millis(exit.ended_at));
        eprintln!("{:>18} {:9.1} ms", "exit", millis(monotonic_now()));
        eprintln!("{exit:?}");
    }
    // The agent has told the exit once everything was on the disk, so nothing is lost by not waiting for its reset.
    drop(main);
    Ok(exit.code())
}

/// The template in this directory, made if there is none.
fn template(
    path: &Path,
    accelerator: Accelerator,
    arguments: &Arguments,
    initramfs: &Path,
) -> Result<Template, Box<dyn Error>> {
    if let Some(template) = Template::open(path)? {
        return Ok(template);
    }
    let begun = monotonic_now();
    let draft = Draft::begin(path)?.ok_or("another process makes this template")?;
    let console = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path.with_extension("console"))?;
    let mut config = VmConfig::new(
        arguments.kernel.clone(),
        initramfs.to_owned(),
        console.try_clone()?,
    );
    config.vcpus = arguments.cpus;
    config.extra_cmdline.clone_from(&arguments.append);
    config.start = Start::Draft(draft.files()?);
    let mut options = Options::new(Duration::from_secs(arguments.limit));
    options.console = Some(console);
    let guest = Guest::connect(launch(accelerator, &config)?, options)?;
    let booted = monotonic_now();
    guest.save()?;
    let saved = monotonic_now();
    let template = draft.publish()?;
    let millis = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
    eprintln!(
        "template: booted in {:.1} ms, saved in {:.1} ms, kept in {:.1} ms, {} KiB",
        millis(begun, booted),
        millis(booted, saved),
        millis(saved, monotonic_now()),
        template.stored_bytes() / 1024
    );
    Ok(template)
}

fn main() -> ExitCode {
    run().map(ExitCode::from).unwrap_or_else(|error| {
        eprintln!("session: {error}");
        ExitCode::from(125)
    })
}
