//! Builds the programs that run inside instances, and embeds them.
//!
//! They are built by a cargo of their own, since their flags differ from the command's: the baseline instruction set at a
//! fixed address, with the profile `guest`. It has its own target directory below OUT_DIR, so that it waits for no lock that
//! the outer cargo holds, and `--locked`, since the outer cargo has just brought the lock file up to date. It fetches
//! nothing that the outer one has not fetched, unless the programs get dependencies of their own; an outer `--offline`
//! reaches it through the environment when it is set there (CARGO_NET_OFFLINE).

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Debian's statically linked busybox.
const BUSYBOX: &str = "/bin/busybox";

/// A program of this workspace.
struct Program {
    /// The package and its binary.
    name: &'static str,
    /// Flags for rustc beyond [`COMMON_FLAGS`].
    flags: &'static [&'static str],
    /// Arguments for cargo.
    arguments: &'static [&'static str],
}

/// x86-64's baseline, so that no substrate lacks an instruction, and not relocatable, so that nothing is relocated at start.
const COMMON_FLAGS: &[&str] = &[
    "-Ctarget-feature=+crt-static",
    "-Ctarget-cpu=x86-64",
    "-Crelocation-model=static",
    "-Clink-arg=-Wl,--strip-all",
];

const PROGRAMS: [Program; 3] = [
    Program {
        name: "guest-agent",
        flags: &["-Cforce-unwind-tables=no"],
        // Each of its bytes is copied by the guest's kernel at every boot: its dependencies are built for size as well.
        arguments: &[
            "--features=freestanding",
            "--config=profile.guest.opt-level=\"s\"",
        ],
    },
    Program {
        name: "guest-tools",
        flags: &["-Cforce-unwind-tables=no"],
        // As the agent's, whenever it is sent along.
        arguments: &[
            "--features=freestanding",
            "--config=profile.guest.opt-level=\"s\"",
        ],
    },
    Program {
        name: "workload",
        flags: &[],
        arguments: &[],
    },
];

/// What the programs are made of, below the workspace's root.
const SOURCES: [&str; 8] = [
    "guest/agent",
    "guest/freestanding",
    "guest/protocol",
    "guest/tools",
    "bench/workload",
    "Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
];

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={BUSYBOX}");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let mut constants = String::new();
    for program in &PROGRAMS {
        let built = build(program, &root, &out.join("programs"))?;
        embed(
            program.name.trim_start_matches("guest-"),
            &built,
            &mut constants,
        )?;
    }
    let busybox = out.join("busybox");
    copy_busybox(&busybox)?;
    embed("busybox", &busybox, &mut constants)?;
    list_applets(&mut constants)?;
    fs::write(out.join("programs.rs"), constants)?;
    Ok(())
}

/// Builds a program and gives its path.
fn build(program: &Program, root: &Path, target: &Path) -> Result<PathBuf> {
    let flags: Vec<&str> = [COMMON_FLAGS, program.flags].concat();
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .current_dir(root)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--profile=guest",
            "--target",
            TARGET,
        ])
        .args(["--package", program.name, "--bin", program.name])
        .arg("--target-dir")
        .arg(target)
        .args(program.arguments)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // What the outer cargo, or clippy, has set for its own crates.
    for foreign in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
    ] {
        cargo.env_remove(foreign);
    }
    let output = cargo
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} does not build:\n{errors}", program.name).into());
    }
    Ok(target.join(TARGET).join("guest").join(program.name))
}

/// Copies busybox, and makes sure that it runs without any library.
fn copy_busybox(to: &Path) -> Result<()> {
    let bytes = fs::read(BUSYBOX)
        .map_err(|error| format!("{BUSYBOX}: {error}: install the package busybox-static"))?;
    if !is_static(&bytes) {
        return Err(format!(
            "{BUSYBOX} is not statically linked: install the package busybox-static"
        )
        .into());
    }
    fs::write(to, bytes)?;
    Ok(())
}

/// Writes down which programs busybox is, by the paths they have in a root file system.
fn list_applets(constants: &mut String) -> Result<()> {
    let output = Command::new(BUSYBOX)
        .arg("--list-full")
        .output()
        .map_err(|error| format!("cannot run {BUSYBOX}: {error}"))?;
    let list = String::from_utf8(output.stdout)?;
    let applets: Vec<&str> = list.lines().collect();
    if !output.status.success() || applets.is_empty() {
        return Err(format!("{BUSYBOX} --list-full tells nothing").into());
    }
    writeln!(
        constants,
        "/// The programs that [`BUSYBOX`] is, as paths without the leading slash.\npub const APPLETS: &[&str] = &{applets:?};"
    )?;
    Ok(())
}

/// Whether this is a 64-bit ELF file that names no interpreter.
fn is_static(elf: &[u8]) -> bool {
    /// PT_INTERP, and places in the headers: the ELF-64 specification.
    const PT_INTERP: u32 = 3;
    let half = |at: usize| {
        elf.get(at..at + 2)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_le_bytes)
    };
    let word = |at: usize| {
        elf.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let long = |at: usize| {
        elf.get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_le_bytes)
    };
    if !elf.starts_with(b"\x7fELF\x02") {
        return false;
    }
    let (Some(start), Some(size), Some(count)) = (long(32), half(54), half(56)) else {
        return false;
    };
    (0..usize::from(count)).all(|index| {
        let header = (start as usize).saturating_add(index * usize::from(size));
        word(header).is_some_and(|kind| kind != PT_INTERP)
    })
}

/// Writes the constants for one program.
fn embed(name: &str, path: &Path, constants: &mut String) -> Result<()> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let digest = Sha256::digest(&bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
    let constant = name.to_uppercase();
    let path = path
        .to_str()
        .ok_or("the build directory's name is not UTF-8")?;
    writeln!(
        constants,
        "/// The program `{name}`: a static ELF file for x86-64."
    )?;
    writeln!(
        constants,
        "pub const {constant}: &[u8] = include_bytes!({path:?});"
    )?;
    writeln!(
        constants,
        "/// The SHA-256 of [`{constant}`], in hexadecimal."
    )?;
    writeln!(constants, "pub const {constant}_SHA256: &str = {digest:?};")?;
    Ok(())
}
