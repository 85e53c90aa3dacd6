//! How long taking in an archive of images takes: `load` (or `import`, for a root file system) beside podman's and docker's of the
//! same archive, turn by turn.
//!
//! `cargo run --release -p bench --example load -- ARCHIVE [ROUNDS]` as root, after `cargo build --release`. Everything is written to
//! a fresh file system (`fresh`), where nothing is removed between the rounds; each round has a dockerd with a store of its own. Nobody's
//! time includes that all of it has reached the disk. Last come the floors: GNU tar unpacking the same archive (or the largest layer in
//! it), and a copy of it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

mod fresh;

use fresh::dockerd::Dockerd;
use fresh::{Outcome, succeed};

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
    let bytes = fs::metadata(&archive)?.len() * ROOM * u64::from(rounds) * 5 + (1 << 30);
    match fresh::place("load", bytes)? {
        Some(place) => inside(&place, &archive, rounds),
        None => Ok(()),
    }
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

fn inside(place: &Path, archive: &Path, rounds: u32) -> Outcome<()> {
    let images = holds_images(archive)?;
    println!(
        "{} of {} ({} MB), {rounds} rounds",
        if images { "load" } else { "import" },
        archive.display(),
        fs::metadata(archive)?.len() / 1_000_000
    );
    let layer = largest_layer(archive, images, place)?;
    let memory = fs::metadata(archive)?.len() * ROOM;
    let mut times: [Vec<Duration>; 5] = Default::default();
    let names = ["plimsoll", "podman", "docker", "tar -x", "cp"];
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
        fs::create_dir(state("docker"))?;
        match Dockerd::start(&state("docker")) {
            Ok(docker) => {
                let mut command = docker.client();
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
        // What a run that is cut off has found so far.
        for (name, times) in names.iter().zip(&times) {
            if let Some(last) = times.get(round as usize) {
                print!("{name} {:.2} s  ", last.as_secs_f64());
            }
        }
        println!();
    }
    let mut first = None;
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

fn timed(command: &mut Command, memory: u64) -> Outcome<Duration> {
    // What others have written must not wait for the disk in our time.
    succeed(&mut Command::new("sync"))?;
    fresh::touch_memory(memory)?;
    let begun = Instant::now();
    succeed(command)?;
    Ok(begun.elapsed())
}
