//! `plimsoll/toolbox`: the engine as an image, for the backend that runs a container inside a microVM.
//!
//! It is this very program and busybox. What the guest's init runs is a script that puts the engine's state on the instance's
//! own disk, finds the host's image store where it is shared, and starts the one container that the machine is for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use guest_artifacts::{APPLETS, BUSYBOX};
use image_core::{Change, Image, ImportOptions, Reference, Store, TarBuilder};

use crate::error::{Error, Result};

/// Its name.
pub(crate) const NAME: &str = "plimsoll/toolbox";

/// The program of the container's machine.
pub(crate) const PROGRAM: &str = "/bin/toolbox";

/// Where the host's image store is in the machine.
pub(crate) const STORE: &str = "/store";

/// Where what the user mounts is in the machine, by number.
pub(crate) const MOUNTS: &str = "/mounts";

/// Where the engine in the machine keeps its state.
pub(crate) const ROOT: &str = "/data/engine";

/// What the container is called in the machine.
pub(crate) const INNER: &str = "inner";

/// The label that says which build of Plimsoll the image comes from.
const LABEL: &str = "org.plimsoll.toolbox";

/// When the image says it was made: as plimsoll/base, a constant.
const CREATED: Duration = Duration::from_secs(1_767_225_600);

/// This program.
const OWN: &str = "/proc/self/exe";

/// The script. `$1` says whether the container reads standard input, the rest is what `run` gets.
///
/// The disk's file system is mounted a second time: the guest's init has it under an overlay, and an overlay's upper directory
/// cannot lie on another.
const SCRIPT: &str = r#"#!/bin/sh
set -e
fail() { echo "toolbox: $*" >&2; exit 125; }
mkdir -p /data /run
[ -e /data/engine ] || {
	numbers=$(cat /sys/block/vdb/dev) || fail "the machine has no disk of its own"
	[ -e /dev/data ] || mknod /dev/data b "${numbers%:*}" "${numbers#*:}"
	mount -t ext4 /dev/data /data || fail "cannot mount the machine's disk"
}
export PLIMSOLL_ROOT=/data/engine
mkdir -p $PLIMSOLL_ROOT/images
mount --bind /store $PLIMSOLL_ROOT/images || fail "cannot reach the host's images"
[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup || fail "cannot mount cgroups"
attach=$1
shift
if [ -L $PLIMSOLL_ROOT/names/inner ]; then
	exec plimsoll start $attach inner
fi
exec plimsoll run "$@"
"#;

/// Makes the image if the store does not have the one that belongs to this program.
///
/// # Errors
/// The image store's; [`Error::Io`] when this program cannot be read.
pub(crate) fn ensure(store: &Store) -> Result<Image> {
    let digest = own_identity()?;
    match store.resolve(NAME) {
        Ok(image) if is_current(&image, &digest) => return Ok(image),
        Ok(_) | Err(image_core::Error::ImageNotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let reference: Reference = NAME.parse()?;
    let changes = [
        format!("CMD [\"{PROGRAM}\"]"),
        format!("LABEL {LABEL}={digest}"),
    ]
    .iter()
    .map(|line| line.parse())
    .collect::<std::result::Result<Vec<Change>, _>>()?;
    let options = ImportOptions {
        name: Some(&reference),
        changes: &changes,
        created: Some(UNIX_EPOCH + CREATED),
        message: Some("made of the running plimsoll"),
    };
    Ok(store.import_with(archive()?.as_slice(), &options)?)
}

/// Tells one build of this program from another, without reading all of it at each start.
fn own_identity() -> Result<String> {
    /// Raised when the same program is made into another image.
    const LAYOUT: u32 = 1;
    let about = fs::metadata(OWN).map_err(|e| Error::io("look at", OWN, e))?;
    Ok(format!(
        "{LAYOUT}-{}-{}-{}",
        about.size(),
        about.mtime(),
        about.mtime_nsec()
    ))
}

fn is_current(image: &Image, digest: &str) -> bool {
    image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.labels().as_ref())
        .and_then(|labels| labels.get(LABEL))
        .is_some_and(|label| label == digest)
}

fn archive() -> Result<Vec<u8>> {
    let own = fs::read(OWN).map_err(|e| Error::io("read", OWN, e))?;
    let mut archive = TarBuilder::new(0);
    for path in [
        "bin", "data", "dev", "etc", "mounts", "proc", "root", "run", "sbin", "store", "sys",
        "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/lib",
    ] {
        archive.directory(path, 0o755)?;
    }
    for path in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
        archive.file(path, 0o644, b"")?;
    }
    archive
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?
        .file("etc/group", 0o644, b"root:x:0:\n")?
        .file("bin/busybox", 0o755, BUSYBOX)?
        .file("bin/plimsoll", 0o755, &own)?
        .file(&PROGRAM[1..], 0o755, SCRIPT.as_bytes())?;
    for applet in APPLETS.iter().filter(|applet| **applet != "bin/busybox") {
        archive.symlink(applet, "/bin/busybox")?;
    }
    Ok(archive.finish()?)
}
