//! How long taking in an archive of images takes: `load` (or `import`, for a root file system) beside podman's and docker's of the
//! same archive, turn by turn.
//!
//! `cargo run --release -p bench --example load -- ARCHIVE [ROUNDS]` as root, after `cargo build --release`. Everything is written to
//! a fresh ext4 file system in a file, mounted where nobody else sees it: ext4 passes over inodes that were freed in the last
//! minutes one by one, so that on a file system where trees are made and removed in turn each new file costs up to a millisecond,
//! and whoever comes later pays. Nothing is removed between the rounds, for the same reason, and each round has a dockerd with a store
//! of its own. Before each turn as much memory as it may fill is touched: what a hypervisor has taken back from this machine would cost
//! whoever is given it first several microseconds a page. Nobody's time includes that all of it has reached the disk. Last come the
//! floors: GNU tar unpacking the same archive (or the largest layer in it), and a copy of it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Set in the process that has a mount namespace of its own.
const INSIDE: &str = "PLIMSOLL_LOAD_BENCH";

/// Bytes of the file system for each round and engine, as a multiple of the archive's: its content twice, uncompressed.
const ROOM: u64 = 6;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args_os().skip(1);
    let archive = arguments
        .next()
        .ok_or("usage: load ARCHIVE [ROUNDS]")
        .map(PathBuf::from)?;
    let archive = fs::canonicalize(archive)?;
    let rounds: u32 = match arguments.next() {
        Some(text) => text.to_string_lossy().parse()?,
        None => 3,
    };
    if let Some(folder) = std::env::var_os(INSIDE) {
        return inside(Path::new(&folder), &archive, rounds);
    }
    let folder = tempfile::Builder::new()
        .prefix("plimsoll-load-")
        .tempdir_in("/var/tmp")?;
    let disk = folder.path().join("disk");
    let bytes = fs::metadata(&archive)?.len() * ROOM * u64::from(rounds) * 5 + (1 << 30);
    File::create(&disk)?.set_len(bytes)?;
    succeed(
        Command::new("mkfs.ext4")
            .args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&disk),
    )?;
    fs::create_dir(folder.path().join("mnt"))?;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .arg(&archive)
        .arg(rounds.to_string())
        .env(INSIDE, folder.path())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("the measurement failed".into())
    }
}

fn succeed(command: &mut Command) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{:?}: {said}", command.get_program()).into())
}

