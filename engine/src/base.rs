//! `plimsoll/base`: the image that is there without any import, made of what is built into this program.

use std::time::{Duration, UNIX_EPOCH};

use guest_artifacts::{APPLETS, BUSYBOX, WORKLOAD};
use image_core::{Change, Image, ImportOptions, Reference, Store, TarBuilder};

use crate::error::Result;

/// Its name.
pub const NAME: &str = "plimsoll/base";

/// The label that says which build of Plimsoll the image comes from.
const LABEL: &str = "org.plimsoll.base";

/// When the image says it was made, since the epoch (2026-01-01): a constant, so that the same programs give the same ID
/// everywhere.
const CREATED: Duration = Duration::from_secs(1_767_225_600);

/// Makes the image if the store does not have the one that belongs to this program.
///
/// # Errors
/// The image store's.
pub fn ensure(store: &Store) -> Result<Image> {
    let digest = content_digest();
    match store.resolve(NAME) {
        Ok(image) if is_current(&image, &digest) => return Ok(image),
        Ok(_) | Err(image_core::Error::ImageNotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let reference: Reference = NAME.parse()?;
    let label = format!("LABEL {LABEL}={digest}");
    let changes = [r#"CMD ["/bin/sh"]"#, &label]
        .into_iter()
        .map(str::parse)
        .collect::<std::result::Result<Vec<Change>, _>>()?;
    let options = ImportOptions {
        name: Some(&reference),
        changes: &changes,
        created: Some(UNIX_EPOCH + CREATED),
        message: Some("made of what is built into plimsoll"),
    };
    Ok(store.import_with(archive()?.as_slice(), &options)?)
}

/// Whether `name` means the built-in image.
pub fn is_base(name: &str) -> bool {
    name == NAME || name == "plimsoll/base:latest"
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

/// Identifies what the image is made of: the programs and the layout below.
fn content_digest() -> String {
    /// Raised when the same programs are made into another image.
    const LAYOUT: u32 = 3;
    format!(
        "{LAYOUT}-{}-{}",
        &guest_artifacts::WORKLOAD_SHA256[..16],
        &guest_artifacts::BUSYBOX_SHA256[..16]
    )
}

const DIRECTORIES: [(&str, u32); 17] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
];

const FILES: [(&str, &str); 7] = [
    // Every instance has its own mounted over these.
    ("etc/hostname", ""),
    ("etc/hosts", ""),
    ("etc/resolv.conf", ""),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    (
        "etc/group",
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n",
    ),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
    (
        "etc/os-release",
        "NAME=\"Plimsoll base\"\nID=plimsoll\nPRETTY_NAME=\"Plimsoll base (busybox and workload)\"\n",
    ),
];

/// The root file system as a tar archive: the same bytes from the same programs.
fn archive() -> Result<Vec<u8>> {
    let mut archive = TarBuilder::new(0);
    for (path, mode) in DIRECTORIES {
        archive.directory(path, mode)?;
    }
    for (path, content) in FILES {
        archive.file(path, 0o644, content.as_bytes())?;
    }
    archive
        .file("bin/busybox", 0o755, BUSYBOX)?
        .file("bin/workload", 0o755, WORKLOAD)?;
    for applet in APPLETS.iter().filter(|applet| **applet != "bin/busybox") {
        archive.symlink(applet, "/bin/busybox")?;
    }
    Ok(archive.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_image_has_the_same_id_in_every_store() {
        let made = || {
            let root = tempfile::tempdir().unwrap();
            let store = Store::open(root.path()).unwrap();
            ensure(&store).unwrap().id.to_string()
        };
        assert_eq!(made(), made());
    }

    #[test]
    fn the_built_in_image_has_a_shell_and_the_workload() {
        let archive = archive().unwrap();
        let paths: Vec<String> = tar::Archive::new(archive.as_slice())
            .entries()
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        for path in ["bin/sh", "bin/busybox", "bin/workload", "etc/passwd", "tmp"] {
            assert!(
                paths.iter().any(|found| found == path),
                "{path} in {paths:?}"
            );
        }
    }
}
