//! `--tmpfs`.

use super::{MountError, MountKind, MountSpec, Origin, TmpfsMount, path};

/// Flags that docker takes for a tmpfs.
const FLAGS: [&str; 25] = [
    "defaults",
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "mand",
];

/// Options with a value that docker takes for a tmpfs (kernel, Documentation/filesystems/tmpfs.rst).
const VALUES: [&str; 7] = [
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "mpol",
];

/// fsconfig(2) takes values up to this many bytes.
const VALUE_BYTES: usize = 255;

/// Reads `--tmpfs /target[:OPTION,…]`.
///
/// # Errors
/// [`MountError::TmpfsOption`], or a target that cannot be one.
pub fn parse_tmpfs(text: &str) -> Result<MountSpec, MountError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = path::target(target)?;
    let mut kept = Vec::new();
    let mut read_only = false;
    for option in options.split(',').filter(|_| !options.is_empty()) {
        let known = match option.split_once('=') {
            Some((key, value)) => {
                VALUES.contains(&key) && !value.is_empty() && value.len() <= VALUE_BYTES
            }
            None => FLAGS.contains(&option),
        };
        if !known {
            return Err(MountError::TmpfsOption(option.to_owned()));
        }
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // What is so anyway, to the kernel and to the runtime.
            "defaults" | "mand" => {}
            _ => kept.push(option.to_owned()),
        }
    }
    Ok(MountSpec {
        kind: MountKind::Tmpfs(TmpfsMount {
            options: kept,
            by_mount: false,
        }),
        target,
        read_only,
        origin: Origin::Asked,
    })
}
