//! The static programs that run inside instances, built by this crate's build script and embedded, and the initial RAM disk
//! that a microVM boots with.
//!
//! [`AGENT`] is PID 1 of a microVM, [`TOOLS`] what it is sent when there is something to do that the image may have no program
//! for, [`WORKLOAD`] the fixed pieces of work that every arm of the measurements runs, [`BUSYBOX`]
//! Debian's busybox-static. The last two are what the built-in image `plimsoll/base` is made of.

mod cpio;

include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// The initial RAM disk: an uncompressed cpio archive with the agent as `/init`, the console, and directories to mount on.
///
/// The same bytes each time. Uncompressed, since a guest whose kernel is emulated unpacks slowly.
pub fn initramfs() -> Vec<u8> {
    initramfs_with([])
}

/// The same with modules for a kernel that has its drivers in them: names and contents, in the order they are to be loaded in.
pub fn initramfs_with<'a>(modules: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut archive = cpio::Archive::default();
    // Where the agent mounts the devices, the image's layers, the writable layer and the whole.
    for directory in ["dev", "image", "write", "root"] {
        archive.directory(directory, 0o755);
    }
    // The kernel opens the console as init's stdio before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, AGENT);
    let mut modules = modules.into_iter().enumerate().peekable();
    if modules.peek().is_some() {
        archive.directory("modules", 0o755);
    }
    for (number, (name, contents)) in modules {
        // The agent goes by the names' order.
        archive.file(&format!("modules/{number:03}-{name}"), 0o644, contents);
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_digests_are_those_of_the_programs() {
        for (program, digest) in [
            (AGENT, AGENT_SHA256),
            (TOOLS, TOOLS_SHA256),
            (WORKLOAD, WORKLOAD_SHA256),
            (BUSYBOX, BUSYBOX_SHA256),
        ] {
            let found: String = Sha256::digest(program)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(found, digest);
        }
    }

    #[test]
    fn the_agent_is_small() {
        // What the guest's kernel copies at each boot; a static program with Rust's and C's libraries has 1.1 MB.
        assert!(AGENT.len() < 256 << 10, "{} bytes", AGENT.len());
    }

    #[test]
    fn the_tools_are_small() {
        // What the guest's kernel copies when they are wanted.
        assert!(TOOLS.len() < 128 << 10, "{} bytes", TOOLS.len());
    }

    #[test]
    fn the_agent_needs_no_relocation_and_no_loader() {
        // e_type at byte 16: ET_EXEC is 2.
        assert_eq!(AGENT.get(16..18), Some(&[2, 0][..]));
    }

    #[test]
    fn modules_are_named_in_the_order_they_are_given_in() {
        let contains =
            |archive: &[u8], name: &[u8]| archive.windows(name.len()).any(|window| window == name);
        let archive = initramfs_with([("virtio.ko", &b"a"[..]), ("erofs.ko", b"b")]);
        assert!(contains(&archive, b"modules/000-virtio.ko\0"));
        assert!(contains(&archive, b"modules/001-erofs.ko\0"));
        assert!(!contains(&initramfs(), b"modules/000"));
    }

    #[test]
    fn cpio_lists_what_the_archive_holds() {
        let mut cpio = match Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(cpio) => cpio,
            Err(error) => return eprintln!("skipped: cannot run cpio: {error}"),
        };
        let mut stdin = cpio.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&initramfs()));
        let output = cpio.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let line = |name: &str| {
            listing
                .lines()
                .find(|line| line.split_whitespace().last() == Some(name))
                .unwrap_or_else(|| panic!("no {name} in\n{listing}"))
        };
        assert!(line("init").starts_with("-rwxr-xr-x"));
        assert!(line("init").contains(&AGENT.len().to_string()));
        assert!(line("dev/console").starts_with("crw-------"));
        assert!(line("dev/console").contains("5,   1"));
        assert!(line("root").starts_with("drwxr-xr-x"));
    }
}