/// Whether the archive holds images, not a root file system.
fn holds_images(archive: &Path) -> Outcome<bool> {
    let mut start = [0; 2];
    File::open(archive)?.read_exact(&mut start)?;
    if start == [0x1f, 0x8b] {
        return Ok(true);
    }
    let mut tar = tar::Archive::new(File::open(archive)?);
    for entry in tar.entries()?.take(64) {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if path == "oci-layout" || path == "manifest.json" || path.ends_with(".json") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn inside(folder: &Path, archive: &Path, rounds: u32) -> Outcome<()> {
    let place = folder.join("mnt");
    succeed(
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(folder.join("disk"))
            .arg(&place),
    )?;
    let images = holds_images(archive)?;
    println!(
        "{} of {} ({} MB), {rounds} rounds",
        if images { "load" } else { "import" },
        archive.display(),
        fs::metadata(archive)?.len() / 1_000_000
    );
    let layer = largest_layer(archive, images, &place)?;
    let memory = fs::metadata(archive)?.len() * ROOM;
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 0..rounds {
        let state = |engine: &str| place.join(format!("{engine}-{round}"));
        let verb = |command: &mut Command| {
            if images {
                command.args(["load", "-i"]).arg(archive);
            } else {
                command
                    .arg("import")
                    .arg(archive)
                    .arg(format!("bench:{round}"));
            }
        };
        let mut plimsoll = Command::new(plimsoll()?);
        plimsoll.arg("--root").arg(state("plimsoll"));
        verb(&mut plimsoll);
        times[0].push(timed(&mut plimsoll, memory)?);
        if Path::new("/usr/bin/podman").exists() {
            let mut podman = Command::new("/usr/bin/podman");
            podman
                .arg("--root")
                .arg(state("podman"))
                .arg("--runroot")
                .arg(place.join("podman-run"))
                .arg("--tmpdir")
                .arg(place.join("podman-tmp"))
                .args([
                    "--storage-driver",
                    "overlay",
                    "--cgroup-manager",
                    "cgroupfs",
                ])
                .args(["--events-backend", "file"]);
            verb(&mut podman);
            times[1].push(timed(&mut podman, memory)?);
        }
        match Docker::start(&state("docker")) {
            Ok(docker) => {
                let mut command = docker.command();
                verb(&mut command);
                times[2].push(timed(&mut command, memory)?);
            }
            Err(reason) => println!("docker is left out: {reason}"),
        }
        fs::create_dir(state("tar"))?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(state("tar")).arg("-xf").arg(&layer);
        times[3].push(timed(&mut tar, memory)?);
        let mut copy = Command::new("cp");
        copy.arg(archive).arg(state("copy"));
        times[4].push(timed(&mut copy, memory)?);
    }
    let mut first = None;
    let names = ["plimsoll", "podman", "docker", "tar -x", "cp"];
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_unstable();
        let Some(median) = times.get(times.len() / 2) else {
            continue;
        };
        let ours = *first.get_or_insert(*median);
        let all: Vec<String> = times
            .iter()
            .map(|t| format!("{:.2}", t.as_secs_f64()))
            .collect();
        println!(
            "{name:<9} median {:.2} s, {:.2} times ours ({})",
            median.as_secs_f64(),
            median.as_secs_f64() / ours.as_secs_f64(),
            all.join(" ")
        );
    }
    Ok(())
}

fn plimsoll() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("PLIMSOLL_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let folder = own
        .ancestors()
        .nth(2)
        .ok_or("this program is not where cargo puts examples")?;
    Ok(folder.join("plimsoll"))
}

/// The archive itself, or a copy of the largest file in an uncompressed one of images.
fn largest_layer(archive: &Path, images: bool, place: &Path) -> Outcome<PathBuf> {
    let mut start = [0; 2];
    File::open(archive)?.read_exact(&mut start)?;
    if !images || start == [0x1f, 0x8b] {
        return Ok(archive.to_owned());
    }
    let sizes = tar::Archive::new(File::open(archive)?)
        .entries()?
        .map(|entry| entry.map(|entry| entry.size()))
        .collect::<Result<Vec<_>, _>>()?;
    let largest = sizes.iter().max().copied().unwrap_or_default();
    let path = place.join("layer");
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        if entry.size() == largest {
            std::io::copy(&mut entry, &mut File::create(&path)?)?;
            break;
        }
    }
    Ok(path)
}

/// Has the hypervisor give this machine as much memory as will be used.
fn touch_memory(bytes: u64) -> Outcome<()> {
    // SAFETY: a zeroed sysinfo is one that the kernel may fill.
    let mut about: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local that outlives the call.
    if unsafe { libc::sysinfo(&raw mut about) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let half = about.freeram * u64::from(about.mem_unit) / 2;
    let bytes = usize::try_from(bytes.min(half))?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: it was mapped just now with this size, and nothing refers to it.
    unsafe { libc::munmap(map, bytes) };
    Ok(())
}

fn timed(command: &mut Command, memory: u64) -> Outcome<Duration> {
    // What others have written must not wait for the disk in our time.
    succeed(&mut Command::new("sync"))?;
    touch_memory(memory)?;
    let begun = Instant::now();
    succeed(command)?;
    Ok(begun.elapsed())
}

/// Debian's dockerd with everything of it below a directory.
struct Docker {
    daemon: Child,
    socket: String,
}

impl Docker {
    fn start(place: &Path) -> Outcome<Self> {
        let at = |name: &str| place.join(name);
        fs::create_dir(place)?;
        let socket = format!("unix://{}", at("socket").display());
        let log = File::create(at("log"))?;
        let daemon = Command::new("/usr/sbin/dockerd")
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args([
                "--host",
                &socket,
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
            ])
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip-forward=false",
                "--ip-masq=false",
            ])
            .args(["--storage-driver", "overlay2"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut docker = Self { daemon, socket };
        let deadline = Instant::now() + Duration::from_secs(60);
        while succeed(docker.command().arg("info")).is_err() {
            if Instant::now() > deadline || docker.daemon.try_wait()?.is_some() {
                return Err("dockerd does not start".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(docker)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command.args(["--host", &self.socket]);
        command
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SAFETY: kill(2) takes two numbers and touches no memory.
        unsafe { libc::kill(self.daemon.id().cast_signed(), libc::SIGTERM) };
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && matches!(self.daemon.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
