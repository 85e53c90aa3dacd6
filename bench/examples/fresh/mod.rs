//! A place to measure in: a fresh ext4 file system in a file, mounted where nobody else sees it, and memory that this machine has.
//!
//! ext4 passes over inodes that were freed in the last minutes one by one, so that on a file system where trees are made and removed in
//! turn each new file costs up to a millisecond, and whoever comes later pays.

pub(crate) mod dockerd;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Set in the process that has a mount namespace of its own.
const INSIDE: &str = "PLIMSOLL_BENCH_PLACE";

/// A directory on a fresh file system of so many bytes. None in the process that has had itself run again there, when that is done.
pub(crate) fn place(name: &str, bytes: u64) -> Outcome<Option<PathBuf>> {
    if let Some(folder) = std::env::var_os(INSIDE).map(PathBuf::from) {
        let place = folder.join("mnt");
        succeed(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(folder.join("disk"))
                .arg(&place),
        )?;
        return Ok(Some(place));
    }
    let folder = tempfile::Builder::new()
        .prefix(&format!("plimsoll-{name}-"))
        .tempdir_in("/var/tmp")?;
    let disk = folder.path().join("disk");
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
        .args(std::env::args_os().skip(1))
        .env(INSIDE, folder.path())
        .status()?;
    if status.success() {
        Ok(None)
    } else {
        Err("the measurement failed".into())
    }
}

/// Touches memory that will be used: what a hypervisor has taken back from this machine costs whoever is given it first several
/// microseconds a page.
pub(crate) fn touch_memory(bytes: u64) -> Outcome<()> {
    // SAFETY: a zeroed sysinfo is one that the kernel may fill.
    let mut about: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local that outlives the call.
    if unsafe { libc::sysinfo(&raw mut about) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let half = about.freeram * u64::from(about.mem_unit) / 2;
    let bytes = usize::try_from(bytes.min(half))?;
    // In a process of its own: the most memory that this one ever had would count as that of every command it runs.
    // SAFETY: this program is one thread; the child makes two system calls and ends.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(std::io::Error::last_os_error().into()),
        0 => {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping at a place that the kernel chooses.
            let map = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
            // SAFETY: it ends this process.
            unsafe { libc::_exit(i32::from(map == libc::MAP_FAILED)) };
        }
        _ => {}
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local that outlives the call; the process is our child, which nothing else waits for.
    if unsafe { libc::waitpid(child, &raw mut status, 0) } != child || status != 0 {
        return Err("memory could not be touched".into());
    }
    Ok(())
}

/// Runs a command to its end, which must be a good one.
pub(crate) fn succeed(command: &mut Command) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
